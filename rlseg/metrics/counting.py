"""Joint counts of two flat arrays of ids: pixels of every pair of ids that occurs.

Neighbouring pixels of label maps mostly hold the same pair, so what is counted are runs of equal
pairs, a few per cent of the pixels. Pixels are only read and compared, in pieces that stay in the
cache; everything else costs time and memory by the number of runs or of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_PENDING = 1 << 17  # runs kept before they are summed: these stay in the cache, too
FREE_CELLS = 1 << 16  # a histogram of this size is always cheaper than looking pairs up
MAX_CELLS = 1 << 23  # largest histogram: 64 MiB
SMALL = 1 << 15  # up to here sorting is as fast as hashing
SLOT_BITS = 21  # slots of the hash table, as a power of 2; 16 MiB
MIX = 0x9E3779B97F4A7C15  # odd: 2^64 / golden ratio, spreads ids evenly (Knuth, multiplicative)

Ids = NDArray[np.uint64]
Ints = NDArray[np.int64]
Cells = tuple[Ids, Ids, Ints]
"""Ids of both sides and common pixels; after `sum_cells` sorted by the ids, each pair once."""


def count_cells(pred: NDArray[Any], true: NDArray[Any], chunk: int) -> Cells:
    """Pixels of every pair of ids.

    Args:
        pred: integer [P], P > 0. Negative numbers come out as they are modulo 2^64.
        true: integer [P].
        chunk: pixels compared at a time.
    """
    changes = np.zeros(-(-min(chunk, len(pred)) // 8) * 8, dtype=np.bool_)
    other = np.empty_like(changes)
    parts: list[Cells] = []
    pending, limit = 0, MAX_PENDING
    for start in range(0, len(pred), chunk):
        part = _runs(pred[start : start + chunk], true[start : start + chunk], changes, other)
        parts.append(part)
        pending += len(part[2])
        if pending > limit:
            parts = [sum_cells(parts)]
            pending = len(parts[0][2])
            limit = pending + max(pending, MAX_PENDING)
    return sum_cells(parts)


def sum_cells(parts: Sequence[Cells]) -> Cells:
    """All cells of the parts, equal pairs added up; sorted by the first, then the second id."""
    if len(parts) == 1:
        pred, true, count = parts[0]
    else:
        pred, true, count = (np.concatenate(column) for column in zip(*parts, strict=True))
    if len(count) == 0:
        return pred, true, count
    rows, columns = int(pred.max()) + 1, int(true.max()) + 1
    if rows * columns >= 2**63:  # a pair of ids is no 64-bit number: rank the ids first
        pred_ids, pred_rank = distinct(pred)
        true_ids, true_rank = distinct(true)
        ranked = sum_cells([(pred_rank.view(np.uint64), true_rank.view(np.uint64), count)])
        return pred_ids[ranked[0].view(np.int64)], true_ids[ranked[1].view(np.int64)], ranked[2]
    key = pred * np.uint64(columns)
    key += true
    if rows * columns <= min(max(16 * len(key), FREE_CELLS), MAX_CELLS):
        total = np.bincount(key.view(np.int64), weights=count)
        found = np.flatnonzero(total != 0).view(np.uint64)
        total = total[found.view(np.int64)]
    else:
        found, index = distinct(key)
        total = np.bincount(index, weights=count)
    first = found // np.uint64(columns)
    # Counts are sums of pixels, far below 2^53: exact as float64.
    return first, found - first * np.uint64(columns), total.astype(np.int64)


def distinct(values: Ids) -> tuple[Ids, Ints]:
    """The values that occur, ascending, and the position of each value among them.

    Equal to `numpy.unique(values, return_inverse=True)`, for many values with a hash table
    instead of sorting: each value writes its place into its slot, and those that find another
    value there afterwards are sorted as before.

    Args:
        values: uint64 [L].
    """
    if len(values) <= SMALL:
        ids, index = np.unique(values, return_inverse=True)
        return ids, index.astype(np.int64, copy=False)
    slot = values * np.uint64(MIX)
    slot >>= np.uint64(64 - SLOT_BITS)
    slots = slot.view(np.int64)
    table = np.empty(1 << SLOT_BITS, dtype=np.int64)
    places = np.arange(len(values))
    table[slots] = places
    owner = table[slots]
    lost = np.flatnonzero(values[owner] != values)
    found = np.flatnonzero(owner == places)
    ids = np.sort(np.concatenate((values[found], values[lost])))
    ids = ids[np.concatenate(([True], ids[1:] != ids[:-1]))]
    table[slots[found]] = np.searchsorted(ids, values[found])
    index = table[slots]
    index[lost] = np.searchsorted(ids, values[lost])
    return ids, index


def numbered(values: Ids) -> tuple[Ids, Ints]:
    """Ids above 0 that occur, ascending, and the number of each value: 1, 2 .., 0 for id 0.

    Args:
        values: uint64 [L].
    """
    if len(values) and int(values.max()) <= max(4 * len(values), FREE_CELLS >> 4):
        places = values.view(np.int64)
        occurs = np.zeros(int(values.max()) + 1, dtype=np.bool_)
        occurs[places] = True
        occurs[0] = False
        number: Ints = np.cumsum(occurs, dtype=np.int64)
        return np.flatnonzero(occurs).view(np.uint64), number[places]
    ids, index = distinct(values)
    if len(ids) and ids[0] == 0:
        return ids[1:], index
    return ids, index + 1


def _runs(
    pred: NDArray[Any],
    true: NDArray[Any],
    changes: NDArray[np.bool_],
    other: NDArray[np.bool_],
) -> Cells:
    """Pairs at the starts of runs and the lengths of these; single pixels where all is noise.

    Args:
        pred: integer [P].
        true: integer [P].
        changes: room to work, bool [P] or longer, a multiple of 8.
        other: the same.
    """
    size = len(pred)
    change, second = changes[1:size], other[1:size]
    np.not_equal(pred[1:], pred[:-1], out=change)
    np.not_equal(true[1:], true[:-1], out=second)
    np.logical_or(change, second, out=change)
    changes[0] = True
    changes[size:] = False
    if 2 * np.count_nonzero(change) > size:
        return (
            pred.astype(np.uint64),
            true.astype(np.uint64),
            np.ones(size, dtype=np.int64),
        )
    starts = _nonzero(changes)
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = size - starts[-1]
    return (
        pred[starts].astype(np.uint64, copy=False),
        true[starts].astype(np.uint64, copy=False),
        lengths,
    )


def _nonzero(flags: NDArray[np.bool_]) -> Ints:
    """`numpy.flatnonzero` of bool [8 K], half as long where few flags are set.

    Words of eight flags are tested first: numpy takes a mispredicted branch per flag found.
    """
    words = flags.view(np.uint64)
    some = np.flatnonzero(words != 0)
    inside = np.flatnonzero(words[some].view(np.bool_))
    places: Ints = some[inside >> 3]
    places <<= 3
    inside &= 7
    places += inside
    return places
