"""Every metric against the packages people use for it: agreement first, then time.

    pip install -e ".[peers]"
    python benchmarks/metrics.py [--only a1 b1] [--json OUT]
        [--cvppp-script FILE.py] [--cremi DIR]

One process, one thread; imports, compilation and the making of inputs are not timed; ours and the
peers take turns; medians of 5 (3 for peers slower than 5 s), ratio = peer / ours turn by turn.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")

import numpy as np
import peers
import torch
import workloads
from timing import Task, environment, measure

from rlseg.components import label_components
from rlseg.evaluate_coco import evaluate_coco
from rlseg.metrics import (
    MaskAveragePrecision,
    Settings,
    adapted_rand,
    overlap,
    score_image,
    symmetric_best_dice,
    variation_of_information,
)

PACKAGES = [
    "numpy",
    "torch",
    "scipy",
    "scikit-image",
    "pycocotools",
    "faster-coco-eval",
    "hotcoco",
    "ultrafast-pycocotools",
    "torchmetrics",
    "stardist",
    "cellpose",
    "connected-components-3d",
]
SECTION_3 = frozenset(
    """sbd best_dice_pred best_dice_true dic abs_dic fgbg_dice mucov mwcov avgfp avgfn
    avgfp_fraction avgfn_fraction avgfp_colorrl50 avgfn_colorrl50 dsb dsb50 dsb75 dsb90
    dsb_pooled pq sq rq aji aji_plus""".split()  # noqa: SIM905
)
"""Every score of instances: SBD to AJI+."""


def largest(a: Any, b: Any) -> float:
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).max())


def instance_task(key: str, title: str, pairs: peers.Maps) -> Task:
    """b1, b2: all of section 3 (SBD to AJI+) of label pairs."""
    settings = Settings(metrics=SECTION_3)

    def ours() -> list[Any]:
        return [score_image(overlap(p, t), settings, name="") for p, t in pairs]

    def rows(mine: list[Any], theirs: list[Any]) -> float:
        """TP, FP, FN at ten thresholds."""
        a = [[(r.tp, r.fp, r.fn) for r in image.thresholds] for image in mine]
        b = [[(int(r.tp), int(r.fp), int(r.fn)) for r in image] for image in theirs]
        return largest(a, b)

    candidates: dict[str, tuple[str, Callable[[], Any]]] = {
        "stardist, 10 thresholds": ("stardist", partial(peers.stardist_rows, pairs)),
        "cellpose AP, 10 thresholds": ("cellpose", partial(peers.cellpose_ap, pairs)),
        "cellpose AJI": ("cellpose", partial(peers.cellpose_aji, pairs)),
    }
    return Task(
        key=key,
        title=title,
        ours=ours,
        peers={k: f for k, (module, f) in candidates.items() if peers.available(module)},
        agreement={
            "stardist, 10 thresholds": rows,
            "cellpose AP, 10 thresholds": lambda mine, theirs: largest(
                [[r.tp for r in image.thresholds] for image in mine], theirs[1]
            ),
            # cellpose's AJI divides by the union of both foregrounds: another quantity.
        },
        floor=lambda: [(p.max(), t.max()) for p, t in pairs],
        floor_title="reading both maps once",
        target={"fastest": 8},
    )


def best_dice_task(pairs: peers.Maps, script: Path | None) -> Task:
    """b3: SBD alone."""
    sides = {"published procedure, vectorised per pair": partial(peers.published_sbd, pairs)}
    if script is not None:
        sides["challenge script"] = challenge_script(script, pairs)
    agreement = {name: largest for name in sides}
    if peers.available("torchmetrics"):
        sides["torchmetrics PQ"] = partial(peers.torchmetrics_pq, pairs)  # another score, as slow
    return Task(
        key="b3",
        title=f"SBD of {len(pairs)} leaf pairs",
        ours=lambda: [symmetric_best_dice(overlap(p, t)) for p, t in pairs],
        peers=sides,
        agreement=agreement,
        floor=lambda: [(p.max(), t.max()) for p, t in pairs],
        floor_title="reading both maps once",
        target={"challenge script": 500},
    )


def challenge_script(path: Path, pairs: peers.Maps) -> Callable[[], Any]:
    """A user's copy of the leaf challenge's scoring functions: `BestDice(inLabel, gtLabel)`."""
    module = loaded(path, "leaf_challenge_script")
    best = module.BestDice
    return lambda: [min(best(p, t), best(t, p)) for p, t in pairs]


def loaded(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def partition_task(key: str, title: str, cremi: Path | None, *, sparse: bool) -> Task:
    """f: VoI and ARAND of a volume; with random uint64 ids the peers get the dense ones."""
    pred, true = workloads.neurons()
    mine = (pred, true)
    if sparse:
        mine = workloads.sparse_ids(pred, 1), workloads.sparse_ids(true, 2)

    def ours() -> tuple[float, float, float]:
        table = overlap(*mine)
        information = variation_of_information(table)
        return adapted_rand(table).error, information.split, information.merge

    sides: dict[str, Callable[[], Any]] = {
        "scikit-image": partial(peers.skimage_partition, pred, true)
    }
    if cremi is not None:
        sides["CREMI functions"] = cremi_functions(cremi, pred, true)
    return Task(
        key=key,
        title=title,
        ours=ours,
        peers=sides,
        agreement={"scikit-image": largest},
        floor=lambda: (mine[0].max(), mine[1].max()),
        floor_title="reading both volumes once",
        target={"scikit-image": 3 if sparse else 6},
    )


def cremi_functions(folder: Path, pred: np.ndarray, true: np.ndarray) -> Callable[[], Any]:
    """The challenge's own `voi.py` and `rand.py`, from a user's copy."""
    voi, rand = loaded(folder / "voi.py", "cremi_voi"), loaded(folder / "rand.py", "cremi_rand")
    return lambda: (rand.adapted_rand(pred, true), *voi.voi(pred, true))


def component_tasks() -> list[Task]:
    """e1, e2: components of equal label, through the optional package and without it."""
    volume = workloads.volume_components()
    maps = [pred for pred, _ in workloads.nuclei()][:8]

    def task(key: str, title: str, arrays: list[np.ndarray], least: float) -> Task:
        from skimage.measure import label

        return Task(
            key=key,
            title=title,
            ours=lambda: [label_components(a[None]) for a in arrays],
            peers={"scikit-image": lambda: [label(a, background=0)[None] for a in arrays]},
            agreement={"scikit-image": lambda a, b: max(map(largest, a, b))},
            beside={
                "ours with int32 labels": lambda: [
                    label_components(a[None], dtype="int32") for a in arrays
                ]
            },
            floor=lambda: [a.max() for a in arrays],
            floor_title="reading the labels once",
            target={"scikit-image": least},
        )

    return [
        task("e1", "components of a 32 x 512 x 512 volume, 26 neighbours", [volume], 10),
        task("e2", "components of eight 1000 x 1000 maps, 8 neighbours", maps, 2),
    ]


TWELVE = "ap ap50 ap75 ap_small ap_medium ap_large ar1 ar10 ar100 ar_small ar_medium ar_large"
COCO_PEERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "hotcoco": ("hotcoco", peers.hotcoco_scores),
    "ultrafast-pycocotools": ("ultrafast_pycocotools", peers.ultrafast_scores),
    "pycocotools": ("pycocotools", peers.pycocotools_scores),
    "faster-coco-eval": ("faster_coco_eval", peers.faster_scores),
}


def twelve(mine: Any, theirs: Any) -> float:
    """Difference of the twelve numbers."""
    return largest([mine[key] for key in TWELVE.split()], theirs)


def mask_tasks(wanted: set[str], images: int) -> list[Task]:
    """a1, a2, a3: scored masks as arrays, as label maps, and as run lengths."""
    scenes = workloads.scored_masks(images)
    tasks = []
    if "a1" in wanted:
        tasks.append(dense_task(scenes))
    if "a2" in wanted:
        tasks.append(label_task(scenes))
    if "a3" in wanted:
        tasks.append(run_task(scenes))
    return tasks


def dense_task(scenes: list[Any]) -> Task:
    def ours() -> dict[str, float]:
        total = MaskAveragePrecision()
        for s in scenes:
            total.update(s.pred_masks, s.pred_categories, s.scores, s.true_masks, s.true_categories)
        return total.compute()

    columns = peers.column_order(scenes)

    def side(module: str, function: Callable[..., Any], free: bool) -> Callable[[], Any]:
        """From the masks as networks give them, or (free) from the tools' own layout."""
        encode = peers.mask_encoder(module)
        if free:
            return lambda: function(*peers.as_coco(scenes, columns, encode))
        return lambda: function(*peers.as_coco(scenes, peers.column_order(scenes), encode))

    present = {k: v for k, v in COCO_PEERS.items() if peers.available(v[0])}
    sides = {name: side(*entry, free=False) for name, entry in present.items()}
    sides |= {f"{name}, layout for free": side(*present[name], free=True) for name in present}
    agreement: dict[str, Callable[[Any, Any], float]] = dict.fromkeys(sides, twelve)
    if peers.available("torchmetrics") and peers.available("faster_coco_eval"):
        sides["torchmetrics"] = partial(peers.torchmetrics_ap, scenes)
        agreement["torchmetrics"] = lambda mine, theirs: largest(mine["ap"], theirs)
    allowed = {"torchmetrics": 1e-3}  # its lists of thresholds and recalls are float32
    return Task(
        key="a1",
        title=f"dense masks of {len(scenes)} images -> 12 COCO numbers",
        ours=ours,
        peers=sides,
        agreement=agreement,
        tolerance=allowed,
        floor=lambda: [(s.pred_masks.max(), s.true_masks.max()) for s in scenes],
        floor_title="reading all masks once",
        target={"hotcoco": 2, "pycocotools": 8},
    )


