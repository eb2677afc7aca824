"""The assignment of largest total IoU against scipy on full matrices."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from rlseg.metrics import aji_plus, assignment, overlap
from rlseg.metrics.assignment import assign_pairs
from rlseg.metrics.overlap import Overlap

pytestmark = pytest.mark.filterwarnings("error")


def random_table(rng):
    """A table of random counts: sparse or crowded, with many equal IoUs or none."""
    shape = rng.integers(1, 40, 2)
    counts = rng.integers(1, rng.choice([2, 4, 1000]), shape, endpoint=True)
    counts[rng.random(shape) > rng.choice([0.05, 0.2, 0.7])] = 0
    alone = [rng.integers(1, 3, n) if rng.random() < 0.5 else np.ones(n, int) for n in shape]
    pred_index, true_index = np.nonzero(counts)
    return Overlap(
        pred_index=pred_index + 1,
        true_index=true_index + 1,
        count=counts[pred_index, true_index],
        pred_area=np.concatenate(([0], counts.sum(axis=1) + alone[0])),
        true_area=np.concatenate(([0], counts.sum(axis=0) + alone[1])),
        pred_ids=np.arange(1, shape[0] + 1, dtype=np.uint64),
        true_ids=np.arange(1, shape[1] + 1, dtype=np.uint64),
        pixels=int(counts.sum()),
    )


def matrix(table):
    iou = np.zeros((table.pred_instances, table.true_instances))
    iou[table.pairs.pred - 1, table.pairs.true - 1] = table.pairs.iou
    return iou


def check(table):
    chosen = assign_pairs(table)
    pairs, iou = table.pairs, matrix(table)
    assert (np.diff(chosen) > 0).all()
    assert len(set(pairs.pred[chosen].tolist())) == len(chosen)
    assert len(set(pairs.true[chosen].tolist())) == len(chosen)
    best = iou[linear_sum_assignment(iou, maximize=True)].sum()
    assert pairs.iou[chosen].sum() == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("small", [0, 30, 1 << 10], ids=["groups", "some", "whole"])
@pytest.mark.parametrize("rounds", [0, 1, 8])
def test_total_equals_scipy(monkeypatch, small, rounds):
    monkeypatch.setattr(assignment, "SMALL_TABLE", small)
    monkeypatch.setattr(assignment, "ROUNDS", rounds)
    rng = np.random.default_rng(rounds)
    for _ in range(150):
        check(random_table(rng))


def test_sparse_solver_finds_the_same_total(monkeypatch):
    monkeypatch.setattr(assignment, "SMALL_TABLE", 0)
    monkeypatch.setattr(assignment, "LARGEST_MATRIX", 0)
    rng = np.random.default_rng(0)
    for _ in range(150):
        check(random_table(rng))


def test_score_is_that_of_scipy_where_no_two_assignments_are_equal(monkeypatch):
    rng = np.random.default_rng(1)
    tables = [random_table(rng) for _ in range(100)]
    expected = [aji_plus(table) for table in tables]
    monkeypatch.setattr(assignment, "SMALL_TABLE", 0)
    seen = 0
    for table, score in zip(tables, expected, strict=True):
        if len(np.unique(table.pairs.iou)) == len(table.pairs.iou):  # no ties
            seen += 1
            assert aji_plus(table) == score
    assert seen > 20


def test_chain_in_which_the_best_pair_loses(monkeypatch):
    # 1-2 has the largest IoU, but 1-1 and 2-2 together are worth more: no pair is decided.
    pred = np.array([[1] * 4 + [1] * 6 + [2] * 4])
    true = np.array([[1] * 4 + [2] * 6 + [2] * 4])
    iou = matrix(overlap(pred, true))
    assert iou[0, 0] < iou[0, 1] > iou[1, 1]
    assert iou[0, 0] + iou[1, 1] > iou[0, 1]
    for small in (0, 1 << 10):
        monkeypatch.setattr(assignment, "SMALL_TABLE", small)
        assert assign_pairs(overlap(pred, true)).tolist() == [0, 2]


def test_crowded_image_of_many_instances():
    # Cells of two shifted grids: each touches four others, and all hang together.
    rows, columns = np.indices((400, 400))
    pred = rows // 5 * 80 + columns // 5 + 1
    shifted = (rows + 2) // 5 * 81 + (columns + 2) // 5 + 1
    table = overlap(pred, shifted)
    assert len(table.pairs.iou) > 25_000
    chosen = assign_pairs(table)
    # 9 of 25 pixels is the best pair of a whole cell; every prediction gets its own.
    assert len(chosen) == 6400
    assert np.count_nonzero(table.pairs.count[chosen] == 9) == 6400


def test_nothing_touches():
    table = overlap(np.array([[0, 1]]), np.array([[1, 0]]))
    assert assign_pairs(table).tolist() == []
    monstrous = overlap(np.arange(50)[None], np.zeros((1, 50), dtype=int))
    assert assign_pairs(monstrous).tolist() == []
