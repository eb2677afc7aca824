"""Pairs of a colour picture and a class map, read from files; what semantic data sets share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from rlseg.data.base import Advance, Problem, faults_of, image_notes
from rlseg.data.images import check_same_size, read_label_array, read_levels
from rlseg.data.layout import Record
from rlseg.data.levels import to_unit
from rlseg.data.memory import PackedSample
from rlseg.data.samples import SemanticSample
from rlseg.data.semantic_classes import VOID, ClassTable, narrow_classes
from rlseg.errors import CorruptDatasetError, RlsegError


class ClassMaps:
    """Records with the files `image` and `labels` as semantic samples.

    Args:
        records: one per sample.
        table: what the ids of the label files stand for.
    """

    def __init__(self, records: Sequence[Record], table: ClassTable) -> None:
        self.records, self.table = list(records), table

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.records)

    def __getitem__(self, index: int) -> SemanticSample:
        """Pair `index`, read from its two files: image float32 [3, H, W], classes int64 [H, W]."""
        return self.packed(index).whole()

    def packed(self, index: int) -> PackedSample[SemanticSample]:
        """Pair `index` in the types of its files."""
        record = self.records[index]
        image_path, labels_path = record.files["image"], record.files["labels"]
        classes = _read_classes(labels_path, self.table)
        image, scale = _read_colours(image_path)
        check_same_size(image, classes, str(image_path), str(labels_path))
        return PackedSample(
            image=image, scale=scale, labels=classes, valid=None, name=record.name, semantic=True
        )

    def readers(self, index: int) -> dict[str, Callable[[], object]]:
        """Path of the picture and of the class map of pair `index` -> what reads it alone."""
        image_path, labels_path = (self.records[index].files[role] for role in ("image", "labels"))
        return {
            str(image_path): lambda: _read_colours(image_path),
            str(labels_path): lambda: _read_classes(labels_path, self.table),
        }


def read_picture(path: Path) -> Tensor:
    """A colour picture float32 [3, H, W] in [0, 1]; grey is repeated.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, or several frames.
    """
    return to_unit(*_read_colours(path))


def _read_colours(path: Path) -> tuple[Tensor, int]:
    """Levels [3, H, W] and what they are divided by."""
    image, scale = read_levels(path, channels=3)
    if image.ndim != 3:
        raise CorruptDatasetError(f"{path}: {image.shape[1]} frames where one is expected")
    return image, scale


def read_class_map(path: Path, table: ClassTable) -> Tensor:
    """The class map int64 [H, W] of a label image; palettes keep their indices.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, in colour, several frames, or with ids unheard of.
    """
    return _read_classes(path, table).long()


def _read_classes(path: Path, table: ClassTable) -> Tensor:
    """Classes uint8 [H, W]."""
    ids = read_label_array(path)
    if ids.ndim != 2:
        raise CorruptDatasetError(f"{path}: {ids.shape[0]} frames where one is expected")
    return narrow_classes(ids, table, str(path))


def check_class_maps(dataset: ClassMaps, split: str, advance: Advance | None) -> list[Problem]:
    """One problem per file that cannot be read; a note where no pixel has a class."""
    problems: list[Problem] = []
    for index, record in enumerate(dataset.records):
        try:
            sample = dataset[index]
        except RlsegError as error:
            problems += faults_of(error, dataset.readers(index).values(), f"split {split}")
        else:
            problems += image_notes(record.files["image"])
            if bool((sample.classes == VOID).all()):
                what = "no pixel has a class; the pair teaches and counts nothing"
                where = str(record.files["labels"])
                problems.append(Problem(where=where, what=what, note=True))
        if advance is not None:
            advance(split, index + 1, len(dataset))
    return problems


def fewer_than_published(split: str, found: int, published: int) -> list[Problem]:
    """A note that a split is a subset of what was published; empty if it is not."""
    if found >= published:
        return []
    what = f"{found} of the {published} published images; scores do not compare with published ones"
    return [Problem(where=f"split {split}", what=what, note=True)]


def sizes_by_split(parts: Mapping[str, Sequence[Record]]) -> dict[str, list[tuple[str, list[int]]]]:
    """Name and file sizes of every record of every split, for the digest."""
    return {
        split: [(r.name, [path.stat().st_size for path in r.files.values()]) for r in records]
        for split, records in parts.items()
    }
