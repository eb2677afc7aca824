"""SIGINT and SIGTERM: finish the step, save, leave; a second one ends the process at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

WATCHED = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal came where nothing needs to be finished first."""


class SignalGuard:
    """Turns the first signal into a request; gives the old handlers back at the end."""

    def __init__(self) -> None:
        self.requested = False
        """Whether a signal has come."""
        self._immediate = False
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; elsewhere the caller's own stay.
        if threading.current_thread() is threading.main_thread():
            for number in WATCHED:
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old.clear()

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Within it a signal raises `Interrupted`, because nothing done there is kept anyway."""
        if self.requested:
            raise Interrupted
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        for watched in WATCHED:
            signal.signal(watched, signal.SIG_DFL)
        if self._immediate:
            raise Interrupted
