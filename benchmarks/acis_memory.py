"""Time and peak memory of one actor update of BL, BL-Trunc and AC against the episode length.

    python benchmarks/acis_memory.py [--json OUT] [--png OUT]

Every point is a process of its own, on one thread; memory is the largest resident size during
three updates, above that of the same process before the first one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

LENGTHS = (5, 10, 15, 20)
ARMS = {
    "BL": {"objective": "bl"},
    "BL-Trunc": {"objective": "bl_trunc"},
    "BL-Trunc, fast": {"objective": "bl_trunc", "memory": "fast"},
    "AC": {"objective": "actor_critic"},
    "AC, fast": {"objective": "actor_critic", "memory": "fast"},
}
SIDE = 96
BATCH = 8
UPDATES = 3


def one(arm: str, length: int) -> dict:
    """Seconds per actor update, and MiB above the size before the first one."""
    import torch

    torch.set_num_threads(1)
    from rlseg.acis import Config, make_actor, make_decoder
    from rlseg.acis.actor_critic import EpisodeLearner
    from rlseg.acis.hint_networks import hint_network
    from rlseg.acis.hints import Hints
    from rlseg.config import build
    from rlseg.data.samples import InstanceBatch
    from rlseg.train.runtime import make_runtime

    phase = {"steps": 10, "length": length, "learning_rate": 1e-4, "kl_weight": 0.0}
    critic = {"warm_up": 0, "features": [16, 32, 48, 64, 96], "hidden": [128, 128, 64]}
    config = build(
        Config,
        {
            "size": [SIDE, SIDE],
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
            "max_steps": 30,
            "hints": {"network": "unet", "features": [8, 16, 24]},
            "sequence": {**ARMS[arm], "phases": [phase], "critic": critic},
        },
        "memory",
    )
    runtime = make_runtime("cpu", "fp32", 0, 1)
    learner = EpisodeLearner(
        config,
        config.sequence,
        3,
        actor=make_actor(config, 3),
        decoder=make_decoder(config, 3),
        hints=Hints(hint_network(config, 3), config, runtime),
        runtime=runtime,
        name="memory",
    )
    # 25 squares: every episode is as long as the phase allows.
    grid = torch.arange(25).view(5, 5) + 1
    labels = torch.zeros(SIDE, SIDE, dtype=torch.int64)
    block = SIDE // 5
    labels[: block * 5, : block * 5] = grid.repeat_interleave(block, 0).repeat_interleave(block, 1)
    batch = InstanceBatch(
        image=torch.rand(BATCH, 12, SIDE, SIDE, generator=torch.Generator().manual_seed(0)),
        labels=labels.expand(BATCH, -1, -1).contiguous(),
        valid=torch.ones(BATCH, SIDE, SIDE, dtype=torch.bool),
        names=tuple(str(b) for b in range(BATCH)),
    )
    scene = learner.scene(batch, config.sequence.phases[0])
    noise = learner.noise(scene, length)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(UPDATES):
        start = time.perf_counter()
        learner.actor_update(scene, noise, config.sequence.phases[0])
        times.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "arm": arm,
        "length": length,
        "seconds": round(min(times), 3),
        "mib": round((after - before) / 1024, 1),
    }


def draw(rows: list[dict], path: Path) -> None:
    from rlseg.figures import lines

    found = {}
    for row in rows:
        found.setdefault(row["arm"], []).append((row["length"], row["mib"]))
    groups = {arm: [tuple(zip(*points, strict=True))] for arm, points in found.items()}
    path.write_bytes(lines(groups, "episode length T", "MiB of one actor update"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    parser.add_argument("--point", nargs=2, metavar=("ARM", "T"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        print(json.dumps(one(args.point[0], int(args.point[1]))))
        return
    rows = []
    for arm in ARMS:
        for length in LENGTHS:
            command = [sys.executable, __file__, "--point", arm, str(length)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows.append(json.loads(out.splitlines()[-1]))
            print(rows[-1], flush=True)
    if args.json is not None:
        args.json.write_text(
            json.dumps({"side": SIDE, "batch": BATCH, "rows": rows}, indent=1) + "\n"
        )
    if args.png is not None:
        draw(rows, args.png)


if __name__ == "__main__":
    main()
