"""Runs a function in a child process, which may kill itself, and reads what runs wrote."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlseg.train.checkpoint import CheckpointStore, stage_stores
from rlseg.train.progress import is_clock
from rlseg.train.runtime import Runtime
from rlseg.train.state_tree import flatten
from rlseg.train.trainer import Trainer
from tests.train.toy_method import toy_stages

# The first optimizer imports a thousand modules; children that are forked later have them then.
torch.optim.AdamW([torch.zeros(1, requires_grad=True)])

RUNTIME = Runtime(device=torch.device("cpu"), precision="fp32", seed=5)


def run_in_child(function: Callable[[], object]) -> int:
    """Exit code of a forked child that called the function; -9 after SIGKILL.

    For functions that compute no gradients: autograd does not survive a fork.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def train_toy(
    folder: Path,
    *,
    resume: bool = False,
    fatal_step: int | None = None,
    fatal_stage: str | None = None,
    fatal_between: bool = False,
    signals: tuple[int, ...] = (signal.SIGKILL,),
    alarm: float | None = None,
    checkpoint_seconds: float = 60.0,
) -> None:
    """Trains the toy method, and kills its own process where it is told to.

    Args:
        folder: of the run.
        resume: go on with it.
        fatal_step: step of a stage at which the signals are sent.
        fatal_stage: only in this stage.
        fatal_between: send them in the code between the stages.
        signals: what is sent.
        alarm: seconds until SIGALRM ends the process, wherever it is.
        checkpoint_seconds: of the trainer.
    """
    torch.set_num_threads(1)

    def die() -> None:
        for number in signals:
            os.kill(os.getpid(), number)

    def on_step(step: int) -> None:
        if step == fatal_step and (fatal_stage is None or (folder / fatal_stage).exists()):
            die()

    if alarm is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, alarm)
    trainer = Trainer(
        folder,
        RUNTIME,
        method="toy",
        config={},
        data_digest="",
        log_every=3,
        checkpoint_seconds=checkpoint_seconds,
        quiet=True,
        tensorboard=False,
    )
    between = die if fatal_between else None
    trainer.run(lambda: toy_stages(RUNTIME, on_step=on_step, between=between), resume=resume)


def train_toy_in_child(folder: Path, **arguments: Any) -> int:
    """Exit code of a process that called `train_toy`; it comes from a server that has torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=train_toy, args=(folder,), kwargs=arguments)
    process.start()
    process.join(60)
    assert process.exitcode is not None, "the child hangs"
    return process.exitcode


def scalar_lines(folder: Path) -> list[dict[str, Any]]:
    """The scalars of a run without its clocks."""
    lines = (folder / "scalars.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not is_clock(k)} for line in lines]


def same_state(first: Any, second: Any) -> bool:
    """Whether two states are equal bit for bit, clocks apart."""
    (skeleton_a, tensors_a), (skeleton_b, tensors_b) = flatten(first), flatten(second)
    return (
        _without_clocks(skeleton_a) == _without_clocks(skeleton_b)
        and tensors_a.keys() == tensors_b.keys()
        and all(torch.equal(tensors_a[key], tensors_b[key]) for key in tensors_a)
    )


def _without_clocks(skeleton: Any) -> Any:
    if isinstance(skeleton, dict):
        return {k: _without_clocks(v) for k, v in skeleton.items() if not is_clock(str(k))}
    return skeleton


def assert_same_run(first: Path, second: Path) -> None:
    """Same scalars, and the same latest and best checkpoint of every stage, bit for bit."""
    assert scalar_lines(first) == scalar_lines(second)
    stores = stage_stores(first)
    assert [s.folder.name for s in stores] == [s.folder.name for s in stage_stores(second)]
    for store in stores:
        other = CheckpointStore(second / store.folder.name)
        for which in ("latest", "best"):
            a, b = store.load(which), other.load(which)
            assert a.step == b.step
            assert same_state(a.state, b.state), (store.folder, which)
            assert same_state(a.extra, b.extra), (store.folder, which)
