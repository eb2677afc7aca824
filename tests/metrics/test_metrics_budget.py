"""Curves of score against labels: against fine sampling of the piecewise linear curve."""

import json
import math
import statistics
from itertools import pairwise

import numpy as np
import pytest

from rlseg.errors import ConfigError, ShapeError
from rlseg.metrics import (
    BudgetCurve,
    area_under_budget,
    common_range,
    compare_budgets,
    labels_to_reach,
    over_seeds,
)

pytestmark = pytest.mark.filterwarnings("error")


def random_curve(seed, first=0.0, points=6):
    rng = np.random.default_rng(seed)
    labels = first + np.concatenate(([0.0], np.cumsum(rng.uniform(1, 20, points - 1))))
    return labels.tolist(), rng.uniform(0.2, 0.8, points).tolist()


def height(labels, scores, b, position=lambda b: b):
    """The curve at one budget, straight lines on the axis `position`."""
    for k in range(len(labels) - 1):
        if labels[k] <= b <= labels[k + 1]:
            left, right = position(labels[k]), position(labels[k + 1])
            part = (position(b) - left) / (right - left)
            return scores[k] + part * (scores[k + 1] - scores[k])
    raise AssertionError(b)


def slow_mean(labels, scores, first, last, position=lambda b: b, back=lambda x: x, steps=20000):
    """Mean height at many midpoints, equally spaced on the axis `position`."""
    low, high = position(first), position(last)
    middles = [low + (k + 0.5) / steps * (high - low) for k in range(steps)]
    return sum(height(labels, scores, back(x), position) for x in middles) / steps


# Area


def test_hand_computed_areas():
    labels, scores = [0, 10, 40], [0.2, 0.4, 0.7]
    assert area_under_budget(labels, scores) == pytest.approx((0.3 * 10 + 0.55 * 30) / 40)
    # From 5 (0.3) to 25 (0.55): 5 labels at 0.35 and 15 at 0.475 on average.
    half = area_under_budget(labels, scores, budget_range=(5, 25))
    assert half == pytest.approx((0.35 * 5 + 0.475 * 15) / 20)
    # ln 1, ln e, ln e^3: the second piece counts twice the first.
    labels = [1, math.e, math.e**3]
    assert area_under_budget(labels, [0, 1, 0], scale="log") == pytest.approx(0.5)
    assert area_under_budget(labels, [0, 1, 2], scale="log") == pytest.approx((0.5 + 2 * 1.5) / 3)


@pytest.mark.parametrize("seed", range(4))
def test_area_is_the_mean_height(seed):
    labels, scores = random_curve(seed)
    found = area_under_budget(labels, scores)
    assert found == pytest.approx(slow_mean(labels, scores, labels[0], labels[-1]), abs=1e-6)
    first, last = labels[0] + 0.7, labels[-1] - 1.3
    found = area_under_budget(labels, scores, budget_range=(first, last))
    assert found == pytest.approx(slow_mean(labels, scores, first, last), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_area_on_the_log_scale(seed):
    labels, scores = random_curve(seed, first=2.0)
    axis = {"position": math.log, "back": math.exp}
    inner = labels[0] + 1e-9, labels[-1] - 1e-9  # exp(log(b)) must not leave the curve
    found = area_under_budget(labels, scores, scale="log")
    assert found == pytest.approx(slow_mean(labels, scores, *inner, **axis), abs=1e-6)
    first, last = labels[0] + 0.7, labels[-1] - 1.3
    found = area_under_budget(labels, scores, scale="log", budget_range=(first, last))
    assert found == pytest.approx(slow_mean(labels, scores, first, last, **axis), abs=1e-6)


def test_areas_of_parts_make_the_whole():
    labels, scores = random_curve(5, first=1.0)
    middle = (labels[2] + labels[3]) / 2
    for scale, position in (("linear", float), ("log", math.log)):
        cuts = [labels[0], middle, labels[-1]]
        parts = [
            area_under_budget(labels, scores, scale=scale, budget_range=(a, b))
            * (position(b) - position(a))
            for a, b in pairwise(cuts)
        ]
        whole = area_under_budget(labels, scores, scale=scale)
        assert sum(parts) == pytest.approx(whole * (position(cuts[2]) - position(cuts[0])))


def test_a_constant_curve_has_its_own_height():
    for scale in ("linear", "log"):
        assert area_under_budget([3, 5, 90], [0.6] * 3, scale=scale) == pytest.approx(0.6)


def test_budget_zero_on_the_log_scale():
    with pytest.raises(ConfigError, match=r"'log' has no place for budget 0.*\(10\)"):
        area_under_budget([0, 10, 20], [0.1, 0.2, 0.3], scale="log")
    with pytest.raises(ConfigError, match="no place for budget 5"):
        area_under_budget([0, 10, 20], [0.1, 0.2, 0.3], scale="log", budget_range=(5, 20))
    later = area_under_budget([0, 10, 20], [0.1, 0.2, 0.3], scale="log", budget_range=(10, 20))
    assert later == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ((5, 5), "is empty"),
        ((9, 2), "is empty"),
        ((math.nan, 5), "is empty"),
        ((-1, 5), "not within the curve"),
        ((1, 21), "not within the curve"),
    ],
)
def test_ranges_that_do_not_fit(window, message):
    with pytest.raises(ConfigError, match=message):
        area_under_budget([0, 10, 20], [0.1, 0.2, 0.3], budget_range=window)


