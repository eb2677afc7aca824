"""Schedules: plain functions from a step number to a value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlseg.errors import ConfigError


def linear(step: int, *, start: float, end: float, steps: int) -> float:
    """`start` at step 0, `end` from step `steps` on, a straight line between.

    Raises:
        ConfigError: `steps` is not positive.
    """
    if steps < 1:
        raise ConfigError(f"a linear schedule needs at least 1 step, got {steps}")
    share = min(max(step, 0) / steps, 1.0)
    return start + (end - start) * share


def exponential(step: int, *, start: float, end: float, time_constant: float) -> float:
    """`end + (start - end) * exp(-step / time_constant)`.

    Raises:
        ConfigError: `time_constant` is not positive.
    """
    if time_constant <= 0:
        raise ConfigError(f"an exponential schedule needs a time constant > 0, got {time_constant}")
    return end + (start - end) * math.exp(-step / time_constant)


def piecewise(step: int, *, lengths: Sequence[int], values: Sequence[float]) -> float:
    """The value of the phase that `step` falls into; the last one beyond the end.

    Raises:
        ConfigError: no phase, unequal numbers, or a length below 1.
    """
    if not lengths or len(lengths) != len(values) or min(lengths) < 1:
        raise ConfigError(
            f"a piecewise schedule needs one value per phase of at least 1 step, got lengths "
            f"{list(lengths)} and values {list(values)}"
        )
    for length, value in zip(lengths, values, strict=True):
        if step < length:
            return value
        step -= length
    return values[-1]
