"""Masks that may overlap, painted into one map of ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlseg.data.columns import Bools, Ints
from rlseg.rle import Runs
from rlseg.rle.runs import pieces, ranges

__all__ = ["Painted", "paint"]

_PIXELS_AT_ONCE = 1 << 20  # bounds the index arrays of one step, 8 bytes per pixel


@dataclass(frozen=True, kw_only=True, eq=False)
class Painted:
    """`N` masks of one image as one map."""

    owner: Ints
    """int64 [H, W]: 0 = no instance, k = mask k - 1: the last of the masks that hold the pixel."""
    unknown: Bools
    """bool [H, W]: inside a region of many instances (crowd), and in no single instance."""
    contested: int
    """Pixels that several instances hold."""
    hidden: Ints
    """int64: masks of instances, with pixels, of which later ones left none."""
    empty: Ints
    """int64: masks of instances without a pixel."""


def paint(runs: Runs, crowd: Bools, height: int, width: int) -> Painted:
    """Instances one after the other, a later one over an earlier one; then the crowd regions.

    Args:
        runs: N masks of this size.
        crowd: bool [N], the mask is a region of many instances; the others are one instance each.
        height: of the image.
        width: of the image.
    """
    owner = np.zeros(height * width, dtype=np.int64)  # column after column, like the runs
    several = np.zeros(height * width, dtype=np.bool_)
    unknown = np.zeros(height * width, dtype=np.bool_)
    first, last, bounds = runs.spans
    mask = np.repeat(np.arange(len(runs)), np.diff(bounds))
    first, length = first - runs.offsets[mask], last - first
    for some in pieces(length, _PIXELS_AT_ONCE):
        places = ranges(first[some], length[some])
        drawn = np.repeat(mask[some], length[some])
        single = ~crowd[drawn]
        unknown[places[~single]] = True
        places, value = places[single], drawn[single] + 1
        several[places[owner[places] > 0]] = True
        owner[places] = value  # of a place that comes twice, numpy keeps the last value
        several[places[owner[places] != value]] = True
    left = np.zeros(len(runs) + 1, dtype=np.bool_)
    left[owner] = True
    filled = runs.areas() > 0
    return Painted(
        owner=np.ascontiguousarray(owner.reshape(width, height).T),
        unknown=np.ascontiguousarray((unknown & (owner == 0)).reshape(width, height).T),
        contested=int(several.sum()),
        hidden=np.flatnonzero(filled & ~crowd & ~left[1:]),
        empty=np.flatnonzero(~filled & ~crowd),
    )
