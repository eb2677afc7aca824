"""Places Challenge 2017, scene instance segmentation: ADE20K images with 100 kinds of things.

`places_masks` says how the mask files are read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rlseg.data.base import (
    Advance,
    Problem,
    Splits,
    as_problem,
    digest_of,
    existing_root,
    image_notes,
    raise_first,
    try_samples,
)
from rlseg.data.image_table import ImageTable, read_image_table
from rlseg.data.images import check_same_size, read_image
from rlseg.data.layout import Layout, Record
from rlseg.data.links import inside
from rlseg.data.places_masks import (
    MASKS,
    Instances,
    check_table_size,
    joint_counts,
    mask_faults,
    mask_records,
    read_instances,
    read_mask,
)
from rlseg.data.places_table import CATEGORIES, TABLE, category_names
from rlseg.data.samples import InstanceSample
from rlseg.errors import ConfigError, CorruptDatasetError, RlsegError

__all__ = ["DATASET", "Options", "Places", "check", "open_splits"]

FOLDERS = {"train": "training", "valid": "validation", "test": "testing"}
"""Name of a split -> the challenge's folder."""
HOST_ROOT = "ADEChallengeData2016"  # what the archive of the scene parsing benchmark unpacks to

needs_root = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the challenge's images."""

    missing_masks: Literal["error", "leave_out"] = "error"
    """What to do with training and validation images that have no mask file."""


class Places:
    """Colour images with instances; categories of the instances by `instances`."""

    layout: ClassVar[str] = (
        "images/<folder>/<name>.jpg and annotations_instance/<folder>/<name>.png, <folder> = "
        f"training, validation, testing (images only); perhaps {TABLE} in the root; images may lie "
        f"below {HOST_ROOT}/, with or without the masks"
    )
    splits: ClassVar[tuple[str, ...]] = tuple(FOLDERS)
    classes: ClassVar[tuple[str, ...]] = CATEGORIES
    citation: ClassVar[str] = (
        "Zhou, Zhao, Puig, Fidler, Barriuso, Torralba, Scene Parsing through ADE20K Dataset, CVPR "
        "2017; Places Challenge 2017, scene instance segmentation"
    )
    how_to_get: ClassVar[str] = (
        "Images: ADEChallengeData2016.zip of sceneparsing.csail.mit.edu (data/ADEChallengeData2016"
        ".zip); masks: annotations_instance.tar of the same site (data/ChallengeData2017); "
        f"{TABLE}: folder instancesegmentation of github.com/CSAILVision/placeschallenge."
    )
    terms: ClassVar[str] = (
        "Images for non-commercial research and education only, their authors keep the copyright; "
        "annotations under the BSD 3-Clause License."
    )

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        """Number of images."""
        return len(self.records)

    def __getitem__(self, index: int) -> InstanceSample:
        """Image `index` with its instances; nothing is known of an image without a mask file."""
        record = self.records[index]
        image = _read_picture(record.files["image"])
        if "labels" in record.files:
            found = self.instances(index)
            labels, valid = found.labels, found.valid
            where = str(record.files["image"]), str(record.files["labels"])
            check_same_size(image, labels, *where)
        else:
            labels = torch.zeros(image.shape[1:], dtype=torch.int64)
            valid = torch.zeros(image.shape[1:], dtype=torch.bool)
        return InstanceSample(image=image, labels=labels, valid=valid, name=record.name)

    def instances(self, index: int) -> Instances:
        """The labels of image `index` as in its sample, with their numbers and categories.

        Raises:
            ConfigError: an image without a mask file.
            CorruptDatasetError: as `read_instances`.
        """
        record = self.records[index]
        if "labels" not in record.files:
            raise ConfigError(
                f"{record.files['image']}: the challenge publishes no masks of test images; use "
                "another split"
            )
        return read_instances(record.files["labels"])

    def categories(self, index: int) -> Tensor:
        """Category minus 1 of instance 1..N of image `index`, its place in `classes`: int64 [N]."""
        if "labels" not in self.records[index].files:
            return torch.zeros(0, dtype=torch.int64)
        return self.instances(index).categories - 1


DATASET = Places
"""The class that declares the data set."""


