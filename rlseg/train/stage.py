"""The seam between methods and the trainer: learners, streams, stages, workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from torch import Tensor

from rlseg.errors import ConfigError

Item = TypeVar("Item")
ItemIn = TypeVar("ItemIn", contravariant=True)
ItemOut = TypeVar("ItemOut", covariant=True)


class Learner(Protocol[ItemIn]):
    """Owns the networks, optimizers and losses of one stage."""

    def step(self, item: ItemIn) -> Mapping[str, float | Tensor]:
        """Scalars to log, after one or more updates; tensors are read later, at the log border."""

    def evaluate(self, items: Iterable[ItemIn]) -> Mapping[str, float]:
        """Scores on held-out items; may set what is chosen on held-out data (thresholds)."""

    def state_dict(self) -> dict[str, Any]:
        """Nested dict of tensors and plain values that `load_state_dict` restores exactly."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; strict on keys and shapes."""


class Stream(Protocol[ItemOut]):
    """Endless, resumable source of what `Learner.step` consumes."""

    def __next__(self) -> ItemOut:
        """The next item; never ends."""

    def state_dict(self) -> dict[str, Any]:
        """Position, as plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a position, so that the next item is the one that would have followed."""


class Workers(Protocol):
    """Processes that run during a stage; the trainer enters, pauses and leaves them."""

    def __enter__(self) -> Self:
        """Starts the processes."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops the processes, on every way out."""

    def pause(self) -> None:
        """Returns when no worker writes to shared state any more."""

    def resume(self) -> None:
        """Lets the workers go on."""


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """Ends a stage early: no gain of the monitored score for `patience` evaluations."""

    patience: int
    """Evaluations without a new best, at least 1."""
    min_gain: float = 0.0
    """A new best must beat the old one by more than this."""

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ConfigError(f"patience must be at least 1 evaluation, got {self.patience}")


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[Item]):
    """One training run with one learner and one stream."""

    name: str
    learner: Learner[Item]
    stream: Stream[Item]
    steps: int
    held_out: Iterable[Item] = ()
    evaluate_every: int | None = None
    monitor: str | None = None
    """Scalar of `evaluate` kept as "best"; higher is better."""
    stop: StopRule | None = None
    workers: Workers | None = None
    scalars: Callable[[], Mapping[str, float]] | None = None
    """Further scalars, asked for at every line of the log: what a stream counts."""

    def __post_init__(self) -> None:
        if not self.name or any(c in self.name for c in "/\\. "):
            raise ConfigError(f"stage name {self.name!r} must be usable as a folder name")
        if self.steps < 0:
            raise ConfigError(f"stage {self.name}: steps must not be negative, got {self.steps}")
        if self.evaluate_every is not None and self.evaluate_every < 1:
            raise ConfigError(
                f"stage {self.name}: evaluate_every must be at least 1, got {self.evaluate_every}"
            )
        if self.stop is not None and (self.monitor is None or self.evaluate_every is None):
            raise ConfigError(
                f"stage {self.name}: a stop rule needs `monitor` and `evaluate_every`"
            )
