"""The sparse joint pixel counts of two label maps, from which every instance score follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlseg.errors import ShapeError

MAX_TABLE_CELLS = 1 << 24  # a dense table of counts is built up to here, a sparse one above
CHUNK_PIXELS = 1 << 20  # pixels counted at a time: bounds temporary memory and stays in cache

LabelMap = Tensor | NDArray[Any]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """The cells of a table in which both sides are instances (index 1 and up)."""

    pred: Ints
    """Index of the predicted instance, 1..M, [L]."""
    true: Ints
    """Index of the true instance, 1..N, [L]."""
    count: Ints
    """Common pixels, at least 1, [L]."""
    iou: Floats
    """`count / (pred area + true area - count)`, [L]."""
    dice: Floats
    """`2 count / (pred area + true area)`, [L]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlap:
    """Joint counts of the segments of a predicted and a true map.

    Index 0 is the background; instances are 1..M and 1..N in ascending order of their ids. Cells
    are sorted by `pred_index`, then `true_index`.
    """

    pred_index: Ints
    """Predicted segment of each non-empty cell, [L]."""
    true_index: Ints
    """True segment of each non-empty cell, [L]."""
    count: Ints
    """Pixels of each cell, at least 1, [L]."""
    pred_area: Ints
    """Pixels of each predicted segment, [M + 1]; the background may have 0."""
    true_area: Ints
    """Pixels of each true segment, [N + 1]; the background may have 0."""
    pred_ids: NDArray[np.uint64]
    """Original ids of the predicted instances, ascending, [M]."""
    true_ids: NDArray[np.uint64]
    """Original ids of the true instances, ascending, [N]."""
    pixels: int
    """All pixels of the map, ignored ones included."""

    @property
    def kept(self) -> int:
        """Pixels that were counted."""
        return int(self.pred_area.sum())

    @property
    def pred_instances(self) -> int:
        """M, the number of predicted instances."""
        return len(self.pred_area) - 1

    @property
    def true_instances(self) -> int:
        """N, the number of true instances."""
        return len(self.true_area) - 1

    @property
    def pred_range(self) -> tuple[int, int]:
        """Smallest and largest id in the predicted map, background included; (0, 0) if empty."""
        return _id_range(self.pred_area, self.pred_ids)

    @property
    def true_range(self) -> tuple[int, int]:
        """Smallest and largest id in the true map, background included; (0, 0) if empty."""
        return _id_range(self.true_area, self.true_ids)

    @cached_property
    def pairs(self) -> Pairs:
        """The cells where an instance meets an instance, with IoU and Dice."""
        inside = (self.pred_index > 0) & (self.true_index > 0)
        pred, true, count = self.pred_index[inside], self.true_index[inside], self.count[inside]
        total = self.pred_area[pred] + self.true_area[true]
        # One division of integers each: a 3/5 overlap compares equal to 0.6.
        return Pairs(
            pred=pred, true=true, count=count, iou=count / (total - count), dice=2 * count / total
        )

    def dense(self) -> Ints:
        """The full table, int64 [M + 1, N + 1].

        Raises:
            ShapeError: more than `MAX_TABLE_CELLS` cells.
        """
        cells = len(self.pred_area) * len(self.true_area)
        if cells > MAX_TABLE_CELLS:
            raise ShapeError(
                f"a dense table of {len(self.pred_area)} x {len(self.true_area)} segments is above "
                f"the limit of {MAX_TABLE_CELLS} cells; use pred_index, true_index and count"
            )
        table = np.zeros((len(self.pred_area), len(self.true_area)), dtype=np.int64)
        table[self.pred_index, self.true_index] = self.count
        return table

    def swapped(self) -> Overlap:
        """The table with prediction and truth exchanged."""
        order = np.lexsort((self.pred_index, self.true_index))
        return Overlap(
            pred_index=self.true_index[order],
            true_index=self.pred_index[order],
            count=self.count[order],
            pred_area=self.true_area,
            true_area=self.pred_area,
            pred_ids=self.true_ids,
            true_ids=self.pred_ids,
            pixels=self.pixels,
        )


def overlap(pred: LabelMap, true: LabelMap, valid: LabelMap | None = None) -> Overlap:
    """Joint counts of two label maps.

    Ids are names: gaps and values up to 2^64 - 1 cost nothing, memory is O(instances + touching
    pairs) beside the maps.

    Args:
        pred: integer or bool [*S], 0 = background, no negative value (bool: one instance).
        true: the same, same shape.
        valid: bool [*S]; pixels where it is False are not counted. None = count all.

    Returns:
        The table; see `Overlap`.

    Raises:
        ShapeError: shapes differ, another dtype, or a negative value.
    """
    p, t = as_ids(pred, "pred"), as_ids(true, "true")
    if p.shape != t.shape:
        hint = ""
        if p.squeeze().shape == t.squeeze().shape:
            hint = "; drop the axes of length 1"
        raise ShapeError(
            f"pred has shape {list(p.shape)} but true has shape {list(t.shape)}; label maps are "
            f"compared pixel by pixel and never resized: make them equal{hint}"
        )
    pixels = p.size
    p, t = p.ravel(), t.ravel()
    if valid is not None:
        keep = as_mask(valid, pred.shape).ravel()
        if not keep.all():
            p, t = p[keep], t[keep]
    if p.size == 0:
        return _table(_no_ids(), _no_ids(), np.zeros(0, dtype=np.int64), pixels)
    columns = int(t.max()) + 1
    cells = (int(p.max()) + 1) * columns
    if cells <= min(MAX_TABLE_CELLS, max(4 * p.size, 1 << 16)):
        return _table(*_count_dense(p, t, columns, cells), pixels)
    parts = [_count_runs(a, b) for a, b in _chunks(p, t, CHUNK_PIXELS)]
    if len(parts) == 1:
        return _table(*parts[0], pixels)
    merged = _sum_pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return _table(*merged, pixels)


