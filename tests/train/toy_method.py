"""A method without images: small networks, all kinds of state, two stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlseg.train.runtime import Runtime
from rlseg.train.stage import Stage, StopRule
from rlseg.train.workers import WorkerContext, WorkerGroup


@dataclass(frozen=True)
class Batch:
    x: Tensor
    names: tuple[str, ...]


class ToyStream:
    """Batches that depend on the position alone."""

    def __init__(self, runtime: Runtime, size: int = 6) -> None:
        self.runtime, self.size, self.position = runtime, size, 0

    def __next__(self) -> Batch:
        x = torch.randn(self.size, 4, generator=self.runtime.generator("data", self.position))
        names = tuple(f"item{self.position}-{i}" for i in range(self.size))
        self.position += 1
        return Batch(x, names)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class ToyLearner:
    """Dropout (global generator), own generator, Adam, target network, replay buffer, counter."""

    def __init__(
        self, runtime: Runtime, first: nn.Module | None = None, poison: str = "", at: int = 0
    ) -> None:
        self.runtime, self.first = runtime, first
        self.network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 4))
        self.target = nn.Linear(4, 4)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.01)
        self.noise = runtime.generator("noise")
        self.replay: list[Tensor] = []
        self.steps = 0
        self.threshold = 0.0
        self.poison, self.at = poison, at
        self.on_step: Callable[[int], None] | None = None

    def step(self, item: Batch) -> dict[str, float | Tensor]:
        self.steps += 1
        if self.on_step is not None:
            self.on_step(self.steps)
        x = item.x + 0.1 * torch.randn(item.x.shape, generator=self.noise)
        if self.first is not None:
            with torch.no_grad():
                x = self.first(x)
        self.replay = [*self.replay[-3:], x]
        loss = functional.mse_loss(self.network(torch.stack(self.replay).mean(0)), self.target(x))
        if self.steps == self.at:
            loss = self._poisoned(loss)
        norm = self.runtime.update(loss, self.optimizer, max_norm=1.0)
        if self.poison == "scalar" and self.steps == self.at:
            return {"loss": float("nan")}
        return {"loss": loss.detach(), "gradient_norm": norm, "count": float(self.steps)}

    def _poisoned(self, loss: Tensor) -> Tensor:
        weight = self.network[0].weight
        if self.poison == "loss":
            return loss + float("nan")
        if self.poison == "gradient":  # finite loss, infinite gradient
            return loss + (weight[0, 0] - weight[0, 0].detach()).sqrt()
        if self.poison == "weight":
            weight.data[0, 0] = float("inf")
        return loss

    def evaluate(self, items: Iterable[Batch]) -> dict[str, float]:
        self.network.eval()
        with torch.no_grad():
            losses = [
                float(functional.mse_loss(self.network(b.x), self.target(b.x))) for b in items
            ]
        self.network.train()
        self.threshold = sum(losses)
        return {"score": -sum(losses) / max(1, len(losses)), "undefined": float("nan")}

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "noise": self.noise.get_state(),
            "replay": list(self.replay),
            "steps": self.steps,
            "threshold": self.threshold,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.noise.set_state(state["noise"])
        self.replay = list(state["replay"])
        self.steps, self.threshold = state["steps"], state["threshold"]


def toy_stages(
    runtime: Runtime,
    *,
    steps: int = 12,
    between: Callable[[], None] | None = None,
    on_step: Callable[[int], None] | None = None,
    poison: str = "",
    at: int = 0,
    stop: StopRule | None = None,
) -> Iterator[Stage[Any]]:
    """Two stages; the second uses the first one's network, and random weights made in between."""
    held_out = [Batch(torch.ones(2, 4) * i, (f"held{i}",)) for i in range(3)]
    first = ToyLearner(runtime)
    first.on_step = on_step
    yield Stage(
        name="first",
        learner=first,
        stream=ToyStream(runtime),
        steps=steps,
        held_out=held_out,
        evaluate_every=5,
        monitor="score",
        stop=stop,
    )
    cached = torch.randn(3)  # from the global generator, as weight initialisation does
    if between is not None:
        between()
    second = ToyLearner(runtime, first=first.network, poison=poison, at=at)
    with torch.no_grad():
        second.target.bias[:3] += cached
    second.on_step = on_step
    yield Stage(
        name="second",
        learner=second,
        stream=ToyStream(runtime, size=5),
        steps=steps,
        held_out=held_out,
        evaluate_every=4,
    )


def double(context: WorkerContext, bias: Tensor) -> None:
    """Worker: answers each request with a function of it and of the shared bias."""
    while True:
        value = context.receive()
        context.report(2 * value + bias.sum() + context.index)


class WorkerLearner:
    """Sends each item to all workers and adds up what comes back."""

    def __init__(self, count: int = 2) -> None:
        self.bias = torch.zeros(3)
        self.bias.share_memory_()
        self.total = torch.zeros(())
        self.workers = WorkerGroup(double, (self.bias,), count=count, seed=1, shutdown_seconds=5)
        self.on_step: Callable[[int], None] | None = None
        self.steps = 0

    def step(self, item: Batch) -> dict[str, float | Tensor]:
        self.steps += 1
        if self.on_step is not None:
            self.on_step(self.steps)
        for index in range(self.workers.count):
            self.workers.send(index, item.x.mean())
        answers = dict(self.workers.receive() for _ in range(self.workers.count))
        self.total = self.total * 0.9 + sum(answers[index] for index in sorted(answers))
        self.bias += 0.1 * self.total
        return {"total": self.total}

    def evaluate(self, items: Iterable[Batch]) -> dict[str, float]:
        return {"total": float(self.total)}

    def state_dict(self) -> dict[str, Any]:
        return {"bias": self.bias, "total": self.total, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.bias.copy_(state["bias"])
        self.total, self.steps = state["total"], state["steps"]


def worker_stages(
    runtime: Runtime,
    *,
    steps: int = 8,
    count: int = 2,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[Stage[Any]]:
    learner = WorkerLearner(count)
    learner.on_step = on_step
    yield Stage(
        name="workers",
        learner=learner,
        stream=ToyStream(runtime),
        steps=steps,
        evaluate_every=3,
        workers=learner.workers,
    )
