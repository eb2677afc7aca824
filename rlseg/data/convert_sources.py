"""Reading for conversion: every image with its ids as the files hold them, format by format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rlseg.data import coco_dataset, cvppp, folder
from rlseg.data.arrays import h5_dataset, opened_h5, read_h5
from rlseg.data.base import contents, existing_root, listed, raise_first
from rlseg.data.coco_files import CocoPart, find_files, read_part
from rlseg.data.coco_masks import Painted
from rlseg.data.columns import Bools
from rlseg.data.cvppp_files import Plant, find_plants, read_plant
from rlseg.data.cvppp_files import Source as PlantSource
from rlseg.data.images import check_same_size, read_label_array
from rlseg.data.labels import from_array
from rlseg.data.orientation import EXIF_ORIENTATION
from rlseg.data.quiet import quiet_pillow
from rlseg.errors import ConfigError, DatasetNotFoundError
from rlseg.files import load_json

__all__ = ["LABEL_ID", "Ids", "Item", "Origin", "Source", "open_source"]

LABEL_ID = "label_id"
"""Key of our own in an annotation: the instance's id in its label map."""
LABELLED_PARTS = ("A1", "A2", "A3", "A4")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Image files that are copied as they are; others become PNG."""
LARGEST_ID = 2**64 - 1

Ids = NDArray[np.uint64]
"""Ids of instances, as wide as any file holds them."""
Overlaps = Literal["refuse", "later"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The annotation that an instance was."""

    annotation: int
    category_id: int
    category: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One image with its label map."""

    name: str
    split: str | None
    """None = the source has no splits."""
    where: str
    """The image it is read from, for messages."""
    file: Path | None
    """Image file that can be copied; None = write `image`."""
    image: Tensor
    """float32 [C, H, W] in [0, 1]."""
    ids: Ids
    """uint64 [H, W], 0 = background."""
    unknown: Bools
    """bool [H, W], pixels without a truth; their id is 0."""
    origins: Mapping[int, Origin] = field(default_factory=dict)
    """Id -> annotation, where the source is COCO."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is to be converted."""

    names: Sequence[tuple[str | None, str]]
    """Split and name of all items, in their order."""
    items: Iterator[Item]
    """Read one by one."""
    notes: Sequence[str]
    """What is left behind; complete when all items were read."""


def open_source(
    root: Path, form: str, settings: Mapping[str, object], overlaps: Overlaps
) -> Source:
    """The images of a data set.

    Args:
        root: its folder.
        form: folder, coco or cvppp.
        settings: options of the data set.
        overlaps: "later": of COCO masks that overlap, the later one takes the pixels.

    Raises:
        RlsegError: as the data set's `open_splits`; `items` raise it too, and ConfigError for
            volumes and for masks that overlap.
    """
    from rlseg.config import build

    where = f"data set {form}"
    if form == "folder":
        return _folder(root, build(folder.Options, settings, where))
    if form == "coco":
        return _coco(root, build(coco_dataset.Options, settings, where), overlaps)
    given = {"parts": list(LABELLED_PARTS), **settings}
    return _cvppp(root, build(cvppp.Options, given, where), every="parts" in settings)


def _copyable(path: Path) -> Path | None:
    """The file, if other programs see in it what we see: one frame, stored upright."""
    if path.suffix.lower() not in PICTURES:
        return None
    with (
        quiet_pillow(),
        Image.open(path) as image,
    ):  # after it was read: its size is known to be within the limit
        frames = int(getattr(image, "n_frames", 1))
        upright = int(image.getexif().get(EXIF_ORIENTATION, 1)) == 1
    return path if frames == 1 and upright else None


