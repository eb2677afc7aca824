"""Class maps: counts against a loop over pixels, scores against their formulas."""

import logging
import math

import numpy as np
import pytest
import torch

from rlseg.errors import ConfigError, ShapeError
from rlseg.metrics import (
    MetricSet,
    SemanticScores,
    absent_classes,
    accuracy_per_class,
    class_counts,
    class_entropy,
    class_entropy_norm,
    confusion_matrix,
    iou_per_class,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
)
from rlseg.metrics.confusion import CHUNK_PIXELS, _count_on_device

pytestmark = pytest.mark.filterwarnings("error")


def slow_confusion(pred, true, classes, ignore=255, valid=None):
    table = [[0] * classes for _ in range(classes)]
    counted = np.ones(true.shape, bool) if valid is None else valid
    for p, t, v in zip(pred.ravel().tolist(), true.ravel().tolist(), counted.ravel(), strict=True):
        if v and (ignore is None or t != ignore):
            table[int(t)][int(p)] += 1
    return np.array(table, dtype=np.int64)


def slow_scores(confusion):
    """Every score by its formula, over Python lists."""
    table = confusion.tolist()
    size = range(len(table))
    rows = [sum(table[c]) for c in size]
    columns = [sum(table[r][c] for r in size) for c in size]
    unions = [rows[c] + columns[c] - table[c][c] for c in size]
    ious = [table[c][c] / unions[c] if unions[c] else math.nan for c in size]
    recalls = [table[c][c] / rows[c] for c in size if rows[c]]
    defined = [iou for iou in ious if not math.isnan(iou)]
    total = sum(rows)
    shares = [row / total for row in rows if row] if total else []
    entropy = -sum(f * math.log(f) for f in shares) if total else math.nan
    return ious, {
        "miou": sum(defined) / len(defined) if defined else math.nan,
        "pixel_accuracy": sum(table[c][c] for c in size) / total if total else math.nan,
        "mean_accuracy": sum(recalls) / len(recalls) if recalls else math.nan,
        "class_entropy": entropy,
        "class_entropy_norm": entropy / math.log(len(table)) if len(table) > 1 else math.nan,
    }


def maps(seed, classes=5, shape=(13, 17), void=0.1, dtype=np.int64):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, shape)
    pred = np.where(rng.random(shape) < 0.7, true, rng.integers(0, classes, shape))
    true = np.where(rng.random(shape) < void, 255, true)
    return pred.astype(dtype), true.astype(dtype)


# Counts


@pytest.mark.parametrize("shape", [(13, 17), (3, 4, 5), (2, 3, 4, 5), (7,), ()])
@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_a_loop(seed, shape):
    pred, true = maps(seed, shape=shape)
    found = confusion_matrix(pred, true, 5)
    assert found.dtype == np.int64
    assert (found == slow_confusion(pred, true, 5)).all()


# Keys of one byte up to 15 classes, of two up to 180; ids of one byte up to 255 classes.
@pytest.mark.parametrize("classes", [1, 2, 15, 16, 180, 181, 255, 256, 300])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_any_number_of_classes(classes, dtype):
    if dtype is np.uint8 and classes > 255:
        pred, true = maps(classes, 256, void=0, dtype=dtype)
        ignore = None
    else:
        pred, true = maps(classes, classes, void=0, dtype=dtype)
        ignore = -1 if classes > 255 else 255
        true.ravel()[::5] = ignore
    assert (
        confusion_matrix(pred, true, classes, ignore=ignore)
        == slow_confusion(pred, true, classes, ignore)
    ).all()
    both = confusion_matrix(true[true != ignore], true[true != ignore], classes, ignore=ignore)
    assert int(both.trace()) == int(both.sum()) == int((true != ignore).sum())


@pytest.mark.parametrize(
    "dtype",
    [
        *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
        np.dtype(">i4"),
    ],
)
def test_every_integer_type_counts_the_same(dtype):
    pred, true = maps(0, void=0)
    true[0] = 100
    expected = slow_confusion(pred, true, 5, 100)
    given = pred.astype(dtype), true.astype(dtype)
    assert (confusion_matrix(*given, 5, ignore=100) == expected).all()
    assert (confusion_matrix(pred.astype(np.uint8), given[1], 5, ignore=100) == expected).all()


