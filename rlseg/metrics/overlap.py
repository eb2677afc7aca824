"""The sparse joint pixel counts of two label maps, from which every instance score follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlseg.errors import ShapeError
from rlseg.metrics.counting import Cells, count_cells, numbered, sum_cells

MAX_TABLE_CELLS = 1 << 24  # largest dense table that is given out
CHUNK_PIXELS = 1 << 16  # pixels compared at a time: both maps stay in the cache

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

    @cached_property
    def best_pred_dice(self) -> Floats:
        """Largest Dice of each predicted instance with a true one, 0 if it meets none, [M]."""
        return largest(self.pairs.pred, self.pairs.dice, self.pred_instances)

    @cached_property
    def best_true_dice(self) -> Floats:
        """Largest Dice of each true instance with a predicted one, 0 if it meets none, [N]."""
        return largest(self.pairs.true, self.pairs.dice, self.true_instances)

    @cached_property
    def best_true_iou(self) -> Floats:
        """Largest IoU of each true instance with a predicted one, 0 if it meets none, [N]."""
        return largest(self.pairs.true, self.pairs.iou, self.true_instances)

    @cached_property
    def half_pairs(self) -> Ints:
        """Which of `pairs` have an IoU of 1/2 or more, ascending."""
        return np.flatnonzero(self.pairs.iou >= 0.5)

    def dense(self, *, max_cells: int = MAX_TABLE_CELLS) -> Ints:
        """The full table, int64 [M + 1, N + 1].

        Args:
            max_cells: largest table that is made; each cell takes 8 bytes.

        Raises:
            ShapeError: more cells than that.
        """
        cells = len(self.pred_area) * len(self.true_area)
        if cells > max_cells:
            raise ShapeError(
                f"a dense table of {len(self.pred_area)} x {len(self.true_area)} segments is above "
                f"the limit of {max_cells} cells; use pred_index, true_index and count, or raise "
                "max_cells"
            )
        table = np.zeros((len(self.pred_area), len(self.true_area)), dtype=np.int64)
        table[self.pred_index, self.true_index] = self.count
        return table

    def __add__(self, other: Overlap) -> Overlap:
        """The table of both maps joined, equal ids being the same instance."""
        return merge_overlaps((self, other))

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
    p, t = _integers(pred, "pred"), _integers(true, "true")
    if p.shape != t.shape:
        hint = ""
        if p.squeeze().shape == t.squeeze().shape:
            hint = "; drop the axes of length 1"
        raise ShapeError(
            f"pred has shape {list(p.shape)} but true has shape {list(t.shape)}; label maps are "
            f"compared pixel by pixel and never resized: make them equal{hint}"
        )
    pixels = p.size
    keep = None if valid is None else as_mask(valid, p.shape)
    if keep is not None and not keep.all():
        # Negative ids are refused where they do not count, too.
        p, t = as_ids(p, "pred")[keep], as_ids(t, "true")[keep]
    if p.flags.f_contiguous and t.flags.f_contiguous:
        p, t = p.T, t.T  # the order of the pixels does not matter: no copy
    if p.size == 0:
        return _table(_no_ids(), _no_ids(), np.zeros(0, dtype=np.int64), pixels)
    cells = count_cells(p.ravel(), t.ravel(), CHUNK_PIXELS)
    # Every id is among the cells; a negative one wraps to above 2^63. The check says which.
    for array, ids, what in ((p, cells[0], "pred"), (t, cells[1], "true")):
        if array.dtype.kind == "i" and int(ids.max()) >= 2**63:
            as_ids(array, what)
    return _table(*cells, pixels)


def merge_overlaps(tables: Iterable[Overlap]) -> Overlap:
    """The table of several pieces of one volume, in which equal ids are the same instance.

    Args:
        tables: of the pieces, such as blocks of a volume that were compared one by one; none
            gives the table of an empty map.

    Returns:
        What `overlap` of the joined maps gives.
    """
    pieces = list(tables)
    parts: list[Cells] = [
        (
            np.concatenate((_BACKGROUND, piece.pred_ids))[piece.pred_index],
            np.concatenate((_BACKGROUND, piece.true_ids))[piece.true_index],
            piece.count,
        )
        for piece in pieces
    ]
    parts.append((_no_ids(), _no_ids(), np.zeros(0, dtype=np.int64)))
    return _table(*sum_cells(parts), sum(piece.pixels for piece in pieces))


def as_ids(labels: LabelMap, what: str) -> NDArray[Any]:
    """The label map as an unsigned or non-negative integer array [*S], not copied if possible.

    Raises:
        ShapeError: another dtype, or a negative value.
    """
    array = _integers(labels, what)
    if array.dtype.kind == "i" and array.size and int(array.min()) < 0:
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


_BACKGROUND = np.zeros(1, dtype=np.uint64)


def _integers(labels: LabelMap, what: str) -> NDArray[Any]:
    """The label map as an integer array, not copied; negative values are not looked for."""
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.dtype == np.bool_:
        return array.view(np.uint8)
    if array.dtype.kind not in "iu":
        raise ShapeError(
            f"{what} has dtype {array.dtype}; label maps hold integers: convert it (a float map "
            "has lost which numbers are ids)"
        )
    return array


def _id_range(area: Ints, ids: NDArray[np.uint64]) -> tuple[int, int]:
    if len(ids) == 0:
        return (0, 0)
    return (0 if int(area[0]) else int(ids[0]), int(ids[-1]))


def _no_ids() -> NDArray[np.uint64]:
    return np.zeros(0, dtype=np.uint64)


def _table(pred: NDArray[np.uint64], true: NDArray[np.uint64], count: Ints, pixels: int) -> Overlap:
    pred_ids, pred_index = numbered(pred)
    true_ids, true_index = numbered(true)
    return Overlap(
        pred_index=pred_index,
        true_index=true_index,
        count=count,
        pred_area=add_up(pred_index, count, len(pred_ids) + 1),
        true_area=add_up(true_index, count, len(true_ids) + 1),
        pred_ids=pred_ids,
        true_ids=true_ids,
        pixels=pixels,
    )


def largest(index: Ints, values: Floats, number: int) -> Floats:
    """Largest value of each index 1..number, none being below 0; 0 without any, [number]."""
    best = np.zeros(number + 1)
    np.maximum.at(best, index, values)
    return best[1:]


def add_up(index: Ints, count: Ints, size: int) -> Ints:
    """Sum of the counts of each index, int64 [size]; counts of pixels, so below 2^53 in all."""
    return np.bincount(index, weights=count, minlength=size).astype(np.int64)
