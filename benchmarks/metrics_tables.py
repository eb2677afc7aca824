"""Writes the tables of docs/metrics.md from benchmarks/measured/metric*.json.

python benchmarks/metrics_tables.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
MEASURED = REPOSITORY / "benchmarks" / "measured"
PAGE = REPOSITORY / "docs" / "metrics.md"


def load(name: str) -> dict[str, Any]:
    return json.loads((MEASURED / f"{name}.json").read_text(encoding="utf-8"))


def agreement() -> str:
    lines = [
        "| score | convention | reference | cases | left out | largest difference |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in load("metric_agreement")["rows"]:
        gap = row["largest_difference"]
        lines.append(
            f"| {row['score']} | {row['convention']} | {row['reference']} | {row['cases']} "
            f"| {row.get('edge_cases_left_out', 0)} | {'0' if gap == 0 else f'{gap:.1e}'} |"
        )
    return "\n".join(lines)


def ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def speed() -> str:
    result = load("metrics")
    lines = [
        "| | task | ours, ms | peer | peer, ms | ratio (min to max) | aim | times the floor |",
        "|---|---|---:|---|---:|---|---|---|",
    ]
    for task in result["tasks"]:
        aims = task.get("targets", {})
        fastest = min(task["peers"], key=lambda name: task["peers"][name]["ms"])
        floor = f"{task['times_floor']} ({task['floor']})" if "floor" in task else ""
        first = [task["id"], task["task"], ms(task["ours_ms"])]
        for name, peer in task["peers"].items():
            aim = aims.get(name) or (aims.get("fastest") if name == fastest else None)
            word = ""
            if aim:
                met = "" if peer["ratio"] >= aim["at_least"] else ", **missed**"
                word = f">= {aim['at_least']:g}{met}"
            spread = f"{peer['ratio']:g} ({peer['ratio_min']:g} to {peer['ratio_max']:g})"
            cells = [*first, name, ms(peer["ms"]), spread, word, floor]
            lines.append("| " + " | ".join(cells) + " |")
            first, floor = ["", "", ""], ""
        for name, value in task.get("beside_ms", {}).items():
            lines.append(f"| | *{name}* | {ms(value)} | | | | | |")
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items() if v)
    return "\n".join([*lines, "", f"{result['processor']}, one thread; {versions}."])


def growth() -> str:
    result = load("metrics_growth")
    memory = result["memory"]
    return (
        f"A volume of {memory['voxels'] / 1e6:.0f} million voxels with "
        f"{memory['instances']:,} ids on each side ({memory['pairs']:,} touching pairs): "
        f"{memory['peak_mib'] - memory['before_mib']:,} MiB beside the {memory['maps_mib']:,} MiB "
        f"of the two maps, {memory['seconds']:g} s for every score. A table of all pairs would "
        f"take {memory['table_of_all_pairs_mib'] / 2**20:.1f} TiB."
    )


PARTS = {"agreement": agreement, "speed": speed, "growth": growth}


def rendered(text: str) -> str:
    """The page with its tables made anew."""
    for name, make in PARTS.items():
        block = f"<!-- {name} -->\n{make()}\n<!-- end of {name} -->"
        pattern = rf"<!-- {name} -->\n.*?<!-- end of {name} -->"
        text, found = re.subn(pattern, lambda _, b=block: b, text, flags=re.DOTALL)
        assert found == 1, f"no place for {name}"
    return text


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
