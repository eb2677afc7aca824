"""The processes that `torchrun` starts: which one this is, and what they tell the first one."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

from torch import distributed as dist

from rlseg.errors import ConfigError

T = TypeVar("T")


def rank_and_size() -> tuple[int, int]:
    """This process's number among those that `torchrun` started, and how many there are.

    Raises:
        ConfigError: the environment variables of `torchrun` are wrong.
    """
    world_size = from_torchrun("WORLD_SIZE", 1)
    rank = from_torchrun("RANK", 0)
    if not rank < world_size:
        raise ConfigError(f"RANK {rank} must be below WORLD_SIZE {world_size}; use torchrun")
    return rank, world_size


def join(backend: str, timeout: timedelta) -> None:
    """Makes the process group of all processes that `torchrun` started.

    Raises:
        ConfigError: the environment variables of `torchrun` are not complete.
    """
    try:
        dist.init_process_group(backend, timeout=timeout)
    except ValueError as error:  # an environment variable is missing
        size = os.environ.get("WORLD_SIZE")
        raise ConfigError(f"{error}; start {size} processes with torchrun") from error


def gathered(value: T) -> list[T]:
    """The values of all processes that `torchrun` started in the first one; [] in the others.

    Waits for all of them, up to a day.

    Raises:
        ConfigError: the environment variables of `torchrun` are not complete.
    """
    rank, world_size = rank_and_size()
    if world_size == 1:
        return [value]
    join("gloo", timedelta(days=1))
    try:
        parts: list[T] | None = [value] * world_size if rank == 0 else None
        dist.gather_object(value, parts)
        dist.barrier()  # the first process holds the connection for the others
        return parts or []
    finally:
        dist.destroy_process_group()


def from_torchrun(variable: str, default: int) -> int:
    """The number in an environment variable that `torchrun` sets, or `default` without it.

    Raises:
        ConfigError: no whole number.
    """
    text = os.environ.get(variable, str(default))
    if not text.isdecimal() or int(text) < (variable == "WORLD_SIZE"):
        raise ConfigError(
            f"environment variable {variable} must be a whole number as torchrun sets it, "
            f"got {text!r}; unset it to train in one process"
        )
    return int(text)
