"""Returns, advantages and schedules, for any shape of agent."""

from rlseg.rl.returns import discounted_returns, gae
from rlseg.rl.schedules import exponential, linear, piecewise

__all__ = ["discounted_returns", "exponential", "gae", "linear", "piecewise"]
