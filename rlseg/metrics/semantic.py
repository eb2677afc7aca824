"""Scores of class maps: pure functions of one confusion matrix over the data set.

Classes are 0..K-1. Pixels whose true class is the ignore id are left out, whatever was predicted.
All scores are fractions of summed counts: the mean IoU here is over the data set, not per image.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlseg.errors import ConfigError, ShapeError
from rlseg.metrics.confusion import (
    IGNORE,
    Counts,
    Ints,
    as_array,
    check_classes,
    confusion_matrix,
)
from rlseg.metrics.overlap import LabelMap

Floats = NDArray[np.float64]

_LOG = logging.getLogger(__name__)


@overload
def iou_per_class(confusion: Tensor) -> Tensor: ...
@overload
def iou_per_class(confusion: NDArray[Any]) -> Floats: ...
def iou_per_class(confusion: Counts) -> Counts:
    """Intersection over union of each class, `C_cc / (row_c + column_c - C_cc)`.

    Args:
        confusion: int [K, K], `[true, pred]`.

    Returns:
        float64 [K] in [0, 1], a tensor if `confusion` is one; nan where the union is empty. A
        class that was predicted but never true has IoU 0.
    """
    return _like(confusion, _iou(_square(confusion)))


def mean_iou(confusion: Counts) -> float:
    """Mean of `iou_per_class` over the classes where it is defined; nan if there is none.

    Classes with an empty union are left out, and a line of the log (level INFO) names them.

    Args:
        confusion: int [K, K], summed over the whole data set.
    """
    absent = absent_classes(confusion)
    if absent:
        _LOG.info("classes %s are neither true nor predicted: left out of the mean IoU", absent)
    return _mean(_iou(_square(confusion)))


def absent_classes(confusion: Counts) -> list[int]:
    """Classes that are neither true nor predicted anywhere: `mean_iou` leaves them out.

    Args:
        confusion: int [K, K].
    """
    return [int(c) for c in np.flatnonzero(np.isnan(_iou(_square(confusion))))]


def pixel_accuracy(confusion: Counts) -> float:
    """Share of counted pixels predicted right, `trace / sum`; nan if none was counted.

    Args:
        confusion: int [K, K].
    """
    counts = _square(confusion)
    total = int(counts.sum())
    return int(counts.trace()) / total if total else math.nan


@overload
def accuracy_per_class(confusion: Tensor) -> Tensor: ...
@overload
def accuracy_per_class(confusion: NDArray[Any]) -> Floats: ...
def accuracy_per_class(confusion: Counts) -> Counts:
    """Share of each true class predicted right, `C_cc / row_c`; nan where the row is empty.

    Args:
        confusion: int [K, K].

    Returns:
        float64 [K] in [0, 1], a tensor if `confusion` is one.
    """
    return _like(confusion, _accuracy(_square(confusion)))


def mean_accuracy(confusion: Counts) -> float:
    """Mean of `accuracy_per_class` over the classes that occur in the truth; nan if none does.

    Args:
        confusion: int [K, K].
    """
    return _mean(_accuracy(_square(confusion)))


@overload
def class_counts(
    labels: Tensor, classes: int, *, ignore: int | None = IGNORE, valid: LabelMap | None = None
) -> Tensor: ...
@overload
def class_counts(
    labels: NDArray[Any],
    classes: int,
    *,
    ignore: int | None = IGNORE,
    valid: LabelMap | None = None,
) -> Ints: ...
def class_counts(
    labels: LabelMap, classes: int, *, ignore: int | None = IGNORE, valid: LabelMap | None = None
) -> Counts:
    """Pixels of each class, for `class_entropy`.

    Args:
        labels: integer or bool [*S], class ids.
        classes: K.
        ignore: id of pixels that do not count; None = all count.
        valid: bool [*S]; where it is False, pixels do not count (for example outside the selected
            regions). None = count all.

    Returns:
        int64 [K], a tensor on the device of `labels` if that is one.

    Raises:
        ConfigError: as `confusion_matrix`.
        ShapeError: as `confusion_matrix`.
    """
    # Counted as their own prediction: everything lies on the diagonal.
    return confusion_matrix(labels, labels, classes, ignore=ignore, valid=valid).sum(1)


def class_entropy(counts: Counts) -> float:
    """Entropy of the class shares in nats, `-sum_c f_c ln f_c` with `0 ln 0 = 0` (RALIS, Fig. 3).

    Args:
        counts: [K], pixels of each class, finite and not negative.

    Returns:
        In [0, ln K]; nan if there is no pixel.

    Raises:
        ShapeError: not one axis, or a count is negative or not finite.
    """
    values = as_array(counts).astype(np.float64)
    if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any():
        raise ShapeError(
            f"counts have shape {list(values.shape)} and lie in "
            f"[{values.min(initial=0):g}, {values.max(initial=0):g}]; expected finite counts [K]"
        )
    total = values.sum()
    if not total:
        return math.nan
    share = values[values > 0] / total
    return abs(float((share * np.log(share)).sum()))  # abs: one class gives 0, not -0


def class_entropy_norm(counts: Counts) -> float:
    """`class_entropy` divided by its largest value, ln K: in [0, 1]; nan if K = 1.

    Args:
        counts: [K], pixels of each class.
    """
    classes = len(counts)
    return class_entropy(counts) / math.log(classes) if classes > 1 else math.nan


@dataclass(frozen=True, kw_only=True)
class SemanticImage:
    """Scores of one image alone; undefined ones are nan."""

    name: str
    pixels: int
    """Pixels that count."""
    miou: float
    """Mean over the classes that occur in this image or its prediction."""
    pixel_accuracy: float
    mean_accuracy: float
    class_entropy: float
    """Of the true pixels that count, in nats."""
    class_entropy_norm: float


class SemanticScores:
    """Adds up the semantic scores of a data set; an `Accumulator`.

    Sums are the confusion matrix and the number of images, so the result does not depend on how
    the images are split over calls or ranks.

    Args:
        classes: K.
        ignore: id of true pixels that do not count; None = all count.

    Raises:
        ConfigError: as `confusion_matrix`.
    """

    def __init__(self, classes: int, *, ignore: int | None = IGNORE) -> None:
        check_classes(classes, ignore)
        self.classes, self.ignore = classes, ignore
        self.confusion: Ints = np.zeros((classes, classes), dtype=np.int64)
        """Sum over all images, `[true, pred]`."""
        self.images: list[SemanticImage] = []
        """Scores of the images added here, in the order of adding."""
        self.count = 0
        """Images, those of loaded states included."""

    def update(
        self, pred: LabelMap, true: LabelMap, valid: LabelMap | None = None, *, name: str = ""
    ) -> None:
        """Adds one image.

        Args:
            pred: integer [*S], class ids.
            true: integer [*S], class ids or the ignore id.
            valid: bool [*S], pixels that count; None = all.
            name: of the image; errors begin with it.

        Raises:
            ShapeError: as `confusion_matrix`.
        """
        try:
            counts = confusion_matrix(pred, true, self.classes, ignore=self.ignore, valid=valid)
        except ShapeError as error:
            raise ShapeError(f"{name}: {error}" if name else str(error)) from error
        self.add(as_array(counts), name=name)

    def add(self, confusion: Ints, *, name: str = "") -> None:
        """Adds the confusion matrix of one image, int64 [K, K]."""
        pixels = int(confusion.sum())
        self.images.append(SemanticImage(name=name, pixels=pixels, **_scores(confusion)))
        self.confusion += confusion
        self.count += 1

    def merge(self, other: SemanticScores) -> None:
        """Adds everything the other one holds.

        Raises:
            ConfigError: it counts other classes or ignores another id.
        """
        if (other.classes, other.ignore) != (self.classes, self.ignore):
            raise ConfigError(
                f"cannot merge scores of {self.classes} classes ignoring {self.ignore} with scores "
                f"of {other.classes} classes ignoring {other.ignore}"
            )
        self.confusion += other.confusion
        self.count += other.count
        self.images.extend(other.images)

    def sorted_images(self) -> list[SemanticImage]:
        """The images added here, in name order."""
        return sorted(self.images, key=lambda image: image.name)

    def state(self) -> Tensor:
        """Number of images and confusion matrix, float64 [1 + K * K]; states may be added."""
        flat = np.concatenate(([self.count], self.confusion.ravel()))
        return torch.from_numpy(flat.astype(np.float64))  # exact below 2^53 pixels

    def load(self, state: Tensor) -> None:
        """Continues from a state; the scores of its images alone are then unknown.

        Raises:
            ShapeError: another length: it belongs to another number of classes.
        """
        size = 1 + self.classes**2
        if state.shape != (size,):
            raise ShapeError(
                f"state has shape {list(state.shape)}, expected [{size}]; it was made with another "
                "number of classes"
            )
        counts = state.detach().cpu().double().numpy().astype(np.int64)
        self.images = []
        self.count = int(counts[0])
        self.confusion = counts[1:].reshape(self.classes, self.classes)

    def compute(self) -> dict[str, float]:
        """`miou`, `pixel_accuracy`, `mean_accuracy`, `class_entropy`, `class_entropy_norm`.

        Nan where undefined: all of them, if no pixel was counted.
        """
        # Through `mean_iou`, which says in the log which classes it leaves out.
        return _scores(self.confusion) | {"miou": mean_iou(self.confusion)}


def _scores(confusion: Ints) -> dict[str, float]:
    true = confusion.sum(axis=1)
    return {
        "miou": _mean(_iou(confusion)),
        "pixel_accuracy": pixel_accuracy(confusion),
        "mean_accuracy": mean_accuracy(confusion),
        "class_entropy": class_entropy(true),
        "class_entropy_norm": class_entropy_norm(true),
    }


def _square(confusion: Counts) -> Ints:
    counts = as_array(confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.dtype.kind not in "iu":
        raise ShapeError(
            f"confusion has shape {list(counts.shape)} and dtype {counts.dtype}; expected integer "
            "counts [K, K]"
        )
    return counts.astype(np.int64, copy=False)


def _iou(counts: Ints) -> Floats:
    hit = counts.diagonal()
    return _ratio(hit, counts.sum(axis=1) + counts.sum(axis=0) - hit)


def _accuracy(counts: Ints) -> Floats:
    return _ratio(counts.diagonal(), counts.sum(axis=1))


def _ratio(part: Ints, whole: Ints) -> Floats:
    ratio = np.full(len(part), math.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _like(confusion: Counts, values: Floats) -> Counts:
    if isinstance(confusion, Tensor):
        return torch.from_numpy(values).to(confusion.device)
    return values


def _mean(values: Floats) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan
