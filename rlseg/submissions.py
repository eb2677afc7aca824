"""Lists of scored masks in COCO's form: read, with every problem named, and written."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlseg import rle
from rlseg.data.coco import CocoTruth
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
    shown,
    unknown,
    whole_numbers,
)
from rlseg.errors import ConfigError, InvalidResultsError, Reason, ShapeError
from rlseg.files import MAX_JSON_BYTES, load_json, write_whole

__all__ = ["Results", "read_results", "result_entries", "write_results"]

PART = "item"  # how messages call an entry


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """`M` scored masks, in the order of their file."""

    image: Ints
    """[M], image id."""
    category: Ints
    """[M], category id."""
    score: Floats
    """[M], finite; larger means surer."""
    runs: rle.Runs
    """The M masks, each of the size of its image."""
    boxed: int = 0
    """Entries that also have a `bbox`. It is not read."""

    def __post_init__(self) -> None:
        lengths = (len(self.image), len(self.category), len(self.score), len(self.runs))
        if len(set(lengths)) > 1:
            names = [field.name for field in fields(self)[:4]]
            raise ShapeError(f"{', '.join(names)} have lengths {lengths}; expected one entry each")

    def __len__(self) -> int:
        return len(self.image)

    def take(self, index: Ints | Bools) -> Results:
        """Some of them: positions, or True for each one to keep."""
        return Results(
            image=self.image[index],
            category=self.category[index],
            score=self.score[index],
            runs=self.runs.take(index),
            boxed=self.boxed,
        )


def read_results(
    source: str | Path | Sequence[Any],
    truth: CocoTruth,
    *,
    unknown_category: Literal["error", "keep"] = "error",
    limits: rle.Limits | None = None,
    max_bytes: int = MAX_JSON_BYTES,
) -> Results:
    """The checked content of a result file: a list of scored masks.

    Each entry is `{"image_id", "category_id", "segmentation": {"size": [h, w], "counts"}, "score"}`
    with run lengths as text or as a list; polygons are refused. Ids may be integral floats (7.0).
    Anything else in an entry is left alone.

    Args:
        source: a JSON file, or its content, which stays as it is.
        truth: the data set, for its image ids, sizes and category ids.
        unknown_category: an entry of a category that the data set does not have is an error, or
            is kept for the caller to drop.
        limits: what of a mask is refused as too much; None = the defaults.
        max_bytes: a larger file is refused before it is read.

    Returns:
        The masks; possibly none.

    Raises:
        InvalidResultsError: something is wrong; `reasons` names every place.
        CorruptDatasetError: not readable as JSON.
    """
    constants: list[str] = []
    if isinstance(source, (str, Path)):
        where = str(source)
        content = _load(Path(source), constants, max_bytes)
    else:
        where, content = "the results", source
    if not isinstance(content, (list, tuple)):
        got = shown(content)
        hint = "; is it a data set?" if isinstance(content, dict) else ""
        reason = Reason(None, "", f"expected a list of scored masks, got {got}{hint}", "top level")
        raise InvalidResultsError(f"{where}: {reason}", [reason])
    results, reasons = _checked(content, truth, unknown_category == "keep", limits or rle.Limits())
    if results is None or reasons:
        raise InvalidResultsError(complaint(where, reasons), reasons)
    if constants:
        reason = Reason(None, "", f"{constants[0]} is not a number that JSON knows", "the file")
        raise InvalidResultsError(complaint(where, [reason]), [reason])
    return results


def _load(path: Path, constants: list[str], max_bytes: int) -> Any:
    """The content; a NaN is let through and noted, for the message that names its place."""

    def note(name: str) -> float:
        constants.append(name)
        return float(name)

    return load_json(path, error_type=InvalidResultsError, constant=note, max_bytes=max_bytes)


def _checked(
    entries: Sequence[Any], truth: CocoTruth, any_category: bool, limits: rle.Limits
) -> tuple[Results | None, list[Reason]]:
    """All entries as arrays, or None if there is one without a mask; and what is wrong."""
    found, broken = objects(entries, PART)
    image, right, wrong = whole_numbers(column(found, "image_id"), "image_id", PART)
    in_image, strangers = unknown(image, right, truth.image_ids, "image_id", PART, "image")
    wrong += strangers
    category, right, faults = whole_numbers(column(found, "category_id"), "category_id", PART)
    wrong += faults
    if not any_category:
        wrong += unknown(category, right, truth.category_ids, "category_id", PART, "category")[1]
    score, _, faults = finite_numbers(column(found, "score"), "score", PART)
    wrong += faults
    masks = column(found, "segmentation")
    kinds = set(map(type, masks)) - {dict}
    usable = in_image
    if kinds:
        is_mask = np.array([isinstance(mask, dict) for mask in masks], dtype=np.bool_)
        wrong += [_no_mask(k, masks[k], found[k]) for k in np.flatnonzero(~is_mask).tolist()]
        usable = in_image & is_mask
    readable = np.flatnonzero(usable)
    chosen = masks if len(readable) == len(masks) else [masks[k] for k in readable.tolist()]
    runs, bad = rle.parse(chosen, sizes=truth.sizes_of(image[readable]), limits=limits)
    wrong += [Reason(int(readable[fault.index]), fault.field, fault.what, PART) for fault in bad]
    reasons = in_order(broken, wrong)
    if len(readable) < len(found):
        return None, reasons
    boxed = sum("bbox" in entry for entry in found)
    results = Results(image=image, category=category, score=score, runs=runs, boxed=boxed)
    return results, reasons


def _no_mask(index: int, mask: object, entry: dict[str, Any]) -> Reason:
    if mask is MISSING:
        box = "; a 'bbox' alone is not a mask" if "bbox" in entry else ""
        return Reason(index, "segmentation", f"missing{box}", PART)
    hint = " (polygons belong in a data set)" if isinstance(mask, (list, tuple)) else ""
    text = f"expected run lengths {{'size', 'counts'}}, got {shown(mask)}{hint}"
    return Reason(index, "segmentation", text, PART)


def result_entries(
    runs: rle.Runs,
    image_id: int,
    categories: Sequence[int] | Ints,
    scores: Sequence[float] | Floats,
) -> list[dict[str, Any]]:
    """The entries of one image, with plain numbers and compressed masks.

    Args:
        runs: M masks.
        image_id: id of the image in the data set.
        categories: category id of each mask, [M].
        scores: score of each mask, [M].

    Raises:
        ShapeError: not one category and score for each mask.
        ConfigError: a score that is not finite.
    """
    category = [int(number) for number in categories]
    score = [float(number) for number in scores]
    if not len(runs) == len(category) == len(score):
        raise ShapeError(
            f"{len(runs)} masks with {len(category)} categories and {len(score)} scores; "
            "expected one of each per mask"
        )
    for index, value in enumerate(score):
        if not math.isfinite(value):
            raise ConfigError(f"score {index} of image {image_id} is {value}; scores are finite")
    return [
        {"image_id": int(image_id), "category_id": c, "segmentation": mask, "score": s}
        for c, mask, s in zip(category, runs.to_coco(), score, strict=True)
    ]


def write_results(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Writes a result file that appears only when it is complete.

    Args:
        path: the JSON file.
        entries: as `result_entries` makes them, of all images.

    Raises:
        ConfigError: the file cannot be written, or an entry holds what JSON has no word for.
    """
    try:
        text = json.dumps(list(entries), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be written as JSON: {error}") from error
    write_whole(path, text + "\n")
