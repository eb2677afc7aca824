"""Global random states, as plain values and tensors that a checkpoint can hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from rlseg.errors import CheckpointError


def capture(device: torch.device) -> dict[str, Any]:
    """The states of all global generators of this process: torch, the GPU's, numpy, random."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state: dict[str, Any] = {
        "device": device.type,
        "torch": torch.get_rng_state(),
        "random": [version, torch.tensor(internal, dtype=torch.int64), gauss],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore(state: dict[str, Any], device: torch.device, *, allow_device: bool = False) -> None:
    """Sets all global generators to a captured state.

    Args:
        state: what `capture` returned.
        device: of this run.
        allow_device: a state of another kind of device is accepted; a GPU's own generator, of
            which it then says nothing, keeps the numbers it was seeded with.

    Raises:
        CheckpointError: captured on another kind of device, or malformed.
    """
    if state["device"] != device.type and not allow_device:
        raise CheckpointError(
            f"the checkpoint was written on {state['device']}, this run is on {device.type}, whose "
            f"random state it does not hold; use --device {state['device']}, or permit the change "
            "with --allow-change device"
        )
    try:
        torch.set_rng_state(state["torch"])
        version, internal, gauss = state["random"]
        random.setstate((version, tuple(internal.tolist()), gauss))
        kind, keys, position, has_gauss, cached = state["numpy"]
        words = keys.numpy().astype(np.uint32)
        np.random.set_state((kind, words, position, has_gauss, cached))  # noqa: NPY002
        if device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], device)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"the random states of the checkpoint are malformed: {error}") from (
            error
        )
