"""ACIS on two ranks: weights stay equal, also where one rank's batch has no instance."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlseg.data.samples import InstanceBatch
from tests.distributed.acis_ranks_script import COUNTS, batch_of, gradients

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the weights of both processes."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(2):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        command = [sys.executable, "-m", "tests.distributed.acis_ranks_script", str(folder)]
        processes.append(subprocess.Popen(command, env=environment, cwd=ROOT))
    try:
        codes = [process.wait(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0]
    return folder


@pytest.mark.parametrize("kind", ["critic", "bl_trunc"])
def test_ranks_stay_together_and_both_learn(results: Path, kind: str) -> None:
    parts = {
        (when, rank): torch.load(results / f"{kind}-{when}-{rank}.pt", weights_only=True)
        for when in ("before", "after")
        for rank in range(2)
    }
    for when in ("before", "after"):
        for first, second in zip(parts[when, 0], parts[when, 1], strict=True):
            assert all(torch.equal(value, second[name]) for name, value in first.items())
    for first, second in zip(parts["before", 0], parts["after", 0], strict=True):
        assert any(not torch.equal(value, second[name]) for name, value in first.items())


def test_two_batches_give_the_gradient_of_both_as_one(results: Path) -> None:
    """Though their episodes have unequal lengths."""
    parts = [batch_of(*one) for one in COUNTS]
    joined = InstanceBatch(
        image=torch.cat([part.image for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        valid=torch.cat([part.valid for part in parts]),
        names=parts[0].names + parts[1].names,
    )
    wanted = gradients(joined)
    assert {name.split()[0] for name in wanted} == {"actor_critic", "bl_trunc"}
    for rank in range(2):
        found = torch.load(results / f"gradients-{rank}.pt", weights_only=True)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            scale = float(value.abs().max())
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4 * scale + 1e-7)
