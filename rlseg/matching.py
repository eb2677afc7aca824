"""One-to-one assignment on score matrices."""

from __future__ import annotations

from collections.abc import Sequence
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
def assign_batch(
    scores: Tensor | Sequence[Tensor], sizes: Any = None
) -> list[tuple[Tensor, Tensor]]: ...
@overload
def assign_batch(
    scores: NDArray[Any] | Sequence[NDArray[Any]], sizes: Any = None
) -> list[tuple[NDArray[Any], NDArray[Any]]]: ...
def assign_batch(scores: Any, sizes: Any = None) -> Any:
    """The best one-to-one assignment of every matrix of a batch; see `assign`.

    Tensors on a GPU are copied to the host once for the whole batch, and the pairs back once.

    Args:
        scores: B matrices as a sequence, real [M_b, N_b] of any sizes; or a padded batch, real
            [B, M, N].
        sizes: of a padded batch, int [B, 2]: the rows and columns of each matrix that count (what
            is beyond may hold anything); None = all of them. With a sequence: None.

    Returns:
        Per matrix rows and columns, int64 [min(M_b, N_b)] each, rows ascending; tensors on the
        device of the scores (the first one of a sequence), or arrays if they are arrays.

    Raises:
        ShapeError: other axes, complex or no numbers, or sizes that do not fit; names the matrix.
        ConfigError: an entry that counts is NaN or infinite; names the matrix.
    """
    padded = isinstance(scores, (Tensor, np.ndarray))
    if padded:
        matrices = _cut(scores, sizes)
    elif sizes is not None:
        raise ShapeError("sizes belong to a padded batch [B, M, N]; matrices of a list have theirs")
    else:
        scores = list(scores)
        matrices = _on_host(scores)
    pairs = []
    for index, matrix in enumerate(matrices):
        try:
            values = _checked(matrix)
        except (ShapeError, ConfigError) as error:
            raise type(error)(f"matrix {index} of the batch: {error}") from error
        pairs.append(linear_sum_assignment(values, maximize=True))
    model = scores if padded else next(iter(scores), None)
    return _like_all(model, pairs)


@overload
def match_at(iou: Tensor, threshold: float) -> Match[Tensor]: ...
@overload
def match_at(iou: NDArray[Any], threshold: float) -> Match[NDArray[Any]]: ...
def match_at(iou: Any, threshold: float) -> Any:
    """As many one-to-one pairs with `iou >= threshold` as possible; of these, the largest IoU sum.

    Segments that do not overlap each other match uniquely above IoU 0.5: a segment that covers
    more than half of another leaves no room for a second one. No assignment is solved then; the
    pairs over the threshold are taken as they are. This is decided by looking (no row and no
    column has two entries over the threshold), so it also holds for lower thresholds and for
    masks that overlap; where it fails, the rows and columns that have an entry are assigned.

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
    rows, columns = _most_pairs(values, (values >= threshold) & (values > 0))
    found = iou[_like(iou, rows), _like(iou, columns)]
    return Match(pred=_like(iou, rows), true=_like(iou, columns), iou=found)


def _most_pairs(
    values: NDArray[np.float64], enough: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The largest matching within `enough`; of these, the one with the largest sum of values."""
    rows, columns = np.nonzero(enough)
    if len(np.unique(columns)) == len(rows) == len(np.unique(rows)):
        return rows, columns
    # Rows and columns without an entry cannot match; rows of `some` ascend as those of `values`.
    some_rows, some_columns = np.unique(rows), np.unique(columns)
    some = enough[np.ix_(some_rows, some_columns)]
    # One pair more is worth more than any sum of IoU over min(M, N) pairs.
    worth = np.where(some, values[np.ix_(some_rows, some_columns)] + min(some.shape) + 1, 0.0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    kept = some[rows, columns]
    return some_rows[rows[kept]], some_columns[columns[kept]]


def _cut(scores: Tensor | NDArray[Any], sizes: Any) -> list[NDArray[Any]]:
    """The matrices of a padded batch, on the host, without their padding."""
    if scores.ndim != 3:
        raise ShapeError(f"scores have shape {list(scores.shape)}; expected a batch [B, M, N]")
    array = _as_array(scores)
    if sizes is None:
        return list(array)
    limits = _as_array(sizes) if isinstance(sizes, Tensor) else np.asarray(sizes)
    count, most_rows, most_columns = array.shape
    fits = limits.dtype.kind in "iu" and limits.shape == (count, 2)
    if limits.size != 2 * count or (count and not fits):
        raise ShapeError(
            f"sizes have shape {list(limits.shape)} and dtype {limits.dtype}; expected whole "
            f"numbers [{count}, 2], rows and columns of each matrix"
        )
    matrices = []
    for index, (rows, columns) in enumerate(limits.reshape(count, 2).tolist()):
        if not (0 <= rows <= most_rows and 0 <= columns <= most_columns):
            raise ShapeError(
                f"sizes of matrix {index} of the batch are ({rows}, {columns}); it has "
                f"{most_rows} rows and {most_columns} columns"
            )
        matrices.append(array[index, :rows, :columns])
    return matrices


def _on_host(matrices: list[Any]) -> list[Any]:
    """Matrices on the host; tensors of one device and type are copied in one piece."""
    tensors = [m for m in matrices if isinstance(m, Tensor)]
    kinds = {(t.device, t.dtype) for t in tensors}
    if len(tensors) < len(matrices) or len(kinds) != 1:
        return matrices
    flat = _as_array(torch.cat([t.detach().reshape(-1) for t in tensors]))
    ends = np.cumsum([t.numel() for t in tensors])[:-1]
    return [
        part.reshape(tuple(t.shape)) for part, t in zip(np.split(flat, ends), tensors, strict=True)
    ]


def _as_array(score: Tensor | NDArray[Any]) -> NDArray[Any]:
    if not isinstance(score, Tensor):
        return np.asarray(score)
    # numpy knows neither bfloat16 nor a device.
    plain = score.detach().cpu()
    return plain.double().numpy() if plain.dtype.is_floating_point else plain.numpy()


def _checked(score: Tensor | NDArray[Any]) -> NDArray[np.float64]:
    array = _as_array(score)
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


def _like_all(
    model: Tensor | NDArray[Any] | None, pairs: list[tuple[NDArray[np.intp], NDArray[np.intp]]]
) -> list[tuple[Any, Any]]:
    """Index pairs as `_like` gives them, moved to the device in one piece."""
    if not pairs:
        return []
    flat = _like(model, np.concatenate([side for pair in pairs for side in pair]))
    ends = np.cumsum([len(side) for pair in pairs for side in pair])[:-1]
    parts = (
        torch.tensor_split(flat, ends.tolist())
        if isinstance(flat, Tensor)
        else np.split(flat, ends)
    )
    return list(zip(parts[::2], parts[1::2], strict=True))


def _like(score: Tensor | NDArray[Any] | None, index: NDArray[np.intp]) -> Any:
    whole = index.astype(np.int64)
    return torch.from_numpy(whole).to(score.device) if isinstance(score, Tensor) else whole
