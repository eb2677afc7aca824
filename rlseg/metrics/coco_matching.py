"""Greedy COCO matching of scored masks, for all images, area ranges and thresholds at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
"""IoU thresholds of COCO, [T]; 0.9 is 0.8999999999999999 here, as in the COCO tools."""

CHUNK_PAIRS = 1 << 15  # candidate pairs matched at a time: bounds memory, stays in cache


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """The truth of each detection that has a candidate, for every area range and threshold."""

    detection: Ints
    """Numbers of these detections, ascending, [F]."""
    truth: NDArray[np.int32]
    """Number of the matched truth, -1 = none, [F, A, T]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rounds:
    """Candidate pairs in the order of matching; pairs of one round never share a truth.

    The pairs of a detection follow one another, the preferred one last.
    """

    truth: Ints
    """Numbers of the truths, [P]."""
    iou: Floats
    """IoU of the pairs, [P]."""
    starts: Ints
    """First pair of each detection, and P at the end, [F + 1]."""
    detection: Ints
    """Detections in the order of matching, [F]."""
    ends: Ints
    """First detection after each round, [rounds]."""


def match(detection: Ints, truth: Ints, iou: Floats, *, ignored: Bools, crowd: Bools) -> Matches:
    """Matches detections to truths as COCO does: one after the other, the best score first.

    At each threshold a detection takes the truth with the largest IoU among those that are free
    and reach the threshold; counted truths go before ignored ones, later ones win equal IoUs. A
    taken truth is free no more, unless it is a crowd.

    Detections that share no candidate truth, directly or through others, do not influence one
    another: the k-th detections of all such clusters are matched together.

    Args:
        detection: number of the detection of each pair, [P]; in one image and category lower
            numbers have higher scores.
        truth: number of the truth of each pair, [P].
        iou: of each pair, [P].
        ignored: [A, N], truths that do not count in each area range.
        crowd: [N], truths that may be matched again and again.

    Returns:
        The matches; detections without a pair that reaches the lowest threshold are left out.
    """
    enough = iou >= IOU_THRESHOLDS[0]
    rounds = _rounds(detection[enough], truth[enough], iou[enough], len(crowd))
    areas, thresholds = len(ignored), len(IOU_THRESHOLDS)
    free = np.ones((len(crowd), areas, thresholds), dtype=np.bool_)
    matched = np.full((len(rounds.detection), areas, thresholds), -1, dtype=np.int32)
    counted = ~ignored.T  # [N, A]
    last = rounds.ends[-1] if len(rounds.ends) else 0
    for begin, end in _chunks(rounds):
        pairs = slice(rounds.starts[begin], rounds.starts[end])
        starts = rounds.starts[begin:end] - rounds.starts[begin]
        taken = _choose(free, counted, rounds.truth[pairs], rounds.iou[pairs], starts)
        matched[begin:end] = taken
        if end < last:
            which, area, threshold = np.nonzero((taken >= 0) & ~crowd[taken])
            free[taken[which, area, threshold], area, threshold] = False
    order = np.argsort(rounds.detection)
    return Matches(detection=rounds.detection[order], truth=matched[order])


def _choose(
    free: Bools, counted: Bools, truth: Ints, iou: Floats, starts: Ints
) -> NDArray[np.int32]:
    """The truth that each detection takes, -1 = none, [F, A, T]."""
    pairs = len(truth)
    possible = free[truth]  # [P, A, T]
    possible &= (iou[:, None] >= IOU_THRESHOLDS)[:, None, :]
    # Later pairs are better ones; a counted truth beats all ignored ones. 0 = not possible.
    rank = np.arange(1, pairs + 1, dtype=np.int32)[:, None] + pairs * counted[truth]
    value = possible * rank.astype(np.int32)[:, :, None]
    best = np.maximum.reduceat(value, starts, axis=0)  # [F, A, T]
    chosen = truth.astype(np.int32)[(best - 1) % pairs]
    return np.where(best > 0, chosen, np.int32(-1))


def _rounds(detection: Ints, truth: Ints, iou: Floats, truths: int) -> _Rounds:
    """Sorts the candidate pairs into rounds."""
    found, row = np.unique(detection, return_inverse=True)
    nodes = truths + len(found)
    edges = coo_array((np.ones(len(row), dtype=np.int8), (row + truths, truth)), (nodes, nodes))
    cluster = connected_components(edges, directed=False)[1][truths:]
    order = np.argsort(cluster, kind="stable")  # within a cluster still by detection
    first = np.flatnonzero(np.diff(cluster[order], prepend=-1))
    turn = np.empty(len(found), dtype=np.int64)
    turn[order] = np.arange(len(found)) - np.repeat(first, np.diff(first, append=len(found)))
    by_turn = np.argsort(turn, kind="stable")
    place = np.empty(len(found), dtype=np.int64)
    place[by_turn] = np.arange(len(found))
    pairs = np.lexsort((truth, iou, place[row]))
    counts = np.bincount(row, minlength=len(found))[by_turn]
    return _Rounds(
        truth=truth[pairs],
        iou=iou[pairs],
        starts=np.concatenate(([0], np.cumsum(counts))),
        detection=found[by_turn],
        ends=np.cumsum(np.bincount(turn)),
    )


def _chunks(rounds: _Rounds) -> Iterator[tuple[int, int]]:
    """Ranges of detections within one round, with about `CHUNK_PAIRS` pairs at most."""
    begin = 0
    for end in rounds.ends.tolist():
        while begin < end:
            limit = rounds.starts[begin] + CHUNK_PAIRS
            stop = int(np.searchsorted(rounds.starts, limit, side="right")) - 1
            stop = min(max(stop, begin + 1), end)
            yield begin, stop
            begin = stop
