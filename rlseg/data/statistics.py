"""What a data set looks like in numbers: sizes, instances, neighbours, and settings that follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlseg.data.base import InstanceDataset
from rlseg.data.category_statistics import CategoryCounter, CategoryShare, categorised
from rlseg.data.neighbours import neighbour_pairs, suggest_bits
from rlseg.data.store import Store
from rlseg.errors import ConfigError

SMALL_RADIUS_SHARE = 0.43  # of the side of the median instance; 12 px on Cre-256 at 224 px
LARGE_RADIUS_SHARE = 0.65  # 18 px there; both shares are read off the settings of ColorRL's table
SMALLEST_RADIUS = 3


@dataclass(frozen=True, kw_only=True)
class NeighbourStatistics:
    """The graph of instances that are nearer to each other than a radius."""

    radius: float
    mean: float | None
    """Over all instances; None without instances."""
    maximum: int
    """N_b of the rule for T."""
    bits: int
    """Smallest T by the rule."""
    pairs: int
    """Neighbourhoods, each counted once: the edges of the graph."""
    histogram: tuple[int, ...]
    """Entry k: number of instances with k neighbours."""


@dataclass(frozen=True, kw_only=True)
class SplitStatistics:
    """One split in numbers; None where there is nothing to average."""

    samples: int
    smallest: tuple[int, ...]
    """Smallest side per axis."""
    largest: tuple[int, ...]
    """Largest side per axis."""
    instances: int
    instances_mean: float
    """Per sample."""
    instances_minimum: int
    instances_maximum: int
    empty: int
    """Samples without an instance."""
    area_minimum: int | None
    """Pixels (or voxels) of an instance."""
    area_median: float | None
    area_mean: float | None
    area_maximum: int | None
    area_octaves: tuple[int, ...]
    """Entry k: number of instances of 2^k to 2^(k+1) - 1 pixels."""
    foreground: float | None
    """Share of instance pixels among known pixels of the split."""
    unknown: float
    """Share of pixels without a truth."""
    neighbours: tuple[NeighbourStatistics, ...] = field(default=())
    categories: tuple[CategoryShare, ...] = field(default=())
    """Of the instances; empty where the data set knows none."""


def suggest_radii(area_median: float | None, ndim: int) -> tuple[int, int]:
    """Two splitting radii for instances of this size: a rule of thumb, not a result.

    The paper's 12 and 18 pixels on Cre-256 are 0.43 and 0.65 of the side of the median instance
    there; the same shares are proposed for other data, at the resolution of the labels given.

    Args:
        area_median: pixels or voxels; None without instances.
        ndim: 2 or 3.
    """
    side = 0.0 if area_median is None else area_median ** (1 / ndim)
    small = max(SMALLEST_RADIUS, round(SMALL_RADIUS_SHARE * side))
    return small, max(small + 1, round(LARGE_RADIUS_SHARE * side))


def split_statistics(
    dataset: InstanceDataset,
    radii: Sequence[float] = (),
    advance: Callable[[int], None] | None = None,
    store: Store | None = None,
    classes: Sequence[str] = (),
) -> SplitStatistics:
    """All numbers of one split, each sample read once (twice where radii are suggested).

    Where the data set knows the categories of its instances, the labels are read once more.

    Args:
        dataset: at least one sample.
        radii: for the neighbours, in pixels; empty = the two suggested ones.
        advance: called with the number of samples read, of twice as many as there are where radii
            are suggested, for a progress display.
        store: where lists of neighbours are kept.
        classes: names of the categories, for data sets that know those of their instances.

    Raises:
        ConfigError: a radius that is not positive, or an empty dataset.
        CorruptDatasetError: a category without a name.
    """
    _check(dataset, radii)
    sides, areas, found = [], [], {}
    pixels = known = 0
    reach = max(radii, default=0.0)
    source = categorised(dataset)
    counter = None if source is None or not classes else CategoryCounter(source, classes)
    for index in range(len(dataset)):
        sample = dataset[index]
        sides.append(tuple(sample.labels.shape))
        areas.append(torch.bincount(sample.labels[sample.valid], minlength=1)[1:])
        if counter is not None:
            counter.add(index, sample, areas[-1])
        pixels += sample.labels.numel()
        known += int(sample.valid.sum())
        if reach:
            found[index] = neighbour_pairs(sample.labels, reach, store)
        if advance is not None:
            advance(index + 1)
    area = torch.cat([some[some > 0] for some in areas]).double()
    counts = torch.tensor([int((a > 0).sum()) for a in areas])
    if not reach:
        radii = suggest_radii(_measured(area)["area_median"], len(sides[0]))
        for index in range(len(dataset)):
            found[index] = neighbour_pairs(dataset[index].labels, max(radii), store)
            if advance is not None:
                advance(len(dataset) + index + 1)
    return SplitStatistics(
        samples=len(dataset),
        smallest=tuple(min(side) for side in zip(*sides, strict=True)),
        largest=tuple(max(side) for side in zip(*sides, strict=True)),
        **_counted(counts),
        **_measured(area),
        foreground=float(area.sum()) / known if known else None,
        unknown=1 - known / pixels,
        neighbours=tuple(_neighbours(list(found.values()), areas, r) for r in radii),
        categories=() if counter is None else counter.shares(),
    )


def _counted(counts: Tensor) -> dict[str, Any]:
    """Fields about the instances of each sample, int64 [samples]."""
    return {
        "instances": int(counts.sum()),
        "instances_mean": float(counts.double().mean()),
        "instances_minimum": int(counts.min()),
        "instances_maximum": int(counts.max()),
        "empty": int((counts == 0).sum()),
    }


def _measured(area: Tensor) -> dict[str, Any]:
    """Fields about the area of each instance, float64 [instances]."""
    return {
        "area_minimum": int(area.min()) if len(area) else None,
        "area_median": float(area.quantile(0.5)) if len(area) else None,
        "area_mean": float(area.mean()) if len(area) else None,
        "area_maximum": int(area.max()) if len(area) else None,
        "area_octaves": tuple(torch.bincount(torch.frexp(area).exponent.long() - 1).tolist()),
    }


def _check(dataset: InstanceDataset, radii: Sequence[float]) -> None:
    if len(dataset) == 0:
        raise ConfigError("statistics need at least one sample, the split is empty")
    if any(not (radius > 0 and math.isfinite(radius)) for radius in radii):
        raise ConfigError(f"radii must be positive and finite, got {list(radii)}")


def _neighbours(
    found: Sequence[tuple[Tensor, Tensor]], areas: Sequence[Tensor], radius: float
) -> NeighbourStatistics:
    counts = torch.cat(
        [
            torch.bincount(pairs[distance < radius][:, 0], minlength=len(area) + 1)[1:][: len(area)]
            for (pairs, distance), area in zip(found, areas, strict=True)
        ]
    )
    # Ids without a pixel that counts have no area and are no instance of the statistics.
    counts = counts[torch.cat(list(areas)) > 0]
    maximum = int(counts.max()) if len(counts) else 0
    return NeighbourStatistics(
        radius=radius,
        mean=float(counts.double().mean()) if len(counts) else None,
        maximum=maximum,
        bits=suggest_bits(maximum),
        pairs=sum(int((distance < radius).sum()) for _, distance in found) // 2,
        histogram=tuple(torch.bincount(counts).tolist()),
    )
