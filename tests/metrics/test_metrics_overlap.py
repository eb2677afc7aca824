"""The overlap table: counts against dictionaries, exact ids, limits, refusals."""

from collections import Counter
from importlib import import_module

import numpy as np
import pytest
import torch

from rlseg.errors import ShapeError
from rlseg.metrics import counting, merge_overlaps, overlap
from rlseg.metrics.overlap import MAX_TABLE_CELLS, Overlap

# The package has a function of the module's name.
MODULE = import_module("rlseg.metrics.overlap")
pytestmark = pytest.mark.filterwarnings("error")


def random_maps(seed, shape=(9, 11), ids=5):
    rng = np.random.default_rng(seed)
    return rng.integers(0, ids, shape), rng.integers(0, ids + 1, shape)


def as_dict(table: Overlap):
    """(original pred id, original true id) -> pixels."""
    pred_ids, true_ids = [0, *table.pred_ids.tolist()], [0, *table.true_ids.tolist()]
    return {
        (pred_ids[i], true_ids[j]): c
        for i, j, c in zip(
            table.pred_index.tolist(), table.true_index.tolist(), table.count.tolist(), strict=True
        )
    }


def counted(pred, true):
    return Counter(zip(pred.ravel().tolist(), true.ravel().tolist(), strict=True))


@pytest.mark.parametrize("shape", [(9, 11), (4, 5, 6), (1, 1), (7,)])
@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_a_loop(seed, shape):
    pred, true = random_maps(seed, shape)
    table = overlap(pred, true)
    assert as_dict(table) == counted(pred, true)
    assert table.pred_area[1:].tolist() == [
        int((pred == i).sum()) for i in np.unique(pred[pred > 0])
    ]
    assert table.true_area[0] == (true == 0).sum()
    assert table.pixels == table.kept == pred.size
    assert (table.dense().sum(axis=1) == table.pred_area).all()


def test_pairs_by_hand():
    pred = np.array([[1, 1, 0, 3]])
    true = np.array([[2, 2, 2, 0]])
    pairs = overlap(pred, true).pairs
    assert (pairs.pred.tolist(), pairs.true.tolist(), pairs.count.tolist()) == ([1], [1], [2])
    assert (pairs.iou.tolist(), pairs.dice.tolist()) == ([2 / 3], [4 / 5])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.uint64, ">i4", "F"])
def test_types_orders_and_layouts_count_alike(dtype):
    pred, true = random_maps(3)
    expected = as_dict(overlap(pred, true))
    if dtype == "F":
        pred, true = np.asfortranarray(pred), true[::-1][::-1]
    else:
        pred, true = pred.astype(dtype), true.astype(dtype)
    assert as_dict(overlap(pred, true)) == expected


def test_tensors_and_bools():
    pred, true = random_maps(4)
    expected = as_dict(overlap(pred > 0, true))
    assert as_dict(overlap(torch.from_numpy(pred > 0), torch.from_numpy(true))) == expected
    assert overlap(pred > 0, true).pred_ids.tolist() == [1]


def test_fault_l2_uint64_above_2_63_is_exact():
    big = np.array([[0, 2**64 - 1, 2**64 - 2, 2**63]], dtype=np.uint64)
    table = overlap(big, big)
    assert table.pred_ids.tolist() == [2**63, 2**64 - 2, 2**64 - 1]
    assert table.pred_range == (0, 2**64 - 1)
    assert table.count.tolist() == [1, 1, 1, 1]


def test_fault_l5_gaps_count_as_consecutive_ids():
    pred, true = random_maps(5, ids=4)
    names = np.array([0, 7, 65000, 2**40, 2**40 + 1])
    dense, sparse = overlap(pred, true), overlap(names[pred], names[true])
    for field in ("pred_index", "true_index", "count", "pred_area", "true_area"):
        assert (getattr(dense, field) == getattr(sparse, field)).all()


def test_fault_l5_many_ids_stay_sparse(monkeypatch):
    monkeypatch.setattr(MODULE, "CHUNK_PIXELS", 1000)
    ids = np.arange(40_000).reshape(200, 200)
    table = overlap(ids, ids[::-1])
    assert len(table.count) == ids.size
    assert len(table.pred_area) ** 2 > MAX_TABLE_CELLS
    with pytest.raises(ShapeError, match="limit of 16777216 cells"):
        table.dense()


def test_the_limit_of_dense_tables_can_be_changed():
    table = overlap(np.arange(6), np.arange(6))
    with pytest.raises(ShapeError, match="6 x 6 segments is above the limit of 35 cells"):
        table.dense(max_cells=35)
    assert table.dense(max_cells=36).sum() == 6


@pytest.mark.parametrize("seed", range(3))
def test_chunks_do_not_matter(monkeypatch, seed):
    pred, true = random_maps(seed, (40, 30))
    names = np.random.default_rng(seed).integers(1, 2**64, 10, dtype=np.uint64)
    expected = as_dict(overlap(names[pred], names[true]))
    monkeypatch.setattr(MODULE, "CHUNK_PIXELS", 7)
    monkeypatch.setattr(counting, "MAX_PENDING", 20)
    assert as_dict(overlap(names[pred], names[true])) == expected
    assert as_dict(overlap(pred, true)) == counted(pred, true)


