import itertools
import math

import numpy as np
import pytest
import slow_coco
from slow_coco import Problem, differences, own_scores, random_problem, rectangle

from rlseg.errors import ConfigError, ShapeError
from rlseg.metrics.coco import (
    AREA_RANGES,
    Detected,
    MaskPairs,
    Truths,
    coco_scores,
    keep_best,
)
from rlseg.metrics.coco_curves import RECALLS, precision_recall
from rlseg.metrics.coco_matching import IOU_THRESHOLDS, match

pytestmark = pytest.mark.filterwarnings("error")


def truths(**columns):
    size = len(columns["image"])
    defaults = {"category": [1] * size, "area": [100.0] * size, "crowd": [False] * size}
    columns = defaults | columns
    return Truths(
        image=np.array(columns["image"], dtype=np.int64),
        category=np.array(columns["category"], dtype=np.int64),
        area=np.array(columns["area"], dtype=np.float64),
        crowd=np.array(columns["crowd"], dtype=np.bool_),
    )


def detected(**columns):
    size = len(columns["image"])
    columns = {"category": [1] * size, "area": [100.0] * size} | columns
    return Detected(
        image=np.array(columns["image"], dtype=np.int64),
        category=np.array(columns["category"], dtype=np.int64),
        area=np.array(columns["area"], dtype=np.float64),
        score=np.array(columns["score"], dtype=np.float64),
    )


def pairs(*rows):
    found, truth, iou = zip(*rows, strict=True) if rows else ((), (), ())
    return MaskPairs(
        detection=np.array(found, dtype=np.int64),
        truth=np.array(truth, dtype=np.int64),
        iou=np.array(iou, dtype=np.float64),
    )


NO_TRUTHS, NO_DETECTIONS = truths(image=[]), detected(image=[], score=[])


@pytest.mark.parametrize("seeds", [range(k, k + 60) for k in range(0, 240, 60)])
def test_equal_to_pycocotools_on_random_problems(seeds):
    finite = 0
    for seed in seeds:
        problem = random_problem(np.random.default_rng(seed))
        precision, recall = slow_coco.pycocotools_scores(problem)
        assert differences(own_scores(problem), precision, recall) <= 1e-12, seed
        finite += (recall > 0).sum()
    assert finite > 1500


def test_equal_to_the_slow_loop():
    checked = 0
    for seed in range(1000, 1040):
        problem = random_problem(np.random.default_rng(seed))
        scores = own_scores(problem)
        axes = [IOU_THRESHOLDS[[0, 5, 8]], problem.categories, slow_coco.AREAS, problem.max_dets]
        for (t, threshold), (k, category), (a, area), (m, limit) in itertools.product(
            *(list(enumerate(axis)) for axis in axes)
        ):
            slow = slow_coco.slow_scores(problem, threshold, category, area, limit)
            curve = scores.precision[[0, 5, 8][t], :, k, a, m]
            recall = scores.recall[[0, 5, 8][t], k, a, m]
            if slow is None:
                assert np.isnan(curve).all()
                assert np.isnan(recall)
                continue
            np.testing.assert_allclose(curve, slow[0], rtol=0, atol=1e-12)
            assert recall == slow[1]
            checked += 1
    assert checked > 500


def test_a_hand_computed_curve():
    # Four truths; detections by score: hit, miss, hit, miss. Third truth and fourth not found.
    scores = coco_scores(
        truths(image=[1, 1, 2, 2]),
        detected(image=[1, 1, 2, 2], score=[0.9, 0.8, 0.7, 0.6]),
        pairs((0, 0, 0.8), (1, 1, 0.4), (2, 2, 0.5), (3, 2, 1.0)),
        images=[1, 2],
        categories=[1],
    )
    curve = scores.precision[0, :, 0, 0, -1]
    np.testing.assert_allclose(curve[:26], 1.0, atol=1e-15)  # recalls up to 1/4
    np.testing.assert_allclose(curve[26:51], 2 / 3, atol=1e-15)  # up to 2/4
    assert (curve[51:] == 0).all()
    assert scores.recall[0, 0, 0].tolist() == [0.5, 0.5, 0.5]
    # At 0.75 detection 2 misses and leaves the third truth to detection 3.
    np.testing.assert_allclose(scores.precision[5, 26:51, 0, 0, -1], 0.5, atol=1e-15)
    assert scores.recall[9, 0, 0, 0] == 0.0  # one per image: detections 0 and 2
    assert scores.recall[9, 0, 0, 1] == 0.25
    summary = scores.summary()
    assert summary["ap50"] == pytest.approx((26 + 25 * 2 / 3) / 101, abs=1e-15)
    assert summary["ap75"] == pytest.approx((26 + 25 * 1 / 2) / 101, abs=1e-15)
    assert scores.per_category()[0]["ap50"] == summary["ap50"]
    names = "ap ap50 ap75 ap_small ap_medium ap_large ar1 ar10 ar100 ar_small ar_medium ar_large"
    assert list(summary) == names.split()
    assert math.isnan(summary["ap_large"])  # all areas are 100


