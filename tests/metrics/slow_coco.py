"""Slow references for COCO scores, written from the definition, and random problems."""

import contextlib
import io
from dataclasses import dataclass

import numpy as np

AREAS = [(0, 1e10), (0, 1024), (1024, 9216), (9216, 1e10)]


@dataclass
class Problem:
    """A tiny data set: lists of dicts with dense masks."""

    images: dict  # id -> (height, width)
    categories: list
    truths: list  # image, category, mask, area, crowd
    detected: list  # image, category, mask, score
    max_dets: tuple = (1, 10, 100)
    first_id: int = 1


def rectangle(shape, top, left, height, width):
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def random_mask(rng, shape):
    """Few distinct positions and sizes, so that equal IoUs are common."""
    height, width = shape
    kind = rng.integers(10)
    if kind == 0:
        return np.zeros(shape, dtype=bool)
    if kind == 1:  # exactly at a boundary of the area ranges
        side = 32 if rng.random() < 0.5 else 96
        return rectangle(shape, rng.integers(0, 3), rng.integers(0, 3), side, side)
    if kind == 2:
        return rng.random(shape) < 0.5
    high, wide = rng.choice([2, 4, 8, 40, 100], 2)
    step = rng.choice([1, 2])
    top, left = rng.integers(0, 4, 2) * step
    return rectangle(shape, top % height, left % width, high, wide)


def jittered(rng, mask):
    moved = np.roll(mask, tuple(rng.integers(-1, 2, 2)), (0, 1))
    return mask.copy() if rng.random() < 0.3 else moved


def random_problem(rng):
    n_images, n_categories = rng.integers(1, 5), rng.integers(1, 4)
    ids = np.sort(rng.choice(40, n_images, replace=False)).tolist()
    shapes = [(100, 104), (16, 12), (9, 7)]
    images = {i: shapes[rng.choice(3, p=[0.3, 0.4, 0.3])] for i in ids}
    categories = np.sort(rng.choice(50, n_categories, replace=False)).tolist()
    truths, detected = [], []
    crowding, given = rng.choice([0, 0.3]), rng.choice([0, 0.4])
    for image, shape in images.items():
        role = rng.integers(5)
        masks = []
        for _ in range(0 if role == 0 else rng.integers(0, 7)):
            mask = random_mask(rng, shape)
            masks.append(mask)
            area = float(mask.sum())
            if rng.random() < given:
                area = float(rng.choice([0, 10.5, 1024, 1024.5, 9216, 9217, 20000]))
            truths.append(
                {
                    "image": image,
                    "category": int(rng.choice(categories)),
                    "mask": mask,
                    "area": area,
                    "crowd": bool(rng.random() < crowding),
                }
            )
        for _ in range(0 if role == 1 else rng.integers(0, 14)):
            near = masks and rng.random() < 0.7
            mask = jittered(rng, masks[rng.integers(len(masks))]) if near else None
            detected.append(
                {
                    "image": image,
                    "category": int(rng.choice(categories)),
                    "mask": random_mask(rng, shape) if mask is None else mask,
                    "score": float(rng.integers(0, 6) / 5),
                }
            )
    rng.shuffle(truths)
    rng.shuffle(detected)
    limits = [(1, 10, 100), (1, 50, 255), (1, 2, 3), (2,), (1, 3), (1, 2, 4, 8)]
    limit = limits[rng.integers(len(limits))]
    first_id = int(rng.random() < 0.7)
    return Problem(images, categories, truths, detected, limit, first_id)


def slow_iou(detected, truth):
    common = int(np.count_nonzero(detected["mask"] & truth["mask"]))
    union = int(np.count_nonzero(detected["mask"] | truth["mask"]))
    if truth["crowd"]:
        union = int(np.count_nonzero(detected["mask"]))
    return common / union if common else 0.0


def slow_match(detected, truths, ignored, threshold):
    """Position of the truth of each detection, or None; detections sorted by score."""
    free, taken = set(range(len(truths))), []
    for d in detected:
        best = None
        for wanted in (False, True):  # counted truths first
            for g in range(len(truths)):
                value = slow_iou(d, truths[g])
                if g not in free or ignored[g] != wanted or value < threshold:
                    continue
                if best is None or value >= best[0]:
                    best = (value, g)
            if best is not None:
                break
        taken.append(None if best is None else best[1])
        if best is not None and not truths[best[1]]["crowd"]:
            free.remove(best[1])
    return taken


