"""What differs between the ranks of a run, kept in rank 0's checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from rlseg.errors import CheckpointError
from rlseg.train.checkpoint import Checkpoint
from rlseg.train.runtime import Runtime
from rlseg.train.state_tree import flatten, unflatten


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    text = f"{tensor.dtype}{list(tensor.shape)}".encode()
    return hashlib.sha256(text + plain.numpy().tobytes()).hexdigest()


def overlays(tree: Mapping[str, Any], runtime: Runtime) -> list[dict[str, Any]]:
    """Per rank from 1 on, what differs from rank 0's tree; empty for one process.

    Every rank must call it. Each overlay holds the whole skeleton as text and those tensors whose
    content is not rank 0's: as a rule generator states.
    """
    if runtime.world_size == 1:
        return []
    skeleton, tensors = flatten(dict(tree))
    mine = {key: _digest(tensor) for key, tensor in tensors.items()}
    first: list[Any] = [mine]
    dist.broadcast_object_list(first, src=0)
    differing = {k: t.to("cpu") for k, t in tensors.items() if first[0].get(k) != mine[k]}
    gathered: list[Any] = [None] * runtime.world_size
    overlay = {"skeleton": json.dumps(skeleton, allow_nan=False), "tensors": differing}
    dist.all_gather_object(gathered, overlay)
    return gathered[1:]


def apply_overlay(
    checkpoint: Checkpoint, runtime: Runtime
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state of the learner and the trainer's own values, as this rank had them.

    Raises:
        CheckpointError: written by another number of ranks, or malformed.
    """
    extra = dict(checkpoint.extra)
    ranks, world_size = extra.pop("ranks", []), extra.get("world_size")
    if world_size != runtime.world_size:
        raise CheckpointError(
            f"{checkpoint.path} was written by {world_size} processes, this run has "
            f"{runtime.world_size}, and their random states are not defined by it: use the same "
            "number"
        )
    if runtime.rank == 0:
        return checkpoint.state, extra
    try:
        own = ranks[runtime.rank - 1]
        _, tensors = flatten({"learner": checkpoint.state, "trainer": extra})
        used = json.loads(own["skeleton"])
        wanted = {key: own["tensors"].get(key, tensor) for key, tensor in tensors.items()}
        tree = unflatten(used, {**wanted, **own["tensors"]})
        return tree["learner"], tree["trainer"]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: the state of rank {runtime.rank} is malformed ({error})"
        ) from error
