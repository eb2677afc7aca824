"""Scores of two partitions of the pixels: adapted Rand error, variation of information, Rand index.

Notation: `c_ij` = common pixels of predicted segment i and true segment j among the pixels kept,
`s_i` and `r_j` their sums over j and over i, m = all of them. Index 0 is the background.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from rlseg.metrics.instance import known
from rlseg.metrics.overlap import Floats, Ints, Overlap, add_up

RandConvention = Literal["skimage", "skimage-all", "cremi"]
InformationConvention = Literal["skimage", "cremi"]
IndexConvention = Literal["all", "foreground"]

CREMI_IGNORE = 2**64 - 1
"""Id of CREMI's pixels without a truth."""


class AdaptedRand(NamedTuple):
    """Adapted Rand error with its parts."""

    error: float
    """1 - 2 S / (A + B), lower is better."""
    precision: float
    """S / B, over pairs of pixels that the prediction joins."""
    recall: float
    """S / A, over pairs of pixels that the truth joins."""


class Information(NamedTuple):
    """Variation of information in bits: `voi = split + merge`."""

    voi: float
    split: float
    """H(pred | true): objects cut up."""
    merge: float
    """H(true | pred): objects joined."""


def adapted_rand_error(
    overlap: Overlap, *, convention: RandConvention = "skimage", ignore_id: int | None = None
) -> float:
    """Adapted Rand error in [0, 1], lower is better; see `adapted_rand`.

    Raises:
        ConfigError: unknown convention.
    """
    return adapted_rand(overlap, convention=convention, ignore_id=ignore_id).error


def adapted_rand(
    overlap: Overlap, *, convention: RandConvention = "skimage", ignore_id: int | None = None
) -> AdaptedRand:
    """Adapted Rand error, precision and recall: `error = 1 - 2 S / (A + B)`.

    scikit-image returns (error, S / A, S / B): its second and third value are the recall and the
    precision given here. A + B = 0 or no pixel kept: all nan; a single denominator of 0 makes
    only that ratio nan.

    Args:
        overlap: of one image or volume.
        convention: "skimage" (default): pixels with true 0 left out, predicted 0 is a segment,
            pairs without replacement: `S = sum c^2 - m`, `A = sum r^2 - m`, `B = sum s^2 - m`.
            "skimage-all": the same over all pixels. "cremi" (challenge script): pixels of the
            ignore id left out; predicted 0 counts as `q = c_0 / n`, with c_0 its kept pixels
            and n all pixels of the volume: `S = sum_(i>=1) c^2 + q`, `B = sum_(i>=1) s^2 + q`,
            `A = sum r^2`.
        ignore_id: for "cremi": the true id left out. None: 2^64 - 1 if it occurs (0 is then a
            segment like any other), else 0.

    Raises:
        ConfigError: unknown convention.
    """
    known(convention, ("skimage", "skimage-all", "cremi"), "the adapted Rand error")
    if convention == "cremi":
        pred, true, count = _cremi_cells(overlap, ignore_id)
    elif convention == "skimage":
        pred, true, count = _cells(overlap, overlap.true_index > 0)
    else:
        pred, true, count = _cells(overlap, overlap.true_index >= 0)
    if len(count) == 0:
        return AdaptedRand(float("nan"), float("nan"), float("nan"))
    by_pred, by_true = _sums(overlap, pred, true, count)
    if convention == "cremi":
        q = float(by_pred[0]) / overlap.pixels
        both = _squares(count[pred > 0]) + q
        a, b = _squares(by_true), _squares(by_pred[1:]) + q
    else:
        m = float(count.sum())
        both, a, b = _squares(count) - m, _squares(by_true) - m, _squares(by_pred) - m
    return AdaptedRand(
        1 - 2 * both / (a + b) if a + b else float("nan"),
        both / b if b else float("nan"),
        both / a if a else float("nan"),
    )


