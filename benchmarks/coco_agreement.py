"""Scored masks, run lengths, classes and budgets beside their references; see metric_agreement."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import peers
import torch
from workloads import inside, outline

from rlseg import rle
from rlseg.data.coco import read_truth
from rlseg.metrics import (
    Detected,
    Truths,
    area_under_budget,
    class_entropy,
    coco_scores,
    confusion_matrix,
    iou_per_class,
    labels_to_reach,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
    run_pairs,
)
from rlseg.submissions import read_results

PACKAGES = [
    "numpy",
    "torch",
    "scikit-image",
    "stardist",
    "torchmetrics",
    "pycocotools",
    "faster-coco-eval",
    "hotcoco",
]
SIDE = (48, 64)
CATEGORIES = [1, 2, 5]


def problems(count: int) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Small data sets with crowds, ties, given areas, empty images and empty categories."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        images = [
            {"id": 10 * i + 3, "height": SIDE[0], "width": SIDE[1], "file_name": f"{i}.png"}
            for i in range(int(rng.integers(1, 5)))
        ]
        annotations, results = [], []
        for image in images:
            masks = [_mask(rng) for _ in range(int(rng.integers(0, 7)))]
            for mask in masks:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image["id"],
                        "category_id": int(rng.choice(CATEGORIES)),
                        "segmentation": rle.encode(mask).to_coco()[0],
                        "area": float(rng.choice([mask.sum(), 1024, 9216, 20])),
                        "iscrowd": int(rng.random() < 0.1),
                        "bbox": [0, 0, 1, 1],
                    }
                )
            found = [*masks, *[_mask(rng) for _ in range(int(rng.integers(0, 4)))]]
            for mask in found:
                shifted = np.roll(mask, rng.integers(-3, 4, 2), (0, 1))
                for _twice in range(1 + (rng.random() < 0.2)):  # sometimes twice
                    results.append(
                        {
                            "image_id": image["id"],
                            "category_id": int(rng.choice(CATEGORIES[:2])),
                            "segmentation": rle.encode(shifted).to_coco()[0],
                            "score": float(rng.integers(0, 6)) / 5,
                        }
                    )
        categories = [{"id": k, "name": str(k)} for k in [*CATEGORIES, 9]]
        if annotations and results:
            data = {"images": images, "annotations": annotations, "categories": categories}
            yield data, results


def _mask(rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros(SIDE, dtype=bool)
    if rng.random() < 0.05:
        return mask
    centre = rng.uniform(0, SIDE[0]), rng.uniform(0, SIDE[1])
    box, shape = inside(outline(rng), centre, float(np.exp(rng.normal(2.4, 0.6))), SIDE)
    mask[box] = shape
    return mask


def our_scores(data: dict[str, Any], results: list[Any], limits: tuple[int, ...]) -> Any:
    truth = read_truth(data)
    found = read_results(results, truth)
    truths = Truths(image=truth.image, category=truth.category, area=truth.area, crowd=truth.crowd)
    detected = Detected(
        image=found.image,
        category=found.category,
        area=found.runs.areas().astype(float),
        score=found.score,
    )
    return coco_scores(
        truths,
        detected,
        run_pairs(detected, truths, found.runs, truth.runs),
        images=truth.image_ids,
        categories=truth.category_ids,
        max_dets=limits,
    )


def pycocotools_arrays(data: Any, results: Any, limits: tuple[int, ...]) -> tuple[Any, Any]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with peers.silent():
        coco = COCO()
        coco.dataset = copy.deepcopy(data)
        coco.createIndex()
        found = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "segm")
        found.params.maxDets = list(limits)
        found.evaluate()
        found.accumulate()
    return found.eval["precision"], found.eval["recall"]


def _gap(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference; infinite where only one side is defined (-1 or nan is undefined)."""
    theirs = np.where(theirs < 0, np.nan, theirs)
    if (np.isnan(ours) != np.isnan(theirs)).any():
        return math.inf
    both = ~np.isnan(ours)
    return float(np.abs(ours[both] - theirs[both]).max(initial=0.0))


def _row(score: str, convention: str, reference: str, gaps: list[float]) -> dict[str, Any]:
    return {
        "score": score,
        "convention": convention,
        "reference": reference,
        "cases": len(gaps),
        "largest_difference": max(gaps),
    }


def coco_rows(count: int) -> list[dict[str, Any]]:
    found = []
    for convention, limits in (
        ("COCO", (1, 10, 100)),
        ("Places", (1, 50, 255)),
        ("few", (1, 2, 3)),
    ):
        gaps = []
        for data, results in problems(count):
            precision, recall = pycocotools_arrays(data, results, limits)
            ours = our_scores(data, results, limits)
            gaps.append(max(_gap(ours.precision, precision), _gap(ours.recall, recall)))
        title = f"{convention}, maxDets {' '.join(map(str, limits))}"
        found.append(_row("every entry of COCO precision, recall", title, "pycocotools", gaps))
    return found


