"""Phases of a training schedule, and which of them an update belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from rlseg.acis.checks import at_least, not_negative
from rlseg.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training with its own learning rate and weight of the KL term."""

    steps: int
    """Iterations."""
    learning_rate: float
    """Adam's step size."""
    kl_weight: float = 0.0
    """lambda: weight of the KL divergence of the code from N(0, I)."""

    def __post_init__(self) -> None:
        at_least("steps of a phase", self.steps, 1)
        not_negative("learning_rate", self.learning_rate)
        not_negative("kl_weight", self.kl_weight)


@dataclass(frozen=True, kw_only=True)
class SequencePhase(Phase):
    """A stretch of the sequential training with its own episode length (curriculum)."""

    length: int = 5
    """T: masks per episode."""
    load: Literal["last", "random", "window"] = "last"
    """Which of n instances are drawn beforehand: all but T random ones ("last"), or a random
    number up to n - T with all others as targets, so that episodes may exceed T ("random"; both
    C); or a random number up to n - 1, and the episode ends after T masks, wherever in the image
    it began ("window", I)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("length", self.length, 1)


AnyPhase = TypeVar("AnyPhase", bound=Phase)


def phase_at(phases: Sequence[AnyPhase], step: int) -> AnyPhase:
    """The phase of an update; the last one beyond the end.

    Args:
        phases: in the order of training.
        step: number of the update, from 0.

    Raises:
        ConfigError: there is no phase.
    """
    if not phases:
        raise ConfigError("a schedule needs at least one phase, got none")
    for phase in phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return phases[-1]


def total_steps(phases: Sequence[Phase]) -> int:
    """Updates of all phases together."""
    return sum(phase.steps for phase in phases)
