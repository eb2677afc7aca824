"""Run lengths and polygons as COCO files hold them, checked before anything is built from them.

No memory of a mask's declared size is touched here: a few numbers per character or entry given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlseg.errors import ConfigError, CorruptDatasetError, ShapeError, show
from rlseg.rle import polygons, strings
from rlseg.rle.runs import CHUNK, Runs, canonical, concatenate, empty_runs, from_zero, pieces

Ints = NDArray[np.int64]

MAX_MASK_PIXELS = 1 << 28
"""Most pixels, height x width, of a mask that is read."""

_SIZE, _COUNTS = "segmentation.size", "segmentation.counts"
_LARGEST = 1 << 34  # what a number of `MAX_RLE_CHARS` characters can hold
_MOST_CHARACTERS = 12  # 60 bits
_FARTHEST = 1e9  # fine steps, and differences of them, stay exact


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a mask may have at most: protects against files that are small but ask for much."""

    max_pixels: int = MAX_MASK_PIXELS
    """Height x width, at most 2^34."""
    max_characters: int = strings.MAX_RLE_CHARS
    """Characters of one number in a compressed string, at most 12."""
    max_points: int = polygons.MAX_POLYGON_POINTS
    """Points of one polygon."""
    max_coordinate: float = polygons.MAX_ABS_COORDINATE
    """Distance of a point from the image's corner in x or y, in pixels; at most 10^9."""
    max_crossings: int = polygons.MAX_CROSSINGS
    """How often the outlines of all polygons of one call cross pixel columns: the work, and the
    memory, of painting them. `CROSSINGS_PER_POINT` more are free for each point that is given."""

    def __post_init__(self) -> None:
        for name, high in (
            ("max_pixels", _LARGEST),
            ("max_characters", _MOST_CHARACTERS),
            ("max_points", math.inf),
            ("max_coordinate", _FARTHEST),
            ("max_crossings", math.inf),
        ):
            value = getattr(self, name)
            if not 1 <= value <= high:
                raise ConfigError(f"{name} must be in 1..{high}, got {value}")


_DEFAULT = Limits()


@dataclass(frozen=True)
class Fault:
    """Why an entry of a list was refused."""

    index: int
    """Position in the list, from 0."""
    field: str
    """The part at fault, such as "segmentation.counts"."""
    what: str
    """What was expected and what was found."""


def parse(
    segmentations: Sequence[Any],
    *,
    sizes: Ints | None = None,
    limits: Limits = _DEFAULT,
) -> tuple[Runs, list[Fault]]:
    """Masks from what COCO files hold under "segmentation", and what is wrong with them.

    Args:
        segmentations: N entries, each `{"size": [height, width], "counts": c}` with `c` a
            compressed string (str or bytes) or a list of run lengths, or a list of polygons
            `[[x, y, x, y, ...], ...]`, which are painted as the COCO tools do and united.
        sizes: int64 [N, 2], height and width of the image of each entry. Polygons need it, and
            another "size" is a fault.
        limits: what is refused as too much.

    Returns:
        (N masks, faults in order of their index). A faulty entry is an empty mask of size [0, 0].

    Raises:
        ShapeError: `sizes` has another shape than [N, 2].
    """
    if sizes is not None and sizes.shape != (len(segmentations), 2):
        raise ShapeError(
            f"sizes have shape {list(sizes.shape)}; expected [{len(segmentations)}, 2], "
            "height and width for every entry"
        )
    reader = _Reader(None if sizes is None else sizes.tolist(), limits)
    if not reader.sort_plain(segmentations):
        reader.sort(segmentations)
    return reader.read()


def from_coco(
    segmentations: Sequence[Any],
    *,
    sizes: Ints | None = None,
    limits: Limits = _DEFAULT,
) -> Runs:
    """The masks of `parse`, if nothing is wrong with them.

    Raises:
        CorruptDatasetError: an entry is faulty; the message lists up to ten.
    """
    runs, faults = parse(segmentations, sizes=sizes, limits=limits)
    if faults:
        lines = [f"entry {fault.index}, '{fault.field}': {fault.what}" for fault in faults[:10]]
        if len(faults) > 10:
            lines.append(f"and {len(faults) - 10} more")
        raise CorruptDatasetError("\n".join([*lines, "remove or fix them"]))
    return runs


