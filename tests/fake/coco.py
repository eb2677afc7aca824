"""COCO data sets and result lists of random discs, and what pycocotools finds for them."""

import contextlib
import copy
import io

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

KEYS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def disc(height, width, row, column, radius):
    rows, columns = np.ogrid[:height, :width]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def compressed(mask):
    """The mask as pycocotools writes it, with text instead of bytes."""
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}


def listed(mask):
    """The same as a list of counts."""
    flat = np.concatenate(([False], mask.T.reshape(-1)))
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return {
        "size": list(mask.shape),
        "counts": np.diff(np.concatenate(([0], changes, [mask.size]))).tolist(),
    }


def random_problem(seed, images=4, categories=3, largest=40, first_id=1, lists=False, crowds=True):
    """(data set, results): discs with noisy copies of them, score ties, an image without truth."""
    random = np.random.default_rng(seed)
    truth = {
        "images": [],
        "categories": [{"id": 2 * k + 1, "name": f"kind {k}"} for k in range(categories)],
        "annotations": [],
    }
    results = []
    for image in random.permutation(images).tolist():
        height, width = (int(side) for side in random.integers(60, 150, size=2))
        truth["images"].append(
            {"id": 10 * image, "file_name": f"{image}.jpg", "height": height, "width": width}
        )
        for _ in range(int(random.integers(0, 12)) if image else 0):
            place = random.uniform((0, 0, 1), (height, width, largest))
            mask, category = disc(height, width, *place), int(random.integers(categories))
            as_list = lists and random.random() < 0.5
            truth["annotations"].append(
                {
                    "id": first_id + len(truth["annotations"]),
                    "image_id": 10 * image,
                    "category_id": 2 * category + 1,
                    "segmentation": listed(mask) if as_list else compressed(mask),
                    "area": int(mask.sum()),
                    "iscrowd": int(crowds and random.random() < 0.15),
                }
            )
            for _ in range(int(random.integers(0, 4))):
                near = place * (1, 1, random.uniform(0.8, 1.2)) + (*random.normal(0, 2, 2), 0)
                found = disc(height, width, *near)
                kind = category if random.random() < 0.8 else int(random.integers(categories))
                results.append(result(found, 10 * image, 2 * kind + 1, random, lists))
        for _ in range(3):
            place = random.uniform((0, 0, 1), (height, width, largest))
            kind = int(random.integers(categories))
            results.append(
                result(disc(height, width, *place), 10 * image, 2 * kind + 1, random, lists)
            )
    random.shuffle(results)
    return truth, results


def result(mask, image, category, random, lists=False):
    return {
        "image_id": image,
        "category_id": category,
        "segmentation": listed(mask) if lists and random.random() < 0.5 else compressed(mask),
        "score": round(float(random.random()), 1),  # many ties
    }


def official(truth, results, max_dets=(1, 10, 100)):
    """(the twelve numbers by name, AP per category) of pycocotools; nan where it says -1."""
    truth, results = copy.deepcopy(truth), copy.deepcopy(results)
    for entry in [*truth["annotations"], *results]:
        code = entry["segmentation"]
        if isinstance(code, dict) and isinstance(code["counts"], list):
            entry["segmentation"] = coco_mask.frPyObjects(code, *code["size"])
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = truth
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(results), "segm")
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]

    def mean(values):
        return float(np.mean(values[values > -1])) if (values > -1).any() else float("nan")

    best = precision[..., -1]  # [T, R, K, A]
    numbers = {
        "ap": mean(best[..., 0]),
        "ap50": mean(best[0, ..., 0]),
        "ap75": mean(best[5, ..., 0]),
    }
    areas = enumerate(("small", "medium", "large"), start=1)
    for area, name in areas:
        numbers[f"ap_{name}"] = mean(best[..., area])
        numbers[f"ar_{name}"] = mean(recall[:, :, area, -1])
    for index, limit in enumerate(max_dets):
        numbers[f"ar{limit}"] = mean(recall[:, :, 0, index])
    per_category = [mean(best[:, :, k, 0]) for k in range(best.shape[2])]
    return numbers, per_category
