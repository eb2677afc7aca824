"""`rlseg data list|get|check|stats|cache|convert`: data sets known, got, described, made anew."""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

from rlseg.commands import (
    data_cache,
    data_check,
    data_convert,
    data_get,
    data_stats,
)


def add_parser(subparsers: Any) -> None:
    """Adds `data` and its actions."""
    parser = subparsers.add_parser(
        "data",
        help="list, get, check, describe and convert data sets; empty caches",
        description="List, get, check, describe and convert data sets; empty caches.",
        epilog="examples:\n  rlseg data list\n  rlseg data stats cells --out cells.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    described = {
        "list": ("known data sets, their layout and how to get them", _LIST_EXAMPLES),
        "get": ("download what the terms allow; else say how to get it", data_get.EXAMPLES),
        "check": ("read every file and show all problems; exit code 2 if any", data_check.EXAMPLES),
        "stats": (
            "sizes, instances or classes, neighbours, radii and T",
            data_stats.EXAMPLES,
        ),
        "cache": ("what a cache folder holds, and how to empty it", data_cache.EXAMPLES),
        "convert": ("write a data set as folder, coco or cvppp", data_convert.EXAMPLES),
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
    data_get.add_arguments(made["get"])
    data_convert.add_arguments(made["convert"])
    data_cache.add_arguments(made["cache"])
    made["list"].add_argument("--json", action="store_true", help="print JSON instead of text")
    for name in ("check", "stats"):
        made[name].add_argument("name", metavar="NAME", help="a name of `rlseg data list`")
        made[name].add_argument(
            "root", metavar="DIR", type=Path, nargs="?", help="its files; not for generated data"
        )
        made[name].add_argument("--json", metavar="OUT", type=Path, help="write the result there")
        made[name].add_argument(
            "--data",
            metavar="KEY=VALUE",
            action="append",
            default=[],
            help="setting of the data set, for example splits=active; may be repeated",
        )
    data_stats.add_arguments(made["stats"])


_LIST_EXAMPLES = "  rlseg data list\n  rlseg data list --json"


def run(args: argparse.Namespace) -> int:
    """Exit code of the action: 0, or 2 if `check` found problems."""
    if args.action in ("get", "cache"):  # these need no torch
        return {"get": data_get.run, "cache": data_cache.run}[args.action](args)
    import torch

    # Many small operations: more threads would only wait for each other.
    torch.set_num_threads(1)
    actions = {
        "list": _list,
        "check": data_check.run,
        "stats": data_stats.run,
        "convert": data_convert.run,
    }
    action = actions[args.action]
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
                "download": data_get.download_line(name),
                "terms": about.terms,
                "citation": about.citation,
            }
        )
    if args.json:
        print(json.dumps(entries, indent=2, ensure_ascii=False))
        return 0
    for entry in entries:
        print(entry["name"] + ("  (generated)" if entry["generated"] else ""))
        for key in ("layout", "splits", "how_to_get", "download", "terms", "citation"):
            value = entry[key]
            text = ", ".join(value) if isinstance(value, list) else str(value)
            lines = textwrap.wrap(text, width=82) or [""]
            print("\n".join(f"  {label:<10}  {line}" for label, line in _labelled(key, lines)))
    return 0


def _labelled(key: str, lines: list[str]) -> list[tuple[str, str]]:
    name = key.replace("_", " ")
    return [(name if i == 0 else "", line) for i, line in enumerate(lines)]
