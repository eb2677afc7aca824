"""A user's own data in the form of COCO: images, and JSON files with their instances.

Polygons and run lengths are read, compressed or not. Masks of one image may overlap, label maps
cannot: the later annotation of the file takes the pixels, and `check` counts them. In regions of
many instances (`iscrowd`) the truth is unknown, except where a single instance is annotated.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from rlseg.data.base import (
    Advance,
    Problem,
    Splits,
    as_problem,
    check_fractions,
    digest_of,
    existing_root,
    image_notes,
    listed,
    raise_first,
)
from rlseg.data.coco import CocoTruth
from rlseg.data.coco_files import (
    CocoImage,
    CocoPart,
    MissingImages,
    find_files,
    read_part,
    unlisted,
)
from rlseg.data.coco_masks import Painted, paint
from rlseg.data.filekinds import file_sha256
from rlseg.data.idlists import divide
from rlseg.data.images import read_image
from rlseg.data.labels import compact
from rlseg.data.memory import InMemory
from rlseg.data.samples import InstanceSample
from rlseg.errors import CorruptDatasetError, RlsegError

__all__ = ["DATASET", "Coco", "Instances", "Options", "check", "open_splits", "read_picture"]

needs_root = True

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of images with JSON files."""

    annotations: str = ""
    """Path of the only JSON file below the root; empty = found by name."""
    categories: tuple[str, ...] = ()
    """Names of the categories whose annotations count; the others are background. Empty = all."""
    channels: Literal["auto", 1, 3] = "auto"
    """Image channels. A number converts: grey is repeated, colour becomes luminance. "auto" takes
    those of the first image; grey images among coloured ones are repeated, the reverse refused."""
    missing_images: MissingImages = "error"
    """What to do with images of the file that are not there."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of train, valid and test where there is one file for all."""
    seed: int = 0
    """Seed of that split."""

    def __post_init__(self) -> None:
        check_fractions(self.fractions)


@dataclass(frozen=True, kw_only=True)
class Instances:
    """The instances of one image."""

    labels: Tensor
    """int64 [H, W]: 0 = background, 1..N instances in the order of the file."""
    valid: Tensor
    """bool [H, W]: False in regions of many instances."""
    ids: Tensor
    """int64 [N], annotation id of instance 1..N."""
    categories: Tensor
    """int64 [N], category id of instance 1..N."""


class Coco:
    """Images with the instances of a JSON file."""

    layout: ClassVar[str] = (
        "instances_<split>.json in the root or annotations/ (<split> = train, val or valid, test; "
        "more may follow, as in train2017), or <split>/_annotations.coco.json, or one "
        "annotations.json or *.json for all; images by their file_name below <split>/, "
        "images/<split>/, images/, or beside the JSON file"
    )
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test")
    classes: ClassVar[tuple[str, ...]] = ()
    citation: ClassVar[str] = (
        "your own data; the format: Lin, Maire, Belongie and others, Microsoft COCO: Common Objects"
        " in Context, ECCV 2014"
    )
    how_to_get: ClassVar[str] = (
        "Export from your annotation program as COCO, with masks (polygons or run lengths), and "
        "put the images beside the JSON file or into a folder `images`."
    )
    terms: ClassVar[str] = "Those of the owner of the images."

    def __init__(
        self,
        truth: CocoTruth,
        images: Sequence[CocoImage],
        channels: int | None = None,
        convert: Literal["auto", 1, 3] = "auto",
        classes: Sequence[str] = (),
    ) -> None:
        self.truth, self.images = truth, tuple(images)
        self.channels, self.convert = channels, convert
        self.chosen = tuple(classes) or truth.category_names

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> InstanceSample:
        """Image `index` with its instances, the later annotation over the earlier one."""
        picture, found = self.picture(index), self.instances(index)
        return InstanceSample(
            image=picture, labels=found.labels, valid=found.valid, name=self.images[index].name
        )

    def picture(self, index: int) -> Tensor:
        """Image `index`, float32 [C, H, W] in [0, 1].

        Raises:
            DatasetNotFoundError: the file is gone.
            CorruptDatasetError: unreadable, of another size than the JSON file says, or with other
                channels than wanted.
        """
        image = self.images[index]
        picture = read_picture(image, self.convert)
        if self.channels is not None and picture.shape[0] != self.channels:
            raise CorruptDatasetError(
                f"{image.path}: {picture.shape[0]} channels, the first image has {self.channels}; "
                "set the data set option channels to 1 or 3 to convert"
            )
        return picture

    def painted(self, index: int) -> Painted:
        """The masks of image `index` as one map, numbered as in `images[index].annotations`."""
        image = self.images[index]
        return paint(
            self.truth.runs.take(image.annotations),
            self.truth.crowd[image.annotations],
            *image.size,
        )

    def instances(self, index: int) -> Instances:
        """The labels of image `index` as in its sample, with their ids and categories."""
        painted = self.painted(index)
        chosen = np.unique(painted.owner)
        places = self.images[index].annotations[chosen[chosen > 0] - 1]
        return Instances(
            labels=compact(torch.from_numpy(painted.owner)),
            valid=torch.from_numpy(~painted.unknown),
            ids=torch.from_numpy(self.truth.annotation_ids[places]),
            categories=torch.from_numpy(self.truth.category[places]),
        )

    def categories(self, index: int) -> Tensor:
        """Place among the chosen categories of instance 1..N of image `index`: int64 [N]."""
        chosen = np.isin(self.truth.category_names, self.chosen)
        ids = self.truth.category_ids[chosen]
        return torch.from_numpy(np.searchsorted(ids, self.instances(index).categories.numpy()))


