"""ACIS learns toys: one image by all five stages, and two discs that must be drawn in turn."""

import dataclasses

import pytest
import torch

from rlseg import acis
from rlseg.acis.actor_critic import EpisodeLearner
from rlseg.acis.angles import angle_bins
from rlseg.acis.build import make_actor, start_of
from rlseg.acis.config import (
    ActorConfig,
    Config,
    CriticConfig,
    HintConfig,
    MaskVAEConfig,
    SequenceConfig,
    StopConfig,
)
from rlseg.acis.curriculum import Phase, SequencePhase
from rlseg.acis.mask_vae import MaskVAELearner
from rlseg.data import open_dataset
from rlseg.data.samples import InstanceBatch
from rlseg.data.transforms import Augmentation
from rlseg.train.runtime import make_runtime

SAMPLE = 1  # four cells that touch
ONE_IMAGE = Config(
    augmentation=Augmentation(),
    batch=4,
    max_steps=6,
    hints=HintConfig(
        network="unet",
        features=(8, 16),
        steps=140,
        batch=1,
        learning_rate=1e-2,
        maps="cached",
        copies=1,
    ),
    mask_vae=MaskVAEConfig(
        latent=8,
        hidden=32,
        encoder=(12, 16, 24),
        decoder=(24, 16, 12),
        batch=4,
        phases=(Phase(steps=400, learning_rate=3e-3),),
    ),
    actor=ActorConfig(lstm=32, sample_prob=0.0, phases=(Phase(steps=200, learning_rate=3e-3),)),
    sequence=SequenceConfig(
        objective="bl_trunc",
        memory="fast",
        phases=(SequencePhase(steps=200, length=4, learning_rate=1e-3),),
        critic=CriticConfig(features=(8, 12, 16), hidden=(16,)),
    ),
    stop=StopConfig(hidden=32, steps=60, batch=1, learning_rate=3e-3),
    masks=dataclasses.replace(Config().masks, threshold=0.4),
)


def test_one_image_is_overfitted_by_all_five_stages():
    """The hints are trained, too; what is drawn and when to stop are the predictor's own."""
    data = open_dataset("cells", None, {"size": 32, "min_cells": 4, "max_cells": 7})
    sample = data.split("train")[SAMPLE]
    assert int(sample.labels.max()) >= 4
    data = dataclasses.replace(data, parts={"train": [sample] * 4, "valid": [sample]})
    runtime = make_runtime(device="cpu")
    scores = {}
    for index, stage in enumerate(acis.stages(ONE_IMAGE, data, runtime)):
        runtime.seed_everything("stage", index)
        for _ in range(stage.steps):
            stage.learner.step(next(stage.stream))
        scores[stage.name] = stage.learner.evaluate(stage.held_out)
    assert scores["hints"]["eval/angle_accuracy"] > 0.9
    assert scores["mask_vae"]["eval/dice"] > 0.95
    assert scores["stop"]["eval/sbd"] >= 0.95
    assert scores["stop"]["eval/abs_dic"] == 0


class TrueHints:
    """Hints from the truth of one batch: here learning to draw is at stake."""

    def __init__(self, batch):
        bins = angle_bins(batch.labels)
        angles = torch.nn.functional.one_hot(bins, 8).movedim(-1, 1)
        foreground = (batch.labels > 0).unsqueeze(1)
        self.extra = torch.cat([angles, foreground], dim=1).float()

    def maps(self, image, train=False):
        return torch.cat([image, self.extra[: len(image)]], dim=1)

    def state_dict(self):
        return {}


def discs(copies=4, side=16):
    """Two discs of different size; the image shows only where they are."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    labels = torch.zeros(side, side, dtype=torch.int64)
    labels[(y - 5) ** 2 + (x - 5) ** 2 <= 16] = 1
    labels[(y - 11) ** 2 + (x - 12) ** 2 <= 5] = 2
    labels = labels.expand(copies, -1, -1).contiguous()
    return InstanceBatch(
        image=(labels > 0).float().unsqueeze(1),
        labels=labels,
        valid=torch.ones_like(labels, dtype=torch.bool),
        names=("discs",) * copies,
    )


DISCS = Config(
    size=(16, 16),
    mean=(0.0,),
    std=(1.0,),
    max_steps=2,
    hints=HintConfig(network="unet", features=(4, 6)),  # not used: the truth is
    sequence=SequenceConfig(critic=CriticConfig(features=(8, 12), hidden=(16,))),
    mask_vae=MaskVAEConfig(
        latent=4,
        hidden=24,
        encoder=(8, 12),
        decoder=(12, 8),
        phases=(Phase(steps=400, learning_rate=5e-3),),
    ),
    actor=ActorConfig(lstm=24, phases=(Phase(steps=30, learning_rate=3e-3, kl_weight=0.1),)),
)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "bl_trunc"},
        {"objective": "actor_critic", "gradient": "potential"},
    ],
    ids=["bl_trunc", "potential"],
)
def test_two_discs_are_drawn_in_turn(changes):
    """The second mask must leave out what is drawn: the memory of the episode decides."""
    phase = SequencePhase(steps=1, length=2, learning_rate=5e-3)
    sequence = dataclasses.replace(DISCS.sequence, memory="fast", phases=(phase,), **changes)
    config = dataclasses.replace(DISCS, sequence=sequence)
    batch = discs()
    runtime = make_runtime(device="cpu")
    runtime.seed_everything("discs")
    hints = TrueHints(batch)
    vae = MaskVAELearner(config, 1, hints, runtime)
    for _ in range(200):
        vae.step(batch)
    assert vae.evaluate([batch])["eval/dice"] > 0.95
    parts = {
        "actor": make_actor(config, 1),
        "decoder": vae.vae.decoder,
        "hints": hints,
        "runtime": runtime,
    }
    start = EpisodeLearner(config, start_of(config), 1, name="start", **parts)
    for _ in range(30):  # too few to draw either disc well
        start.step(batch)
    learner = EpisodeLearner(config, config.sequence, 1, name="sequence", **parts)
    before = learner.evaluate([batch])
    assert before["eval/dice"] < 0.9
    for _ in range(120):
        learner.step(batch)
    after = learner.evaluate([batch])
    assert after["eval/duplicates"] == 0
    assert after["eval/dice"] > 0.9
    assert after["eval/sbd"] > 0.9
    assert after["eval/dice_step_2"] > 0.9
