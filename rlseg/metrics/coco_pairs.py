"""Overlapping pairs of detected and true masks: from run lengths, dense masks or label maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlseg.errors import ShapeError
from rlseg.metrics.coco_matching import Bools, Floats, Ints
from rlseg.metrics.coco_records import Detected, MaskPairs, Truths, ranked
from rlseg.metrics.overlap import Overlap
from rlseg.rle import Runs, intersections

CHUNK_PAIRS = 1 << 17  # pairs of one image and category looked at at a time: bounds memory

CHUNK_WORDS = 1 << 16  # words of 64 pixels compared at a time when all pairs are taken at once

Masks = Tensor | NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePairs:
    """Masks of one image: their areas, and the overlapping pairs of equal category."""

    pred: Ints
    """Position of the detection, [P]."""
    true: Ints
    """Position of the truth, [P]."""
    iou: Floats
    """Common pixels by pixels of the union (of the detection, if the truth is a crowd), [P]."""
    pred_area: Ints
    """Pixels of each detection, [M]."""
    true_area: Ints
    """Pixels of each truth, [N]."""


def run_pairs(
    detected: Detected,
    truths: Truths,
    detected_runs: Runs,
    true_runs: Runs,
    *,
    limit: int | None = None,
) -> MaskPairs:
    """Overlapping pairs of run-length masks, within image and category.

    Args:
        detected: M detections.
        truths: N truths.
        detected_runs: their masks, M.
        true_runs: their masks, N; those of one image have one size.
        limit: only this many detections of each image and category are compared, those with the
            best scores (ties: file order). Scores at `max_dets` need no more than its largest.

    Returns:
        Pairs with common pixels, by detection, then truth.

    Raises:
        ShapeError: another number of masks than of instances, or two sizes in one image.
    """
    check_masks(truths, detected, true_runs, detected_runs)
    own, others = _groups(detected, truths)
    chosen = np.arange(len(own)) if limit is None else _best(own, detected.score, limit)
    boxes, true_boxes = detected_runs.boxes(), true_runs.boxes()
    area, true_area = detected_runs.areas(), true_runs.areas()
    parts = []
    for place, truth in _candidates(own[chosen], others):
        found = chosen[place]
        close = _meet(boxes[found], true_boxes[truth])
        found, truth = found[close], truth[close]
        common = intersections(detected_runs, true_runs, found, truth)
        kept = common > 0
        found, truth = found[kept], truth[kept]
        iou = _iou(common[kept], area[found], true_area[truth], truths.crowd[truth])
        parts.append((found, truth, iou))
    found, truth, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return MaskPairs(detection=found, truth=truth, iou=iou)


def table_pairs(
    table: Overlap, pred_categories: Ints, true_categories: Ints, crowd: Bools | None = None
) -> ImagePairs:
    """Overlapping pairs of the instances of two label maps, from their joint counts.

    Args:
        table: of the predicted and the true map.
        pred_categories: of the M predicted instances in ascending order of their ids.
        true_categories: of the N true instances in ascending order of their ids.
        crowd: bool [N], true instances that are crowds; None = none.

    Raises:
        ShapeError: another number of categories than of instances.
    """
    area, true_area = table.pred_area[1:], table.true_area[1:]
    own, true, crowds = _categories(
        pred_categories, true_categories, crowd, len(area), len(true_area)
    )
    inside = (table.pred_index > 0) & (table.true_index > 0)
    i, j = table.pred_index[inside] - 1, table.true_index[inside] - 1
    same = own[i] == true[j]
    i, j, common = i[same], j[same], table.count[inside][same]
    iou = _iou(common, area[i], true_area[j], crowds[j])
    return ImagePairs(pred=i, true=j, iou=iou, pred_area=area, true_area=true_area)


def dense_pairs(
    pred_masks: Masks,
    true_masks: Masks,
    pred_categories: Ints,
    true_categories: Ints,
    crowd: Bools | None = None,
) -> ImagePairs:
    """Overlapping pairs of the dense masks of one image; masks may overlap each other.

    Args:
        pred_masks: bool or integer [M, *S], any non-zero value is inside. Fastest: contiguous
            bool or uint8.
        true_masks: the same, [N, *S].
        pred_categories: of the detections, [M].
        true_categories: of the truths, [N].
        crowd: bool [N], truths that are crowds; None = none.

    Raises:
        ShapeError: another dtype, sizes differ, or another number of categories than of masks.
    """
    pred, true = _masks(pred_masks, "pred_masks"), _masks(true_masks, "true_masks")
    if pred.shape[1:] != true.shape[1:]:
        raise ShapeError(
            f"pred_masks have size {list(pred.shape[1:])} but true_masks {list(true.shape[1:])}; "
            "masks are compared pixel by pixel and never resized: make them equal"
        )
    own, others, crowds = _categories(pred_categories, true_categories, crowd, len(pred), len(true))
    bits, true_bits = _packed(pred), _packed(true)
    area, true_area = _count(bits), _count(true_bits)
    i, j, common = _common(bits, true_bits, own[:, None] == others)
    kept = common > 0
    i, j, common = i[kept], j[kept], common[kept]
    iou = _iou(common, area[i], true_area[j], crowds[j])
    return ImagePairs(pred=i, true=j, iou=iou, pred_area=area, true_area=true_area)


def check_masks(truths: Truths, detected: Detected, true_runs: Runs, detected_runs: Runs) -> None:
    """Checks that each instance has a mask, and that the masks of an image have one size.

    Raises:
        ShapeError: they do not.
    """
    for what, runs, record in (
        ("truths", true_runs, truths),
        ("detections", detected_runs, detected),
    ):
        if len(runs) != len(record):
            raise ShapeError(f"{len(record)} {what} came with {len(runs)} masks; give one for each")
    images = np.concatenate((truths.image, detected.image))
    sizes = np.concatenate((true_runs.sizes, detected_runs.sizes))
    _, first, image = np.unique(images, return_index=True, return_inverse=True)
    differs = np.flatnonzero((sizes != sizes[first][image]).any(axis=1))
    if len(differs):
        wrong = int(differs[0])
        raise ShapeError(
            f"image {images[wrong]} has masks of size {sizes[first][image][wrong].tolist()} and of "
            f"{sizes[wrong].tolist()}; masks of one image must have its size"
        )


def _masks(masks: Masks, what: str) -> NDArray[Any]:
    """The masks as a contiguous array of bool or uint8."""
    array = masks.detach().cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
    if array.ndim < 2 or array.dtype.kind not in "iub":
        raise ShapeError(
            f"{what} has shape {list(array.shape)} and dtype {array.dtype}; expected bool or "
            "integers [number, *size]"
        )
    if array.dtype.itemsize > 1:
        array = array != 0
    return np.ascontiguousarray(array)


def _packed(masks: NDArray[Any]) -> NDArray[np.uint64]:
    """Masks as bits, [N, words]; the last word is filled up with zeros."""
    number, pixels = len(masks), prod(masks.shape[1:])
    words = -(-pixels // 64)
    if pixels % 64 == 0:  # all in one go is twice as fast as row by row
        return np.packbits(masks.reshape(-1)).view(np.uint64).reshape(number, words)
    packed = np.packbits(masks.reshape(number, pixels), axis=1)
    bits = np.zeros((number, 8 * words), dtype=np.uint8)
    bits[:, : packed.shape[1]] = packed
    return bits.view(np.uint64)


def _count(bits: NDArray[np.uint64]) -> Ints:
    """Set bits of each row."""
    # A mask has fewer than 2^32 pixels; the narrow type is twice as fast.
    counts: NDArray[np.uint32] = np.bitwise_count(bits).sum(axis=1, dtype=np.uint32)
    return counts.astype(np.int64)


def _common(
    bits: NDArray[np.uint64], true_bits: NDArray[np.uint64], same: Bools
) -> tuple[Ints, Ints, Ints]:
    """Pairs `same` [M, N] that may have common pixels, and how many, [P] each."""
    i, j = np.nonzero(same)
    if len(i) * bits.shape[1] <= CHUNK_WORDS:
        return i, j, _count(bits[i] & true_bits[j])
    # Many pairs or large masks: drop those that lie apart, and compare only where the detection is.
    (low, high), (true_low, true_high) = _spans(bits), _spans(true_bits)
    close = (low[i] < true_high[j]) & (true_low[j] < high[i])
    i, j = i[close], j[close]
    begins = np.searchsorted(i, np.arange(len(bits) + 1))
    common = np.zeros(len(i), dtype=np.int64)
    for number in np.flatnonzero(np.diff(begins)):
        pairs = slice(begins[number], begins[number + 1])
        words = slice(low[number], high[number])
        common[pairs] = _count(bits[number, words] & true_bits[j[pairs], words])
    return i, j, common


def _spans(bits: NDArray[np.uint64]) -> tuple[Ints, Ints]:
    """First word of each row with a set bit, and the end of the last one; 0 and 0 if none."""
    filled = bits != 0
    low = filled.argmax(axis=1)
    high = bits.shape[1] - filled[:, ::-1].argmax(axis=1)
    return low, np.where(filled.any(axis=1), high, 0)


def _categories(
    pred: Any, true: Any, crowd: Any, instances: int, truths: int
) -> tuple[Ints, Ints, Bools]:
    """Categories of both sides and the crowds, checked against the number of instances."""
    crowds = np.zeros(truths, dtype=np.bool_) if crowd is None else np.asarray(crowd)
    own, others = np.asarray(pred), np.asarray(true)
    for name, values, size, kinds in (
        ("pred_categories", own, instances, "iu"),
        ("true_categories", others, truths, "iu"),
        ("crowd", crowds, truths, "b"),
    ):
        if values.shape != (size,) or (size and values.dtype.kind not in kinds):
            wanted = "bool" if kinds == "b" else "integers"
            raise ShapeError(
                f"{name} has shape {list(values.shape)} and dtype {values.dtype}; expected "
                f"{wanted} [{size}], one for each instance"
            )
    return own.astype(np.int64, copy=False), others.astype(np.int64, copy=False), crowds


def _iou(common: Ints, area: Ints, true_area: Ints, crowd: Bools) -> Floats:
    """One division of integers each: a 3/5 overlap compares equal to 0.6."""
    return common / (area + np.where(crowd, 0, true_area - common))


def _meet(boxes: Ints, true_boxes: Ints) -> Bools:
    """Whether two boxes [x, y, w, h] have a common pixel, [P]."""
    low = np.maximum(boxes[:, :2], true_boxes[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], true_boxes[:, :2] + true_boxes[:, 2:])
    meet: Bools = (low < high).all(axis=1)
    return meet


def _groups(detected: Detected, truths: Truths) -> tuple[Ints, Ints]:
    """Numbers of the image and category of each detection [M] and truth [N]."""
    keys = np.concatenate(
        (
            np.stack((detected.image, detected.category), axis=1),
            np.stack((truths.image, truths.category), axis=1),
        )
    )
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    group = np.empty(len(keys), dtype=np.int64)
    group[order] = np.cumsum(np.any(np.diff(ordered, axis=0, prepend=ordered[:1]), axis=1))
    return group[: len(detected)], group[len(detected) :]


def _best(group: Ints, score: Floats, limit: int) -> Ints:
    """Positions of the `limit` best of each group, in file order."""
    if not len(group) or np.bincount(group).max() <= limit:
        return np.arange(len(group))
    return np.sort(ranked(group, score, limit)[0])


def _candidates(own: Ints, others: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Positions of all pairs of one group, in parts (one at least); by detection, then truth."""
    by_group = np.argsort(others, kind="stable")
    sizes = np.bincount(others, minlength=int(own.max(initial=-1)) + 1)
    first, count = (np.cumsum(sizes) - sizes)[own], sizes[own]
    total = np.concatenate(([0], np.cumsum(count)))
    begin = 0
    while True:
        end = int(np.searchsorted(total, total[begin] + CHUNK_PAIRS, side="right")) - 1
        end = min(max(end, begin + 1), len(own))
        number = count[begin:end]
        found = np.repeat(np.arange(begin, end), number)
        offset = np.arange(len(found)) - np.repeat(total[begin:end] - total[begin], number)
        yield found, by_group[first[found] + offset]
        begin = end
        if begin >= len(own):
            return
