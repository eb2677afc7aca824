"""Returns, advantages and schedules against plain loops."""

import math

import pytest
import torch

from rlseg.errors import ConfigError, ShapeError
from rlseg.rl import discounted_returns, exponential, gae, linear, piecewise


def test_returns_by_hand():
    rewards = torch.tensor([1.0, 2.0, 3.0])
    found = discounted_returns(rewards, torch.tensor(4.0), 0.5)
    torch.testing.assert_close(found, torch.tensor([1 + 0.5 * 4.5, 2 + 0.5 * 5, 3 + 0.5 * 4.0]))
    assert discounted_returns(torch.zeros(0, 2), torch.zeros(2), 1.0).shape == (0, 2)


def test_gae_equals_the_double_sum_and_stops_at_the_end_of_episodes():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(5, 3, generator=generator)
    values = torch.randn(6, 3, generator=generator)
    done = torch.rand(5, 3, generator=generator) < 0.3
    gamma, lam = 0.9, 0.7
    advantages, returns = gae(rewards, values, gamma, lam, done)
    for i in range(3):
        for t in range(5):
            total, weight = 0.0, 1.0
            for k in range(t, 5):
                going = 0.0 if done[k, i] else 1.0
                delta = rewards[k, i] + gamma * values[k + 1, i] * going - values[k, i]
                total += weight * float(delta)
                weight *= gamma * lam * going
            assert float(advantages[t, i]) == pytest.approx(total, abs=1e-5)
    torch.testing.assert_close(returns, advantages + values[:5])


def test_gae_with_lambda_1_is_the_return_minus_the_value():
    rewards, values = torch.randn(4, 2, 3), torch.randn(5, 2, 3)
    advantages, _ = gae(rewards, values, 0.9, 1.0, torch.zeros(4, 2, 3, dtype=torch.bool))
    expected = discounted_returns(rewards, values[-1], 0.9) - values[:-1]
    torch.testing.assert_close(advantages, expected)


def test_wrong_shapes_and_ranges_are_refused():
    with pytest.raises(ShapeError, match="bootstrap"):
        discounted_returns(torch.zeros(3, 2), torch.zeros(3), 1.0)
    with pytest.raises(ConfigError, match="gamma"):
        discounted_returns(torch.zeros(3), torch.zeros(()), 1.1)
    done = torch.zeros(3, 2, dtype=torch.bool)
    with pytest.raises(ShapeError, match="values"):
        gae(torch.zeros(3, 2), torch.zeros(3, 2), 1.0, 1.0, done)
    with pytest.raises(ShapeError, match="done"):
        gae(torch.zeros(3, 2), torch.zeros(4, 2), 1.0, 1.0, done[:2])
    with pytest.raises(ConfigError, match="lam"):
        gae(torch.zeros(3, 2), torch.zeros(4, 2), 1.0, -0.1, done)


def test_schedules():
    assert [linear(t, start=1.0, end=0.0, steps=4) for t in (0, 1, 4, 9)] == [1.0, 0.75, 0.0, 0.0]
    assert exponential(0, start=0.9, end=0.05, time_constant=10) == pytest.approx(0.9)
    assert exponential(10, start=1.0, end=0.0, time_constant=10) == pytest.approx(math.exp(-1))
    steps = [piecewise(t, lengths=(2, 3), values=(5.0, 7.0)) for t in (0, 1, 2, 4, 99)]
    assert steps == [5.0, 5.0, 7.0, 7.0, 7.0]
    with pytest.raises(ConfigError, match="linear"):
        linear(0, start=1, end=0, steps=0)
    with pytest.raises(ConfigError, match="time constant"):
        exponential(0, start=1, end=0, time_constant=0)
    with pytest.raises(ConfigError, match="piecewise"):
        piecewise(0, lengths=(), values=())
