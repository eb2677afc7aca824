"""Scores of one image's instances: best Dice, counts, foreground, coverage, false instances, AJI.

Notation of the formulas, as in `Overlap`: `c_ij` = common pixels of predicted instance i and true
instance j, `p_i` and `t_j` their areas, M and N the numbers of instances that occur.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rlseg.errors import ConfigError
from rlseg.matching import assign
from rlseg.metrics.overlap import Floats, Ints, Overlap

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
    pairs = overlap.pairs
    own = pairs.pred if side == "pred" else pairs.true
    dice = pairs.dice
    if convention == "cvppp-2014":
        dice = dice[_foreground_pairs(overlap)]
        own = own[_foreground_pairs(overlap)]
        low, high = overlap.pred_range if side == "pred" else overlap.true_range
        return float(_largest(own, dice, number).sum() / (high - low))
    return float(_largest(own, dice, number).sum() / number)


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
    covered = _largest(overlap.pairs.true, overlap.pairs.iou, number)
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
        taken = len(np.unique(pairs.pred[covers]))
        empty = 0.0 if m == n == 0 else 1.0
        return FalseInstances((m - taken) / m if m else empty, (n - taken) / n if n else empty)
    fp, fn = m - len(np.unique(pairs.pred)), n - len(np.unique(pairs.true))
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
    # Cells are sorted by prediction; a stable sort keeps the lowest id first among equals.
    order = np.lexsort((-pairs.iou, pairs.true))
    true = pairs.true[order]
    first = order[np.flatnonzero(np.diff(true, prepend=0))]
    return _jaccard(overlap, pairs.pred[first], pairs.true[first], pairs.count[first])


def aji_plus(overlap: Overlap) -> float:
    """Aggregated Jaccard index over the one-to-one assignment of largest total IoU, in [0, 1].

    `sum c / (sum (p + t - c) + all areas without a partner)`. One side empty: 0. Both: nan.

    Args:
        overlap: of one image.
    """
    chosen = assign_pairs(overlap)
    pairs = overlap.pairs
    return _jaccard(overlap, pairs.pred[chosen], pairs.true[chosen], pairs.count[chosen])


def assign_pairs(overlap: Overlap) -> Ints:
    """Which cells of `overlap.pairs` form the one-to-one assignment of largest total IoU, [L].

    The Hungarian method runs on each group of instances that touch one another directly or
    through others, so its cost depends on crowding and not on the number of instances.

    Args:
        overlap: of one image.
    """
    pairs = overlap.pairs
    if len(pairs.count) == 0:
        return np.zeros(0, dtype=np.int64)
    rows, columns = overlap.pred_instances, overlap.true_instances
    nodes = rows + columns
    links = (np.ones(len(pairs.count), dtype=np.int8), (pairs.pred - 1, rows + pairs.true - 1))
    _, group_of = connected_components(coo_array(links, shape=(nodes, nodes)), directed=False)
    group = group_of[pairs.pred - 1]
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    chosen = [order[starts[sizes == 1]]]
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        chosen.append(_assign_group(overlap, order[start : start + size]))
    return np.sort(np.concatenate(chosen))


def _assign_group(overlap: Overlap, cells: Ints) -> Ints:
    """The chosen ones of the cells (of `overlap.pairs`) of one group."""
    pairs = overlap.pairs
    pred, row = np.unique(pairs.pred[cells], return_inverse=True)
    true, column = np.unique(pairs.true[cells], return_inverse=True)
    if len(pred) == 1 or len(true) == 1:
        return cells[[int(pairs.iou[cells].argmax())]]
    iou = np.zeros((len(pred), len(true)))
    cell = np.full(iou.shape, -1)
    iou[row, column], cell[row, column] = pairs.iou[cells], cells
    found = cell[assign(iou)]
    kept: Ints = found[found >= 0]
    return kept


def _jaccard(overlap: Overlap, pred: Ints, true: Ints, common: Ints) -> float:
    """`I / U` of the chosen pairs; areas of instances that are in no pair belong to U."""
    if overlap.pred_instances == overlap.true_instances == 0:
        return float("nan")
    p, t = overlap.pred_area, overlap.true_area
    union = int((p[pred] + t[true] - common).sum())
    union += int(np.delete(p, np.append(pred, 0)).sum())
    union += int(np.delete(t, np.append(true, 0)).sum())
    return int(common.sum()) / union


def _largest(index: Ints, values: Floats, number: int) -> Floats:
    """Largest value per index 1..number, 0 where there is none, [number]."""
    best = np.zeros(number + 1)
    np.maximum.at(best, index, values)
    return best[1:]


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
