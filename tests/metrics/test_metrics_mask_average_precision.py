import math

import numpy as np
import pytest
import torch
from slow_coco import own_scores, random_problem

from rlseg import rle
from rlseg.errors import ConfigError, ShapeError
from rlseg.metrics.mask_average_precision import COLUMNS, MaskAveragePrecision

pytestmark = pytest.mark.filterwarnings("error")


def images_of(problem):
    """Arguments of `update` for each image, in id order."""
    for image, shape in sorted(problem.images.items()):
        found = [d for d in problem.detected if d["image"] == image]
        truths = [g for g in problem.truths if g["image"] == image]
        yield {
            "pred_masks": np.array([d["mask"] for d in found]).reshape(-1, *shape).astype(bool),
            "pred_categories": [d["category"] for d in found],
            "scores": [d["score"] for d in found],
            "true_masks": np.array([g["mask"] for g in truths]).reshape(-1, *shape).astype(bool),
            "true_categories": [g["category"] for g in truths],
            "crowd": [g["crowd"] for g in truths],
            "areas": [g["area"] for g in truths],
            "image": image,
        }


def empty_for(problem):
    return MaskAveragePrecision(max_dets=problem.max_dets, categories=problem.categories)


def same(one, other):
    for name in ("precision", "recall"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.n_true.tolist() == other.n_true.tolist()
    assert one.n_pred.tolist() == other.n_pred.tolist()


def with_runs(rows):
    names = {"pred_masks": "pred_runs", "true_masks": "true_runs"}
    return {
        names.get(key, key): rle.encode(value) if key in names else value
        for key, value in rows.items()
    }


def test_dense_and_run_updates_equal_the_scores_of_the_whole():
    for seed in range(30):
        problem = random_problem(np.random.default_rng(seed))
        problem.first_id = 1
        dense, runs = empty_for(problem), empty_for(problem)
        for rows in images_of(problem):
            dense.update(**rows)
            runs.update_runs(**with_runs(rows))
        whole = own_scores(problem)
        same(dense.scores(), whole)
        same(runs.scores(), whole)
        assert len(dense) == len(problem.images)
        assert repr(dense.compute()) == repr(whole.summary())


def test_the_result_does_not_depend_on_how_images_are_shared_out():
    for seed in range(15):
        problem = random_problem(np.random.default_rng(seed))
        problem.first_id = 1
        ranks = [empty_for(problem) for _ in range(2)]
        for number, rows in enumerate(images_of(problem)):
            ranks[number % 2].update(**rows)
        merged, gathered = empty_for(problem), empty_for(problem)
        for rank in reversed(ranks):
            merged.merge(rank)
            gathered.add_records(rank.records())
        same(merged.scores(), own_scores(problem))
        same(gathered.scores(), own_scores(problem))


def test_records_are_plain_arrays():
    problem = random_problem(np.random.default_rng(3))
    part = empty_for(problem)
    for rows in images_of(problem):
        part.update(**rows)
    for records in (part.records(), empty_for(problem).records()):
        assert list(records) == list(COLUMNS)
        assert all(column.ndim == 1 for column in records.values())
        assert {name: column.dtype for name, column in records.items()} == {
            name: np.dtype(dtype) for name, dtype in COLUMNS.items()
        }


def test_label_maps_equal_their_masks():
    rng = np.random.default_rng(4)
    maps, masks = MaskAveragePrecision(), MaskAveragePrecision()
    for _ in range(6):
        true = np.repeat(np.repeat(rng.integers(0, 5, (4, 5)), 3, 0), 3, 1)
        pred = np.roll(np.where(rng.random(true.shape) < 0.9, true, 0), 1, 1)
        ids, true_ids = np.unique(pred[pred > 0]), np.unique(true[true > 0])
        shared = {
            "pred_categories": ids % 2,
            "scores": rng.integers(0, 4, len(ids)) / 4,
            "true_categories": true_ids % 2,
        }
        maps.update_labels(pred=torch.from_numpy(pred), true=true, **shared)
        masks.update(
            pred_masks=pred == ids[:, None, None],
            true_masks=torch.from_numpy(true == true_ids[:, None, None]),
            **{key: torch.from_numpy(value) for key, value in shared.items()},
        )
    same(maps.scores(), masks.scores())
    assert 0 < maps.compute()["ap"] < 1


def test_without_ids_images_keep_the_order_of_arrival():
    mask, none = np.ones((1, 4, 4), dtype=bool), np.zeros((0, 4, 4), dtype=bool)
    first, second = MaskAveragePrecision(), MaskAveragePrecision()
    first.update(mask, [1], [0.5], mask, [1])
    second.update(mask, [1], [0.5], none, [])
    both = MaskAveragePrecision()
    both.merge(second)
    both.merge(first)
    assert both.compute()["ap"] == pytest.approx(0.5, abs=1e-15)  # the miss comes first
    first.merge(second)
    assert first.compute()["ap"] == pytest.approx(1.0, abs=1e-15)


def test_no_images_and_no_truths_are_undefined():
    nothing = MaskAveragePrecision()
    assert all(math.isnan(value) for value in nothing.compute().values())
    mask, none = np.ones((1, 4, 4), dtype=bool), np.zeros((0, 4, 4), dtype=bool)
    nothing.update(mask, [1], [0.5], none, [])
    assert all(math.isnan(value) for value in nothing.compute().values())
    nothing.update(none, [], [], mask, [1])
    assert nothing.compute()["ap"] == 0


def test_wrong_input_names_the_image():
    mask = np.ones((1, 4, 4), dtype=bool)
    scores = MaskAveragePrecision()
    with pytest.raises(ShapeError, match="score of image 7"):
        scores.update(mask, [1], [0.5, 0.4], mask, [1], image=7)
    with pytest.raises(ConfigError, match=r"score\[0\] of image 7 is nan"):
        scores.update(mask, [1], [math.nan], mask, [1], image=7)
    with pytest.raises(ConfigError, match=r"true_area\[0\] of image 0"):
        scores.update(mask, [1], [0.5], mask, [1], areas=[math.inf])
    with pytest.raises(ShapeError, match="true_area of image 0"):
        scores.update(mask, [1], [0.5], mask, [1], areas=[1, 2])
    with pytest.raises(ShapeError, match="crowd"):
        scores.update(mask, [1], [0.5], mask, [1], crowd=[1])
    with pytest.raises(ConfigError, match=r"'a\.png'"):
        scores.update(mask, [1], [0.5], mask, [1], image="a.png")
    assert len(scores) == 0


def test_ids_are_given_once_and_for_all_images_or_for_none():
    mask = np.ones((1, 4, 4), dtype=bool)
    scores = MaskAveragePrecision()
    scores.update(mask, [1], [0.5], mask, [1], image=7)
    scores.update(mask, [1], [0.5], mask, [1], image=7)
    with pytest.raises(ConfigError, match="image 7 was added twice"):
        scores.compute()
    mixed = MaskAveragePrecision()
    mixed.update(mask, [1], [0.5], mask, [1], image=7)
    mixed.update(mask, [1], [0.5], mask, [1])
    with pytest.raises(ConfigError, match="1 of 2 images"):
        mixed.compute()


def test_only_equal_settings_merge():
    for other in (
        MaskAveragePrecision(max_dets=(1, 50, 255)),
        MaskAveragePrecision(categories=[1]),
    ):
        with pytest.raises(ConfigError, match="merge"):
            MaskAveragePrecision().merge(other)
    with pytest.raises(ConfigError, match="merge"):
        MaskAveragePrecision(categories=[1]).merge(MaskAveragePrecision(categories=[2]))
    with pytest.raises(ConfigError, match="max_dets"):
        MaskAveragePrecision(max_dets=(3, 2))


def test_damaged_records_are_refused():
    scores = MaskAveragePrecision()
    mask = np.ones((1, 4, 4), dtype=bool)
    scores.update(mask, [1], [0.5], mask, [1])
    records = scores.records()
    for name in COLUMNS:
        with pytest.raises(ShapeError, match=f"lack '{name}'"):
            scores.add_records({key: value for key, value in records.items() if key != name})
    for name in set(COLUMNS) - {"image", "true_count", "pred_count", "pair_count"}:
        with pytest.raises(ShapeError, match=f"'{name}'"):
            scores.add_records(records | {name: np.zeros(2)})
    assert len(scores) == 1
