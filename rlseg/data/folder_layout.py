"""Where the images and labels of a user's own folder lie, and which split they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rlseg.data.base import Problem, listed
from rlseg.data.layout import Layout, Record, natural
from rlseg.data.links import link_fault, not_a_file, path_fault
from rlseg.data.seeds import named_generator

if TYPE_CHECKING:
    from rlseg.data.folder import Options

__all__ = ["SPLIT_FOLDERS", "survey_folder"]

SPLIT_FOLDERS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
"""Split -> names of its folder."""
EXTENSIONS = ("png", "tif", "tiff", "jpg", "jpeg", "bmp", "npy", "h5", "hdf5", "hdf")
OTHER_PICTURES = (".webp", ".gif", ".jp2", ".heic", ".avif", ".ppm", ".pgm")
LONG_NAMES = {
    "train": ("training",),
    "valid": ("validation",),
    "val": (),
    "test": ("testing",),
}
"""Name of a split's folder -> names that others give it."""
BESIDE = "_label"  # ends the names of label files that lie beside their images

Survey = tuple[list[Record], list[Problem]]


def survey_folder(
    root: Path, options: Options, how_to_get: str
) -> tuple[dict[str, list[Record]], list[Problem]]:
    """Split -> records, and what is incomplete.

    Tried in this order: two folders below each split, each split below two folders, two folders;
    label files beside their images in a folder per split, and the same in the root. The first that
    has files counts; what lies beside it and looks like data is a note.

    Raises:
        DatasetNotFoundError: none has.
    """
    layouts = _layouts(options)
    words = tuple(word for names in SPLIT_FOLDERS.values() for word in names)
    for layout in layouts[:2]:
        if layout.find(root, words) is not None:
            found, problems = _by_split(root, {word: layout.survey(root, word) for word in words})
            return found, problems + _left_out(root, layouts, layout, words)
    records, problems = layouts[2].survey(root, "")
    if records or problems:
        problems += _left_out(root, layouts, layouts[2], words)
        return _divided(records, options), problems
    surveys = {word: _beside(root / word, root, options) for word in words}
    if any(any(parts) for parts in surveys.values()):
        return _by_split(root, surveys)
    records, problems = _beside(root, root, options)
    if records or problems:
        return _divided(records, options), problems
    raise layouts[2].not_found(root, "folder", how_to_get)


def _left_out(
    root: Path, layouts: Sequence[Layout], used: Layout, words: Sequence[str]
) -> list[Problem]:
    """Notes on what looks like data of the user's and is not read."""
    notes: list[Problem] = []
    for layout in layouts:
        if layout is not used and layout.find(root, words if layout in layouts[:2] else ("",)):
            pattern = layout.patterns["image"]
            what = f"files that are {pattern} lie here too and are not used; move them away"
            notes.append(Problem(where=str(root), what=what, note=True))
    before, _, _ = used.patterns["image"].partition("{split}")
    folder = root / before if used is not layouts[2] else root
    notes += [
        Problem(where=str(path), what=f"not read: {name}; rename it if it is one", note=True)
        for path in sorted(folder.iterdir() if path_fault(folder, root) is None else ())
        if path.is_dir() and (name := _like_a_split(path.name, words))
    ]
    for folder in _image_folders(root, used, words):
        strange = [p.name for p in sorted(folder.iterdir()) if p.suffix.lower() in OTHER_PICTURES]
        if strange:
            what = (
                f"{len(strange)} pictures of a kind that is not read ({listed(strange)}); convert "
                f"them to one of {', '.join(EXTENSIONS)}"
            )
            notes.append(Problem(where=str(folder), what=what, note=True))
    return notes


def _image_folders(root: Path, layout: Layout, words: Sequence[str]) -> list[Path]:
    """The folders of images that are there."""
    folder = layout.patterns["image"].rpartition("/")[0]
    places = [root / folder.replace("{split}", word) for word in words]
    return [
        place
        for place in dict.fromkeys(places)
        if place.is_dir() and path_fault(place, root) is None
    ]


