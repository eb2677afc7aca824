import numpy as np
import pytest
import torch
from slow_coco import random_problem, records, slow_iou, slow_pairs

from rlseg import rle
from rlseg.errors import ShapeError
from rlseg.metrics import coco_pairs
from rlseg.metrics.coco import Detected, Truths
from rlseg.metrics.coco_pairs import dense_pairs, run_pairs, table_pairs
from rlseg.metrics.overlap import overlap

pytestmark = pytest.mark.filterwarnings("error")


def runs(rows):
    parts = [rle.encode(row["mask"][None]) for row in rows]
    return rle.concatenate(parts) if parts else rle.encode(np.zeros((0, 3, 3), dtype=bool))


def same(one, other):
    assert one.detection.tolist() == other.detection.tolist()
    assert one.truth.tolist() == other.truth.tolist()
    assert one.iou.tolist() == other.iou.tolist()


def slow_image_pairs(pred, true, own, others, crowd):
    rows = []
    for i in range(len(pred)):
        for j in range(len(true)):
            found, truth = {"mask": pred[i] != 0}, {"mask": true[j] != 0, "crowd": crowd[j]}
            value = slow_iou(found, truth)
            if own[i] == others[j] and value > 0:
                rows.append((i, j, value))
    return rows


def rows_of(pairs):
    return list(zip(pairs.pred.tolist(), pairs.true.tolist(), pairs.iou.tolist(), strict=True))


def test_run_pairs_are_those_of_a_slow_loop():
    number = 0
    for seed in range(40):
        problem = random_problem(np.random.default_rng(seed))
        truths, detected = records(problem)
        slow = slow_pairs(problem)
        same(run_pairs(detected, truths, runs(problem.detected), runs(problem.truths)), slow)
        number += len(slow)
    assert number > 200


def test_run_pairs_of_the_best_only():
    cut = 0
    for seed in range(40):
        problem = random_problem(np.random.default_rng(seed))
        truths, detected = records(problem)
        masks = runs(problem.detected), runs(problem.truths)
        every = run_pairs(detected, truths, *masks)
        best = []
        for key in sorted(
            set(zip(detected.image.tolist(), detected.category.tolist(), strict=True))
        ):
            own = [
                k for k in range(len(detected)) if (detected.image[k], detected.category[k]) == key
            ]
            best += sorted(own, key=lambda k: -detected.score[k])[:2]
        kept = np.isin(every.detection, best)
        found = run_pairs(detected, truths, *masks, limit=2)
        assert found.detection.tolist() == every.detection[kept].tolist()
        assert found.truth.tolist() == every.truth[kept].tolist()
        assert found.iou.tolist() == every.iou[kept].tolist()
        cut += int((~kept).sum())
    assert cut > 20


def test_run_pairs_in_small_parts(monkeypatch):
    monkeypatch.setattr(coco_pairs, "CHUNK_PAIRS", 2)
    for seed in range(5):
        problem = random_problem(np.random.default_rng(seed))
        truths, detected = records(problem)
        found = run_pairs(detected, truths, runs(problem.detected), runs(problem.truths))
        same(found, slow_pairs(problem))


