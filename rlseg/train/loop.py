"""The bare training loop, usable inside a method: no files, no logs, no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor

from rlseg.train.stage import Learner, Stream

Item = TypeVar("Item")
Scalars = Mapping[str, float | Tensor]


def run_loop(
    learner: Learner[Item],
    stream: Stream[Item],
    steps: int,
    *,
    start: int = 0,
    before: Callable[[int, Item], None] | None = None,
    after: Callable[[int, Scalars], bool | None] | None = None,
) -> int:
    """The number of the last finished step, after stepping the learner through the stream.

    Args:
        learner: what is trained.
        stream: gives one item per step.
        steps: number of the last step to take; steps count from 1.
        start: steps already done.
        before: called with the step's number and item before it is taken.
        after: called with the step's number and scalars after it; True ends the loop.
    """
    step = start
    while step < steps:
        item = next(stream)
        if before is not None:
            before(step + 1, item)
        scalars = learner.step(item)
        step += 1
        if after is not None and after(step, scalars):
            break
    return step