def _like_a_split(name: str, words: Sequence[str]) -> str | None:
    """What to say of a folder that seems to hold a split under another name."""
    for word in words:
        if name != word and name.lower() in (word, *LONG_NAMES[word]):
            return f"the folder of this split is called {word}"
    return None


def _by_split(
    root: Path, surveys: dict[str, Survey]
) -> tuple[dict[str, list[Record]], list[Problem]]:
    found: dict[str, list[Record]] = {}
    problems: list[Problem] = []
    for split, names in SPLIT_FOLDERS.items():
        for name in names:
            records, missing = surveys[name]
            problems += missing
            if records and split in found:
                what = f"both {' and '.join(names)} hold data of split {split!r}; keep one"
                problems.append(Problem(where=str(root), what=what))
            elif records:
                found[split] = records
    return found, problems


def _layouts(options: Options) -> tuple[Layout, Layout, Layout]:
    image, labels = (
        f"{{id}}{suffix}.{{ext}}" for suffix in (options.image_suffix, options.label_suffix)
    )
    inner = f"{options.image_folder}/", f"{options.label_folder}/"
    shapes = [f"{{split}}/{name}" for name in inner], [f"{name}{{split}}/" for name in inner]
    divided, nested, flat = (
        Layout(patterns={"image": a + image, "labels": b + labels}, extensions=EXTENSIONS)
        for a, b in (*shapes, inner)
    )
    return divided, nested, flat


def _beside(folder: Path, root: Path, options: Options) -> Survey:
    """Pairs in one folder: labels end in the suffix, images are all others that end in theirs.

    Without a label file it is no folder of pairs, and nothing is found.
    """
    suffix = options.label_suffix or BESIDE
    files: dict[str, dict[str, Path]] = {"image": {}, "labels": {}}
    problems: list[Problem] = []
    linked = path_fault(folder, root)
    if linked is not None:
        return [], [Problem(where=str(linked[0]), what=linked[1])]
    unusable: set[str] = set()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.suffix.lower().lstrip(".") not in EXTENSIONS:
            continue
        role, end = ("labels", suffix) if path.stem.endswith(suffix) else ("image", "")
        if role == "image":
            end = options.image_suffix
        if not path.stem.endswith(end):
            continue
        name = path.stem.removesuffix(end)
        fault = link_fault(path, root) or not_a_file(path)
        if fault is not None:
            problems.append(Problem(where=str(path), what=fault))
            unusable.add(name)
            continue
        if name in files[role]:
            what = f"stands for the same sample as {files[role][name]}; keep one of them"
            problems.append(Problem(where=str(path), what=what))
        files[role].setdefault(name, path)
    if not files["labels"]:
        return [], problems if unusable else []
    records: list[Record] = []
    for name in sorted({*files["image"], *files["labels"]}, key=lambda name: natural((name,))):
        have = {role: found[name] for role, found in files.items() if name in found}
        if len(have) == 2:
            records.append(Record(name=name, files=have))
            continue
        if name in unusable:
            continue  # a problem already
        role, path = next(iter(have.items()))
        lacking, end = ("labels", suffix) if role == "image" else ("image", options.image_suffix)
        what = f"no {lacking} file for it; expected {folder / (name + end)}.{'|'.join(EXTENSIONS)}"
        problems.append(Problem(where=str(path), what=what))
    return records, problems


def _divided(records: list[Record], options: Options) -> dict[str, list[Record]]:
    """Records shared out at random; every wanted split gets one as long as there are enough."""
    count = len(records)
    generator = named_generator(options.seed, "folder", "split")
    order = torch.randperm(count, generator=generator).tolist()
    wanted = [name for name, share in zip(SPLIT_FOLDERS, options.fractions, strict=True) if share]
    wanted = wanted[:count]
    sizes = {name: 1 for name in wanted}
    shares = dict(zip(SPLIT_FOLDERS, options.fractions, strict=True))
    for _ in range(count - len(wanted)):
        behind = max(wanted, key=lambda name: shares[name] * count - sizes[name])
        sizes[behind] += 1
    result: dict[str, list[Record]] = {}
    for name in wanted:
        mine, order = order[: sizes[name]], order[sizes[name] :]
        result[name] = [records[i] for i in sorted(mine)]
    return result
