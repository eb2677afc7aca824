"""Stop anywhere + resume = no stop, bit for bit on weights and scalars; killed and stopped runs."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlseg.train.checkpoint import CheckpointStore
from rlseg.train.stage import Stage
from rlseg.train.trainer import Trainer, TrainResult
from tests.train.children import (
    RUNTIME,
    assert_same_run,
    same_state,
    scalar_lines,
    train_toy_in_child,
)
from tests.train.toy_method import toy_stages, worker_stages

Stages = Callable[[], Iterator[Stage[Any]]]


def train(folder: Path, stages: Stages, **arguments: Any) -> TrainResult:
    every = arguments.pop("checkpoint_seconds", 60.0)
    made = Trainer(
        folder,
        RUNTIME,
        method="toy",
        config={},
        data_digest="",
        log_every=3,
        checkpoint_seconds=every,
        quiet=True,
        tensorboard=False,
    )
    return made.run(stages, **arguments)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert train(folder, lambda: toy_stages(RUNTIME)).status == "finished"
    return folder


def test_same_seed_twice(uninterrupted: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)  # what the process did before must not matter
    train(tmp_path, lambda: toy_stages(RUNTIME))
    assert_same_run(uninterrupted, tmp_path)


def test_saving_often_changes_nothing(uninterrupted: Path, tmp_path: Path) -> None:
    train(tmp_path, lambda: toy_stages(RUNTIME), checkpoint_seconds=0)
    assert scalar_lines(uninterrupted) == scalar_lines(tmp_path)
    for name in ("first", "second"):
        a, b = (CheckpointStore(f / name).load("best") for f in (uninterrupted, tmp_path))
        for key, value in a.state["network"].items():
            assert torch.equal(value, b.state["network"][key])


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 11, 12, 13, 16, 23])
def test_stop_and_resume_equals_no_stop(uninterrupted: Path, tmp_path: Path, stop: int) -> None:
    train(tmp_path, lambda: toy_stages(RUNTIME), steps=stop)
    torch.manual_seed(stop)
    assert train(tmp_path, lambda: toy_stages(RUNTIME), resume=True).total_steps == 24
    assert_same_run(uninterrupted, tmp_path)


def test_stop_at_every_step_equals_no_stop(uninterrupted: Path, tmp_path: Path) -> None:
    for step in range(1, 25):
        train(tmp_path, lambda: toy_stages(RUNTIME), steps=step, resume=step > 1)
    train(tmp_path, lambda: toy_stages(RUNTIME), resume=True)
    assert_same_run(uninterrupted, tmp_path)


def test_fault_c1_killed_at_random_steps(uninterrupted: Path, tmp_path: Path) -> None:
    generator = random.Random(0)
    for attempt in range(6):
        fatal = generator.randrange(1, 13)
        code = train_toy_in_child(tmp_path, fatal_step=fatal, resume=attempt > 0)
        assert code in (0, -signal.SIGKILL)
    train(tmp_path, lambda: toy_stages(RUNTIME), resume=True)
    assert_same_run(uninterrupted, tmp_path)


def test_fault_c1_killed_at_random_moments(uninterrupted: Path, tmp_path: Path) -> None:
    generator = random.Random(1)
    codes = []
    for attempt in range(8):
        folder = tmp_path / str(attempt)
        alarm = generator.uniform(0.02, 0.3)  # a whole run takes 0.3 s or more
        codes.append(train_toy_in_child(folder, alarm=alarm, checkpoint_seconds=0))
        resume = (folder / "config.json").exists()
        train(folder, lambda: toy_stages(RUNTIME), resume=resume)
        assert scalar_lines(uninterrupted) == scalar_lines(folder)
        for name in ("first", "second"):
            a, b = (CheckpointStore(f / name).load("latest") for f in (uninterrupted, folder))
            assert same_state(a.state, b.state)
    assert set(codes) <= {0, -signal.SIGALRM}
    assert -signal.SIGALRM in codes


def test_killed_after_the_first_stage_and_between_the_stages(
    uninterrupted: Path, tmp_path: Path
) -> None:
    # Inside the code between yields, twice: it is run again from the same random state.
    for resume in (False, True):
        code = train_toy_in_child(tmp_path, fatal_between=True, resume=resume)
        assert code == -signal.SIGKILL
        assert CheckpointStore(tmp_path / "first").load("latest").step == 12
        assert not (tmp_path / "second").exists()
    code = train_toy_in_child(tmp_path, fatal_step=2, fatal_stage="second", resume=True)
    assert code == -signal.SIGKILL
    assert CheckpointStore(tmp_path / "second").load("latest").step == 0
    train(tmp_path, lambda: toy_stages(RUNTIME), resume=True)
    assert_same_run(uninterrupted, tmp_path)


def test_signal_and_resume_with_workers(tmp_path: Path) -> None:
    assert train(tmp_path / "whole", lambda: worker_stages(RUNTIME, count=1)).status == "finished"

    def on_step(step: int) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    result = train(tmp_path / "cut", lambda: worker_stages(RUNTIME, count=1, on_step=on_step))
    assert (result.status, result.step) == ("interrupted", 5)
    train(tmp_path / "cut", lambda: worker_stages(RUNTIME, count=1), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