def test_two_thousand_masks_of_one_category():
    # A grid of 2x2 squares in one image: 4 million pairs, of which few overlap.
    size, number = 100, 2000
    corner = np.arange(number)
    maps = np.zeros((size, size), dtype=np.int64)
    for k in corner:
        row, column = divmod(int(k), 50)
        maps[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = k + 1
    true, _ = rle.encode_labels(maps)
    pred, _ = rle.encode_labels(np.roll(maps, 1, axis=1))
    zeros, crowd = np.zeros(number, dtype=np.int64), np.zeros(number, dtype=bool)
    truths = Truths(image=zeros, category=zeros, area=np.full(number, 4.0), crowd=crowd)
    detected = Detected(image=zeros, category=zeros, area=truths.area, score=np.ones(number))
    found = run_pairs(detected, truths, pred, true)
    table = table_pairs(overlap(np.roll(maps, 1, axis=1), maps), zeros, zeros)
    assert len(found) == len(table.pred) == 2 * number
    assert found.detection.tolist() == table.pred.tolist()
    assert found.truth.tolist() == table.true.tolist()
    assert found.iou.tolist() == table.iou.tolist() == [1 / 3] * 2 * number


@pytest.mark.parametrize("shape", [(7, 9), (16, 12), (8, 8), (64, 32), (3, 5, 4), (1,), (5, 0)])
@pytest.mark.parametrize("limit", [0, 1 << 16])
def test_dense_pairs_are_those_of_a_slow_loop(monkeypatch, shape, limit):
    monkeypatch.setattr(coco_pairs, "CHUNK_WORDS", limit)
    rng = np.random.default_rng(sum(shape))
    for pred_number, true_number in ((6, 5), (0, 3), (3, 0), (0, 0), (1, 12)):
        pred = (
            rng.random((pred_number, *shape))
            < rng.choice([0, 0.1, 0.5, 1], pred_number)[(...,) + (None,) * len(shape)]
        )
        true = rng.random((true_number, *shape)) < 0.3
        own, others = rng.integers(0, 2, pred_number), rng.integers(0, 2, true_number)
        crowd = rng.random(true_number) < 0.3
        slow = slow_image_pairs(pred, true, own, others, crowd)
        for dtype in (np.bool_, np.uint8, np.int32, np.uint64):
            masks, true_masks = pred.astype(dtype), true.astype(dtype)
            if dtype in (np.uint8, np.int32):
                masks = masks * 7  # any value but 0 is inside
            found = dense_pairs(masks, true_masks, own, others, crowd)
            assert rows_of(found) == slow
            axes = tuple(range(1, pred.ndim))
            assert found.pred_area.tolist() == pred.sum(axis=axes).tolist()
            assert found.true_area.tolist() == true.sum(axis=axes).tolist()
        tensors = dense_pairs(torch.from_numpy(pred), torch.from_numpy(true), own, others, crowd)
        assert rows_of(tensors) == slow


def test_dense_masks_in_any_memory_order():
    rng = np.random.default_rng(1)
    pred, true = rng.random((4, 6, 10)) < 0.5, rng.random((3, 6, 10)) < 0.5
    own, others = np.zeros(4, dtype=int), np.zeros(3, dtype=int)
    expected = rows_of(dense_pairs(pred, true, own, others))
    assert len(expected) == 12
    turned = np.ascontiguousarray(pred.transpose(1, 2, 0)).transpose(2, 0, 1)
    assert rows_of(dense_pairs(turned, np.asfortranarray(true), own, others)) == expected
    assert rows_of(dense_pairs(pred[:, ::-1], true[:, ::-1], own, others)) == expected


def test_table_pairs_are_those_of_dense_masks():
    rng = np.random.default_rng(2)
    for _ in range(20):
        pred = np.repeat(np.repeat(rng.integers(0, 6, (5, 6)), 2, 0), 2, 1)
        true = np.roll(np.where(rng.random(pred.shape) < 0.8, pred, 3), 1, 0)
        ids, true_ids = np.unique(pred[pred > 0]), np.unique(true[true > 0])
        own, others = rng.integers(0, 2, len(ids)), rng.integers(0, 2, len(true_ids))
        crowd = rng.random(len(true_ids)) < 0.5
        table = table_pairs(overlap(pred, true), own, others, crowd)
        masks, true_masks = pred == ids[:, None, None], true == true_ids[:, None, None]
        dense = dense_pairs(masks, true_masks, own, others, crowd)
        assert rows_of(table) == rows_of(dense)
        assert table.pred_area.tolist() == dense.pred_area.tolist()
        assert table.true_area.tolist() == dense.true_area.tolist()


def test_a_fifth_compares_equal_to_a_fifth():
    pred = np.array([[1, 1, 1, 1, 0]])
    true = np.array([[0, 1, 1, 1, 1]])
    found = table_pairs(overlap(pred, true), np.array([3]), np.array([3]))
    assert found.iou.tolist() == [0.6]
    assert len(table_pairs(overlap(pred, true), np.array([3]), np.array([4])).iou) == 0
    crowd = table_pairs(overlap(pred, true), np.array([3]), np.array([3]), np.array([True]))
    assert crowd.iou.tolist() == [0.75]


def test_misfits_are_refused():
    masks, one = np.zeros((1, 4, 4), dtype=bool), np.array([1])
    with pytest.raises(ShapeError, match="never resized"):
        dense_pairs(masks, np.zeros((1, 4, 5), dtype=bool), one, one)
    with pytest.raises(ShapeError, match="pred_masks has shape"):
        dense_pairs(masks.astype(float), masks, one, one)
    with pytest.raises(ShapeError, match="true_masks has shape"):
        dense_pairs(masks, np.array(3), one, one)
    with pytest.raises(ShapeError, match="pred_categories"):
        dense_pairs(masks, masks, np.array([1, 2]), one)
    with pytest.raises(ShapeError, match="true_categories"):
        dense_pairs(masks, masks, one, np.array([1.0]))
    with pytest.raises(ShapeError, match="crowd"):
        dense_pairs(masks, masks, one, one, np.array([1]))
    with pytest.raises(ShapeError, match="pred_categories"):
        table_pairs(overlap(np.ones((2, 2), dtype=int), np.ones((2, 2), dtype=int)), one[:0], one)


def test_run_masks_must_fit_the_records():
    problem = random_problem(np.random.default_rng(0))
    truths, detected = records(problem)
    pred, true = runs(problem.detected), runs(problem.truths)
    with pytest.raises(ShapeError, match="detections came with"):
        run_pairs(detected, truths, pred.take(np.arange(1, len(pred))), true)
    with pytest.raises(ShapeError, match="truths came with"):
        run_pairs(detected, truths, pred, true.take(np.arange(1, len(true))))
    # An image whose second mask has another size, although the two masks lie apart.
    small, large = np.zeros((1, 4, 4), dtype=bool), np.zeros((1, 4, 5), dtype=bool)
    one = np.zeros(1, dtype=np.int64)
    truth = Truths(image=one, category=one, area=np.ones(1), crowd=np.zeros(1, dtype=bool))
    found = Detected(image=one, category=one, area=np.ones(1), score=np.ones(1))
    with pytest.raises(ShapeError, match=r"image 0 has masks of size \[4, 5\] and of \[4, 4\]"):
        run_pairs(found, truth, rle.encode(small), rle.encode(large))
