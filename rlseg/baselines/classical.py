"""Classical baselines: threshold and components, distance-transform watershed, equal sectors.

The first two look at the image. Equal sectors, one blob and a constant count do not: they are the
floors that a score has to leave behind before it says anything about learning.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.measure import label as connected
from skimage.segmentation import watershed

from rlseg.data.samples import InstanceSample
from rlseg.errors import ConfigError
from rlseg.metrics import overlap, symmetric_best_dice

Image = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ClassicalConfig:
    """Parameters of the two classical methods."""

    shift: float = 0.0
    """Added to the Otsu threshold, in grey values 0..1."""
    marker_distance: int = 4
    """Watershed: least distance between two markers, pixels."""
    smoothing: float = 1.0
    """Watershed: standard deviation of the Gaussian on the distance map, pixels."""
    min_size: int = 0
    """Smaller pieces become background, pixels."""

    def __post_init__(self) -> None:
        if self.marker_distance < 1 or self.smoothing < 0 or self.min_size < 0:
            raise ConfigError(
                "marker_distance must be >= 1, smoothing and min_size >= 0; got "
                f"{self.marker_distance}, {self.smoothing}, {self.min_size}"
            )


def foreground(image: Image, shift: float = 0.0) -> NDArray[np.bool_]:
    """Pixels brighter than the Otsu threshold plus `shift`; a constant image has none.

    Args:
        image: float [*S].
        shift: grey values.
    """
    if image.min() == image.max():
        return np.zeros(image.shape, dtype=bool)
    return np.asarray(image > threshold_otsu(image) + shift)


def components(mask: NDArray[np.bool_], config: ClassicalConfig) -> Labels:
    """Pieces of the mask that touch by sides or corners (in 3-D: or edges), small ones dropped.

    Args:
        mask: bool [*S], two or three axes.
        config: `min_size` is used.

    Returns:
        int64 [*S].
    """
    return _drop_small(np.asarray(connected(mask, connectivity=2), dtype=np.int64), config.min_size)


def split_by_distance(mask: NDArray[np.bool_], config: ClassicalConfig) -> Labels:
    """Watershed of the mask's distance transform from its smoothed peaks.

    Args:
        mask: bool [*S], two or three axes.
        config: distances in pixels along every axis alike.

    Returns:
        int64 [*S].
    """
    distance = ndimage.distance_transform_edt(mask)
    smooth = ndimage.gaussian_filter(distance, config.smoothing) if config.smoothing else distance
    peaks = peak_local_max(
        smooth,
        min_distance=config.marker_distance,
        labels=connected(mask, connectivity=2),
        exclude_border=False,
    )
    markers = np.zeros(mask.shape, dtype=np.int64)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    found = watershed(-smooth, markers, mask=mask, connectivity=2)
    return _drop_small(np.asarray(found, dtype=np.int64), config.min_size)


def equal_sectors(mask: NDArray[np.bool_], count: int) -> Labels:
    """The mask cut around its centroid into `count` sectors of equal angle.

    The first sector begins at the direction of the last axis (right) and they go on towards the
    axis before it (down); in 3-D the cuts stand on the plane of the last two axes.

    Args:
        mask: bool [*S], two or three axes.
        count: sectors; 1 = the mask as one blob. Those without a pixel get no number.

    Returns:
        int64 [*S], 0 outside the mask, 1..M in order of angle.

    Raises:
        ConfigError: a count below 1.
    """
    if count < 1:
        raise ConfigError(f"count must be 1 or more sectors, got {count}")
    found = np.zeros(mask.shape, dtype=np.int64)
    places = np.nonzero(mask)
    if len(places[0]) == 0:
        return found
    y, x = (axis - axis.mean() for axis in places[-2:])
    turn = np.arctan2(y, x) / (2 * np.pi) % 1.0  # 0 = right, 1/4 = down
    found[places] = 1 + np.minimum((turn * count).astype(np.int64), count - 1)
    return _drop_small(found, 1)


def median_count(samples: Iterable[InstanceSample]) -> int:
    """The lower median of the instances per sample: the best constant guess for |DiC|.

    Args:
        samples: at least one.

    Raises:
        ConfigError: no samples.
    """
    counts = sorted(len(torch.unique(s.labels[s.labels > 0])) for s in samples)
    if not counts:
        raise ConfigError("the median count needs at least one sample, got none")
    return counts[(len(counts) - 1) // 2]


def _drop_small(labels: Labels, min_size: int) -> Labels:
    keep = np.bincount(labels.ravel()) >= max(min_size, 1)
    keep[0] = False
    number = np.where(keep, np.cumsum(keep), 0)
    return np.asarray(number[labels], dtype=np.int64)


Method = Callable[[NDArray[np.bool_], ClassicalConfig], Labels]


def tune(
    samples: Iterable[InstanceSample],
    method: Method,
    *,
    shifts: Sequence[float] = (0.0,),
    marker_distances: Sequence[int] = (2, 3, 4, 5, 6, 8, 10),
    smoothings: Sequence[float] = (0.0, 0.5, 1.0, 1.5, 2.0),
    min_sizes: Sequence[int] = (0, 10, 20, 40),
    true_foreground: bool = False,
) -> ClassicalConfig:
    """The settings with the highest mean SBD on the samples; the first of equals.

    Args:
        samples: with one image channel.
        method: `components` or `split_by_distance`.
        shifts: tried offsets of the Otsu threshold.
        marker_distances: tried; only the watershed uses them.
        smoothings: tried; only the watershed uses them.
        min_sizes: tried.
        true_foreground: give the method the true foreground instead of the threshold's.
    """
    known = list(samples)
    geometry = (
        list(itertools.product(marker_distances, smoothings))
        if method is split_by_distance
        else [(4, 1.0)]
    )
    best, best_score = ClassicalConfig(), -1.0
    for shift, (distance, smoothing) in itertools.product(shifts, geometry):
        config = ClassicalConfig(shift=shift, marker_distance=distance, smoothing=smoothing)
        found = [segment(sample, method, config, true_foreground) for sample in known]
        for min_size in min_sizes:
            score = sum(
                symmetric_best_dice(overlap(_drop_small(labels, min_size), sample.labels))
                for labels, sample in zip(found, known, strict=True)
            ) / max(len(known), 1)
            if score > best_score:
                best, best_score = replace(config, min_size=min_size), score
    return best


def segment(
    sample: InstanceSample, method: Method, config: ClassicalConfig, true_foreground: bool = False
) -> Labels:
    """Labels int64 [*S] of one sample; the image is averaged over its channels."""
    if true_foreground:
        mask = np.asarray(sample.labels > 0)
    else:
        mask = foreground(sample.image.mean(dim=0).numpy(), config.shift)
    return method(mask, config)
