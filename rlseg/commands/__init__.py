"""One module per verb: `add_parser(subparsers)` and `run(args) -> exit code`.

Here is what the verbs share: argument types and messages.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

N = TypeVar("N", int, float)


def positive_int(text: str) -> int:
    """A whole number above 0, for `type=`."""
    return _number(text, int, "a whole number", above=0)


def natural(text: str) -> int:
    """A whole number, 0 or more, for `type=`."""
    return _number(text, int, "a whole number", above=-1)


def positive_float(text: str) -> float:
    """A finite number above 0, for `type=`."""
    return _number(text, float, "a number", above=0)


def _number(text: str, kind: type[N], words: str, *, above: float) -> N:
    try:
        value = kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected {words}, got {text!r}") from error
    if not above < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected {words} above {above}, got {text}")
    return value


def say(args: argparse.Namespace, message: str) -> None:
    """Writes a message to stderr, unless `--quiet`."""
    if not args.quiet:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()


def data_settings(settings: Mapping[str, Any], pairs: Sequence[str]) -> dict[str, Any]:
    """Settings of a data set, changed by the `KEY=VALUE` pairs of `--data`.

    Raises:
        ConfigError: a pair that is not one; the message names the flag.
    """
    from rlseg.config import apply_overrides
    from rlseg.errors import ConfigError

    try:
        return apply_overrides(settings, pairs)
    except ConfigError as error:
        raise ConfigError(str(error).replace("--set", "--data", 1)) from error


class Ticker:
    """Says how far a loop is: a line on stderr every 30 s (every 2 s on a terminal)."""

    def __init__(self, args: argparse.Namespace, total: int, what: str) -> None:
        self._quiet = args.quiet
        self._total, self._what = total, what
        self._every = 2.0 if sys.stderr.isatty() else 30.0
        self._started = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        """Reports that `done` of the total are done, if it is time to."""
        now = time.monotonic()
        if self._quiet or now - self._last < self._every or done == 0:
            return
        self._last = now
        left = (now - self._started) / done * (self._total - done)
        sys.stderr.write(f"{self._what}: {done} of {self._total}, {left:.0f} s left\n")
        sys.stderr.flush()