def test_bool_maps_are_two_classes():
    pred, true = np.array([True, True, False]), np.array([True, False, False])
    assert confusion_matrix(pred, true, 2).tolist() == [[1, 1], [0, 1]]
    assert confusion_matrix(torch.from_numpy(pred), true, 2).tolist() == [[1, 1], [0, 1]]


def test_arrays_that_cannot_be_written_and_other_memory_orders():
    pred, true = maps(1, dtype=np.uint8)
    expected = slow_confusion(pred, true, 5)
    for array in (pred, true):
        array.flags.writeable = False
    assert (confusion_matrix(pred, true, 5) == expected).all()
    assert (confusion_matrix(np.asfortranarray(pred), true, 5) == expected).all()
    assert (confusion_matrix(pred[::-1], true[::-1], 5) == expected).all()
    assert not pred.flags.writeable


def test_large_maps_are_counted_in_pieces():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 2 * CHUNK_PIXELS + 3).astype(np.uint8)
    pred = rng.integers(0, 4, true.shape).astype(np.uint8)
    joint = np.zeros((4, 4), dtype=np.int64)
    np.add.at(joint, (true, pred), 1)
    assert (confusion_matrix(pred, true, 4) == joint).all()
    wide = pred.astype(np.int32)
    wide[CHUNK_PIXELS] = 300  # one piece does not fit bytes
    void = true.astype(np.int32)
    void[CHUNK_PIXELS] = 255
    joint[true[CHUNK_PIXELS], pred[CHUNK_PIXELS]] -= 1
    assert (confusion_matrix(wide, void, 4) == joint).all()