def test_table_of_a_concatenation_is_the_sum():
    pred, true = random_maps(6, (10, 12))
    whole, top, bottom = (
        overlap(pred[a:b], true[a:b]).dense() for a, b in ((0, 10), (0, 4), (4, 10))
    )
    assert (whole == top + bottom).all()


FIELDS = (
    *("pred_index", "true_index", "count", "pred_area", "true_area", "pred_ids", "true_ids"),
    "pixels",
)


@pytest.mark.parametrize("kind", ["shared", "disjoint", "sparse", "masked"])
@pytest.mark.parametrize("seed", range(3))
def test_merged_tables_are_the_table_of_the_joined_maps(seed, kind):
    pred, true = random_maps(seed, (9, 6, 5))
    if kind == "disjoint":
        pred[4:] += 10
    if kind == "sparse":
        names = np.random.default_rng(seed).integers(1, 2**64, 10, dtype=np.uint64)
        pred, true = names[pred], np.where(true > 0, names[true], 0)
    valid = np.ones(pred.shape, dtype=bool)
    if kind == "masked":
        valid = np.random.default_rng(seed).random(pred.shape) < 0.6
    whole = overlap(pred, true, valid)
    parts = [overlap(pred[a:b], true[a:b], valid[a:b]) for a, b in ((0, 4), (4, 4), (4, 7), (7, 9))]
    for merged in (merge_overlaps(parts), parts[0] + parts[1] + (parts[2] + parts[3])):
        for field in FIELDS:
            assert np.array_equal(getattr(merged, field), getattr(whole, field)), field


def test_merging_nothing():
    table = merge_overlaps([])
    assert (table.pixels, table.pred_area.tolist(), len(table.count)) == (0, [0], 0)


def test_fortran_order_is_not_copied():
    pred, true = random_maps(2, (40, 50))
    table = overlap(np.asfortranarray(pred), np.asfortranarray(true))
    assert as_dict(table) == counted(pred, true)
    valid = np.random.default_rng(0).random(pred.shape) < 0.5
    table = overlap(np.asfortranarray(pred), np.asfortranarray(true), valid)
    assert as_dict(table) == counted(pred[valid], true[valid])


def test_negative_ids_are_refused_wherever_they_are():
    pred = np.zeros((300, 300), dtype=np.int16)
    true, valid = pred.copy(), np.ones(pred.shape, dtype=bool)
    pred[200, 7] = -5
    valid[200, 7] = False
    for mask in (None, valid):
        with pytest.raises(ShapeError, match=r"pred holds -5 \(dtype int16\)"):
            overlap(pred, true, mask)
        with pytest.raises(ShapeError, match="true holds -5"):
            overlap(true, pred, mask)


def test_valid_takes_pixels_out_of_both():
    pred, true = random_maps(7)
    valid = np.random.default_rng(0).random(pred.shape) < 0.5
    table = overlap(pred, true, valid)
    assert as_dict(table) == counted(pred[valid], true[valid])
    assert (table.kept, table.pixels) == (valid.sum(), valid.size)


def test_nothing_valid_and_nothing_at_all():
    pred, true = random_maps(8)
    for table in (overlap(pred, true, np.zeros(pred.shape, bool)), overlap(pred[:0], true[:0])):
        assert (table.pred_instances, table.true_instances, table.kept) == (0, 0, 0)
        assert table.pred_range == table.true_range == (0, 0)
        assert table.pred_area.tolist() == [0]


def test_range_without_background():
    table = overlap(np.array([[5, 9]]), np.array([[0, 3]]))
    assert (table.pred_range, table.true_range) == ((5, 9), (0, 3))


def test_swapped_is_the_table_of_the_swapped_maps():
    pred, true = random_maps(9)
    swapped, expected = overlap(pred, true).swapped(), overlap(true, pred)
    for field in ("pred_index", "true_index", "count", "pred_area", "true_area", "pred_ids"):
        assert (getattr(swapped, field) == getattr(expected, field)).all()


@pytest.mark.parametrize(
    ("pred", "words"),
    [
        (np.zeros((2, 2)), ["float64", "integers"]),
        (np.full((2, 2), -1), ["-1", "positive"]),
        (np.zeros((2, 2), complex), ["complex128"]),
        (np.zeros((2, 2), object), ["object"]),
    ],
)
def test_fault_l2_maps_of_other_types_are_refused(pred, words):
    with pytest.raises(ShapeError) as caught:
        overlap(pred, np.zeros((2, 2), int))
    for word in words:
        assert caught.match(word)


@pytest.mark.parametrize(
    ("pred", "words"),
    [
        (np.zeros((2, 3), int), [r"\[2, 3\]", r"\[2, 2\]"]),
        (np.zeros((1, 2, 2), int), [r"\[1, 2, 2\]", "length 1"]),
    ],
)
def test_fault_l3_maps_of_other_shapes_are_refused(pred, words):
    with pytest.raises(ShapeError) as caught:
        overlap(pred, np.zeros((2, 2), int))
    for word in words:
        assert caught.match(word)


@pytest.mark.parametrize("valid", [np.ones((2, 2), int), np.ones((3, 2), bool)])
def test_bad_mask_is_refused(valid):
    with pytest.raises(ShapeError, match="valid"):
        overlap(np.zeros((2, 2), int), np.zeros((2, 2), int), valid)
