"""Test scores of ColorRL checkpoints on CREMI, whole and in tiles, minimum size from validation.

    python benchmarks/cremi_curve.py RUN ... --root DIR [--json OUT]

A RUN is a run folder or a copy of one made while it trained; its `latest` weights are scored. What
a whole image and tiles of the training size give is compared on the same weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from rlseg.colorrl import load_predictor
from rlseg.colorrl.predict import choose_min_size
from rlseg.data.whole import WholeImages
from rlseg.evaluate import evaluate_predictor
from rlseg.figures import read_scalars
from rlseg.metrics.image_scores import Settings
from rlseg.runs import open_run
from rlseg.train.runtime import make_runtime

KEYS = (
    "sbd",
    "abs_dic",
    "arand_skimage",
    "arand_cremi",
    "voi_split_cremi",
    "voi_merge_cremi",
    "aji",
    "ap50",
)


def minutes_of(run, step) -> float | None:
    """Wall-clock minutes of the run when it logged the step, as far as it did."""
    clock = [
        record["seconds"]
        for record in read_scalars(run / "scalars.jsonl")
        if record.get("stage") == "colorrl" and record["step"] <= step and "seconds" in record
    ]
    return clock[-1] / 60 if clock else None


def score(folder: Path, root: Path) -> list[dict]:
    opened = open_run(folder, checkpoint="latest")
    data = opened.open_data(root=root)
    runtime = make_runtime("cpu", "bf16", 0, 1)
    rows = []
    for inference in ("whole", "tiles"):
        config = dataclasses.replace(opened.config, inference=inference)
        predictor = load_predictor(config, opened.checkpoint, runtime)
        valid = WholeImages(data.split("valid"), 9)
        predictor.min_size, on_valid = choose_min_size(predictor, valid, config)
        settings = dataclasses.replace(Settings(), all_conventions=True)
        scores = evaluate_predictor(predictor, data.split("test"), settings=settings)
        rows.append(
            {
                "run": folder.name,
                "inference": inference,
                "step": opened.checkpoint.step,
                "minutes": minutes_of(folder, opened.checkpoint.step),
                "min_size": predictor.min_size,
                "valid_sbd": on_valid["sbd"],
                **{key: scores[key] for key in KEYS},
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--root", type=Path, required=True, help="CREMI folder")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for run in args.runs for row in score(run, args.root)]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
