"""Scores of one image's instances: best Dice, counts, foreground, coverage, false instances, AJI.

Notation of the formulas, as in `Overlap`: `c_ij` = common pixels of predicted instance i and true
instance j, `p_i` and `t_j` their areas, M and N the numbers of instances that occur.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from rlseg.errors import ConfigError
from rlseg.metrics.assignment import assign_pairs
from rlseg.metrics.overlap import Ints, Overlap, largest

DiceConvention = Literal["cvppp-2017", "cvppp-2014", "paper"]
CountConvention = Literal["present", "cvppp-2014"]
CoverageConvention = Literal["rec-attend", "colorrl"]
FalseConvention = Literal["count", "fraction", "colorrl-50"]

Name = TypeVar("Name", bound=str)


def known(convention: str, names: Iterable[str], what: str) -> None:
    """Nothing, if the convention is one of the names.

    Raises:
        ConfigError: it is not; lists them.
    """
    choices = tuple(names)
    if convention not in choices:
        raise ConfigError(
            f"{what} knows no convention {convention!r}; it knows {', '.join(choices)}"
        )


def symmetric_best_dice(overlap: Overlap, *, convention: DiceConvention = "cvppp-2017") -> float:
    """The smaller of the two one-sided best Dice scores, in [0, 1].

    `SBD = min(BD(P, T), BD(T, P))`; see `best_dice` for BD and its conventions. A side without
    instances (or both): 0.

    Args:
        overlap: of one image.
        convention: "cvppp-2017" (leaf challenge on codalab; the default): a constant map, also
            one instance that covers everything, has BD = 0. "cvppp-2014" (first challenge's
            script): see `best_dice`. "paper" (formula of the CVPPP study): no special rule.

    Raises:
        ConfigError: unknown convention.
    """
    return min(best_dice(overlap, side, convention=convention) for side in ("pred", "true"))


def best_dice(
    overlap: Overlap, side: Literal["pred", "true"], *, convention: DiceConvention = "paper"
) -> float:
    """Mean over the instances a of one side of the largest Dice with any b of the other.

    `BD(A, B) = (1/|A|) sum_a max_b 2 c_ab / (|a| + |b|)`; one b may serve many a. A side without
    instances: 0.

    Args:
        overlap: of one image.
        side: whose instances are averaged over: A is the prediction or the truth.
        convention: "paper": labels that occur and are above 0. "cvppp-2017": the same, but 0 if
            A is constant. "cvppp-2014": the lowest value present in each map is its background
            even if it is not 0; ids between lowest and largest that do not occur count in the
            denominator with Dice 0; 0 if A is constant.

    Raises:
        ConfigError: unknown convention.
    """
    known(convention, ("cvppp-2017", "cvppp-2014", "paper"), "best Dice")
    area = overlap.pred_area if side == "pred" else overlap.true_area
    number = len(area) - 1
    if number == 0 or (convention != "paper" and np.count_nonzero(area) == 1):
        return 0.0
    if convention == "cvppp-2014":
        pairs, inside = overlap.pairs, _foreground_pairs(overlap)
        own = pairs.pred if side == "pred" else pairs.true
        low, high = overlap.pred_range if side == "pred" else overlap.true_range
        return float(largest(own[inside], pairs.dice[inside], number).sum() / (high - low))
    best = overlap.best_pred_dice if side == "pred" else overlap.best_true_dice
    return float(best.sum() / number)


def count_difference(overlap: Overlap, *, convention: CountConvention = "present") -> int:
    """Number of predicted minus number of true instances (positive: too many).

    Args:
        overlap: of one image. Both sides empty: 0.
        convention: "present" (default): labels that occur and are above 0. "cvppp-2014":
            largest minus smallest value of each map.

    Raises:
        ConfigError: unknown convention.
    """
    known(convention, ("present", "cvppp-2014"), "the count difference")
    if convention == "present":
        return overlap.pred_instances - overlap.true_instances
    pred, true = overlap.pred_range, overlap.true_range
    return (pred[1] - pred[0]) - (true[1] - true[0])


def fgbg_dice(overlap: Overlap, *, convention: CountConvention = "present") -> float:
    """Dice of foreground against background, in [0, 1].

    `2 |P>0 and T>0| / (|P>0| + |T>0|)`; one side or both empty: 0, as the leaf challenge does.

    Args:
        overlap: of one image.
        convention: "present" (default): foreground is above 0. "cvppp-2014": foreground is all
            but the lowest value of each map.

    Raises:
        ConfigError: unknown convention.
    """
    known(convention, ("present", "cvppp-2014"), "foreground Dice")
    pred, true = overlap.pred_area[1:], overlap.true_area[1:]
    count = overlap.pairs.count
    if convention == "cvppp-2014":
        pred, true = pred[_lowest(overlap.pred_area) :], true[_lowest(overlap.true_area) :]
        count = count[_foreground_pairs(overlap)]
    total = int(pred.sum()) + int(true.sum())
    return 2 * int(count.sum()) / total if total else 0.0


class Coverage(NamedTuple):
    """Mean coverage of the true instances, unweighted and weighted by area."""

    mucov: float
    mwcov: float


def coverage(overlap: Overlap, *, convention: CoverageConvention = "rec-attend") -> Coverage:
    """How well the best prediction covers each true instance, in [0, 1].

    `cov_j = max_i IoU_ij`, `mucov = (1/N) sum_j cov_j`, `mwcov = sum_j t_j cov_j / sum_j t_j`. No
    true instance or no prediction: 0 and 0.

    Args:
        overlap: of one image.
        convention: "rec-attend" (default), or "colorrl", where the denominator of `mwcov` is
            `sum_j t_j + 1`.

    Raises:
        ConfigError: unknown convention.
    """
    known(convention, ("rec-attend", "colorrl"), "coverage")
    number = overlap.true_instances
    if number == 0:
        return Coverage(0.0, 0.0)
    covered = overlap.best_true_iou
    area = overlap.true_area[1:]
    total = int(area.sum()) + (convention == "colorrl")
    return Coverage(float(covered.mean()), float((area * covered).sum() / total))


class FalseInstances(NamedTuple):
    """Predictions without a truth, and truths without a prediction; numbers or fractions."""

    avgfp: float
    avgfn: float


def false_instances(overlap: Overlap, *, convention: FalseConvention = "count") -> FalseInstances:
    """Instances that have no partner on the other side.

    Args:
        overlap: of one image.
        convention: "count" (default; original KITTI evaluation code): the number of instances
            whose IoU with every instance of the other side is 0; one shared pixel rescues.
            "fraction": the same, divided by M and by N, 0/0 = 0. "colorrl-50": a true instance
            is covered by prediction i if `c_ij > t_j / 2`; with K = number of distinct
            predictions that cover something, `(M - K) / M` and `(N - K) / N`, 1 for an empty
            side whose other side is not empty, 0 and 0 for both empty.

    Raises:
        ConfigError: unknown convention.
    """
    known(convention, ("count", "fraction", "colorrl-50"), "false instances")
    pairs, m, n = overlap.pairs, overlap.pred_instances, overlap.true_instances
    if convention == "colorrl-50":
        covers = 2 * pairs.count > overlap.true_area[pairs.true]
        covering = np.zeros(m + 1, dtype=np.bool_)
        covering[pairs.pred[covers]] = True
        taken = np.count_nonzero(covering)
        empty = 0.0 if m == n == 0 else 1.0
        return FalseInstances((m - taken) / m if m else empty, (n - taken) / n if n else empty)
    fp = m - np.count_nonzero(overlap.best_pred_dice)
    fn = n - np.count_nonzero(overlap.best_true_dice)
    if convention == "count":
        return FalseInstances(float(fp), float(fn))
    return FalseInstances(fp / m if m else 0.0, fn / n if n else 0.0)


def aji(overlap: Overlap) -> float:
    """Aggregated Jaccard index, in [0, 1].

    Each true instance takes the prediction of largest IoU (lowest id on ties; one prediction may
    be taken several times): `I += c`, `U += p + t - c`. A true instance that touches nothing adds
    its area to U, and so does every prediction that is never taken. `AJI = I / U`. One side
    empty: 0. Both: nan.

    Args:
        overlap: of one image.
    """
    pairs = overlap.pairs
    best = np.flatnonzero(pairs.iou == overlap.best_true_iou[pairs.true - 1])
    # Cells are sorted by prediction: the first of several equal ones has the lowest id.
    first = np.full(overlap.true_instances + 1, len(pairs.iou))
    np.minimum.at(first, pairs.true[best], best)
    return _jaccard(overlap, first[first < len(pairs.iou)])


def aji_plus(overlap: Overlap) -> float:
    """Aggregated Jaccard index over the one-to-one assignment of largest total IoU, in [0, 1].

    `sum c / (sum (p + t - c) + all areas without a partner)`. One side empty: 0. Both: nan.

    Args:
        overlap: of one image.
    """
    return _jaccard(overlap, assign_pairs(overlap))


def _jaccard(overlap: Overlap, chosen: Ints) -> float:
    """`I / U` of the chosen pairs; areas of instances that are in no pair belong to U."""
    if overlap.pred_instances == overlap.true_instances == 0:
        return float("nan")
    pairs, p, t = overlap.pairs, overlap.pred_area, overlap.true_area
    pred, true, common = pairs.pred[chosen], pairs.true[chosen], int(pairs.count[chosen].sum())
    pred_alone, true_alone = np.ones(len(p), dtype=np.bool_), np.ones(len(t), dtype=np.bool_)
    pred_alone[pred], true_alone[true] = False, False
    pred_alone[0] = true_alone[0] = False
    union = int(p[pred].sum()) + int(t[true].sum()) - common
    union += int(p[pred_alone].sum()) + int(t[true_alone].sum())
    return common / union


def _lowest(area: Ints) -> int:
    """Index of the lowest value that occurs: 0, or 1 where the map has no background."""
    return 0 if int(area[0]) else 1


def _foreground_pairs(overlap: Overlap) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which pairs belong to the lowest value of neither map."""
    pairs = overlap.pairs
    inside: np.ndarray[tuple[int], np.dtype[np.bool_]] = (
        pairs.pred > _lowest(overlap.pred_area)
    ) & (pairs.true > _lowest(overlap.true_area))
    return inside