def test_scales_that_are_none():
    with pytest.raises(ConfigError, match="linear, log"):
        area_under_budget([1, 2], [0, 1], scale="cubic")


@pytest.mark.parametrize(
    ("labels", "scores", "kind", "message"),
    [
        ([1, 1], [0, 1], ConfigError, r"labels\[0\] is 1 and labels\[1\] is 1"),
        ([0, 5, 4], [0, 1, 2], ConfigError, r"labels\[1\] is 5 and labels\[2\] is 4"),
        ([1, math.inf], [0, 1], ConfigError, r"labels\[1\] is inf"),
        ([1, math.nan], [0, 1], ConfigError, r"labels\[1\] is nan"),
        ([1, 2], [0, math.nan], ConfigError, r"scores\[1\] is nan"),
        ([-1, 2], [0, 1], ConfigError, r"labels\[0\] is -1"),
        ([1], [0], ConfigError, "2 points or more, got 1"),
        ([], [], ConfigError, "2 points or more, got 0"),
        ([1, 2], [0], ShapeError, r"\[2\] and scores \[1\]"),
        ([[1, 2]], [[0, 1]], ShapeError, "one axis"),
        ([1, "x"], [0, 1], ShapeError, "numbers"),
    ],
)
def test_points_that_are_no_curve(labels, scores, kind, message):
    for use in (
        area_under_budget,
        lambda b, y: labels_to_reach(b, y, 0.9, 1.0),
        lambda b, y: BudgetCurve(labels=b, scores=y),
    ):
        with pytest.raises(kind, match=message):
            use(labels, scores)


# Labels to reach


def test_hand_computed_crossings():
    labels, scores = [0, 10, 20, 30], [0.2, 0.6, 0.4, 0.8]
    assert labels_to_reach(labels, scores, 0.5, 1.0) == pytest.approx(7.5)  # the first of three
    assert labels_to_reach(labels, scores, 0.6, 1.0) == 10
    assert labels_to_reach(labels, scores, 0.7, 1.0) == pytest.approx(27.5)
    assert labels_to_reach(labels, scores, 1.0, 0.8) == 30
    assert labels_to_reach(labels, scores, 0.1, 1.0) == 0  # begins above
    assert math.isnan(labels_to_reach(labels, scores, 0.9, 1.0))


@pytest.mark.parametrize("seed", range(6))
def test_crossings_are_the_first_of_many_samples(seed):
    labels, scores = random_curve(seed)
    step = (labels[-1] - labels[0]) / 50000
    for share in (0.3, 0.6, 0.9, 0.99):
        grid = (labels[0] + k * step for k in range(50001))
        full = max(scores)
        first = next(
            b for b in grid if height(labels, scores, min(b, labels[-1])) >= share * full - 1e-12
        )
        assert labels_to_reach(labels, scores, share, full) == pytest.approx(first, abs=1.01 * step)


def test_shares_that_are_none():
    for share, full, name in ((0, 1, "share"), (math.nan, 1, "share"), (0.9, 0, "full")):
        with pytest.raises(ConfigError, match=f"{name} must be finite and above 0"):
            labels_to_reach([1, 2], [0, 1], share, full)


# Several curves


def curve(labels, scores):
    return BudgetCurve(labels=tuple(labels), scores=tuple(scores))


