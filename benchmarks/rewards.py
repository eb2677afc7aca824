"""Reward step of ColorRL: tables against the per-instance loop, and cost against instances.

    python benchmarks/rewards.py [--json OUT]

One thread. Batch of 8 label maps at 224 px (Voronoi cells separated by one pixel of background),
radii 12 and 18, T = 6. The loop is the structure of the original environment: for every instance
and radius whole-image masks and `numpy.unique` over them. Rings are made once per episode in both
and are not part of a step; their time is reported beside it. Both sides are interleaved; medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from rlseg.colorrl.config import RewardConfig
from rlseg.colorrl.environment import ColoringEnv
from rlseg.data.rings import number_instances, ring_pairs
from rlseg.data.samples import InstanceBatch

SIDE, IMAGES, STEPS = 224, 8, 6
CONFIG = RewardConfig(radii=(12, 18), subset="all", min_instance=0)


def cells(count: int, seed: int) -> np.ndarray:
    """Voronoi cells of random points, int64 [SIDE, SIDE], with background between them."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, SIDE, (count, 2))
    y, x = np.mgrid[:SIDE, :SIDE]
    nearest = (
        (y[None] - points[:, 0, None, None]) ** 2 + (x[None] - points[:, 1, None, None]) ** 2
    ).argmin(0)
    labels = nearest + 1
    edge = np.zeros_like(labels, dtype=bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    labels[edge] = 0
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def make_batch(count: int) -> InstanceBatch:
    labels = torch.from_numpy(np.stack([cells(count, seed) for seed in range(IMAGES)]))
    return InstanceBatch(
        image=torch.zeros(IMAGES, 1, SIDE, SIDE),
        labels=labels,
        valid=torch.ones_like(labels, dtype=torch.bool),
        names=tuple(map(str, range(IMAGES))),
    )


def counts_at(colors: np.ndarray, mask: np.ndarray, width: int) -> np.ndarray:
    """How often each colour occurs in the mask, by sorting, as the original does."""
    values, times = np.unique(colors[mask], return_counts=True)
    table = np.zeros(width)
    table[values] = times
    return table


def loop_step(labels, rings, old, new, config):
    """Reward float [H, W] of one image and one step t >= 1, instance by instance."""
    reward = np.zeros(labels.shape)
    reward -= config.late_background_penalty * ((labels == 0) & (old == 0) & (new != 0))
    width = int(max(old.max(), new.max())) + 1
    for u in range(1, int(labels.max()) + 1):
        own = labels == u
        size = own.sum() + 1
        inside_old, inside_new = counts_at(old, own, width), counts_at(new, own, width)
        merge = inside_new[new] / (size * STEPS) + (inside_new[new] - inside_old[old]) / size
        total = config.merge_weight * merge
        for radius in config.radii:
            ring = rings[u, radius]
            many = ring.sum() + 1
            same_old = counts_at(old, ring, width)[old]
            same_new = counts_at(new, ring, width)[new]
            split = (same_old - same_new) / many - same_new / (many * STEPS)
            total = total + config.split_weight * split
        reward += own * total
    return reward


def rings_of(batch: InstanceBatch, config: RewardConfig):
    """Per image {(u, radius): bool [H, W]}, from the exact pairs."""
    index, image_of = number_instances(batch.labels)
    first = torch.searchsorted(image_of, torch.arange(IMAGES))
    rings = [{} for _ in range(IMAGES)]
    for radius in config.radii:
        owner, pixel = ring_pairs(index, image_of, torch.arange(len(image_of)), radius)
        for u in range(len(image_of)):
            image = int(image_of[u])
            mask = np.zeros(SIDE * SIDE, dtype=bool)
            mask[(pixel[owner == u] % (SIDE * SIDE)).numpy()] = True
            rings[image][u - int(first[image]) + 1, radius] = mask.reshape(SIDE, SIDE)
    return rings


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def time_tables(batch: InstanceBatch, config: RewardConfig, repeats: int = 7):
    """Seconds per step t >= 1 and per reset, medians; pairs and pixels of one step."""
    generator = torch.Generator().manual_seed(0)
    env = ColoringEnv(config, STEPS, torch.Generator().manual_seed(0))
    bits = [torch.rand(batch.labels.shape, generator=generator) < 0.5 for _ in range(STEPS)]
    steps, resets = [], []
    for _ in range(repeats):
        resets.append(seconds(lambda: env.reset(batch)))
        env.step(bits[0])
        steps.append(seconds(lambda: [env.step(b) for b in bits[1:]]) / (STEPS - 1))
    return statistics.median(steps), statistics.median(resets), env.scene.pairs, env.scene.members


def compare(repeats: int) -> dict:
    batch = make_batch(25)
    rings = rings_of(batch, CONFIG)
    generator = torch.Generator().manual_seed(1)
    first = torch.rand(batch.labels.shape, generator=generator) < 0.9
    second = torch.rand(batch.labels.shape, generator=generator) < 0.5
    old, new = first.long(), first.long() + 2 * second.long()
    labels = batch.labels.numpy()

    def loop():
        return np.stack(
            [
                loop_step(labels[i], rings[i], old[i].numpy(), new[i].numpy(), CONFIG)
                for i in range(IMAGES)
            ]
        )

    env = ColoringEnv(CONFIG, STEPS, torch.Generator().manual_seed(0))
    env.reset(batch)
    env.step(first)
    _, reward = env.step(second)
    difference = float(np.abs(loop() - reward.numpy()).max())
    ratios, slow, fast = [], [], []
    for _ in range(repeats):
        a = seconds(loop)
        env.reset(batch)
        env.step(first)
        b = seconds(lambda: env.step(second))
        slow.append(a)
        fast.append(b)
        ratios.append(a / b)
    return {
        "largest_difference": difference,
        "loop_ms": 1e3 * statistics.median(slow),
        "tables_ms": 1e3 * statistics.median(fast),
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def scaling() -> list[dict]:
    rows = []
    subset = dataclasses.replace(CONFIG, subset="neighbors", subset_seeds=8, subset_neighbors=8)
    for count in (25, 50, 100, 200):
        batch = make_batch(count)
        row = {"instances": count}
        for name, config in (("all", CONFIG), ("subset", subset)):
            step, reset, pairs, members = time_tables(batch, config)
            cells_touched = batch.labels.numel() + pairs
            row |= {
                f"{name}_step_ms": 1e3 * step,
                f"{name}_reset_ms": 1e3 * reset,
                f"{name}_pairs": pairs,
                f"{name}_rewarded_pixels": members,
                f"{name}_ns_per_pixel_and_pair": 1e9 * step / cells_touched,
            }
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    processor = platform.processor() or platform.machine()
    result = {
        "machine": f"{processor}, {os.cpu_count()} cores, 1 thread",
        "torch": torch.__version__,
        "numpy": np.__version__,
        "loop_against_tables": compare(args.repeats),
        "scaling": scaling(),
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
