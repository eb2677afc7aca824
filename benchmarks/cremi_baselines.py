"""Classical baselines on CREMI slices, tuned on the validation split, scored on the test split.

    python benchmarks/cremi_baselines.py --root DIR [--json OUT]

A local threshold tells membrane from inside; pieces are connected components, or a watershed of
the distance transform. Labels then grow over the membrane, as for every other method in the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from skimage.filters import gaussian, threshold_local
from skimage.segmentation import expand_labels

from rlseg.baselines.classical import ClassicalConfig, components, split_by_distance
from rlseg.data import open_dataset
from rlseg.evaluate import evaluate_predictor
from rlseg.metrics import overlap, symmetric_best_dice
from rlseg.metrics.image_scores import Settings
from rlseg.prediction import Prediction

BLOCKS, SHIFTS = (31, 51, 81), (-0.08, -0.04, 0.0)
MIN_SIZES, GROW = (20, 50, 100), 6
MARKERS, SMOOTHINGS = (4, 8, 12, 20), (1.0, 2.0)


class Classical:
    """Predictor with fixed settings."""

    task, ndim, in_channels, stride, size = "instance", 2, 1, 1, (256, 256)

    def __init__(self, method, block, shift, config):
        self.method, self.block, self.shift, self.config = method, block, shift, config

    def __call__(self, image, *, trace=False):
        maps = [self.one(np.asarray(picture[0])) for picture in image]
        return Prediction(labels=torch.from_numpy(np.stack(maps)))

    def one(self, image):
        smooth = gaussian(image, 1.0)
        inside = smooth > threshold_local(smooth, self.block) + self.shift
        return expand_labels(self.method(inside, self.config), GROW).astype(np.int64)


def candidates(method):
    geometry = itertools.product(MARKERS, SMOOTHINGS) if method is split_by_distance else [(4, 1.0)]
    for (distance, smoothing), block, shift, size in itertools.product(
        list(geometry), BLOCKS, SHIFTS, MIN_SIZES
    ):
        config = ClassicalConfig(marker_distance=distance, smoothing=smoothing, min_size=size)
        yield Classical(method, block, shift, config)


def tuned(method, samples):
    """The candidate with the highest mean SBD on the samples."""

    def score(predictor):
        return np.mean(
            [
                symmetric_best_dice(
                    overlap(predictor.one(sample.image[0].numpy()), sample.labels, sample.valid)
                )
                for sample in samples
            ]
        )

    return max(candidates(method), key=score)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="CREMI folder")
    parser.add_argument("--json", type=Path, help="also write the scores there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = open_dataset("cremi", args.root)
    valid = [data.split("valid")[k] for k in range(len(data.split("valid")))]
    keys = ("sbd", "abs_dic", "arand_skimage", "arand_cremi", "voi_split_cremi", "voi_merge_cremi")
    rows = {}
    for name, method in (("threshold + components", components), ("watershed", split_by_distance)):
        best = tuned(method, valid)
        settings = replace(Settings(), all_conventions=True)
        scores = evaluate_predictor(best, data.split("test"), settings=settings)
        rows[name] = {key: scores[key] for key in (*keys, "aji", "ap50")}
        rows[name]["settings"] = {
            "block": best.block,
            "shift": best.shift,
            "marker_distance": best.config.marker_distance,
            "smoothing": best.config.smoothing,
            "min_size": best.config.min_size,
            "grow": GROW,
        }
    print(json.dumps(rows, indent=2))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
