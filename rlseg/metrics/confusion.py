"""Pixels of every true class predicted as every class: the counts behind all semantic scores."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlseg.errors import ConfigError, ShapeError
from rlseg.metrics.overlap import LabelMap, as_mask

IGNORE = 255
"""Class id of pixels that do not count, after loading."""
MAX_CLASSES = 4096
"""Most classes of a confusion matrix: 16.8 million cells, 128 MiB."""

BYTE_CLASSES = 255  # up to here, class ids and one id for all others fit a byte
BYTE_VALUES = 256
CHUNK_PIXELS = 1 << 17  # pixels counted at a time: both maps and their key stay in cache
INT16_CELLS = 1 << 15

Counts = Tensor | NDArray[Any]
Ints = NDArray[np.int64]


@overload
def confusion_matrix(
    pred: Tensor,
    true: LabelMap,
    classes: int,
    *,
    ignore: int | None = IGNORE,
    valid: LabelMap | None = None,
) -> Tensor: ...
@overload
def confusion_matrix(
    pred: NDArray[Any],
    true: LabelMap,
    classes: int,
    *,
    ignore: int | None = IGNORE,
    valid: LabelMap | None = None,
) -> NDArray[np.int64]: ...
def confusion_matrix(
    pred: LabelMap,
    true: LabelMap,
    classes: int,
    *,
    ignore: int | None = IGNORE,
    valid: LabelMap | None = None,
) -> Counts:
    """Number of pixels of every true class (row) that were predicted as every class (column).

    Matrices of several images add up. Maps on the CPU are counted in one pass, 8-bit ones
    fastest; maps on a GPU are counted there, and the host waits once, for the check of the ids.

    Args:
        pred: integer or bool [*S], any axes (a batch too); class ids.
        true: the same, same shape.
        classes: K, at least 1.
        ignore: id of true pixels that do not count, outside 0..K-1; None = all count.
        valid: bool [*S]; where it is False, pixels do not count. None = count all.

    Returns:
        int64 [K, K], `confusion[true, pred]`; a tensor on the device of `pred`, or an array if
        `pred` is an array.

    Raises:
        ConfigError: K is not in 1..4096, or `ignore` is one of the classes.
        ShapeError: shapes differ, a map holds no integers, or a counted pixel has an id outside
            0..K-1 (the message says which, how many, and where the first is).
    """
    check_classes(classes, ignore)
    for what, labels in (("pred", pred), ("true", true)):
        _check_dtype(labels, what)
    if tuple(pred.shape) != tuple(true.shape):
        raise ShapeError(
            f"pred has shape {list(pred.shape)} but true has shape {list(true.shape)}; class maps "
            "are compared pixel by pixel and never resized: make them equal"
        )
    if isinstance(pred, Tensor) and pred.device.type != "cpu":
        table, bad = _count_on_device(pred, true, classes, ignore, valid)
        found = bool(bad)
    else:
        flat_pred, flat_true = (as_array(x).reshape(-1) for x in (pred, true))
        if valid is not None:
            keep = as_mask(valid, tuple(pred.shape)).reshape(-1)
            flat_pred, flat_true = flat_pred[keep], flat_true[keep]
        counted, found = _count(flat_pred, flat_true, classes, ignore)
        table = torch.from_numpy(counted)
    if found:
        _refuse(as_array(pred), as_array(true), classes, ignore, valid)
    return table if isinstance(pred, Tensor) else table.numpy()


def check_classes(classes: int, ignore: int | None) -> None:
    """Nothing, if the number of classes and the ignore id fit each other.

    Raises:
        ConfigError: K is not in 1..4096, or `ignore` is one of the classes.
    """
    if not 1 <= classes <= MAX_CLASSES:
        raise ConfigError(
            f"number of classes must be in 1..{MAX_CLASSES}, got {classes}: class ids are 0, 1 ... "
            "without gaps; renumber them if they are larger"
        )
    if ignore is not None and 0 <= ignore < classes:
        raise ConfigError(
            f"ignore id {ignore} is one of the classes 0..{classes - 1}; a class is scored or "
            "ignored: choose another ignore id, or fewer classes"
        )


def _count(
    pred: NDArray[Any], true: NDArray[Any], classes: int, ignore: int | None
) -> tuple[Ints, bool]:
    """Confusion matrix of flat maps, and whether a counted pixel has an id that is no class."""
    table = np.zeros((classes, classes), dtype=np.int64)
    size = max(CHUNK_PIXELS, classes**2)  # a chunk is never smaller than the table it fills
    for start in range(0, len(pred), size):
        p, t = pred[start : start + size], true[start : start + size]
        narrow = [_as_bytes(x) for x in (p, t)] if classes <= BYTE_CLASSES else [None]
        if narrow[0] is not None and narrow[-1] is not None:
            part, bad = _count_bytes(narrow[0], narrow[-1], classes, ignore)
        else:
            part, bad = _count_any(p, t, classes, ignore)
        if bad:
            return table, True
        table += part
    return table, False


def _as_bytes(labels: NDArray[Any]) -> NDArray[np.uint8] | None:
    """The ids as writable bytes, or None if they do not fit."""
    if labels.dtype == np.uint8:
        # A copy of a chunk costs less than torch's warning about arrays it might write to.
        return labels if labels.flags.writeable else labels.copy()
    if labels.dtype != np.bool_ and (labels.min() < 0 or labels.max() >= BYTE_VALUES):
        return None
    return labels.astype(np.uint8)


def _count_bytes(
    pred: NDArray[np.uint8], true: NDArray[np.uint8], classes: int, ignore: int | None
) -> tuple[Ints, bool]:
    """One histogram over keys `true * (K + 1) + pred`, in which K stands for every other id.

    The ids are checked in the histogram: no pass over the pixels is spent on that.
    """
    # torch counts keys of one or two bytes as they are; numpy would first copy them to eight.
    p, t = (torch.from_numpy(x).clamp(max=classes) for x in (pred, true))
    side = classes + 1
    small = torch.int16 if side**2 <= INT16_CELLS else torch.int32
    key = t.to(torch.uint8 if side**2 <= BYTE_VALUES else small).mul_(side).add_(p)
    table = torch.bincount(key, minlength=side**2).numpy().reshape(side, side)
    others = int(table[classes].sum())
    ignored = 0
    if others and ignore is not None and 0 <= ignore < BYTE_VALUES:
        ignored = int(np.count_nonzero(true == ignore))
    bad = others > ignored or bool(table[:classes, classes].any())
    return table[:classes, :classes], bad


def _count_any(
    pred: NDArray[Any], true: NDArray[Any], classes: int, ignore: int | None
) -> tuple[Ints, bool]:
    """The same for ids of any size; numpy compares every integer type exactly."""
    if ignore is not None:
        keep = true != ignore
        pred, true = pred[keep], true[keep]
    if any(bool(((x < 0) | (x >= classes)).any()) for x in (pred, true)):
        return np.zeros((classes, classes), dtype=np.int64), True
    key = true.astype(np.int64) * classes + pred.astype(np.int64)
    return np.bincount(key, minlength=classes**2).reshape(classes, classes), False


def _count_on_device(
    pred: Tensor, true: LabelMap, classes: int, ignore: int | None, valid: LabelMap | None
) -> tuple[Tensor, Tensor]:
    """Confusion matrix and whether an id is wrong, both on the device of `pred`."""
    p = pred.reshape(-1).long()
    t = _moved(true, pred.device).reshape(-1).long()
    counted = torch.ones_like(t, dtype=torch.bool) if ignore is None else t != ignore
    if valid is not None:
        mask = _moved(valid, pred.device)
        if mask.dtype != torch.bool or mask.shape != pred.shape:
            raise ShapeError(
                f"valid has shape {list(mask.shape)} and dtype {mask.dtype}; expected bool "
                f"{list(pred.shape)}, as the class maps"
            )
        counted &= mask.reshape(-1)
    wrong = counted & ((p < 0) | (p >= classes) | (t < 0) | (t >= classes))
    cells = classes**2
    key = torch.where(counted & ~wrong, t * classes + p, cells)  # one more cell for all the rest
    table = torch.bincount(key, minlength=cells + 1)[:cells]
    return table.reshape(classes, classes), wrong.any()


def _refuse(
    pred: NDArray[Any],
    true: NDArray[Any],
    classes: int,
    ignore: int | None,
    valid: LabelMap | None,
) -> None:
    """Raises the error that says which ids are wrong, how many, and where."""
    counted = np.ones(true.shape, dtype=bool) if ignore is None else true != ignore
    if valid is not None:
        counted &= as_mask(valid, true.shape)
    for what, labels in (("true", true), ("pred", pred)):
        wrong = counted & ((labels < 0) | (labels >= classes))
        number = np.count_nonzero(wrong)
        if not number:
            continue
        where = np.unravel_index(int(wrong.argmax()), wrong.shape)
        position = ", ".join(str(int(i)) for i in where)
        known = f"0..{classes - 1}" + ("" if ignore is None else f" (ignored: {ignore})")
        advice = "" if what == "pred" else ", or name the id to ignore"
        raise ShapeError(
            f"{what} holds {int(labels[where])} at [{position}], and {number} counted pixels in "
            f"all that are no class; classes are {known}: map the ids first{advice}"
        )


def _check_dtype(labels: LabelMap, what: str) -> None:
    if isinstance(labels, Tensor):
        whole = not (labels.dtype.is_floating_point or labels.dtype.is_complex)
    else:
        whole = labels.dtype.kind in "biu"
    if not whole:
        raise ShapeError(f"{what} has dtype {labels.dtype}; class maps hold integers: convert it")


def _moved(values: LabelMap, device: torch.device) -> Tensor:
    # The copy is writable, which torch wants of an array.
    given = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    return given.to(device)


def as_array(values: Counts) -> NDArray[Any]:
    """The values on the host, not copied if they are there."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
