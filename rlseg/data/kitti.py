"""KITTI cars as Ren and Zemel's code keeps them: images, one colour per car, and lists of ids.

This is not KITTI's instance benchmark of 200 images. Training labels are Chen and others' automatic
ones (CVPR 2014), coarse and incomplete; validation and test labels are drawn by people (Zhang and
others, ICCV 2015 and CVPR 2016). Which image is in which split says a list in the user's folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from rlseg.data.base import (
    Advance,
    Problem,
    Splits,
    as_problem,
    contents,
    digest_of,
    existing_root,
    listed,
    raise_first,
    try_samples,
    warn,
)
from rlseg.data.images import check_same_size, read_image, read_label_array
from rlseg.data.labels import from_array
from rlseg.data.layout import Record
from rlseg.data.links import inside, not_a_file, path_fault
from rlseg.data.list_files import numbered_lines
from rlseg.data.memory import InMemory
from rlseg.data.samples import InstanceSample
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError, RlsegError, show

__all__ = ["DATASET", "Kitti", "Options", "check", "open_splits"]

LISTS = {
    "train": ("train.txt",),
    "valid": ("valid_man.txt", "valid.txt", "val.txt"),
    "test": ("test_man.txt", "test.txt"),
}
"""Split -> names of its list; the first that is there counts."""
PUBLISHED = {"train": 3712, "valid": 144, "test": 120}
"""Images per split (Ren and Zemel; the same in ACIS and ColorRL)."""
IMAGES, LABELS, LABELS_BY_HAND = "images", "gt", "gt_man"
MAX_DIGITS = 6  # of the numbers in the lists, as in file names

needs_root = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the car images."""

    by_hand: bool = True
    """Where gt_man holds labels of a training image, use these (ACIS); false: those of gt (Ren and
    Zemel). Validation and test images always take them from there if they are there."""


class Kitti:
    """Colour images with cars; labels are grey values or colours, 0 or black = background."""

    layout: ClassVar[str] = (
        f"{IMAGES}/NNNNNN.png, {LABELS}/NNNNNN.png with one grey value or colour per car, and "
        f"train.txt, valid.txt, test.txt with one number per line; perhaps {LABELS_BY_HAND}/"
        "NNNNNN.png for labels drawn by people, with valid_man.txt and test_man.txt"
    )
    splits: ClassVar[tuple[str, ...]] = tuple(LISTS)
    classes: ClassVar[tuple[str, ...]] = ()
    citation: ClassVar[str] = (
        "Geiger, Lenz, Urtasun, CVPR 2012; labels: Chen, Fidler, Yuille, Urtasun, CVPR 2014, and "
        "Zhang, Schwing, Fidler, Urtasun, ICCV 2015; split: Ren, Zemel, CVPR 2017"
    )
    how_to_get: ClassVar[str] = (
        "Images: left colour images of the object benchmark, cvlibs.net/datasets/kitti; labels and "
        "lists: by way of github.com/renmengye/rec-attend-public and github.com/visinf/acis."
    )
    terms: ClassVar[str] = "CC BY-NC-SA 3.0: not for commercial use."

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        """Number of images."""
        return len(self.records)

    def __getitem__(self, index: int) -> InstanceSample:
        """Image `index` with its cars, numbered by their values."""
        record = self.records[index]
        image_path, labels_path = record.files["image"], record.files["labels"]
        image = read_image(image_path, channels=3)
        labels, valid = _read_cars(labels_path)
        check_same_size(image, labels, str(image_path), str(labels_path))
        return InstanceSample(image=image, labels=labels, valid=valid, name=record.name)

    def readers(self, index: int) -> dict[str, Callable[[], object]]:
        """Path of image `index` and of its labels -> what reads it alone."""
        image_path, labels_path = (self.records[index].files[role] for role in ("image", "labels"))
        return {
            str(image_path): lambda: read_image(image_path, channels=3),
            str(labels_path): lambda: _read_cars(labels_path),
        }


def _read_cars(path: Path) -> tuple[Tensor, Tensor]:
    """Labels int64 [H, W] numbered by their values, and known pixels bool [H, W].

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, several frames, or no ids.
    """
    labels, valid = from_array(read_label_array(path, encoding="rgb24"), str(path))
    if labels.ndim != 2:
        raise CorruptDatasetError(f"{path}: {labels.shape[0]} frames where one is expected")
    return labels, valid


DATASET = Kitti
"""The class that declares the data set."""


