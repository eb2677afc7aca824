"""Assignment against all permutations; matching at a threshold against the definition."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from rlseg.errors import ConfigError, ShapeError
from rlseg.matching import assign, match_at

pytestmark = pytest.mark.filterwarnings("error")


def best_total(score):
    m, n = score.shape
    if m > n:
        return best_total(score.T)
    return max(sum(score[i, j] for i, j in enumerate(p)) for p in permutations(range(n), m))


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 5), (5, 3)])
@pytest.mark.parametrize("seed", range(4))
def test_assign_is_the_best_permutation(seed, shape):
    score = np.random.default_rng(seed).normal(size=shape)
    rows, columns = assign(score)
    assert len(rows) == min(shape)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(set(columns.tolist())) == len(columns)
    assert score[rows, columns].sum() == pytest.approx(best_total(score))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_tensors_give_tensors(dtype):
    score = torch.tensor([[1, 5], [4, 7]], dtype=dtype)
    rows, columns = assign(score)
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])
    assert rows.dtype == columns.dtype == torch.int64


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_fault_l8_empty_sides(shape):
    for score in (torch.zeros(shape), np.zeros(shape)):
        rows, columns = assign(score)
        assert len(rows) == len(columns) == 0
        match = match_at(score, 0.5)
        assert len(match.pred) == len(match.true) == len(match.iou) == 0


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_fault_l8_scores_that_are_not_finite(bad):
    score = np.zeros((2, 3))
    score[1, 2] = bad
    for function in (assign, lambda s: match_at(s, 0.5)):
        with pytest.raises(ConfigError, match=r"\(1, 2\)") as caught:
            function(score)
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("score", [np.zeros(3), np.zeros((2, 2, 2)), torch.zeros(2)])
def test_other_axes_are_refused(score):
    with pytest.raises(ShapeError, match="M, N"):
        assign(score)


@pytest.mark.parametrize(
    "score", [np.zeros((2, 2), complex), torch.zeros(2, 2, dtype=torch.cfloat)]
)
def test_complex_scores_are_refused(score):
    with pytest.raises(ShapeError, match="real"):
        assign(score)


def matchings(iou, threshold):
    """(pairs, sum of IoU) of every one-to-one matching, by recursion over rows."""

    def search(row, used):
        if row == len(iou):
            yield 0, 0.0
            return
        yield from search(row + 1, used)
        for column in range(iou.shape[1]):
            if column not in used and iou[row, column] >= threshold and iou[row, column] > 0:
                for pairs, total in search(row + 1, used | {column}):
                    yield pairs + 1, total + iou[row, column]

    return search(0, frozenset())


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_match_at_takes_most_pairs_then_most_iou(seed, threshold):
    iou = np.random.default_rng(seed).integers(0, 11, (4, 5)) / 10
    match = match_at(iou, threshold)
    pairs, total = max(matchings(iou, threshold))
    assert len(match.pred) == pairs
    assert match.iou.sum() == pytest.approx(total)
    assert (match.iou == iou[match.pred, match.true]).all()


def test_match_at_prefers_two_pairs_to_one_better():
    match = match_at(torch.tensor([[0.9, 0.5], [0.6, 0.0]]), 0.5)
    assert (match.pred.tolist(), match.true.tolist()) == ([0, 1], [1, 0])


def test_match_at_refuses_what_is_no_iou():
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        match_at(np.array([[1.5]]), 0.5)
    with pytest.raises(ConfigError, match="threshold"):
        match_at(np.array([[0.5]]), -0.1)
