"""`rlseg places convert|evaluate`: truth and scores of the Places Challenge 2017 (instances)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rlseg.commands import Ticker, natural, say

_CONVERT_EXAMPLES = (
    "  rlseg places convert ADE/ --split validation --out truth.json\n"
    "  rlseg places convert ADE/ --split validation --out official.json --first-id 0 "
    "--images-json imgCatIds.json"
)
_EVALUATE_EXAMPLES = (
    "  rlseg places evaluate --dataset-json truth.json --preds-json predictions.json\n"
    "  rlseg places evaluate --dataset-json truth.json --preds-json predictions.json "
    "--mode strict --json scores.json"
)


def add_parser(subparsers: Any) -> None:
    """Adds `places` and its two actions."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "places",
        help="truth and scores of the Places Challenge 2017",
        description="Truth files and scores of the Places Challenge 2017, scene instance "
        "segmentation.",
        epilog="examples:\n"
        "  rlseg places convert ADE/ --split validation --out truth.json\n"
        "  rlseg places evaluate --dataset-json truth.json --preds-json predictions.json",
        formatter_class=plain,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_convert(
        actions.add_parser(
            "convert",
            help="instance images to one COCO-style truth file",
            description="Reads <DIR>/annotations_instance/<split>/*.png (red: category, green: "
            "instance) and writes one COCO data set file.",
            epilog=f"examples:\n{_CONVERT_EXAMPLES}",
            formatter_class=plain,
        )
    )
    _add_evaluate(
        actions.add_parser(
            "evaluate",
            help="the challenge's 12 numbers, and AP per category",
            description="Scores a submission as the challenge does: average precision of scored "
            "masks, at most 255 per image. A malformed submission gets a list of reasons and no "
            "score.",
            epilog=f"examples:\n{_EVALUATE_EXAMPLES}",
            formatter_class=plain,
        )
    )


def _add_convert(parser: Any) -> None:
    parser.add_argument(
        "root", metavar="DIR", type=Path, help="folder that holds annotations_instance/"
    )
    parser.add_argument(
        "--split",
        metavar="NAME",
        required=True,
        help="training or validation (the challenge publishes no masks of its test images)",
    )
    parser.add_argument(
        "--out", metavar="JSON", type=Path, required=True, help="the truth file to write"
    )
    parser.add_argument(
        "--first-id",
        metavar="N",
        type=natural,
        default=1,
        help="id of the first annotation; 0 as the official script, whose scores lose that one (1)",
    )
    parser.add_argument(
        "--images-json",
        metavar="FILE",
        type=Path,
        help="imgCatIds.json: image ids and categories; without it ids follow from file numbers",
    )


def _add_evaluate(parser: Any) -> None:
    parser.add_argument(
        "--dataset-json", metavar="D", type=Path, required=True, help="COCO-style truth"
    )
    parser.add_argument(
        "--preds-json", metavar="P", type=Path, required=True, help="list of scored masks"
    )
    parser.add_argument("--json", metavar="OUT", type=Path, help="write all results as JSON")
    parser.add_argument(
        "--mode",
        choices=("official", "strict"),
        default="official",
        help="official: as the challenge's code, at most 255 masks per image and category, unknown "
        "categories dropped; strict: as its rules, the 255 best per image over all categories, "
        "unknown categories refused (official)",
    )
    parser.add_argument(
        "--compat",
        action="store_true",
        help="lose the truth with annotation id 0, as the original code does",
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "own", "hotcoco"),
        default="auto",
        help="who computes the same numbers: own code, hotcoco (extra `fast`), or auto: own code, "
        "the faster one here (auto)",
    )


def run(args: argparse.Namespace) -> int:
    """Exit code of the action."""
    from rlseg.train.ranks import rank_and_size

    if rank_and_size()[0] > 0:
        return 0  # one file, one table: the first process of torchrun does the work
    return {"convert": _convert, "evaluate": _evaluate}[args.action](args)


def _convert(args: argparse.Namespace) -> int:
    from rlseg.commands.coco_scores import check_output
    from rlseg.data.places_convert import convert_annotations
    from rlseg.files import write_whole

    check_output(args.out)
    ticker: list[Ticker] = []

    def progress(done: int, total: int) -> None:
        if not ticker:
            ticker.append(Ticker(args, total, "convert"))
        ticker[0](done)

    truth = convert_annotations(
        args.root,
        args.split,
        first_id=args.first_id,
        images_json=args.images_json,
        progress=progress,
        note=lambda text: say(args, f"note: {text}"),
    )
    write_whole(args.out, json.dumps(truth, allow_nan=False) + "\n")
    say(args, f"{len(truth['images'])} images, {len(truth['annotations'])} instances")
    print(args.out)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from rlseg.commands.coco_scores import check_output, report, scored
    from rlseg.evaluate_coco import evaluate_places

    check_output(args.json)
    result = scored(
        args,
        lambda progress: evaluate_places(
            args.dataset_json,
            args.preds_json,
            mode=args.mode,
            compat=args.compat,
            backend=args.backend,
            progress=progress,
        ),
    )
    report(result | {"pred": str(args.preds_json), "true": str(args.dataset_json)}, args)
    return 0
