"""`rlseg evaluate PRED.json TRUE.json`, and what `rlseg places evaluate` shares with it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from rlseg.commands import Ticker, positive_int, say, tables

BOOKKEEPING = ("images", "annotations", "predictions", "dropped", "max_dets", "mode", "backend")
"""Whole numbers and words of the result that the table shows besides the scores."""
APPLIES = {
    *("verb", "first", "true", "json", "max_dets"),
    *("quiet", "verbose", "debug", "parser", "crash_folder"),
}
"""Arguments of `rlseg evaluate` that mean something for COCO files."""
WHY_NOT = {
    "metrics": "all their scores are computed at once",
    "csv": "their scores are none of single images",
    "jobs": "they are scored in one process",
    "convention": "their scores follow one convention",
    "all_conventions": "their scores follow one convention",
    "ap_score": "AP follows the scores in the result file",
}
"""Why an argument means nothing there; the others belong to runs and label maps."""


def add_arguments(group: Any) -> None:
    """Adds the options of `rlseg evaluate PRED.json TRUE.json`."""
    group.add_argument(
        "--max-dets",
        metavar=("A", "B", "C"),
        nargs=3,
        type=positive_int,
        help="limits on the masks per image and category: AR at each, AP at the last (1 10 100)",
    )


def are_coco_files(args: argparse.Namespace) -> bool:
    """Whether PRED and TRUE are two JSON files.

    Raises:
        ConfigError: only one of them is; or `--max-dets` without any.
    """
    from rlseg.errors import ConfigError

    given = [] if args.true is None else [Path(args.first), Path(args.true)]
    found = [path.suffix.lower() == ".json" and not path.is_dir() for path in given]
    if any(found) and not all(found):
        raise ConfigError(
            f"{args.first} and {args.true}: one is a JSON file and the other is not; give two COCO "
            "files (results, data set), or label maps on both sides"
        )
    if not any(found) and args.max_dets is not None:
        raise ConfigError(
            "--max-dets belongs to `rlseg evaluate PRED.json TRUE.json`; label maps have no limit: "
            "leave it out"
        )
    return any(found)


def run(args: argparse.Namespace) -> int:
    """Scores PRED.json against TRUE.json.

    Raises:
        RlsegError: an option that does not apply to such files, or malformed files.
    """
    from rlseg.errors import ConfigError
    from rlseg.evaluate_coco import evaluate_coco
    from rlseg.metrics.coco import COCO_MAX_DETS

    for name, value in vars(args).items():
        absent = value is None or value is False or value == []  # 0 is a value
        if name not in APPLIES and not absent:
            flag = "--" + name.replace("_", "-")
            why = WHY_NOT.get(name, "it belongs to runs and label maps")
            raise ConfigError(f"{flag} does not apply to COCO files: {why}; leave it out")
    check_output(args.json)
    limits = tuple(args.max_dets or COCO_MAX_DETS)
    result = scored(
        args,
        lambda progress: evaluate_coco(
            Path(args.true), Path(args.first), max_dets=limits, progress=progress
        ),
    )
    report(result | {"pred": args.first, "true": args.true}, args)
    return 0


def check_output(path: Path | None) -> None:
    """Refuses a file that cannot be written, before the work and not after it.

    Raises:
        ConfigError: it is a folder, or its folder cannot be written.
    """
    from rlseg.errors import ConfigError
    from rlseg.files import output_folder

    if path is not None:
        output_folder(path.parent)
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; name a file to write")


def scored(
    args: argparse.Namespace, work: Callable[[Callable[[int, int], None]], dict[str, Any]]
) -> dict[str, Any]:
    """The result of `work(progress)`; with `--verbose`, lists all reasons why there is none.

    Raises:
        InvalidResultsError: malformed results; the message names the first reasons.
    """
    from rlseg.errors import InvalidResultsError
    from rlseg.evaluate_coco import STEPS

    ticker = Ticker(args, STEPS, "evaluate, step")
    try:
        return work(lambda done, _: ticker(done))
    except InvalidResultsError as error:
        if args.verbose:
            sys.stderr.writelines(f"{reason}\n" for reason in error.reasons)
        raise


def report(result: dict[str, Any], args: argparse.Namespace) -> None:
    """Writes the JSON file that is asked for, else shows a table on stdout; says the warnings."""
    from rlseg.evaluate import write_json

    if args.json is not None:
        write_json(result, args.json)
    for warning in result["warnings"]:
        say(args, f"note: {warning}")
    if args.json is None:
        show(result, sys.stdout)
    elif sys.stderr.isatty() and not args.quiet:
        show(result, sys.stderr)


def show(result: dict[str, Any], stream: TextIO) -> None:
    """The scores, then a row per category; drawn on a terminal, plain columns elsewhere."""
    lines = [
        [key, tables.shown(value)] for key, value in result.items() if isinstance(value, float)
    ]
    lines += [[key, tables.shown(result[key])] for key in BOOKKEEPING]
    tables.draw(["score", "value"], lines, stream, words=["score"])
    stream.write("\n")
    titles = ["id", "name", "ap", "ap50", "n_true", "n_pred"]
    rows = [[tables.shown(row[title]) for title in titles] for row in result["per_category"]]
    for row in rows:  # names come from a file: nothing in them may steer a terminal
        row[1] = row[1] if row[1].isprintable() else ascii(row[1])
    tables.draw(titles, rows, stream, words=["name"])