def slow_outcomes(problem, image, category, area, limit, threshold):
    """Score and "hit", "miss" or "ignored" of each detection, and the truths that count."""
    low, high = area
    truths = [
        g | {"lost": problem.first_id == 0 and g is problem.truths[0]}
        for g in problem.truths
        if (g["image"], g["category"]) == (image, category)
    ]
    found = [d for d in problem.detected if (d["image"], d["category"]) == (image, category)]
    found = sorted(found, key=lambda d: -d["score"])[: max(problem.max_dets)]
    ignored = [g["crowd"] or not low <= g["area"] <= high for g in truths]
    rows = []
    for d, g in zip(found, slow_match(found, truths, ignored, threshold), strict=True):
        matched = g is not None and not truths[g]["lost"]
        outside = not low <= np.count_nonzero(d["mask"]) <= high
        if (g is not None and ignored[g]) or (not matched and outside):
            rows.append((d["score"], "ignored"))
        else:
            rows.append((d["score"], "hit" if matched else "miss"))
    return rows[:limit], ignored.count(False)


def slow_scores(problem, threshold, category, area, limit):
    """Precision at 101 recalls and largest recall; None without a truth that counts."""
    rows, total = [], 0
    for image in sorted(problem.images):
        more, count = slow_outcomes(problem, image, category, area, limit, threshold)
        rows += more
        total += count
    if total == 0:
        return None
    rows.sort(key=lambda row: -row[0])
    hits = misses = 0
    points = []
    for _, outcome in rows:
        hits += outcome == "hit"
        misses += outcome == "miss"
        points.append((hits / total, hits / (misses + hits + 2.0**-52)))
    curve = []
    for recall in np.linspace(0, 1, 101):
        curve.append(max((p for r, p in points if r >= recall), default=0.0))
    return curve, hits / total


def pycocotools_scores(problem):
    """Precision and recall arrays of pycocotools, -1 = undefined; None if it cannot run."""
    from pycocotools import mask as tools
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def encoded(mask):
        return tools.encode(np.asfortranarray(mask.astype(np.uint8)))

    truth, found = COCO(), COCO()
    truth.dataset = {
        "images": [{"id": i, "height": h, "width": w} for i, (h, w) in problem.images.items()],
        "categories": [{"id": c, "name": str(c)} for c in problem.categories],
        "annotations": [
            {
                "id": n + problem.first_id,
                "image_id": g["image"],
                "category_id": g["category"],
                "segmentation": encoded(g["mask"]),
                "area": g["area"],
                "iscrowd": int(g["crowd"]),
            }
            for n, g in enumerate(problem.truths)
        ],
    }
    found.dataset = truth.dataset | {
        "annotations": [
            {
                "id": n + 1,
                "image_id": d["image"],
                "category_id": d["category"],
                "segmentation": encoded(d["mask"]),
                "area": int(np.count_nonzero(d["mask"])),
                "iscrowd": 0,
                "score": d["score"],
            }
            for n, d in enumerate(problem.detected)
        ]
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, "segm")
        evaluation.params.maxDets = list(problem.max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def records(problem):
    """The problem as arrays: truths, detections, and lists of their masks."""
    from rlseg.metrics.coco import Detected, Truths

    def column(rows, key, dtype):
        return np.array([row[key] for row in rows], dtype=dtype)

    truths = Truths(
        image=column(problem.truths, "image", np.int64),
        category=column(problem.truths, "category", np.int64),
        area=column(problem.truths, "area", np.float64),
        crowd=column(problem.truths, "crowd", np.bool_),
    )
    found_area = [np.count_nonzero(d["mask"]) for d in problem.detected]
    detected = Detected(
        image=column(problem.detected, "image", np.int64),
        category=column(problem.detected, "category", np.int64),
        area=np.array(found_area, dtype=np.float64),
        score=column(problem.detected, "score", np.float64),
    )
    return truths, detected


def slow_pairs(problem):
    """Overlapping pairs, by comparing every mask with every other."""
    from rlseg.metrics.coco import MaskPairs

    rows = [
        (i, j, slow_iou(d, g))
        for i, d in enumerate(problem.detected)
        for j, g in enumerate(problem.truths)
        if (d["image"], d["category"]) == (g["image"], g["category"]) and slow_iou(d, g) > 0
    ]
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    found, truth, iou = columns
    return MaskPairs(
        detection=np.array(found, dtype=np.int64),
        truth=np.array(truth, dtype=np.int64),
        iou=np.array(iou, dtype=np.float64),
    )


def own_scores(problem, pairs=None):
    from rlseg.metrics.coco import coco_scores

    truths, detected = records(problem)
    return coco_scores(
        truths,
        detected,
        slow_pairs(problem) if pairs is None else pairs,
        images=list(problem.images),
        categories=problem.categories,
        max_dets=problem.max_dets,
        compat=0 if problem.first_id == 0 and problem.truths else None,
    )


def differences(scores, precision, recall):
    """Largest difference to arrays in which -1 is undefined; infinite if these differ."""
    largest = 0.0
    for ours, other in ((scores.precision, precision), (scores.recall, recall)):
        if ours.shape != other.shape or not np.array_equal(np.isnan(ours), other == -1):
            return np.inf
        defined = other != -1
        if defined.any():
            largest = max(largest, np.abs(ours[defined] - other[defined]).max())
    return largest
