"""`rlseg data check`: every problem of a data set, as a table and as JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlseg.commands import Ticker, data_settings

if TYPE_CHECKING:
    from rlseg.data.base import Problem

SCHEMA = "rlseg.data-check/1"
EXAMPLES = (
    "  rlseg data check cremi DIR\n"
    "  rlseg data check folder DIR --json problems.json\n"
    "  rlseg data check cityscapes DIR --data task=instance"
)
USER_ERROR = 2


def run(args: argparse.Namespace) -> int:
    """Reads every file; 0, or 2 if anything but a note was found."""
    from rlseg.data import check_dataset
    from rlseg.files import as_json, write_whole

    tickers: dict[str, Ticker] = {}

    def advance(split: str, done: int, total: int) -> None:
        if split not in tickers:
            tickers[split] = Ticker(args, total, f"check {split}")
        tickers[split](done)

    settings = data_settings({}, args.data)
    found = check_dataset(args.name, args.root, settings, advance)
    problems = [problem for problem in found if not problem.note]
    notes = [problem for problem in found if problem.note]
    place = args.name if args.root is None else f"{args.name} at {args.root}"
    for line in table([*problems, *notes], args.root):
        print(line)
    if args.json is not None:  # after the table: a file that cannot be written costs no reading
        write_whole(args.json, as_json(report(args, settings, found)))
    if problems:
        sys.stderr.write(f"rlseg: {place}: {_counted(len(problems), 'problem')} found\n")
        return USER_ERROR
    print(f"{place}: no problems found" + (f", {_counted(len(notes), 'note')}" if notes else ""))
    return 0


def report(
    args: argparse.Namespace, settings: dict[str, Any], found: Sequence[Problem]
) -> dict[str, Any]:
    """What `--json` writes; problems and notes in the order in which the files were read."""

    def entries(note: bool) -> list[dict[str, Any]]:
        return [asdict(problem) for problem in found if problem.note == note]

    return {
        "schema": SCHEMA,
        "dataset": args.name,
        "root": None if args.root is None else str(args.root),
        "data": settings,
        "ok": all(problem.note for problem in found),
        "problems": entries(note=False),
        "notes": entries(note=True),
    }


def table(found: Sequence[Problem], root: Path | None) -> list[str]:
    """A line per problem or note, with paths from the root on; nothing for nothing."""
    if not found:
        return []

    def short(text: str) -> str:
        return text if root is None else text.replace(f"{root}/", "")

    rows = [("", "where", "what")]
    rows += [("note" if p.note else "problem", short(p.where), short(p.what)) for p in found]
    width = max(len(where) for _, where, _ in rows)
    return [f"{kind:<7}  {where:<{width}}  {what}" for kind, where, what in rows]


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
