"""Matches at thresholds, panoptic quality and average precision against slow loops."""

import math

import numpy as np
import pytest
import slow_scores as slow

from rlseg.errors import ConfigError, ShapeError
from rlseg.matching import match_at
from rlseg.metrics import (
    average_precision,
    overlap,
    panoptic,
    panoptic_quality,
    panoptic_row,
    scores_at_thresholds,
)
from rlseg.metrics.detection import DSB_THRESHOLDS

pytestmark = pytest.mark.filterwarnings("error")

Z = np.zeros((2, 4), dtype=np.int64)
HALVES = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
WHOLE = np.ones((2, 4), dtype=np.int64)


def strips(seed, length=60):
    """Intervals on a line, shifted and jittered: many IoUs of 1/2, 3/5 and the like."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(np.arange(1, length), 14, replace=False))
    true = np.searchsorted(cuts, np.arange(length), side="right")
    cuts = np.unique(np.clip(cuts + rng.integers(-1, 2, 14), 1, length - 1))
    pred = np.searchsorted(cuts, np.arange(length), side="right")
    return (pred * (rng.random(length) > 0.05))[None], (true % 13)[None]


MAPS = [strips(seed) for seed in range(15)]
MAPS += [(a, b) for a in (Z, HALVES, WHOLE) for b in (Z, HALVES, WHOLE)]
SMALL = [(p[:, :24], t[:, :24]) for p, t in MAPS]


@pytest.mark.parametrize("convention", ["stardist", "strict"])
@pytest.mark.parametrize(("pred", "true"), SMALL)
def test_rows_equal_the_best_of_all_matchings(pred, true, convention):
    rows = scores_at_thresholds(overlap(pred, true), convention=convention)
    scores = slow.iou_table(pred, true)
    m, n = len(slow.masks(pred)), len(slow.masks(true))
    for t, row in zip(DSB_THRESHOLDS, rows, strict=True):
        passes = (lambda s, t=t: s >= t) if convention == "stardist" else (lambda s, t=t: s > t)
        pairs, total = slow.best_matching(scores, passes)
        assert (row.iou, row.tp, row.fp, row.fn) == (t, pairs, m - pairs, n - pairs)
        assert row.iou_sum == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize(("pred", "true"), MAPS)
def test_rows_equal_the_hungarian_matching(pred, true):
    table = overlap(pred, true)
    pairs = table.pairs
    iou = np.zeros((table.pred_instances, table.true_instances))
    iou[pairs.pred - 1, pairs.true - 1] = pairs.iou
    for row in scores_at_thresholds(table):
        match = match_at(iou, row.iou)
        assert len(match.pred) == row.tp
        assert match.iou.sum() == pytest.approx(row.iou_sum, abs=1e-12)


def test_ratios_by_hand():
    # A: 3 of 5 pixels; B exactly; one surplus prediction, one lost truth.
    pred = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 3]])
    true = np.array([[0, 1, 1, 1, 1, 2, 2, 3, 0]])
    row = {r.iou: r for r in scores_at_thresholds(overlap(pred, true))}[0.6]
    assert (row.tp, row.fp, row.fn, row.iou_sum) == (2, 1, 1, 3 / 5 + 1)
    assert row.scores() == pytest.approx(
        {
            "precision": 2 / 3,
            "recall": 2 / 3,
            "dsb": 2 / 4,
            "f1": 4 / 6,
            "mean_matched_iou": 0.8,
            "mean_true_iou": 1.6 / 3,
            "pq": 1.6 / 3,
        }
    )


def test_no_match_gives_zeros_and_never_a_division_by_zero():
    for pred, true in ((Z, Z), (Z, WHOLE), (WHOLE, Z)):
        for row in scores_at_thresholds(overlap(pred, true)):
            assert set(row.scores().values()) == {0.0}


def test_two_halves_of_one_segment_match_once():
    for pred, true in ((HALVES, WHOLE), (WHOLE, HALVES)):
        table = overlap(pred, true)
        assert scores_at_thresholds(table)[0].tp == 1
        assert panoptic_row(table).tp == 0  # IoU must exceed 1/2


def test_rows_add_up():
    rows = [panoptic_row(overlap(*maps)) for maps in MAPS]
    total = sum(rows[1:], start=rows[0])
    assert total.tp == sum(row.tp for row in rows)
    assert panoptic_quality(total).rq == total.tp / (total.tp + (total.fp + total.fn) / 2)


def test_panoptic_quality_and_its_empty_cases():
    assert panoptic(overlap(WHOLE, WHOLE)) == (1, 1, 1)
    found = panoptic(overlap(WHOLE, HALVES))
    assert (found.pq, math.isnan(found.sq), found.rq) == (0, True, 0)
    assert all(math.isnan(value) for value in panoptic(overlap(Z, Z)))


@pytest.mark.parametrize("threshold", [0.4, 1.1, math.nan])
def test_threshold_out_of_range(threshold):
    with pytest.raises(ConfigError, match=r"0\.5, 1"):
        scores_at_thresholds(overlap(Z, Z), [threshold])


@pytest.mark.parametrize("kind", ["area", "one", "random", "ties"])
@pytest.mark.parametrize("seed", range(5))
def test_average_precision_equals_the_coco_rules(seed, kind):
    rng = np.random.default_rng(seed)
    maps = [strips(10 * seed + k) for k in range(3)] + [(Z, WHOLE), (HALVES, Z), (HALVES, WHOLE)]
    tables, given, images = [], [], []
    for pred, true in maps:
        table = overlap(pred, true)
        scores = {
            "area": table.pred_area[1:],
            "one": np.ones(table.pred_instances),
            "random": rng.random(table.pred_instances),
            "ties": rng.integers(0, 3, table.pred_instances),
        }[kind]
        tables.append(table)
        given.append(None if kind == "area" else scores)
        images.append((pred, true, [float(s) for s in scores]))
    assert average_precision(tables, given) == pytest.approx(slow.coco_ap(images), abs=1e-12)


def test_average_precision_by_hand():
    # Ranked: hit, miss, hit; two truths. Precision 1 up to recall .5, then 2/3.
    pred = np.array([[1, 1, 1, 2, 2, 3, 0, 0]])
    true = np.array([[1, 1, 1, 0, 0, 2, 0, 0]])
    expected = (51 * 1 + 50 * 2 / 3) / 101
    assert average_precision(overlap(pred, true)) == pytest.approx((expected,) * 3)


def test_better_half_decides():
    # Two predictions of IoU 1/2 with one truth: COCO gives it to the higher score.
    table = overlap(HALVES, WHOLE)
    assert average_precision(table, [np.array([1.0, 2.0])]).ap50 == pytest.approx(1)
    assert average_precision([table, overlap(HALVES, HALVES)]).ap75 == pytest.approx(
        slow.coco_ap([(HALVES, WHOLE, [4.0, 4.0]), (HALVES, HALVES, [4.0, 4.0])])[2]
    )


def test_average_precision_of_empty_sides():
    assert all(math.isnan(v) for v in average_precision(overlap(WHOLE, Z)))
    assert all(math.isnan(v) for v in average_precision([]))
    assert average_precision(overlap(Z, WHOLE)) == (0, 0, 0)


def test_bad_scores_are_refused():
    table = overlap(HALVES, WHOLE)
    with pytest.raises(ConfigError, match="finite"):
        average_precision(table, [np.array([1.0, math.nan])])
    with pytest.raises(ShapeError, match="2 predicted"):
        average_precision(table, [np.ones(3)])
    with pytest.raises(ConfigError, match="2 images for 1"):
        average_precision(table, [None, None])
    with pytest.raises(ConfigError, match="it knows"):
        average_precision(table, convention="voc")