def run_rows(count: int) -> list[dict[str, Any]]:
    """Encoded strings and rasterised polygons: number of entries that differ at all."""
    from pycocotools import mask as reference

    rng = np.random.default_rng(1)
    strings, polygons = [], []
    for _ in range(4 * count):
        height, width = rng.integers(1, 40, 2)
        mask = rng.random((height, width)) < rng.random()
        ours = rle.encode(mask)
        theirs = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
        strings.append(float(ours.strings()[0] != theirs["counts"].decode("ascii")))
        polygon = [float(v) for v in np.round(rng.uniform(-8, 48, 2 * rng.integers(3, 9)), 1)]
        wanted = reference.merge(reference.frPyObjects([polygon], int(height), int(width)))
        drawn = rle.from_coco([[polygon]], sizes=np.array([[height, width]]))
        polygons.append(float(drawn.strings()[0] != wanted["counts"].decode("ascii")))
    return [
        _row("RLE strings (1 = a string differs)", "COCO", "pycocotools", strings),
        _row("polygons to RLE (1 = a mask differs)", "COCO", "pycocotools", polygons),
    ]


def slow_confusion(pred: np.ndarray, true: np.ndarray, classes: int) -> np.ndarray:
    table = np.zeros((classes, classes))
    for p, t in zip(pred.ravel().tolist(), true.ravel().tolist(), strict=True):
        if t != 255:
            table[t, p] += 1
    return table


def semantic_rows(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(2)
    loops: list[float] = []
    package: list[float] = []
    entropies: list[float] = []
    for _ in range(count):
        classes = int(rng.integers(1, 7))
        true = rng.integers(0, classes, (5, 6)).astype(np.uint8)
        true[rng.random(true.shape) < 0.2] = 255
        pred = rng.integers(0, classes, (5, 6)).astype(np.uint8)
        ours, table = confusion_matrix(pred, true, classes), slow_confusion(pred, true, classes)
        union = table.sum(0) + table.sum(1) - np.diag(table)
        ious = [table[k, k] / union[k] for k in range(classes) if union[k]]
        rows = [table[k, k] / table[k].sum() for k in range(classes) if table[k].sum()]
        wanted = [sum(ious) / len(ious), np.trace(table) / table.sum(), sum(rows) / len(rows)]
        mine = [mean_iou(ours), pixel_accuracy(ours), mean_accuracy(ours)]
        loops.append(max(abs(a - b) for a, b in zip(mine, wanted, strict=True)))
        share = table.sum(1) / table.sum()
        direct = -sum(f * math.log(f) for f in share if f)
        entropies.append(abs(class_entropy(ours.sum(1)) - direct))
        if classes > 1 and peers.available("torchmetrics"):
            from torchmetrics.functional.classification import multiclass_jaccard_index

            theirs = multiclass_jaccard_index(
                torch.from_numpy(pred.astype(np.int64)),
                torch.from_numpy(true.astype(np.int64)),
                classes,
                average="none",
                ignore_index=255,
            ).numpy()
            defined = ~np.isnan(iou_per_class(ours))
            package.append(float(np.abs(iou_per_class(ours) - theirs)[defined].max()))
    found = [_row("miou, pixel and mean accuracy", "over the data set", "loops over pixels", loops)]
    if package:
        found.append(_row("iou_per_class", "over the data set", "torchmetrics (float32)", package))
    return [*found, _row("class_entropy", "nats", "direct formula", entropies)]


def budget_rows(count: int) -> list[dict[str, Any]]:
    """Areas on both scales by summing trapezoids one by one, crossings by walking along."""
    rng = np.random.default_rng(3)
    areas, logarithmic, crossings = [], [], []
    for _ in range(count):
        labels = np.cumsum(rng.integers(1, 9, int(rng.integers(2, 8)))).astype(float)
        scores = rng.random(len(labels))
        steps = [
            (labels[k + 1] - labels[k]) * (scores[k] + scores[k + 1]) / 2
            for k in range(len(labels) - 1)
        ]
        areas.append(abs(area_under_budget(labels, scores) - sum(steps) / (labels[-1] - labels[0])))
        places = [math.log(b) for b in labels]
        steps = [
            (places[k + 1] - places[k]) * (scores[k] + scores[k + 1]) / 2
            for k in range(len(labels) - 1)
        ]
        logarithmic.append(
            abs(
                area_under_budget(labels, scores, scale="log")
                - sum(steps) / (places[-1] - places[0])
            )
        )
        wanted = math.nan
        for k in range(len(labels)):
            if scores[k] >= 0.9 * 0.8:
                wanted = labels[k]
                if k:
                    rise = (0.9 * 0.8 - scores[k - 1]) / (scores[k] - scores[k - 1])
                    wanted = labels[k - 1] + rise * (labels[k] - labels[k - 1])
                break
        crossings.append(
            _gap(np.array([labels_to_reach(labels, scores, 0.9, 0.8)]), np.array([wanted]))
        )
    return [
        _row("area_under_budget", "linear", "sum of trapezoids", areas),
        _row("area_under_budget", "log", "sum of trapezoids", logarithmic),
        _row("labels_to_90", "first crossing", "walk along the curve", crossings),
    ]


def rows(count: int) -> list[dict[str, Any]]:
    found = [*semantic_rows(count), *budget_rows(count)]
    if peers.available("pycocotools"):
        found = [*coco_rows(count), *run_rows(count), *found]
    return found
