"""The one-to-one assignment of largest total IoU among the touching pairs of a table.

Most pairs of an image are decided without a search; what is left goes to the Hungarian method in
small groups, so that the cost depends on crowding and not on the number of instances.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from rlseg.metrics.overlap import Floats, Ints, Overlap

SMALL_TABLE = 1 << 10  # cells up to which a full matrix is cheaper than looking for groups
LARGEST_MATRIX = 1 << 22  # cells above which a group is solved by a sparse method: 32 MiB
ROUNDS = 8  # of removing decided pairs; what they leave is small or tangled


def assign_pairs(overlap: Overlap) -> Ints:
    """Which cells of `overlap.pairs` form the one-to-one assignment of largest total IoU.

    Several best assignments: one of them, the same each time. Memory is O(pairs), but for a full
    matrix of at most `LARGEST_MATRIX` cells.

    Args:
        overlap: of one image.

    Returns:
        int64, ascending.
    """
    pairs = overlap.pairs
    cells = np.arange(len(pairs.iou))
    if overlap.pred_instances * overlap.true_instances <= SMALL_TABLE:
        return _by_matrix(pairs.pred - 1, pairs.true - 1, pairs.iou)
    chosen = []
    for _ in range(ROUNDS):
        if len(cells) == 0:
            break
        pred, true = pairs.pred[cells], pairs.true[cells]
        decided = _dominant(overlap, pred, true, pairs.iou[cells])
        if len(decided) == 0:
            break
        chosen.append(cells[decided])
        pred_free = np.ones(len(overlap.pred_area), dtype=np.bool_)
        true_free = np.ones(len(overlap.true_area), dtype=np.bool_)
        pred_free[pred[decided]] = False
        true_free[true[decided]] = False
        cells = cells[pred_free[pred] & true_free[true]]
    if len(cells):
        pred, true, iou = pairs.pred[cells], pairs.true[cells], pairs.iou[cells]
        chosen.append(cells[_by_groups(pred, true, iou)])
    return np.sort(np.concatenate(chosen)) if chosen else cells


def _dominant(overlap: Overlap, pred: Ints, true: Ints, iou: Floats) -> Ints:
    """Positions of the pairs that every best assignment contains, as far as one look shows.

    A pair is one of them if its IoU exceeds the sum of the best other pair of its prediction and
    the best other pair of its truth: an assignment without it could drop the at most two pairs in
    its way, which together are worth less, and take it instead.
    """
    place, pred_second = _two_largest(pred, iou, len(overlap.pred_area))
    true_place, true_second = _two_largest(true, iou, len(overlap.true_area))
    place = place[place >= 0]
    place = place[true_place[true[place]] == place]
    bound = pred_second[pred[place]] + true_second[true[place]]
    decided: Ints = place[iou[place] > bound]
    return decided


def _two_largest(index: Ints, values: Floats, size: int) -> tuple[Ints, Floats]:
    """Position of the largest value of each index (-1 if none), and the second largest value (0).

    Args:
        index: [L], 0..size-1.
        values: above 0, [L].
        size: number of indices.
    """
    best = np.zeros(size)
    np.maximum.at(best, index, values)
    top = np.flatnonzero(values == best[index])
    place = np.full(size, -1)
    place[index[top]] = top  # any of several equal ones: the others are the second largest
    rest = values.copy()
    rest[place[place >= 0]] = 0
    second = np.zeros(size)
    np.maximum.at(second, index, rest)
    return place, second


def _by_groups(pred: Ints, true: Ints, iou: Floats) -> Ints:
    """Positions of the chosen pairs, solved for each group of touching instances by itself."""
    pred_ids, row = np.unique(pred, return_inverse=True)
    true_ids, column = np.unique(true, return_inverse=True)
    rows, nodes = len(pred_ids), len(pred_ids) + len(true_ids)
    if rows * len(true_ids) <= SMALL_TABLE:
        return _by_matrix(row, column, iou)
    links = (np.ones(len(iou), dtype=np.int8), (row, rows + column))
    _, group_of = connected_components(coo_array(links, shape=(nodes, nodes)), directed=False)
    group = group_of[row]
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    chosen = []
    for cells in np.split(order, starts[1:]):
        _, row = np.unique(pred[cells], return_inverse=True)
        _, column = np.unique(true[cells], return_inverse=True)
        small = (int(row.max()) + 1) * (int(column.max()) + 1) <= LARGEST_MATRIX
        solve = _by_matrix if small else _by_sparse_matrix
        chosen.append(cells[solve(row, column, iou[cells])])
    return np.concatenate(chosen)


def _by_matrix(row: Ints, column: Ints, iou: Floats) -> Ints:
    """Positions of the chosen pairs, by the Hungarian method on the full matrix."""
    if len(iou) < 2:
        return np.arange(len(iou))
    shape = (int(row.max()) + 1, int(column.max()) + 1)
    matrix, cell = np.zeros(shape), np.full(shape, -1)
    matrix[row, column], cell[row, column] = iou, np.arange(len(iou))
    found = cell[linear_sum_assignment(matrix, maximize=True)]
    kept: Ints = found[found >= 0]
    return np.sort(kept)


def _by_sparse_matrix(row: Ints, column: Ints, iou: Floats) -> Ints:
    """Positions of the chosen pairs, in memory O(pairs).

    The solver wants every row matched and no weight 0: each row gets a column of its own that
    stands for no partner, and every weight is one larger, which adds the number of rows to all.
    """
    rows, columns = int(row.max()) + 1, int(column.max()) + 1
    alone = np.arange(rows)
    weights = np.concatenate((iou + 1, np.ones(rows)))
    places = (np.concatenate((row, alone)), np.concatenate((column, columns + alone)))
    matrix = coo_array((weights, places), shape=(rows, columns + rows)).tocsr()
    found_row, found_column = min_weight_full_bipartite_matching(matrix, maximize=True)
    partner = np.full(rows, -1)
    partner[found_row] = found_column
    return np.flatnonzero(partner[row] == column)