@dataclass
class _Group:
    """Entries of one kind, read together."""

    index: list[int] = field(default_factory=list)
    content: list[Any] = field(default_factory=list)
    sizes: list[Sequence[int]] = field(default_factory=list)

    def add(self, index: int, content: Any, size: Sequence[int]) -> None:
        self.index.append(index)
        self.content.append(content)
        self.sizes.append(size)

    def size_array(self) -> Ints:
        sides = chain.from_iterable(self.sizes)
        return np.fromiter(sides, dtype=np.int64, count=2 * len(self.sizes)).reshape(-1, 2)


@dataclass
class _Reader:
    """One call of `parse`."""

    expected: list[list[int]] | None
    limits: Limits
    faults: list[Fault] = field(default_factory=list)
    strings: _Group = field(default_factory=_Group)
    lists: _Group = field(default_factory=_Group)
    painted: _Group = field(default_factory=_Group)

    @property
    def max_pixels(self) -> int:
        return self.limits.max_pixels

    def sort_plain(self, segmentations: Sequence[Any]) -> bool:
        """Whether all entries are strings with legal sizes; they are taken over, if so.

        The common case, without a look at every single entry.
        """
        if set(map(type, segmentations)) != {dict}:
            return False
        sizes = [segmentation.get("size") for segmentation in segmentations]
        texts = [segmentation.get("counts") for segmentation in segmentations]
        if not set(map(type, texts)) <= {str, bytes} or set(map(type, sizes)) != {list}:
            return False
        if set(map(len, sizes)) != {2} or (self.expected is not None and sizes != self.expected):
            return False
        sides = list(chain.from_iterable(sizes))
        if set(map(type, sides)) != {int} or min(sides) < 0 or max(sides) > self.max_pixels:
            return False
        pixels = np.array(sides, dtype=np.float64).reshape(-1, 2).prod(axis=1)
        if pixels.max() > self.max_pixels:
            return False
        self.strings = _Group(list(range(len(texts))), texts, sizes)
        return True

    def sort(self, segmentations: Iterable[Any]) -> None:
        """Put every entry where its kind is read, or refuse it."""
        for index, segmentation in enumerate(segmentations):
            if isinstance(segmentation, dict):
                self._sort_runs(index, segmentation)
            elif isinstance(segmentation, (list, tuple)):
                self._sort_polygons(index, segmentation)
            else:
                what = f"expected run lengths or polygons, got {show(segmentation)}"
                self._refuse(index, "segmentation", what)

    def read(self) -> tuple[Runs, list[Fault]]:
        """Masks of all sorted entries, and what is wrong."""
        refused = [fault.index for fault in self.faults]
        parts = [
            self._read_strings(self.strings),
            self._read_lists(self.lists),
            self._read_polygons(self.painted),
            empty_runs(np.zeros((len(refused), 2), dtype=np.int64)),
        ]
        order = self.strings.index + self.lists.index + self.painted.index + refused
        parts = [part for part in parts if len(part)]
        runs = parts[0] if len(parts) == 1 else concatenate(parts)
        if len(parts) > 1:
            runs = runs.take(np.argsort(np.array(order, dtype=np.int64)))
        return runs, sorted(self.faults, key=lambda fault: fault.index)

    def _refuse(self, index: int, name: str, what: str) -> None:
        self.faults.append(Fault(index, name, what))

    def _sort_runs(self, index: int, segmentation: dict[str, Any]) -> None:
        size, counts = segmentation.get("size"), segmentation.get("counts")
        what = self._size_fault(index, size)
        if what is not None:
            self._refuse(index, _SIZE, what)
        elif type(counts) is str or type(counts) is bytes:
            self.strings.add(index, counts, size)  # type: ignore[arg-type]
        elif isinstance(counts, (list, tuple, np.ndarray)):
            self.lists.add(index, counts, size)  # type: ignore[arg-type]
        else:
            self._refuse(
                index, _COUNTS, f"expected a string or a list of run lengths, got {show(counts)}"
            )

    def _size_fault(self, index: int, size: Any) -> str | None:
        if not isinstance(size, (list, tuple)) or len(size) != 2:
            return f"expected [height, width], got {show(size)}"
        height, width = _plain_integers(size)
        if type(height) is not int or type(width) is not int:
            return f"expected two integers, got [{show(height)}, {show(width)}]"
        if height < 0 or width < 0:
            return f"expected two sides of 0 or more, got [{show(height)}, {show(width)}]"
        if max(height, width, height * width) > self.max_pixels:
            return (
                f"expected at most {self.max_pixels} pixels, "
                f"got [{show(height)}, {show(width)}]; check the order and unit of the sides"
            )
        if self.expected is not None and [height, width] != self.expected[index]:
            return f"expected the image's {self.expected[index]}, got [{height}, {width}]"
        return None

    def _sort_polygons(self, index: int, segmentation: Sequence[Any]) -> None:
        if self.expected is None:
            what = "expected run lengths, got polygons: they need the size of the image"
            self._refuse(index, "segmentation", what)
            return
        size = self.expected[index]
        what_size = self._size_fault(index, size)
        if what_size is not None:
            self._refuse(index, "image size", what_size)
        else:
            self.painted.add(index, segmentation, size)

    def _read_strings(self, group: _Group) -> Runs:
        raw = [c if type(c) is str else c.decode("latin-1") for c in group.content]
        lengths = np.fromiter(map(len, raw), dtype=np.int64, count=len(raw))
        if not lengths.all():
            raw = [c or "0" for c in raw]
            lengths = np.maximum(lengths, 1)
        highest = (self.max_pixels, self.limits.max_characters)
        parts = [strings.read(b"", lengths[:0], *highest)]
        for some in pieces(lengths, CHUNK):
            text = "".join(raw[some])
            if not text.isascii():  # characters without a byte, replaced by one that is refused
                text = "".join(c if c.isascii() else "\x7f" * len(c) for c in raw[some])
            parts.append(strings.read(text.encode("ascii"), lengths[some], *highest))
        counts = np.concatenate([part[0] for part in parts])
        starts = from_zero(np.concatenate([np.diff(part[1]) for part in parts]))
        faulty = np.concatenate([part[2] for part in parts])
        sizes = group.size_array()
        total = np.diff(from_zero(counts)[starts])
        wrong = faulty | (total != sizes[:, 0] * sizes[:, 1])
        for k in np.flatnonzero(wrong).tolist():
            what = strings.explain(group.content[k], *highest) or _wrong_sum(
                group.sizes[k], int(total[k])
            )
            self._refuse(group.index[k], _COUNTS, what)
        if wrong.any():
            sizes[wrong] = 0
            counts[np.repeat(wrong, np.diff(starts))] = 0
        return canonical(Runs(sizes, counts, starts))

    def _read_lists(self, group: _Group) -> Runs:
        sizes, runs = group.size_array(), []
        for k, counts in enumerate(group.content):
            runs.append(
                counts.tolist() if isinstance(counts, np.ndarray) else _plain_integers(counts)
            )
            what = self._counts_fault(runs[k], group.sizes[k])
            if what is not None:
                self._refuse(group.index[k], _COUNTS, what)
                sizes[k] = 0
            if what is not None or not runs[k]:
                runs[k] = [0]
        flat = np.array([run for counts in runs for run in counts], dtype=np.int64)
        return canonical(Runs(sizes, flat, from_zero(np.array([len(counts) for counts in runs]))))

    def _counts_fault(self, counts: Any, size: Sequence[int]) -> str | None:
        if not isinstance(counts, (list, tuple)):
            return f"expected a list of run lengths, got {show(counts)}"
        if not set(map(type, counts)) <= {int}:
            place = next(i for i, run in enumerate(counts) if type(run) is not int)
            return f"expected integers, got {show(counts[place])} (run {place})"
        if counts and min(counts) < 0:
            place = next(i for i, run in enumerate(counts) if run < 0)
            return f"expected runs of 0 or more, got {show(counts[place])} (run {place})"
        total = sum(counts)
        return None if total == size[0] * size[1] else _wrong_sum(size, total)

    def _read_polygons(self, group: _Group) -> Runs:
        runs, faults = polygons.read(
            group.content,
            group.size_array(),
            max_points=self.limits.max_points,
            max_coordinate=self.limits.max_coordinate,
            max_crossings=self.limits.max_crossings,
        )
        for k, what in faults:
            self._refuse(group.index[k], "segmentation", what)
        return runs


def _plain_integers(values: Sequence[Any]) -> Sequence[Any]:
    """The same values, integers of numpy as those of Python."""
    if set(map(type, values)) <= {int}:
        return values
    return [int(value) if isinstance(value, np.integer) else value for value in values]


def _wrong_sum(size: Sequence[int], total: int) -> str:
    height, width = size
    return (
        f"expected runs that sum to {height * width} (size {height} x {width}), got {show(total)}"
    )
