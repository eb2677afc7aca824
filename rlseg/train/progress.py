"""Live progress of a run: rich on a terminal, a plain line every 30 s elsewhere; on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

LINE_SECONDS = 30.0
"""Time between two plain lines."""
TICK_SECONDS = 0.2
"""Time between two updates of the live display."""
SHOWN_SCALARS = 4
"""Scalars beside the bar."""


def format_seconds(seconds: float) -> str:
    """A duration in words: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class RunProgress:
    """Shows where a run stands; never raises, because a closed terminal must not end a run."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._scalars: dict[str, float] = {}
        self._stage, self._total, self._start = "", 0, 0
        self._started = self._shown = time.monotonic()
        terminal = self._stream.isatty() and os.environ.get("TERM") not in (None, "dumb")
        if terminal and not quiet:
            console = Console(file=self._stream)
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
                console=console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def stage(self, name: str, total: int, step: int) -> None:
        """A stage begins (or goes on) at `step` of `total`."""
        self._stage, self._total, self._start = name, total, step
        self._started = self._shown = time.monotonic()
        self._scalars = {}
        if self._live is not None:
            self._live.start()
            if self._task is not None:
                self._live.remove_task(self._task)
            self._task = self._live.add_task(name, total=total, completed=step, text="")
        else:
            self.note(f"{name}: {total - step} steps to go")

    def advance(self, step: int, seconds_left: float | None = None) -> None:
        """Step `step` is done; `seconds_left` of the time that the run was given, if any."""
        now = time.monotonic()
        if now - self._shown < (TICK_SECONDS if self._live is not None else LINE_SECONDS):
            return
        self._shown = now
        text = self._text(step, now, seconds_left)
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=step, text=text)
        else:
            self.note(f"{self._stage}: {text}")

    def scalars(self, scalars: Mapping[str, float]) -> None:
        """The latest scalars; scores go first, clocks are left out."""
        named = {k: v for k, v in scalars.items() if not is_clock(k)}
        self._scalars = {**self._scalars, **named}

    def note(self, message: str) -> None:
        """One line that stays, unless quiet."""
        if self._quiet:
            return
        try:
            if self._live is not None and self._live.live.is_started:
                self._live.console.print(message, markup=False, highlight=False)
            else:
                print(message, file=self._stream, flush=True)
        except (OSError, ValueError):  # the reader of stderr has gone; the files tell the rest
            self._quiet = True

    def close(self) -> None:
        """Takes the live display down."""
        if self._live is not None:
            self._live.stop()

    def _text(self, step: int, now: float, seconds_left: float | None) -> str:
        rate = (step - self._start) / max(now - self._started, 1e-9)
        parts = [f"{step}/{self._total}"]
        left = (self._total - step) / rate if rate > 0 else None
        if seconds_left is not None:
            left = seconds_left if left is None else min(left, seconds_left)
        if left is not None:
            parts.append(f"{format_seconds(left)} left")
        ordered = sorted(self._scalars.items(), key=lambda pair: not pair[0].startswith("eval/"))
        parts += [f"{name} {value:.4g}" for name, value in ordered[:SHOWN_SCALARS]]
        return "  ".join(parts)


def is_clock(name: str) -> bool:
    """Whether a scalar's name marks it as wall-clock, which differs between equal runs."""
    return any(word in name for word in ("time", "seconds", "per_s"))
