from typing import Any

import pytest
import torch
from torch import nn

from rlseg.errors import ConfigError, DivergenceError
from rlseg.train import random_state
from rlseg.train.runtime import (
    DivergenceWatch,
    Runtime,
    derive_seed,
    make_runtime,
    native_bf16,
    step_unless,
)
from tests.train.children import same_state


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(device=torch.device("cpu"), precision="fp32", seed=3)


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def test_generator_same_name_same_numbers(runtime: Runtime) -> None:
    first = torch.rand(5, generator=runtime.generator("augment", 1, 2))
    assert torch.equal(first, torch.rand(5, generator=runtime.generator("augment", 1, 2)))
    for other in (("augment", 1, 3), ("augment", 12), ("augment", "1", 2), ()):
        assert not torch.equal(first, torch.rand(5, generator=runtime.generator(*other)))
    changed = Runtime(device=runtime.device, precision="fp32", seed=4)
    assert not torch.equal(first, torch.rand(5, generator=changed.generator("augment", 1, 2)))


def test_derived_seed_is_stable_across_versions() -> None:
    # A change of this number changes every run: first 8 bytes of SHA-256 of '[0,"a",1]', halved.
    import hashlib

    expected = int.from_bytes(hashlib.sha256(b'[0,"a",1]').digest()[:8], "little") // 2
    assert derive_seed(0, "a", 1) == expected


def test_global_generators_are_seeded(runtime: Runtime) -> None:
    import random

    import numpy as np

    draws = []
    for _ in range(2):
        runtime.seed_everything("stage", 0)
        draws.append((float(torch.rand(())), random.random(), float(np.random.rand())))  # noqa: NPY002
    assert draws[0] == draws[1]


def test_update_is_plain_gradient_descent(runtime: Runtime) -> None:
    layer, x = linear(), torch.randn(4, 3)
    before = layer.weight.detach().clone()
    loss = layer(x).square().mean()
    (gradient, bias_gradient) = torch.autograd.grad(loss, [layer.weight, layer.bias])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    layer.weight.grad = torch.ones_like(layer.weight)  # a stale gradient must not count
    norm = runtime.update(layer(x).square().mean(), optimizer)
    assert torch.allclose(layer.weight, before - 0.5 * gradient)
    assert norm == pytest.approx(
        float((gradient.square().sum() + bias_gradient.square().sum()).sqrt())
    )


def test_update_with_count_divides_the_sum(runtime: Runtime) -> None:
    x = torch.randn(4, 3)
    layers = [linear(), linear()]
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in layers]
    runtime.update(layers[0](x).square().mean(), optimizers[0])
    runtime.update(layers[1](x).square().sum(), optimizers[1], count=torch.tensor(8))
    assert torch.allclose(layers[0].weight, layers[1].weight)
    before = layers[1].weight.detach().clone()
    runtime.update(layers[1](x[:0]).sum(), optimizers[1], count=torch.tensor(0))
    assert torch.equal(layers[1].weight, before)


def test_clipping(runtime: Runtime) -> None:
    layer = linear()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    before = torch.cat([p.detach().reshape(-1).clone() for p in layer.parameters()])
    norm = runtime.update(100 * layer(torch.ones(1, 3)).sum(), optimizer, max_norm=0.5)
    moved = before - torch.cat([p.detach().reshape(-1) for p in layer.parameters()])
    assert float(moved.norm()) == pytest.approx(0.5, rel=1e-4)
    assert float(norm) == pytest.approx(100 * 8**0.5, rel=1e-5)
    before = layer.weight.detach().clone()
    runtime.update(100 * layer(torch.ones(1, 3)).sum(), optimizer, max_value=0.25)
    assert torch.allclose(before - layer.weight, torch.full((2, 3), 0.25), atol=1e-6)


def test_apply_steps_several_optimizers_with_a_shared_parameter_once_each(runtime: Runtime) -> None:
    a, b = linear(0), linear(1)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (a, b)]
    (a(torch.ones(1, 3)).sum() + 2 * b(torch.ones(1, 3)).sum()).backward()
    norm = runtime.apply(*optimizers)
    assert float(norm) == pytest.approx((8 * 1 + 8 * 4) ** 0.5)


@pytest.mark.parametrize("kind", ["nan loss", "inf loss", "inf gradient", "nan weight"])
def test_fault_t1_non_finite_is_found_before_the_optimizer_moves(
    runtime: Runtime, kind: str
) -> None:
    layer, idle = linear(), linear()
    optimizer = torch.optim.Adam([*layer.parameters(), *idle.parameters()], lr=0.1)
    loss = layer(torch.ones(1, 3)).sum()
    if kind == "nan weight":
        with torch.no_grad():
            idle.weight[0, 0] = float("nan")
    elif kind == "inf gradient":
        loss = loss + (layer.weight[0, 0] - layer.weight[0, 0].detach()).sqrt()
    else:
        loss = loss + float(kind.split()[0])
    before = layer.weight.detach().clone()
    with pytest.raises(DivergenceError):
        runtime.update(loss, optimizer)
    assert torch.equal(layer.weight, before)
    assert not optimizer.state


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "fused"])
def test_fault_t5_step_is_skipped_without_reading_the_flag(name: str) -> None:
    def make(module: nn.Module) -> torch.optim.Optimizer:
        if name == "fused":
            return torch.optim.Adam(module.parameters(), lr=0.1, fused=True)
        kind: Any = getattr(torch.optim, name)
        made: torch.optim.Optimizer = kind(module.parameters(), lr=0.1, weight_decay=0.1)
        return made

    layer, reference, watch = linear(), linear(), DivergenceWatch()
    optimizer, twin = make(layer), make(reference)
    for step in range(4):
        good = torch.tensor(step != 2)
        for module in (layer, reference):
            module.zero_grad()
            module(torch.ones(1, 3)).square().sum().backward()
        if step < 2:
            twin.step()
        if not good:
            layer.weight.grad = torch.full_like(layer.weight, float("nan"))
        step_unless(watch.observe(~good), [optimizer])
        if step < 2:
            watch.check()
    # Steps 1 and 2 moved the weights; the bad third and all after it did not.
    assert torch.equal(layer.weight, reference.weight)
    assert all(bool(torch.isfinite(v).all()) for s in optimizer.state.values() for v in s.values())
    with pytest.raises(DivergenceError):
        watch.check()
    assert watch.first_bad == 3


def test_make_runtime_refuses_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert make_runtime("auto").device.type == "cpu"
    for wrong in ("cuda", "cuda:0", "tpu", "cuda:x", "cpu:1"):
        with pytest.raises(ConfigError, match="device"):
            make_runtime(wrong)
    with pytest.raises(ConfigError, match="precision"):
        make_runtime("cpu", precision="fp16")
    with pytest.raises(ConfigError, match="threads"):
        make_runtime("cpu", threads=0)
    with pytest.raises(ConfigError, match="seed"):
        make_runtime("cpu", seed=-1)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE must be a whole number.*got 'x'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK must be a whole number"),
        ({"RANK": "1"}, "RANK 1 must be below WORLD_SIZE 1"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR.*torchrun"),
    ],
)
def test_wrong_environment_of_ranks(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        make_runtime("cpu")


def test_without_training_the_process_stays_as_it_is() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        cpu = torch.device("cpu")
        state = random_state.capture(cpu)
        runtime = make_runtime("cpu", seed=4, threads=torch.get_num_threads() + 1, training=False)
        assert runtime.seed == 4
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 1
        assert same_state(random_state.capture(cpu), state)
        make_runtime("cpu", seed=4)
        assert torch.are_deterministic_algorithms_enabled()
        assert not same_state(random_state.capture(cpu), state)
    finally:
        torch.use_deterministic_algorithms(before)


def test_native_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"avx512_bf16": False, "amx_bf16": False, "avx2": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [native_bf16(name) for name in ("auto", "cpu", torch.device("cpu"))] == [False] * 3
    assert native_bf16(torch.device("cuda", 1))
    found["amx_bf16"] = True
    assert native_bf16("cpu")
    found["amx_bf16"] = False
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert native_bf16("auto")
    assert not native_bf16("cpu")


def test_bf16_autocast() -> None:
    runtime = Runtime(device=torch.device("cpu"), precision="bf16", seed=0)
    with runtime.autocast():
        assert linear()(torch.ones(1, 3)).dtype == torch.bfloat16


def test_one_process_needs_no_communication(runtime: Runtime) -> None:
    x = torch.arange(3)
    total = runtime.sum(x)
    total += 1
    assert x.tolist() == [0, 1, 2]
    assert runtime.any(True, False) == (True, False)
    runtime.share(linear())
