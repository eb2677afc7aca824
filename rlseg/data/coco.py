"""COCO data set files: images, categories and masks, checked as a whole; read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlseg import rle
from rlseg.data.columns import (
    MISSING,
    Bools,
    Floats,
    Ints,
    column,
    complaint,
    finite_numbers,
    in_order,
    objects,
    repeated,
    shown,
    unknown,
    whole_numbers,
)
from rlseg.errors import CorruptDatasetError, Reason, ShapeError
from rlseg.files import MAX_JSON_BYTES, load_json

__all__ = ["CocoTruth", "coco_dict", "read_truth"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoTruth:
    """A COCO data set: `I` images, `K` categories, `N` annotated masks."""

    image_ids: Ints
    """[I], ascending."""
    image_names: tuple[str, ...]
    """`file_name` of each image; its id as text where the file has none."""
    image_sizes: Ints
    """[I, 2], height and width."""
    category_ids: Ints
    """[K], ascending."""
    category_names: tuple[str, ...]
    """Name of each category; its id as text where the file has none."""
    annotation_ids: Ints
    """[N], in the order of the file, like all that follows; no id twice."""
    image: Ints
    """[N], image id."""
    category: Ints
    """[N], category id."""
    area: Floats
    """[N], `area` of the annotation; the mask's pixels where the file has none."""
    crowd: Bools
    """[N], `iscrowd`: a region of many instances."""
    runs: rle.Runs
    """The N masks."""

    def __post_init__(self) -> None:
        counts = {
            "image": (len(self.image_ids), len(self.image_names), len(self.image_sizes)),
            "category": (len(self.category_ids), len(self.category_names)),
            "annotation": tuple(
                len(field)
                for field in (
                    self.annotation_ids,
                    self.image,
                    self.category,
                    self.area,
                    self.crowd,
                    self.runs,
                )
            ),
        }
        for kind, lengths in counts.items():
            if len(set(lengths)) > 1:
                raise ShapeError(f"fields of one entry per {kind} have lengths {lengths}")

    def __len__(self) -> int:
        return len(self.annotation_ids)

    def sizes_of(self, image: Ints) -> Ints:
        """Height and width [.., 2] of images by their ids, all of which must be known."""
        return self.image_sizes[np.searchsorted(self.image_ids, image)]


def read_truth(
    source: str | Path | Mapping[str, Any],
    *,
    limits: rle.Limits | None = None,
    max_bytes: int = MAX_JSON_BYTES,
) -> CocoTruth:
    """The checked content of a COCO data set file.

    Every annotation needs an id of its own, a known image and category, and a mask: run lengths
    (text or list) or polygons. A box alone is not enough.

    Args:
        source: a JSON file, or its content, which stays as it is.
        limits: what of a mask is refused as too much; None = the defaults.
        max_bytes: a larger file is refused before it is read.

    Returns:
        Images and categories in ascending order of their ids, annotations in the file's order.

    Raises:
        CorruptDatasetError: unreadable, or not such a data set; names up to ten places.
    """
    where, content = "the data set", source
    if isinstance(source, (str, Path)):
        where = str(source)
        content = load_json(Path(source), error_type=CorruptDatasetError, max_bytes=max_bytes)
    if not isinstance(content, Mapping):
        raise CorruptDatasetError(
            f"{where}: expected an object with images, annotations and categories, got "
            f"{shown(content)}; is it a list of results?"
        )
    parts = {name: content.get(name, MISSING) for name in ("images", "categories", "annotations")}
    for name, part in parts.items():
        if not isinstance(part, (list, tuple)):
            raise CorruptDatasetError(
                f"{where}, {name!r}: expected a list, got {shown(part)}; a COCO data set has "
                "images, annotations and categories"
            )
    reasons: list[Reason] = []
    limits = limits or rle.Limits()
    images = _images(parts["images"], reasons, limits)
    categories = _categories(parts["categories"], reasons)
    truth = _annotations(parts["annotations"], images, categories, reasons, limits)
    if truth is None or reasons:
        raise CorruptDatasetError(complaint(where, reasons))
    return truth


@dataclass(frozen=True, eq=False)
class _Listed:
    """Images or categories in ascending order of their ids."""

    ids: Ints
    names: tuple[str, ...]
    sizes: Ints
    """Height and width of images [I, 2], -1 where the file's are wrong; nothing for categories."""


def _images(entries: Sequence[Any], reasons: list[Reason], limits: rle.Limits) -> _Listed:
    part, limit = "images", limits.max_pixels
    found, broken = objects(entries, part)
    wrong: list[Reason] = []
    sides, sound = [], np.ones(len(found), dtype=np.bool_)
    for field in ("height", "width"):
        side, right, faults = whole_numbers(column(found, field), field, part, low=0, high=limit)
        sides.append(side)
        sound &= right
        wrong += faults
    sizes = np.stack(sides, axis=1)
    large = sizes.astype(np.float64).prod(axis=1) > limit
    wrong += [
        Reason(k, "", f"{sizes[k, 0]}x{sizes[k, 1]}: more than {limit} pixels", part)
        for k in np.flatnonzero(large).tolist()
    ]
    sizes = np.where((sound & ~large)[:, None], sizes, -1)
    return _listed(found, "file_name", part, sizes, broken, wrong, reasons)


def _categories(entries: Sequence[Any], reasons: list[Reason]) -> _Listed:
    found, broken = objects(entries, "categories")
    sizes = np.zeros((len(found), 0), dtype=np.int64)
    return _listed(found, "name", "categories", sizes, broken, [], reasons)