DATASET = Coco
"""The class that declares the data set."""


def read_picture(image: CocoImage, channels: Literal["auto", 1, 3] = "auto") -> Tensor:
    """float32 [C, H, W] in [0, 1], of the size that the JSON file says.

    Raises:
        DatasetNotFoundError: the file is gone.
        CorruptDatasetError: unreadable, several frames, or of another size.
    """
    picture = read_image(image.path, channels=None if channels == "auto" else channels)
    if picture.ndim != 3:
        raise CorruptDatasetError(f"{image.path}: {picture.shape[1]} frames; expected one")
    height, width = picture.shape[1:]
    if (height, width) != image.size:
        raise CorruptDatasetError(
            f"{image.path}: size {height}x{width} differs from {image.size[0]}x{image.size[1]} "
            "(rows x columns) in the JSON file; replace the image, or correct its entry and masks"
        )
    return picture


def open_splits(root: Path | None, options: Options) -> Splits:
    """The splits below `root`: by files, or drawn by `fractions` and `seed` from one file.

    Raises:
        DatasetNotFoundError: no JSON file, or no image of it; says what was looked for.
        ConfigError: a category that is not there, or several files that may be meant.
        CorruptDatasetError: a damaged file, or one that names images that are not there.
    """
    root = existing_root(root, "coco", Coco.how_to_get)
    parts = _read(root, options)
    raise_first(problem for part in parts for problem in part.problems)
    for part in parts:
        if part.problems:
            _LOG.warning(
                "%s: %d of its images are not there and left out",
                part.file.path,
                len(part.problems),
            )
    found = _by_split(parts, options)
    channels = _channels(next(iter(found.values()))[1][0], options)
    return Splits(
        dataset="coco",
        task="instance",
        ndim=2,
        channels=channels[0],
        classes=_classes(parts, options),
        parts={
            split: InMemory(Coco(part.truth, images, *channels, options.categories))
            for split, (part, images) in found.items()
        },
        digest=digest_of(
            "coco",
            asdict(options),
            [file_sha256(part.file.path) for part in parts],
            {
                split: [(image.name, image.path.stat().st_size) for image in images]
                for split, (_, images) in found.items()
            },
        ),
    )


def _read(root: Path, options: Options) -> list[CocoPart]:
    files = find_files(root, options.annotations, Coco.how_to_get)
    parts = [
        read_part(file, options.categories, missing_images=options.missing_images) for file in files
    ]
    _classes(parts, options)
    return parts


