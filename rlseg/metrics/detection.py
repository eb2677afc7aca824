"""Scores of label maps at IoU thresholds: matches, `dsb`, panoptic quality, average precision.

In a label map instances do not overlap, so pairs with IoU above 1/2 are one-to-one by themselves
and no assignment is needed at the thresholds used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlseg.errors import ConfigError, ShapeError
from rlseg.metrics.instance import known
from rlseg.metrics.overlap import Floats, Ints, Overlap

ThresholdConvention = Literal["stardist", "strict"]

DSB_THRESHOLDS = tuple(step / 20 for step in range(10, 20))
"""0.50, 0.55 .. 0.95."""
AP_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # as the COCO tools have them, rounding included
AP_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, kw_only=True)
class ThresholdRow:
    """Matches at one IoU threshold: TP pairs, FP = M - TP, FN = N - TP; rows can be added."""

    iou: float
    """The threshold."""
    tp: int
    fp: int
    fn: int
    iou_sum: float
    """Sum of IoU over the matched pairs."""

    def __add__(self, other: ThresholdRow) -> ThresholdRow:
        """The row of both images together."""
        return ThresholdRow(
            iou=self.iou,
            tp=self.tp + other.tp,
            fp=self.fp + other.fp,
            fn=self.fn + other.fn,
            iou_sum=self.iou_sum + other.iou_sum,
        )

    @property
    def dsb(self) -> float:
        """`TP / (TP + FP + FN)`, 0 when TP = 0."""
        return self.tp / (self.tp + self.fp + self.fn) if self.tp else 0.0

    def scores(self) -> dict[str, float]:
        """All ratios of the row; each is 0 when TP = 0, also if there is nothing at all.

        Returns:
            `precision = TP / M`, `recall = TP / N`, `dsb = TP / (TP + FP + FN)`, `f1 = 2 TP / (2 TP
            + FP + FN)`, `mean_matched_iou = sum IoU / TP`, `mean_true_iou = sum IoU / N`, `pq = sum
            IoU / (TP + FP / 2 + FN / 2)`.
        """
        tp, fp, fn, total = self.tp, self.fp, self.fn, self.iou_sum
        some = tp > 0
        return {
            "precision": tp / (tp + fp) if some else 0.0,
            "recall": tp / (tp + fn) if some else 0.0,
            "dsb": self.dsb,
            "f1": 2 * tp / (2 * tp + fp + fn) if some else 0.0,
            "mean_matched_iou": total / tp if some else 0.0,
            "mean_true_iou": total / (tp + fn) if some else 0.0,
            "pq": total / (tp + (fp + fn) / 2) if some else 0.0,
        }


def scores_at_thresholds(
    overlap: Overlap,
    thresholds: Sequence[float] = DSB_THRESHOLDS,
    *,
    convention: ThresholdConvention = "stardist",
) -> list[ThresholdRow]:
    """Matches at IoU thresholds of 1/2 and above.

    The score `dsb = TP / (TP + FP + FN)` is what cellpose and the 2018 Data Science Bowl call
    average precision and StarDist calls accuracy; it is not the average precision of COCO.

    Args:
        overlap: of one image.
        thresholds: in [0.5, 1]. For lower ones use `matching.match_at`.
        convention: "stardist" (default): `IoU >= t`. "strict" (Data Science Bowl): `IoU > t`.

    Returns:
        One row per threshold.

    Raises:
        ConfigError: unknown convention, or a threshold outside [0.5, 1].
    """
    known(convention, ("stardist", "strict"), "scores at a threshold")
    if any(not 0.5 <= t <= 1 for t in thresholds):
        raise ConfigError(
            f"thresholds must be in [0.5, 1], got {list(thresholds)}; below 1/2 the matching needs "
            "an assignment: matching.match_at"
        )
    iou = np.sort(overlap.pairs.iou[half_matches(overlap)])
    side: Literal["left", "right"] = "left" if convention == "stardist" else "right"
    first = np.searchsorted(iou, np.asarray(thresholds, dtype=np.float64), side=side)
    # Summed from the largest down, so that a row does not depend on the pairs below it.
    sums = np.concatenate(([0.0], np.cumsum(iou[::-1])))
    rows = []
    for threshold, start in zip(thresholds, first.tolist(), strict=True):
        tp = len(iou) - start
        rows.append(
            ThresholdRow(
                iou=float(threshold),
                tp=tp,
                fp=overlap.pred_instances - tp,
                fn=overlap.true_instances - tp,
                iou_sum=float(sums[tp]),
            )
        )
    return rows


def half_matches(overlap: Overlap, priority: NDArray[Any] | None = None) -> Ints:
    """Which cells of `overlap.pairs` form the one-to-one matching at IoU >= 1/2.

    Pairs above 1/2 are unique. Pairs of exactly 1/2 stand alone or come in twos that share an
    instance (two halves of one segment): of those, one is kept.

    Args:
        overlap: of one image.
        priority: per pair [L]; among two such halves the larger is kept, and on a tie the
            first (lowest predicted, then lowest true index). None = all equal.

    Returns:
        int64 indices into the pairs, ascending.
    """
    pairs, cells = overlap.pairs, overlap.half_pairs
    half = cells[pairs.iou[cells] == 0.5]
    if len(half) < 2:
        return cells
    if priority is not None:
        half = half[np.argsort(-priority[half], kind="stable")]
    used_pred: set[int] = set()
    used_true: set[int] = set()
    dropped = []
    for cell in half.tolist():
        pred, true = int(pairs.pred[cell]), int(pairs.true[cell])
        if pred in used_pred or true in used_true:
            dropped.append(cell)
        used_pred.add(pred)
        used_true.add(true)
    return np.setdiff1d(cells, dropped) if dropped else cells


class Panoptic(NamedTuple):
    """Panoptic quality `pq = sq * rq` of one class."""

    pq: float
    sq: float
    rq: float


def panoptic(overlap: Overlap) -> Panoptic:
    """Panoptic quality of one image; see `panoptic_quality`."""
    return panoptic_quality(panoptic_row(overlap))


def panoptic_row(overlap: Overlap) -> ThresholdRow:
    """Matches where IoU > 1/2; add the rows of a data set and give them to `panoptic_quality`."""
    return scores_at_thresholds(overlap, (0.5,), convention="strict")[0]


def panoptic_quality(row: ThresholdRow) -> Panoptic:
    """Panoptic quality of pooled matches.

    `sq = sum IoU / TP`, `rq = TP / (TP + FP / 2 + FN / 2)`, `pq = sq rq`. TP = 0 with something on
    either side: pq = rq = 0, sq nan. Nothing on both: all nan.

    Args:
        row: sum of `panoptic_row` over the images.
    """
    nan = float("nan")
    if row.tp == 0:
        rq = 0.0 if row.fp + row.fn else nan
        return Panoptic(rq, nan, rq)
    sq = row.iou_sum / row.tp
    rq = row.tp / (row.tp + (row.fp + row.fn) / 2)
    return Panoptic(sq * rq, sq, rq)


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """What average precision needs of one image."""

    score: Floats
    """Confidence per predicted instance, in ascending order of ids, [M]."""
    iou: Floats
    """IoU with the true instance it is matched to at 1/2; 0 if none, [M]."""
    true_instances: int


class AveragePrecision(NamedTuple):
    """Mean over IoU 0.50 .. 0.95, and at 0.50 and 0.75."""

    ap: float
    ap50: float
    ap75: float


def detections(overlap: Overlap, scores: NDArray[Any] | None = None) -> Detections:
    """Matched predictions of one image with their scores.

    Args:
        overlap: of one image.
        scores: real [M] in ascending order of the predicted ids, finite; None = pixel area.

    Raises:
        ShapeError: another number of scores than predicted instances.
        ConfigError: a score is not finite.
    """
    number = overlap.pred_instances
    if scores is None:
        values = overlap.pred_area[1:].astype(np.float64)
    else:
        values = np.asarray(scores, dtype=np.float64)
        if values.shape != (number,):
            raise ShapeError(
                f"scores have shape {list(values.shape)} for {number} predicted instances; "
                "give one score per instance, in ascending order of the ids"
            )
        if not np.isfinite(values).all():
            raise ConfigError(
                f"score of instance {int(np.flatnonzero(~np.isfinite(values))[0]) + 1} is not "
                "finite; average precision sorts by scores: give finite numbers"
            )
    pairs = overlap.pairs
    # On equal IoU a prediction takes the later true instance, as the COCO tools do; either way it
    # is one true positive, so only the choice among predictions matters.
    cells = half_matches(overlap, values[pairs.pred - 1])
    iou = np.zeros(number)
    iou[pairs.pred[cells] - 1] = pairs.iou[cells]
    return Detections(score=values, iou=iou, true_instances=overlap.true_instances)


def average_precision(
    images: Overlap | Sequence[Overlap],
    scores: Sequence[NDArray[Any] | None] | None = None,
    *,
    convention: Literal["coco-labelmap"] = "coco-labelmap",
) -> AveragePrecision:
    """Average precision of label maps, pooled over the images; see `pooled_average_precision`.

    Args:
        images: tables of all images, in name order.
        scores: per image, scores of its predicted instances; None = pixel area.
        convention: "coco-labelmap", the only one.

    Raises:
        ConfigError: unknown convention, a score that is not finite, or not one entry per image.
        ShapeError: not one score per predicted instance.
    """
    known(convention, ("coco-labelmap",), "average precision of label maps")
    tables = [images] if isinstance(images, Overlap) else list(images)
    given = [None] * len(tables) if scores is None else list(scores)
    if len(given) != len(tables):
        raise ConfigError(f"scores of {len(given)} images for {len(tables)} images")
    return pooled_average_precision(
        [detections(table, score) for table, score in zip(tables, given, strict=True)]
    )


def pooled_average_precision(images: Sequence[Detections]) -> AveragePrecision:
    """Average precision over all predictions of a data set, sorted by score.

    One category, no crowd, no size ranges, no cap on the number of predictions. At each IoU
    threshold `numpy.linspace(.5, .95, 10)`: precision `TP / (FP + TP + 2^-52)` made
    non-increasing, read at the 101 recalls 0, 0.01 .. 1, and averaged; then the mean over
    thresholds. Order: score descending, then image, then ascending id.

    Args:
        images: in name order.

    Returns:
        Scores in [0, 1]. No true instance in the whole set: nan. True instances but no
        prediction: 0.
    """
    truths = sum(image.true_instances for image in images)
    if truths == 0:
        return AveragePrecision(float("nan"), float("nan"), float("nan"))
    score = np.concatenate([image.score for image in images])
    iou = np.concatenate([image.iou for image in images])
    if len(score) == 0:
        return AveragePrecision(0.0, 0.0, 0.0)
    hit = iou[np.argsort(-score, kind="stable")][None, :] >= AP_THRESHOLDS[:, None]  # [T, M]
    tp = np.cumsum(hit, axis=1)
    rank = np.arange(1, len(score) + 1)
    precision = tp / (rank + np.spacing(1.0))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    values = np.zeros((len(AP_THRESHOLDS), len(AP_RECALLS)))
    for row, (found, height) in enumerate(zip(tp / truths, precision, strict=True)):
        at = np.searchsorted(found, AP_RECALLS, side="left")
        inside = at < len(found)
        values[row, inside] = height[at[inside]]
    return AveragePrecision(float(values.mean()), float(values[0].mean()), float(values[5].mean()))
