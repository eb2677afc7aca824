import numpy as np
import pytest
from slow_coco import own_scores, random_problem, records

from rlseg import rle
from rlseg.errors import ConfigError, ShapeError
from rlseg.metrics import coco_hotcoco
from rlseg.metrics.coco import Detected, Truths
from rlseg.metrics.coco_hotcoco import hotcoco_can, hotcoco_scores

pytestmark = pytest.mark.filterwarnings("error")


def runs(rows):
    parts = [rle.encode(row["mask"][None]) for row in rows]
    return rle.concatenate(parts) if parts else rle.encode(np.zeros((0, 3, 3), dtype=bool))


def scores_of(problem):
    truths, detected = records(problem)
    return hotcoco_scores(
        truths,
        detected,
        runs(problem.truths),
        runs(problem.detected),
        images=list(problem.images),
        categories=problem.categories,
        max_dets=problem.max_dets,
    )


def same(one, other):
    for name in ("precision", "recall"):
        left, right = getattr(one, name), getattr(other, name)
        assert left.shape == right.shape
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-12, equal_nan=True)
    for name in ("categories", "n_true", "n_pred"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    assert one.max_dets == other.max_dets
    # Not even the last bit of a printed number may depend on what is installed.
    assert repr(one.summary()) == repr(other.summary())
    assert repr(one.per_category()) == repr(other.per_category())


def needs_hotcoco():
    pytest.importorskip("hotcoco", reason="optional package of the extra `fast`")


def test_equal_to_own_scores_on_random_problems(capfd):
    needs_hotcoco()
    for seed in range(240):
        problem = random_problem(np.random.default_rng(seed))
        problem.first_id = 1  # what hotcoco numbers from; the original's loss of id 0 is ours only
        same(scores_of(problem), own_scores(problem))
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_equal_to_own_scores_where_rounding_could_show(capfd):
    needs_hotcoco()
    for seed in range(300, 340):
        rng = np.random.default_rng(seed)
        problem = random_problem(rng)
        problem.first_id = 1
        for d in problem.detected:  # equal in single precision
            d["score"] = float(rng.choice([0.5, 1e30, -1e30])) * (1 + rng.integers(0, 3) * 1e-12)
        for g in problem.truths:
            g["area"] = float(rng.choice([1024.0000001, 1023.9999999, 9216.0000001, 1.1e10, -1]))
        # Not evaluated: unknown ids, and negative ones, which hotcoco itself does not accept.
        problem.categories = [*problem.categories[1:], -5]
        for row in (*problem.truths, *problem.detected):
            row["image"] -= 20
            if rng.random() < 0.3:
                row["category"] = -5
        problem.images = {i - 20: size for i, size in list(problem.images.items())[:-1]} | {
            77: (1, 1)
        }
        same(scores_of(problem), own_scores(problem))
    assert capfd.readouterr().out == ""


def test_nothing_to_evaluate():
    needs_hotcoco()
    none = np.zeros(0, dtype=np.int64)
    truths = Truths(image=none, category=none, area=none * 1.0, crowd=none > 0)
    detected = Detected(image=none, category=none, area=none * 1.0, score=none * 1.0)
    empty = rle.encode(np.zeros((0, 2, 2), dtype=bool))
    for images, categories in (([], []), ([1], []), ([], [1]), ([1], [1])):
        scores = hotcoco_scores(
            truths, detected, empty, empty, images=images, categories=categories
        )
        assert scores.precision.shape == (10, 101, len(categories), 4, 3)
        assert scores.recall.shape == (10, len(categories), 4, 3)
        assert np.isnan(scores.precision).all()


def test_masks_and_limits_are_checked_before_hotcoco_sees_them():
    needs_hotcoco()
    one = np.zeros(1, dtype=np.int64)
    truths = Truths(image=one, category=one, area=np.ones(1), crowd=np.zeros(1, dtype=bool))
    detected = Detected(image=one, category=one, area=np.ones(1), score=np.ones(1))
    small, large = (rle.encode(np.zeros((1, 4, n), dtype=bool)) for n in (4, 5))
    call = {"images": [0], "categories": [0]}
    with pytest.raises(ShapeError, match="masks of size"):
        hotcoco_scores(truths, detected, small, large, **call)
    with pytest.raises(ShapeError, match="came with 0 masks"):
        hotcoco_scores(truths, detected, small.take(one[:0]), small, **call)
    with pytest.raises(ConfigError, match="max_dets"):
        hotcoco_scores(truths, detected, small, small, **call, max_dets=(2, 1))


def test_the_rule_when_hotcoco_may_be_used():
    assert hotcoco_can()
    assert not hotcoco_can(compat=True)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hotcoco", None)
    none = np.zeros(0, dtype=np.int64)
    truths = Truths(image=none, category=none, area=none * 1.0, crowd=none > 0)
    detected = Detected(image=none, category=none, area=none * 1.0, score=none * 1.0)
    empty = rle.encode(np.zeros((0, 2, 2), dtype=bool))
    with pytest.raises(ConfigError, match=r"pip install 'rlseg\[fast\]'"):
        hotcoco_scores(truths, detected, empty, empty, images=[], categories=[])
    assert not coco_hotcoco.available()
