"""Reading for training: our stream beside a plain PyTorch DataLoader with scikit-image.

    python benchmarks/data.py --cremi DIR --camvid DIR --em3d DIR [--json OUT] [--rounds 5]

Each side reads the same files, cuts the same crops, flips alike and stacks batches; ours also
makes ids consecutive and checks what it reads. One torch thread per process. The files are in the
cache of the operating system on both sides. A pass is one epoch; all sides take turns, and the
numbers are medians: samples per second by the clock, and, for one process, time on a core, which
other work on the machine disturbs less. "first" decodes every file; "later" are epochs out of RAM,
where decoded samples are kept; the DataLoader keeps none, so that all its epochs are alike (its
workers are started before the clock). imagecodecs, which unpacks deflated TIFF twice as fast as
zlib, is no requirement of scikit-image, which gets it only with --imagecodecs; ours does without.
A second table tells what it costs to make or to read what a `Store` keeps: lists of neighbours, and
for comparison rings.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
if "--imagecodecs" not in sys.argv:
    sys.modules["imagecodecs"] = None  # type: ignore[assignment]  # the import then fails

import numpy as np
import torch
from skimage import io
from timing import environment
from torch.utils.data import DataLoader, Dataset

from rlseg.data import open_dataset
from rlseg.data.memory import InMemory, Packed
from rlseg.data.neighbours import neighbour_pairs
from rlseg.data.rings import number_instances, ring_pairs
from rlseg.data.samples import collate_instances, collate_semantic
from rlseg.data.semantic_transforms import SemanticAugmentation, SemanticTransform
from rlseg.data.store import Store
from rlseg.data.stream import EpochStream
from rlseg.data.transforms import Augmentation, TrainingTransform

WORKERS = 2
VOLUME_REPEATS = 4  # there are only six volumes


class Plain(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Image and labels as a user would read them: imread, crop, flip, to tensors."""

    def __init__(
        self, pairs: Sequence[tuple[Path, Path]], crop: Sequence[int], flips: Sequence[int]
    ) -> None:
        self.pairs, self.crop, self.flips = pairs, crop, flips

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, labels = (io.imread(path) for path in self.pairs[index])
        starts = [
            int(torch.randint(side - length + 1, ()))
            for side, length in zip(labels.shape, self.crop, strict=True)
        ]
        window = tuple(slice(a, a + n) for a, n in zip(starts, self.crop, strict=True))
        image, labels = image[window], labels[window]
        for axis in self.flips:
            if torch.rand(()) < 0.5:
                image, labels = np.flip(image, axis), np.flip(labels, axis)
        image = np.moveaxis(image, -1, 0) if image.ndim > labels.ndim else image[None]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).float() / 255
        return pixels, torch.from_numpy(labels.astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One data set: how both sides read it."""

    key: str
    title: str
    batch: int
    samples: int
    opened: Callable[[], Any]
    """A fresh data set that keeps decoded samples."""
    stream: Callable[[Any, int], Iterator[Any]]
    """Data set and prefetch -> batches."""
    plain: Plain


class First:
    """The first samples of a data set, several times over."""

    def __init__(self, dataset: Any, count: int, repeats: int = 1) -> None:
        self.dataset, self.count, self.repeats = dataset, count, repeats

    def __len__(self) -> int:
        return self.count * self.repeats

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.dataset[index % self.count]

    def packed(self, index: int) -> Any:
        return self.dataset.packed(index % self.count)


def pairs_of(root: Path, names: Iterable[tuple[str, str]]) -> list[tuple[Path, Path]]:
    return [(root / image, root / labels) for image, labels in names]


def numbered(root: Path, count: int) -> list[tuple[Path, Path]]:
    return pairs_of(root, ((f"A/A_{k}.tif", f"B/B_{k}.tif") for k in range(count)))


def instance_row(
    key: str, title: str, *, dataset: Any, pairs: Any, batch: int, crop: Any, flips: Any
) -> Row:
    """`dataset()` opens the files anew; nothing of it is kept yet."""
    probability = {f"flip_{axis}": 0.5 for axis in ("horizontal", "vertical", "depth")[:flips]}
    transform = TrainingTransform(Augmentation(**probability), crop)
    return Row(
        key=key,
        title=title,
        batch=batch,
        samples=len(pairs) // batch * batch,
        opened=lambda: InMemory(dataset()),
        stream=lambda data, prefetch: EpochStream(
            Packed(data),
            batch_size=batch,
            transform=transform,
            collate=collate_instances,
            seed=0,
            prefetch=prefetch,
        ),
        plain=Plain(pairs, crop, range(-flips, 0)),
    )


def camvid_row(root: Path, count: int) -> Row:
    lines = [line.split() for line in (root / "train.txt").read_text().splitlines()][:count]
    names = [("/".join(a.split("/")[-2:]), "/".join(b.split("/")[-2:])) for a, b in lines]
    transform = SemanticTransform(SemanticAugmentation(crop=(224, 224)))

    def opened() -> Any:
        return InMemory(First(open_dataset("camvid", root).split("train").dataset, count))

    return Row(
        key="camvid",
        title="CamVid, 3 x 360 x 480, crops of 224, mirrored, batches of 8",
        batch=8,
        samples=count // 8 * 8,
        opened=opened,
        stream=lambda data, prefetch: EpochStream(
            Packed(data),
            batch_size=8,
            transform=transform,
            collate=collate_semantic,
            seed=0,
            prefetch=prefetch,
        ),
        plain=Plain(pairs_of(root, names), (224, 224), (-1,)),
    )


def rows(args: argparse.Namespace) -> list[Row]:
    slices = args.cremi / "Cremi" / "Corrected" / "256" / "train"
    count = len(list((slices / "A").glob("A_*.tif")))
    volumes = numbered(args.em3d / "tif" / "train", 6) * VOLUME_REPEATS

    def cremi() -> Any:
        return open_dataset("cremi", args.cremi, {"form": "tif"}).split("train").dataset

    def em3d() -> Any:
        data = open_dataset("em3d", args.em3d / "tif").split("train").dataset
        return First(data, 6, VOLUME_REPEATS)

    return [
        instance_row(
            "cre256",
            "Cre-256, 256 x 256, crops of 224, two flips, batches of 8",
            dataset=cremi,
            pairs=numbered(slices, count),
            batch=8,
            crop=(224, 224),
            flips=2,
        ),
        camvid_row(args.camvid, args.samples),
        instance_row(
            "em3d",
            "FIB-25 volumes, 64 x 128 x 128, crops of 48 x 96 x 96, three flips, batches of 2",
            dataset=em3d,
            pairs=volumes,
            batch=2,
            crop=(48, 96, 96),
            flips=3,
        ),
    ]


def agree(row: Row) -> None:
    """Both sides read the same pictures: without crop and flip, up to the numbering of ids."""
    ours = row.opened()
    for index in (0, len(row.plain) - 1):
        sample = ours[index]
        image, labels = (io.imread(path) for path in row.plain.pairs[index])
        image = np.moveaxis(image, -1, 0) if image.ndim > labels.ndim else image[None]
        theirs = torch.from_numpy(labels.astype(np.int64))
        if row.key == "camvid":
            same = torch.equal(torch.where(theirs == 11, 255, theirs), sample.classes)
        else:
            both = torch.stack([theirs.flatten(), sample.labels.flatten()])
            count = len(both.unique(dim=1)[0])
            same = count == len(theirs.unique()) == len(sample.labels.unique())
        if not same or not np.array_equal(
            sample.image.numpy(), np.float32(image) / np.float32(255)
        ):
            raise SystemExit(f"{row.key}: the two sides read sample {index} differently; not timed")


def passes(batches: Iterator[Any], count: int) -> tuple[float, float]:
    """Seconds for `count` batches: by the clock, and of this process on a core."""
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(batches)
    return time.perf_counter() - start, time.process_time() - busy


def epochs(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def measure(row: Row, rounds: int) -> dict[str, Any]:
    agree(row)
    count = row.samples // row.batch
    kept = row.opened()
    streams = {0: row.stream(kept, 0), WORKERS: row.stream(kept, WORKERS)}
    loaders = {}
    for workers in (0, WORKERS):
        loader = DataLoader(
            row.plain,
            batch_size=row.batch,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        loaders[workers] = epochs(loader)
    for batches in (*streams.values(), *loaders.values()):
        passes(batches, count)  # fills what is kept, starts workers and threads
    seconds: dict[str, list[float]] = {}
    busy: dict[str, list[float]] = {}
    for _ in range(rounds):
        for workers in (0, WORKERS):
            fresh = row.stream(row.opened(), workers)
            turn = {
                f"first_{workers}": fresh,
                f"later_{workers}": streams[workers],
                f"plain_{workers}": loaders[workers],
            }
            for name, batches in turn.items():
                by_clock, on_core = passes(batches, count)
                seconds.setdefault(name, []).append(by_clock)
                if not workers:
                    busy.setdefault(name, []).append(on_core)
            fresh.close()
    for stream in streams.values():
        stream.close()
    return _summary(row, seconds, busy)


def _summary(
    row: Row, seconds: dict[str, list[float]], busy: dict[str, list[float]]
) -> dict[str, Any]:
    def ratio(theirs: str, ours: str, times: dict[str, list[float]]) -> dict[str, float]:
        found = [a / b for a, b in zip(times[theirs], times[ours], strict=True)]
        return {
            "median": round(statistics.median(found), 2),
            "min": round(min(found), 2),
            "max": round(max(found), 2),
        }

    return {
        "id": row.key,
        "task": row.title,
        "samples": row.samples,
        "rounds": len(seconds["plain_0"]),
        "samples_per_second": {
            name: round(row.samples / statistics.median(times), 1)
            for name, times in seconds.items()
        },
        "ratio_first": {str(w): ratio(f"plain_{w}", f"first_{w}", seconds) for w in (0, WORKERS)},
        "ratio_later": {str(w): ratio(f"plain_{w}", f"later_{w}", seconds) for w in (0, WORKERS)},
        "core_ms_per_sample": {
            name: round(1e3 * statistics.median(times) / row.samples, 2)
            for name, times in busy.items()
        },
        "core_ratio_first": ratio("plain_0", "first_0", busy),
        "core_ratio_later": ratio("plain_0", "later_0", busy),
    }


def median_ms(function: Callable[[Any], Any], items: Sequence[Any]) -> float:
    times = []
    for item in items:
        start = time.perf_counter()
        function(item)
        times.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(times), 2)


def store_row(key: str, labels: Sequence[torch.Tensor], radius: int) -> dict[str, Any]:
    """Making, keeping and reading of what is derived from whole label maps."""

    def rings(one: torch.Tensor) -> dict[str, np.ndarray[Any, Any]]:
        index, image_of = number_instances(one[None])
        owner, pixel = ring_pairs(index, image_of, torch.arange(len(image_of)), radius)
        return {"owner": owner.int().numpy(), "pixel": pixel.int().numpy()}

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "cache")

        def stored_rings(one: torch.Tensor) -> Any:
            parts = {"labels": one, "radius": radius}
            return store.get_or_make("rings", parts, lambda: rings(one))

        row = {"id": key, "label_maps": len(labels), "sides": list(labels[0].shape)}
        row |= {
            "radius": radius,
            "neighbours_made_ms": median_ms(lambda one: neighbour_pairs(one, radius), labels),
            "neighbours_kept_ms": median_ms(
                lambda one: neighbour_pairs(one, radius, store), labels
            ),
            "neighbours_read_ms": median_ms(
                lambda one: neighbour_pairs(one, radius, store), labels
            ),
            "rings_made_ms": median_ms(rings, labels),
            "rings_kept_ms": median_ms(stored_rings, labels),
            "rings_read_ms": median_ms(stored_rings, labels),
        }
        for kind in ("neighbours", "rings"):
            sizes = [entry.size for entry in store.entries() if entry.kind == kind]
            row[f"{kind}_bytes"] = round(statistics.median(sizes))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cremi", type=Path, required=True, help="folder of the CREMI slices")
    parser.add_argument("--camvid", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--em3d", type=Path, required=True, help="folder of the FIB-25 volumes")
    parser.add_argument("--samples", type=int, default=96, help="of CamVid (96)")
    parser.add_argument("--rounds", type=int, default=5, help="passes of each side (5)")
    parser.add_argument("--only", help="one row: cre256, camvid, em3d or store")
    parser.add_argument(
        "--imagecodecs",
        action="store_true",
        help="let scikit-image unpack TIFF with imagecodecs, where it is installed",
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [row for row in rows(args) if args.only in (None, row.key)]
    report: dict[str, Any] = {
        **environment(["torch", "scikit-image", "numpy", "h5py", "tifffile", "imageio"]),
        "imagecodecs": args.imagecodecs,
        "load_before": os.getloadavg(),
        "rows": [],
        "store": [],
    }
    for row in chosen:
        report["rows"].append(measure(row, args.rounds))
        print(json.dumps(report["rows"][-1], indent=1), flush=True)
    if args.only in (None, "store"):
        slices = open_dataset("cremi", args.cremi, {"form": "tif"}).split("train")
        volumes = open_dataset("em3d", args.em3d / "tif").split("train")
        report["store"] = [
            store_row("cre256", [slices[k].labels for k in range(16)], 18),
            store_row("em3d", [volumes[k].labels for k in range(4)], 6),
        ]
        print(json.dumps(report["store"], indent=1))
    report["load_after"] = os.getloadavg()
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
