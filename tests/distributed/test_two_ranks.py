"""Two gloo processes = one process with the joined batch; stop and resume with ranks."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rlseg.errors import CheckpointError
from rlseg.train.checkpoint import load_checkpoint
from rlseg.train.runtime import Runtime
from rlseg.train.trainer import Trainer
from tests.distributed.two_ranks_script import (
    IMAGES,
    batch,
    instance_scores,
    mask_scores,
    masked_sum,
    network,
    semantic_scores,
)
from tests.train.children import assert_same_run
from tests.train.toy_method import toy_stages

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what the two processes computed."""
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
        command = [sys.executable, "-m", "tests.distributed.two_ranks_script", str(folder)]
        processes.append(subprocess.Popen(command, env=environment, cwd=ROOT))
    for process in processes:
        assert process.wait(timeout=60) == 0
    return folder


def one_process(count: bool) -> nn.Module:
    runtime = Runtime(device=torch.device("cpu"), precision="fp32", seed=0)
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for step in range(3):
        parts = [batch(step, rank) for rank in range(2)]
        x, mask = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        if count:
            runtime.update(masked_sum(module, x, mask) / mask.sum(), optimizer, max_norm=1.0)
        else:
            means = [module(part).square().mean() for part, _ in parts]
            runtime.update(sum(means, torch.zeros(())) / 2, optimizer)
    return module


@pytest.mark.parametrize("kind", ["count", "mean"])
def test_two_ranks_equal_one_process_with_the_joined_batch(results: Path, kind: str) -> None:
    expected = one_process(kind == "count").state_dict()
    for rank in range(2):
        found = torch.load(results / f"{kind}-{rank}.pt", weights_only=True)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_share_gives_rank_0s_weights_and_buffers(results: Path) -> None:
    shared = [torch.load(results / f"share-{rank}.pt", weights_only=True) for rank in range(2)]
    assert shared[0].keys() == shared[1].keys()
    assert all(torch.equal(shared[0][name], shared[1][name]) for name in shared[0])
    assert float(shared[1]["running_mean"][0]) == 0.0


def test_scores_of_images_shared_out_over_ranks_are_those_of_one_process(results: Path) -> None:
    images = list(range(IMAGES))
    exact = {
        "named": instance_scores(images, True).compute(),
        "unnamed": instance_scores(images, False).compute(),
        "semantic": semantic_scores(images).compute(),
        "masks": mask_scores(images).compute(),
    }
    assert exact["named"]["ap"] > 0
    assert exact["masks"]["ap"] > 0
    for rank in range(2):
        found = json.loads((results / f"metrics-{rank}.json").read_text())
        for key, scores in exact.items():
            assert repr(found[key]) == repr(scores), key  # to the last bit; nan included
        lost = {"ap", "ap50", "ap75"}
        assert set(found["sums"]) == set(exact["named"]) - lost
        for key, value in found["sums"].items():
            assert value == pytest.approx(exact["named"][key], abs=1e-12), key


def test_fault_t1_bad_number_on_one_rank_stops_both(results: Path) -> None:
    for rank in range(2):
        assert (results / f"diverged-{rank}").read_text() == "before the optimizer moved"


def test_stop_and_resume_with_two_ranks(results: Path) -> None:
    assert_same_run(results / "whole", results / "cut")
    for rank in range(2):
        whole = torch.load(results / f"whole-{rank}.pt", weights_only=True)
        cut = torch.load(results / f"cut-{rank}.pt", weights_only=True)
        assert torch.equal(whole, cut)
    draws = [torch.load(results / f"whole-{rank}.pt", weights_only=True) for rank in range(2)]
    assert not torch.equal(*draws)  # each rank has its own random state, and gets it back


def test_fault_c9_other_number_of_ranks(results: Path) -> None:
    runtime = Runtime(device=torch.device("cpu"), precision="fp32", seed=0)
    trainer = Trainer(
        results / "cut",
        runtime,
        method="toy",
        config={},
        data_digest="",
        quiet=True,
        tensorboard=False,
    )
    with pytest.raises(CheckpointError, match=r"runtime\.ranks: 2 -> 1"):
        trainer.run(lambda: toy_stages(runtime), resume=True)
    with pytest.raises(CheckpointError, match="written by 2 processes, this run has 1"):
        trainer.run(lambda: toy_stages(runtime), resume=True, allow_change=["ranks"])
    assert load_checkpoint(results / "cut").step == 12
