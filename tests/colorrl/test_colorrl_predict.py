"""Predictor and presets: tiles, expansion, minimum sizes, "auto", and a reader's first commands."""

import dataclasses

import pytest
import torch

from rlseg import colorrl
from rlseg.colorrl.predict import ColorPredictor, choose_min_size
from rlseg.data import open_dataset
from rlseg.data.samples import InstanceBatch
from rlseg.errors import ConfigError, ShapeError
from rlseg.methods import make_config
from rlseg.train.runtime import make_runtime

CONFIG = colorrl.Config(
    bits=2, features=(4, 8), scale=1.0, crop=16, rewards=colorrl.RewardConfig(radii=(2,))
)


class Scripted(colorrl.ColoringNetwork):
    """Bit 0 where the image is bright, bit 1 where its second channel is: no learning needed."""

    def forward(self, encoded, planes):
        step = int((planes.abs().sum(dim=(0, 2, 3)) > 0).sum())
        logit = encoded[:, step] - 0.5
        policy = torch.stack([torch.zeros_like(logit), logit], dim=1)
        return policy, torch.zeros_like(logit)

    def encode_image(self, image):
        return image


def predictor(config=CONFIG, **options):
    runtime = make_runtime(device="cpu")
    network = Scripted(2, config.depth, config.features, "paper")
    return ColorPredictor(config, network, None, 2, runtime, **options)


def picture(side=40):
    """Two touching squares of different colour, and a third one far away."""
    image = torch.zeros(1, 2, side, side)
    image[0, 0, 5:20, 5:30] = 1.0
    image[0, 1, 5:20, 18:30] = 1.0
    image[0, 0, 30:33, 30:33] = 1.0
    return image


def truth(side=40):
    labels = torch.zeros(1, side, side, dtype=torch.int64)
    labels[0, 5:20, 5:18], labels[0, 5:20, 18:30], labels[0, 30:33, 30:33] = 1, 2, 3
    return labels


@pytest.mark.parametrize("inference", ["whole", "tiles"])
def test_pieces_of_equal_colour_are_instances(inference):
    config = dataclasses.replace(CONFIG, inference=inference)
    found = predictor(config)(picture(), trace=True)
    assert torch.equal(found.labels > 0, truth() > 0)
    for k in (1, 2, 3):
        assert len(torch.unique(found.labels[truth() == k])) == 1
    assert int(found.labels.max()) == 3
    assert found.trace["bits"].shape == (1, 2, 40, 40)
    assert torch.equal(
        found.trace["colors"][0, 10], truth()[0, 10] * 2 - (truth()[0, 10] > 0).long()
    )


def test_tiles_see_no_more_than_a_crop_at_once():
    seen = []
    tiled = predictor(dataclasses.replace(CONFIG, inference="tiles"))
    inner = tiled.network.forward
    tiled.network.forward = lambda e, p: (seen.append(tuple(e.shape[2:])), inner(e, p))[1]
    tiled(picture())
    assert set(seen) == {(16, 16)}
    whole = predictor()
    whole.network.forward = lambda e, p: (seen.append(tuple(e.shape[2:])), inner(e, p))[1]
    whole(picture())
    assert seen[-1] == (40, 40)


def test_small_pieces_go_and_labels_grow():
    assert int(predictor(min_size=10)(picture()).labels.max()) == 2
    grown = predictor(dataclasses.replace(CONFIG, expand=2))(picture()).labels
    assert int((grown > 0).sum()) > int((truth() > 0).sum())
    assert torch.equal(grown[truth() == 1].unique(), torch.tensor([1]))


@pytest.mark.parametrize("sides", [(1, 1), (7, 33), (40, 41), (3, 1000)])
@pytest.mark.parametrize("inference", ["whole", "tiles"])
def test_fault_i7_any_size_comes_back_at_its_size(sides, inference):
    image = torch.rand(2, 2, *sides, generator=torch.Generator().manual_seed(0))
    config = dataclasses.replace(CONFIG, inference=inference, scale=0.5)
    assert predictor(config)(image).labels.shape == (2, *sides)


def test_wrong_channels_are_refused():
    with pytest.raises(ShapeError, match="B 2 H W"):
        predictor()(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("select_by", ["sbd", "arand"])
def test_the_minimum_size_is_the_one_that_scores_best(select_by):
    image = picture()
    image[0, 0, 36, 2:5] = 1.0  # noise: a piece of 3 pixels
    config = dataclasses.replace(CONFIG, select_by=select_by, min_sizes=(0, 4, 100, 500))
    batch = InstanceBatch(
        image=image, labels=truth(), valid=torch.ones(1, 40, 40, dtype=torch.bool), names=("a",)
    )
    size, scores = choose_min_size(predictor(config), [batch], config)
    if select_by == "sbd":
        assert size == 4
        assert scores["sbd"] == pytest.approx(1.0)
    else:
        # Noise on background does not enter this ARAND: the smallest of the equals.
        assert size == 0
        assert scores["arand_complement"] == pytest.approx(1.0)


def test_auto_settings_come_from_the_training_images():
    data = open_dataset("cells", None, {"size": 40, "train": 4, "valid": 2})
    config = make_config(colorrl, preset="ours", recipe=None, overrides=["bits=auto"], where="test")
    assert config.crop == "auto"
    resolved = colorrl.resolve(config, data)
    assert resolved.crop == 32  # five levels: multiples of 16
    assert 2 <= resolved.bits <= 6
    large = colorrl.resolve(dataclasses.replace(config, scale=4.0), data)
    assert large.crop == 160
    with pytest.raises(ConfigError, match="raise scale"):
        colorrl.resolve(dataclasses.replace(config, scale=0.2), data)
    with pytest.raises(ConfigError, match="auto"):
        _ = config.side


def test_every_preset_builds_and_differs_where_it_says():
    for name, changes in colorrl.PRESETS.items():
        config = make_config(colorrl, preset=name, recipe=None, overrides=[], where="test")
        for path, value in changes.items():
            thing = config
            for part in path.split("."):
                thing = getattr(thing, part)
            assert thing == value
    assert (
        make_config(colorrl, preset="paper", recipe=None, overrides=[], where="test")
        == colorrl.Config()
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--recipe", "quickstart"],
        ["--method", "colorrl", "--dataset", "cells", "--set", "features=[4, 8]"],
        ["--recipe", "quickstart", "--set", "bits=auto", "--set", "features=[4, 8]"],
    ],
)
def test_the_first_commands_a_reader_meets_do_run(tmp_path, words):
    from rlseg.cli import main

    small = ["--data", "train=4", "--data", "valid=2", "--steps", "2", "--no-report", "--quiet"]
    assert main(["train", *words, *small, "--out", str(tmp_path / "run")]) == 0
