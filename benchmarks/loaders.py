"""Reads every image of every pack of real data with its loader: how many, how long.

`python benchmarks/loaders.py --root DIR` writes `benchmarks/measured/loaders.json`. DIR holds one
folder per pack; a pack that is not there is left out. Counts are compared with those that the pack
states; the exit code is 1 where one differs.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rlseg.data import open_dataset

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Case:
    """One loader on one folder, and what it should find there."""

    dataset: str
    folder: str
    """Below the root."""
    images: int
    instances: int | None
    """None for classes."""
    data: dict[str, object] = field(default_factory=dict)
    splits: tuple[str, ...] = ()
    """The splits to read; empty = all, which must not overlap."""


CASES = (
    Case(dataset="camvid", folder="camvid", images=668, instances=None),
    Case(dataset="camvid", folder="camvid_png", images=24, instances=None),
    Case(
        dataset="cityscapes",
        folder="street_instances/cityscapes_layout",
        images=15,
        instances=None,
    ),
    Case(
        dataset="cityscapes",
        folder="street_instances/cityscapes_layout",
        images=15,
        instances=43,
        data={"task": "instance"},
    ),
    Case(dataset="kitti", folder="street_instances/kitti_layout", images=3, instances=23),
    Case(dataset="cremi", folder="cremi_256/Cremi", images=143, instances=3719),
    Case(dataset="cremi", folder="cremi_256/hdf", images=143, instances=3719),
    Case(dataset="cvppp", folder="poplar_leaf", images=15, instances=421),
    Case(dataset="monuseg", folder="monuseg", images=10, instances=3628),
    Case(
        dataset="places",
        folder="ade20k_places_layout",
        images=5,
        instances=139,
        data={"missing_masks": "leave_out"},
    ),
    Case(
        dataset="em3d",
        folder="fib25_em3d/hdf",
        images=1,
        instances=435,
        data={"file": "fib25_sample2_z000-199.hdf", "train_slices": [0, 200]},
    ),
    Case(
        dataset="em3d",
        folder="fib25_em3d/hdf",
        images=1,
        instances=100,
        data={"file": "fib25_sample2_z200-224.hdf", "train_slices": [0, 25]},
    ),
    Case(dataset="em3d", folder="fib25_em3d/tif", images=8, instances=407),
    Case(
        dataset="folder",
        folder="isbi2012_membrane/train",
        images=27,
        instances=None,
        data={"image_folder": "image", "label_folder": "label", "components": "sides"},
    ),
)


def measure(case: Case, root: Path) -> dict[str, Any]:
    """Images, instances, and the seconds it took to open the pack and to read them all."""
    started = time.perf_counter()
    splits = open_dataset(case.dataset, root / case.folder, case.data)
    opened = time.perf_counter()
    names: dict[str, int] = {}
    instances = pixels = 0
    for name in case.splits or splits.names:
        part = splits.split(name)
        names[name] = len(part)
        for index in range(len(part)):
            sample = part[index]
            truth = sample.classes if splits.task == "semantic" else sample.labels
            pixels += truth.numel()
            instances += 0 if splits.task == "semantic" else int(truth.max())
    done = time.perf_counter()
    return {
        "loader": case.dataset,
        "pack": case.folder,
        "data": case.data,
        "task": splits.task,
        "ndim": splits.ndim,
        "splits": names,
        "images": sum(names.values()),
        "instances": None if splits.task == "semantic" else instances,
        "stated_images": case.images,
        "stated_instances": case.instances,
        "as_stated": sum(names.values()) == case.images and case.instances in (None, instances),
        "megapixels": round(pixels / 1e6, 2),
        "open_seconds": round(opened - started, 3),
        "read_seconds": round(done - opened, 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder with a folder per pack")
    parser.add_argument("--out", type=Path, default=HERE / "measured" / "loaders.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        if not (args.root / case.folder).is_dir():
            sys.stderr.write(f"{case.folder}: not there, left out\n")
            continue
        row = measure(case, args.root)
        rows.append(row)
        count = "-" if row["instances"] is None else row["instances"]
        print(
            f"{row['loader']:<11}{row['pack']:<38}{row['images']:>6}{count!s:>7}"
            f"{row['read_seconds']:>9.2f} s  {'as stated' if row['as_stated'] else 'DIFFERS'}",
            flush=True,
        )
    report = {
        "command": "python benchmarks/loaders.py --root DIR",
        "threads": 1,
        "torch": torch.__version__,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    return 0 if all(row["as_stated"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