def as_ids(labels: LabelMap, what: str) -> NDArray[Any]:
    """The label map as an unsigned or non-negative integer array [*S], not copied if possible.

    Raises:
        ShapeError: another dtype, or a negative value.
    """
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    kind = array.dtype.kind
    if kind == "b":
        return array.astype(np.uint8)
    if kind not in "iu":
        raise ShapeError(
            f"{what} has dtype {array.dtype}; label maps hold integers: convert it (a float map "
            "has lost which numbers are ids)"
        )
    if kind == "i" and array.size and int(array.min()) < 0:
        raise ShapeError(
            f"{what} holds {int(array.min())} (dtype {array.dtype}); ids are 0 (background) or "
            "positive"
        )
    return array


def as_mask(valid: LabelMap, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask as a bool array.

    Raises:
        ShapeError: not bool, or another shape.
    """
    mask = valid.detach().cpu().numpy() if isinstance(valid, Tensor) else np.asarray(valid)
    if mask.dtype != np.bool_ or mask.shape != tuple(shape):
        raise ShapeError(
            f"valid has shape {list(mask.shape)} and dtype {mask.dtype}; expected bool "
            f"{list(shape)}, as the label maps"
        )
    return mask


def _id_range(area: Ints, ids: NDArray[np.uint64]) -> tuple[int, int]:
    if len(ids) == 0:
        return (0, 0)
    return (0 if int(area[0]) else int(ids[0]), int(ids[-1]))


def _no_ids() -> NDArray[np.uint64]:
    return np.zeros(0, dtype=np.uint64)


def _chunks(
    pred: NDArray[Any], true: NDArray[Any], size: int
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for start in range(0, len(pred), size):
        yield pred[start : start + size], true[start : start + size]


Cells = tuple[NDArray[np.uint64], NDArray[np.uint64], Ints]
"""Original ids of both sides and pixels, of each non-empty cell; sorted by the ids."""


def _count_dense(pred: NDArray[Any], true: NDArray[Any], columns: int, cells: int) -> Cells:
    """Cells by one histogram over `pred * columns + true`; for small ids."""
    total = np.zeros(cells, dtype=np.int64)
    for p, t in _chunks(pred, true, max(CHUNK_PIXELS, cells)):
        key = p.astype(np.int64)
        key *= columns
        key += t.astype(np.int64, copy=False)  # ids are small here, whatever their type
        total += np.bincount(key, minlength=cells)
    found = np.flatnonzero(total)
    rows, cols = np.divmod(found, columns)
    return rows.astype(np.uint64), cols.astype(np.uint64), total[found]


def _count_runs(pred: NDArray[Any], true: NDArray[Any]) -> Cells:
    """Cells of a chunk by sorting the starts of runs of equal pairs; for any ids."""
    change = pred[1:] != pred[:-1]
    change |= true[1:] != true[:-1]
    starts = np.concatenate(([0], np.flatnonzero(change) + 1))
    lengths = np.diff(starts, append=len(pred))
    return _sum_pairs(pred[starts].astype(np.uint64), true[starts].astype(np.uint64), lengths)


def _sum_pairs(pred: NDArray[np.uint64], true: NDArray[np.uint64], count: Ints) -> Cells:
    """Equal pairs of ids joined, their counts added."""
    pred_ids, rows = np.unique(pred, return_inverse=True)
    true_ids, cols = np.unique(true, return_inverse=True)
    key = rows * len(true_ids) + cols
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    found_rows, found_cols = np.divmod(key[first], len(true_ids))
    return pred_ids[found_rows], true_ids[found_cols], np.add.reduceat(count[order], first)


def _table(pred: NDArray[np.uint64], true: NDArray[np.uint64], count: Ints, pixels: int) -> Overlap:
    pred_ids, pred_index = _numbered(pred)
    true_ids, true_index = _numbered(true)
    return Overlap(
        pred_index=pred_index,
        true_index=true_index,
        count=count,
        pred_area=_areas(pred_index, count, len(pred_ids)),
        true_area=_areas(true_index, count, len(true_ids)),
        pred_ids=pred_ids,
        true_ids=true_ids,
        pixels=pixels,
    )


def _numbered(values: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], Ints]:
    """Ids of the instances that occur, and each value's index with 0 for the background."""
    ids = np.unique(values)
    ids = ids[ids > 0]
    # Position among the ids > 0, plus one; 0 sorts before all of them and stays 0.
    index = np.searchsorted(ids, values, side="right").astype(np.int64)
    return ids, index


def _areas(index: Ints, count: Ints, instances: int) -> Ints:
    area = np.zeros(instances + 1, dtype=np.int64)
    np.add.at(area, index, count)
    return area
