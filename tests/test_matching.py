"""Assignment against all permutations; matching at a threshold against the definition."""

import math
from itertools import permutations

import numpy as np
import pytest
import scipy.optimize
import torch

from rlseg import matching
from rlseg.errors import ConfigError, ShapeError
from rlseg.matching import assign, assign_batch, match_at

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


# No assignment where none is needed


@pytest.fixture
def assignments(monkeypatch):
    """Shapes of the matrices that were assigned."""
    shapes = []

    def counted(matrix, maximize):
        shapes.append(matrix.shape)
        return scipy.optimize.linear_sum_assignment(matrix, maximize=maximize)

    monkeypatch.setattr(matching, "linear_sum_assignment", counted)
    return shapes


def disjoint_ious(seed):
    """IoU of the segments of two random maps: no two segments of one map overlap."""
    rng = np.random.default_rng(seed)
    true = np.kron(rng.integers(0, 8, (4, 4)), np.ones((4, 4), dtype=int))
    pred = np.where(rng.random(true.shape) < 0.9, true, rng.integers(0, 8, true.shape))
    masks = [[labels == k for k in range(1, 8)] for labels in (pred, true)]
    return np.array([[(p & t).sum() / max((p | t).sum(), 1) for t in masks[1]] for p in masks[0]])


@pytest.mark.parametrize("threshold", [0.5, 0.500001, 0.75])
@pytest.mark.parametrize("seed", range(6))
def test_segments_of_maps_need_no_assignment(seed, threshold, assignments):
    iou = disjoint_ious(seed)
    match = match_at(iou, threshold)
    rows, columns = np.nonzero(iou >= threshold)
    assert len(rows) > 1
    assert (match.pred.tolist(), match.true.tolist()) == (rows.tolist(), columns.tolist())
    assert assignments == []
    pairs, total = max(matchings(iou, threshold))
    assert (len(rows), match.iou.sum()) == (pairs, pytest.approx(total))


def test_two_halves_of_a_segment_at_one_half(assignments):
    match = match_at(np.array([[0.5, 0.0], [0.5, 0.0], [0.0, 0.7]]), 0.5)
    assert len(match.pred) == 2
    assert (match.pred[-1], match.true[-1]) == (2, 1)
    assert assignments == [(3, 2)]


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.8])
@pytest.mark.parametrize("seed", range(10))
def test_masks_that_overlap_are_assigned(seed, threshold):
    """Any numbers, so that several entries of a row may be over the threshold."""
    iou = np.random.default_rng(seed).random((5, 4)) ** 0.5
    match = match_at(torch.from_numpy(iou), threshold)
    pairs, total = max(matchings(iou, threshold))
    assert len(match.pred) == pairs
    assert match.iou.sum().item() == pytest.approx(total)
    assert len(set(match.true.tolist())) == len(match.true)
    assert match.pred.tolist() == sorted(set(match.pred.tolist()))


def test_only_rows_and_columns_with_an_entry_are_assigned(assignments):
    iou = np.zeros((50, 60))
    iou[[7, 7, 30], [3, 9, 9]] = [0.9, 0.8, 0.7]
    match = match_at(iou, 0.6)
    assert (match.pred.tolist(), match.true.tolist()) == ([7, 30], [3, 9])
    assert assignments == [(2, 2)]


# Batches


def random_matrices(seed, count=7):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=rng.integers(0, 6, 2)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(4))
def test_a_list_is_assigned_one_by_one(seed):
    matrices = random_matrices(seed)
    for batch in (matrices, [torch.from_numpy(m) for m in matrices], tuple(matrices)):
        found = assign_batch(batch)
        assert len(found) == len(matrices)
        for (rows, columns), matrix, given in zip(found, matrices, batch, strict=True):
            assert type(rows) is type(columns) is type(given)
            assert len(rows) == len(columns) == min(matrix.shape)
            assert rows.tolist() == sorted(set(rows.tolist()))
            assert len(set(columns.tolist())) == len(columns)
            total = sum(matrix[i, j] for i, j in zip(rows.tolist(), columns.tolist(), strict=True))
            assert total == pytest.approx(best_total(matrix) if matrix.size else 0)