def open_splits(root: Path | None, options: Options) -> Splits:
    """The splits whose images lie below `root`; `test` has images only, of unknown truth.

    Raises:
        DatasetNotFoundError: no images; says what was looked for and found.
        CorruptDatasetError: an image without a mask file (see `Options`) or the reverse, a damaged
            table of categories.
    """
    root = existing_root(root, "places", Places.how_to_get)
    parts: dict[str, Places] = {}
    for split, (records, problems) in _survey(root, options).items():
        raise_first(problems)
        if records:
            parts[split] = Places(records)
    return Splits(
        dataset="places",
        task="instance",
        ndim=2,
        channels=3,
        classes=category_names(root),
        parts=parts,
        digest=digest_of(
            "places",
            asdict(options),
            {
                split: [
                    (r.name, [p.stat().st_size for p in r.files.values()]) for r in part.records
                ]
                for split, part in parts.items()
            },
        ),
    )


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Every problem of every image and mask, and of the tables, found in one pass.

    Notes: splits that are not there, images left out, and pixels with a category but no instance.
    """
    problems: list[Problem] = []
    table: ImageTable | None = None
    try:
        root = existing_root(root, "places", Places.how_to_get)
        found = _survey(root, options)
    except RlsegError as error:
        return [as_problem(error, str(root))]
    try:
        category_names(root)
        place = inside(root / TABLE, root)
        table = read_image_table(place) if place.is_file() else None
    except RlsegError as error:
        problems.append(as_problem(error))
    for split, (records, missing) in found.items():
        problems += missing
        if not records and not missing:
            what = f"no images in a folder {FOLDERS[split]}; the other splits can be used"
            problems.append(Problem(where=f"split {split}", what=what, note=True))
        elif split == "test":
            problems += try_samples(Places(records), split, advance, truth=False)
        else:
            for index, record in enumerate(records):
                problems += _pair_problems(record, table)
                if advance is not None:
                    advance(split, index + 1, len(records))
    return problems


def _pair_problems(record: Record, table: ImageTable | None) -> list[Problem]:
    """What is wrong with one image and its mask."""
    image_path, mask_path = record.files["image"], record.files["labels"]
    problems: list[Problem] = []
    image: Tensor | None = None
    try:
        image = _read_picture(image_path)
    except RlsegError as error:
        problems.append(as_problem(error))
    try:
        category, instance = read_mask(mask_path)
    except RlsegError as error:
        return [*problems, as_problem(error)]
    counts = joint_counts(category, instance)
    problems += [Problem(where=str(mask_path), what=what) for what in mask_faults(counts)]
    loose = int(counts[0, 1:].sum())
    if loose:
        what = f"{loose} pixels with a category but no instance; they count as unknown"
        problems.append(Problem(where=str(mask_path), what=what, note=True))
    if not counts[1:].any():
        what = "no instance; all that is known is background"
        problems.append(Problem(where=str(mask_path), what=what, note=True))
    try:
        if image is not None:
            labels = torch.from_numpy(instance)
            check_same_size(image, labels, str(image_path), str(mask_path))
            problems += image_notes(image_path)
        if table is not None:
            check_table_size(table, mask_path, instance.shape)
    except RlsegError as error:
        problems.append(as_problem(error))
    return problems


def _read_picture(path: Path) -> Tensor:
    image = read_image(path, channels=3)
    if image.ndim != 3:
        raise CorruptDatasetError(f"{path}: {image.shape[1]} frames where one is expected")
    return image


def _layouts() -> tuple[Layout, ...]:
    """Where the images may lie; the last: those of the scene parsing benchmark beside the masks."""
    image, extensions = "images/{split}/{id}.{ext}", ("jpg", "jpeg")
    return (
        Layout(patterns={"image": image}, roots=(".", HOST_ROOT), extensions=extensions),
        Layout(patterns={"image": f"{HOST_ROOT}/{image}"}, extensions=extensions),
    )


def _survey(root: Path, options: Options) -> dict[str, tuple[list[Record], list[Problem]]]:
    """Split -> complete records, and what is incomplete.

    Raises:
        DatasetNotFoundError: no image of any split.
    """
    names = tuple(FOLDERS.values())
    tried = [(layout, layout.find(root, names)) for layout in _layouts()]
    found = [(layout, base) for layout, base in tried if base is not None]
    if not found:
        raise tried[0][0].not_found(root, "places", Places.how_to_get)
    layout, base = next((pair for pair in found if (pair[1] / MASKS).is_dir()), found[0])
    result: dict[str, tuple[list[Record], list[Problem]]] = {}
    for split, folder in FOLDERS.items():
        images, problems = layout.survey(base, folder, root)
        if split == "test":
            result[split] = images, problems
            continue
        masks, faults = mask_records(base, folder, root)
        known = {Path(problem.where).stem for problem in problems + faults}
        # A linked folder has no ending: what lies behind it is unknown, not missing.
        blocked = any(not Path(problem.where).suffix for problem in problems + faults)
        records, unpaired = _paired(images, masks, base, folder, options)
        unpaired = [
            problem for problem in unpaired if not blocked and Path(problem.where).stem not in known
        ]
        result[split] = records, problems + faults + unpaired
    return result


def _paired(
    images: list[Record], masks: list[Record], base: Path, folder: str, options: Options
) -> tuple[list[Record], list[Problem]]:
    """Images with their masks, and those that lack one or the other."""
    mask_of = {record.name: record.files["labels"] for record in masks}
    records: list[Record] = []
    problems: list[Problem] = []
    for record in images:
        image, mask = record.files["image"], mask_of.pop(record.name, None)
        if mask is not None:
            files = {"image": image, "labels": mask}
            records.append(Record(name=record.name, files=files))
        elif options.missing_masks == "leave_out":
            what = "no mask file for it; the image is left out"
            problems.append(Problem(where=str(image), what=what, note=True))
        else:
            wanted = base / MASKS / folder / f"{record.name}.png"
            what = f"no mask file for it; expected {wanted}, or set missing_masks to leave_out"
            problems.append(Problem(where=str(image), what=what))
    for name, mask in mask_of.items():
        what = f"no image for it; expected {name}.jpg in a folder images/{folder}"
        problems.append(Problem(where=str(mask), what=what))
    return records, problems