def _known_ids(array: NDArray[Any], where: str, ignore: int | None) -> tuple[Ids, Bools]:
    """Ids with 0 where the truth is unknown, and these pixels.

    Raises:
        ConfigError: a volume.
        CorruptDatasetError: no ids.
    """
    if array.ndim != 2:
        raise ConfigError(
            f"{where}: labels with {array.ndim} axes; conversion is for pictures, as COCO and CVPPP"
            " know no volumes: `folder` reads them as they are, or save their planes as pictures"
        )
    valid = from_array(array, where, ignore)[1].numpy()
    ids = np.where(valid, array, np.zeros((), dtype=array.dtype)).astype(np.uint64)
    return ids, ~valid


# Folder


def _folder(root: Path, options: folder.Options) -> Source:
    whole = replace(options, fractions=(1.0, 0.0, 0.0))
    splits = folder.open_splits(root, whole)
    found: list[tuple[str | None, folder.Folder, int]] = []
    for split, part in splits.parts.items():
        pairs: folder.Folder = part.dataset
        for index, record in enumerate(pairs.records):
            flat = record.files["image"].parent == root / options.image_folder
            found.append((None if flat else split, pairs, index))
    return Source(
        names=[(split, pairs.records[index].name) for split, pairs, index in found],
        items=(_folder_item(*place) for place in found),
        notes=(),
    )


def _folder_item(split: str | None, pairs: folder.Folder, index: int) -> Item:
    record, options = pairs.records[index], pairs.options
    path, labels_path = record.files["image"], record.files["labels"]
    array = folder.read_ids(labels_path, options)
    ids, unknown = _known_ids(array, str(labels_path), options.ignore_id)
    if options.components != "no":  # ids are made, not read
        ids = pairs[index].labels.numpy().astype(np.uint64)
    image = folder.read_picture(path, 2, options)
    check_same_size(image, from_array(ids, str(labels_path))[0], str(path), str(labels_path))
    return Item(
        name=record.name,
        split=split,
        where=str(path),
        file=_copyable(path) if options.channels == "auto" else None,
        image=image,
        ids=ids,
        unknown=unknown,
    )


# CVPPP


def _cvppp(root: Path, options: cvppp.Options, *, every: bool) -> Source:
    """The labelled plants of the chosen parts; `every`: each of the parts must be there."""
    root = existing_root(root, "cvppp", cvppp.Cvppp.how_to_get)
    plants: list[Plant] = []
    notes: list[str] = []
    for part in options.parts:
        training, testing, problems = find_plants(root, part, options.form)
        raise_first(problems)
        if every and not training:
            raise DatasetNotFoundError(f"no labelled plants of {part} at {root}")
        if testing:
            notes.append(f"{len(testing)} images of {part} have no labels and are left out")
        plants += training
    if not plants:
        raise DatasetNotFoundError(
            f"no labelled plants at {root}: looked for {listed(options.parts)} with "
            f"plant<n>_rgb.png and plant<n>_label.png; found {contents(root)}. "
            f"{cvppp.Cvppp.how_to_get}"
        )
    several = len({plant.part for plant in plants}) > 1
    names = [plant.name if several else plant.id for plant in plants]
    return Source(
        names=[(None, name) for name in names],
        items=(_plant_item(name, plant) for name, plant in zip(names, plants, strict=True)),
        notes=notes,
    )


def _plant_item(name: str, plant: Plant) -> Item:
    sample = read_plant(plant)
    if plant.labels is None:
        raise ConfigError(f"{plant.image}: no labels to convert")
    ids, unknown = _known_ids(_plant_ids(plant.labels), str(plant.labels), None)
    return Item(
        name=name,
        split=None,
        where=str(plant.image),
        file=None if plant.image.key else _copyable(plant.image.path),
        image=sample.image,
        ids=ids,
        unknown=unknown,
    )


def _plant_ids(source: PlantSource) -> NDArray[Any]:
    if not source.key:
        return read_label_array(source.path)
    with opened_h5(source.path) as file:
        return read_h5(h5_dataset(file, source.key, source.path), str(source))


# COCO


