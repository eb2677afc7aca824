"""How the cost of all instance scores grows with instances and pixels, and its memory.

    python benchmarks/metrics_growth.py [--json OUT] [--plot OUT.png] [--volume 400]

One thread. Squares in a grid, a third of their width apart; the prediction is the truth shifted by
a pixel. Memory is the largest resident set of a process of its own that scores a volume of
`--volume` voxels along each side with one million ids.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
import peers
import torch
from timing import environment

from rlseg.metrics import Settings, overlap, score_image


def grid(side: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(prediction, truth) int32 [side, side] with about `count` squares."""
    per_side = max(1, round(count**0.5))
    cell = max(2, side // per_side)
    axis = np.arange(side)
    number, place = axis // cell, axis % cell
    inside = (place < max(1, 2 * cell // 3)) & (number < per_side)
    ids = 1 + number[:, None] * per_side + number[None]
    true = np.where(inside[:, None] & inside[None], ids, 0).astype(np.int32)
    return np.roll(true, (1, 1), (0, 1)), true


def median_ms(function: Any, repeats: int = 5) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return round(1e3 * sorted(times)[len(times) // 2], 3)


def row(side: int, count: int, with_peer: bool) -> dict[str, Any]:
    pred, true = grid(side, count)
    table = overlap(pred, true)
    found = {
        "side": side,
        "pixels": side * side,
        "instances": table.true_instances,
        "pairs": len(table.count),
        "overlap_ms": median_ms(lambda: overlap(pred, true)),
        "all_scores_ms": median_ms(lambda: score_image(overlap(pred, true), Settings(), name="")),
        "reading_ms": median_ms(lambda: (pred.max(), true.max())),
    }
    if with_peer and peers.available("stardist"):
        found["stardist_ms"] = median_ms(lambda: peers.stardist_rows([(pred, true)]), 3)
    return found


def memory(side: int) -> dict[str, Any]:
    """Peak memory of scoring a volume of one million ids, in a fresh process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", str(side)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_mib() -> float:
    """Largest resident set of this process; `getrusage` would count the one that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(side: int) -> dict[str, Any]:
    cell = side // 100
    axis = np.minimum(np.arange(side) // cell, 99).astype(np.int32)
    pred, true = np.empty((2, side, side, side), dtype=np.int32)
    for z in range(side):  # plane by plane: making the maps must not be the peak
        true[z] = 1 + (axis[z] * 100 + axis[:, None]) * 100 + axis[None]
        pred[z] = np.roll(true[z], 1, axis=1)
    maps = (true.nbytes + pred.nbytes) / 2**20
    before = peak_mib()
    start = time.perf_counter()
    table = overlap(pred, true)
    score_image(table, Settings(), name="")
    seconds = time.perf_counter() - start
    peak = peak_mib()
    return {
        "voxels": true.size,
        "instances": table.true_instances,
        "pairs": len(table.count),
        "maps_mib": round(maps),
        "before_mib": round(before),
        "peak_mib": round(peak),
        "seconds": round(seconds, 2),
        "table_of_all_pairs_mib": round(8 * table.true_instances * table.pred_instances / 2**20),
    }


def plot(by_instances: list[dict[str, Any]], by_pixels: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    series = (
        ("stardist_ms", "stardist, 10 thresholds", "tab:gray"),
        ("all_scores_ms", "rlseg, every instance score", "tab:blue"),
        ("overlap_ms", "rlseg, overlap table alone", "tab:cyan"),
        ("reading_ms", "floor: reading both maps", "black"),
    )
    for axis, rows, x, title in (
        (axes[0], by_instances, "instances", "1000 x 1000 pixels"),
        (axes[1], by_pixels, "pixels", "about 100 instances"),
    ):
        for key, label, color in series:
            points = [(r[x], r[key]) for r in rows if key in r]
            if points:
                style = "--" if key == "reading_ms" else "-"
                axis.loglog(*zip(*points, strict=True), "o" + style, color=color, label=label, ms=3)
        axis.set(xlabel=x, title=title)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds per image")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--volume", type=int, default=400, help="voxels along a side (400)")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    by_instances = [row(1000, n, n <= 10_000) for n in (10, 30, 100, 300, 1000, 3000, 10_000)]
    by_pixels = [row(side, 100, True) for side in (128, 256, 512, 1024, 2048, 4096)]
    result = {
        **environment(["numpy", "torch", "stardist"]),
        "by_instances": by_instances,
        "by_pixels": by_pixels,
        "memory": memory(args.volume),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    if args.plot:
        plot(by_instances, by_pixels, args.plot)


if __name__ == "__main__":
    main()
