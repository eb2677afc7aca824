"""Many masks as run lengths in one array, and how such arrays are built, joined and merged.

A mask is read column by column (top to bottom, columns left to right); its runs of equal pixels
alternate, starting with zeros, so the first run is 0 if the first pixel is set. The pixels of all
masks lie on one line, mask after mask; a *place* is an index on that line. Everything here is
array operations over all masks at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlseg.errors import ShapeError
from rlseg.rle import strings as text

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CHUNK = 1 << 16
"""Numbers worked on at once by array operations that need many copies: they stay in the cache."""


@dataclass(frozen=True, eq=False)
class Runs:
    """N masks as run lengths; no run is 0 except a mask's first one."""

    sizes: Ints
    """int64 [N, 2], height and width."""
    counts: Ints
    """int64 [L], runs of all masks, one mask after the other; every mask has at least one."""
    starts: Ints
    """int64 [N + 1]; mask k is `counts[starts[k]:starts[k + 1]]`."""

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def offsets(self) -> Ints:
        """int64 [N + 1], place of the first pixel of each mask, and the number of all pixels."""
        return from_zero(self.sizes[:, 0] * self.sizes[:, 1])

    @cached_property
    def spans(self) -> tuple[Ints, Ints, Ints]:
        """Runs of ones: first place [S], place behind the last [S], begin per mask [N + 1]."""
        number = np.diff(self.starts) // 2
        bounds = from_zero(number)
        index = np.repeat(self.starts[:-1] - 2 * bounds[:-1], number)
        index += np.arange(0, 2 * len(index), 2)
        ends = np.cumsum(self.counts)
        return ends[index], ends[index + 1], bounds

    @cached_property
    def _ones_before(self) -> Ints:
        """int64 [S + 1], set pixels in front of each run of ones, and of all."""
        first, last, _ = self.spans
        return from_zero(last - first)

    def areas(self) -> Ints:
        """int64 [N], set pixels of each mask."""
        bounds = self.spans[2]
        return np.diff(self._ones_before[bounds])

    def boxes(self) -> Ints:
        """int64 [N, 4], left, top, width and height; zeros for an empty mask."""
        return self._boxes.copy()

    @cached_property
    def _boxes(self) -> Ints:
        first, last, bounds = self.spans
        boxes = np.zeros((len(self), 4), dtype=np.int64)
        some = np.flatnonzero(np.diff(bounds))
        if not len(some):
            return boxes
        number, offsets = np.diff(bounds), self.offsets[:-1]
        # 32-bit division is several times faster; a mask rarely has more pixels than fit.
        narrow: Any = np.uint32 if int(np.diff(self.offsets).max()) < 2**32 else np.int64
        height = np.repeat(self.sizes[:, 0].astype(narrow), number)
        shift = np.repeat(offsets, number)
        start, end = (first - shift).astype(narrow), (last - shift - 1).astype(narrow)
        left, right = start // height, end // height
        inside = left == right  # else the run passes a column's end
        top = np.where(inside, start - left * height, 0)
        bottom = np.where(inside, end - right * height, height - 1)
        begin = bounds[:-1][some]
        boxes[some, 0] = left[begin]
        boxes[some, 1] = np.minimum.reduceat(top, begin)
        boxes[some, 2] = right[bounds[1:][some] - 1] + 1
        boxes[some, 3] = np.maximum.reduceat(bottom, begin) + 1
        boxes[some, 2:] -= boxes[some, :2]
        return boxes

    def take(self, index: Any) -> Runs:
        """Some of the masks, in the order of `index` (int array, slice or bool array)."""
        chosen = np.arange(len(self))[index]
        lengths = np.diff(self.starts)[chosen]
        starts = from_zero(lengths)
        places = ranges(self.starts[chosen], lengths)
        return Runs(self.sizes[chosen], self.counts[places], starts)

    def decode(self) -> Bools:
        """Pixels, bool [N, H, W].

        Raises:
            ShapeError: the masks have different sizes; `take` those of one size.
        """
        if not len(self):
            return np.zeros((0, 0, 0), dtype=bool)
        height, width = one_size(self)
        set_runs = (
            np.arange(len(self.counts)) - np.repeat(self.starts[:-1], np.diff(self.starts))
        ) & 1
        pixels = np.repeat(set_runs.astype(bool), self.counts)
        return np.ascontiguousarray(pixels.reshape(len(self), width, height).transpose(0, 2, 1))

    def strings(self) -> list[str]:
        """The compressed counts of every mask, the same characters as the COCO tools write."""
        strings = []
        for some in pieces(np.diff(self.starts), CHUNK):
            starts = self.starts[some.start : some.stop + 1]
            strings += text.write(self.counts[starts[0] : starts[-1]], starts - starts[0])
        return strings

    def to_coco(self) -> list[dict[str, Any]]:
        """The masks as COCO files hold them: `{"size": [height, width], "counts": string}`."""
        return [
            {"size": size, "counts": string}
            for size, string in zip(self.sizes.tolist(), self.strings(), strict=True)
        ]


def empty_runs(sizes: Ints) -> Runs:
    """Masks without a set pixel, of these sizes (int64 [N, 2])."""
    return from_changes(np.zeros(0, dtype=np.int64), sizes)


