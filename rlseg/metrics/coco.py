"""COCO average precision of scored masks: parsed arrays in, numbers out.

In each image and category the detections are matched in the order of their scores (ties: file
order) by `rlseg.metrics.coco_matching.match`. An unmatched detection outside the area range is
ignored, as is one matched to an ignored truth. Over all images the detections of a category are
sorted by score (ties: lower image id, then rank in the image); precision and recall along this
list are read at 101 recalls by `rlseg.metrics.coco_curves.precision_recall`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlseg.errors import ConfigError
from rlseg.metrics.coco_curves import RECALLS, precision_recall
from rlseg.metrics.coco_matching import IOU_THRESHOLDS, Bools, Floats, Ints, match
from rlseg.metrics.coco_records import (
    Detected,
    Ids,
    MaskPairs,
    Truths,
    check_pairs,
    checked_ids,
    checked_limits,
    histogram,
    numbers,
    ranked,
)

__all__ = [
    "AREA_RANGES",
    "COCO_MAX_DETS",
    "PLACES_MAX_DETS",
    "CocoScores",
    "Detected",
    "MaskPairs",
    "Truths",
    "coco_scores",
    "keep_best",
]

AREA_RANGES: dict[str, tuple[float, float]] = {
    "all": (0, 1e10),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e10),
}
"""Name -> smallest and largest area in pixels, both inclusive."""

COCO_MAX_DETS = (1, 10, 100)
"""Limits on the detections per image and category that COCO uses."""

PLACES_MAX_DETS = (1, 50, 255)
"""Those of the Places Challenge."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoScores:
    """Precision and recall of scored masks; nan where a category has no truth that counts.

    Axes: T = 10 IoU thresholds, R = 101 recalls, K categories, A = 4 area ranges, M limits.
    """

    precision: Floats
    """Largest precision at this recall or above, 0 if it is not reached, [T, R, K, A, M]."""
    recall: Floats
    """Largest recall, [T, K, A, M]."""
    categories: Ints
    """Category ids, ascending, [K]."""
    max_dets: tuple[int, ...]
    """Limits on the detections per image and category, ascending, M of them."""
    n_true: Ints
    """Truths without the crowds, [K]."""
    n_pred: Ints
    """Detections before any limit, [K]."""

    def summary(self) -> dict[str, float]:
        """The headline numbers; with three limits the twelve of COCO.

        Keys: `ap`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, all at the largest limit;
        `ar<limit>` for each limit; `ar_small`, `ar_medium`, `ar_large` at the largest limit.

        Returns:
            Means over all defined entries, in [0, 1]. A category without a truth is left out; no
            truth at all: nan; truths but no detection: 0.
        """
        best = self.precision[..., -1]  # [T, R, K, A]
        names = list(AREA_RANGES)
        scores = {
            "ap": _mean(best[:, :, :, 0]),
            "ap50": _mean(best[0, :, :, 0]),
            "ap75": _mean(best[5, :, :, 0]),
        }
        for area in range(1, len(names)):
            scores[f"ap_{names[area]}"] = _mean(best[:, :, :, area])
        for index, limit in enumerate(self.max_dets):
            scores[f"ar{limit}"] = _mean(self.recall[:, :, 0, index])
        for area in range(1, len(names)):
            scores[f"ar_{names[area]}"] = _mean(self.recall[:, :, area, -1])
        return scores

    def per_category(self) -> list[dict[str, Any]]:
        """One row per category in id order: `id`, `ap`, `ap50`, `n_true`, `n_pred`.

        `ap` and `ap50` are nan for a category without truth.
        """
        # One order in memory, whoever made the arrays: sums must not differ in the last bit.
        curves = np.ascontiguousarray(self.precision[:, :, :, 0, -1].transpose(2, 0, 1))
        mean = curves.reshape(len(curves), len(IOU_THRESHOLDS) * len(RECALLS)).mean(axis=1)
        at_half = curves[:, 0].mean(axis=1)
        columns = (self.categories, mean, at_half, self.n_true, self.n_pred)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        keys = ("id", "ap", "ap50", "n_true", "n_pred")
        return [dict(zip(keys, row, strict=True)) for row in rows]