@pytest.mark.parametrize("seed", range(4))
def test_a_padded_batch_is_the_list(seed):
    matrices = random_matrices(seed)
    padded = np.full((len(matrices), 5, 6), math.nan)  # padding may hold anything
    sizes = np.array([m.shape for m in matrices])
    for index, m in enumerate(matrices):
        padded[index, : m.shape[0], : m.shape[1]] = m
    expected = [(r.tolist(), c.tolist()) for r, c in assign_batch(matrices)]
    for batch, limits in (
        (padded, sizes),
        (padded, sizes.tolist()),
        (torch.from_numpy(padded), torch.from_numpy(sizes)),
    ):
        found = assign_batch(batch, limits)
        assert [(r.tolist(), c.tolist()) for r, c in found] == expected
        assert all(type(r) is type(batch) for r, _ in found)


def test_a_batch_without_sizes_counts_everything():
    scores = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    for (rows, columns), matrix in zip(assign_batch(scores), scores, strict=True):
        one = assign(matrix)
        assert torch.equal(rows, one[0])
        assert torch.equal(columns, one[1])
        assert rows.dtype == torch.int64


def test_fault_l8_batches_with_empty_sides():
    assert assign_batch([]) == []
    assert assign_batch(torch.zeros(0, 3, 4)) == []
    assert assign_batch(np.zeros((0, 3, 4)), np.zeros((0, 2), dtype=int)) == []
    for batch in (torch.zeros(2, 0, 4), np.zeros((2, 3, 0)), [np.zeros((0, 0)), np.zeros((0, 9))]):
        found = assign_batch(batch)
        assert [(len(r), len(c)) for r, c in found] == [(0, 0), (0, 0)]


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_fault_l8_a_batch_names_the_matrix(bad):
    matrices = [np.zeros((2, 3)) for _ in range(3)]
    matrices[2][1, 2] = bad
    for batch in (matrices, np.stack(matrices), [torch.from_numpy(m) for m in matrices]):
        with pytest.raises(ConfigError, match=r"matrix 2 of the batch: score of pair \(1, 2\)"):
            assign_batch(batch)


def test_batches_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"matrix 1 of the batch: scores have shape \[3\]"):
        assign_batch([np.zeros((2, 2)), np.zeros(3)])
    with pytest.raises(ShapeError, match=r"\[B, M, N\]"):
        assign_batch(np.zeros((2, 2)))
    with pytest.raises(ShapeError, match="matrix 0 of the batch: scores have dtype complex"):
        assign_batch(np.zeros((1, 2, 2), complex))
    with pytest.raises(ShapeError, match="sizes belong to a padded batch"):
        assign_batch([np.zeros((2, 2))], sizes=[(2, 2)])
    padded = torch.zeros(2, 3, 4)
    for sizes in ([(3, 5), (1, 1)], [(1, 1), (-1, 2)]):
        with pytest.raises(ShapeError, match=r"sizes of matrix \d of the batch .* 3 rows and 4"):
            assign_batch(padded, sizes)
    for sizes in ([(3, 4)], [3, 4, 3, 4], [(1.0, 2.0), (1.0, 1.0)]):
        with pytest.raises(ShapeError, match=r"expected whole numbers \[2, 2\]"):
            assign_batch(padded, sizes)
    with pytest.raises(ShapeError, match=r"expected whole numbers \[0, 2\]"):
        assign_batch(padded[:0], [(3, 4)])


SIZES = [(3, 4), (0, 2), (5, 2)]


def test_a_batch_is_copied_to_the_host_once(monkeypatch):
    matrices = [torch.rand(m, n, generator=torch.Generator().manual_seed(m)) for m, n in SIZES]
    copies = []
    copy = torch.Tensor.cpu

    def counted(tensor):
        copies.append(tuple(tensor.shape))
        return copy(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    found = assign_batch(matrices)
    assert copies == [(sum(m * n for m, n in SIZES),)]
    monkeypatch.undo()
    for (rows, columns), matrix in zip(found, matrices, strict=True):
        one = assign(matrix)
        assert torch.equal(rows, one[0])
        assert torch.equal(columns, one[1])