def test_a_perfect_score_is_the_one_of_the_original():
    scores = coco_scores(
        truths(image=[1]),
        detected(image=[1], score=[0.3]),
        pairs((0, 0, 1.0)),
        images=[1],
        categories=[1],
    )
    assert scores.summary()["ap"] == 1 / (1 + 2.0**-52) == 0.9999999999999998


def test_recalls_and_thresholds_are_not_rounded_decimals():
    assert IOU_THRESHOLDS[8] == 0.8999999999999999
    assert RECALLS[35] == 0.35000000000000003
    # 7 of 20 truths found: recall 0.35 does not reach the 36th recall.
    scores = coco_scores(
        truths(image=[1] * 20),
        detected(image=[1] * 7, score=[0.5] * 7),
        pairs(*((k, k, 1.0) for k in range(7))),
        images=[1],
        categories=[1],
    )
    curve = scores.precision[0, :, 0, 0, -1]
    assert curve[34] > 0.99
    assert curve[35] == 0


def test_recalls_are_compared_as_quotients():
    # Category k has k truths, all found, each hit followed by a miss: precision tells the hit.
    sizes = np.arange(1, 400)
    category = np.repeat(np.arange(len(sizes)), 2 * sizes)
    first = np.repeat(np.cumsum(2 * sizes) - 2 * sizes, 2 * sizes)
    hit = ((np.arange(len(category)) - first) % 2 == 0)[None]
    precision, recall = precision_recall(hit, ~hit, category, sizes)
    assert (recall == 1).all()
    for size in sizes:
        hits = np.arange(1, size + 1)
        needed = np.searchsorted(hits / size, RECALLS, side="left")
        np.testing.assert_array_equal(
            precision[0, size - 1], (hits / (hits - 1 + hits + 2.0**-52))[needed]
        )


def test_the_later_of_two_equal_truths_is_taken():
    # The first detection could take either; only the first truth is left for the second one.
    scores = coco_scores(
        truths(image=[1, 1]),
        detected(image=[1, 1], score=[0.9, 0.8]),
        pairs((0, 0, 0.7), (0, 1, 0.7), (1, 1, 0.9)),
        images=[1],
        categories=[1],
    )
    assert scores.recall[0, 0, 0, -1] == 0.5


def test_nothing_found_and_nothing_to_find():
    common = {"images": [1, 2], "categories": [3, 4]}
    only_truths = coco_scores(truths(image=[1], category=[3]), NO_DETECTIONS, pairs(), **common)
    summary = only_truths.summary()
    assert summary["ap"] == summary["ap50"] == summary["ar100"] == summary["ap_small"] == 0
    assert math.isnan(summary["ap_medium"])
    only_detections = coco_scores(
        NO_TRUTHS, detected(image=[1], category=[3], score=[1.0]), pairs(), **common
    )
    empty = coco_scores(NO_TRUTHS, NO_DETECTIONS, pairs(), images=[], categories=[])
    assert empty.precision.shape == (10, 101, 0, 4, 3)
    assert empty.per_category() == []
    for scores in (only_detections, empty):
        assert all(math.isnan(value) for value in scores.summary().values())
    rows = only_detections.per_category()
    assert [(row["id"], row["n_true"], row["n_pred"]) for row in rows] == [(3, 0, 1), (4, 0, 0)]
    assert math.isnan(rows[0]["ap"])


