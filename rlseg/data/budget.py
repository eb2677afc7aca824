"""How much RAM decoded samples may use: one number for all data sets of a process.

Threads share what is kept; of several processes on a machine each gets its part.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import Generic, Protocol, TypeVar

from rlseg.errors import ConfigError

_LOG = logging.getLogger(__name__)

DEFAULT_BYTES = 1 << 32
"""4 GiB, shared by the processes that `torchrun` starts on a machine."""


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Item = TypeVar("Item", bound=_Sized)


class Budget:
    """Bytes that several data sets of a process may use together.

    Args:
        max_bytes: 0 or more.

    Raises:
        ConfigError: a negative number.
    """

    def __init__(self, max_bytes: int) -> None:
        self._lock = threading.Lock()
        self.used = 0
        """Bytes of samples kept now."""
        self.resize(max_bytes)

    def resize(self, max_bytes: int) -> None:
        """Another limit from now on; what is kept stays.

        Raises:
            ConfigError: a negative number.
        """
        if max_bytes < 0:
            raise ConfigError(f"a budget of bytes must not be negative, got {max_bytes}")
        with self._lock:
            self.max_bytes = max_bytes
            self._told = False

    def take(self, count: int) -> bool:
        """Whether `count` more bytes fit; if so they count as used. The first refusal is logged."""
        with self._lock:
            if self.used + count <= self.max_bytes:
                self.used += count
                return True
            told, self._told = self._told, True
        if not told:
            _LOG.warning(
                "decoded samples fill the %.3g MiB allowed; further ones are decoded each time",
                self.max_bytes / 2**20,
            )
        return False

    def give_back(self, count: int) -> None:
        """`count` bytes are free again."""
        with self._lock:
            self.used -= count


def _processes_here() -> int:
    """Processes that `torchrun` has started on this machine; 1 without it."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(int(text), 1) if text.isdecimal() else 1


SHARED = Budget(DEFAULT_BYTES // _processes_here())
"""The budget of this process."""


def set_budget(max_bytes: int, processes: int | None = None) -> Budget:
    """Sets and returns what this process may use for decoded samples.

    Args:
        max_bytes: of all processes on this machine together.
        processes: how many of them share it evenly; None = those that `torchrun` has started.

    Raises:
        ConfigError: a negative number of bytes, or no process.
    """
    if processes is None:
        processes = _processes_here()
    if processes < 1:
        raise ConfigError(f"processes must be at least 1, got {processes}")
    SHARED.resize(max_bytes // processes)
    return SHARED


class Keeper(Generic[Item]):
    """Items by number, within a budget that gets their bytes back together with the object.

    Args:
        budget: what the items count against.
    """

    def __init__(self, budget: Budget) -> None:
        self.items: dict[int, Item] = {}
        """What is kept now."""
        self._budget = budget
        self._lock = threading.Lock()
        weakref.finalize(self, _give_back, budget, self.items)

    def offer(self, index: int, item: Item) -> None:
        """Keeps an item if its number is new and there is room."""
        with self._lock:
            if index not in self.items and self._budget.take(item.nbytes):
                self.items[index] = item


def _give_back(budget: Budget, items: dict[int, Item]) -> None:
    budget.give_back(sum(item.nbytes for item in items.values()))
