"""`rlseg report`: one HTML page about one or several runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rlseg.commands import natural


def add_parser(subparsers: Any) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "report",
        help="one HTML page about one or several runs",
        description="Writes one self-contained HTML page: scores, learning curves, example "
        "pictures, config and environment. Several runs are shown side by side.",
        epilog="examples:\n  rlseg report runs/quickstart\n"
        "  rlseg report runs/plain runs/ours --out comparison.html --split valid",
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folders")
    parser.add_argument(
        "--out",
        metavar="HTML",
        type=Path,
        help="page to write (RUN/report.html; report.html for several runs)",
    )
    parser.add_argument("--title", help="heading of the page (method and data set)")
    parser.add_argument("--split", help="split of the example pictures (test, else valid)")
    parser.add_argument(
        "--examples", metavar="N", type=natural, default=4, help="example pictures; 0: none (4)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<i> (auto)")


def run(args: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    from rlseg.report import write_report
    from rlseg.runs import run_folder_of

    folders = [run_folder_of(path) for path in args.runs]
    single = folders[0] / "report.html" if len(folders) == 1 else Path("report.html")
    out = write_report(
        folders,
        args.out or single,
        title=args.title,
        split=args.split,
        examples=args.examples,
        device=args.device,
    )
    print(out)
    return 0