def from_changes(changes: Ints, sizes: Ints) -> Runs:
    """Masks from the places where they change.

    Args:
        changes: int64 [C], strictly increasing places whose pixel differs from the one before it
            in the same mask (from 0, for a mask's first pixel).
        sizes: int64 [N, 2].
    """
    offsets = from_zero(sizes[:, 0] * sizes[:, 1])
    starts = np.searchsorted(changes, offsets)
    starts[-1] = len(changes)
    starts += np.arange(len(starts))
    ends = np.empty(len(changes) + len(sizes), dtype=np.int64)
    is_change = np.ones(len(ends), dtype=bool)
    is_change[starts[1:] - 1] = False
    ends[is_change] = changes
    ends[starts[1:] - 1] = offsets[1:]
    return Runs(sizes, np.diff(ends, prepend=0), starts)


def from_spans(first: Ints, last: Ints, mask: Ints, sizes: Ints) -> Runs:
    """Masks from runs of ones.

    Args:
        first: int64 [S], place of the first pixel of each run, increasing.
        last: int64 [S], place behind the last pixel; no run touches the next one of its mask.
        mask: int64 [S], whose run it is.
        sizes: int64 [N, 2].
    """
    changes = np.stack([first, last], axis=1).reshape(-1)
    keep = np.ones(len(changes), dtype=bool)
    # The end of a mask is no change: that place is the next mask's first pixel.
    keep[1::2] = last < from_zero(sizes[:, 0] * sizes[:, 1])[mask + 1]
    return from_changes(changes[keep], sizes)


def canonical(runs: Runs) -> Runs:
    """The same masks, if runs of length 0 stand in the middle of some."""
    inner = runs.counts == 0
    inner[runs.starts[:-1]] = False
    if not inner.any():
        return runs
    first, last, bounds = runs.spans
    mask = np.repeat(np.arange(len(runs)), np.diff(bounds))
    some = last > first
    first, last, mask = first[some], last[some], mask[some]
    joined = (first[1:] == last[:-1]) & (mask[1:] == mask[:-1])
    begin, end = np.concatenate([[True], ~joined]), np.concatenate([~joined, [True]])
    if not len(first):
        return empty_runs(runs.sizes)
    return from_spans(first[begin], last[end], mask[begin], runs.sizes)


def concatenate(parts: Sequence[Runs]) -> Runs:
    """All masks of several `Runs`, in order."""
    if not parts:
        return empty_runs(np.zeros((0, 2), dtype=np.int64))
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    return Runs(
        np.concatenate([part.sizes for part in parts]),
        np.concatenate([part.counts for part in parts]),
        from_zero(lengths),
    )


def merge(runs: Runs, *, intersect: bool = False) -> Runs:
    """One mask: the pixels that are in any of the masks, or in all of them.

    Raises:
        ShapeError: different sizes, or no mask at all (so no size either).
    """
    if not len(runs):
        raise ShapeError("no mask to merge: the size of the result is unknown")
    one_size(runs)
    return merge_groups(runs, np.array([0, len(runs)]), intersect=intersect)


def merge_groups(runs: Runs, groups: Ints, *, intersect: bool = False) -> Runs:
    """One mask for every group of neighbours, as `merge`.

    Args:
        runs: N masks; those of a group have the same size.
        groups: int64 [G + 1], strictly increasing; group g is the masks `groups[g]` up to, but
            without, `groups[g + 1]`.
        intersect: keep pixels that are in all masks of the group instead of any.
    """
    first, last, bounds = runs.spans
    group = np.repeat(np.arange(len(groups) - 1), np.diff(groups))  # [N]
    sizes = runs.sizes[groups[:-1]]
    offsets = from_zero(sizes[:, 0] * sizes[:, 1])
    # One place more per group, so that the end of one is not the begin of the next.
    shift = np.repeat(offsets[group] + group - runs.offsets[:-1], np.diff(bounds))
    places = np.concatenate([first + shift, last + shift])
    order = np.argsort(places, kind="stable")
    places = places[order]
    step = np.where(order < len(first), 1, -1)
    depth = np.cumsum(step)
    final = np.append(places[1:] != places[:-1], True)[: len(places)]
    places, depth = places[final], depth[final]
    owner = np.searchsorted(offsets + np.arange(len(offsets)), places, side="right") - 1
    covered = depth >= (np.diff(groups)[owner] if intersect else 1)
    # Between groups nothing is covered, so changes alternate on the whole line.
    change = np.diff(covered, prepend=False)
    places, owner = places[change] - owner[change], owner[change]
    return from_spans(places[::2], places[1::2], owner[::2], sizes)


def one_size(runs: Runs) -> tuple[int, int]:
    """Height and width of all masks."""
    different = np.flatnonzero((runs.sizes != runs.sizes[0]).any(axis=1))
    if len(different):
        other = int(different[0])
        raise ShapeError(
            f"mask {other} has size {runs.sizes[other].tolist()}, mask 0 "
            f"{runs.sizes[0].tolist()}; expected one size"
        )
    return int(runs.sizes[0, 0]), int(runs.sizes[0, 1])


def from_zero(lengths: Ints) -> Ints:
    """int64 [N + 1]: running sums of [N] numbers, with a 0 in front."""
    sums = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=sums[1:])
    return sums


def ranges(first: Ints, number: Ints) -> Ints:
    """`number[k]` consecutive integers from `first[k]` on, for all k, one after the other."""
    bounds = from_zero(number)
    index = np.repeat(first - bounds[:-1], number)
    index += np.arange(len(index))
    return index


def pieces(number: Ints, most: int) -> Iterator[slice]:
    """Slices of the entries that hold about `most` elements together, `number` [N] each."""
    total, at = from_zero(number), 0
    while at < len(number):
        to = min(max(at + 1, int(np.searchsorted(total, total[at] + most))), len(number))
        yield slice(at, to)
        at = to