def coco_scores(
    truths: Truths,
    detected: Detected,
    pairs: MaskPairs,
    *,
    images: Ids,
    categories: Ids,
    max_dets: Sequence[int] = COCO_MAX_DETS,
    compat: int | None = None,
) -> CocoScores:
    """Precision and recall as the COCO tools compute them; the module says how.

    Args:
        truths: annotations, N of them.
        detected: detections, M of them.
        pairs: overlapping ones; see `rlseg.metrics.coco_pairs`.
        images: ids of the images to evaluate; others are left out, as are repeated ids.
        categories: ids of the categories to evaluate.
        max_dets: limits per image and category, ascending; matching happens at the largest.
        compat: position of the truth that the original loses, because it takes annotation id 0
            for "no match"; None = score it like any other.

    Returns:
        Equal to pycocotools (undefined entries: nan there -1).

    Raises:
        ConfigError: max_dets not ascending and positive, or `compat` is no truth.
        ShapeError: a position in `pairs` is out of range, or joins two images or categories.
    """
    limits = checked_limits(max_dets)
    check_pairs(truths, detected, pairs)
    if compat is not None and not 0 <= compat < len(truths):
        raise ConfigError(
            f"compat is {compat}; expected the position of one of the {len(truths)} truths"
        )
    image_ids, category_ids = checked_ids(images, "images"), checked_ids(categories, "categories")
    group = _groups(detected, image_ids, category_ids)
    category, true_category = group[1], _groups(truths, image_ids, category_ids)[1]
    order, rank = ranked(group[0], detected.score, limits[-1])
    ignored = truths.crowd | _outside(truths.area)  # [A, N]
    hit, missed = _outcomes(truths, detected, pairs, order, ignored, compat)
    # From here on in the order of the whole data set: category, then score.
    sequence = np.lexsort((-detected.score[order], category[order]))  # stable: then image, rank
    hit, missed = hit[:, :, sequence], missed[:, :, sequence]
    n_true = [histogram(true_category[~out], len(category_ids)) for out in ignored]
    sorted_category = category[order][sequence]
    precision, recall = _curves(hit, missed, sorted_category, rank[sequence], n_true, limits)
    return CocoScores(
        precision=precision,
        recall=recall,
        categories=category_ids,
        max_dets=limits,
        n_true=histogram(true_category[~truths.crowd], len(category_ids)),
        n_pred=histogram(category, len(category_ids)),
    )


def _curves(
    hit: Bools,
    missed: Bools,
    category: Ints,
    rank: Ints,
    n_true: Sequence[Ints],
    limits: tuple[int, ...],
) -> tuple[Floats, Floats]:
    """Precision [T, R, K, A, M] and recall [T, K, A, M] of sorted detections."""
    areas, thresholds, _ = hit.shape
    shape = (areas, len(limits), thresholds, len(n_true[0]))
    precision, recall = np.empty((*shape, len(RECALLS))), np.empty(shape)
    for index in reversed(range(len(limits))):
        kept = rank < limits[index]
        if index + 1 < len(limits) and kept.sum() == (rank < limits[index + 1]).sum():
            precision[:, index] = precision[:, index + 1]  # the lower limit cuts nothing
            recall[:, index] = recall[:, index + 1]
            continue
        for area in range(areas):
            parts = (hit[area][:, kept], missed[area][:, kept], category[kept])
            precision[area, index], recall[area, index] = precision_recall(*parts, n_true[area])
    return precision.transpose(2, 4, 3, 0, 1), recall.transpose(2, 3, 0, 1)


def keep_best(detected: Detected, count: int) -> Ints:
    """Positions of the `count` detections of each image with the best scores, in file order.

    Over all categories of the image; ties: file order. The strict reading of a limit that the
    COCO tools apply per category.

    Raises:
        ConfigError: count is below 1.
    """
    if count < 1:
        raise ConfigError(f"count is {count}; keep at least 1 detection per image")
    image = np.unique(detected.image, return_inverse=True)[1].astype(np.int64)
    return np.sort(ranked(image, detected.score, count)[0])


def _groups(record: Truths | Detected, images: Ints, categories: Ints) -> tuple[Ints, Ints]:
    """Number of the image and category, and of the category; both -1 if not evaluated."""
    image, category = numbers(record.image, images), numbers(record.category, categories)
    inside = (image >= 0) & (category >= 0)
    group = np.where(inside, category * len(images) + image, -1)
    return group, np.where(inside, category, -1)


def _outside(area: Floats) -> Bools:
    """Which areas are outside each range, [A, N]."""
    low, high = np.array(list(AREA_RANGES.values()), dtype=np.float64).T[:, :, None]
    outside: Bools = (area < low) | (area > high)
    return outside


def _outcomes(
    truths: Truths,
    detected: Detected,
    pairs: MaskPairs,
    order: Ints,
    ignored: Bools,
    compat: int | None,
) -> tuple[Bools, Bools]:
    """True and false positives among the detections `order`, [A, T, D] each."""
    number = np.full(len(detected), -1, dtype=np.int64)
    number[order] = np.arange(len(order))
    found = number[pairs.detection]
    known = found >= 0
    matches = match(
        found[known], pairs.truth[known], pairs.iou[known], ignored=ignored, crowd=truths.crowd
    )
    outside = _outside(detected.area[order])  # [A, D]
    thresholds = len(IOU_THRESHOLDS)
    missed = np.repeat(~outside[:, None, :], thresholds, axis=1)  # without a match
    hit = np.zeros_like(missed)
    taken = matches.truth.transpose(1, 2, 0)  # [A, T, F]
    matched = taken >= 0
    if len(taken[0, 0]):
        passed_over = matched & ignored[np.arange(len(ignored))[:, None, None], taken]
        if compat is not None:
            matched = matched & (taken != compat)
        passed_over |= ~matched & outside[:, None, matches.detection]
        hit[:, :, matches.detection] = matched & ~passed_over
        missed[:, :, matches.detection] = ~matched & ~passed_over
    return hit, missed


def _mean(values: Floats) -> float:
    """Mean of the defined entries; nan if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
