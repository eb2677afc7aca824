import json
import random

import numpy as np
import pytest
import torch

from rlseg.errors import CheckpointError
from rlseg.train import random_state
from rlseg.train.state_tree import flatten, unflatten

CPU = torch.device("cpu")


def draws() -> list[float]:
    values = [float(torch.randn(())), random.gauss(0, 1), random.random()]
    return [*values, *np.random.standard_normal(3).tolist()]  # noqa: NPY002


def test_all_global_generators_come_back_through_a_file() -> None:
    random.gauss(0, 1)  # leaves a second number in store, which belongs to the state
    np.random.standard_normal()  # noqa: NPY002
    skeleton, tensors = flatten(random_state.capture(CPU))
    state = unflatten(json.loads(json.dumps(skeleton)), tensors)
    expected = draws()
    assert draws() != expected
    random_state.restore(state, CPU)
    assert draws() == expected


def test_fault_c9_other_device_needs_permission() -> None:
    state = random_state.capture(CPU)
    gpu = torch.device("cuda", 0)
    with pytest.raises(CheckpointError, match="written on cpu, this run is on cuda"):
        random_state.restore(state, gpu)
    expected = draws()
    random_state.restore(state, gpu, allow_device=True)
    assert draws() == expected


def test_malformed_state_is_a_checkpoint_error() -> None:
    state = random_state.capture(CPU)
    for key in ("torch", "random", "numpy"):
        with pytest.raises(CheckpointError, match="malformed"):
            random_state.restore({**state, key: torch.zeros(3)}, CPU)
