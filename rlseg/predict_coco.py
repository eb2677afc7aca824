"""Instances as a list of scored masks, the form of results in which COCO and Places are scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlseg import rle
from rlseg.data.base import listed
from rlseg.data.image_table import ImageTable, read_image_table
from rlseg.data.places_table import CATEGORIES, MAX_INSTANCES, image_id_by_rule
from rlseg.errors import ConfigError, DivergenceError, ShapeError
from rlseg.prediction import Prediction
from rlseg.submissions import result_entries

__all__ = ["RESULTS_FILE", "Entry", "Target", "find_targets", "image_entries"]

RESULTS_FILE = "predictions.json"
"""Name of the file with the entries of all images."""

Entry = dict[str, Any]
"""image_id, category_id, segmentation, score, and score_from."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the entries of one image need besides the prediction."""

    image_id: int
    sides: tuple[int, int] | None
    """Height and width by the table of images; None = not known."""
    category: int | None
    """Of every instance, where the predictor gives none."""
    categories: frozenset[int] | None
    """Those that exist; None = any."""
    limit: int | None
    """Most instances of an image; None = any number."""


def find_targets(
    images: Sequence[Path],
    form: Literal["coco", "places"],
    category: int | None,
    images_json: Path | None,
) -> list[Target]:
    """One target per image.

    Args:
        images: files; those of `images_json` are found by name, or by name without ending where
            only one entry has it.
        form: "places" knows ids without a table and has categories 1 to 100 and at most 255
            instances in an image.
        category: category of every instance, where the predictor gives none.
        images_json: table of image ids.

    Raises:
        ConfigError: an image without an id or two of the same one, a category that does not exist,
            or a table that is not there.
        CorruptDatasetError: a damaged table.
    """
    table = None if images_json is None else read_image_table(images_json)
    categories = _categories(form, table)
    _check_categories([] if category is None else [category], categories, "--category")
    owner: dict[int, Path] = {}
    targets: list[Target] = []
    for path in images:
        if table is not None:
            entry = table.find(path.name)
            image_id, sides = entry.id, (entry.height, entry.width)
        elif form == "places":
            image_id, sides = image_id_by_rule(path.stem), None
        else:
            raise ConfigError(f"{path}: ids of images are needed; name a table with --images-json")
        other = owner.setdefault(image_id, path)
        if other != path:
            raise ConfigError(f"{other} and {path} are both image {image_id}; predict one of them")
        targets.append(
            Target(
                image_id=image_id,
                sides=sides,
                category=category,
                categories=categories,
                limit=MAX_INSTANCES if form == "places" else None,
            )
        )
    return targets


def _categories(form: str, table: ImageTable | None) -> frozenset[int] | None:
    if form == "places":
        return frozenset(range(1, len(CATEGORIES) + 1))
    return frozenset(table.categories) if table is not None and table.categories else None


def _check_categories(found: Iterable[int], categories: frozenset[int] | None, where: str) -> None:
    if categories is None:
        return
    unknown = sorted(set(found) - categories)
    if unknown:
        low, high = min(categories), max(categories)
        raise ConfigError(
            f"{where}: no category {listed(unknown)}; there are {len(categories)}, from {low} to "
            f"{high}"
        )


def image_entries(path: Path, prediction: Prediction, target: Target) -> list[Entry]:
    """The instances of the first image as entries of a result list, in order of their ids.

    The score is the predictor's, or, where it gives none, the share of the image's pixels that the
    instance covers; `score_from` says which, a key of our own that COCO tools read over.

    Args:
        path: the image, for messages.
        prediction: labels int64 [B, H, W]; scores and categories by id of the instance.
        target: of this image.

    Raises:
        ConfigError: no category or an unknown one, too many instances, another size than in the
            table.
        ShapeError: no two space axes, or fewer scores or categories than instances.
        DivergenceError: a score that is no finite number.
    """
    labels = prediction.labels[0].cpu().numpy()
    if labels.ndim != 2:
        raise ShapeError(
            f"{path}: {labels.ndim} space axes; result lists hold masks of 2: use --format tif"
        )
    if target.sides is not None and labels.shape != target.sides:
        raise ConfigError(
            f"{path}: {labels.shape[0]}x{labels.shape[1]} pixels, but the table of images has "
            f"{target.sides[0]}x{target.sides[1]} (rows x columns); predict the original image"
        )
    runs, found = rle.encode_labels(labels)
    ids = found.astype(np.int64)
    if target.limit is not None and len(ids) > target.limit:
        raise ConfigError(
            f"{path}: {len(ids)} instances; the challenge takes {target.limit} per image, whose "
            "numbers have 8 bits: leave the image out, or use --format coco with --images-json, "
            "which takes any number"
        )
    categories = _category_of(path, prediction, target, ids)
    if prediction.scores is None:
        scores, origin = runs.areas() / labels.size, "relative area"
    else:
        given = prediction.scores[0].detach().cpu().double().numpy()
        scores, origin = _by_id(given, ids, path, "scores"), "predictor"
        if not np.isfinite(scores).all():
            bad = ids[~np.isfinite(scores)].tolist()
            raise DivergenceError(
                f"{path}: the score of instance {listed(bad)} is no finite number; the weights of "
                "this checkpoint are damaged: predict with another one"
            )
    entries = result_entries(runs, target.image_id, categories, scores)
    return [entry | {"score_from": origin} for entry in entries]


def _category_of(
    path: Path, prediction: Prediction, target: Target, ids: NDArray[np.int64]
) -> NDArray[np.int64]:
    """int64 [M], category of each instance.

    Raises:
        ConfigError: neither the predictor nor the user gives one, both do, or it does not exist.
    """
    if prediction.categories is None:
        if target.category is None:
            raise ConfigError(
                f"{path}: the predictor knows no categories; name the one of all instances with "
                "--category ID"
            )
        return np.full(len(ids), target.category)
    if target.category is not None:
        raise ConfigError(
            f"--category {target.category}: the predictor gives every instance a category of its "
            "own; leave the option out"
        )
    given = prediction.categories[0].detach().cpu().numpy().astype(np.int64)
    found = _by_id(given, ids, path, "categories")
    _check_categories(found.tolist(), target.categories, str(path))
    return found


def _by_id(values: NDArray[Any], ids: NDArray[np.int64], path: Path, what: str) -> NDArray[Any]:
    """The values of instances: entry k belongs to id k + 1."""
    largest = int(ids.max(initial=0))
    if largest > len(values):
        raise ShapeError(
            f"{path}: the predictor gives {len(values)} {what}, but its labels go up to {largest}"
        )
    return values[ids - 1]
