"""ColorRL through the trainer: same seed twice, and any stop plus resume, end bit for bit equal."""

import json

import pytest
import torch

from rlseg import colorrl
from rlseg.data import open_dataset
from rlseg.data.transforms import Augmentation
from rlseg.train.checkpoint import load_checkpoint
from rlseg.train.runtime import make_runtime
from rlseg.train.trainer import Trainer

CONFIG = colorrl.Config(
    bits=3,
    features=(4, 8),
    scale=0.5,
    crop=16,
    batch=2,
    rewards=colorrl.RewardConfig(radii=(2, 4), min_instance=2, subset_seeds=2),
    gradient="counterfactual",
    hints=colorrl.HintConfig(steps=4, features=(4, 8)),
    phases=(colorrl.Phase(steps=7, learning_rate=1e-3, final_learning_rate=0.0),),
    augmentation=Augmentation(flip_horizontal=0.5, warp=0.5, noise=0.5),
    evaluate_every=3,
    min_sizes=(0, 5),
)


def run(folder, *, steps=None, resume=False, seed=0):
    data = open_dataset("cells", None, {"train": 5, "valid": 2, "size": 40})
    runtime = make_runtime(device="cpu", seed=seed)
    trainer = Trainer(
        folder,
        runtime,
        method="colorrl",
        config={"config": {}},
        data_digest=data.digest,
        log_every=2,
        quiet=True,
        tensorboard=False,
    )
    return trainer.run(lambda: colorrl.stages(CONFIG, data, runtime), steps=steps, resume=resume)


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
    assert run(folder).status == "finished"
    return outcome(folder)


def test_the_same_seed_repeats(whole, tmp_path):
    run(tmp_path / "run")
    again = outcome(tmp_path / "run")
    same(whole[0], again[0])
    assert whole[1] == again[1]


def test_another_seed_differs(whole, tmp_path):
    run(tmp_path / "run", seed=1)
    assert outcome(tmp_path / "run")[1] != whole[1]


@pytest.mark.parametrize("stops", [[2], [4], [5], [8], [1, 4, 6, 10]])
def test_stopping_anywhere_and_resuming_changes_nothing(whole, tmp_path, stops):
    for count, stop in enumerate(stops):
        result = run(tmp_path / "run", steps=stop, resume=count > 0)
        assert result.status == "stopped"
    assert run(tmp_path / "run", resume=True).status == "finished"
    resumed = outcome(tmp_path / "run")
    same(whole[0], resumed[0])
    assert whole[1] == resumed[1]


def test_the_checkpoint_holds_what_its_predictor_needs(whole, tmp_path):
    run(tmp_path / "run")
    runtime = make_runtime(device="cpu")
    predictor = colorrl.load_predictor(CONFIG, load_checkpoint(tmp_path / "run"), runtime)
    data = open_dataset("cells", None, {"test": 2, "size": 40})
    prediction = predictor(data.split("test")[0].image[None], trace=True)
    assert prediction.labels.shape == (1, 40, 40)
    assert prediction.labels.dtype == torch.int64
    assert prediction.trace["bits"].shape == (1, 3, 40, 40)
    assert prediction.trace["hints"].shape == (1, 1, 40, 40)
