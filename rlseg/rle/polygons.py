"""Polygons painted as masks, pixel for pixel as the COCO tools paint them.

The rule of those tools: coordinates are multiplied by 5 and rounded; every edge is walked in steps
of 1 along its longer axis; wherever the walk crosses the middle of a pixel column, the mask changes
in that column at the row above which the walk lies (rounded up). Two changes at one pixel cancel.
Here no edge is walked: the step at which an edge crosses a column follows from its slope, so the
work is one number per crossed column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlseg.errors import CorruptDatasetError, show
from rlseg.rle.runs import (
    Runs,
    concatenate,
    empty_runs,
    from_changes,
    from_zero,
    merge_groups,
    pieces,
    ranges,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MAX_POLYGON_POINTS = 1 << 20
"""Most points of one polygon."""
MAX_ABS_COORDINATE = 1e6
"""Largest coordinate, in pixels, in either direction."""
MAX_CROSSINGS = 1 << 23
"""Most times that the outlines of one call may cross pixel columns, besides those per point."""
CROSSINGS_PER_POINT = 128
"""Crossings that each given point adds to this: large files may cost what many small ones may."""

_SCALE = 5  # fine steps per pixel
_MIDDLE = 2  # fine step, within a pixel, after which a column's middle is crossed
_CHUNK = 1 << 14  # points, and crossings, worked on at once: they stay in the cache
_SHARE = 2  # one mask may have this part of the crossings: it is painted in one go
_PAINTED = 1 << 18  # crossings of the masks that are painted and united at once: bounds memory


def rasterize(polygons_of_each: Sequence[Sequence[Sequence[float]]], sizes: Ints) -> Runs:
    """One mask per entry: the union of its polygons, cut off at the image border.

    Args:
        polygons_of_each: N entries, each one or more polygons `[x, y, x, y, ...]` in pixels.
        sizes: int64 [N, 2], height and width of each entry's image.

    Raises:
        CorruptDatasetError: a polygon has a coordinate that is not a finite number of at most
            `MAX_ABS_COORDINATE`, an odd number of them, fewer than 3 points or too many; or all
            of them cross too many pixel columns.
    """
    runs, faults = read(polygons_of_each, sizes)
    if faults:
        lines = [f"entry {index}: {what}" for index, what in faults[:10]]
        raise CorruptDatasetError("\n".join([*lines, "remove or fix these polygons"]))
    return runs


def read(
    entries: Sequence[Any],
    sizes: Ints,
    *,
    max_points: int = MAX_POLYGON_POINTS,
    max_coordinate: float = MAX_ABS_COORDINATE,
    max_crossings: int = MAX_CROSSINGS,
) -> tuple[Runs, list[tuple[int, str]]]:
    """One mask per entry as `rasterize`, and what is wrong as (index of the entry, words).

    A faulty entry gets an empty mask of size [0, 0]. So does every entry from the one on with
    which all crossings are more than `max_crossings + CROSSINGS_PER_POINT * points`, and one that
    alone has more than half of `max_crossings`.
    """
    whats = [_shape_fault(entry, max_points) for entry in entries]
    parts = _parts(entries, whats)
    flat = _coordinates(parts, max_coordinate)
    if flat is None:
        whats = [
            what or _coordinate_fault(entry, max_coordinate)
            for entry, what in zip(entries, whats, strict=True)
        ]
        parts = _parts(entries, whats)
        flat = np.array([x for part in parts for x in part], dtype=np.float64)
    number = np.array(
        [0 if what else len(e) for e, what in zip(entries, whats, strict=True)], dtype=np.int64
    )
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts)) // 2
    points, bounds, first = flat.reshape(-1, 2), from_zero(lengths), from_zero(number)
    sizes = np.where((number > 0)[:, None], sizes, 0)
    left = limit = max_crossings + CROSSINGS_PER_POINT * len(points)
    painted = [empty_runs(sizes[:0])]
    for some in pieces(np.diff(bounds[first]), _CHUNK):
        polygons = slice(first[some.start], first[some.stop])
        canvas = np.repeat(sizes[some], number[some], axis=0)
        edges = _edges(points[bounds[polygons.start] :], lengths[polygons], canvas)
        owner = np.repeat(np.arange(len(number[some])), number[some])[edges.part]
        costs = np.bincount(owner, edges.number, minlength=len(number[some])).astype(np.int64)
        large = costs > max_crossings // _SHARE
        spent = np.cumsum(np.where(large, 0, costs))
        for index in np.flatnonzero(large | (spent > left)).tolist():
            most = max_crossings // _SHARE if large[index] else limit
            whats[some.start + index] = _cost_fault(int(costs[index]), most, bool(large[index]))
        left -= int(spent[-1])
        painted += _painted(
            edges, number[some], sizes[some], np.where(_none(whats[some]), costs, -1)
        )
    faults = [(index, what) for index, what in enumerate(whats) if what is not None]
    return concatenate(painted), faults


def _none(whats: Sequence[str | None]) -> Bools:
    return np.array([what is None for what in whats], dtype=np.bool_)


def _cost_fault(cost: int, most: int, alone: bool) -> str:
    """That the outlines of an entry, or all up to it, cross too many columns."""
    who = "one mask" if alone else "all masks together"
    got = f"{cost}" if alone else f"more, {cost} of them here"
    return (
        f"expected outlines that cross pixel columns at most {most} times ({who}), got {got}: is "
        "the image's size right? Simplify the polygons, or raise max_crossings"
    )


def _painted(edges: _Edges, number: Ints, sizes: Ints, costs: Ints) -> Iterator[Runs]:
    """Masks of some entries, in parts.

    Args:
        edges: of all their polygons.
        number: polygons of each entry, [N].
        sizes: int64 [N, 2].
        costs: crossings of each entry, [N]; -1 = refused: the mask is empty, of size [0, 0].
    """
    good = costs >= 0
    first, sizes = from_zero(number), np.where(good[:, None], sizes, 0)
    for some in pieces(np.maximum(costs, 0), _PAINTED):
        kept = np.where(good, number, 0)[some]
        part = edges.of(slice(first[some.start], first[some.stop]), np.repeat(good, number))
        yield _unite(from_changes(_changes(part), part.sizes), kept, sizes[some])


def _parts(entries: Sequence[Any], whats: Sequence[str | None]) -> list[Sequence[float]]:
    good = (entry for entry, what in zip(entries, whats, strict=True) if what is None)
    return list(chain.from_iterable(good))


def _shape_fault(entry: Sequence[Any], max_points: int) -> str | None:
    """What is wrong with the lists of one entry."""
    if not entry:
        return "expected at least one polygon, got an empty list"
    for place, part in enumerate(entry):
        if not isinstance(part, (list, tuple)):
            return f"expected a list of numbers, got {show(part)} as polygon {place}"
        if len(part) % 2:
            return f"expected pairs x, y, got {len(part)} numbers in polygon {place}"
        if len(part) < 6:
            return f"expected at least 3 points, got {len(part) // 2} in polygon {place}"
        if len(part) > 2 * max_points:
            return (
                f"expected at most {max_points} points, "
                f"got {len(part) // 2} in polygon {place}: simplify it"
            )
    return None


def _coordinates(parts: Sequence[Sequence[float]], farthest: float) -> Floats | None:
    """float64 [V * 2], all coordinates, or None if one of them is not what it must be."""
    flat = list(chain.from_iterable(parts))
    if not set(map(type, flat)) <= {int, float}:
        return None
    try:
        array = np.array(flat, dtype=np.float64)
    except OverflowError:
        return None
    return array if (np.abs(array) <= farthest).all() else None


def _coordinate_fault(entry: Sequence[Sequence[Any]], farthest: float) -> str | None:
    """The first wrong coordinate of one entry, in words."""
    for place, part in enumerate(entry):
        for index, value in enumerate(part):
            where = f"at {index} of polygon {place}"
            if type(value) not in (int, float):
                return f"expected a number, got {show(value)} {where}"
            if not abs(value) <= farthest:  # NaN is not
                return f"expected coordinates within {farthest:.0f}, got {show(value)} {where}"
    return None


@dataclass(frozen=True)
class _Edges:
    """Edges of some polygons, those that cross no pixel column of the image left out."""

    start: Ints
    """int64 [E, 2], x and y, in fine steps, of the end that comes first on the longer axis."""
    run: Ints
    """int64 [E, 2], from there to the other end."""
    column: Ints
    """int64 [E], first pixel column inside the image whose middle is crossed."""
    number: Ints
    """int64 [E], how many columns are crossed."""
    part: Ints
    """int64 [E], which of the polygons, ascending."""
    sizes: Ints
    """int64 [Q, 2], canvas of each polygon."""

    def of(self, polygons: slice, good: Bools) -> _Edges:
        """Those of the polygons of a slice that are `good` [Q], which are numbered anew."""
        index = np.flatnonzero(good[polygons]) + polygons.start
        begin, end = np.searchsorted(self.part, [polygons.start, polygons.stop])
        part = self.part[begin:end]
        some = np.flatnonzero(good[part]) + begin
        return _Edges(
            self.start[some],
            self.run[some],
            self.column[some],
            self.number[some],
            np.searchsorted(index, self.part[some]),
            self.sizes[index],
        )


def _edges(points: Floats, lengths: Ints, sizes: Ints) -> _Edges:
    """Edges of closed polygons with `lengths` [Q] of the points [V, 2] each, on `sizes` [Q, 2]."""
    bounds = from_zero(lengths)
    start = (_SCALE * points[: bounds[-1]] + 0.5).astype(np.int64)  # cuts towards 0
    end = np.concatenate([start[1:], start[:1]])
    end[bounds[1:] - 1] = start[bounds[:-1]]
    part = np.repeat(np.arange(len(lengths)), lengths)
    low, high = np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])
    column = np.maximum((low - _MIDDLE + _SCALE - 1) // _SCALE, 0)
    last = np.minimum((high - _MIDDLE - 1) // _SCALE, sizes[part, 1] - 1)
    number = last - column + 1
    some = np.flatnonzero(number > 0)
    start, run = start[some], (end - start)[some]
    flat = np.abs(run[:, 0]) >= np.abs(run[:, 1])
    flip = np.where(flat, run[:, 0], run[:, 1]) < 0
    start[flip] += run[flip]
    run[flip] *= -1
    return _Edges(start, run, column[some], number[some], part[some], sizes)


def _changes(edges: _Edges) -> Ints:
    """Places where the masks of the polygons change, ascending; see `from_changes`."""
    flat = edges.run[:, 0] >= np.abs(edges.run[:, 1])
    crossings = np.bincount(edges.part, edges.number, minlength=len(edges.sizes))
    bounds = np.searchsorted(edges.part, np.arange(len(edges.sizes) + 1))
    found = [np.zeros(0, dtype=np.int64)]
    for parts in pieces(crossings.astype(np.int64), _CHUNK):
        edge = np.arange(bounds[parts.start], bounds[parts.stop])
        level, steep = edge[flat[edge]], edge[~flat[edge]]
        place = np.concatenate(
            [_places(edges, level, _level_rows), _places(edges, steep, _steep_rows)]
        )
        place.sort()
        begins = np.flatnonzero(np.diff(place, prepend=-1))
        times = np.diff(begins, append=len(place))
        found.append(place[begins[times & 1 == 1]])  # two changes at one pixel cancel
    return np.concatenate(found)


def _places(edges: _Edges, edge: Ints, rows: Callable[..., Ints]) -> Ints:
    """Places of the pixels at which some edges cross columns."""
    number, part = edges.number[edge], edges.part[edge]
    crossing = np.repeat(np.arange(len(edge)), number)  # [P]
    step = ranges(np.zeros_like(number), number)  # [P], columns since the edge's first one
    start, run, column = edges.start[edge], edges.run[edge], edges.column[edge]
    fine = rows(start[:, 0], start[:, 1], run, _SCALE * column + _MIDDLE, crossing, step * _SCALE)
    height = edges.sizes[part, 0]
    end = np.cumsum(edges.sizes[:, 0] * edges.sizes[:, 1])
    first = np.concatenate([[0], end])[part] + column * height
    height_here = height[crossing]
    row = np.clip((fine + (_SCALE - 1 - _MIDDLE)) // _SCALE, 0, height_here)
    place: Ints = step * height_here + row + first[crossing]
    # The row below the last column's last pixel is outside; below the others, it is on top of
    # the next column.
    return place[place < end[part][crossing]]


def _level_rows(x: Ints, y: Ints, run: Ints, target: Ints, crossing: Ints, step: Ints) -> Ints:
    """Fine rows [P] of edges that are at least as wide as high, where they cross columns.

    A crossing lies between the fine columns `target + step` and the next; the upper row counts.
    """
    slope = run[:, 1] / run[:, 0]
    first = target - x + (slope < 0)
    # The order of these additions decides how halves are rounded.
    rows: Ints = (y[crossing] + slope[crossing] * (first[crossing] + step) + 0.5).astype(np.int64)
    return rows


def _steep_rows(x: Ints, y: Ints, run: Ints, target: Ints, crossing: Ints, step: Ints) -> Ints:
    """The same for edges that are higher than wide."""
    slope = (run[:, 0] / run[:, 1])[crossing]
    begin, border = x[crossing], target[crossing] + step + 1
    rising = slope > 0
    down = np.ceil((border - 0.5 - begin) / slope)  # first fine row across, up to rounding
    early = ((begin + slope * (down - 1) + 0.5) >= border) == rising
    late = ((begin + slope * down + 0.5) >= border) != rising
    rows: Ints = y[crossing] + down.astype(np.int64) - early + late - 1
    return rows


def _unite(runs: Runs, number: Ints, sizes: Ints) -> Runs:
    """Masks of the entries from those of their polygons, `number` [N] each."""
    if (number == 1).all():
        return runs
    bounds = from_zero(number)
    some = number > 0
    united = merge_groups(runs, np.append(bounds[:-1][some], bounds[-1]))
    if some.all():
        return united
    index = np.concatenate([np.flatnonzero(some), np.flatnonzero(~some)])
    return concatenate([united, empty_runs(sizes[~some])]).take(np.argsort(index))