def label_task(scenes: list[Any]) -> Task:
    maps = workloads.painted(scenes)
    shown = []
    for scene, (pred, true) in zip(scenes, maps, strict=True):
        ids, true_ids = (np.unique(labels[labels > 0]) - 1 for labels in (pred, true))
        shown.append(
            (scene.pred_categories[ids], scene.scores[ids], scene.true_categories[true_ids])
        )

    def ours() -> dict[str, float]:
        total = MaskAveragePrecision()
        for (pred, true), (own, scores, others) in zip(maps, shown, strict=True):
            total.update_labels(pred, own, scores, true, others)
        return total.compute()

    def expanded() -> list[Any]:
        """The masks of every map again, as the tools want them."""
        found = []
        for (pred, true), (own, scores, others) in zip(maps, shown, strict=True):
            masks = [
                (labels[None] == np.unique(labels)[1:, None, None]).astype(np.uint8)
                for labels in (pred, true)
            ]
            areas = masks[1].reshape(len(others), -1).sum(1, dtype=np.int64)
            found.append(workloads.Scene(masks[1], others, masks[0], own, scores, areas))
        return found

    def side(module: str, function: Callable[..., Any]) -> Callable[[], Any]:
        encode = peers.mask_encoder(module)

        def work() -> Any:
            masks = expanded()
            return function(*peers.as_coco(masks, peers.column_order(masks), encode))

        return work

    names = ("hotcoco", "ultrafast-pycocotools", "pycocotools")
    sides = {
        name: side(*COCO_PEERS[name]) for name in names if peers.available(COCO_PEERS[name][0])
    }
    return Task(
        key="a2",
        title=f"label maps of {len(scenes)} images with categories and scores -> 12 COCO numbers",
        ours=ours,
        peers=sides,
        agreement=dict.fromkeys(sides, twelve),
        beside={"a peer's first step alone: a mask per id": expanded},
        floor=lambda: [(p.max(), t.max()) for p, t in maps],
        floor_title="reading both maps once",
        target={"fastest": 10},
    )


