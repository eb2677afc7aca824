"""Which instances are near each other: exact distances on label maps, and what follows for T."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from rlseg.data.store import Store
from rlseg.errors import ConfigError, ShapeError
from rlseg.shapes import check_labels

VERSION = 1
"""Of what `neighbour_pairs` returns; a change of it makes kept lists void."""


def neighbour_pairs(
    labels: Tensor, radius: float, store: Store | None = None
) -> tuple[Tensor, Tensor]:
    """All ordered pairs of instances nearer than `radius`, with their distances.

    The distance of two instances is the smallest Euclidean distance between pixel centres, so
    touching ones are 1 (or sqrt 2) apart. Per instance, a distance transform runs on its box grown
    by the radius.

    Args:
        labels: integer [*S], 0 = background, ids 1..N (gaps allowed), two or three axes.
        radius: pixels, positive; a distance equal to it does not count.
        store: where the list is kept, by labels and radius; None = it is made each time.

    Returns:
        pairs int64 [P, 2], sorted, each neighbourhood in both directions; distance float64 [P].

    Raises:
        ShapeError: not a label map of two or three axes.
        ConfigError: radius not positive and finite.
    """
    check_labels(labels, "labels")
    if labels.ndim not in (2, 3):
        raise ShapeError(f"labels have {labels.ndim} axes; neighbours are found in 2-D and 3-D")
    if not (radius > 0 and math.isfinite(radius)):
        raise ConfigError(f"radius must be positive and finite, got {radius}")
    ids = labels.cpu().numpy().astype(np.int64)
    if store is None:
        found: Mapping[str, NDArray[Any]] = _pairs(ids, radius)
    else:
        key = {"labels": ids, "radius": float(radius), "version": VERSION}
        found = store.get_or_make("neighbours", key, lambda: _pairs(ids, radius))
    return torch.from_numpy(found["pairs"]), torch.from_numpy(found["distance"])


def _pairs(ids: NDArray[np.int64], radius: float) -> dict[str, NDArray[Any]]:
    margin = math.ceil(radius)
    pairs: list[NDArray[np.int64]] = [np.zeros((0, 2), dtype=np.int64)]
    distances: list[NDArray[np.float64]] = [np.zeros(0)]
    for instance, box in enumerate(ndimage.find_objects(ids) if ids.size else [], start=1):
        if box is None:
            continue
        window = tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in box)
        crop = ids[window]
        others = np.unique(crop)
        others = others[(others > 0) & (others != instance)]
        if not len(others):
            continue
        distance = ndimage.distance_transform_edt(crop != instance)
        nearest = np.asarray(ndimage.minimum(distance, labels=crop, index=others))
        near = nearest < radius
        found = others[near]
        pairs.append(np.stack((np.full_like(found, instance), found), axis=1))
        distances.append(nearest[near])
    return {"pairs": np.concatenate(pairs), "distance": np.concatenate(distances)}


def neighbour_counts(labels: Tensor, radius: float, store: Store | None = None) -> Tensor:
    """Number of other instances nearer than `radius`, per instance.

    Args:
        labels: integer [*S], 0 = background, ids 1..N.
        radius: pixels, positive.
        store: as in `neighbour_pairs`.

    Returns:
        int64 [N], N = the largest id; 0 for an id that does not occur.
    """
    pairs, _ = neighbour_pairs(labels, radius, store)
    count = int(labels.max()) if labels.numel() else 0
    return torch.bincount(pairs[:, 0], minlength=count + 1)[1:]


def suggest_bits(max_neighbours: int) -> int:
    """The smallest T with 2^(T-1) + 1 >= N_b (ColorRL, supplement A.5.1).

    One bit tells foreground from background only, so that T is at least 2 as soon as any instance
    has a neighbour; the rule alone would allow T = 1 for N_b of 1 and 2.

    Args:
        max_neighbours: N_b, the largest number of neighbours within the larger splitting radius.

    Raises:
        ConfigError: a negative number.
    """
    if max_neighbours < 0:
        raise ConfigError(f"a number of neighbours cannot be negative, got {max_neighbours}")
    bits = 1 if max_neighbours == 0 else 2
    while 2 ** (bits - 1) + 1 < max_neighbours:
        bits += 1
    return bits
