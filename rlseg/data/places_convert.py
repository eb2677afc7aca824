"""The masks of the Places Challenge 2017 -> one COCO-style truth, as its official script makes it.

Masks are taken in order of their names, instances in ascending order of their numbers; annotation
ids count on from `first_id`. The official script starts at 0, and the COCO evaluation takes a match
with annotation 0 for none: a perfect submission then loses that one instance. So 1 is the default,
and 0 is there for files equal to the official ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlseg import rle
from rlseg.data.base import LISTED, contents, existing_root, raise_first
from rlseg.data.image_table import ImageTable, read_image_table
from rlseg.data.layout import Record
from rlseg.data.links import inside
from rlseg.data.places import FOLDERS, HOST_ROOT, Places
from rlseg.data.places_masks import (
    MASKS,
    check_table_size,
    joint_counts,
    mask_faults,
    mask_records,
    read_mask,
)
from rlseg.data.places_table import (
    TABLE,
    category_names,
    image_id_by_rule,
    names_of,
)
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError

__all__ = ["convert_annotations"]

Progress = Callable[[int, int], None]
"""Told the number of masks done, and of all."""


def convert_annotations(
    root: Path,
    split: str,
    *,
    first_id: int = 1,
    images_json: Path | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The COCO-style data set of one split, from its mask files: plain values, ready for JSON.

    Args:
        root: holds `annotations_instance/<split>/*.png`, itself or below `ADEChallengeData2016`.
        split: "training" or "validation".
        first_id: id of the first annotation, 0 or more.
        images_json: table of image ids (`imgCatIds.json`); None: that of the root if it is there,
            else ids by the rule of `image_id_by_rule`.
        progress: told how far it is.
        note: told, in a sentence, of pixels with a category but no instance, if there are any:
            their truth is unknown, and a truth file of masks has no place for them.

    Returns:
        `images` (file_name, id, width, height) in order of the file names, `categories` (id, name),
        and `annotations` (id, image_id, category_id, segmentation with compressed counts, area,
        bbox, iscrowd).

    Raises:
        ConfigError: unknown split, a split without masks, a negative `first_id`, a file whose name
            has no image id.
        DatasetNotFoundError: no mask files.
        CorruptDatasetError: masks that cannot be read, break the encoding, or differ from the
            table: lists up to 10 of them after having read all.
    """
    folders = tuple(folder for name, folder in FOLDERS.items() if name != "test")
    if split not in folders:
        hidden = split in ("test", FOLDERS["test"])
        why = "the challenge publishes no masks of it" if hidden else "unknown"
        raise ConfigError(f"split {split!r}: {why}; choose {' or '.join(folders)}")
    if first_id < 0:
        raise ConfigError(f"first_id must be 0 or more, got {first_id}")
    root = existing_root(root, "places", Places.how_to_get)
    records = _masks(root, split)
    table = _table(root, images_json)
    names = category_names(root)
    if images_json is not None and table is not None and table.categories:
        names = names_of(table.categories, str(images_json))
    images, annotations, loose = _all_converted(records, table, progress)
    if loose and note is not None:
        first = next(iter(loose))
        note(
            f"{sum(loose.values())} pixels in {len(loose)} of {len(images)} masks have a category "
            f"but no instance; no annotation covers them (first: {first})"
        )
    for number, annotation in enumerate(annotations, start=first_id):
        annotation["id"] = number
    return {
        "images": images,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": annotations,
    }


def _all_converted(
    records: Sequence[Record], table: ImageTable | None, progress: Progress | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[Path, int]]:
    """The entries of all images, their annotations with ids that are still 0, and loose pixels.

    Raises:
        CorruptDatasetError: lists what is wrong, after all masks were read.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    loose: dict[Path, int] = {}
    faults: list[str] = []
    path_of: dict[int, Path] = {}
    for done, record in enumerate(records, start=1):
        path = record.files["labels"]
        try:
            image, found, rest = _converted(path, table)
            other = path_of.setdefault(image["id"], path)
            if other != path:
                raise CorruptDatasetError(f"{path}: image id {image['id']} is that of {other}")
        except CorruptDatasetError as error:
            faults.append(str(error))
        else:
            images.append(image)
            annotations += found
            loose |= {path: rest} if rest else {}
        if progress is not None:
            progress(done, len(records))
    if faults:
        more = f"; and {len(faults) - LISTED} more" if len(faults) > LISTED else ""
        raise CorruptDatasetError("; ".join(faults[:LISTED]) + more)
    return images, annotations, loose


def _masks(root: Path, folder: str) -> list[Record]:
    """The mask files in plain order of their names.

    Raises:
        DatasetNotFoundError: none.
    """
    for base in (root, root / HOST_ROOT):
        records, problems = mask_records(base, folder, root) if base.is_dir() else ([], [])
        raise_first(problems)
        if records:
            return sorted(records, key=lambda record: record.files["labels"].name)
    raise DatasetNotFoundError(
        f"{root}: no files {MASKS}/{folder}/*.png; found {contents(root)}. {Places.how_to_get}"
    )


def _table(root: Path, images_json: Path | None) -> ImageTable | None:
    if images_json is not None:
        return read_image_table(images_json)
    place = inside(root / TABLE, root)
    return read_image_table(place) if place.is_file() else None


def _converted(
    path: Path, table: ImageTable | None
) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """The image's entry, its annotations with ids still 0, and pixels of a category only.

    Raises:
        CorruptDatasetError: the mask, its name or its size is not as it should be.
    """
    category, instance = read_mask(path)
    counts = joint_counts(category, instance)
    faults = mask_faults(counts)
    if faults:
        raise CorruptDatasetError(f"{path}: {'; '.join(faults)}")
    height, width = instance.shape
    name = f"{path.stem}.jpg"
    if table is not None:
        entry = check_table_size(table, path, instance.shape)
        image_id, name = entry.id, entry.file_name
    else:
        try:
            image_id = image_id_by_rule(path.stem)
        except ConfigError as error:
            why = str(error).partition(": ")[2]  # after the name, which the path holds
            raise CorruptDatasetError(f"{path}: {why}") from error
    runs, ids = rle.encode_labels(instance)
    categories = counts[ids.astype(np.int64)].argmax(axis=1)
    fields = zip(
        categories.tolist(),
        runs.to_coco(),
        runs.areas().tolist(),
        runs.boxes().tolist(),
        strict=True,
    )
    image = {"file_name": name, "id": image_id, "width": width, "height": height}
    annotations = [
        {
            "id": 0,
            "image_id": image_id,
            "category_id": number,
            "segmentation": segmentation,
            "area": area,
            "bbox": box,
            "iscrowd": 0,
        }
        for number, segmentation, area, box in fields
    ]
    return image, annotations, int(counts[0, 1:].sum())
