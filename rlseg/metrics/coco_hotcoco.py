"""COCO scores of run-length masks through the optional package hotcoco (Rust)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from rlseg.errors import ConfigError
from rlseg.metrics.coco import AREA_RANGES, COCO_MAX_DETS, CocoScores
from rlseg.metrics.coco_curves import RECALLS
from rlseg.metrics.coco_matching import IOU_THRESHOLDS, Floats, Ints
from rlseg.metrics.coco_pairs import check_masks
from rlseg.metrics.coco_records import (
    Detected,
    Ids,
    Truths,
    checked_ids,
    checked_limits,
    histogram,
    numbers,
)
from rlseg.rle import Runs


def available() -> bool:
    """Whether hotcoco is installed."""
    return find_spec("hotcoco") is not None


def hotcoco_can(*, compat: bool = False) -> bool:
    """Whether hotcoco gives the scores that `coco_scores` gives.

    It does for every input of `hotcoco_scores`, as far as tests on random problems show: equal
    scores, equal IoUs, crowds, given areas, any limits, and empty images. The one difference:
    it does not repeat the original's loss of annotation id 0. So results never depend on what is
    installed; only the time does.

    Args:
        compat: whether that loss is wanted.
    """
    return not compat


def hotcoco_scores(
    truths: Truths,
    detected: Detected,
    true_runs: Runs,
    detected_runs: Runs,
    *,
    images: Ids,
    categories: Ids,
    max_dets: Sequence[int] = COCO_MAX_DETS,
) -> CocoScores:
    """The scores of `coco_scores`, computed by hotcoco.

    hotcoco sees checked arrays only: images, categories and annotations are numbered from 1, run
    lengths are encoded anew, and what is not evaluated is left out before.

    Args:
        truths: N annotations.
        detected: M detections.
        true_runs: masks of the truths, N.
        detected_runs: masks of the detections, M.
        images: ids of the images to evaluate.
        categories: ids of the categories to evaluate.
        max_dets: limits per image and category, ascending.

    Raises:
        ConfigError: hotcoco is not installed, or max_dets is not ascending and positive.
        ShapeError: another number of masks than of instances, or two sizes in one image.
    """
    hotcoco = _hotcoco()
    limits = checked_limits(max_dets)
    image_ids, category_ids = checked_ids(images, "images"), checked_ids(categories, "categories")
    check_masks(truths, detected, true_runs, detected_runs)
    true = _side(truths, true_runs, image_ids, category_ids)
    found = _side(detected, detected_runs, image_ids, category_ids)
    if len(image_ids) == 0 or len(category_ids) == 0:
        precision, recall = _undefined(len(category_ids), len(limits))
    else:
        sizes = np.ones((len(image_ids), 2), dtype=np.int64)
        sizes[true.image], sizes[found.image] = true.masks.sizes, found.masks.sizes
        truth = _data_set(hotcoco, truths, true, sizes, len(category_ids))
        results = _results(truth, detected, found)
        precision, recall = _evaluated(hotcoco, truth, results, limits)
    counted = true.category[~truths.crowd[true.position]]
    return CocoScores(
        precision=precision,
        recall=recall,
        categories=category_ids,
        max_dets=limits,
        n_true=histogram(counted, len(category_ids)),
        n_pred=histogram(found.category, len(category_ids)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    """What is evaluated of the truths or of the detections."""

    position: Ints
    """Position in the record, [L]."""
    image: Ints
    """Number of the image from 0, [L]."""
    category: Ints
    """Number of the category from 0, [L]."""
    masks: Runs
    """L masks."""


def _side(record: Truths | Detected, runs: Runs, images: Ints, categories: Ints) -> _Side:
    image, category = numbers(record.image, images), numbers(record.category, categories)
    inside = np.flatnonzero((image >= 0) & (category >= 0))
    return _Side(
        position=inside, image=image[inside], category=category[inside], masks=runs.take(inside)
    )


def _data_set(hotcoco: Any, truths: Truths, side: _Side, sizes: Ints, categories: int) -> Any:
    """The truths as hotcoco holds them; sizes [images, 2]."""
    return hotcoco.COCO.from_arrays(
        [
            {"id": number, "height": height, "width": width, "file_name": ""}
            for number, (height, width) in enumerate(sizes.tolist(), start=1)
        ],
        [{"id": number, "name": str(number)} for number in range(1, categories + 1)],
        side.image + 1,
        side.category + 1,
        side.masks.boxes().astype(np.float64),
        ids=np.arange(1, len(side.position) + 1),
        area=truths.area[side.position].astype(np.float64),
        iscrowd=truths.crowd[side.position].astype(np.int64),
        segmentation=side.masks.to_coco(),
    )


def _results(truth: Any, detected: Detected, side: _Side) -> Any:
    """The detections as hotcoco holds them."""
    score = detected.score[side.position]
    rows = np.column_stack((side.image + 1, side.masks.boxes(), score, side.category + 1))
    results = truth.load_res(rows.astype(np.float64), segmentation=side.masks.to_coco())
    # Rows of numbers leave the area of the box.
    area = detected.area[side.position].astype(np.float64)
    results.update_anns(ids=np.arange(1, len(area) + 1), area=area)
    return results


def _hotcoco() -> Any:
    try:
        import hotcoco
    except ImportError as error:
        raise ConfigError(
            "hotcoco is not installed: pip install 'rlseg[fast]', or compute with coco_scores"
        ) from error
    return hotcoco


def _evaluated(
    hotcoco: Any, truth: Any, results: Any, limits: tuple[int, ...]
) -> tuple[Floats, Floats]:
    """Precision [T, R, K, A, M] and recall [T, K, A, M], nan where undefined."""
    evaluation = hotcoco.COCOeval(truth, results, "segm")
    evaluation.params.max_dets = list(limits)
    evaluation.evaluate()
    evaluation.accumulate()
    curves = (np.asarray(evaluation.eval[key]) for key in ("precision", "recall"))
    precision, recall = (np.where(curve < 0, np.nan, curve) for curve in curves)
    return precision, recall


def _undefined(categories: int, limits: int) -> tuple[Floats, Floats]:
    shape = (categories, len(AREA_RANGES), limits)
    recall = np.full((len(IOU_THRESHOLDS), *shape), np.nan)
    return np.full((len(IOU_THRESHOLDS), len(RECALLS), *shape), np.nan), recall
