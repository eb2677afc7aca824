"""One-to-one assignment on score matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rlseg.errors import ConfigError, ShapeError

Array = TypeVar("Array", Tensor, NDArray[Any])


@dataclass(frozen=True, kw_only=True, eq=False)
class Match(Generic[Array]):
    """Pairs of predictions and truths; each occurs at most once."""

    pred: Array
    """int64 [L], rows in ascending order."""
    true: Array
    """int64 [L], the column of each row."""
    iou: Array
    """Score of each pair, [L]."""


@overload
def assign(score: Tensor) -> tuple[Tensor, Tensor]: ...
@overload
def assign(score: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]: ...
def assign(score: Any) -> tuple[Any, Any]:
    """The one-to-one assignment with the largest total score (Hungarian method, by scipy).

    Args:
        score: real [M, N], every entry finite; M or N may be 0.

    Returns:
        Rows and columns, int64 [min(M, N)] each, rows ascending; tensors on the device of
        `score`, or arrays if it is an array. Several best assignments: scipy's choice, which
        is the same each time.

    Raises:
        ShapeError: not two axes, or complex or no numbers.
        ConfigError: an entry is NaN or infinite, so that no best assignment is defined.
    """
    values = _checked(score)
    rows, columns = linear_sum_assignment(values, maximize=True)
    return _like(score, rows), _like(score, columns)


@overload
def match_at(iou: Tensor, threshold: float) -> Match[Tensor]: ...
@overload
def match_at(iou: NDArray[Any], threshold: float) -> Match[NDArray[Any]]: ...
def match_at(iou: Any, threshold: float) -> Any:
    """As many one-to-one pairs with `iou >= threshold` as possible; of these, the largest IoU sum.

    Args:
        iou: real [M, N] in [0, 1].
        threshold: in [0, 1]; pairs with IoU 0 are never matched.

    Returns:
        The pairs; all of them reach the threshold.

    Raises:
        ShapeError: not two axes, or complex or no numbers.
        ConfigError: an entry or the threshold is outside [0, 1].
    """
    values = _checked(iou)
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold must be in [0, 1], got {threshold}")
    if values.size and (values.min() < 0 or values.max() > 1):
        raise ConfigError(
            f"IoU must be in [0, 1], got {values.min():g} to {values.max():g}; "
            "use `assign` for other scores"
        )
    enough = (values >= threshold) & (values > 0)
    # One pair more is worth more than any sum of IoU over min(M, N) pairs.
    rows, columns = linear_sum_assignment(
        np.where(enough, values + min(values.shape) + 1, 0.0), maximize=True
    )
    kept = enough[rows, columns]
    rows, columns = rows[kept], columns[kept]
    found = iou[_like(iou, rows), _like(iou, columns)]
    return Match(pred=_like(iou, rows), true=_like(iou, columns), iou=found)


def _checked(score: Tensor | NDArray[Any]) -> NDArray[np.float64]:
    if isinstance(score, Tensor):
        # numpy knows neither bfloat16 nor a device.
        plain = score.detach().cpu()
        array = plain.numpy() if plain.is_complex() else plain.double().numpy()
    else:
        array = np.asarray(score)
    if array.dtype.kind not in "fiub":
        raise ShapeError(f"scores have dtype {array.dtype}; expected real numbers")
    if array.ndim != 2:
        raise ShapeError(f"scores have shape {list(array.shape)}; expected [M, N]")
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        row, column = (int(i[0]) for i in np.nonzero(~np.isfinite(values)))
        raise ConfigError(
            f"score of pair ({row}, {column}) is {values[row, column]}; an assignment needs finite "
            "scores: give pairs that must not match a very low number instead"
        )
    return values


def _like(score: Tensor | NDArray[Any], index: NDArray[np.intp]) -> Any:
    whole = index.astype(np.int64)
    return torch.from_numpy(whole).to(score.device) if isinstance(score, Tensor) else whole
