"""ACIS through the trainer, all five stages: the same seed twice, and any stop plus resume."""

import dataclasses
import json

import pytest
import torch

from rlseg import acis
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
from rlseg.data import open_dataset
from rlseg.train.checkpoint import load_checkpoint
from rlseg.train.runtime import make_runtime
from rlseg.train.trainer import Trainer

CONFIG = Config(
    size=(16, 16),
    batch=2,
    max_steps=4,
    hints=HintConfig(network="unet", features=(4, 6), steps=3, batch=2, maps="cached", copies=2),
    mask_vae=MaskVAEConfig(
        latent=3,
        hidden=8,
        encoder=(4, 6),
        decoder=(6, 4),
        batch=2,
        phases=(Phase(steps=3, learning_rate=1e-3),),
    ),
    actor=ActorConfig(lstm=6, phases=(Phase(steps=2, learning_rate=1e-3, kl_weight=0.1),)),
    sequence=SequenceConfig(
        gradient="hybrid",
        phases=(
            SequencePhase(steps=3, length=2, learning_rate=1e-2, kl_weight=1e-4),
            SequencePhase(steps=3, length=3, learning_rate=1e-3, load="random"),
        ),
        critic=CriticConfig(features=(4, 6), hidden=(8,), warm_up=1, per_actor=1, counterfactual=1),
        diagnose_every=2,
    ),
    stop=StopConfig(hidden=8, steps=3, batch=2, thresholds=(0.4, 0.5)),
    evaluate_every=2,
)
FCN = dataclasses.replace(
    CONFIG,
    size=(32, 32),
    hints=HintConfig(network="fcn8", width=0.03, steps=2, batch=2, maps="live", dropout=True),
    stop=StopConfig(hidden=8, training="joint"),
    actor=dataclasses.replace(CONFIG.actor, code_map="frozen"),
)


def run(folder, config=CONFIG, *, steps=None, resume=False, seed=0):
    data = open_dataset("cells", None, {"train": 5, "valid": 2, "size": 32})
    runtime = make_runtime(device="cpu", seed=seed)
    trainer = Trainer(
        folder,
        runtime,
        method="acis",
        config={"config": {}},
        data_digest=data.digest,
        log_every=2,
        quiet=True,
        tensorboard=False,
    )
    return trainer.run(lambda: acis.stages(config, data, runtime), steps=steps, resume=resume)


def outcome(folder):
    """All tensors of the final checkpoint, and the scalars without wall-clock fields."""
    state = load_checkpoint(folder, "latest").state
    lines = []
    for line in (folder / "scalars.jsonl").read_text().splitlines():
        record = json.loads(line)
        clock = ("time", "seconds", "per_s")
        lines.append({k: v for k, v in record.items() if not any(word in k for word in clock)})
    return state, lines


def same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        if isinstance(value, dict):
            same(value, second[key])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, second[key]), key
        else:
            assert value == second[key], key


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = run(folder)
    assert (result.status, result.stage, result.total_steps) == ("finished", "stop", 17)
    return outcome(folder)


def test_the_same_seed_repeats(whole, tmp_path):
    run(tmp_path / "run")
    again = outcome(tmp_path / "run")
    same(whole[0], again[0])
    assert str(whole[1]) == str(again[1])


def test_another_seed_differs(whole, tmp_path):
    run(tmp_path / "run", seed=1)
    assert str(outcome(tmp_path / "run")[1]) != str(whole[1])


# In every stage, at their borders, and within both phases of the sequences.
@pytest.mark.parametrize("stops", [[2], [3, 4, 6], [7, 8], [9], [10, 11, 13], [12, 14, 16]])
def test_stopping_anywhere_and_resuming_changes_nothing(whole, tmp_path, stops):
    for count, stop in enumerate(stops):
        assert run(tmp_path / "run", steps=stop, resume=count > 0).status == "stopped"
    assert run(tmp_path / "run", resume=True).status == "finished"
    resumed = outcome(tmp_path / "run")
    same(whole[0], resumed[0])
    assert str(whole[1]) == str(resumed[1])


def test_live_hints_with_dropout_a_frozen_code_map_and_a_joint_stop_head_resume(tmp_path):
    assert run(tmp_path / "whole", FCN).stage == "sequence"
    for count, stop in enumerate([3, 6, 9]):
        assert run(tmp_path / "run", FCN, steps=stop, resume=count > 0).status == "stopped"
    assert run(tmp_path / "run", FCN, resume=True).status == "finished"
    whole, resumed = outcome(tmp_path / "whole"), outcome(tmp_path / "run")
    same(whole[0], resumed[0])
    assert str(whole[1]) == str(resumed[1])


def test_the_checkpoint_holds_what_its_predictor_needs(tmp_path):
    run(tmp_path / "run")
    data = open_dataset("cells", None, {"train": 5, "valid": 2, "size": 32})
    config = acis.resolve(CONFIG, data)
    runtime = make_runtime(device="cpu")
    predictor = acis.load_predictor(config, load_checkpoint(tmp_path / "run"), runtime)
    prediction = predictor(data.split("valid")[0].image[None], trace=True)
    assert prediction.labels.shape == (1, 32, 32)
    assert prediction.trace["masks"].shape == (1, 4, 32, 32)
