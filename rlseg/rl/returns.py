"""Discounted returns and generalised advantages; the trailing axes may be pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from rlseg.errors import ConfigError, ShapeError


def discounted_returns(rewards: Tensor, bootstrap: Tensor, gamma: float) -> Tensor:
    """Sum of future rewards, discounted by `gamma` per step.

    Args:
        rewards: float [T, *S], reward received after step t.
        bootstrap: float [*S], value of the state after the last step (0 where the episode ended).
        gamma: in [0, 1].

    Returns:
        float [T, *S], `G_t = r_t + gamma * G_(t+1)`, with `G_T = bootstrap`.

    Raises:
        ShapeError: `bootstrap` does not have the trailing axes of `rewards`.
        ConfigError: `gamma` outside 0..1.
    """
    _check_fraction("gamma", gamma)
    if rewards.shape[1:] != bootstrap.shape:
        raise ShapeError(
            f"bootstrap has shape {list(bootstrap.shape)}; rewards {list(rewards.shape)} need "
            f"{list(rewards.shape[1:])}"
        )
    returns, future = torch.empty_like(rewards), bootstrap
    for t in reversed(range(len(rewards))):
        future = rewards[t] + gamma * future  # [*S]
        returns[t] = future
    return returns


def gae(
    rewards: Tensor, values: Tensor, gamma: float, lam: float, done: Tensor
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns that belong to them.

    Source: Schulman et al., "High-dimensional continuous control using generalized advantage
    estimation", ICLR 2016, eq. 16. With `lam = 1` the advantage is the discounted return minus
    the value.

    Args:
        rewards: float [T, *S].
        values: float [T+1, *S], value before each step and after the last one.
        gamma: discount in [0, 1].
        lam: weight of longer estimates, in [0, 1].
        done: bool [T, *S], True where the episode ended with step t.

    Returns:
        advantages and returns, float [T, *S] each; `returns = advantages + values[:T]`.

    Raises:
        ShapeError: the shapes do not fit each other.
        ConfigError: `gamma` or `lam` outside 0..1.
    """
    _check_fraction("gamma", gamma)
    _check_fraction("lam", lam)
    steps = len(rewards)
    if values.shape[0] != steps + 1 or values.shape[1:] != rewards.shape[1:]:
        raise ShapeError(
            f"values have shape {list(values.shape)}; rewards {list(rewards.shape)} need "
            f"{[steps + 1, *rewards.shape[1:]]}"
        )
    if done.shape != rewards.shape:
        raise ShapeError(f"done has shape {list(done.shape)}, rewards {list(rewards.shape)}")
    going_on = (~done).to(rewards.dtype)
    advantages = torch.empty_like(rewards)
    future = torch.zeros_like(rewards[0]) if steps else rewards.new_zeros(rewards.shape[1:])
    for t in reversed(range(steps)):
        surprise = rewards[t] + gamma * values[t + 1] * going_on[t] - values[t]  # delta_t [*S]
        future = surprise + gamma * lam * going_on[t] * future
        advantages[t] = future
    return advantages, advantages + values[:steps]


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} must be in 0..1, got {value}")