def run_task(scenes: list[Any]) -> Task:
    data, results = peers.as_coco(
        scenes, peers.column_order(scenes), peers.mask_encoder("pycocotools")
    )

    def side(function: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: function(data, results)

    sides = {k: side(f) for k, (m, f) in COCO_PEERS.items() if peers.available(m)}
    agreement: dict[str, Callable[[Any, Any], float]] = dict.fromkeys(sides, twelve)
    if peers.available("hotcoco"):
        sides["rlseg through hotcoco"] = partial(evaluate_coco, data, results, backend="hotcoco")
        agreement["rlseg through hotcoco"] = lambda mine, theirs: largest(
            [mine[key] for key in TWELVE.split()], [theirs[key] for key in TWELVE.split()]
        )
    return Task(
        key="a3",
        title=f"RLE of {len(scenes)} images, checked -> 12 COCO numbers",
        ours=partial(evaluate_coco, data, results, backend="own"),
        peers=sides,
        agreement=agreement,
        floor=all_pairs_in_c(data, results) if peers.available("pycocotools") else None,
        floor_title="IoU of all pairs of an image in C (pycocotools)",
        target={"pycocotools": 5},
    )


def all_pairs_in_c(data: dict[str, Any], results: list[Any]) -> Callable[[], Any]:
    """The C routine alone, on strings that are in its form already."""
    from pycocotools import mask

    images: dict[int, tuple[list[Any], list[Any]]] = {i["id"]: ([], []) for i in data["images"]}
    for side, entries in enumerate((results, data["annotations"])):
        for entry in entries:
            images[entry["image_id"]][side].append(entry["segmentation"])
    return lambda: [mask.iou(dt, gt, [0] * len(gt)) for dt, gt in images.values()]


def all_tasks(wanted: set[str], args: argparse.Namespace) -> list[Callable[[], list[Task]]]:
    """Makers of the wanted tasks: inputs of one are freed before the next is made."""
    makers: list[tuple[set[str], Callable[[], list[Task]]]] = [
        ({"a1", "a2", "a3"}, lambda: mask_tasks(wanted, args.images)),
        (
            {"b1"},
            lambda: [instance_task("b1", "100 leaf pairs -> SBD to AJI+", workloads.leaves())],
        ),
        (
            {"b2"},
            lambda: [instance_task("b2", "20 nuclei pairs -> SBD to AJI+", workloads.nuclei())],
        ),
        ({"b3"}, lambda: [best_dice_task(workloads.leaves(), args.cvppp_script)]),
        ({"e1", "e2"}, lambda: [t for t in component_tasks() if t.key in wanted]),
        (
            {"f"},
            lambda: [
                partition_task("f", "VoI + ARAND of 13 M voxels", args.cremi, sparse=False),
                partition_task(
                    "f, ids of 64 bits", "the same, random uint64 ids", None, sparse=True
                ),
            ],
        ),
    ]
    return [make for keys, make in makers if keys & wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="ID", default=TASKS, choices=TASKS)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=500, help="of a1, a2 and a3 (500)")
    parser.add_argument("--cvppp-script", type=Path, help="your copy of the challenge's script")
    parser.add_argument("--cremi", type=Path, help="your copy of the folder with voi.py, rand.py")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for make in all_tasks(set(args.only), args):
        for task in make():
            rows.append(measure(task, args.repeats))
            print(json.dumps(rows[-1]), flush=True)
    if args.json:
        result = {**environment(PACKAGES), "tasks": rows}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


TASKS = ["a1", "a2", "a3", "b1", "b2", "b3", "e1", "e2", "f"]

if __name__ == "__main__":
    main()