def test_only_a_crowd_defines_no_score_and_forgives_many():
    crowd = truths(image=[1], crowd=[True])
    found = detected(image=[1, 1], score=[0.9, 0.8])
    forgiven = pairs((0, 0, 1.0), (1, 0, 1.0))
    scores = coco_scores(crowd, found, forgiven, images=[1], categories=[1])
    assert math.isnan(scores.summary()["ap"])
    assert scores.n_true.tolist() == [0]
    both = truths(image=[1, 1], crowd=[True, False])
    later = detected(image=[1, 1, 1], score=[0.9, 0.8, 0.1])
    scores = coco_scores(
        both, later, pairs((0, 0, 1.0), (1, 0, 1.0), (2, 1, 1.0)), images=[1], categories=[1]
    )
    assert scores.summary()["ap"] == pytest.approx(1, abs=1e-15)


def test_boundary_areas_belong_to_both_ranges():
    for area, inside in ((1024, {"small", "medium"}), (9216, {"medium", "large"})):
        scores = coco_scores(
            truths(image=[1], area=[area]),
            detected(image=[1], area=[area], score=[1.0]),
            pairs((0, 0, 1.0)),
            images=[1],
            categories=[1],
        )
        summary = scores.summary()
        for name in ("small", "medium", "large"):
            assert math.isnan(summary[f"ap_{name}"]) == (name not in inside)
    assert list(AREA_RANGES) == ["all", "small", "medium", "large"]


def test_images_and_categories_that_are_not_evaluated_are_left_out():
    problem = random_problem(np.random.default_rng(8))
    problem.first_id = 1
    kept = [*sorted(problem.images)[:-1], 1000]
    part = Problem(
        {i: problem.images.get(i, (9, 7)) for i in kept},
        [*problem.categories[:-1], 2000],
        problem.truths,
        problem.detected,
        problem.max_dets,
    )
    assert len(problem.images) > 1
    precision, recall = slow_coco.pycocotools_scores(part)
    scores = own_scores(part)
    assert differences(scores, precision, recall) <= 1e-12
    whole = own_scores(problem)
    assert scores.n_pred.sum() < whole.n_pred.sum() == len(problem.detected)
    shuffled = Problem(
        dict(reversed(part.images.items())), part.categories[::-1], *list(vars(part).values())[2:]
    )
    assert differences(own_scores(shuffled), precision, recall) <= 1e-12


def test_limits_are_per_image_and_category_and_strict_mode_is_per_image():
    found = detected(
        image=[1, 1, 1, 2, 1], category=[1, 2, 1, 1, 2], score=[0.5, 0.5, 0.9, 0.1, 0.7]
    )
    assert keep_best(found, 2).tolist() == [2, 3, 4]
    assert keep_best(found, 3).tolist() == [0, 2, 3, 4]  # 0 before 1: file order
    assert keep_best(found, 9).tolist() == [0, 1, 2, 3, 4]
    assert keep_best(NO_DETECTIONS, 1).tolist() == []
    scores = coco_scores(
        truths(image=[1, 1, 1, 1], category=[1, 1, 2, 2]),
        found,
        pairs((2, 0, 1.0), (0, 1, 1.0), (1, 2, 1.0), (4, 3, 1.0)),
        images=[1, 2],
        categories=[1, 2],
        max_dets=(1, 2),
    )
    assert scores.recall[0, :, 0].tolist() == [[0.5, 1.0], [0.5, 1.0]]
    with pytest.raises(ConfigError, match="at least 1"):
        keep_best(found, 0)


def test_many_categories_and_detections_stay_linear():
    rng = np.random.default_rng(0)
    size = 20000
    image, category = rng.integers(0, 500, size), rng.integers(0, 1000, size)
    both = {"image": image, "category": category}
    scores = coco_scores(
        truths(**both),
        detected(**both, score=rng.random(size)),
        pairs(*((k, k, 0.75) for k in range(0, size, 2))),
        images=np.arange(500),
        categories=np.arange(1000),
    )
    assert scores.summary()["ar100"] == pytest.approx(0.6 * 0.5, abs=0.01)


