"""Cityscapes: street scenes of 50 cities with classes (19) or instances (8 kinds of things)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from rlseg.data.active_lists import read_active_lists
from rlseg.data.base import (
    Advance,
    Problem,
    Splits,
    as_problem,
    digest_of,
    existing_root,
    listed,
    raise_first,
    try_samples,
    warn,
)
from rlseg.data.class_maps import (
    ClassMaps,
    check_class_maps,
    fewer_than_published,
    read_picture,
    sizes_by_split,
)
from rlseg.data.idlists import committed_ids, divide
from rlseg.data.images import check_same_size, read_label_array
from rlseg.data.labels import from_array
from rlseg.data.layout import Layout, Record
from rlseg.data.links import inside
from rlseg.data.memory import InMemory
from rlseg.data.samples import InstanceSample
from rlseg.data.semantic_classes import (
    CITYSCAPES_CLASSES,
    CITYSCAPES_IDS,
    CITYSCAPES_TABLE,
    CITYSCAPES_THINGS,
    VOID,
)
from rlseg.errors import ConfigError, CorruptDatasetError, RlsegError

__all__ = ["DATASET", "Cityscapes", "CityscapesInstances", "Options", "check", "open_splits"]

FOLDERS = {"train": "train", "valid": "val", "test": "test"}
"""Name of a split -> its folder."""
PUBLISHED = {"train": 2975, "valid": 500, "test": 1525}
"""Images with fine labels; those of `test` hold no classes."""
ACTIVE_PUBLISHED = {"D_S": 10, "D_T": 150, "D_R": 200, "D_V": 2615, "test": 500}
"""Images of each split of active learning; all but `test` come from the train folder."""
IMAGE_END = "_leftImg8bit.png"
PER_CLASS = 1000  # instance number k of label id c is stored as 1000 c + k

needs_root = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of Cityscapes."""

    task: Literal["semantic", "instance"] = "semantic"
    """"semantic" = 19 classes from `labelIds` files; "instance" = things from `instanceIds`."""
    splits: Literal["plain", "active"] = "plain"
    """"plain" = train, valid and test by folder; "active" = D_S, D_T, D_R, D_V out of the train
    folder as for RALIS, and test, which is the val folder."""
    seed: int = 0
    """Seed of D_T, D_R and D_V; D_S is that of RALIS and in no other split."""
    lists: str = ""
    """JSON file or folder of text files with the names in D_S, D_T, D_R, D_V, for example those of
    the RALIS authors; relative to the root. Empty = by the seed."""

    def __post_init__(self) -> None:
        if self.splits == "plain" and (self.lists or self.seed):
            raise ConfigError("lists and seed belong to active splits; set splits to 'active' too")
        if self.splits == "active" and self.task == "instance":
            raise ConfigError(
                "active learning labels classes; set task to 'semantic' or splits to 'plain'"
            )


class Cityscapes(ClassMaps):
    """Street scenes with 19 classes; every other label becomes 255."""

    layout: ClassVar[str] = (
        "leftImg8bit/<folder>/<city>/<city>_<n>_<n>_leftImg8bit.png and gtFine/<folder>/<city>/"
        "<city>_<n>_<n>_gtFine_labelIds.png (task semantic) or ..._gtFine_instanceIds.png (task "
        "instance), <folder> = train, val, test; fewer images than published are a warning"
    )
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test", "D_S", "D_T", "D_R", "D_V")
    classes: ClassVar[tuple[str, ...]] = CITYSCAPES_CLASSES
    citation: ClassVar[str] = (
        "Cordts et al., The Cityscapes dataset for semantic urban scene understanding, CVPR 2016; "
        "D_S to D_V: Casanova, Pinheiro, Rostamzadeh, Pal, Reinforced active learning, ICLR 2020"
    )
    how_to_get: ClassVar[str] = (
        "Register at cityscapes-dataset.com, download leftImg8bit_trainvaltest.zip and "
        "gtFine_trainvaltest.zip, and unpack both into one folder."
    )
    terms: ClassVar[str] = (
        "Non-commercial research; neither the data nor changed versions may be passed on."
    )

    def __init__(self, records: list[Record]) -> None:
        super().__init__(records, CITYSCAPES_TABLE)


