"""GTAV: frames of a computer game with the labels of Cityscapes, to train on before real scenes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from rlseg.data.base import (
    Advance,
    OnError,
    Problem,
    Splits,
    as_problem,
    digest_of,
    existing_root,
    listed,
    raise_first,
    stop_at,
    warn,
)
from rlseg.data.class_maps import (
    ClassMaps,
    check_class_maps,
    fewer_than_published,
    sizes_by_split,
)
from rlseg.data.idlists import committed_ids, divide
from rlseg.data.layout import Layout, Record
from rlseg.data.links import inside
from rlseg.data.matlab import read_number_arrays
from rlseg.data.memory import InMemory
from rlseg.data.semantic_classes import (
    CAMVID_CLASSES,
    CITYSCAPES_CLASSES,
    CITYSCAPES_TABLE,
    GTAV_CAMVID_TABLE,
)
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError, RlsegError

__all__ = ["DATASET", "Gtav", "Options", "check", "open_splits", "read_split_mat"]

SPLIT_FILE = "split.mat"
VARIABLES = {"train": "trainIds", "valid": "valIds", "test": "testIds"}
PUBLISHED = {"train": 12403, "valid": 6382, "test": 6181}
"""Frames of each split in the authors' file."""
MAX_SPLIT_BYTES = 1 << 20
DIGITS = 5  # of a frame's number in file names

needs_root = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of GTAV."""

    classes: Literal["cityscapes", "camvid"] = "cityscapes"
    """Classes that the labels are mapped to: the 19 of Cityscapes or the 11 of CamVid."""
    splits: Literal["published", "seeded"] = "published"
    """"published" = by the authors' file split.mat in the root; "seeded" = a division of our own,
    in the same proportions, for folders without that file."""
    seed: int = 0
    """Seed of that division."""


class Gtav(ClassMaps):
    """Rendered street scenes; sizes of image and labels differ in 62 frames, which are left out."""

    layout: ClassVar[str] = (
        f"images/<n>.png, labels/<n>.png (palette images) and {SPLIT_FILE} in the root, <n> = 5 "
        "digits; any part of the frames"
    )
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test")
    classes: ClassVar[tuple[str, ...]] = CITYSCAPES_CLASSES
    citation: ClassVar[str] = (
        "Richter, Vineet, Roth, Koltun, Playing for data: ground truth from computer games, ECCV "
        "2016"
    )
    how_to_get: ClassVar[str] = (
        "download.visinf.tu-darmstadt.de/data/from_games: ten parts of images and of labels, and "
        f"the code archive with {SPLIT_FILE} (folder read_mapping); unpack all into one folder."
    )
    terms: ClassVar[str] = (
        "Research and education only; the frames belong to the publisher of the game."
    )
    files: ClassVar[Layout] = Layout(
        patterns={"image": "images/{id}.png", "labels": "labels/{id}.png"}
    )

    def __init__(self, records: list[Record], options: Options) -> None:
        to_camvid = options.classes == "camvid"
        super().__init__(records, GTAV_CAMVID_TABLE if to_camvid else CITYSCAPES_TABLE)


DATASET = Gtav
"""The class that declares the data set."""


def open_splits(root: Path | None, options: Options) -> Splits:
    """The splits whose frames lie below `root`; fewer frames than published are a logged warning.

    Raises:
        DatasetNotFoundError: no images, or no split.mat; says what was looked for and found.
        CorruptDatasetError: an image without labels or the reverse, a damaged split.mat.
    """
    root = existing_root(root, "gtav", Gtav.how_to_get)
    parts, problems = _survey(root, options, stop_at)
    raise_first(problems)
    warn(problems, "gtav")
    return Splits(
        dataset="gtav",
        task="semantic",
        ndim=2,
        channels=3,
        classes=CAMVID_CLASSES if options.classes == "camvid" else CITYSCAPES_CLASSES,
        parts={split: InMemory(Gtav(records, options)) for split, records in parts.items()},
        digest=digest_of("gtav", asdict(options), sizes_by_split(parts)),
    )


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Every problem of every pair and of split.mat, found in one pass.

    Notes: splits that are smaller than published, frames in no split, maps without a class.
    """
    faults: list[Problem] = []
    try:
        root = existing_root(root, "gtav", Gtav.how_to_get)
        parts, problems = _survey(
            root, options, lambda error: faults.append(as_problem(error, str(root)))
        )
    except RlsegError as error:
        return [as_problem(error, str(root))]
    problems = faults + problems
    for split, records in parts.items():
        problems += check_class_maps(Gtav(records, options), split, advance)
    return problems