def variation_of_information(
    overlap: Overlap,
    *,
    convention: InformationConvention = "skimage",
    ignore_id: int | None = None,
) -> Information:
    """Variation of information in bits, lower is better.

    `split = -sum (c_ij / m) log2(c_ij / r_j)`, `merge = -sum (c_ij / m) log2(c_ij / s_i)`. Both
    maps constant: 0. No pixel kept: nan.

    Args:
        overlap: of one image or volume.
        convention: "skimage" (default): all pixels; 0 is a segment on both sides. "cremi":
            pixels of the ignore id left out, predicted 0 kept as a segment.
        ignore_id: as for `adapted_rand`.

    Raises:
        ConfigError: unknown convention.
    """
    known(convention, ("skimage", "cremi"), "the variation of information")
    if convention == "cremi":
        pred, true, count = _cremi_cells(overlap, ignore_id)
    else:
        pred, true, count = overlap.pred_index, overlap.true_index, overlap.count
    if len(count) == 0:
        return Information(float("nan"), float("nan"), float("nan"))
    share = count / count.sum()
    by_pred, by_true = _sums(overlap, pred, true, count)
    # log2(r / c) is 0 and never -0 where a segment lies within one of the other side.
    split = float((share * np.log2(by_true[true] / count)).sum())
    merge = float((share * np.log2(by_pred[pred] / count)).sum())
    return Information(split + merge, split, merge)


def adjusted_rand_index(overlap: Overlap, *, convention: IndexConvention = "all") -> float:
    """Adjusted Rand index (Hubert and Arabie), at most 1; 0 on average for random partitions.

    With `a = sum C(c_ij, 2)`, `R = sum C(r_j, 2)`, `Q = sum C(s_i, 2)`, `Z = C(m, 2)`:
    `(a - R Q / Z) / ((R + Q) / 2 - R Q / Z)`, exact in integers up to the last division.
    Denominator 0 (equal partitions): 1. Fewer than two pixels: 1.

    Args:
        overlap: of one image or volume.
        convention: "all" (default): all pixels, the background is a segment on both sides.
            "foreground": only pixels with true above 0; none: nan.

    Raises:
        ConfigError: unknown convention.
    """
    known(convention, ("all", "foreground"), "the adjusted Rand index")
    least = 1 if convention == "foreground" else 0
    pred, true, count = _cells(overlap, overlap.true_index >= least)
    m = int(count.sum())
    if m == 0 and convention == "foreground":
        return float("nan")
    if m < 2:
        return 1.0
    a, z = _pairs(count), m * (m - 1) // 2
    q, r = (_pairs(sums) for sums in _sums(overlap, pred, true, count))
    denominator = (r + q) * z - 2 * r * q
    return 2 * (a * z - r * q) / denominator if denominator else 1.0


Cells = tuple[Ints, Ints, Ints]


def _cells(overlap: Overlap, keep: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Cells:
    if keep.all():
        return overlap.pred_index, overlap.true_index, overlap.count
    return overlap.pred_index[keep], overlap.true_index[keep], overlap.count[keep]


def _cremi_cells(overlap: Overlap, ignore_id: int | None) -> Cells:
    if ignore_id is None:
        ignore_id = CREMI_IGNORE if overlap.true_range[1] == CREMI_IGNORE else 0
    if ignore_id == 0:
        return _cells(overlap, overlap.true_index != 0)
    ids = overlap.true_ids
    found = int(np.searchsorted(ids, np.uint64(ignore_id)))
    if found == len(ids) or int(ids[found]) != ignore_id:
        return _cells(overlap, overlap.true_index >= 0)
    return _cells(overlap, overlap.true_index != found + 1)


def _sums(overlap: Overlap, pred: Ints, true: Ints, count: Ints) -> tuple[Ints, Ints]:
    """Pixels of each predicted and each true segment among the cells, [M + 1] and [N + 1]."""
    if count is overlap.count:  # all cells
        return overlap.pred_area, overlap.true_area
    return (
        add_up(pred, count, len(overlap.pred_area)),
        add_up(true, count, len(overlap.true_area)),
    )


def _squares(count: Ints) -> float:
    values: Floats = count.astype(np.float64)
    return float((values * values).sum())


def _pairs(count: Ints) -> int:
    """Sum of n (n - 1) / 2 as a Python integer."""
    if int(count.sum()) < 2**31:  # no overflow: the sum is below C(2^31, 2)
        return int((count * (count - 1) // 2).sum())
    return sum(n * (n - 1) // 2 for n in count.tolist())
