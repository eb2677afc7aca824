"""`rlseg data convert`: folders of label maps, COCO files, the layout of CVPPP, one to another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rlseg.commands import Ticker, data_settings, natural, say

FORMATS = ("folder", "coco", "cvppp")
EXAMPLES = (
    "  rlseg data convert mydata mydata-coco --from folder --to coco --category leaf\n"
    "  rlseg data convert exported mydata --from coco --to folder --overlaps later"
)


def add_arguments(parser: Any) -> None:
    """Adds the arguments of `convert`."""
    parser.add_argument("source", metavar="SRC", type=Path, help="folder of the data set to read")
    parser.add_argument("target", metavar="DST", type=Path, help="folder to write; absent or empty")
    parser.add_argument(
        "--from", dest="source_format", choices=FORMATS, required=True, help="what SRC is"
    )
    parser.add_argument(
        "--to", dest="target_format", choices=FORMATS, required=True, help="what DST becomes"
    )
    parser.add_argument(
        "--overlaps",
        choices=("refuse", "later"),
        default="refuse",
        help="COCO masks that overlap: an error, or the later one takes the pixels (refuse)",
    )
    parser.add_argument(
        "--ignore-id",
        metavar="N",
        type=natural,
        help="id of pixels without a truth in the label maps of a folder; crowd regions in COCO",
    )
    parser.add_argument(
        "--renumber", action="store_true", help="number the instances of each image 1 to N"
    )
    parser.add_argument(
        "--category", metavar="NAME", help="category in the COCO file that is written (instance)"
    )
    parser.add_argument(
        "--data",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="setting of the data set SRC, for example label_suffix=_mask; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Exit code 0, or an error is raised."""
    from rlseg.data.convert import convert

    ticker: Ticker | None = None

    def progress(done: int, total: int) -> None:
        nonlocal ticker
        ticker = ticker or Ticker(args, total, "convert")
        ticker(done)

    done = convert(
        args.source,
        args.target,
        source_format=args.source_format,
        target_format=args.target_format,
        settings=data_settings({}, args.data),
        overlaps=args.overlaps,
        ignore_id=args.ignore_id,
        renumber=args.renumber,
        category=args.category,
        progress=progress,
    )
    for note in done.notes:
        say(args, f"note: {note}")
    print(
        f"{args.target} ({args.target_format}): {done.images} images, {done.instances} instances "
        f"of {args.source} ({args.source_format})"
    )
    return 0
