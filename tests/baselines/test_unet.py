"""The supervised baseline: it learns one image, chooses on validation, and can be resumed."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rlseg.baselines import unet
from rlseg.data import open_dataset
from rlseg.data.samples import collate_instances
from rlseg.data.transforms import Augmentation
from rlseg.errors import CheckpointError, ConfigError, ShapeError
from rlseg.metrics import overlap, symmetric_best_dice
from rlseg.supervised import BoundaryLearner
from rlseg.train.checkpoint import load_checkpoint
from rlseg.train.runtime import make_runtime
from rlseg.train.trainer import Trainer

ONE_IMAGE = unet.Config(
    features=(8, 16),
    crop=32,
    batch=1,
    steps=120,
    learning_rate=1e-2,
    thresholds=(0.3, 0.5, 0.7),
    min_sizes=(0, 4),
    expand=2,
)
SHORT = unet.Config(
    features=(4, 8),
    scale=0.5,
    crop=16,
    batch=2,
    steps=7,
    evaluate_every=3,
    augmentation=Augmentation(flip_horizontal=0.5, warp=0.5, noise=0.5),
    thresholds=(0.3, 0.5),
    min_sizes=(0, 5),
)


def scene(index=1):
    """32 pixels with four cells that touch."""
    data = open_dataset("cells", None, {"size": 32, "min_cells": 4, "max_cells": 7})
    return data.split("train")[index]


def new_learner(config, seed=0):
    runtime = make_runtime(device="cpu", seed=seed)
    runtime.seed_everything("unet")
    return unet.UNetLearner(config, 1, runtime)


@pytest.fixture(scope="module")
def learned():
    """A learner after training on one image, that image, and its score before and after."""
    learner, sample = new_learner(ONE_IMAGE), scene()
    batch = collate_instances([sample])
    before = learner.evaluate([batch])["eval/sbd"]
    for _ in range(ONE_IMAGE.steps):
        scalars = learner.step(batch)
    assert scalars["train/learning_rate"] == pytest.approx(1e-2 / ONE_IMAGE.steps)
    return learner, sample, before, learner.evaluate([batch])


def test_one_image_is_learned(learned):
    _, _, before, scores = learned
    assert before < 0.8
    assert scores["eval/sbd"] >= 0.9
    assert scores["eval/abs_dic"] == 0


def test_the_predictor_scores_what_the_evaluation_said(learned):
    learner, sample, _, scores = learned
    prediction = learner.predictor(sample.image[None], trace=True)
    table = overlap(prediction.labels[0], sample.labels, sample.valid)
    assert symmetric_best_dice(table) == pytest.approx(scores["eval/sbd"])
    assert prediction.trace["probability"].shape == (1, 32, 32)
    assert 0 <= prediction.trace["probability"].min() <= prediction.trace["probability"].max() <= 1


@pytest.mark.parametrize("sides", [(1, 1), (3, 50), (33, 7), (2, 1000)])
def test_fault_i7_any_size_comes_back_at_its_size(learned, sides):
    learner, sample, _, _ = learned
    image = torch.rand(1, len(sample.image), *sides, generator=torch.Generator().manual_seed(0))
    prediction = learner.predictor(image, trace=True)
    assert prediction.labels.shape == prediction.trace["probability"].shape == (1, *sides)


def test_threshold_and_minimum_size_are_the_best_on_the_validation_images(learned):
    """All options again, one by one, with the predictor itself."""
    learner, _, _, _ = learned
    samples = [scene(k) for k in (2, 3, 4)]
    scores = learner.evaluate([collate_instances(samples[:2]), collate_instances(samples[2:])])
    chosen = learner.predictor.threshold, learner.predictor.min_size
    assert chosen == (scores["eval/threshold"], scores["eval/min_size"])
    found = {}
    for threshold in ONE_IMAGE.thresholds:
        for size in ONE_IMAGE.min_sizes:
            learner.predictor.threshold, learner.predictor.min_size = threshold, size
            each = [
                symmetric_best_dice(
                    overlap(learner.predictor(s.image[None]).labels[0], s.labels, s.valid)
                )
                for s in samples
            ]
            found[threshold, size] = sum(each) / len(each)
    assert found[chosen] == pytest.approx(max(found.values()))
    assert scores["eval/sbd"] == pytest.approx(max(found.values()))
    assert len(set(found.values())) > 1, "the options differ"


def test_no_validation_images_leave_threshold_and_size_alone():
    learner = new_learner(SHORT)
    learner.predictor.threshold, learner.predictor.min_size = 0.25, 3
    assert learner.evaluate([]) == {}
    assert (learner.predictor.threshold, learner.predictor.min_size) == (0.25, 3)


def test_the_state_goes_into_another_learner(learned):
    learner, sample, _, _ = learned
    other = new_learner(ONE_IMAGE, seed=9)
    other.load_state_dict(learner.state_dict())
    assert other.steps == ONE_IMAGE.steps
    assert other.predictor.threshold == learner.predictor.threshold
    assert other.predictor.min_size == learner.predictor.min_size
    image = sample.image[None]
    assert torch.equal(other.predictor(image).labels, learner.predictor(image).labels)
    batch = collate_instances([sample])
    first, second = learner.step(batch), other.step(batch)
    assert torch.equal(first["train/loss"], second["train/loss"])


def test_the_step_size_falls_to_zero_in_a_straight_line():
    config = dataclasses.replace(SHORT, scale=1.0, steps=4, learning_rate=0.5)
    learner, batch = new_learner(config), collate_instances([scene()])
    rates = [learner.step(batch)["train/learning_rate"] for _ in range(5)]
    assert rates == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.0])


def run(folder, *, steps=None, resume=False, seed=0):
    data = open_dataset("cells", None, {"train": 5, "valid": 2, "size": 40})
    runtime = make_runtime(device="cpu", seed=seed)
    trainer = Trainer(
        folder,
        runtime,
        method="unet",
        config={"config": {}},
        data_digest=data.digest,
        log_every=2,
        quiet=True,
        tensorboard=False,
    )
    return trainer.run(lambda: unet.stages(SHORT, data, runtime), steps=steps, resume=resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unet") / "run"
    assert run(folder).status == "finished"
    return folder


def tensors(value, key=""):
    """Dotted key -> tensor or plain value of everything in a state."""
    if isinstance(value, dict):
        return {k: v for name in value for k, v in tensors(value[name], f"{key}.{name}").items()}
    if isinstance(value, (list, tuple)):
        return tensors(dict(enumerate(value)), key)
    return {key: value}


@pytest.mark.parametrize("stops", [[2], [3], [1, 4, 6]])
def test_stopping_and_resuming_changes_nothing(whole, tmp_path, stops):
    out = tmp_path / "run"
    for count, stop in enumerate(stops):
        assert run(out, steps=stop, resume=count > 0).status == "stopped"
    assert run(out, resume=True).status == "finished"
    first, second = (tensors(load_checkpoint(f, "latest").state) for f in (whole, out))
    assert first.keys() == second.keys()
    for key, value in first.items():
        same = torch.equal(value, second[key]) if torch.is_tensor(value) else value == second[key]
        assert same, key


def test_another_seed_differs(whole, tmp_path):
    run(tmp_path / "run", seed=1)
    first, second = (
        load_checkpoint(f, "latest").state["network"] for f in (whole, tmp_path / "run")
    )
    assert any(not torch.equal(weight, second[name]) for name, weight in first.items())


def test_a_checkpoint_gives_the_predictor_of_the_learner(whole):
    runtime = make_runtime(device="cpu")
    checkpoint = load_checkpoint(whole, "best")
    predictor = unet.load_predictor(SHORT, checkpoint, runtime)
    assert (predictor.task, predictor.ndim, predictor.in_channels) == ("instance", 2, 1)
    assert (predictor.stride, predictor.size) == (2, (32, 32))
    learner = new_learner(SHORT)
    learner.load_state_dict(checkpoint.state)
    image = torch.rand(2, 1, 23, 31, generator=torch.Generator().manual_seed(0))
    labels = predictor(image).labels
    assert labels.shape == (2, 23, 31)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, learner.predictor(image).labels)


def test_a_checkpoint_of_other_sizes_is_refused(whole):
    other = dataclasses.replace(SHORT, features=(4, 16))
    with pytest.raises(CheckpointError, match=r"do not fit its configuration"):
        unet.load_predictor(other, load_checkpoint(whole), make_runtime(device="cpu"))


def test_a_colour_image_for_a_grey_network_is_refused(whole):
    predictor = unet.load_predictor(SHORT, load_checkpoint(whole), make_runtime(device="cpu"))
    with pytest.raises(ShapeError):
        predictor(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ()}, "features must be at least two even"),
        ({"features": (3, 8)}, "features must be at least two even"),
        ({"crop": 15}, "multiple of 2"),
        ({"scale": 0.0}, "scale must be above 0"),
        ({"steps": 0}, "at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"thresholds": (0.5, 1.0)}, "between 0 and 1"),
        ({"thresholds": ()}, "between 0 and 1"),
        ({"min_sizes": ()}, "min_sizes"),
        ({"expand": -1}, "expand"),
    ],
)
def test_a_setting_out_of_range(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SHORT, **changes)


def test_an_image_smaller_than_the_crop_is_found_before_the_first_step():
    data = open_dataset("cells", None, {"train": 2, "valid": 1, "size": 40})
    config = dataclasses.replace(SHORT, crop=32)
    with pytest.raises(ShapeError, match=r"cells_train_0000 is \[20, 20\].*--set crop=20"):
        next(unet.stages(config, data, make_runtime(device="cpu")))


def test_held_out_loss_is_a_mean_over_valid_pixels():
    """Whether images come in one batch or two, or with pixels that do not count."""
    runtime = make_runtime(device="cpu")
    runtime.seed_everything("unet")
    learner = BoundaryLearner(
        in_channels=1, features=(4, 8), learning_rate=1e-3, steps=1, boundary_width=1,
        runtime=runtime,
    )  # fmt: skip
    samples = [scene(k) for k in range(3)]
    for sample in samples[1:]:
        sample.valid[:24] = False
    name = "eval/log_likelihood"
    whole = learner.evaluate([collate_instances(samples)])[name]
    parts = [collate_instances(samples[:2]), collate_instances(samples[2:])]
    assert learner.evaluate(parts)[name] == pytest.approx(whole, rel=1e-5)
    alone = [learner.evaluate([collate_instances([s])])[name] for s in samples]
    weights = [int(s.valid.sum()) for s in samples]
    expected = sum(a * w for a, w in zip(alone, weights, strict=True)) / sum(weights)
    assert whole == pytest.approx(expected, rel=1e-5)
    assert abs(whole - sum(alone) / 3) > 1e-6, "the plain mean differs"
    assert learner.evaluate([]) == {}
