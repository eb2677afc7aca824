"""Dense masks and label maps to run lengths; overlaps of run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlseg.errors import ShapeError
from rlseg.rle.runs import (
    Runs,
    empty_runs,
    from_changes,
    from_spans,
    from_zero,
    pieces,
    ranges,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_CHUNK = 1 << 17
"""Runs (of pairs) or 8-pixel words that are worked on at once, to stay in the cache."""


def encode(masks: Any) -> Runs:
    """Run lengths of dense masks.

    Args:
        masks: [H, W] or [N, H, W], bool or integers 0 and 1, array or tensor, any memory order.

    Raises:
        ShapeError: other axes, floats, or values besides 0 and 1.
    """
    array = _array(masks, "masks")
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise ShapeError(f"masks have shape {list(array.shape)}; expected [H, W] or [N, H, W]")
    number, height, width = array.shape
    sizes = np.tile(np.array([[height, width]], dtype=np.int64), (number, 1))
    if not array.size:
        return empty_runs(sizes)
    step = max(1, 8 * _CHUNK // (height * width))
    parts = [
        _changes(_binary(array[at : at + step])) + at * height * width
        for at in range(0, number, step)
    ]
    return from_changes(np.concatenate(parts), sizes)


def _binary(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The same values as uint8, if all are 0 or 1."""
    if array.dtype == bool:
        return array.view(np.uint8)
    if array.dtype.kind not in "iu":
        raise ShapeError(
            f"masks have dtype {array.dtype}; expected bool or integers 0 and 1: compare first"
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 1:
        wrong = low if low < 0 else high
        raise ShapeError(f"masks hold {wrong}; expected 0 and 1 only: compare with 0 first")
    return array.astype(np.uint8, copy=False)


def _changes(masks: NDArray[np.uint8]) -> Ints:
    """Places where masks [N, H, W] change, in ascending order; none of the axes is empty.

    Rows are compared with rows, which reads memory in order; only the few changes found are
    then brought into column order.
    """
    height, width = masks.shape[1:]
    padded = -(-masks.size // 8) * 8
    buffer = np.zeros(padded, dtype=np.uint8)
    differs = buffer[: masks.size].reshape(masks.shape)
    np.bitwise_xor(masks[:, 1:], masks[:, :-1], out=differs[:, 1:])
    np.bitwise_xor(masks[:, 0, 1:], masks[:, -1, :-1], out=differs[:, 0, 1:])
    differs[:, 0, 0] = masks[:, 0, 0]
    words = np.flatnonzero(buffer.view(np.uint64))  # changes are rare: look at 8 pixels at once
    word, byte = np.nonzero(buffer.reshape(-1, 8)[words])
    index = words[word] * 8 + byte
    row, column = np.divmod(index, width)
    mask, row = np.divmod(row, height)
    places: Ints = (mask * width + column) * height + row
    places.sort()
    return places


def encode_labels(labels: Any) -> tuple[Runs, NDArray[np.uint64]]:
    """One mask per instance of a label map.

    Args:
        labels: integer or bool [H, W], 0 = background, no negative value; array or tensor.

    Returns:
        (masks of the ids in ascending order, the ids, uint64 [N]).

    Raises:
        ShapeError: not two axes, not integers, or a negative value.
    """
    array = _array(labels, "labels")
    if array.ndim != 2 or array.dtype.kind not in "biu":
        raise ShapeError(
            f"labels have shape {list(array.shape)} and dtype {array.dtype}; "
            "expected integers [H, W]"
        )
    height, width = array.shape
    line = np.ascontiguousarray(array.T).reshape(-1)
    first = np.flatnonzero(line[1:] != line[:-1]) + 1
    first = np.concatenate([np.zeros(min(1, len(line)), dtype=np.int64), first])
    values, last = line[first], np.append(first[1:], len(line))
    if array.dtype.kind == "i" and len(values) and int(values.min()) < 0:
        raise ShapeError(f"labels hold {int(values.min())}; label maps have no negative values")
    some = values != 0
    first, last = first[some], last[some]
    ids, mask = np.unique(values[some], return_inverse=True)
    order = np.argsort(mask, kind="stable")
    mask = mask[order]
    shift = mask * (height * width)
    sizes = np.tile(np.array([[height, width]], dtype=np.int64), (len(ids), 1))
    runs = from_spans(first[order] + shift, last[order] + shift, mask, sizes)
    return runs, ids.astype(np.uint64)


def intersections(a: Runs, b: Runs, a_index: Ints, b_index: Ints) -> Ints:
    """int64 [P], the common pixels of pairs of masks.

    Args:
        a: masks.
        b: masks.
        a_index: int64 [P], the mask of `a` in each pair.
        b_index: int64 [P], the mask of `b`.

    Raises:
        ShapeError: two masks of a pair have different sizes.
    """
    a_index, b_index = np.asarray(a_index, np.int64), np.asarray(b_index, np.int64)
    different = np.flatnonzero((a.sizes[a_index] != b.sizes[b_index]).any(axis=1))
    if len(different):
        i, j = int(a_index[different[0]]), int(b_index[different[0]])
        raise ShapeError(
            f"mask {i} has size {a.sizes[i].tolist()}, its partner {j} {b.sizes[j].tolist()}; "
            "only masks of one image have common pixels"
        )
    common = np.zeros(len(a_index), dtype=np.int64)
    low = np.maximum(a._boxes[a_index, :2], b._boxes[b_index, :2])
    high = np.minimum(
        (a._boxes[:, :2] + a._boxes[:, 2:])[a_index], (b._boxes[:, :2] + b._boxes[:, 2:])[b_index]
    )
    meet = np.flatnonzero((low < high).all(axis=1))
    a_index, b_index = a_index[meet], b_index[meet]
    # Only runs in the columns that both boxes have can matter.
    height = a.sizes[a_index, 0]
    begin, end = (
        a.offsets[a_index] + low[meet, 0] * height,
        a.offsets[a_index] + high[meet, 0] * height,
    )
    lower = np.searchsorted(a.spans[1], begin, side="right")
    number = np.searchsorted(a.spans[0], end) - lower
    shift = b.offsets[b_index] - a.offsets[a_index]
    for part in pieces(number, _CHUNK):
        common[meet[part]] = _common(a, b, lower[part], number[part], shift[part])
    return common


def _common(a: Runs, b: Runs, lower: Ints, number: Ints, shift: Ints) -> Ints:
    """Pixels of `b` (at their place plus `shift`) under `number` runs of ones of `a`."""
    spans = ranges(lower, number)
    moved = np.repeat(shift, number)
    places = np.stack([a.spans[0][spans] + moved, a.spans[1][spans] + moved], axis=1).reshape(-1)
    index = np.searchsorted(b.spans[0], places, side="right")
    # Ones of b in front of a place: those of runs that began, less what of the last one remains.
    behind = np.concatenate([[0], b.spans[1]])[index]
    ones = b._ones_before[index] - np.maximum(behind - places, 0)
    total = from_zero(ones[1::2] - ones[::2])
    return np.diff(total[from_zero(number)])


def iou(a: Runs, b: Runs, crowd: Bools | None = None) -> Floats:
    """float64 [A, B], common pixels of every pair divided by those of either.

    Args:
        a: A masks.
        b: B masks, all of the same size as those of `a`.
        crowd: bool [B]; for these the divisor is the area in `a`. Two empty masks give 0.

    Raises:
        ShapeError: the sizes differ, or `crowd` has another length.
    """
    crowd = np.zeros(len(b), dtype=bool) if crowd is None else np.asarray(crowd, dtype=bool)
    if crowd.shape != (len(b),):
        raise ShapeError(f"crowd has shape {list(crowd.shape)}; expected [{len(b)}], one per mask")
    i, j = np.divmod(np.arange(len(a) * len(b)), max(len(b), 1))
    common = intersections(a, b, i, j).reshape(len(a), len(b))
    area = a.areas()[:, None]
    divisor = np.where(crowd, area, area + b.areas() - common)
    return common / np.maximum(divisor, 1)


def _array(values: Any, name: str) -> NDArray[Any]:
    """An array as it is; a tensor brought to the CPU."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ShapeError(f"{name} have dtype {array.dtype}; expected an array of numbers")
    return array
