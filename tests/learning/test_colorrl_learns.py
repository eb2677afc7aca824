"""ColorRL solves one image, and on the way shows the supplement's pattern of rewards."""

import dataclasses

import pytest
import torch

from rlseg.colorrl.a3c import ColorLearner
from rlseg.colorrl.config import Config, Phase, RewardConfig
from rlseg.data import open_dataset
from rlseg.data.samples import collate_instances
from rlseg.train.runtime import make_runtime

ONE_IMAGE = Config(
    bits=4,
    features=(8, 16, 32),
    scale=1.0,
    crop=32,
    rewards=RewardConfig(radii=(4, 8), subset="all", min_instance=4),
    phases=(Phase(steps=1000, learning_rate=2e-3),),
    min_sizes=(0, 4),
)
SAMPLE = 1  # four cells that touch
COPIES = 4


def train(config, steps, seed=0):
    """Rewards per update, and the SBD afterwards, on one scene of 32 pixels."""
    data = open_dataset("cells", None, {"size": 32, "min_cells": 4, "max_cells": 7})
    sample = data.split("train")[SAMPLE]
    assert int(sample.labels.max()) >= 4
    runtime = make_runtime(device="cpu", seed=seed)
    runtime.seed_everything("learning")
    learner = ColorLearner(config, 1, runtime)
    batch = collate_instances([sample] * COPIES)
    history = []
    for _ in range(steps):
        scalars = learner.step(batch)
        history.append({k: float(v) for k, v in scalars.items() if k.startswith("reward/")})
    return history, learner.evaluate([collate_instances([sample])])["eval/sbd"]


# A wider network and a heavier split reward: reaches 1.0 in 120 updates, so that the 150 below
# leave room for another processor's rounding.
OVERFIT = dataclasses.replace(
    ONE_IMAGE,
    features=(16, 32, 64),
    rewards=dataclasses.replace(ONE_IMAGE.rewards, split_weight=3.0),
    phases=(Phase(steps=1000, learning_rate=4e-3),),
)


@pytest.mark.parametrize("gradient", ["sampled", "counterfactual"])
def test_one_image_is_overfitted(gradient):
    _, score = train(dataclasses.replace(OVERFIT, gradient=gradient), 150)
    assert score >= 0.95


def test_rewards_cross_as_in_the_supplement():
    """Split rises at the expense of merge, then both rise; w_s is not below w_m."""
    history, _ = train(ONE_IMAGE, 110)

    def mean(name, start, stop):
        return sum(row[f"reward/{name}"] for row in history[start:stop]) / (stop - start)

    merged = min(range(10, 40), key=lambda t: mean("split", t, t + 5))
    assert mean("foreground", merged, merged + 5) > mean("foreground", 0, 5)
    parted = merged + 15
    assert mean("split", parted, parted + 5) > mean("split", merged, merged + 5) + 0.1
    assert mean("merge", parted, parted + 5) < mean("merge", merged, merged + 5)
    assert mean("split", 100, 110) > mean("split", parted, parted + 5) + 0.5
    assert mean("merge", 100, 110) > mean("merge", parted, parted + 5) + 0.5


def test_without_a_split_reward_everything_stays_merged():
    """With w_s = 0 nothing speaks for a second colour: one blob is the optimum."""
    config = dataclasses.replace(
        ONE_IMAGE, rewards=dataclasses.replace(ONE_IMAGE.rewards, split_weight=0.0)
    )
    history, score = train(config, 120)
    assert score < 0.8
    assert history[-1]["reward/merge"] > 0.5
    assert history[-1]["reward/split"] == 0.0


def test_boundary_network_learns_one_image():
    from rlseg.supervised import BoundaryLearner

    data = open_dataset("cells", None, {"size": 32, "min_cells": 4, "max_cells": 7})
    batch = collate_instances([data.split("train")[SAMPLE]])
    runtime = make_runtime(device="cpu")
    runtime.seed_everything("learning")
    learner = BoundaryLearner(
        in_channels=1,
        features=(8, 16),
        learning_rate=1e-2,
        steps=200,
        boundary_width=1,
        runtime=runtime,
    )
    before = learner.evaluate([batch])["eval/log_likelihood"]
    for _ in range(80):
        learner.step(batch)
    after = learner.evaluate([batch])["eval/log_likelihood"]
    assert after > -0.1 > before
    torch.testing.assert_close(learner.optimizer.param_groups[0]["lr"], 1e-2 * (1 - 79 / 200))
