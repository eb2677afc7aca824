"""Interleaved timing: ours and every peer in turn, in one process and on one thread."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

LONG_SECONDS = 5.0
"""A peer slower than this runs fewer times."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One line of the table."""

    key: str
    title: str
    ours: Callable[[], Any]
    peers: Mapping[str, Callable[[], Any]]
    beside: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    """Other things worth timing in the same run; no peers, no targets."""
    floor: Callable[[], Any] | None = None
    """What any program must do at least, such as reading the input once."""
    floor_title: str = ""
    agreement: Mapping[str, Callable[[Any, Any], float]] = field(default_factory=dict)
    """Peer -> largest difference between (our result, its result)."""
    tolerance: Mapping[str, float] = field(default_factory=dict)
    """Peer -> difference allowed; 1e-9 where none is given."""
    target: Mapping[str, float] = field(default_factory=dict)
    """Peer (or "fastest") -> how many times faster we want to be."""


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(task: Task, repeats: int = 5) -> dict[str, Any]:
    """Agreement first, which also warms up; then all sides in turn."""
    mine = task.ours()
    times: dict[str, list[float]] = {"ours": []}
    differences, slow = {}, set()
    for name, peer in task.peers.items():
        start = time.perf_counter()
        theirs = peer()
        if time.perf_counter() - start > LONG_SECONDS:
            slow.add(name)
        times[name] = []
        if name in task.agreement:
            differences[name] = float(task.agreement[name](mine, theirs))
            if not differences[name] <= task.tolerance.get(name, 1e-9):
                raise SystemExit(f"{task.key}: {name} differs by {differences[name]}; not timed")
    for name, other in task.beside.items():
        other()
        times[name] = []
    if task.floor is not None:
        task.floor()
        times["floor"] = []
    for turn in range(repeats):
        times["ours"].append(seconds(task.ours))
        for name, peer in task.peers.items():
            if name not in slow or turn < 3:
                times[name].append(seconds(peer))
        for name, other in task.beside.items():
            times[name].append(seconds(other))
        if task.floor is not None:
            times["floor"].append(seconds(task.floor))
    return _row(task, times, differences)


def _row(
    task: Task, times: dict[str, list[float]], differences: dict[str, float]
) -> dict[str, Any]:
    ours = times["ours"]
    row: dict[str, Any] = {
        "id": task.key,
        "task": task.title,
        "ours_ms": round(1e3 * statistics.median(ours), 3),
        "runs": len(ours),
        "peers": {},
    }
    for name in task.peers:
        ratios = [theirs / own for theirs, own in zip(times[name], ours, strict=False)]
        row["peers"][name] = {
            "ms": round(1e3 * statistics.median(times[name]), 3),
            "runs": len(ratios),
            "ratio": round(statistics.median(ratios), 2),
            "ratio_min": round(min(ratios), 2),
            "ratio_max": round(max(ratios), 2),
        }
        if name in differences:
            row["peers"][name]["largest_difference"] = differences[name]
    for name, least in task.target.items():
        found = row["peers"].values() if name == "fastest" else [row["peers"].get(name)]
        known = [entry["ratio"] for entry in found if entry]
        if known:
            row.setdefault("targets", {})[name] = {"at_least": least, "reached": min(known)}
    for name in task.beside:
        row.setdefault("beside_ms", {})[name] = round(1e3 * statistics.median(times[name]), 3)
    if task.floor is not None:
        row["floor"] = task.floor_title
        row["floor_ms"] = round(1e3 * statistics.median(times["floor"]), 3)
        row["times_floor"] = round(row["ours_ms"] / row["floor_ms"], 1)
    return row


def environment(packages: list[str]) -> dict[str, Any]:
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
