"""ColorRL on real EM slices: rewards against the slow formulas, rings, and a short training."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from rlseg import cli
from rlseg.colorrl.config import RewardConfig
from rlseg.colorrl.environment import ColoringEnv
from rlseg.colorrl.scene import make_scene
from rlseg.data import open_dataset
from rlseg.data.rings import number_instances, ring_pairs
from rlseg.data.samples import InstanceSample, collate_instances
from rlseg.data.transforms import resize
from tests.colorrl.naive import rewards as naive_rewards
from tests.colorrl.naive import ring as naive_ring
from tests.fake.tiny import train_words

DATA = os.environ.get("RLSEG_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="RLSEG_DATA names no folder with real images")
ALL = RewardConfig(radii=(2, 4), subset="all", min_instance=12)


def cremi():
    folder = Path(DATA or "") / "cremi_256"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.fixture(scope="module")
def slices():
    return open_dataset("cremi", cremi()).split("valid")


def crop(sample, top, left, side):
    """A window of a slice at half size, ids renumbered."""
    small = resize(sample, tuple(n // 2 for n in sample.labels.shape), "nearest")
    labels = small.labels[top : top + side, left : left + side]
    ids = torch.unique(labels)
    numbers = torch.zeros(int(ids.max()) + 1, dtype=torch.int64)
    numbers[ids] = torch.arange(len(ids)) + (0 if int(ids[0]) == 0 else 1)
    return InstanceSample(
        image=small.image[:, top : top + side, left : left + side],
        labels=numbers[labels],
        valid=torch.ones(side, side, dtype=torch.bool),
        name=sample.name,
    )


@pytest.fixture(scope="module")
def crops(slices):
    """Two windows of 40 x 40 with several neurons and membrane between them."""
    found = collate_instances([crop(slices[0], 10, 20, 40), crop(slices[7], 60, 40, 40)])
    assert found.labels.amax(dim=(1, 2)).min() >= 4
    assert (found.labels == 0).any()
    return found


@pytest.mark.parametrize("split", ["prox", "ins"])
@pytest.mark.parametrize("interior", [1.0, 0.8], ids=["whole", "eroded"])
def test_rewards_on_real_labels_agree_with_the_loop(split, interior, crops):
    config = dataclasses.replace(ALL, split=split, interior=interior)
    steps = 3
    generator = torch.Generator().manual_seed(0)
    actions = torch.rand(steps, *crops.labels.shape, generator=generator) < 0.5
    environment = ColoringEnv(config, steps, torch.Generator())
    environment.reset(crops)
    found = torch.stack([environment.step(bits)[1] for bits in actions])
    for image in range(len(crops.labels)):
        expected = naive_rewards(crops.labels[image].numpy(), actions[:, image].numpy(), config)
        np.testing.assert_allclose(found[:, image].numpy(), expected, atol=1e-6)
        assert np.abs(expected[1:]).max() > 0.1, "not all zero"


def test_rings_on_real_labels_are_the_pixels_within_the_radius(crops):
    index, image_of = number_instances(crops.labels)
    start = 0
    for image, labels in enumerate(crops.labels.numpy()):
        count = int(labels.max())
        for radius in (2, 5):
            owner, pixel = ring_pairs(index, image_of, start + torch.arange(count), radius)
            for u in range(count):
                mine = pixel[owner == start + u] - image * labels.size
                found = {divmod(int(q), labels.shape[1]) for q in mine}
                assert found == set(naive_ring(labels, u + 1, radius)), (image, u, radius)
        start += count


def test_ring_statistics_of_whole_slices(slices):
    """At 224 px: rings grow with the radius, are symmetric in who meets whom, and stay sparse."""
    for k in (0, 9):
        sample = resize(slices[k], (224, 224), "nearest")
        index, image_of = number_instances(sample.labels[None])
        count = len(image_of)
        everyone = torch.arange(count)
        pairs = {}
        for radius in (12, 18):
            owner, pixel = ring_pairs(index, image_of, everyone, radius)
            other = index.flatten()[pixel]
            assert torch.all(other >= 0)
            assert torch.all(other != owner)
            meets = torch.zeros(count, count, dtype=torch.bool)
            meets[owner, other] = True
            assert torch.equal(meets, meets.T)
            pairs[radius] = set(zip(owner.tolist(), pixel.tolist(), strict=True))
            assert len(pairs[radius]) == len(owner), "each pair once"
            # A pixel lies within 18 of a handful of neurons, not of all.
            assert len(owner) < 4 * 224 * 224
            assert 2 <= float(meets.sum(dim=1).float().mean()) <= 8
        assert pairs[12] < pairs[18]


def test_the_subset_of_real_slices_follows_the_settings(slices):
    batch = collate_instances([resize(slices[k], (224, 224), "nearest") for k in range(4)])
    config = RewardConfig()
    everyone = make_scene(
        batch.labels, batch.valid, dataclasses.replace(config, subset="all"), torch.Generator()
    )
    chosen = make_scene(batch.labels, batch.valid, config, torch.Generator().manual_seed(0))
    assert 4 <= len(chosen.rewarded) <= len(everyone.rewarded)
    assert set(chosen.rewarded.tolist()) <= set(everyone.rewarded.tolist())
    assert chosen.pairs <= everyone.pairs
    assert everyone.loss_mask.all()
    assert 0 < float(chosen.loss_mask.float().mean()) < 1


@pytest.mark.parametrize("preset", ["paper", "ours"])
def test_three_steps_on_real_slices(preset, tmp_path):
    run = tmp_path / "run"
    settings = {
        "scale": "0.25",
        "crop": "32",
        "batch": "2",
        "bits": "auto",
        "phases": "[{steps = 3, learning_rate = 1e-3}]",
        "hints.steps": "2" if preset == "ours" else "0",
    }
    words = ["--dataset", "cremi", "--root", cremi(), "--preset", preset]
    assert cli.main(train_words(run, *words, settings=settings)) == 0
    record = json.loads((run / "config.json").read_text())
    assert 2 <= record["config"]["bits"] <= 6
    out = tmp_path / "scores.json"
    assert cli.main(["evaluate", str(run), "--json", str(out), "--device", "cpu"]) == 0
    found = json.loads(out.read_text())
    assert found["images"] == 22
    assert found["conventions"]["arand"] == "cremi"
    assert all(0 <= row["fgbg_dice"] <= 1 for row in found["per_image"])


def test_data_check_finds_nothing(capsys):
    assert cli.main(["data", "check", "cremi", str(cremi())]) == 0
    assert "no problems found" in capsys.readouterr().out


def test_data_stats_of_the_validation_slices(tmp_path, capsys):
    out = tmp_path / "stats.json"
    words = ["data", "stats", "cremi", str(cremi()), "--split", "valid", "--radius", "12", "18"]
    assert cli.main([*words, "--json", str(out), "--out", str(tmp_path / "s.png"), "--quiet"]) == 0
    found = json.loads(out.read_text())["splits"]["valid"]
    assert (found["samples"], found["instances"]) == (18, 428)
    assert [near["radius"] for near in found["neighbours"]] == [12, 18]
    assert all(near["bits"] >= 4 for near in found["neighbours"])
    assert "suggested" in capsys.readouterr().out
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
