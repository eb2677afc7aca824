"""Image ids by file name: the `images` (and `categories`) of a COCO-style JSON file.

Both the Places Challenge's `imgCatIds.json` and any COCO annotation file are such tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rlseg.data.base import listed
from rlseg.data.columns import (
    column,
    complaint,
    in_order,
    objects,
    repeated,
    shown,
    whole_numbers,
)
from rlseg.errors import ConfigError, CorruptDatasetError, Reason
from rlseg.files import load_json

__all__ = ["ImageEntry", "ImageTable", "read_image_table"]


@dataclass(frozen=True, kw_only=True)
class ImageEntry:
    """One image of a table."""

    id: int
    file_name: str
    """As the table has it: a name, or a path."""
    height: int
    width: int

    @property
    def name(self) -> str:
        """File name without folders."""
        return PurePosixPath(self.file_name).name


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """Images with their ids, and names of categories."""

    where: str
    """The file, for messages."""
    images: Sequence[ImageEntry]
    categories: Mapping[int, str]
    """Category id -> name; empty if the file lists none."""
    names: Mapping[str, tuple[ImageEntry, ...]]
    """File name without folders -> images of that name."""
    stems: Mapping[str, tuple[ImageEntry, ...]]
    """File name without folders and ending -> images of that name."""

    def find(self, name: str) -> ImageEntry:
        """The image of a file name, or else of the same name with another ending (X.png, X.jpg).

        Args:
            name: file name without folders.

        Raises:
            ConfigError: no such image, or several.
        """
        found = self.names.get(name) or self.stems.get(PurePosixPath(name).stem) or ()
        if not found:
            raise ConfigError(
                f"{name}: {self.where} lists no image of this name, with whatever ending; rename "
                "the file, or name another table with --images-json"
            )
        if len(found) > 1:
            several = listed(entry.file_name for entry in found)
            raise ConfigError(
                f"{name}: {self.where} lists {len(found)} images of this name: {several}; "
                "the id is ambiguous: rename files and entries"
            )
        return found[0]


def read_image_table(path: Path) -> ImageTable:
    """The images and categories of a COCO-style JSON file; anything else in it is ignored.

    Args:
        path: an object with `images`, a list of {"id", "file_name", "height", "width"}, and
            perhaps `categories`, a list of {"id", "name"}.

    Raises:
        ConfigError: no such file.
        CorruptDatasetError: not such a table; lists up to 10 places and reasons.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; wanted a table of images with their ids")
    content = load_json(path, error_type=CorruptDatasetError)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise CorruptDatasetError(
            f"{path}: expected an object with a list `images` of id, file_name, height and width"
        )
    reasons: list[Reason] = []
    entries = _entries(content["images"], "images", "file_name", ("height", "width"), reasons)
    images = [
        ImageEntry(id=number, file_name=name, height=height, width=width)
        for number, name, (height, width) in entries
    ]
    listed_categories = content.get("categories", [])
    if not isinstance(listed_categories, list):
        what = f"expected a list, got {shown(listed_categories)}"
        reasons.append(Reason(None, "", what, "categories"))
        listed_categories = []
    categories = {
        number: name
        for number, name, _ in _entries(listed_categories, "categories", "name", (), reasons)
    }
    if reasons:
        raise CorruptDatasetError(complaint(str(path), reasons))
    return ImageTable(
        where=str(path),
        images=tuple(images),
        categories=categories,
        names=_grouped(images, lambda entry: entry.name),
        stems=_grouped(images, lambda entry: PurePosixPath(entry.name).stem),
    )


def _entries(
    items: Sequence[object], part: str, text: str, sides: Sequence[str], reasons: list[Reason]
) -> list[tuple[int, str, tuple[int, ...]]]:
    """Id, text and sides of every entry, which stand for nothing once there are `reasons`."""
    found, broken = objects(items, part)
    ids, right, wrong = whole_numbers(column(found, "id"), "id", part, low=0)
    wrong += repeated(ids, right, "id", part)
    lengths = []
    for side in sides:
        length, _, faults = whole_numbers(column(found, side), side, part, low=1)
        lengths.append(length.tolist())
        wrong += faults
    names = column(found, text)
    wrong += [
        Reason(k, text, f"expected a text that is not empty, got {shown(name)}", part)
        for k, name in enumerate(names)
        if not isinstance(name, str) or not name
    ]
    reasons += in_order(broken, wrong)
    pairs = zip(*lengths, strict=True) if sides else [()] * len(found)
    return list(zip(ids.tolist(), map(str, names), pairs, strict=True))


def _grouped(
    images: Sequence[ImageEntry], key: Callable[[ImageEntry], str]
) -> dict[str, tuple[ImageEntry, ...]]:
    groups: dict[str, list[ImageEntry]] = {}
    for entry in images:
        groups.setdefault(key(entry), []).append(entry)
    return {name: tuple(entries) for name, entries in groups.items()}
