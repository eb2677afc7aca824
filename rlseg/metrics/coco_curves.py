"""Precision at fixed recalls, from sorted hits and misses of many categories."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RECALLS: Floats = np.linspace(0, 1, 101)
"""Recalls at which precision is read, [R]; ten of them differ from j / 100 in the last bit."""

EPSILON = 2.0**-52  # the COCO tools add it to TP + FP; a perfect score is 1 - 2^-52


def precision_recall(
    hit: Bools, missed: Bools, category: Ints, n_true: Ints
) -> tuple[Floats, Floats]:
    """Precision at `RECALLS` and largest recall of each category.

    `precision = TP / (FP + TP + 2^-52)` over the detections so far, then the largest value at
    this recall or above; `recall = TP / N`. Only hits matter: a miss lowers the precision without
    raising the recall, so no maximum and no recall is reached at one.

    Args:
        hit: detections that count as true positives at each threshold, [T, D]; sorted by
            category, then score.
        missed: detections that count as false positives, [T, D]; others are ignored.
        category: of the detections, 0..K-1, ascending, [D].
        n_true: truths that count, N of each category, [K].

    Returns:
        Precision [T, K, R], 0 at recalls that are not reached, and recall [T, K]; nan for a
        category without a truth that counts.
    """
    thresholds, categories = len(hit), len(n_true)
    which, place = np.nonzero(hit)  # by threshold, category, score
    segment = which * categories + category[place]
    hits = np.bincount(segment, minlength=thresholds * categories)
    first = np.cumsum(hits) - hits
    number = np.arange(1, len(segment) + 1) - first[segment]  # TP, 1..hits of the segment
    before = np.zeros((thresholds, len(category) + 1), dtype=np.int64)
    np.cumsum(missed, axis=1, out=before[:, 1:])
    starts = np.searchsorted(category, np.arange(categories))
    false = before[which, place] - before[:, starts].ravel()[segment]
    curve = number / (false + number + EPSILON)
    needed = np.tile(_hits_needed(n_true), (thresholds, 1))  # [T * K, R]
    reached = needed <= hits[:, None]
    # Largest precision between the needs of two neighbouring recalls, then from the right.
    index = first[:, None] + np.minimum(needed - 1, hits[:, None])
    largest = np.maximum.reduceat(np.append(curve, 0.0), index.ravel()).reshape(index.shape)
    largest[~reached] = 0.0
    precision = np.maximum.accumulate(largest[:, ::-1], axis=1)[:, ::-1]
    precision = precision.reshape(thresholds, categories, len(RECALLS))
    recall = hits.reshape(thresholds, categories) / np.maximum(n_true, 1)
    precision[:, n_true == 0] = np.nan
    recall[:, n_true == 0] = np.nan
    return precision, recall


def _hits_needed(n_true: Ints) -> Ints:
    """Smallest number of hits, at least 1, with `hits / N >= recall`, [K, R]."""
    total = np.maximum(n_true, 1)[:, None]
    needed = np.ceil(RECALLS * total).astype(np.int64)
    # The product is rounded, the tools compare the quotient: at most one off.
    needed -= (needed - 1) / total >= RECALLS
    needed += needed / total < RECALLS
    return np.maximum(needed, 1)