def _coco(root: Path, options: coco_dataset.Options, overlaps: Overlaps) -> Source:
    root = existing_root(root, "coco", coco_dataset.Coco.how_to_get)
    parts: list[CocoPart] = []
    notes: list[str] = []
    for file in find_files(root, options.annotations, coco_dataset.Coco.how_to_get):
        part = read_part(file, options.categories, missing_images=options.missing_images)
        raise_first(part.problems)
        if part.problems:
            notes.append(f"{file.path}: {len(part.problems)} images are not there and left out")
        parts.append(part)
    names = [(part.file.split, image.name) for part in parts for image in part.images]
    if not names:
        raise DatasetNotFoundError(f"{root}: {listed(p.file.path for p in parts)} name no images")
    if overlaps == "refuse":
        _refuse_overlaps(parts)
    return Source(names=names, items=_coco_items(parts, options, notes), notes=notes)


def _refuse_overlaps(parts: Sequence[CocoPart]) -> None:
    contested: dict[Path, int] = {}
    for part in parts:
        images = coco_dataset.Coco(part.truth, part.images)
        for index, image in enumerate(part.images):
            pixels = images.painted(index).contested
            if pixels:
                contested[image.path] = pixels
    if contested:
        raise ConfigError(
            f"{sum(contested.values())} pixels of {len(contested)} images "
            f"({listed(path.name for path in contested)}) are in several instances; a label map "
            "gives a pixel to one: let the later annotation take them (--overlaps later), or mend "
            "the masks"
        )


def _coco_items(
    parts: Sequence[CocoPart], options: coco_dataset.Options, notes: list[str]
) -> Iterator[Item]:
    contested, hidden, empty = 0, 0, 0
    for part in parts:
        label_of = _label_ids(part)
        images = coco_dataset.Coco(part.truth, part.images, convert=options.channels)
        for index in range(len(images)):
            painted = images.painted(index)
            contested += painted.contested
            hidden += len(painted.hidden)
            empty += len(painted.empty)
            yield _coco_item(images, index, part.file.split, painted, label_of)
    if contested:
        notes.append(f"{contested} pixels were in several instances; the later one took them")
    if hidden:
        notes.append(f"{hidden} instances were wholly under later ones and are lost")
    if empty:
        notes.append(f"{empty} annotations had no pixel inside their image and are lost")


def _coco_item(
    images: coco_dataset.Coco,
    index: int,
    split: str | None,
    painted: Painted,
    label_of: Callable[[NDArray[np.int64]], Ids],
) -> Item:
    entry, truth = images.images[index], images.truth
    present = np.unique(painted.owner)
    present = present[present > 0]
    places = entry.annotations[present - 1]
    labels = label_of(places)
    table = np.zeros(len(entry.annotations) + 1, dtype=np.uint64)
    table[present] = labels
    names = dict(zip(truth.category_ids.tolist(), truth.category_names, strict=True))
    return Item(
        name=entry.name,
        split=split,
        where=str(entry.path),
        image=images.picture(index),
        file=_copyable(entry.path) if images.convert == "auto" else None,
        ids=table[painted.owner],
        unknown=painted.unknown,
        origins={
            label: Origin(annotation=number, category_id=category, category=names[category])
            for label, number, category in zip(
                labels.tolist(),
                truth.annotation_ids[places].tolist(),
                truth.category[places].tolist(),
                strict=True,
            )
        },
    )


def _label_ids(part: CocoPart) -> Callable[[NDArray[np.int64]], Ids]:
    """Places of annotations of one image -> their ids in the label map.

    Their own `LABEL_ID` where each has one and no two are alike; else 1..N in the given order.
    """
    entries = load_json(part.file.path)["annotations"]
    given = [entry.get(LABEL_ID) for entry in entries]

    def labels(places: NDArray[np.int64]) -> Ids:
        found = [given[k] for k in places.tolist()]
        whole = all(type(label) is int and 0 < label <= LARGEST_ID for label in found)
        if not whole or len(set(found)) < len(found):
            return np.arange(1, len(places) + 1, dtype=np.uint64)
        return np.array(found, dtype=np.uint64)

    return labels