def open_splits(root: Path | None, options: Options) -> Splits:
    """The splits with a list in `root`; fewer images than listed or published are a warning.

    Raises:
        DatasetNotFoundError: no lists or no images; says what was looked for and found.
        CorruptDatasetError: an image without labels or the reverse, a list that cannot be used.
    """
    root = existing_root(root, "kitti", Kitti.how_to_get)
    found, problems, notes = _survey(root, options)
    raise_first(problems)
    if not found:
        raise DatasetNotFoundError(
            f"no image of the lists in {root} is there: looked for {root / IMAGES}/NNNNNN.png; "
            f"found {contents(root)}. {Kitti.how_to_get}"
        )
    warn(notes)
    return Splits(
        dataset="kitti",
        task="instance",
        ndim=2,
        channels=3,
        parts={split: InMemory(Kitti(records)) for split, records in found.items()},
        digest=digest_of(
            "kitti",
            asdict(options),
            {
                split: [(r.name, r.files["labels"].parent.name, _sizes(r)) for r in records]
                for split, records in found.items()
            },
        ),
    )


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Every problem of every list, image and label file, found in one pass.

    Notes: images that are listed or published but not there, and files in no list.
    """
    try:
        root = existing_root(root, "kitti", Kitti.how_to_get)
        found, problems, notes = _survey(root, options)
    except RlsegError as error:
        return [as_problem(error, str(root))]
    problems += notes
    for split, records in found.items():
        problems += try_samples(Kitti(records), split, advance)
    if not found and all(problem.note for problem in problems):
        what = f"no image of the lists is there. {Kitti.how_to_get}"
        problems.append(Problem(where=str(root), what=what))
    return problems


def _sizes(record: Record) -> list[int]:
    return [path.stat().st_size for path in record.files.values()]


def _survey(
    root: Path, options: Options
) -> tuple[dict[str, list[Record]], list[Problem], list[Problem]]:
    """Split -> complete records; what is broken; what is merely less than it could be.

    Raises:
        DatasetNotFoundError: no list.
    """
    lists = {
        split: path
        for split, names in LISTS.items()
        if (path := next((root / n for n in names if os.path.lexists(root / n)), None)) is not None
    }
    if not lists:
        wanted = ", ".join(name for names in LISTS.values() for name in names)
        raise DatasetNotFoundError(
            f"no lists of KITTI images at {root}: looked for {wanted}; found {contents(root)}. "
            f"{Kitti.how_to_get}"
        )
    found: dict[str, list[Record]] = {}
    problems: list[Problem] = []
    notes: list[Problem] = []
    place: dict[int, str] = {}
    for split, path in lists.items():
        ids, faults = _read_list(path, root)
        problems += faults
        records: list[Record] = []
        absent: list[str] = []
        for number, line in ids.items():
            here = f"{path}, line {line}"
            if number in place:
                what = f"{number} is in {place[number]} too; what is learnt must not be scored"
                problems.append(Problem(where=here, what=what))
                continue
            place[number] = here
            record, problem = _record(root, number, split, options)
            if record is not None:
                records.append(record)
            elif problem is not None:
                problems += [problem] if problem not in problems else []  # a folder, once
            else:
                absent.append(f"{number:06d}")
        if absent:
            what = f"{len(absent)} listed images are not there ({listed(absent)}); left out"
            notes.append(Problem(where=str(path), what=what, note=True))
        if len(records) < PUBLISHED[split]:
            what = f"{len(records)} of the {PUBLISHED[split]} published images"
            notes.append(Problem(where=str(path), what=what, note=True))
        if records:
            found[split] = records
    for split in LISTS.keys() - lists.keys():
        what = f"no list {LISTS[split][-1]} in {root}; the other splits can be used"
        notes.append(Problem(where=f"split {split}", what=what, note=True))
    return found, problems, [*notes, *_unlisted(root, place)]


def _record(
    root: Path, number: int, split: str, options: Options
) -> tuple[Record | None, Problem | None]:
    """The complete pair, or the problem of half a pair, or neither if both files are absent."""
    name = f"{number:06d}"
    image, labels, by_hand = (
        root / folder / f"{name}.png" for folder in (IMAGES, LABELS, LABELS_BY_HAND)
    )
    if os.path.lexists(by_hand) and (split != "train" or options.by_hand):
        labels = by_hand
    for path in (image, labels):
        fault = path_fault(path, root)
        if fault is not None:
            return None, Problem(where=str(fault[0]), what=fault[1])
        what = not_a_file(path) if os.path.lexists(path) else None
        if what is not None:
            return None, Problem(where=str(path), what=what)
    if image.is_file() and labels.is_file():
        return Record(name=name, files={"image": image, "labels": labels}), None
    if image.is_file():
        return None, Problem(where=str(image), what=f"no labels for it; expected {labels}")
    if labels.is_file():
        return None, Problem(where=str(labels), what=f"no image for it; expected {image}")
    return None, None


def _unlisted(root: Path, listed_ids: Iterable[int]) -> list[Problem]:
    folder = root / IMAGES
    if not folder.is_dir() or path_fault(folder, root) is not None:
        return []
    names = {f"{number:06d}" for number in listed_ids}
    others = sorted(path.name for path in folder.glob("*.png") if path.stem not in names)
    if not others:
        return []
    what = f"{len(others)} images are in no list ({listed(others)}) and are not used"
    return [Problem(where=str(folder), what=what, note=True)]


def _read_list(path: Path, root: Path) -> tuple[dict[int, int], list[Problem]]:
    """Ids of a list and their lines, in the order of the file, and the lines that are none."""
    ids: dict[int, int] = {}
    problems: list[Problem] = []
    try:
        lines = numbered_lines(inside(path, root))
    except RlsegError as error:
        return {}, [as_problem(error, str(path))]
    for line, word in lines:
        where = f"{path}, line {line}"
        if not (word.isascii() and word.isdecimal() and len(word) <= MAX_DIGITS):
            what = f"expected a number of up to {MAX_DIGITS} digits, got {show(word)}; correct it"
            problems.append(Problem(where=where, what=what))
        elif int(word) in ids:
            what = f"{int(word)} is in line {ids[int(word)]} too; remove one of them"
            problems.append(Problem(where=where, what=what))
        else:
            ids[int(word)] = line
    return ids, problems
