"""`rlseg data list|check|stats`: what is known, whether files are sound, what they hold."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlseg.commands import Ticker, say

if TYPE_CHECKING:
    from torch import Tensor

    from rlseg.data.base import Splits
    from rlseg.data.statistics import SplitStatistics
    from rlseg.train.progress import RunProgress

PICTURED = 4  # samples per split on the overview picture
USER_ERROR = 2


def add_parser(subparsers: Any) -> None:
    """Adds `data` and its three actions."""
    parser = subparsers.add_parser(
        "data",
        help="list, check and describe data sets",
        description="List, check and describe data sets.",
        epilog="examples:\n  rlseg data list\n  rlseg data stats cells --out cells.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    described = {
        "list": ("known data sets, their layout and how to get them", _LIST_EXAMPLES),
        "check": ("read every file and show all problems; exit code 2 if any", _CHECK_EXAMPLES),
        "stats": ("sizes, instances, neighbours, suggested radii and T", _STATS_EXAMPLES),
    }
    made = {
        name: actions.add_parser(
            name,
            help=line,
            description=line[0].upper() + line[1:] + ".",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for name, (line, examples) in described.items()
    }
    made["list"].add_argument("--json", action="store_true", help="print JSON instead of text")
    for name in ("check", "stats"):
        made[name].add_argument("name", metavar="NAME", help="a name of `rlseg data list`")
        made[name].add_argument(
            "root", metavar="DIR", type=Path, nargs="?", help="its files; not for generated data"
        )
        made[name].add_argument("--json", metavar="OUT", type=Path, help="write the result there")
    made["stats"].add_argument("--split", metavar="S", help="only this split")
    made["stats"].add_argument(
        "--radius",
        metavar="R",
        type=float,
        nargs="+",
        default=[],
        help="count neighbours nearer than this, in pixels; default: two suggested radii",
    )
    made["stats"].add_argument(
        "--out", metavar="PNG", type=Path, help="write an overview picture of images and labels"
    )


_LIST_EXAMPLES = "  rlseg data list\n  rlseg data list --json"
_CHECK_EXAMPLES = "  rlseg data check cremi DIR\n  rlseg data check folder DIR --json problems.json"
_STATS_EXAMPLES = (
    "  rlseg data stats cells --out cells.png\n"
    "  rlseg data stats cremi DIR --split train --radius 12 18"
)


def run(args: argparse.Namespace) -> int:
    """Exit code of the action: 0, or 2 if `check` found problems."""
    import torch

    # Many small operations: more threads would only wait for each other.
    torch.set_num_threads(1)
    action = {"list": _list, "check": _check, "stats": _stats}[args.action]
    return action(args)


def _list(args: argparse.Namespace) -> int:
    from rlseg.data import DATASETS, dataset_module

    entries: list[dict[str, Any]] = []
    for name in DATASETS:
        module = dataset_module(name)
        about = module.DATASET
        entries.append(
            {
                "name": name,
                "generated": not module.needs_root,
                "layout": about.layout,
                "splits": list(about.splits),
                "classes": list(about.classes),
                "how_to_get": about.how_to_get,
                "terms": about.terms,
                "citation": about.citation,
            }
        )
    if args.json:
        print(json.dumps(entries, indent=2, ensure_ascii=False))
        return 0
    for entry in entries:
        print(entry["name"] + ("  (generated)" if entry["generated"] else ""))
        for key in ("layout", "splits", "how_to_get", "terms", "citation"):
            value = entry[key]
            text = ", ".join(value) if isinstance(value, list) else str(value)
            lines = textwrap.wrap(text, width=82) or [""]
            print("\n".join(f"  {label:<10}  {line}" for label, line in _labelled(key, lines)))
    return 0


def _labelled(key: str, lines: list[str]) -> list[tuple[str, str]]:
    name = key.replace("_", " ")
    return [(name if i == 0 else "", line) for i, line in enumerate(lines)]


def _check(args: argparse.Namespace) -> int:
    from rlseg.data import check_dataset
    from rlseg.files import as_json, write_whole

    tickers: dict[str, Ticker] = {}

    def advance(split: str, done: int, total: int) -> None:
        if split not in tickers:
            tickers[split] = Ticker(args, total, f"check {split}")
        tickers[split](done)

    found = check_dataset(args.name, args.root, advance=advance)
    problems = [problem for problem in found if not problem.note]
    notes = [problem for problem in found if problem.note]
    if args.json is not None:
        root = None if args.root is None else str(args.root)
        report = {
            "dataset": args.name,
            "root": root,
            "ok": not problems,
            "problems": [{"where": p.where, "what": p.what} for p in problems],
            "notes": [{"where": p.where, "what": p.what} for p in notes],
        }
        write_whole(args.json, as_json(report))
    place = args.name if args.root is None else f"{args.name} at {args.root}"
    for note in notes:
        say(args, f"note: {note.where}: {note.what}")
    if not problems:
        print(f"{place}: no problems found")
        return 0
    _print_table([("where", "problem"), *((p.where, p.what) for p in problems)])
    plural = "problem" if len(problems) == 1 else "problems"
    sys.stderr.write(f"rlseg: {place}: {len(problems)} {plural} found\n")
    return USER_ERROR


def _stats(args: argparse.Namespace) -> int:
    from rlseg.data import open_dataset
    from rlseg.data.statistics import split_statistics
    from rlseg.errors import ConfigError
    from rlseg.files import as_json, write_whole
    from rlseg.train.progress import RunProgress

    splits = open_dataset(args.name, args.root)
    if splits.task != "instance":
        raise ConfigError(f"data set {args.name!r} has no instances; stats describes instance data")
    names = splits.names if args.split is None else (args.split,)
    parts = {name: splits.split(name) for name in names}
    progress = RunProgress(quiet=args.quiet)
    statistics = {}
    try:
        for name, part in parts.items():
            passes = 1 if args.radius else 2
            progress.stage(name, passes * len(part), 0)
            statistics[name] = split_statistics(part, args.radius, progress.advance)
        suggested = _suggested(splits, statistics, progress)
    finally:
        progress.close()
    for name, numbers in statistics.items():
        _print_table([(f"split {name}", ""), *_rows(numbers)])
        print()
    print(
        f"suggested for training at this resolution: radii {suggested['radii'][0]} and "
        f"{suggested['radii'][1]}, T (bits) {suggested['bits']}"
    )
    if args.json is not None:
        report = {
            "dataset": args.name,
            "root": None if args.root is None else str(args.root),
            "digest": splits.digest,
            "splits": {name: asdict(numbers) for name, numbers in statistics.items()},
            "suggested": suggested,
        }
        write_whole(args.json, as_json(report))
    if args.out is not None:
        write_whole(args.out, _overview(parts))
    return 0


def _suggested(
    splits: Splits, statistics: Mapping[str, SplitStatistics], progress: RunProgress
) -> dict[str, Any]:
    """Radii and T from the first split asked for (train, unless another one was named)."""
    from rlseg.data.statistics import split_statistics, suggest_radii

    name, numbers = next(iter(statistics.items()))
    radii = suggest_radii(numbers.area_median, splits.ndim)
    if tuple(n.radius for n in numbers.neighbours) != radii:
        progress.stage(f"{name}, suggested radii", numbers.samples, 0)
        numbers = split_statistics(splits.split(name), radii, progress.advance)
    largest = numbers.neighbours[-1]
    return {"split": name, "radii": list(radii), "max_neighbours": largest.maximum,
            "bits": largest.bits}  # fmt: skip


def _rows(numbers: SplitStatistics) -> list[tuple[str, str]]:
    def sides(values: tuple[int, ...]) -> str:
        return "x".join(str(value) for value in values)

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.6g}"

    same = numbers.smallest == numbers.largest
    size = sides(numbers.largest)
    rows = [
        ("samples", str(numbers.samples)),
        ("size", size if same else f"{sides(numbers.smallest)} to {size}"),
        ("instances", str(numbers.instances)),
        (
            "per sample",
            f"mean {numbers.instances_mean:.1f}, {numbers.instances_minimum} to "
            f"{numbers.instances_maximum}",
        ),
        (
            "area",
            f"median {shown(numbers.area_median)}, mean {shown(numbers.area_mean)}, "
            f"{shown(numbers.area_minimum)} to {shown(numbers.area_maximum)}",
        ),
        ("foreground", "-" if numbers.foreground is None else f"{100 * numbers.foreground:.1f} %"),
        ("unknown", f"{100 * numbers.unknown:.1f} %"),
    ]
    for near in numbers.neighbours:
        mean = "-" if near.mean is None else f"{near.mean:.1f}"
        text = f"mean {mean}, at most {near.maximum}: T >= {near.bits}"
        rows.append((f"within {near.radius:g}", text))
    return rows


def _print_table(rows: list[tuple[str, str]]) -> None:
    width = max(len(left) for left, _ in rows)
    for left, right in rows:
        print(f"{left:<{width}}  {right}".rstrip())


def _overview(parts: Mapping[str, Any]) -> bytes:
    """PNG: the first samples of every split, image beside labels; the middle slice of volumes."""
    from rlseg.figures import panels

    rows = []
    for split, part in parts.items():
        row: dict[str, Tensor] = {}
        for index in range(min(PICTURED, len(part))):
            sample = part[index]
            image, labels = sample.image, sample.labels
            if labels.ndim == 3:
                image, labels = image[:, len(labels) // 2], labels[len(labels) // 2]
            row |= {f"image {index}": image, f"labels {index}": labels}
        rows.append((split, row))
    return panels(rows)