def test_tensors_give_tensors():
    pred, true = maps(2)
    expected = slow_confusion(pred, true, 5)
    for dtype in (torch.uint8, torch.int16, torch.int64):
        p, t = torch.from_numpy(pred).to(dtype), torch.from_numpy(true).to(dtype)
        found = confusion_matrix(p, t, 5)
        assert isinstance(found, torch.Tensor)
        assert found.dtype == torch.int64
        assert (found.numpy() == expected).all()
        assert (confusion_matrix(p, true, 5).numpy() == expected).all()
        assert isinstance(confusion_matrix(pred, t, 5), np.ndarray)
        assert (iou_per_class(found).numpy() == iou_per_class(expected)).all()
        assert isinstance(accuracy_per_class(found), torch.Tensor)
        assert mean_iou(found) == mean_iou(expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("with_valid", [False, True])
def test_the_way_of_other_devices(dtype, with_valid):
    pred, true = maps(3)
    valid = np.random.default_rng(3).random(true.shape) < 0.8 if with_valid else None
    p, t = torch.from_numpy(pred).to(dtype), torch.from_numpy(true).to(dtype)
    table, bad = _count_on_device(p, t, 5, 255, valid)
    assert (table.numpy() == slow_confusion(pred, true, 5, valid=valid)).all()
    assert not bad
    wrong = pred.copy()
    wrong[true < 5] = 7
    assert _count_on_device(torch.from_numpy(wrong), true, 5, 255, valid)[1]
    assert _count_on_device(p, true, 5, None, valid)[1]
    with pytest.raises(ShapeError, match="valid has shape"):
        _count_on_device(p, t, 5, 255, torch.ones(3, dtype=torch.bool))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_maps_on_a_gpu_are_counted_there():
    pred, true = maps(4)
    found = confusion_matrix(torch.from_numpy(pred).cuda(), torch.from_numpy(true).cuda(), 5)
    assert found.device.type == "cuda"
    assert (found.cpu().numpy() == slow_confusion(pred, true, 5)).all()
    pred[0, 0], true[0, 0] = 9, 1
    with pytest.raises(ShapeError, match=r"pred holds 9 at \[0, 0\], and 1 counted pixels"):
        confusion_matrix(torch.from_numpy(pred).cuda(), torch.from_numpy(true).cuda(), 5)


def test_only_valid_pixels_count():
    pred, true = maps(5)
    valid = np.random.default_rng(5).random(true.shape) < 0.5
    expected = slow_confusion(pred, true, 5, valid=valid)
    assert (confusion_matrix(pred, true, 5, valid=valid) == expected).all()
    found = confusion_matrix(torch.from_numpy(pred), true, 5, valid=torch.from_numpy(valid))
    assert (found.numpy() == expected).all()
    wrong = pred.copy()
    wrong[~valid] = -3
    assert (confusion_matrix(wrong, true, 5, valid=valid) == expected).all()
    with pytest.raises(ShapeError, match="valid has shape"):
        confusion_matrix(pred, true, 5, valid=valid[:2])


@pytest.mark.parametrize("ignore", [-100, -1, 5, 255, 2**40, None])
def test_ignore_ids(ignore):
    pred, true = maps(6, void=0)
    if ignore is not None:
        true[2] = ignore
        pred[2, 3] = 77  # whatever was predicted
    assert (
        confusion_matrix(pred, true, 5, ignore=ignore) == slow_confusion(pred, true, 5, ignore)
    ).all()


def test_parts_add_up():
    parts = [maps(seed) for seed in range(4)]
    whole = confusion_matrix(*(np.concatenate(side) for side in zip(*parts, strict=True)), 5)
    assert (sum(confusion_matrix(*part, 5) for part in parts) == whole).all()
    # Exchanging the roles transposes it.
    pred, true = maps(0, void=0)
    assert (confusion_matrix(true, pred, 5) == confusion_matrix(pred, true, 5).T).all()


def test_fault_l10_an_image_of_void_adds_nothing():
    void = np.full((4, 5), 255, dtype=np.uint8)
    assert not confusion_matrix(np.zeros_like(void), void, 3).any()
    assert not confusion_matrix(np.zeros((0, 3), int), np.zeros((0, 3), int), 3).any()
    scores = SemanticScores(3)
    scores.update(*maps(0, 3), name="a")
    before = scores.compute()
    scores.update(np.full((4, 5), 9), void, name="void")
    assert scores.compute() == before
    assert math.isnan(scores.images[1].miou)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
@pytest.mark.parametrize("side", ["pred", "true"])
@pytest.mark.parametrize("value", [5, 200, 254])
def test_fault_l10_ids_that_are_no_class(dtype, side, value):
    pred, true = maps(7, void=0.3, dtype=dtype)
    places = np.argwhere(true != 255)[3:6]
    for place in places:
        (pred if side == "pred" else true)[tuple(place)] = value
    row, column = places[0].tolist()
    expected = rf"{side} holds {value} at \[{row}, {column}\], and 3 counted pixels .* 0\.\.4"
    for convert in (np.asarray, torch.from_numpy):
        with pytest.raises(ShapeError, match=expected):
            confusion_matrix(convert(pred), convert(true), 5)


def test_fault_l10_values_out_of_any_range():
    zeros = np.zeros((2, 2), dtype=np.int64)
    for value in (-1, 2**40, -(2**40)):
        wrong = zeros.copy()
        wrong[1, 0] = value
        with pytest.raises(ShapeError, match=rf"pred holds {value} at \[1, 0\]"):
            confusion_matrix(wrong, zeros, 2)
        with pytest.raises(ShapeError, match=rf"true holds {value} at \[1, 0\]"):
            confusion_matrix(zeros, wrong, 2)
    large = np.zeros((2, 2), dtype=np.uint64)
    large[0, 1] = 2**64 - 1
    with pytest.raises(ShapeError, match=rf"true holds {2**64 - 1} at \[0, 1\]"):
        confusion_matrix(zeros, large, 2, ignore=None)
    assert confusion_matrix(zeros, large, 2, ignore=2**64 - 1).sum() == 3
    # 255 is a class id like any other where nothing is ignored.
    with pytest.raises(ShapeError, match="true holds 255"):
        confusion_matrix(zeros, np.full((2, 2), 255, np.uint8), 2, ignore=None)


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros(3, complex), np.zeros(3, object)])
def test_maps_that_hold_no_integers(bad):
    good = np.zeros(3, dtype=np.int64)
    with pytest.raises(ShapeError, match=f"pred has dtype {bad.dtype}"):
        confusion_matrix(bad, good, 2)
    with pytest.raises(ShapeError, match=f"true has dtype {bad.dtype}"):
        confusion_matrix(good, bad, 2)
    with pytest.raises(ShapeError, match=r"dtype torch\.float32"):
        confusion_matrix(torch.zeros(3), good, 2)