class CityscapesInstances:
    """Street scenes with an instance number per pixel of the 8 kinds of things.

    Unknown (`valid` False) are groups, which have a class but no number, and all labels that the
    evaluation of Cityscapes leaves out (its classes other than the 19).
    """

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        """Number of images."""
        return len(self.records)

    def __getitem__(self, index: int) -> InstanceSample:
        """Image `index` with its instances, numbered by class and then by their number."""
        record = self.records[index]
        ids, numbered, valid = self._read(index)
        labels, _ = from_array(np.where(numbered, ids, 0), str(record.files["labels"]))
        image = read_picture(record.files["image"])
        check_same_size(image, labels, str(record.files["image"]), str(record.files["labels"]))
        return InstanceSample(
            image=image, labels=labels, valid=torch.from_numpy(valid), name=record.name
        )

    def readers(self, index: int) -> dict[str, Callable[[], object]]:
        """Path of image `index` and of its labels -> what reads it alone."""
        image_path, labels_path = (self.records[index].files[role] for role in ("image", "labels"))
        return {
            str(image_path): lambda: read_picture(image_path),
            str(labels_path): lambda: self._read(index),
        }

    def categories(self, index: int) -> Tensor:
        """Train id of each instance of image `index`, in the order of its labels: int64 [N]."""
        ids, numbered, _ = self._read(index)
        label_ids = np.unique(ids[numbered]) // PER_CLASS
        return torch.from_numpy(CITYSCAPES_TABLE[label_ids].astype(np.int64))

    def _read(self, index: int) -> tuple[Any, Any, Any]:
        """The ids int64 [H, W] of a file, which of them are things with a number, and which count.

        Raises:
            CorruptDatasetError: an id unheard of.
        """
        path = self.records[index].files["labels"]
        array = read_label_array(path)
        if array.ndim != 2 or array.dtype.kind not in "ui":
            raise CorruptDatasetError(
                f"{path}: type {array.dtype} with {array.ndim} axes; expected whole numbers [H, W]"
            )
        ids = array.astype(np.int64)
        label_ids = np.where(ids >= PER_CLASS, ids // PER_CLASS, ids)
        strange = ~np.isin(label_ids, CITYSCAPES_IDS)
        if strange.any():
            row, column = (int(i) for i in np.argwhere(strange)[0])
            raise CorruptDatasetError(
                f"{path}: id {ids[row, column]} at ({row}, {column}) stands for no label "
                f"({int(strange.sum())} such pixels); ids are a label id or 1000 times it plus a "
                "number: replace the file"
            )
        thing = np.isin(label_ids, CITYSCAPES_THINGS)
        numbered = thing & (ids >= PER_CLASS)
        valid = np.where(thing, numbered, CITYSCAPES_TABLE[label_ids] != VOID)
        return ids, numbered, valid


DATASET = Cityscapes
"""The class that declares the data set."""


def open_splits(root: Path | None, options: Options) -> Splits:
    """The splits whose files lie below `root`; fewer images than published are a logged warning.

    Raises:
        DatasetNotFoundError: no images, or no lists; says what was looked for and found.
        CorruptDatasetError: an image without labels or the reverse, lists that share names.
    """
    root = existing_root(root, "cityscapes", Cityscapes.how_to_get)
    found, problems = _survey(root, options)
    raise_first(problems)
    parts, notes = _parts(root, found, options)
    warn(notes, "cityscapes")
    kind = Cityscapes if options.task == "semantic" else CityscapesInstances
    return Splits(
        dataset="cityscapes",
        task=options.task,
        ndim=2,
        channels=3,
        classes=CITYSCAPES_CLASSES,
        parts={split: InMemory(kind(records)) for split, records in parts.items()},
        digest=digest_of("cityscapes", asdict(options), sizes_by_split(parts)),
    )


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Every problem of every pair and list, found in one pass.

    Notes: splits that are smaller than published, maps without a class.
    """
    try:
        root = existing_root(root, "cityscapes", Cityscapes.how_to_get)
        found, problems = _survey(root, options)
    except RlsegError as error:
        return [as_problem(error, str(root))]
    parts = found  # as far as lists cannot be used: the images are there all the same
    try:
        parts, notes = _parts(root, found, options)
        problems += notes
    except RlsegError as error:
        problems.append(as_problem(error, str(root)))
    for split, records in parts.items():
        if options.task == "semantic":
            problems += check_class_maps(Cityscapes(records), split, advance)
        else:
            dataset = CityscapesInstances(records)
            problems += try_samples(dataset, split, advance, truth=split != "test")
    return problems


def _survey(root: Path, options: Options) -> tuple[dict[str, list[Record]], list[Problem]]:
    """Split of the release -> complete pairs sorted by name, and what is incomplete.

    Raises:
        DatasetNotFoundError: no image of any split.
    """
    labels = {"semantic": "labelIds", "instance": "instanceIds"}[options.task]
    layout = Layout(
        patterns={
            "image": f"leftImg8bit/{{split}}/{{city}}/{{id}}{IMAGE_END}",
            "labels": f"gtFine/{{split}}/{{city}}/{{id}}_gtFine_{labels}.png",
        }
    )
    base = layout.find(root, tuple(FOLDERS.values()))
    if base is None:
        raise layout.not_found(root, "cityscapes", Cityscapes.how_to_get)
    found: dict[str, list[Record]] = {}
    problems: list[Problem] = []
    for split, folder in FOLDERS.items():
        records, missing = layout.survey(base, folder, root)
        problems += missing
        named = [replace(r, name=r.files["image"].name.removesuffix(IMAGE_END)) for r in records]
        if named:
            found[split] = sorted(named, key=lambda record: record.name)
    return found, problems


def _parts(
    root: Path, found: Mapping[str, list[Record]], options: Options
) -> tuple[dict[str, list[Record]], list[Problem]]:
    """The splits that the options ask for, as far as they have an image, and notes on sizes."""
    if options.splits == "plain":
        parts, published = dict(found), PUBLISHED
    else:
        train = {record.name: record for record in found.get("train", [])}
        names = _active_names(root, list(train), options)
        parts = {
            split: [train[name] for name in sorted(wanted) if name in train]
            for split, wanted in names.items()
        } | {"test": found.get("valid", [])}
        published = {split: len(wanted) for split, wanted in names.items()} | {"test": 500}
        if not options.lists:
            published = ACTIVE_PUBLISHED
    notes = [
        note
        for split, count in published.items()
        for note in fewer_than_published(split, len(parts.get(split, ())), count)
    ]
    return {split: records for split, records in parts.items() if records}, notes


def _active_names(root: Path, train: list[str], options: Options) -> dict[str, set[str]]:
    """Names of D_S, D_T, D_R and D_V.

    By the seed: D_S are the ten images of RALIS as far as they are there, else the first ones of
    the seeded order; the others are shared out in the published proportions. Every image has its
    place in that order, so that a part of the data is divided like the whole.

    Raises:
        CorruptDatasetError: none of the listed names is there.
    """
    if options.lists:
        splits = tuple(split for split in ACTIVE_PUBLISHED if split != "test")
        place = inside(root / options.lists, root)
        lists = read_active_lists(place, splits, IMAGE_END)
        if train and not set(train) & {name for names in lists.values() for name in names}:
            raise CorruptDatasetError(
                f"{place}: none of its names is in the train folder, which holds "
                f"{listed(sorted(train))}"
            )
        return {split: set(names) for split, names in lists.items()}
    state = set(committed_ids("cityscapes", "D_S")) & set(train)
    sizes = ACTIVE_PUBLISHED
    if not state:
        total = sum(sizes[split] for split in ("D_T", "D_R", "D_V"))
        _, state = divide(train, (total, sizes["D_S"]), "cityscapes D_S", options.seed)
    rest = [name for name in train if name not in state]
    shares = sizes["D_V"], sizes["D_T"], sizes["D_R"]
    pool, played, reward = divide(rest, shares, "cityscapes", options.seed)
    return {"D_S": state, "D_T": played, "D_R": reward, "D_V": pool}
