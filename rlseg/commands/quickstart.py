"""`rlseg quickstart`: generated scenes, training, scores and a report in minutes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rlseg.commands import natural, positive_float


def add_parser(subparsers: Any) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "quickstart",
        help="train on generated scenes, score and report, in minutes on a laptop",
        description="Generates scenes of touching cells, trains ColorRL on them, scores it beside "
        "two classical baselines on unseen scenes, and writes a run folder with table.json and "
        "report.html. Needs no data, no download and no GPU.",
        epilog="examples:\n  rlseg quickstart\n"
        "  rlseg quickstart --minutes 30 --seed 1 --out runs/long",
    )
    parser.add_argument(
        "--minutes", metavar="M", type=positive_float, default=4.0, help="of training (4)"
    )
    parser.add_argument("--seed", metavar="S", type=natural, default=0, help="seed (0)")
    parser.add_argument(
        "--out", metavar="RUN", type=Path, default=Path("runs/quickstart"), help="run folder"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<i> (auto)")


def run(args: argparse.Namespace) -> int:
    """Runs the quickstart."""
    from rlseg import quickstart

    args.crash_folder = args.out
    code: int = quickstart.run(
        minutes=args.minutes, seed=args.seed, out=args.out, device=args.device, quiet=args.quiet
    )
    return code
