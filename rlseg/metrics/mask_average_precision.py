"""COCO average precision of masks that come image by image, from one process or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlseg.errors import ConfigError, ShapeError
from rlseg.metrics.coco import COCO_MAX_DETS, CocoScores, Detected, MaskPairs, Truths, coco_scores
from rlseg.metrics.coco_pairs import ImagePairs, Masks, dense_pairs, run_pairs, table_pairs
from rlseg.metrics.coco_records import checked_ids, checked_limits
from rlseg.metrics.overlap import LabelMap, overlap
from rlseg.rle import Runs

COLUMNS: dict[str, type[np.generic]] = {
    # one entry per image
    "image": np.int64,  # id, or a running number
    "named": np.bool_,  # whether the id was given
    "true_count": np.int64,
    "pred_count": np.int64,
    "pair_count": np.int64,
    # one entry per truth
    "true_category": np.int64,
    "true_area": np.float64,
    "crowd": np.bool_,
    # one entry per detection
    "pred_category": np.int64,
    "pred_area": np.float64,
    "score": np.float64,
    # one entry per overlapping pair; positions within the image
    "pair_pred": np.int64,
    "pair_true": np.int64,
    "pair_iou": np.float64,
}
"""What an accumulator holds, and exports with `records`: name -> dtype, one axis each."""


class MaskAveragePrecision:
    """Collects scored masks image by image; `compute` gives the COCO numbers of all of them.

    An image holds truths and detections with a category each, as dense masks (`update`), label
    maps (`update_labels`) or run lengths (`update_runs`). Kept are areas, categories, scores and
    the overlaps of masks, not the masks. Average precision is no sum over images: ranks exchange
    what `records` returns, and `add_records` takes it.

    Args:
        max_dets: limits on the detections per image and category, ascending.
        categories: ids of the categories to evaluate; None = all that occur.

    Raises:
        ConfigError: max_dets is not ascending and positive.
        ShapeError: categories are no integers.
    """

    def __init__(
        self, *, max_dets: Sequence[int] = COCO_MAX_DETS, categories: Sequence[int] | None = None
    ) -> None:
        self.max_dets = checked_limits(max_dets)
        self.categories = None if categories is None else checked_ids(categories, "categories")
        self._parts: dict[str, list[NDArray[Any]]] = {name: [] for name in COLUMNS}
        self._images = 0

    def __len__(self) -> int:
        return self._images

    def update(
        self,
        pred_masks: Masks,
        pred_categories: Any,
        scores: Any,
        true_masks: Masks,
        true_categories: Any,
        *,
        crowd: Any = None,
        areas: Any = None,
        image: int | None = None,
    ) -> None:
        """Adds an image with dense masks, which may overlap each other.

        Args:
            pred_masks: bool or integer [M, *S], non-zero = inside.
            pred_categories: integer [M].
            scores: real [M], finite.
            true_masks: bool or integer [N, *S].
            true_categories: integer [N].
            crowd: bool [N], regions of many instances; None = none.
            areas: real [N], areas that decide on the area range; None = those of the masks.
            image: id of the image, given for all or for none. Equal scores are sorted by it (by
                order of arrival without): with ids the result does not depend on how images
                were shared out over processes.

        Raises:
            ShapeError: shapes or dtypes do not fit.
            ConfigError: a score or area is not finite, or only some images have ids.
        """
        own, others, crowds = _ids(pred_categories), _ids(true_categories), _crowd(crowd)
        pairs = dense_pairs(pred_masks, true_masks, own, others, crowds)
        self.add(pairs, own, scores, others, crowd=crowds, areas=areas, image=image)

    def update_labels(
        self,
        pred: LabelMap,
        pred_categories: Any,
        scores: Any,
        true: LabelMap,
        true_categories: Any,
        *,
        crowd: Any = None,
        areas: Any = None,
        image: int | None = None,
    ) -> None:
        """Adds an image with label maps.

        Args:
            pred: integer [*S], 0 = background.
            pred_categories: of the M predicted instances in ascending order of their ids.
            scores: of the same, [M].
            true: integer [*S].
            true_categories: of the N true instances in ascending order of their ids.
            crowd: as in `update`.
            areas: as in `update`.
            image: as in `update`.

        Raises:
            ShapeError: as in `update`.
            ConfigError: as in `update`.
        """
        own, others, crowds = _ids(pred_categories), _ids(true_categories), _crowd(crowd)
        pairs = table_pairs(overlap(pred, true), own, others, crowds)
        self.add(pairs, own, scores, others, crowd=crowds, areas=areas, image=image)

    def update_runs(
        self,
        pred_runs: Runs,
        pred_categories: Any,
        scores: Any,
        true_runs: Runs,
        true_categories: Any,
        *,
        crowd: Any = None,
        areas: Any = None,
        image: int | None = None,
    ) -> None:
        """Adds an image with run-length masks; the rest as in `update`.

        Raises:
            ShapeError: as in `update`.
            ConfigError: as in `update`.
        """
        own, others, crowds = _ids(pred_categories), _ids(true_categories), _crowd(crowd)
        pred_area, true_area = pred_runs.areas(), true_runs.areas()
        truths = Truths(
            image=np.zeros(len(others), dtype=np.int64),
            category=others,
            area=true_area.astype(np.float64),
            crowd=np.zeros(len(others), dtype=np.bool_) if crowds is None else crowds,
        )
        detected = Detected(
            image=np.zeros(len(own), dtype=np.int64),
            category=own,
            area=pred_area.astype(np.float64),
            score=np.zeros(len(own)),
        )
        found = run_pairs(detected, truths, pred_runs, true_runs)
        pairs = ImagePairs(
            pred=found.detection,
            true=found.truth,
            iou=found.iou,
            pred_area=pred_area,
            true_area=true_area,
        )
        self.add(pairs, own, scores, others, crowd=crowds, areas=areas, image=image)

    def add(
        self,
        pairs: ImagePairs,
        pred_categories: Any,
        scores: Any,
        true_categories: Any,
        *,
        crowd: Any = None,
        areas: Any = None,
        image: int | None = None,
    ) -> None:
        """Adds an image whose pairs are known; see `rlseg.metrics.coco_pairs`.

        Raises:
            ShapeError: as in `update`.
            ConfigError: as in `update`.
        """
        if image is not None and not isinstance(image, (int, np.integer)):
            raise ConfigError(f"image is {image!r}; ids of images are integers")
        where = self._images if image is None else int(image)
        instances, truths = len(pairs.pred_area), len(pairs.true_area)
        crowds = _crowd(crowd)
        part = {
            "image": np.array([where]),
            "named": np.array([image is not None]),
            "true_count": np.array([truths]),
            "pred_count": np.array([instances]),
            "pair_count": np.array([len(pairs.pred)]),
            "true_category": _ids(true_categories),
            "true_area": pairs.true_area if areas is None else _array(areas),
            "crowd": np.zeros(truths, dtype=np.bool_) if crowds is None else crowds,
            "pred_category": _ids(pred_categories),
            "pred_area": pairs.pred_area,
            "score": _array(scores),
            "pair_pred": pairs.pred,
            "pair_true": pairs.true,
            "pair_iou": pairs.iou,
        }
        for name, size in (("true_category", truths), ("true_area", truths), ("crowd", truths)):
            _check_column(name, part[name], size, where)
        for name in ("pred_category", "score"):
            _check_column(name, part[name], instances, where)
        self._append(part)

    def merge(self, other: MaskAveragePrecision) -> None:
        """Adds everything the other one holds.

        Raises:
            ConfigError: it has other limits or categories.
        """
        same = other.max_dets == self.max_dets and (
            np.array_equal(other.categories, self.categories)
            if other.categories is not None and self.categories is not None
            else other.categories is self.categories
        )
        if not same:
            raise ConfigError("cannot merge average precision of other max_dets or categories")
        self.add_records(other.records())

    def records(self) -> dict[str, NDArray[Any]]:
        """All that was added, as arrays of one axis: to be sent to another process or saved.

        Keys and dtypes are those of `COLUMNS`.
        """
        return {
            name: np.concatenate([np.zeros(0, dtype=dtype), *self._parts[name]]).astype(dtype)
            for name, dtype in COLUMNS.items()
        }

    def add_records(self, records: Mapping[str, NDArray[Any]]) -> None:
        """Adds what `records` of another accumulator returned.

        Raises:
            ShapeError: a column is missing, or its length contradicts the counts.
        """
        columns = {name: _array(records[name]) for name in COLUMNS if name in records}
        _check_records(columns)
        self._append(columns)

    def _append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        for name, column in columns.items():
            self._parts[name].append(column.astype(COLUMNS[name], copy=False))
        self._images += len(columns["image"])

    def scores(self) -> CocoScores:
        """Precision and recall of everything added.

        Raises:
            ConfigError: only some images have ids, or an id was added twice.
        """
        columns = self.records()
        images = _image_ids(columns["image"], columns["named"])
        true_count, pred_count = columns["true_count"], columns["pred_count"]
        truths = Truths(
            image=np.repeat(images, true_count),
            category=columns["true_category"],
            area=columns["true_area"],
            crowd=columns["crowd"],
        )
        detected = Detected(
            image=np.repeat(images, pred_count),
            category=columns["pred_category"],
            area=columns["pred_area"],
            score=columns["score"],
        )
        first_true, first_pred = (
            np.cumsum(true_count) - true_count,
            np.cumsum(pred_count) - pred_count,
        )
        pairs = MaskPairs(
            detection=columns["pair_pred"] + np.repeat(first_pred, columns["pair_count"]),
            truth=columns["pair_true"] + np.repeat(first_true, columns["pair_count"]),
            iou=columns["pair_iou"],
        )
        categories = self.categories
        if categories is None:
            categories = np.union1d(truths.category, detected.category)
        return coco_scores(
            truths, detected, pairs, images=images, categories=categories, max_dets=self.max_dets
        )

    def compute(self) -> dict[str, float]:
        """The COCO numbers, see `CocoScores.summary`; nan where undefined, as without images.

        Raises:
            ConfigError: see `scores`.
        """
        return self.scores().summary()


def _array(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _ids(values: Any) -> NDArray[Any]:
    array = _array(values)
    return array if array.size else array.astype(np.int64)  # an empty list has no integer type


def _crowd(crowd: Any) -> NDArray[Any] | None:
    if crowd is None:
        return None
    array = _array(crowd)
    return array if array.size else array.astype(np.bool_)


def _check_column(name: str, column: NDArray[Any], size: int, image: int) -> None:
    kinds = {"crowd": "b", "true_category": "iu", "pred_category": "iu"}.get(name, "iuf")
    if column.shape != (size,) or (size and column.dtype.kind not in kinds):
        raise ShapeError(
            f"{name} of image {image} has shape {list(column.shape)} and dtype {column.dtype}; "
            f"expected [{size}], one for each instance"
        )
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        place = int(np.flatnonzero(~np.isfinite(column))[0])
        raise ConfigError(f"{name}[{place}] of image {image} is {column[place]}; make it finite")


def _check_records(columns: Mapping[str, NDArray[Any]]) -> None:
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise ShapeError(f"records lack {missing[0]!r}; give what `records` returned")
    sizes = {
        "true": columns["true_count"].sum(),
        "pred": columns["pred_count"].sum(),
        "pair": columns["pair_count"].sum(),
        "crowd": columns["true_count"].sum(),
        "score": columns["pred_count"].sum(),
    }
    for name, column in columns.items():
        per_image = name in ("image", "named") or name.endswith("_count")
        size = len(columns["image"]) if per_image else int(sizes[name.split("_")[0]])
        if column.shape != (size,):
            raise ShapeError(
                f"records[{name!r}] has shape {list(column.shape)}, expected [{size}] by the counts"
            )


def _image_ids(image: NDArray[np.int64], named: NDArray[np.bool_]) -> NDArray[np.int64]:
    """One id per image: those given, else numbers by order of arrival."""
    if not named.any():
        return np.arange(len(image))
    if not named.all():
        raise ConfigError(
            f"{int(named.sum())} of {len(named)} images came with an id; give it for all or none"
        )
    ids, count = np.unique(image, return_counts=True)
    if len(ids) < len(image):
        raise ConfigError(
            f"image {ids[count > 1][0]} was added twice; give each image once, by one process"
        )
    return image
