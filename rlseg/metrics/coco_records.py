"""Annotated and detected instances as arrays, checked where they enter the COCO scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rlseg.errors import ConfigError, ShapeError
from rlseg.metrics.coco_matching import Bools, Floats, Ints

Ids = Ints | Sequence[int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Truths:
    """Annotated instances of a data set, in the order of its annotations."""

    image: Ints
    """Image id of each, [N]; any integers."""
    category: Ints
    """Category id of each, [N]; any integers."""
    area: Floats
    """Area that decides on the area range, [N]; as given by the annotation, else of the mask."""
    crowd: Bools
    """Regions of many instances: matched by any number of detections, never counted, [N]."""

    def __post_init__(self) -> None:
        _check_record(self)

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, kw_only=True, eq=False)
class Detected:
    """Scored instances that a model found, in the order of its file."""

    image: Ints
    """Image id of each, [M]."""
    category: Ints
    """Category id of each, [M]."""
    area: Floats
    """Pixels of the mask, [M]."""
    score: Floats
    """Confidence, finite, [M]; only its order matters."""

    def __post_init__(self) -> None:
        _check_record(self)

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskPairs:
    """Detections and truths of one image and category whose masks have common pixels."""

    detection: Ints
    """Position in `Detected`, [P]."""
    truth: Ints
    """Position in `Truths`, [P]."""
    iou: Floats
    """Common pixels by pixels of the union (of the detection, if the truth is a crowd), [P]."""

    def __post_init__(self) -> None:
        _check_record(self)

    def __len__(self) -> int:
        return len(self.detection)


def numbers(values: Ints, ids: Ints) -> Ints:
    """Position of each value among the ascending ids, -1 = not there; int64 [L]."""
    if len(ids) == 0:
        return np.full(len(values), -1, dtype=np.int64)
    values = values.astype(np.int64, copy=False)
    place = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
    return np.where(ids[place] == values, place, -1)


def histogram(values: Ints, size: int) -> Ints:
    """How often each of 0..size-1 occurs, int64 [size]; negative values are left out."""
    return np.bincount(values[values >= 0], minlength=size).astype(np.int64)


def ranked(group: Ints, score: Floats, limit: int) -> tuple[Ints, Ints]:
    """The best of each group >= 0: positions, by group and falling score, and ranks from 0.

    Args:
        group: of each, [L].
        score: of each, [L]; equal ones are taken in the order given.
        limit: how many of a group are kept.
    """
    inside = np.flatnonzero(group >= 0)
    order = inside[np.lexsort((-score[inside], group[inside]))]
    first = np.flatnonzero(np.diff(group[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    kept = rank < limit
    return order[kept], rank[kept]


def checked_ids(values: Ids, what: str) -> Ints:
    """The ids ascending, each once.

    Raises:
        ShapeError: not one axis of integers.
    """
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ShapeError(
            f"{what} has shape {list(array.shape)} and dtype {array.dtype}; expected a list of "
            "integer ids"
        )
    return np.unique(array.astype(np.int64))


def checked_limits(max_dets: Sequence[int]) -> tuple[int, ...]:
    """The limits on the detections per image and category.

    Raises:
        ConfigError: not ascending positive integers.
    """
    limits = tuple(max_dets)
    whole = all(isinstance(limit, (int, np.integer)) for limit in limits)
    if not limits or not whole or min(limits) < 1 or any(np.diff(limits) <= 0):
        raise ConfigError(
            f"max_dets is {list(limits)}; expected ascending positive integers such as 1 10 100"
        )
    return tuple(int(limit) for limit in limits)


KINDS = {"area": "iuf", "score": "f", "iou": "f", "crowd": "b"}  # others: integers


def _check_record(record: Any) -> None:
    """Checks that the fields are arrays of one length with numbers of the right kind."""
    columns = {field.name: getattr(record, field.name) for field in fields(record)}
    kind = type(record).__name__
    length = np.shape(next(iter(columns.values())))
    for name, column in columns.items():
        if not isinstance(column, np.ndarray) or column.ndim != 1 or column.shape != length:
            raise ShapeError(
                f"{kind}.{name} has shape {list(np.shape(column))}; expected an array "
                f"{list(length)}, one entry per instance as in the other fields"
            )
        if column.dtype.kind not in KINDS.get(name, "iu"):
            raise ShapeError(f"{kind}.{name} has dtype {column.dtype}; convert it")
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            index = int(np.flatnonzero(~np.isfinite(column))[0])
            raise ConfigError(
                f"{kind}.{name}[{index}] is {column[index]}; every entry must be finite"
            )


def check_pairs(truths: Truths, detected: Detected, pairs: MaskPairs) -> None:
    """Checks that the pairs point into both records and stay within image and category."""
    for name, column, size in (
        ("detection", pairs.detection, len(detected)),
        ("truth", pairs.truth, len(truths)),
    ):
        if len(column) and (column.min() < 0 or column.max() >= size):
            raise ShapeError(
                f"MaskPairs.{name} has entries {column.min()} to {column.max()}, but there are "
                f"{size}; give positions in the record"
            )
    for name in ("image", "category"):
        left = getattr(detected, name)[pairs.detection]
        right = getattr(truths, name)[pairs.truth]
        if (left != right).any():
            index = int(np.flatnonzero(left != right)[0])
            raise ShapeError(
                f"pair {index} joins {name} {left[index]} with {name} {right[index]}; only masks "
                f"of one {name} are compared"
            )
