"""Checks of settings, with messages that name the field."""

from __future__ import annotations

from collections.abc import Sequence

from rlseg.errors import ConfigError


def at_least(name: str, value: int, least: int) -> None:
    """Raises ConfigError unless value >= least."""
    if value < least:
        raise ConfigError(f"{name} must be at least {least}, got {value}")


def not_negative(name: str, value: float) -> None:
    """Raises ConfigError unless value >= 0; NaN is none."""
    if not value >= 0:
        raise ConfigError(f"{name} must not be negative, got {value}")


def above(name: str, value: float, bound: float) -> None:
    """Raises ConfigError unless value > bound; NaN is not."""
    if not value > bound:
        raise ConfigError(f"{name} must be above {bound}, got {value}")


def fraction(name: str, value: float) -> None:
    """Raises ConfigError unless value is in 0..1."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} must be in 0..1, got {value}")


def some(name: str, items: Sequence[object]) -> None:
    """Raises ConfigError where there is no item."""
    if not items:
        raise ConfigError(f"{name} is empty: training needs at least one")


def check_size(size: tuple[int, int], stride: int, reason: str) -> None:
    """Raises ConfigError unless both sides are multiples of the stride, at least one of them.

    Args:
        size: height and width of the networks' input.
        stride: what the sides must be multiples of.
        reason: which network wants it, for the message.
    """
    if all(side >= stride and side % stride == 0 for side in size):
        return
    below = [max(side // stride, 1) * stride for side in size]
    above_it = [max(-(-side // stride), 1) * stride for side in size]
    nearest = f"{below}" if below == above_it else f"{below} or {above_it}"
    raise ConfigError(
        f"size is {list(size)}; {reason} takes multiples of {stride}: the nearest are {nearest}"
    )