def test_matching_in_small_chunks_changes_nothing(monkeypatch):
    rng = np.random.default_rng(5)
    rows = [(i, j, rng.integers(5, 11) / 10) for i in range(30) for j in rng.choice(12, 4)]
    found, truth, iou = (np.array(column) for column in zip(*rows, strict=True))
    ignored = rng.random((4, 12)) < 0.3
    crowd = ignored.all(axis=0)
    whole = match(found, truth, iou, ignored=ignored, crowd=crowd)
    monkeypatch.setattr("rlseg.metrics.coco_matching.CHUNK_PAIRS", 3)
    parts = match(found, truth, iou, ignored=ignored, crowd=crowd)
    assert np.array_equal(whole.truth, parts.truth)
    assert (whole.truth >= 0).any()


def test_a_long_chain_of_shared_truths_is_matched_in_order():
    # Detection k prefers truth k + 1, the first choice of nobody before it.
    rows = [(k, k, 0.6) for k in range(50)] + [(k, k + 1, 0.9) for k in range(49)]
    found, truth, iou = (np.array(column) for column in zip(*rows, strict=True))
    none = np.zeros((1, 50), dtype=bool)
    matches = match(found, truth, iou, ignored=none, crowd=none[0])
    assert matches.truth[:49, 0, 0].tolist() == list(range(1, 50))
    assert matches.truth[49, 0, 0] == -1


@pytest.mark.parametrize("limits", [(), (0, 1), (10, 1), (1, 1), (1, 2.5), (-1,)])
def test_wrong_limits_are_refused(limits):
    with pytest.raises(ConfigError, match="max_dets"):
        coco_scores(NO_TRUTHS, NO_DETECTIONS, pairs(), images=[1], categories=[1], max_dets=limits)


def test_wrong_positions_are_refused():
    true, found = truths(image=[1, 2]), detected(image=[1, 1], score=[0.1, 0.2])
    call = {"images": [1, 2], "categories": [1]}
    for wrong in (pairs((2, 0, 0.5)), pairs((0, 2, 0.5)), pairs((0, -1, 0.5))):
        with pytest.raises(ShapeError, match="positions"):
            coco_scores(true, found, wrong, **call)
    with pytest.raises(ShapeError, match="image 1 with image 2"):
        coco_scores(true, found, pairs((0, 1, 0.5)), **call)
    other = truths(image=[1], category=[7])
    with pytest.raises(ShapeError, match="category 1 with category 7"):
        coco_scores(other, found, pairs((0, 0, 0.5)), **call)
    with pytest.raises(ConfigError, match="compat"):
        coco_scores(true, found, pairs(), **call, compat=2)
    with pytest.raises(ShapeError, match="images"):
        coco_scores(true, found, pairs(), images=[1.5], categories=[1])


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_scores_must_be_finite(score):
    with pytest.raises(ConfigError, match=r"Detected.score\[1\]"):
        detected(image=[1, 1], score=[0.5, score])
    with pytest.raises(ConfigError, match=r"Truths.area\[0\]"):
        truths(image=[1], area=[score])


def test_columns_must_fit_together():
    with pytest.raises(ShapeError, match=r"Detected.score"):
        detected(image=[1, 1], score=[0.5])
    with pytest.raises(ShapeError, match=r"Truths.crowd has dtype"):
        Truths(image=np.array([1]), category=np.array([1]), area=np.ones(1), crowd=np.array([0]))
    with pytest.raises(ShapeError, match=r"Truths.image has dtype"):
        Truths(
            image=np.array([1.5]), category=np.array([1]), area=np.ones(1), crowd=np.array([True])
        )


def test_compat_loses_the_truth_with_id_0():
    mask = rectangle((8, 8), 1, 1, 4, 4)
    problem = Problem(
        {3: (8, 8)},
        [5],
        [{"image": 3, "category": 5, "mask": mask, "area": 16.0, "crowd": False}],
        [{"image": 3, "category": 5, "mask": mask, "score": 0.5}],
        first_id=0,
    )
    assert own_scores(problem).summary()["ap"] == 0
    problem.first_id = 1
    assert own_scores(problem).summary()["ap"] == 1 / (1 + 2.0**-52)
