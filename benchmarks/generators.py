"""How fast the generators draw, and how hard their scenes are for methods that learn nothing.

    OPENBLAS_NUM_THREADS=1 python benchmarks/generators.py [--json OUT] [--only streets]

Baselines are tuned on the `tune` split of the development seed and scored on the `test` split of a
report seed. For streets, a small network is trained for a set number of steps, and its entropy is
read off inside hedges, on rare classes and elsewhere.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rlseg.baselines.classical import (
    components,
    equal_sectors,
    median_count,
    segment,
    split_by_distance,
    tune,
)
from rlseg.data import dataset_module
from rlseg.metrics import overlap, symmetric_best_dice

DEVELOPMENT_SEED, REPORT_SEED = 0, 1001
FAST = {
    "cells": {"size": 128},
    "leaves": {"size": 128},
    "streets": {"height": 128, "width": 128},
    "volumes": {},
}
REGION = 16  # side of a region of active learning, pixels
TOP = 0.05  # share of regions that a selector takes
STEPS, BATCH, RATE = 600, 8, 4e-3


def dataset(name, split, **options):
    module = dataset_module(name)
    return module.DATASET(split, module.Options(**options))


def rates(repeats):
    """Scenes per second of one core (CPU time), median and best of several short runs."""
    found = {}
    for name, options in FAST.items():
        scenes, count = dataset(name, "train", **options), 4 if name == "volumes" else 40
        scenes[0]
        runs = []
        for _ in range(repeats):
            start = time.process_time()
            for index in range(count):
                scenes[index]
            runs.append(count / (time.process_time() - start))
        found[name] = {
            "shape": list(scenes[0].image.shape),
            "per_second": round(statistics.median(runs), 1),
            "best": round(max(runs), 1),
        }
    return found


def floors(name, tuned_on, scored_on, **options):
    """Mean SBD of methods that learn nothing, and |DiC| of the constant count."""
    known = dataset(name, "tune", seed=DEVELOPMENT_SEED, tune=tuned_on, **options)
    known = [known[k] for k in range(tuned_on)]
    fresh = dataset(name, "test", seed=REPORT_SEED, test=scored_on, **options)
    fresh = [fresh[k] for k in range(scored_on)]
    middle = median_count(known)

    def score(find):
        values = [symmetric_best_dice(overlap(find(s), s.labels)) for s in fresh]
        error = np.std(values) / np.sqrt(len(values))
        return {"sbd": round(float(np.mean(values)), 3), "error": round(float(error), 3)}

    def sectors(count):
        return score(lambda s: equal_sectors(s.labels.numpy() > 0, count))

    rows = {"one blob of the true foreground": sectors(1)}
    rows["median count of equal sectors"] = {"count": middle, **sectors(middle)}
    by_count = {k: sectors(k)["sbd"] for k in range(max(middle - 4, 2), middle + 5)}
    best = max(by_count, key=by_count.__getitem__)
    rows["best count of equal sectors"] = {"count": best, "sbd": by_count[best]}
    for title, method, true in (
        ("threshold + components", components, False),
        ("threshold + watershed", split_by_distance, False),
        ("true foreground + components", components, True),
        ("true foreground + watershed", split_by_distance, True),
    ):
        shifts = (0.0,) if true else (-0.1, -0.05, 0.0, 0.05)
        config = tune(
            known, method, shifts=shifts, marker_distances=(2, 3, 4, 6, 8), min_sizes=(0, 20, 50),
            smoothings=(0.5, 1.0, 2.0), true_foreground=true,
        )  # fmt: skip
        rows[title] = score(lambda s, m=method, c=config, t=true: segment(s, m, c, t))
    counts = np.array([int(s.labels.max()) for s in fresh])
    return {
        "scenes": scored_on,
        "instances": {
            "median": int(np.median(counts)),
            "range": [int(counts.min()), int(counts.max())],
        },
        "foreground": round(float(np.mean([(s.labels > 0).float().mean() for s in fresh])), 3),
        "constant count |DiC|": round(float(np.abs(counts - middle).mean()), 2),
        "floors": rows,
    }


def touching(name, count, **options):
    """Share of instances that touch another one, by a side of a pixel, and pairs per scene."""
    scenes = dataset(name, "test", seed=REPORT_SEED, test=count, **options)
    instances = together = pairs = 0
    for index in range(count):
        labels = scenes[index].labels.numpy()
        found = set()
        for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            edge = (a != b) & (a > 0) & (b > 0)
            found |= {
                tuple(sorted(pair)) for pair in zip(a[edge].tolist(), b[edge].tolist(), strict=True)
            }
        instances += int(labels.max())
        together += len({number for pair in found for number in pair})
        pairs += len(found)
    return {
        "touch another one": round(together / instances, 3),
        "touching pairs per scene": round(pairs / count, 1),
    }


def small_network(classes):
    """Half the resolution inside, 50 000 weights: a few seconds of training on one core."""

    def block(before, after, stride=1, dilation=1):
        convolution = nn.Conv2d(
            before, after, 3, stride=stride, padding=dilation, dilation=dilation
        )
        return [convolution, nn.GroupNorm(4, after), nn.ReLU()]

    return nn.Sequential(
        *block(3, 32, stride=2), *block(32, 32), *block(32, 32, dilation=2),
        *block(32, 32, dilation=4), *block(32, 32, dilation=8), *block(32, 32),
        nn.Conv2d(32, 4 * classes, 1), nn.PixelShuffle(2),
    )  # fmt: skip


def stack(scenes):
    samples = [scenes[k] for k in range(len(scenes))]
    hedges = torch.stack([scenes.hedges(k) for k in range(len(scenes))])
    return (
        torch.stack([s.image for s in samples]),
        torch.stack([s.classes for s in samples]),
        hedges,
    )


def trained(image, truth, classes):
    torch.manual_seed(0)
    network = small_network(classes)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    draw = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        pick = torch.randint(0, len(image), (BATCH,), generator=draw)
        loss = nn.functional.cross_entropy(network(image[pick]), truth[pick], ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def regions(values):
    """Mean over regions of [B, H, W] -> [B * regions]."""
    return nn.functional.avg_pool2d(values[:, None].float(), REGION).flatten()


def mean_iou(truth, found, classes):
    known = truth != 255
    table = torch.bincount(truth[known] * classes + found[known], minlength=classes**2)
    table = table.view(classes, classes).double()
    union = table.sum(0) + table.sum(1) - table.diagonal()
    return table.diagonal() / union


def chosen_regions(entropy, truth, hedge, rare, weight):
    """What the regions that a selector takes consist of."""
    random = torch.rand(len(regions(hedge)), generator=torch.Generator().manual_seed(0))
    values = {
        "entropy": regions(entropy),
        "oracle (inverse frequency of the true classes)": regions(weight[truth]),
        "random": random,
    }
    found = {}
    for name, value in values.items():
        best = value.topk(int(TOP * len(value))).indices
        found[name] = {
            "hedge pixels": rounded(regions(hedge)[best]),
            "rare pixels": rounded(regions(rare)[best]),
        }
    return found


def rounded(values):
    return round(float(values.double().mean()), 4)


def streets():
    module = dataset_module("streets")
    names, rare_names = module.DATASET.classes, module.DATASET.rare
    train = stack(dataset("streets", "train", seed=DEVELOPMENT_SEED))
    image, truth, hedge = stack(dataset("streets", "test", seed=REPORT_SEED))
    shares = {name: rounded(truth == k) for k, name in enumerate(names)}
    tree = names.index("tree")
    rare = torch.stack([truth == names.index(name) for name in rare_names]).any(0)
    ideal = truth.where(~hedge, torch.full_like(truth, tree))
    start = time.perf_counter()
    network = trained(train[0], train[1], len(names))
    seconds = time.perf_counter() - start
    with torch.no_grad():
        chance = torch.cat([network(part).softmax(1) for part in image.split(20)])
    entropy = -(chance * chance.clamp_min(1e-12).log()).sum(1)
    found = chance.argmax(1)
    weight = torch.zeros(256)
    weight[: len(names)] = 1 / torch.tensor([shares[name] for name in names]).clamp_min(1e-4)
    kinds = {
        "at least half hedge": regions(hedge) >= 0.5,
        "rare pixels and no hedge": (regions(rare) > 0) & (regions(hedge) == 0),
        "neither": (regions(rare) == 0) & (regions(hedge) == 0),
    }
    iou = mean_iou(truth, found, len(names))
    return {
        "scenes": len(truth),
        "class shares": shares,
        "ignored": rounded(truth == 255),
        "hedge pixels": rounded(hedge),
        "tree among hedge pixels": rounded(truth[hedge] == tree),
        "mean IoU of a perfect guess": rounded(mean_iou(truth, ideal, len(names))),
        "small network": {
            "training": f"{STEPS} steps of {BATCH} scenes of `train`, {seconds:.0f} s",
            "mean IoU": rounded(iou),
            "IoU": {name: round(float(v), 3) for name, v in zip(names, iou, strict=True)},
            "error in hedges": rounded((found != truth)[hedge]),
            "mean entropy of pixels (nats)": {
                "hedges": rounded(entropy[hedge]),
                "rare classes": rounded(entropy[rare]),
                "elsewhere": rounded(entropy[~hedge & ~rare]),
            },
            f"mean entropy of {REGION} px regions (nats)": {
                kind: rounded(regions(entropy)[mask]) for kind, mask in kinds.items()
            },
            f"what the top {TOP:.0%} of regions consist of, chosen by": chosen_regions(
                entropy, truth, hedge, rare, weight
            ),
        },
    }


MEASURES = {
    "rates": lambda: rates(7),
    "cells": lambda: {**floors("cells", 64, 256), **touching("cells", 256)},
    "leaves": lambda: floors("leaves", 64, 256),
    "leaves at 128": lambda: floors("leaves", 32, 64, size=128),
    "volumes": lambda: floors("volumes", 6, 16),
    "streets": streets,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = args.json is not None and args.json.exists()
    report = json.loads(args.json.read_text()) if kept else {}
    for name in args.only:
        report[name] = MEASURES[name]()
        print(name, json.dumps(report[name], indent=2), flush=True)
        if args.json:  # each as soon as it is known; what was not measured again stays
            args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
