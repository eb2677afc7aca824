"""The packages and procedures that the metrics are timed against, each called its own fast way.

Every function takes what its package wants to be given; bringing the data into that form is done
once, before the clock starts. Missing packages are left out of the tables (`available`).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

THRESHOLDS = [round(0.5 + 0.05 * i, 2) for i in range(10)]
Maps = Sequence[tuple[np.ndarray, np.ndarray]]


def available(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@contextlib.contextmanager
def silent():
    """What the COCO tools print is not part of their work."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


# Label maps


def stardist_rows(pairs: Maps) -> list[Any]:
    """TP, FP, FN and means at ten thresholds, image by image."""
    from stardist.matching import matching

    return [matching(true, pred, THRESHOLDS) for pred, true in pairs]


def cellpose_ap(pairs: Maps) -> Any:
    """TP / (TP + FP + FN) at ten thresholds."""
    from cellpose.metrics import average_precision

    return average_precision([t for _, t in pairs], [p for p, _ in pairs], THRESHOLDS)


def cellpose_aji(pairs: Maps) -> Any:
    from cellpose.metrics import aggregated_jaccard_index

    return aggregated_jaccard_index([t for _, t in pairs], [p for p, _ in pairs])


def torchmetrics_pq(pairs: Maps) -> float:
    """Panoptic quality of the instances; the background is a class of its own there."""
    import torch
    from torchmetrics.detection import PanopticQuality

    metric = PanopticQuality(things={1}, stuffs={0}, return_per_class=True)
    for pred, true in pairs:
        both = [
            torch.from_numpy(np.stack([(labels > 0).astype(np.int64), labels], axis=-1))[None]
            for labels in (pred, true)
        ]
        metric.update(*both)
    return float(metric.compute()[0, 0])


def published_sbd(pairs: Maps) -> list[float]:
    """SBD by its definition, each pair of labels as masks, vectorised in numpy."""

    def best_dice(a: np.ndarray, b: np.ndarray) -> float:
        ours, theirs = np.unique(a), np.unique(b)
        if len(ours) < 2:
            return 0.0
        masks = [b == j for j in theirs[theirs > 0]]
        sizes = [int(np.count_nonzero(mask)) for mask in masks]
        best = []
        for i in ours[ours > 0]:
            own = a == i
            size = int(np.count_nonzero(own))
            dice = (
                2 * int(np.count_nonzero(own & mask)) / (size + other)
                for mask, other in zip(masks, sizes, strict=True)
            )
            best.append(max(dice, default=0.0))
        return sum(best) / len(best)

    return [min(best_dice(pred, true), best_dice(true, pred)) for pred, true in pairs]


def skimage_partition(pred: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    """ARAND error, VoI split and merge."""
    from skimage.metrics import adapted_rand_error, variation_of_information

    split, merge = variation_of_information(true, pred)
    return float(adapted_rand_error(true, pred)[0]), float(split), float(merge)


# Scored masks


def column_order(scenes: Sequence[Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(true, predicted) masks uint8 [H, W, N] of each scene, as the tools' encoders want them."""
    return [
        (
            np.asfortranarray(scene.true_masks.transpose(1, 2, 0)),
            np.asfortranarray(scene.pred_masks.transpose(1, 2, 0)),
        )
        for scene in scenes
    ]


def as_coco(
    scenes: Sequence[Any],
    columns: Sequence[tuple[np.ndarray, np.ndarray]],
    encode: Callable[[Any], Any],
) -> tuple[dict[str, Any], list[Any]]:
    """Data set and results in COCO's form."""
    images, annotations, results = [], [], []
    for number, (scene, masks) in enumerate(zip(scenes, columns, strict=True), start=1):
        height, width = masks[0].shape[:2]
        images.append({"id": number, "height": height, "width": width, "file_name": f"{number}"})
        areas = scene.true_areas
        for rle, category, area in zip(encode(masks[0]), scene.true_categories, areas, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(category),
                    "segmentation": rle,
                    "area": int(area),
                    "bbox": [0, 0, width, height],
                    "iscrowd": 0,
                }
            )
        for rle, category, score in zip(
            encode(masks[1]), scene.pred_categories, scene.scores, strict=True
        ):
            results.append(
                {
                    "image_id": number,
                    "category_id": int(category),
                    "segmentation": rle,
                    "score": float(score),
                }
            )
    categories = [{"id": k, "name": str(k)} for k in range(1, 21)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _texts(runs: Sequence[Any]) -> list[Any]:
    return [
        {"size": list(r["size"]), "counts": r["counts"].decode("ascii")}
        if isinstance(r["counts"], bytes)
        else r
        for r in runs
    ]


def _summary(
    coco: Any, load: Callable[..., Any], evaluation: Any, results: list[Any]
) -> list[float]:
    found = evaluation(coco, load(results), "segm")
    found.evaluate()
    found.accumulate()
    found.summarize()
    return [float(value) for value in found.stats]


def copied(data: dict[str, Any]) -> dict[str, Any]:
    """The data set with annotations that may be changed: pycocotools writes into them."""
    return {**data, "annotations": [dict(a) for a in data["annotations"]]}


def pycocotools_scores(data: dict[str, Any], results: list[Any]) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with silent():
        coco = COCO()
        coco.dataset = copied(data)
        coco.createIndex()
        return _summary(coco, coco.loadRes, COCOeval, [dict(r) for r in results])


def faster_scores(data: dict[str, Any], results: list[Any]) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster

    with silent():
        coco = COCO(copied(data))
        return _summary(coco, coco.loadRes, COCOeval_faster, [dict(r) for r in results])


def ultrafast_scores(data: dict[str, Any], results: list[Any]) -> Any:
    from ultrafast_pycocotools import COCO, COCOeval

    with silent():
        coco = COCO(copied(data))
        return _summary(coco, coco.loadRes, COCOeval, [dict(r) for r in results])


def hotcoco_scores(data: dict[str, Any], results: list[Any]) -> Any:
    from hotcoco import COCO, COCOeval

    coco = COCO(data)
    found = COCOeval(coco, coco.load_res(results), "segm")
    found.evaluate()
    found.accumulate()
    with silent():
        found.summarize()
    return [float(value) for value in found.stats]


def mask_encoder(module: str) -> Callable[[Any], Any]:
    """uint8 [H, W, N] in the column order the tools want -> RLEs by the package's own encoder."""
    inner = {"faster_coco_eval": "faster_coco_eval.core.mask"}
    mask = importlib.import_module(inner.get(module, f"{module}.mask"))

    def encode(masks: np.ndarray) -> list[Any]:
        return _texts(mask.encode(masks))

    return encode


def torchmetrics_ap(scenes: Sequence[Any]) -> float:
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(iou_type="segm", backend="faster_coco_eval")
    for scene in scenes:
        pred = {
            "masks": torch.from_numpy(scene.pred_masks).bool(),
            "labels": torch.from_numpy(scene.pred_categories),
            "scores": torch.from_numpy(scene.scores),
        }
        true = {
            "masks": torch.from_numpy(scene.true_masks).bool(),
            "labels": torch.from_numpy(scene.true_categories),
        }
        metric.update([pred], [true])
    with silent():
        return float(metric.compute()["map"])