def _classes(parts: Sequence[CocoPart], options: Options) -> tuple[str, ...]:
    """Names of the categories that count, in order of their ids; the same in all files.

    Raises:
        CorruptDatasetError: the files disagree.
    """
    first = parts[0].truth
    for part in parts[1:]:
        truth = part.truth
        if (
            truth.category_names != first.category_names
            or truth.category_ids.tolist() != first.category_ids.tolist()
        ):
            raise CorruptDatasetError(
                f"{part.file.path}: its categories ({listed(truth.category_names)}) differ from "
                f"those of {parts[0].file.path} ({listed(first.category_names)}), or their ids do; "
                "give all splits the same list"
            )
    chosen = options.categories
    return tuple(name for name in first.category_names if not chosen or name in chosen)


def _by_split(
    parts: Sequence[CocoPart], options: Options
) -> dict[str, tuple[CocoPart, tuple[CocoImage, ...]]]:
    """Split -> its file and images; none of them empty."""
    found: dict[str, tuple[CocoPart, tuple[CocoImage, ...]]] = {}
    for part in parts:
        if part.file.split is not None:
            found[part.file.split] = part, part.images
            continue
        names = [image.name for image in part.images]
        sets = divide(names, options.fractions, "coco", options.seed)
        for split, chosen in zip(Coco.splits, sets, strict=True):
            found[split] = part, tuple(image for image in part.images if image.name in chosen)
    found = {split: pair for split, pair in found.items() if pair[1]}
    if not found:
        files = listed(part.file.path for part in parts)
        raise CorruptDatasetError(f"{files}: no images in it; export the data again")
    return found


def _channels(image: CocoImage, options: Options) -> tuple[int, Literal["auto", 1, 3]]:
    """Channels of all samples, and how images are read to get them."""
    if options.channels != "auto":
        return options.channels, options.channels
    return (3, 3) if read_picture(image).shape[0] == 3 else (1, "auto")


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Every problem of the JSON files and of every image.

    Notes: pixels of several instances, instances that others hide or that have no pixel, images
    without annotations, and images that no file names.
    """
    problems: list[Problem] = []
    try:
        root = existing_root(root, "coco", Coco.how_to_get)
        files = find_files(root, options.annotations, Coco.how_to_get)
    except RlsegError as error:
        return [as_problem(error, str(root))]
    parts: list[CocoPart] = []
    for file in files:
        try:
            parts.append(read_part(file, options.categories, missing_images=options.missing_images))
        except RlsegError as error:
            problems.append(as_problem(error))
    if parts:
        try:
            _classes(parts, options)
            if all(problem.note for part in parts for problem in part.problems):
                _by_split(parts, options)
        except RlsegError as error:
            problems.append(as_problem(error))
    channels: tuple[int | None, Literal["auto", 1, 3]] = None, "auto"
    for image in (image for part in parts for image in part.images):
        try:
            channels = _channels(image, options)
            break
        except RlsegError:
            continue  # reported below, when all images are read
    for part in parts:
        problems += part.problems
        problems += _part_problems(part, Coco(part.truth, part.images, *channels), advance)
    others = unlisted(parts)
    if others and len(parts) == len(files):
        what = f"{len(others)} images are in no JSON file ({listed(others)}) and are not used"
        problems.append(Problem(where=str(root), what=what, note=True))
    return problems


def _part_problems(part: CocoPart, images: Coco, advance: Advance | None) -> list[Problem]:
    """Images that cannot be read, and what there is to know of the masks."""
    problems: list[Problem] = []
    contested: dict[str, int] = {}
    hidden = empty = 0
    for index, image in enumerate(part.images):
        try:
            images.picture(index)
        except RlsegError as error:
            problems.append(as_problem(error))
        else:
            problems += image_notes(image.path)
        painted = images.painted(index)
        if painted.contested:
            contested[image.name] = painted.contested
        hidden, empty = hidden + len(painted.hidden), empty + len(painted.empty)
        if advance is not None:
            advance(part.file.split or "all", index + 1, len(part.images))
    bare = sum(not len(image.annotations) for image in part.images)
    notes = {
        f"{sum(contested.values())} pixels of {len(contested)} images ({listed(contested)}) are in "
        "several instances; the later annotation of the file takes them": bool(contested),
        f"{hidden} instances lie wholly under later ones and are lost": bool(hidden),
        f"{empty} annotations have no pixel inside their image": bool(empty),
        f"{bare} images have no annotation; all of them is background": bool(bare),
    }
    where = str(part.file.path)
    problems += [Problem(where=where, what=what, note=True) for what, so in notes.items() if so]
    return problems