def _listed(
    found: list[dict[str, Any]],
    field: str,
    part: str,
    sizes: Ints,
    broken: list[Reason],
    wrong: list[Reason],
    reasons: list[Reason],
) -> _Listed:
    ids, right, faults = whole_numbers(column(found, "id"), "id", part)
    wrong = [*wrong, *faults, *repeated(ids, right, "id", part)]
    names = _names(found, field, ids, part, wrong)
    reasons += in_order(broken, wrong)
    order = np.flatnonzero(right)[np.argsort(ids[right], kind="stable")]
    return _Listed(ids[order], tuple(names[k] for k in order), sizes[order])


def _names(
    entries: Sequence[dict[str, Any]], field: str, ids: Ints, part: str, reasons: list[Reason]
) -> list[str]:
    names = []
    for index, (value, number) in enumerate(zip(column(entries, field), ids.tolist(), strict=True)):
        if value is not MISSING and not isinstance(value, str):
            reasons.append(Reason(index, field, f"expected a text, got {shown(value)}", part))
        names.append(value if isinstance(value, str) else str(number))
    return names


def _annotations(
    entries: Sequence[Any],
    images: _Listed,
    categories: _Listed,
    reasons: list[Reason],
    limits: rle.Limits,
) -> CocoTruth | None:
    """`annotations`, checked; None if a mask could not be read, for one of the reasons."""
    part = "annotations"
    found, broken = objects(entries, part)
    ids, right, faults = whole_numbers(column(found, "id"), "id", part)
    wrong = faults + repeated(ids, right, "id", part)
    image, right, faults = whole_numbers(column(found, "image_id"), "image_id", part)
    in_image, strangers = unknown(image, right, images.ids, "image_id", part, "image")
    wrong += faults + strangers
    category, right, faults = whole_numbers(column(found, "category_id"), "category_id", part)
    strangers = unknown(category, right, categories.ids, "category_id", part, "category")[1]
    wrong += faults + strangers
    crowd = _crowd(column(found, "iscrowd"), part, wrong)
    given, area = _areas(column(found, "area"), part, wrong)
    masks = column(found, "segmentation")
    present = np.array([mask is not MISSING for mask in masks], dtype=np.bool_)
    for k in np.flatnonzero(~present).tolist():
        box = "; a 'bbox' alone is not a mask" if "bbox" in found[k] else ""
        wrong.append(Reason(k, "segmentation", f"missing{box}", part))
    readable = np.flatnonzero(present & in_image)
    sizes = images.sizes[np.searchsorted(images.ids, image[readable])]
    sized = (sizes >= 0).all(axis=1)  # without the image's size, nothing can be said about a mask
    readable = readable[sized]
    chosen = [masks[k] for k in readable.tolist()]
    runs, bad = rle.parse(chosen, sizes=sizes[sized], limits=limits)
    wrong += [Reason(int(readable[f.index]), f.field, f.what, part) for f in bad]
    reasons += in_order(broken, wrong)
    if len(readable) < len(found):
        return None
    return CocoTruth(
        image_ids=images.ids,
        image_names=images.names,
        image_sizes=images.sizes,
        category_ids=categories.ids,
        category_names=categories.names,
        annotation_ids=ids,
        image=image,
        category=category,
        area=np.where(given, area, runs.areas()),
        crowd=crowd,
        runs=runs,
    )


def _crowd(values: Sequence[Any], part: str, reasons: list[Reason]) -> Bools:
    as_numbers = [
        0 if value is MISSING else int(value) if isinstance(value, bool) else value
        for value in values
    ]
    crowd, _, faults = whole_numbers(as_numbers, "iscrowd", part, low=0, high=1)
    reasons += faults
    return crowd.astype(np.bool_)


def _areas(values: Sequence[Any], part: str, reasons: list[Reason]) -> tuple[Bools, Floats]:
    given = np.array([value is not MISSING for value in values], dtype=np.bool_)
    numbers = [0 if value is MISSING else value for value in values]
    area, _, faults = finite_numbers(numbers, "area", part, low=0)
    reasons += faults
    return given, area


def coco_dict(truth: CocoTruth, *, boxes: bool = True) -> dict[str, Any]:
    """The data set as COCO writes it; every number a plain one, every mask as compressed text.

    Args:
        truth: what to write.
        boxes: also `bbox`, from the mask.

    Returns:
        For `json.dump`; `read_truth` reads it back as it was.
    """
    annotations = []
    area = [int(number) if number.is_integer() else number for number in truth.area.tolist()]
    for number, image, category, size, crowd, mask, box in zip(
        truth.annotation_ids.tolist(),
        truth.image.tolist(),
        truth.category.tolist(),
        area,
        truth.crowd.tolist(),
        truth.runs.to_coco(),
        truth.runs.boxes().tolist(),
        strict=True,
    ):
        entry = {
            "id": number,
            "image_id": image,
            "category_id": category,
            "segmentation": mask,
            "area": size,
            "iscrowd": int(crowd),
        }
        annotations.append(entry | {"bbox": box} if boxes else entry)
    return {
        "images": [
            {"id": number, "file_name": name, "width": width, "height": height}
            for number, name, (height, width) in zip(
                truth.image_ids.tolist(),
                truth.image_names,
                truth.image_sizes.tolist(),
                strict=True,
            )
        ],
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(truth.category_ids.tolist(), truth.category_names, strict=True)
        ],
        "annotations": annotations,
    }
