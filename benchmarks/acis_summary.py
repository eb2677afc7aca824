"""Tables of `acis_arms.py`: arms over seeds, floors, paired differences to BL-Trunc, a chart.

    python benchmarks/acis_summary.py ROWS.json ... [--out JSON] [--png PNG]

Interval of a difference: first means over the test images of each seed, then Student's t over the
seeds; and, seeds fixed, a bootstrap over images, 10 000 times.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

REFERENCE = "bl_trunc"


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def table(rows: list[dict]) -> list[str]:
    lines = [
        "| arm | seeds | updates (actor's) | SBD | \\|DiC\\| | Dice\\* | duplicates | area ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        counted = [row["true_count"] for row in mine]
        updates = f"{statistics.mean(r['updates'] for r in mine):.0f}"
        updates += f" ({statistics.mean(r['actor_updates'] for r in mine):.0f})"
        cells = [arm, str(len(mine)), updates]
        cells += [spread([row[key] for row in mine]) for key in ("sbd", "abs_dic")]
        cells += [spread([c[k] for c in counted]) for k in ("dice", "duplicates", "area_ratio")]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def blocked(rows: list[dict]) -> list[str]:
    lines = ["| arm | both: Dice\\* / \\|DiC\\| | canvas only | LSTM only |", "|---|---|---|---|"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm and "lstm_only" in row]
        if not mine:
            continue
        cells = [arm]
        both = [{"dice": r["true_count"]["dice"], "abs_dic": r["abs_dic"]} for r in mine]
        for group in (both, [r["mask_only"] for r in mine], [r["lstm_only"] for r in mine]):
            dice = statistics.mean(one["dice"] for one in group)
            dic = statistics.mean(one["abs_dic"] for one in group)
            cells.append(f"{dice:.3f} / {dic:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def difference(rows: list[dict], arm: str) -> dict:
    """SBD of an arm minus that of BL-Trunc, paired by seed and image."""
    known = {(row["arm"], row["seed"]): np.array(row["sbd_per_image"]) for row in rows}
    seeds = sorted(s for a, s in known if a == arm and (REFERENCE, s) in known)
    pairs = np.stack([known[arm, s] - known[REFERENCE, s] for s in seeds])
    means = pairs.mean(axis=1)
    found = {"arm": arm, "seeds": seeds, "difference": round(float(means.mean()), 4)}
    if len(seeds) > 1:
        half = student.ppf(0.975, len(seeds) - 1) * means.std(ddof=1) / len(seeds) ** 0.5
        found["t_interval"] = [round(float(means.mean() + s * half), 4) for s in (-1, 1)]
    drawn = np.random.default_rng(0).integers(pairs.shape[1], size=(10_000, pairs.shape[1]))
    boot = pairs.mean(axis=0)[drawn].mean(axis=1)
    found["image_interval"] = [round(float(q), 4) for q in np.quantile(boot, [0.025, 0.975])]
    return found


def draw(rows: list[dict], path: Path) -> None:
    from rlseg.figures import lines

    groups: dict[str, list] = {}
    for row in rows:
        line = ([p["seconds"] for p in row["curve"]], [p["eval/sbd"] for p in row["curve"]])
        groups.setdefault(row["arm"], []).append(line)
    path.write_bytes(lines(groups, "CPU seconds", "validation SBD, true counts"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--command", action="append", default=[], help="kept with the rows")
    parser.add_argument("--commit", default="", help="kept with the rows")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--png", type=Path)
    args = parser.parse_args()
    rows = [row for file in args.files for row in json.loads(file.read_text())["rows"]]
    print("\n".join(table(rows)), end="\n\n")
    print("\n".join(blocked(rows)), end="\n\n")
    others = dict.fromkeys(row["arm"] for row in rows if row["arm"] != REFERENCE)
    differences = [difference(rows, arm) for arm in others]
    for one in differences:
        print(one)
    floors = {row["seed"]: row["floors"] for row in rows}
    for key in next(iter(floors.values())):
        print(key, [round(found.get(key, float("nan")), 3) for found in floors.values()])
    if args.out is not None:
        record = {
            "command": args.command,
            "commit": args.commit,
            "hardware": f"{platform.machine()}, one thread",
            "torch": torch.__version__,
            "differences_to_bl_trunc": differences,
            "rows": rows,
        }
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    if args.png is not None:
        draw(rows, args.png)


if __name__ == "__main__":
    main()