def read_split_mat(path: Path) -> dict[str, tuple[str, ...]]:
    """Split -> names of its frames, from the authors' file.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: too large, unreadable, or without the three lists of whole numbers.
    """
    if not path.is_file():
        raise DatasetNotFoundError(
            f"{path}: no such file; it says which frame belongs to which split. {Gtav.how_to_get} "
            "Or set the data set option splits to 'seeded' for a division of our own"
        )
    arrays = read_number_arrays(path, VARIABLES.values(), max_bytes=MAX_SPLIT_BYTES)
    return {split: _frame_names(path, name, arrays[name]) for split, name in VARIABLES.items()}


def _frame_names(path: Path, name: str, numbers: NDArray[np.float64]) -> tuple[str, ...]:
    sound = np.isfinite(numbers) & (numbers == np.floor(numbers)) & (numbers > 0)
    if not len(numbers) or not sound.all() or (numbers >= 10**DIGITS).any():
        raise CorruptDatasetError(f"{path}: {name} is not a list of frame numbers")
    names = tuple(f"{int(number):0{DIGITS}d}" for number in numbers)
    if len(set(names)) < len(names):
        raise CorruptDatasetError(f"{path}: {name} names a frame twice")
    return names


def _survey(
    root: Path, options: Options, on_error: OnError
) -> tuple[dict[str, list[Record]], list[Problem]]:
    """Split -> complete pairs, and what is incomplete, smaller than published, or left out.

    Args:
        root: of the data set.
        options: its settings.
        on_error: told of a split.mat that is missing or damaged. Goes it on, all frames are in one
            split, "all".

    Raises:
        DatasetNotFoundError: no image.
    """
    base = Gtav.files.find(root, ("",))
    if base is None:
        raise Gtav.files.not_found(root, "gtav", Gtav.how_to_get)
    records, problems = Gtav.files.survey(base, "", root)
    unusable = set(committed_ids("gtav", "mismatched"))
    frames = {record.name: record for record in records if record.name not in unusable}
    try:
        names = _names_by_split(root, base, list(frames), options)
    except RlsegError as error:
        on_error(error)
        return {"all": list(frames.values())}, problems
    parts = {
        split: [frames[name] for name in sorted(wanted) if name in frames]
        for split, wanted in names.items()
    }
    for split, wanted in names.items():
        usable = len(set(wanted) - unusable)
        published = usable if options.splits == "published" else PUBLISHED[split]
        problems += fewer_than_published(split, len(parts[split]), published)
    placed = {name for wanted in names.values() for name in wanted}
    loose = sorted(set(frames) - placed)
    if loose:
        what = f"names no split for {len(loose)} frames: {listed(loose)}; left out"
        problems.append(Problem(where=str(base / SPLIT_FILE), what=what, note=True))
    return {split: found for split, found in parts.items() if found}, problems


def _names_by_split(
    root: Path, base: Path, frames: list[str], options: Options
) -> Mapping[str, tuple[str, ...] | set[str]]:
    if options.splits == "published":
        names = read_split_mat(inside(base / SPLIT_FILE, root))
        if len({n for wanted in names.values() for n in wanted}) < sum(map(len, names.values())):
            raise CorruptDatasetError(
                f"{base / SPLIT_FILE}: a frame is in two splits; replace the file"
            )
        return names
    shares = tuple(PUBLISHED.values())
    return dict(zip(PUBLISHED, divide(frames, shares, "gtav", options.seed), strict=True))
