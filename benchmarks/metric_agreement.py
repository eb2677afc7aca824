"""Largest difference of every score from an independent reference, on random and edge cases.

    pip install -e ".[test,peers]"
    python benchmarks/metric_agreement.py [--cases 250] [--json OUT]

Label maps are tiny, 2-D and 3-D, in several integer types, with and without background, with gaps
between ids and ids up to 2^64 - 1. References are the packages people use and, for every score and
convention, plain loops over boolean masks (`tests/metrics/slow_scores.py`). An undefined score must
be undefined in the loops too. Packages are compared where they define a value as the convention
does: edge cases that they refuse or define otherwise are counted in `edge_cases_left_out`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # the slow references lie in tests/

import coco_agreement
import peers
from timing import environment

from rlseg.metrics import (
    adapted_rand,
    adjusted_rand_index,
    aji,
    aji_plus,
    average_precision,
    best_dice,
    count_difference,
    coverage,
    false_instances,
    fgbg_dice,
    overlap,
    panoptic,
    scores_at_thresholds,
    symmetric_best_dice,
    variation_of_information,
)
from rlseg.metrics.detection import DSB_THRESHOLDS
from tests.metrics import slow_scores as slow

Values = Sequence[float]
Map = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Line:
    """One score under one convention beside one reference."""

    score: str
    convention: str
    reference: str
    ours: Callable[[Any], Values]
    """Of the overlap table."""
    theirs: Callable[[Map, Map], Values]
    package: str | None = None
    """Needed for the reference; None = plain loops, which also say what is undefined."""


LOOPS = "loops over masks"


def lines() -> list[Line]:
    return [*_dice_lines(), *_count_lines(), *_matching_lines(), *_partition_lines()]


def _dice_lines() -> list[Line]:
    found = []
    functions = {
        "cvppp-2017": slow.best_dice_2017,
        "cvppp-2014": slow.best_dice_2014,
        "paper": slow.best_dice,
    }
    for name, function in functions.items():
        found.append(
            Line(
                score="sbd",
                convention=name,
                reference=LOOPS,
                ours=lambda o, c=name: [symmetric_best_dice(o, convention=c)],
                theirs=lambda p, t, f=function: [min(f(p, t), f(t, p))],
            )
        )
    return [
        *found,
        Line(
            score="best_dice_pred, best_dice_true",
            convention="paper",
            reference=LOOPS,
            ours=lambda o: [best_dice(o, "pred"), best_dice(o, "true")],
            theirs=lambda p, t: [slow.best_dice(p, t), slow.best_dice(t, p)],
        ),
        Line(
            score="fgbg_dice",
            convention="present",
            reference=LOOPS,
            ours=lambda o: [fgbg_dice(o)],
            theirs=lambda p, t: [slow.fgbg(p, t)],
        ),
        Line(
            score="fgbg_dice",
            convention="cvppp-2014",
            reference=LOOPS,
            ours=lambda o: [fgbg_dice(o, convention="cvppp-2014")],
            theirs=lambda p, t: [slow.fgbg(p > p.min(), t > t.min())],
        ),
        *(
            Line(
                score="mucov, mwcov",
                convention=name,
                reference=LOOPS,
                ours=lambda o, c=name: coverage(o, convention=c),
                theirs=lambda p, t, e=extra: slow.coverage(p, t, e),
            )
            for name, extra in (("rec-attend", 0), ("colorrl", 1))
        ),
    ]


def _count_lines() -> list[Line]:
    def fraction(a: int, b: int) -> float:
        return a / b if b else 0.0

    return [
        Line(
            score="dic",
            convention="present",
            reference=LOOPS,
            ours=lambda o: [count_difference(o)],
            theirs=lambda p, t: [len(slow.masks(p)) - len(slow.masks(t))],
        ),
        Line(
            score="dic",
            convention="cvppp-2014",
            reference=LOOPS,
            ours=lambda o: [count_difference(o, convention="cvppp-2014")],
            theirs=lambda p, t: [int(p.max()) - int(p.min()) - int(t.max()) + int(t.min())],
        ),
        Line(
            score="avgfp, avgfn",
            convention="count",
            reference=LOOPS,
            ours=false_instances,
            theirs=lambda p, t: [slow.lonely(p, t), slow.lonely(t, p)],
        ),
        Line(
            score="avgfp_fraction, avgfn_fraction",
            convention="fraction",
            reference=LOOPS,
            ours=lambda o: false_instances(o, convention="fraction"),
            theirs=lambda p, t: [
                fraction(slow.lonely(p, t), len(slow.masks(p))),
                fraction(slow.lonely(t, p), len(slow.masks(t))),
            ],
        ),
        Line(
            score="avgfp_colorrl50, avgfn_colorrl50",
            convention="colorrl-50",
            reference=LOOPS,
            ours=lambda o: false_instances(o, convention="colorrl-50"),
            theirs=slow.colorrl50,
        ),
    ]


ROW_KEYS = ("precision", "recall", "dsb", "f1", "mean_matched_iou", "mean_true_iou", "pq")


def slow_rows(pred: Map, true: Map, strict: bool) -> list[float]:
    """All ratios at all thresholds, from the best matching found by trying every one."""
    table = slow.iou_table(pred, true)
    m, n = len(slow.masks(pred)), len(slow.masks(true))
    values: list[float] = []
    for t in DSB_THRESHOLDS:
        tp, total = slow.best_matching(table, lambda v, t=t: v > t if strict else v >= t)
        row = [tp / m, tp / n, tp / (m + n - tp), 2 * tp / (m + n)] if tp else [0.0] * 4
        row += [total / tp, total / n, total / ((m + n) / 2)] if tp else [0.0] * 3
        values += row
    return values


def stardist_values(pred: Map, true: Map) -> list[float]:
    from stardist.matching import matching

    names = ("precision", "recall", "accuracy", "f1", "mean_matched_score", "mean_true_score")
    rows = matching(true.astype(np.int64), pred.astype(np.int64), list(DSB_THRESHOLDS))
    return [float(getattr(row, name)) for row in rows for name in (*names, "panoptic_quality")]


def our_rows(table: Any, convention: Any = "stardist") -> list[float]:
    rows = scores_at_thresholds(table, convention=convention)
    return [row.scores()[key] for row in rows for key in ROW_KEYS]


def slow_panoptic(pred: Map, true: Map) -> list[float]:
    m, n = len(slow.masks(pred)), len(slow.masks(true))
    tp, total = slow.best_matching(slow.iou_table(pred, true), lambda v: v > 0.5)
    if not tp:
        return [0.0 if m + n else math.nan, math.nan, 0.0 if m + n else math.nan]
    return [total / ((m + n) / 2), total / tp, tp / ((m + n) / 2)]


def slow_aji_plus(pred: Map, true: Map) -> list[float]:
    """Largest sum of IoU over all permutations; ties leave several answers, so give the sum."""
    preds, truths = slow.masks(pred), slow.masks(true)
    if not preds and not truths:
        return [math.nan]
    table = slow.iou_table(pred, true)
    rows, columns = range(len(preds)), range(len(truths))
    flip = len(preds) > len(truths)
    best, scores = -1.0, [0.0]
    for order in itertools.permutations(rows if flip else columns, min(len(preds), len(truths))):
        pairs = list(zip(order, columns, strict=False) if flip else zip(rows, order, strict=False))
        pairs = [(i, j) for i, j in pairs if table[i][j] > 0]
        total = sum(table[i][j] for i, j in pairs)
        common = sum(int((preds[i] & truths[j]).sum()) for i, j in pairs)
        union = sum(int((preds[i] | truths[j]).sum()) for i, j in pairs)
        union += sum(int(p.sum()) for i, p in enumerate(preds) if i not in {i for i, _ in pairs})
        union += sum(int(t.sum()) for j, t in enumerate(truths) if j not in {j for _, j in pairs})
        if total > best + 1e-12:
            best, scores = total, [common / union]
        elif total > best - 1e-12:
            scores.append(common / union)
    return scores


def _matching_lines() -> list[Line]:
    return [
        Line(
            score="rows of thresholds, dsb",
            convention="stardist",
            reference="stardist 0.9 (float32 means)",
            ours=our_rows,
            theirs=stardist_values,
            package="stardist",
        ),
        *(
            Line(
                score="rows of thresholds, dsb",
                convention=name,
                reference="every one-to-one matching tried",
                ours=lambda o, c=name: our_rows(o, c),
                theirs=lambda p, t, s=name == "strict": slow_rows(p, t, s),
            )
            for name in ("stardist", "strict")
        ),
        Line(
            score="pq, sq, rq",
            convention="strict",
            reference="every one-to-one matching tried",
            ours=panoptic,
            theirs=slow_panoptic,
        ),
        Line(
            score="pq",
            convention="strict",
            reference="torchmetrics (float32)",
            ours=lambda o: [panoptic(o).pq],
            theirs=lambda p, t: [peers.torchmetrics_pq([(p.astype(np.int64), t.astype(np.int64))])],
            package="torchmetrics",
        ),
        Line(
            score="aji",
            convention="-",
            reference=LOOPS,
            ours=lambda o: [aji(o)],
            theirs=lambda p, t: [slow.aji(p, t)],
        ),
        Line(
            score="aji_plus",
            convention="-",
            reference="every one-to-one matching tried",
            ours=lambda o: [aji_plus(o)],
            theirs=slow_aji_plus,
        ),
        Line(
            score="ap, ap50, ap75",
            convention="coco-labelmap",
            reference=LOOPS,
            ours=average_precision,
            theirs=lambda p, t: slow.coco_ap([(p, t, [int(m.sum()) for m in slow.masks(p)])]),
        ),
    ]


def _partition_lines() -> list[Line]:
    found = [
        Line(
            score="arand, arand_precision, arand_recall",
            convention=name,
            reference=LOOPS,
            ours=lambda o, c=name: adapted_rand(o, convention=c),
            theirs=lambda p, t, c=name: slow.arand(p, t, c),
        )
        for name in ("skimage", "skimage-all", "cremi")
    ]
    found += [
        Line(
            score="voi_split, voi_merge",
            convention=name,
            reference=LOOPS,
            ours=lambda o, c=name: variation_of_information(o, convention=c)[1:],
            theirs=lambda p, t, c=name: slow.voi(p, t, c),
        )
        for name in ("skimage", "cremi")
    ]
    return [
        *found,
        Line(
            score="arand, arand_precision, arand_recall",
            convention="skimage",
            reference="scikit-image",
            ours=adapted_rand,
            theirs=skimage_arand,
            package="skimage",
        ),
        Line(
            score="voi_split, voi_merge",
            convention="skimage",
            reference="scikit-image",
            ours=lambda o: variation_of_information(o)[1:],
            theirs=skimage_voi,
            package="skimage",
        ),
        Line(
            score="ari",
            convention="all",
            reference="loops over pairs of pixels",
            ours=lambda o: [adjusted_rand_index(o)],
            theirs=lambda p, t: [slow.ari(p, t)],
        ),
        Line(
            score="ari",
            convention="foreground",
            reference="loops over pairs of pixels",
            ours=lambda o: [adjusted_rand_index(o, convention="foreground")],
            theirs=lambda p, t: [slow.ari(p[t > 0], t[t > 0]) if (t > 0).any() else math.nan],
        ),
    ]


def skimage_arand(pred: Map, true: Map) -> list[float]:
    from skimage.metrics import adapted_rand_error

    error, recall, precision = adapted_rand_error(true.astype(np.int64), pred.astype(np.int64))
    return [float(error), float(precision), float(recall)]


def skimage_voi(pred: Map, true: Map) -> list[float]:
    from skimage.metrics import variation_of_information as reference

    return [float(v) for v in reference(true.astype(np.int64), pred.astype(np.int64))]


def random_pairs(count: int) -> Iterator[tuple[Map, Map]]:
    rng = np.random.default_rng(0)
    for number in range(count):
        shape = (2, 4, 5) if number % 4 == 3 else tuple(rng.integers(3, 8, 2))
        most = int(rng.integers(1, 6))
        true = rng.integers(0, most + 1, shape)
        pred = np.where(rng.random(shape) < 0.7, true, rng.integers(0, most + 1, shape))
        if number % 5 == 1:  # no background anywhere
            pred, true = pred + 1, true + 1
        if number % 5 == 2:  # gaps
            pred = pred * 3
        kinds = (np.uint8, np.int16, np.int64, np.uint64)
        yield pred.astype(kinds[number % 4]), true.astype(kinds[number % 4])


def edge_pairs() -> list[tuple[Map, Map]]:
    zero, one = np.zeros((4, 5), int), np.ones((4, 5), int)
    some = np.arange(20).reshape(4, 5) // 7
    return [
        (zero, zero),
        (zero, some),
        (some, zero),
        (some, some),
        (one, one),
        (one, zero),
        (zero, one),
        (one, some),
        (some, one),
        (some + 1, some + 1),
        (np.arange(1, 21).reshape(4, 5), some),
        (some, np.arange(1, 21).reshape(4, 5)),
        (np.array([[1]]), np.array([[1]])),
        (np.array([[0]]), np.array([[1]])),
        (np.array([[[2]]]), np.array([[[0]]])),
        (np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 1]])),  # two halves: IoU exactly 1/2
        (np.array([[1, 1, 1, 1]]), np.array([[1, 1, 2, 2]])),
        (np.array([[1, 1, 1, 0, 0]]), np.array([[1, 1, 1, 1, 1]])),  # IoU exactly 0.6
    ]


def sparse(pred: Map, true: Map) -> tuple[Map, Map]:
    """The same maps with ids spread over 64 bits; the largest is CREMI's ignore id."""
    names = np.array([0, 7, 65_000, 2**40, 2**63 + 5, 2**64 - 1], dtype=np.uint64)
    return names[pred.astype(int) % 6], names[true.astype(int) % 6]