def test_shapes_and_classes_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"\[2, 3\].*\[3, 2\]"):
        confusion_matrix(np.zeros((2, 3), int), np.zeros((3, 2), int), 2)
    zeros = np.zeros(3, int)
    for classes in (0, -1, 4097):
        with pytest.raises(ConfigError, match=rf"1\.\.4096, got {classes}"):
            confusion_matrix(zeros, zeros, classes)
    for ignore in (0, 2):
        with pytest.raises(ConfigError, match=f"ignore id {ignore} is one of the classes"):
            confusion_matrix(zeros, zeros, 3, ignore=ignore)
    with pytest.raises(ConfigError, match="ignore id 255"):
        SemanticScores(300)
    assert SemanticScores(300, ignore=None).confusion.shape == (300, 300)


# Scores


def test_hand_computed_example():
    # Class 3 is neither true nor predicted, class 2 is predicted only.
    true = np.array([[0, 0, 0, 1], [1, 1, 255, 255]])
    pred = np.array([[0, 0, 1, 1], [1, 2, 0, 3]])
    confusion = confusion_matrix(pred, true, 4)
    assert confusion.tolist() == [[2, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert iou_per_class(confusion)[:3].tolist() == [2 / 3, 0.5, 0.0]
    assert math.isnan(iou_per_class(confusion)[3])
    assert mean_iou(confusion) == pytest.approx((2 / 3 + 0.5 + 0) / 3)
    assert pixel_accuracy(confusion) == 4 / 6
    assert mean_accuracy(confusion) == pytest.approx(2 / 3)
    assert accuracy_per_class(confusion)[:2].tolist() == [2 / 3, 2 / 3]
    assert absent_classes(confusion) == [3]
    assert class_entropy(confusion.sum(axis=1)) == pytest.approx(math.log(2))
    assert class_entropy_norm(confusion.sum(axis=1)) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_their_formulas(seed):
    rng = np.random.default_rng(seed)
    confusion = rng.integers(0, 9, (6, 6)) * (rng.random((6, 6)) < 0.4)
    gone = rng.integers(0, 6, 2)
    confusion[gone] = 0
    confusion[:, gone[0]] = 0
    ious, scores = slow_scores(confusion)
    assert iou_per_class(confusion).tolist() == pytest.approx(ious, nan_ok=True)
    assert absent_classes(confusion) == [c for c, iou in enumerate(ious) if math.isnan(iou)]
    assert mean_iou(confusion) == pytest.approx(scores["miou"], nan_ok=True)
    assert pixel_accuracy(confusion) == pytest.approx(scores["pixel_accuracy"], nan_ok=True)
    assert mean_accuracy(confusion) == pytest.approx(scores["mean_accuracy"], nan_ok=True)
    rows = confusion.sum(axis=1)
    assert class_entropy(rows) == pytest.approx(scores["class_entropy"], nan_ok=True)
    assert class_entropy_norm(rows) == pytest.approx(scores["class_entropy_norm"], nan_ok=True)


def test_nothing_counted_is_undefined():
    empty = np.zeros((3, 3), dtype=np.int64)
    for score in (mean_iou, pixel_accuracy, mean_accuracy):
        assert math.isnan(score(empty))
    assert np.isnan(iou_per_class(empty)).all()
    assert math.isnan(class_entropy(empty.sum(axis=1)))
    assert math.isnan(class_entropy_norm(empty.sum(axis=1)))
    assert all(math.isnan(value) for value in SemanticScores(3).compute().values())


def test_equal_maps_are_perfect():
    _, true = maps(8)
    scores = SemanticScores(5)
    scores.update(np.where(true == 255, 0, true), true)
    found = scores.compute()
    assert found["miou"] == found["pixel_accuracy"] == found["mean_accuracy"] == 1


def test_absent_classes_are_said_in_the_log(caplog):
    confusion = np.diag([3, 0, 2, 0])
    with caplog.at_level(logging.INFO, logger="rlseg.metrics.semantic"):
        assert mean_iou(confusion) == 1
    assert "[1, 3]" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="rlseg.metrics.semantic"):
        mean_iou(np.eye(3, dtype=int))
    assert not caplog.text


def test_confusions_that_are_none():
    for bad in (np.zeros((2, 3), int), np.zeros(4, int), np.zeros((2, 2))):
        with pytest.raises(ShapeError, match=r"\[K, K\]"):
            mean_iou(bad)


def test_entropy_of_selected_pixels():
    labels = np.array([[0, 0, 1, 255], [2, 2, 2, 2]])
    selected = np.array([[1, 1, 1, 1], [0, 0, 0, 0]], dtype=bool)
    counts = class_counts(labels, 3, valid=selected)
    assert counts.tolist() == [2, 1, 0]
    expected = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert class_entropy(counts) == pytest.approx(expected)
    tensor = class_counts(torch.from_numpy(labels), 3)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.tolist() == [2, 1, 4]
    assert class_entropy([5, 5, 5, 5]) == pytest.approx(math.log(4))
    assert class_entropy_norm([5, 5, 5, 5]) == pytest.approx(1)
    assert str(class_entropy([0, 7])) == "0.0"
    assert math.isnan(class_entropy_norm([7]))
    for bad in ([-1, 2], [math.nan, 1], [[1, 2]]):
        with pytest.raises(ShapeError, match="counts"):
            class_entropy(np.array(bad))


# Adding up


def test_scores_are_of_the_whole_data_set():
    total = SemanticScores(5)
    summed = np.zeros((5, 5), dtype=np.int64)
    for seed in range(4):
        pred, true = maps(seed, shape=(5 + seed, 7))
        total.update(pred, true, name=f"im{3 - seed}")
        summed += slow_confusion(pred, true, 5)
    assert (total.confusion == summed).all()
    assert total.compute() == pytest.approx(slow_scores(summed)[1])
    assert [image.name for image in total.sorted_images()] == ["im0", "im1", "im2", "im3"]
    first = total.images[0]
    alone = slow_scores(slow_confusion(*maps(0, shape=(5, 7)), 5))[1]
    assert {key: getattr(first, key) for key in alone} == pytest.approx(alone)
    assert first.pixels == int((maps(0, shape=(5, 7))[1] != 255).sum())


def test_states_and_merges_add_up():
    parts = [SemanticScores(5), SemanticScores(5)]
    whole = SemanticScores(5)
    for seed in range(4):
        parts[seed % 2].update(*maps(seed))
        whole.update(*maps(seed))
    loaded = SemanticScores(5)
    loaded.load(parts[0].state() + parts[1].state())
    assert loaded.compute() == whole.compute()
    assert (loaded.count, loaded.images) == (4, [])
    assert torch.equal(loaded.state(), whole.state())
    assert loaded.state().dtype == torch.float64
    state = whole.state()
    parts[0].merge(parts[1])
    assert parts[0].compute() == whole.compute()
    assert (parts[0].count, len(parts[0].images)) == (4, 4)
    loaded.update(*maps(9))
    assert torch.equal(whole.state(), state)  # states are copies
    with pytest.raises(ShapeError, match=r"expected \[26\]"):
        whole.load(torch.zeros(10))
    for other in (SemanticScores(4), SemanticScores(5, ignore=None)):
        with pytest.raises(ConfigError, match="cannot merge"):
            whole.merge(other)


def test_it_is_an_accumulator():
    pred, true = maps(0)
    valid = np.random.default_rng(0).random(true.shape) < 0.5
    both = MetricSet({"all": SemanticScores(5), "part": SemanticScores(5)})
    both.update(torch.from_numpy(pred), torch.from_numpy(true), torch.from_numpy(valid), name="x")
    again = MetricSet({"all": SemanticScores(5), "part": SemanticScores(5)})
    again.load(both.state())
    expected = slow_scores(slow_confusion(pred, true, 5, valid=valid))[1]
    assert again.compute() == pytest.approx(
        {f"{name}/{key}": value for name in ("all", "part") for key, value in expected.items()}
    )


def test_errors_name_the_image():
    scores = SemanticScores(2)
    with pytest.raises(ShapeError, match=r"^street 7: pred holds 2"):
        scores.update(np.array([2]), np.array([0]), name="street 7")
    assert scores.count == 0
    with pytest.raises(ShapeError, match=r"^pred holds 2"):
        scores.update(np.array([2]), np.array([0]))


def test_torchmetrics_agrees():
    functional = pytest.importorskip(
        "torchmetrics.functional.classification", reason="torchmetrics is not installed"
    )
    for seed in range(5):
        pred, true = (torch.from_numpy(x) for x in maps(seed))
        expected = functional.multiclass_confusion_matrix(
            pred, true, num_classes=5, ignore_index=255
        )
        assert torch.equal(confusion_matrix(pred, true, 5), expected)
        jaccard = functional.multiclass_jaccard_index(
            pred, true, num_classes=5, average="none", ignore_index=255
        )
        assert iou_per_class(expected).numpy() == pytest.approx(jaccard.numpy(), abs=1e-6)
