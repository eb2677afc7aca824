"""`rlseg data get`: downloads what the terms allow, and says how to get the rest."""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlseg.commands import Ticker, say

if TYPE_CHECKING:
    from rlseg.data.remote import Part, Source

EXAMPLES = "  rlseg data get cremi DIR --part A B\n  rlseg data get cityscapes"
_MEGABYTE = 10**6
_WIDTH = 90


class ByteTicker(Ticker):
    """Says how many bytes there are, how fast they come, and how long the rest will take."""

    def __init__(self, args: argparse.Namespace, what: str) -> None:
        super().__init__(args, 0, what)
        self._first: int | None = None

    def report(self, done: int, total: int | None) -> None:
        """Reports `done` of `total` bytes, if it is time to."""
        if self._first is None:  # what an earlier run brought does not count for the rate
            self._first = done
            self._started = time.monotonic()
        now = time.monotonic()
        if self._quiet or now - self._last < self._every:
            return
        self._last = now
        rate = (done - self._first) / max(now - self._started, 1e-9)
        text = f"{self._what}: {done / _MEGABYTE:.1f}"
        text += " MB" if total is None else f" of {total / _MEGABYTE:.1f} MB"
        text += f", {rate / _MEGABYTE:.1f} MB/s"
        if total is not None and rate > 0:
            text += f", {(total - done) / rate:.0f} s left"
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def add_arguments(parser: Any) -> None:
    """Adds the arguments of `get`."""
    parser.add_argument("name", metavar="NAME", help="a name of `rlseg data list`")
    parser.add_argument(
        "root", metavar="DIR", type=Path, nargs="?", help="where the files go; made if absent"
    )
    parser.add_argument(
        "--part",
        metavar="P",
        nargs="+",
        default=[],
        help="only these parts; default: all (cremi: A)",
    )


def run(args: argparse.Namespace) -> int:
    """Exit code 0: all is there, or the instructions are printed."""
    from rlseg.data import DATASETS, dataset_module
    from rlseg.data.obtain import obtain
    from rlseg.data.sources import SOURCES, source_of
    from rlseg.errors import ConfigError

    if args.name not in SOURCES and (args.name in DATASETS or "." in args.name):
        about = dataset_module(args.name).DATASET
        print(f"{args.name}: {about.how_to_get} Terms: {about.terms}")
        return 0
    source = source_of(args.name)
    chosen = source.chosen(tuple(args.part))
    if source.note:
        print(f"{source.name}: {source.note}")
        return 0
    direct = [part for part in chosen if part.files]
    if direct and args.root is None:
        raise ConfigError(
            f"which folder? `rlseg data get {source.name} DIR`; parts: {_parts(source)}"
        )
    say(args, f"terms of {source.name}: {source.terms}")
    done = obtain(
        source,
        args.root or Path(),
        tuple(args.part),
        say=lambda message: say(args, message),
        watch=lambda what: ByteTicker(args, what).report,
    )
    for item in done:
        print(f"{source.name} {item.part}: {item.summary}", flush=True)
    for part in chosen:
        if not part.files:
            _instruct(source, part, args.root)
    others = [part.name for part in source.parts if part not in chosen]
    if direct and others:
        say(args, f"further parts of {source.name} (--part): {_parts(source, others)}")
    return 0


def download_line(name: str) -> str:
    """What `rlseg data get` does for a data set, in a sentence; for `rlseg data list`."""
    from rlseg.data.sources import SOURCES

    source = SOURCES.get(name)
    if source is None or source.way == "by hand":
        return f"`rlseg data get {name}` prints the steps."
    if source.note:
        return source.note
    direct = [part.name for part in source.parts if part.files]
    tried = "" if source.tried else " (addresses not tried)"
    others = [part.name for part in source.parts if not part.files]
    rest = f"; steps for {', '.join(others)}" if others else ""
    return f"`rlseg data get {name} DIR`: parts {', '.join(direct)}{tried}{rest}."


def _parts(source: Source, names: list[str] | None = None) -> str:
    parts = [part for part in source.parts if names is None or part.name in names]
    return "; ".join(f"{part.name} ({part.what}, {part.size})" for part in parts)


def _instruct(source: Source, part: Part, root: Path | None) -> None:
    print(f"{source.name} {part.name} ({part.what}; {part.size}) is not downloaded by rlseg:")
    print(f"  terms: {source.terms}")
    place = "DIR" if root is None else str(root)
    for number, step in enumerate(part.steps, start=1):
        text = step.replace("DIR/", f"{place}/").replace("in DIR", f"in {place}")
        lines = textwrap.wrap(
            text, _WIDTH, break_long_words=False, break_on_hyphens=False, subsequent_indent="     "
        )
        print(f"  {number}. " + "\n".join(lines))
    print(f"  Then: rlseg data check {source.name} {place}")