def test_common_range():
    a, b = curve([0, 10, 50], [0, 1, 2]), curve([5, 40], [0, 1])
    assert common_range([a, b]) == (5, 40)
    assert common_range([a]) == (0, 50)
    with pytest.raises(ConfigError, match="no budget in common: one begins at 50, another ends"):
        common_range([b, curve([50, 60], [0, 1])])
    with pytest.raises(ConfigError, match="no budget in common"):
        common_range([curve([0, 5], [0, 1]), b])  # one point is no range
    with pytest.raises(ConfigError, match="no curve"):
        common_range([])


def test_curves_hold_plain_numbers():
    given = BudgetCurve(labels=np.array([1, 2]), scores=np.array([0.5, 0.25], dtype=np.float32))
    assert given == curve([1.0, 2.0], [0.5, 0.25])
    assert all(type(value) is float for value in (*given.labels, *given.scores))


def test_over_seeds():
    assert over_seeds([1.0, 2.0, math.nan, 6.0]) == {
        "mean": 3.0,
        "std": pytest.approx(statistics.stdev([1, 2, 6])),
        "seeds": 4,
        "never": 1,
    }
    assert over_seeds([2.0]) == {"mean": 2.0, "std": None, "seeds": 1, "never": 0}
    assert over_seeds([math.nan]) == {"mean": None, "std": None, "seeds": 1, "never": 1}
    assert over_seeds([]) == {"mean": None, "std": None, "seeds": 0, "never": 0}


def test_methods_are_compared_over_one_range():
    methods = {
        "random": [curve([0, 10, 40], [0.2, 0.3, 0.6]), curve([0, 10, 50], [0.2, 0.4, 0.76])],
        "entropy": [curve([5, 40], [0.3, 0.79])],
    }
    result = compare_budgets(methods, 0.8, pixels_per_label=100, pool=200)
    assert result["conventions"] == {
        "scale": "linear",
        "budget_from": 5.0,
        "budget_to": 40.0,
        "full": 0.8,
    }
    areas = [area_under_budget(c.labels, c.scores, budget_range=(5, 40)) for c in methods["random"]]
    row = result["methods"]["random"]
    assert row["area_under_budget"]["mean"] == pytest.approx(statistics.mean(areas))
    assert row["area_under_budget"]["std"] == pytest.approx(statistics.stdev(areas))
    # 0.9 * 0.8 is reached by one of two seeds, beyond the common range.
    spent = labels_to_reach([10, 50], [0.4, 0.76], 0.9, 0.8)
    assert spent > 40
    assert row["labels_to_90"] == {"mean": spent, "std": None, "seeds": 2, "never": 1}
    assert row["labels_to_90_pixels"]["mean"] == pytest.approx(100 * spent)
    assert row["labels_to_90_share"]["mean"] == pytest.approx(spent / 200)
    assert row["labels_to_98"] == {"mean": None, "std": None, "seeds": 2, "never": 2}
    assert result["methods"]["entropy"]["labels_to_98"]["never"] == 0
    text = json.dumps(result, allow_nan=False)  # strict JSON as it is
    assert json.loads(text) == result
    plain = compare_budgets(methods, 0.8)["methods"]["random"]
    assert set(plain) == {"area_under_budget", "labels_to_90", "labels_to_95", "labels_to_98"}


def test_the_initial_weights_are_in_when_given():
    with_zero = {"a": [curve([0, 10, 20], [0.0, 0.5, 0.6])]}
    result = compare_budgets(with_zero, 1.0)
    assert result["conventions"]["budget_from"] == 0
    later = compare_budgets(with_zero, 1.0, budget_range=(10, 20), scale="log")
    assert later["conventions"]["budget_from"] == 10
    assert later["methods"]["a"]["area_under_budget"]["mean"] == pytest.approx(0.55)


def test_comparisons_that_are_refused():
    with pytest.raises(ConfigError, match="no curve of method 'a'"):
        compare_budgets({"a": []}, 1.0)
    with pytest.raises(ConfigError, match="no curve to compare"):
        compare_budgets({}, 1.0)
    one = {"a": [curve([1, 2], [0, 1])]}
    with pytest.raises(ConfigError, match="pool must be"):
        compare_budgets(one, 1.0, pool=0)
    with pytest.raises(ConfigError, match="pixels_per_label must be"):
        compare_budgets(one, 1.0, pixels_per_label=math.nan)
    with pytest.raises(ConfigError, match="no budget in common"):
        compare_budgets({**one, "b": [curve([2, 3], [0, 1])]}, 1.0)
