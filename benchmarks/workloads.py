"""Made-up label maps and scored masks on which the metrics are timed; the same for everybody.

Everything follows from `numpy.random.default_rng(seed)`. Shapes are blobs: discs whose radius
varies with the angle, squeezed along one axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

HARMONICS = np.arange(1, 6)


class Blob(NamedTuple):
    """The outline of a blob, without place and size."""

    turn: float
    squeeze: float
    cosines: np.ndarray
    sines: np.ndarray


def outline(rng: np.random.Generator) -> Blob:
    return Blob(
        rng.uniform(0, np.pi),
        rng.uniform(0.6, 1),
        rng.normal(0, 0.18 / HARMONICS),
        rng.normal(0, 0.18 / HARMONICS),
    )


def inside(blob: Blob, centre, radius: float, shape) -> tuple[tuple[slice, slice], np.ndarray]:
    """Box of the blob within the image and which of its pixels belong to it."""
    reach = radius * max(0.3, 1 + np.abs(blob.cosines).sum() + np.abs(blob.sines).sum()) + 1
    box = tuple(
        slice(max(0, int(c - reach)), max(0, min(side, int(c + reach) + 2)))
        for c, side in zip(centre, shape, strict=True)
    )
    y, x = np.ogrid[box]
    dy, dx = y - centre[0], x - centre[1]
    along = dx * np.cos(blob.turn) + dy * np.sin(blob.turn)
    across = (dy * np.cos(blob.turn) - dx * np.sin(blob.turn)) / blob.squeeze
    angle = np.arctan2(across, along)[..., None] * HARMONICS
    wave = 1 + (np.cos(angle) * blob.cosines + np.sin(angle) * blob.sines).sum(-1)
    return box, np.hypot(along, across) <= radius * np.maximum(0.3, wave)


def numbered(labels: np.ndarray) -> np.ndarray:
    """The map with consecutive ids, int32."""
    present = np.zeros(int(labels.max()) + 1, dtype=bool)
    present[labels] = True
    present[0] = False
    return (np.cumsum(present) * present)[labels].astype(np.int32)


def label_map(rng: np.random.Generator, shape, number: int, mean: float, sd: float) -> np.ndarray:
    """Blobs at uniform places; later ones cover earlier ones."""
    labels = np.zeros(shape, dtype=np.int32)
    for i in range(number):
        centre = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        box, mask = inside(outline(rng), centre, max(2.0, rng.normal(mean, sd)), shape)
        labels[box][mask] = i + 1
    return numbered(labels)


def imperfect(rng: np.random.Generator, true: np.ndarray) -> np.ndarray:
    """A prediction: ids dropped, joined, shifted; new blobs, holes, other names."""
    number = int(true.max())
    names = np.arange(number + 1)
    for i in range(1, number + 1):
        if rng.random() < 0.08:
            names[i] = 0
        elif i > 1 and rng.random() < 0.05:
            names[i] = names[i - 1]
    shift = rng.integers(-2, 3, 2)
    labels = np.roll(names[true], tuple(shift), (0, 1))
    for i in range(round(0.05 * number)):
        centre = rng.uniform(0, true.shape[0]), rng.uniform(0, true.shape[1])
        box, mask = inside(outline(rng), centre, 12, true.shape)
        labels[box][mask] = number + 1 + i
    labels[rng.random(true.shape) < 0.01] = 0
    mixed = np.concatenate(([0], 1 + rng.permutation(int(labels.max()))))
    return numbered(mixed[labels])


Pairs = list[tuple[np.ndarray, np.ndarray]]


def pairs_of(seed: int, count: int, shape, blobs: tuple[int, float, float]) -> Pairs:
    """(prediction, truth) label maps, int32."""
    rng = np.random.default_rng(seed)
    truths = [label_map(rng, shape, *blobs) for _ in range(count)]
    return [(imperfect(rng, true), true) for true in truths]


def leaves(count: int = 100) -> Pairs:
    """b1: 530 x 500, about 20 leaves."""
    return pairs_of(0, count, (530, 500), (20, 42, 14))


def nuclei(count: int = 20) -> Pairs:
    """b2: 1000 x 1000, 560 nuclei."""
    return pairs_of(1, count, (1000, 1000), (560, 13, 4))


def volume_components() -> np.ndarray:
    """e1: uint32 [32, 512, 512]."""
    rng = np.random.default_rng(0)
    maps = [label_map(rng, (512, 512), 150, 25, 8) for _ in range(4)]
    return np.repeat(np.stack(maps).astype(np.uint32), 8, axis=0)


def neurons() -> tuple[np.ndarray, np.ndarray]:
    """f: (prediction, truth) int64 [32, 640, 640], about 800 ids."""
    rng = np.random.default_rng(0)
    first, second = (label_map(rng, (640, 640), 400, 28, 9) for _ in range(2))
    second = np.where(second > 0, second + first.max(), 0)
    true = np.repeat(np.stack([first, second]).astype(np.int64), 16, axis=0)
    names = np.arange(int(true.max()) + 1)
    for i in range(2, len(names)):
        if rng.random() < 0.1:
            names[i] = names[i - 1]
    return np.roll(names[true], (1, 2), (1, 2)), true


def sparse_ids(labels: np.ndarray, seed: int) -> np.ndarray:
    """The map with ids replaced by random uint64."""
    rng = np.random.default_rng(seed)
    names = rng.integers(1, 2**64, int(labels.max()) + 1, dtype=np.uint64)
    names[0] = 0
    return names[labels]


@dataclass
class Scene:
    """One image of workload a."""

    true_masks: np.ndarray
    """uint8 [N, 240, 320]."""
    true_categories: np.ndarray
    pred_masks: np.ndarray
    """uint8 [20, 240, 320]."""
    pred_categories: np.ndarray
    scores: np.ndarray
    true_areas: np.ndarray


SIDE = (240, 320)
CATEGORIES = 20
DETECTIONS = 20


def scored_masks(images: int = 500) -> list[Scene]:
    """a: truths and scored detections of 20 categories."""
    rng = np.random.default_rng(0)
    return [_scene(rng) for _ in range(images)]


def _scene(rng: np.random.Generator) -> Scene:
    number = max(1, int(rng.poisson(12)))
    true_masks = np.zeros((number, *SIDE), dtype=np.uint8)
    pred_masks = np.zeros((DETECTIONS, *SIDE), dtype=np.uint8)
    categories = rng.integers(1, CATEGORIES + 1, number)
    shapes = []
    for i in range(number):
        shapes.append((outline(rng), rng.uniform(0, SIDE, 2), float(np.exp(rng.normal(3.0, 0.6)))))
        box, mask = inside(*shapes[-1], SIDE)
        true_masks[i][box] = mask
    pred_categories = np.zeros(DETECTIONS, dtype=np.int64)
    scores = np.zeros(DETECTIONS)
    for j in range(DETECTIONS):
        if j < number and rng.random() < 0.85:
            blob, centre, radius = shapes[j]
            centre = centre + rng.normal(0, 0.08 * radius, 2)
            radius = radius * float(np.exp(rng.normal(0, 0.1)))
            kept = rng.random() < 0.9
            pred_categories[j] = categories[j] if kept else rng.integers(1, CATEGORIES + 1)
            scores[j] = rng.beta(5, 2)
        else:
            blob, centre = outline(rng), rng.uniform(0, SIDE, 2)
            radius = float(np.exp(rng.normal(3.0, 0.6)))
            pred_categories[j] = rng.integers(1, CATEGORIES + 1)
            scores[j] = rng.beta(2, 5)
        box, mask = inside(blob, centre, radius, SIDE)
        pred_masks[j][box] = mask
    areas = true_masks.reshape(number, -1).sum(1, dtype=np.int64)
    return Scene(true_masks, categories, pred_masks, pred_categories, scores, areas)


def painted(scenes: list[Scene]) -> list[tuple[np.ndarray, np.ndarray]]:
    """a2: the masks of each scene in one predicted and one true map, int32; id k + 1 = mask k."""
    maps = []
    for scene in scenes:
        pair = []
        for masks in (scene.pred_masks, scene.true_masks):
            labels = np.zeros(SIDE, dtype=np.int32)
            for k, mask in enumerate(masks):
                labels[mask > 0] = k + 1
            pair.append(labels)
        maps.append((pair[0], pair[1]))
    return maps
