"""`rlseg data stats`: what a data set looks like in numbers, and in a picture."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlseg.commands import data_settings

if TYPE_CHECKING:
    from rlseg.data.base import Splits
    from rlseg.data.statistics import SplitStatistics
    from rlseg.train.progress import RunProgress

SCHEMA = "rlseg.data-stats/1"
EXAMPLES = (
    "  rlseg data stats cells --out cells.png\n"
    "  rlseg data stats cremi DIR --split train --radius 12 18\n"
    "  rlseg data stats camvid DIR --data splits=active --json stats.json"
)


def add_arguments(parser: Any) -> None:
    """Adds what only this action has."""
    parser.add_argument("--split", metavar="S", help="only this split")
    parser.add_argument(
        "--radius",
        metavar="R",
        type=float,
        nargs="+",
        default=[],
        help="count neighbours nearer than this, in pixels; default: two suggested radii",
    )
    parser.add_argument(
        "--out",
        metavar="PNG",
        type=Path,
        help="write an overview picture: samples with their truth, sizes, neighbours or classes",
    )
    parser.add_argument(
        "--cache", metavar="CACHE", type=Path, help="keep lists of neighbours in this folder"
    )


def run(args: argparse.Namespace) -> int:
    """Prints tables of the splits and writes what the flags ask for; exit code 0."""
    from rlseg.commands.class_stats import class_stats
    from rlseg.data import open_dataset
    from rlseg.data.base import with_cache
    from rlseg.data.statistics import split_statistics
    from rlseg.files import write_whole
    from rlseg.train.progress import RunProgress

    splits = open_dataset(args.name, args.root, data_settings({}, args.data))
    names = splits.names if args.split is None else (args.split,)
    parts = {name: splits.split(name) for name in names}
    if splits.task == "semantic":
        return class_stats(args, splits, parts)
    splits = with_cache(splits, args.cache)
    progress = RunProgress(quiet=args.quiet)
    statistics = {}
    try:
        for name, part in parts.items():
            passes = 1 if args.radius else 2
            progress.stage(name, passes * len(part), 0)
            statistics[name] = split_statistics(
                part, args.radius, progress.advance, splits.store, splits.classes
            )
        suggested = _suggested(splits, statistics, progress)
    finally:
        progress.close()
    for name, numbers in statistics.items():
        print_table([(f"split {name}", ""), *_rows(numbers)])
        print("".join(f"{line}\n" for line in _category_lines(numbers)))
    print(
        f"suggested for training at this resolution: radii {suggested['radii'][0]} and "
        f"{suggested['radii'][1]}, T (bits) {suggested['bits']}"
    )
    write_report(args, splits, statistics, {"suggested": suggested})
    if args.out is not None:
        from rlseg.commands.overview import instance_overview

        write_whole(args.out, instance_overview(parts, statistics))
    return 0


def write_report(
    args: argparse.Namespace, splits: Splits, statistics: Mapping[str, Any], more: Mapping[str, Any]
) -> None:
    """Writes what `--json` asks for, if it was given.

    Args:
        args: of the command line.
        splits: the data set.
        statistics: split -> frozen dataclass of its numbers.
        more: further keys.
    """
    from rlseg.files import as_json, write_whole

    if args.json is None:
        return
    report = {
        "schema": SCHEMA,
        "dataset": args.name,
        "root": None if args.root is None else str(args.root),
        "data": data_settings({}, args.data),
        "task": splits.task,
        "digest": splits.digest,
        "splits": {name: asdict(numbers) for name, numbers in statistics.items()},
        **more,
    }
    write_whole(args.json, as_json(report))


def _suggested(
    splits: Splits, statistics: Mapping[str, SplitStatistics], progress: RunProgress
) -> dict[str, Any]:
    """Radii and T from the first split asked for (train, unless another one was named)."""
    from rlseg.data.statistics import split_statistics, suggest_radii

    name, numbers = next(iter(statistics.items()))
    radii = suggest_radii(numbers.area_median, splits.ndim)
    if tuple(n.radius for n in numbers.neighbours) != radii:
        progress.stage(f"{name}, suggested radii", numbers.samples, 0)
        part = splits.split(name)
        numbers = split_statistics(part, radii, progress.advance, splits.store, splits.classes)
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
    empty = f", none in {numbers.empty} samples" if numbers.empty else ""
    rows = [
        ("samples", str(numbers.samples)),
        ("size", size if same else f"{sides(numbers.smallest)} to {size}"),
        ("instances", str(numbers.instances)),
        (
            "per sample",
            f"mean {numbers.instances_mean:.1f}, {numbers.instances_minimum} to "
            f"{numbers.instances_maximum}{empty}",
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
        text = f"mean {mean}, at most {near.maximum}, {near.pairs} pairs: T >= {near.bits}"
        rows.append((f"within {near.radius:g}", text))
    return rows


def _category_lines(numbers: SplitStatistics) -> list[str]:
    """A line per category that occurs, the most frequent first; nothing where none is known."""
    if not numbers.categories:
        return []
    found = [entry for entry in numbers.categories if entry.instances]
    found.sort(key=lambda entry: -entry.instances)  # stable: else in the order of their numbers
    width = max([len("category"), *(len(entry.name) for entry in found)])
    lines = [f"{'category':<{width}}  {'instances':>9}  {'pixels':>8}  {'samples':>8}"][
        : len(found)
    ]
    for entry in found:
        share = "-" if entry.share is None else f"{100 * entry.share:.2f} %"
        lines.append(f"{entry.name:<{width}}  {entry.instances:>9}  {share:>8}  {entry.samples:>8}")
    absent = len(numbers.categories) - len(found)
    return [*lines, f"{absent} categories without an instance"] if absent else lines


def print_table(rows: list[tuple[str, str]]) -> None:
    """Prints two columns."""
    width = max(len(left) for left, _ in rows)
    for left, right in rows:
        print(f"{left:<{width}}  {right}".rstrip())
