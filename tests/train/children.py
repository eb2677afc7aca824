"""Runs a function in a forked child, which may kill itself, and reads what runs wrote."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlseg.train.checkpoint import CheckpointStore, stage_stores
from rlseg.train.progress import is_clock
from rlseg.train.state_tree import flatten


def run_in_child(function: Callable[[], object]) -> int:
    """Exit code of a forked child that called the function; -9 after SIGKILL."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


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
