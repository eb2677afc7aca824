"""Which JSON files and images make a COCO data set: found by name, never outside their folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import numpy as np

from rlseg.data.base import Problem, contents, listed
from rlseg.data.coco import CocoTruth, read_truth
from rlseg.data.columns import Ints
from rlseg.data.links import inside, link_fault, path_fault
from rlseg.errors import ConfigError, DatasetNotFoundError, show

__all__ = [
    "CocoFile",
    "CocoImage",
    "CocoPart",
    "MissingImages",
    "find_files",
    "read_part",
    "unlisted",
]

WORDS = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
"""Beginning of the word for a split in file names -> split."""
ONE_FILE = "annotations.json"
EXPORTED = "_annotations.coco.json"  # name that a common annotation service gives it, per split
MissingImages = Literal["error", "leave_out"]
"""What to do with images of a file that are not there."""
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")

_BY_SPLIT = re.compile(rf"instances_((?:{'|'.join(WORDS)})[^./]*)\.json")


@dataclass(frozen=True, kw_only=True)
class CocoFile:
    """A JSON file, and where its images may lie."""

    path: Path
    root: Path
    """Of the data set: links may not leave it."""
    split: str | None
    """None = the only file, with the images of all splits."""
    folders: tuple[Path, ...]
    """Folders in which its file names are looked up, in this order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoImage:
    """One image with its annotations."""

    name: str
    """File name without ending, `/` as `_`; unique in its file."""
    path: Path
    size: tuple[int, int]
    """Height and width by the JSON file."""
    annotations: Ints
    """int64, places of its annotations in the truth, in the order of the file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoPart:
    """What one JSON file says, and the images found for it."""

    file: CocoFile
    truth: CocoTruth
    images: tuple[CocoImage, ...]
    """Those that are there, in ascending order of their ids."""
    problems: tuple[Problem, ...]


def find_files(root: Path, annotations: str, how_to_get: str) -> list[CocoFile]:
    """The JSON files of a data set: one per split, or one.

    Args:
        root: folder of the data set.
        annotations: path below the root of the only file; empty = found by name.
        how_to_get: for the message.

    Raises:
        DatasetNotFoundError: none; says what was looked for and found.
        ConfigError: it is not clear which one.
    """
    if annotations:
        path = root / annotations
        if not path.is_file():
            raise DatasetNotFoundError(f"{path}: no such file (data set option annotations)")
        return [_single(root, path)]
    places = (root, root / "annotations")
    found: dict[str, CocoFile] = {}
    for path, word in _by_split(root, places):
        split = next(split for begin, split in WORDS.items() if word.startswith(begin))
        folders = (root / word, root / "images" / word, path.parent, root / "images", root)
        if split in found:
            raise ConfigError(
                f"{found[split].path} and {path} both hold split {split!r}; keep one of them, or "
                "name the one to read (data set option annotations)"
            )
        found[split] = CocoFile(path=path, root=root, split=split, folders=_different(folders))
    if found:
        return [found[split] for split in dict.fromkeys(WORDS.values()) if split in found]
    single = [place / ONE_FILE for place in places if (place / ONE_FILE).is_file()]
    others = sorted(path for path in root.glob("*.json") if path.is_file())
    if single or len(others) == 1:
        return [_single(root, (single or others)[0])]
    if others:
        raise ConfigError(
            f"{root} holds {len(others)} JSON files ({listed(path.name for path in others)}); name "
            f"the one to read (data set option annotations), or call it {ONE_FILE}"
        )
    raise DatasetNotFoundError(
        f"no JSON file of a COCO data set in {root} or its folder annotations: looked for "
        f"instances_train.json (valid, val, test), {ONE_FILE} and *.json; found {contents(root)}. "
        f"{how_to_get}"
    )


def _single(root: Path, path: Path) -> CocoFile:
    folders = (path.parent, path.parent / "images", root / "images", root)
    # Where a setting names a file elsewhere, its own folder is the border.
    border = root if path.is_relative_to(root) else path.parent
    return CocoFile(path=path, root=border, split=None, folders=_different(folders))


def _different(folders: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(folders))


def _by_split(root: Path, places: Sequence[Path]) -> list[tuple[Path, str]]:
    """Files that belong to one split by their names, and the word for the split."""
    found = []
    for place in places:
        for path in sorted(place.glob("*.json")) if place.is_dir() else ():
            match = _BY_SPLIT.fullmatch(path.name)
            if match and path.is_file():
                found.append((path, match[1]))
    found += [(root / word / EXPORTED, word) for word in WORDS]
    return [(path, word) for path, word in found if path.is_file()]


def read_part(
    file: CocoFile, categories: Sequence[str] = (), *, missing_images: MissingImages = "error"
) -> CocoPart:
    """The content of a JSON file, checked, with the images it names.

    Args:
        file: from `find_files`.
        categories: names of those whose annotations are kept; empty = all.
        missing_images: "error", or "leave_out": an image that is not there is a note.

    Raises:
        CorruptDatasetError: unreadable, or not such a data set.
        ConfigError: a category that the file does not have.
    """
    truth = read_truth(inside(file.path, file.root))
    kept = np.isin(truth.category, _category_ids(truth, categories, file.path))
    places = np.flatnonzero(kept)
    places = places[np.argsort(truth.image[places], kind="stable")]
    bounds = np.searchsorted(truth.image[places], np.append(truth.image_ids, np.iinfo("i8").max))
    names = _names(truth.image_names)
    images, problems, owner, said = [], [], dict[str, int](), set[str]()
    for k, file_name in enumerate(truth.image_names):
        number = int(truth.image_ids[k])
        where = f"{file.path}: image {number}"
        other = owner.setdefault(names[k], number)
        if other != number:
            what = f"file_name {show(file_name)} is also that of image {other}; rename one"
            problems.append(Problem(where=where, what=what))
            continue
        path, what = _found(file_name, file)
        if path is None:
            note = missing_images == "leave_out" and _inside(file_name)
            if what not in said:  # a linked folder, once
                problems.append(Problem(where=where, what=what, note=note))
            said.add(what)
            continue
        height, width = truth.image_sizes[k].tolist()
        images.append(
            CocoImage(
                name=names[k],
                path=path,
                size=(height, width),
                annotations=places[bounds[k] : bounds[k + 1]],
            )
        )
    return CocoPart(file=file, truth=truth, images=tuple(images), problems=tuple(problems))


def _category_ids(truth: CocoTruth, names: Sequence[str], path: Path) -> Ints:
    strange = [name for name in names if name not in truth.category_names]
    if strange:
        raise ConfigError(
            f"{path}: no category {listed(strange)}; it has {listed(truth.category_names)} "
            "(data set option categories)"
        )
    chosen = [not names or name in names for name in truth.category_names]
    return truth.category_ids[np.array(chosen, dtype=np.bool_)]


def _names(file_names: Sequence[str]) -> list[str]:
    """Names without endings, where these are different from each other; else with them."""
    flat = [name.replace("/", "_") for name in file_names]
    short = [PurePosixPath(name).stem for name in flat]
    return short if len(set(short)) == len(short) else flat


def _inside(file_name: str) -> bool:
    """Whether a name is that of a file below the folder it is looked up in, on any system."""
    posix, windows = PurePosixPath(file_name), PureWindowsPath(file_name)
    rooted = posix.is_absolute() or bool(windows.drive or windows.root)
    named = posix.name != "" and "\0" not in file_name
    return named and not rooted and ".." not in {*posix.parts, *windows.parts}


def _found(file_name: str, file: CocoFile) -> tuple[Path | None, str]:
    """The file of that name, or why there is none to read."""
    if not _inside(file_name):
        return None, (
            f"file_name {show(file_name)} is no path below the folder of the images; correct it"
        )
    for folder in file.folders:
        path = folder / file_name
        try:
            fault = path_fault(path, file.root)
            if fault is not None:
                return None, f"{fault[0]} is {fault[1]}"
            if not path.is_file():
                continue
        except OSError as error:  # a name longer than the system allows, for example
            return None, f"file_name {show(file_name)}: {error.strerror}"
        return path, ""
    return None, f"file_name {show(file_name)}: no such file in {listed(file.folders)}"


def unlisted(parts: Sequence[CocoPart]) -> list[Path]:
    """Pictures that lie beside those of the files and that none of the files names."""
    named = {image.path for part in parts for image in part.images}
    return [
        path
        for folder in sorted({path.parent for path in named})
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in PICTURES
        and path.is_file()
        and path not in named
        # What a link out of the root leads to is a problem already.
        and all(link_fault(path, part.file.root) is None for part in parts)
    ]
