"""Best Dice, counts, foreground, coverage, false instances and AJI against slow loops."""

import math

import numpy as np
import pytest
import slow_scores as slow

from rlseg.errors import ConfigError
from rlseg.metrics import (
    aji,
    aji_plus,
    best_dice,
    count_difference,
    coverage,
    false_instances,
    fgbg_dice,
    overlap,
    symmetric_best_dice,
)

pytestmark = pytest.mark.filterwarnings("error")

Z = np.zeros((3, 4), dtype=np.int64)
ONE = Z.copy()
ONE[0, :2] = 5
FULL = np.full((3, 4), 3)


def rectangles(seed, shape=(8, 9), count=5):
    """A few rectangles, later ones on top, ids with gaps."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype=np.int64)
    for _ in range(count):
        corner = [int(rng.integers(0, side - 1)) for side in shape]
        box = tuple(
            slice(c, c + int(rng.integers(1, side // 2 + 1)))
            for c, side in zip(corner, shape, strict=True)
        )
        labels[box] = rng.integers(1, 12)
    return labels


def pairs_of_maps():
    for seed in range(12):
        yield rectangles(seed), rectangles(seed + 100)
    for seed in range(4):
        yield rectangles(seed, (4, 5, 6)), rectangles(seed + 100, (4, 5, 6))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        yield rng.integers(0, 4, (3, 4)), rng.integers(0, 4, (3, 4))
        yield rng.integers(1, 4, (3, 4)), rng.integers(2, 5, (3, 4))  # no background
    for pred in (Z, ONE, FULL):
        for true in (Z, ONE, FULL):
            yield pred, true


MAPS = list(pairs_of_maps())


@pytest.mark.parametrize(("pred", "true"), MAPS)
def test_every_score_equals_the_slow_one(pred, true):
    table = overlap(pred, true)
    close = lambda value: pytest.approx(value, abs=1e-12, nan_ok=True)  # noqa: E731
    for convention, reference in (
        ("paper", slow.best_dice),
        ("cvppp-2017", slow.best_dice_2017),
        ("cvppp-2014", slow.best_dice_2014),
    ):
        one, other = reference(pred, true), reference(true, pred)
        assert best_dice(table, "pred", convention=convention) == close(one)
        assert best_dice(table, "true", convention=convention) == close(other)
        assert symmetric_best_dice(table, convention=convention) == close(min(one, other))
    assert fgbg_dice(table) == close(slow.fgbg(pred, true))
    low = (pred - pred.min(), true - true.min())
    assert fgbg_dice(table, convention="cvppp-2014") == close(slow.fgbg(*low))
    assert coverage(table) == close(slow.coverage(pred, true))
    assert coverage(table, convention="colorrl") == close(slow.coverage(pred, true, extra=1))
    lonely = slow.lonely(pred, true), slow.lonely(true, pred)
    assert false_instances(table) == lonely
    sizes = [max(len(slow.masks(labels)), 1) for labels in (pred, true)]
    fractions = tuple(n / size for n, size in zip(lonely, sizes, strict=True))
    assert false_instances(table, convention="fraction") == close(fractions)
    assert false_instances(table, convention="colorrl-50") == close(slow.colorrl50(pred, true))
    m, n = len(slow.masks(pred)), len(slow.masks(true))
    assert count_difference(table) == m - n
    ranges = int(pred.max() - pred.min()) - int(true.max() - true.min())
    assert count_difference(table, convention="cvppp-2014") == ranges
    assert aji(table) == close(slow.aji(pred, true))


@pytest.mark.parametrize(("pred", "true"), MAPS)
def test_aji_plus_is_the_best_of_all_matchings(pred, true):
    preds, truths = slow.masks(pred), slow.masks(true)
    if not preds and not truths:
        assert math.isnan(aji_plus(overlap(pred, true)))
        return
    iou = slow.iou_table(pred, true)

    def search(row, used):
        """All matchings as lists of pairs."""
        if row == len(preds):
            yield []
            return
        yield from search(row + 1, used)
        for column in range(len(truths)):
            if column not in used and iou[row][column] > 0:
                for rest in search(row + 1, used | {column}):
                    yield [(row, column), *rest]

    matchings = list(search(0, frozenset()))
    totals = [sum(iou[i][j] for i, j in matching) for matching in matchings]
    best = max(totals)
    allowed = []
    for matching, total in zip(matchings, totals, strict=True):
        if total >= best - 1e-12:
            common = sum(int((preds[i] & truths[j]).sum()) for i, j in matching)
            union = sum(int((preds[i] | truths[j]).sum()) for i, j in matching)
            rows, columns = {i for i, _ in matching}, {j for _, j in matching}
            union += sum(int(p.sum()) for i, p in enumerate(preds) if i not in rows)
            union += sum(int(t.sum()) for j, t in enumerate(truths) if j not in columns)
            allowed.append(common / union)
    assert any(aji_plus(overlap(pred, true)) == pytest.approx(value) for value in allowed)


def test_sbd_conventions_by_hand():
    # A leaf over everything: constant, so the challenge gives 0 and the formula 1.
    table = overlap(FULL, FULL)
    assert symmetric_best_dice(table) == 0
    assert symmetric_best_dice(table, convention="cvppp-2014") == 0
    assert symmetric_best_dice(table, convention="paper") == 1
    # Ids 1 and 3: the 2014 script counts the absent 2 with Dice 0.
    gap = np.array([[0, 1, 1, 3]])
    table = overlap(gap, gap)
    assert symmetric_best_dice(table) == 1
    assert symmetric_best_dice(table, convention="cvppp-2014") == pytest.approx(2 / 3)
    # No background: the lowest id is background for the 2014 script.
    table = overlap(np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 2]]))
    assert symmetric_best_dice(table, convention="cvppp-2014") == pytest.approx(2 / 3)
    assert symmetric_best_dice(table) == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_fault_l4_empty_sides():
    for pred, true in ((Z, ONE), (ONE, Z), (Z, Z)):
        table = overlap(pred, true)
        assert symmetric_best_dice(table) == fgbg_dice(table) == 0
        assert coverage(table) == (0, 0)
    assert false_instances(overlap(ONE, Z)) == (1, 0)
    assert false_instances(overlap(ONE, Z), convention="colorrl-50") == (1, 1)
    assert aji(overlap(ONE, Z)) == aji_plus(overlap(Z, ONE)) == 0


def test_identical_maps():
    labels = rectangles(1)
    table = overlap(labels, labels)
    scores = (symmetric_best_dice(table), fgbg_dice(table), aji(table), aji_plus(table))
    assert scores == (1, 1, 1, 1)
    assert coverage(table) == (1, 1)
    assert count_difference(table) == 0
    assert false_instances(table) == (0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_names_do_not_matter(seed):
    pred, true = rectangles(seed), rectangles(seed + 50)
    names = np.random.default_rng(seed).permutation(np.arange(1, 13))
    other = overlap(np.where(pred > 0, names[pred - 1] + 300, 0), true)
    table = overlap(pred, true)
    for score in (symmetric_best_dice, coverage, false_instances, aji_plus, fgbg_dice):
        assert score(table) == pytest.approx(score(other))


def test_swapping_exchanges_false_positives_and_negatives():
    table = overlap(rectangles(2), rectangles(3))
    for convention in ("count", "fraction"):
        one = false_instances(table, convention=convention)
        other = false_instances(table.swapped(), convention=convention)
        assert (one.avgfp, one.avgfn) == (other.avgfn, other.avgfp)


def test_fault_l1_more_instances_than_16_bits_hold():
    labels = np.arange(70_000).reshape(200, 350)
    table = overlap(labels, labels)
    assert (table.pred_instances, symmetric_best_dice(table)) == (69_999, 1)
    assert aji_plus(table) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda t: symmetric_best_dice(t, convention="cvppp"),
        lambda t: count_difference(t, convention="paper"),
        lambda t: fgbg_dice(t, convention="paper"),
        lambda t: coverage(t, convention="count"),
        lambda t: false_instances(t, convention="stardist"),
    ],
)
def test_unknown_convention_is_named(call):
    with pytest.raises(ConfigError, match="it knows"):
        call(overlap(Z, Z))