def difference(ours: Values, theirs: Values, loops: bool, any_of: bool) -> float | None:
    """Largest difference; None where a package gives no value."""
    if any_of:  # equally good matchings
        gaps = [difference(ours, [t], loops, False) for t in theirs]
        return min(math.inf if gap is None else gap for gap in gaps)
    worst, compared = 0.0, False
    for a, b in zip(ours, theirs, strict=True):
        if math.isnan(a) or math.isnan(b):
            if loops and math.isnan(a) != math.isnan(b):
                return math.inf
            continue
        compared = True
        worst = max(worst, abs(float(a) - float(b)))
    return worst if compared or loops else None


def compare(line: Line, cases: Sequence[tuple[Map, Map]], edges: int) -> dict[str, Any]:
    worst, counted, otherwise = 0.0, 0, 0
    for number, (pred, true) in enumerate(cases):
        with warnings.catch_warnings():
            if line.package:
                warnings.simplefilter("ignore")
            try:
                theirs = line.theirs(pred, true)
            except (ValueError, ZeroDivisionError, IndexError):
                if line.package is None or number < len(cases) - edges:
                    raise
                otherwise += 1
                continue  # the package refuses this edge case
        any_of = line.score == "aji_plus"
        found = difference(line.ours(overlap(pred, true)), theirs, not line.package, any_of)
        if found is None or (line.package and number >= len(cases) - edges and found > 1e-3):
            otherwise += 1
            continue  # edge cases that the package defines otherwise; the loops decide there
        worst, counted = max(worst, found), counted + 1
    return {
        "score": line.score,
        "convention": line.convention,
        "reference": line.reference,
        "cases": counted,
        "edge_cases_left_out": otherwise,
        "largest_difference": worst,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=250, help="random cases (250)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    plain = list(random_pairs(args.cases))
    edges = edge_pairs()
    wide = [sparse(p, t) for p, t in plain[::5]]
    rows = []
    for line in lines():
        if line.package and not peers.available(line.package):
            continue
        dense_only = line.package is not None or line.convention == "cvppp-2014"
        cases = [*plain, *([] if dense_only else wide), *edges]
        rows.append(compare(line, cases, len(edges)))
        print(rows[-1], flush=True)
    rows += coco_agreement.rows(args.cases)
    result = {**environment(coco_agreement.PACKAGES), "rows": rows}
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
