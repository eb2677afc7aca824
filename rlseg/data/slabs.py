"""HDF5 volumes of a data set, and which slices of them belong to which split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rlseg.data.base import Problem, as_problem, contents, listed
from rlseg.data.links import inside
from rlseg.data.volume_files import Volume, measure
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError, RlsegError

__all__ = [
    "SPLIT_WORDS",
    "Piece",
    "SlabOptions",
    "borders",
    "named_split",
    "pieces",
    "sound",
    "the_file",
]

SPLIT_WORDS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
"""Split -> words that stand for it in names of files and folders."""


@dataclass(frozen=True, kw_only=True)
class SlabOptions:
    """Which HDF5 file is read, and where it is cut."""

    file: str | None = None
    """The one HDF5 file to read, below the root, whatever its name; None = files named by split, or
    where there are none, all that are found."""
    train_slices: tuple[int, int] | None = None
    """First slice, and the one after the last, of each HDF5 file that is cut into splits. None for
    all three splits: the first 80 % train, the next 10 % validate, the rest test. Neighbouring
    slices look alike, so splits are runs of slices; ranges that leave a gap keep them further
    apart. None while another split has a range: no such split."""
    valid_slices: tuple[int, int] | None = None
    """Likewise, for validation."""
    test_slices: tuple[int, int] | None = None
    """Likewise, for the test."""

    def __post_init__(self) -> None:
        given = sorted(self.ranges.items(), key=lambda pair: pair[1])
        for split, (start, stop) in given:
            if not 0 <= start < stop:
                raise ConfigError(
                    f"{split}_slices must be a first slice from 0 on and a larger end, "
                    f"got [{start}, {stop}]"
                )
        for (first, (_, end)), (second, (start, _)) in pairwise(given):
            if start < end:
                raise ConfigError(
                    f"{first}_slices and {second}_slices share slices from {start} on; "
                    "what is trained on must not be scored: give ranges that do not overlap"
                )

    @property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """The ranges that were given, by split."""
        found = {name: getattr(self, f"{name}_slices") for name in SPLIT_WORDS}
        return {name: pair for name, pair in found.items() if pair is not None}

    @property
    def of_volumes(self) -> bool:
        """Whether a setting asks for HDF5 files."""
        return self.file is not None or bool(self.ranges)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A run of slices of one volume."""

    volume: Volume
    shape: tuple[int, int, int]
    """Of the whole labelled volume."""
    start: int
    stop: int
    """After the last one."""

    @property
    def sides(self) -> tuple[int, int, int]:
        """Slices, rows and columns of the piece."""
        return (self.stop - self.start, *self.shape[1:])

    @property
    def whole(self) -> bool:
        """Whether the piece is all of its volume."""
        return self.stop - self.start == self.shape[0]


def named_split(stem: str) -> list[str]:
    """The splits whose words stand in a file name."""
    words = re.split(r"[^a-z]+", stem.lower())
    return [split for split, names in SPLIT_WORDS.items() if any(n in words for n in names)]


def the_file(root: Path, name: str) -> Path:
    """The file that the option `file` names.

    Raises:
        DatasetNotFoundError: it is not there.
        CorruptDatasetError: it is a link out of the root.
    """
    path = inside(root / name, root)
    if not path.is_file():
        raise DatasetNotFoundError(
            f"{path}: no such file (data set option file); found {contents(root)}"
        )
    return path


def check_ranges(found: Mapping[str | None, Sequence[Volume]], options: SlabOptions) -> None:
    """Nothing, unless ranges are given for files that say their split by their name.

    Raises:
        ConfigError: that is so.
    """
    named = [v for split, volumes in found.items() if split is not None for v in volumes]
    if named and options.ranges:
        raise ConfigError(
            f"slice ranges are given, but files say their split by name "
            f"({listed(v.image.name for v in named)}): name the file to be "
            "cut (data set option file), or leave the ranges out"
        )


def sound(
    volumes: Mapping[str | None, Sequence[Volume]],
) -> tuple[dict[str | None, list[Volume]], list[Problem]]:
    """The volumes whose shapes can be read, and the problems of the others."""
    problems: list[Problem] = []
    kept: dict[str | None, list[Volume]] = {}
    for split, some in volumes.items():
        for volume in some:
            try:
                measure(volume)
            except RlsegError as error:
                problems.append(as_problem(error, volume.image))
            else:
                kept.setdefault(split, []).append(volume)
    return kept, problems


def pieces(
    volumes: Mapping[str | None, Sequence[Volume]], split: str, options: SlabOptions
) -> list[Piece]:
    """What belongs to a split: volumes of its own, or a run of slices of every volume.

    Args:
        volumes: split -> its volumes; None -> those that are cut.
        split: one of `SPLIT_WORDS`.
        options: the ranges.

    Raises:
        ConfigError: a range that ends after the last slice.
        CorruptDatasetError: an unreadable file.
    """
    result = []
    for volume in volumes.get(split, []):
        shape = measure(volume).shape
        result.append(Piece(volume=volume, shape=shape, start=0, stop=shape[0]))
    if result:
        return result
    for volume in volumes.get(None, []):
        shape = measure(volume).shape
        start, stop = (options.ranges or borders(shape[0])).get(split, (0, 0))
        if stop > shape[0]:
            raise ConfigError(
                f"{split}_slices is [{start}, {stop}], but {volume.labels} has {shape[0]} slices; "
                "lower it"
            )
        if start < stop:
            result.append(Piece(volume=volume, shape=shape, start=start, stop=stop))
    return result


def borders(count: int) -> dict[str, tuple[int, int]]:
    """First slice and end of each split by its share; train is never empty, others may be."""
    valid, test = max(1, count * 8 // 10), max(1, count * 9 // 10)
    return {"train": (0, valid), "valid": (valid, test), "test": (test, count)}


def one_per_split(found: Mapping[str | None, Sequence[Volume]]) -> None:
    """Nothing, unless two files belong to one split.

    Raises:
        CorruptDatasetError: that is so.
    """
    for split, volumes in found.items():
        if split is not None and len(volumes) > 1:
            raise CorruptDatasetError(
                f"{volumes[1].image} and {volumes[0].image} both look like split {split!r}; "
                "keep one of them in the folder"
            )
