"""Learning curves of active learning: score against the labels spent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlseg.errors import ConfigError, ShapeError

Scale = Literal["linear", "log"]
Floats = NDArray[np.float64]

SCALES: tuple[Scale, ...] = ("linear", "log")
REACHED = {"labels_to_90": 0.90, "labels_to_95": 0.95, "labels_to_98": 0.98}
"""Key -> share of the score with the whole pool labelled."""


@dataclass(frozen=True, kw_only=True)
class BudgetCurve:
    """Scores of one run (one method, one seed) after each round of labelling."""

    labels: tuple[float, ...]
    """Labels spent, in regions (or any one unit): from 0 up, finite, strictly increasing."""
    scores: tuple[float, ...]
    """Score after each, finite."""

    def __post_init__(self) -> None:
        labels, scores = _checked(self.labels, self.scores)
        # Plain numbers, whatever was given: curves compare equal and are written as JSON.
        object.__setattr__(self, "labels", tuple(labels.tolist()))
        object.__setattr__(self, "scores", tuple(scores.tolist()))


def area_under_budget(
    labels: Sequence[float],
    scores: Sequence[float],
    *,
    scale: Scale = "linear",
    budget_range: tuple[float, float] | None = None,
) -> float:
    """Mean height of the piecewise linear curve, in the unit of the score.

    `integral of y db / (b_last - b_first)` by the trapezoid rule; on the scale "log" with ln b in
    the place of b. Compare methods only over one range: give all of them `common_range`.

    Args:
        labels: b, labels spent, [L] with L >= 2; finite, not negative, strictly increasing.
        scores: y, score after each, finite, [L].
        scale: "linear", or "log" (needs b > 0 at the start of the range).
        budget_range: first and last budget, within the curve; the curve is interpolated there,
            linearly on the chosen scale. None = the whole curve.

    Raises:
        ConfigError: points that are no curve, a range that is empty or outside of it, budget 0 on
            the scale "log", or no such scale.
        ShapeError: not the same number of labels and scores, along one axis.
    """
    budget, height = _checked(labels, scores)
    if scale not in SCALES:
        raise ConfigError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    first, last = budget_range if budget_range is not None else (budget[0], budget[-1])
    if not first < last:
        raise ConfigError(f"the budget range {first:g} to {last:g} is empty")
    if first < budget[0] or last > budget[-1]:
        raise ConfigError(
            f"the budget range {first:g} to {last:g} is not within the curve, which has points "
            f"from {budget[0]:g} to {budget[-1]:g}; a curve is never extended: use common_range"
        )
    if scale == "log":
        positive = budget > 0
        if first < budget[positive][0]:
            raise ConfigError(
                f"the scale 'log' has no place for budget {first:g}; begin the range at the first "
                f"budget above 0 ({budget[positive][0]:g}), or use the scale 'linear'"
            )
        budget, height = np.log(budget[positive]), height[positive]
        first, last = math.log(first), math.log(last)
    inside = (budget > first) & (budget < last)
    x = np.concatenate(([first], budget[inside], [last]))
    y = np.interp(x, budget, height)
    return float(np.trapezoid(y, x) / (last - first))


def labels_to_reach(
    labels: Sequence[float], scores: Sequence[float], share: float, full: float
) -> float:
    """Smallest budget at which the curve reaches a share of the score with all labels.

    The first b with `y(b) >= share * full` on the piecewise linear curve; no smoothing, no running
    maximum. A curve that begins above gives its first budget.

    Args:
        labels: b, labels spent, [L] with L >= 2; finite, not negative, strictly increasing.
        scores: y, score after each, finite, [L].
        share: x, above 0 (0.95 for `labels_to_95`).
        full: score of the same protocol with the whole pool labelled, above 0.

    Returns:
        The budget; nan if the curve never reaches it.

    Raises:
        ConfigError: points that are no curve, or `share` or `full` not above 0.
        ShapeError: not the same number of labels and scores, along one axis.
    """
    budget, height = _checked(labels, scores)
    for name, value in (("share", share), ("full", full)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} must be finite and above 0, got {value}")
    target = share * full
    reached = np.flatnonzero(height >= target)
    if len(reached) == 0:
        return math.nan
    k = int(reached[0])
    if k == 0:
        return float(budget[0])
    part = (target - height[k - 1]) / (height[k] - height[k - 1])  # in (0, 1]
    return float(budget[k - 1] + part * (budget[k] - budget[k - 1]))


def common_range(curves: Iterable[BudgetCurve]) -> tuple[float, float]:
    """The largest first and the smallest last budget: what all curves cover.

    Raises:
        ConfigError: no curve, or no budget that all cover.
    """
    ends = [(curve.labels[0], curve.labels[-1]) for curve in curves]
    if not ends:
        raise ConfigError("no curve to compare: give at least one")
    first, last = max(a for a, _ in ends), min(b for _, b in ends)
    if not first < last:
        raise ConfigError(
            f"the curves have no budget in common: one begins at {first:g}, another ends at "
            f"{last:g}; compare runs over the same budgets"
        )
    return first, last


def over_seeds(values: Sequence[float]) -> dict[str, float | int | None]:
    """One number per seed, summed up.

    Args:
        values: per seed; nan where undefined (never reached).

    Returns:
        `mean` and `std` (of the sample, n - 1) over the seeds where it is defined, None where too
        few are; `seeds`, all of them; `never`, those where it is undefined.
    """
    defined = np.array([v for v in values if not math.isnan(v)], dtype=np.float64)
    return {
        "mean": float(defined.mean()) if len(defined) else None,
        "std": float(defined.std(ddof=1)) if len(defined) > 1 else None,
        "seeds": len(values),
        "never": len(values) - len(defined),
    }


def compare_budgets(
    methods: Mapping[str, Sequence[BudgetCurve]],
    full: float,
    *,
    scale: Scale = "linear",
    budget_range: tuple[float, float] | None = None,
    pixels_per_label: float | None = None,
    pool: float | None = None,
) -> dict[str, Any]:
    """Areas and labels to reach, per method over its seeds; ready for JSON (undefined = None).

    Numbers are computed per seed and then averaged; curves never are. Areas are over one range of
    budgets for all; `labels_to_90`, `_95` and `_98` look at each whole curve.

    Args:
        methods: name -> one curve per seed, at least one.
        full: score of the same protocol with the whole pool labelled, above 0.
        scale: of the area, see `area_under_budget`.
        budget_range: first and last budget; None = `common_range` of all curves.
        pixels_per_label: if given, also `labels_to_90_pixels` ...
        pool: labels in the whole pool; if given, also `labels_to_90_share` ...

    Returns:
        `methods`: name -> {`area_under_budget`, `labels_to_90`, `labels_to_95`, `labels_to_98`,
        further units: as `over_seeds` returns}; `conventions`: `scale`, `budget_from` and
        `budget_to` (0 at the start: the initial weights are included), `full`.

    Raises:
        ConfigError: as the functions above; a method without curve; a unit not above 0.
    """
    bare = [name for name, curves in methods.items() if not curves]
    if bare:
        raise ConfigError(f"no curve of method {bare[0]!r}: give one per seed, or leave it out")
    units = _units(pixels_per_label, pool)
    window = budget_range or common_range(c for curves in methods.values() for c in curves)
    results: dict[str, dict[str, Any]] = {}
    for method, curves in methods.items():
        areas = [
            area_under_budget(c.labels, c.scores, scale=scale, budget_range=window) for c in curves
        ]
        row = {"area_under_budget": over_seeds(areas)}
        for key, share in REACHED.items():
            spent = [labels_to_reach(c.labels, c.scores, share, full) for c in curves]
            for suffix, factor in units.items():
                row[key + suffix] = over_seeds([factor * labels for labels in spent])
        results[method] = row
    conventions = {
        "scale": scale,
        "budget_from": float(window[0]),
        "budget_to": float(window[1]),
        "full": float(full),
    }
    return {"methods": results, "conventions": conventions}


def _units(pixels_per_label: float | None, pool: float | None) -> dict[str, float]:
    """Ending of the keys of each unit -> what one label is in it."""
    for name, value in (("pixels_per_label", pixels_per_label), ("pool", pool)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} must be finite and above 0, got {value}")
    units = {"": 1.0}
    if pixels_per_label is not None:
        units["_pixels"] = pixels_per_label
    if pool is not None:
        units["_share"] = 1 / pool
    return units


def _checked(labels: Sequence[float], scores: Sequence[float]) -> tuple[Floats, Floats]:
    """Both as float64 [L], after checking that they are a curve."""
    try:
        budget, height = (np.asarray(values, dtype=np.float64) for values in (labels, scores))
    except (TypeError, ValueError) as error:
        raise ShapeError(f"a curve is two lists of numbers: {error}") from error
    if budget.ndim != 1 or budget.shape != height.shape:
        raise ShapeError(
            f"a curve needs as many scores as labels, along one axis; got labels "
            f"{list(budget.shape)} and scores {list(height.shape)}"
        )
    if len(budget) < 2:
        raise ConfigError(f"a curve needs 2 points or more, got {len(budget)}: label another round")
    for what, values in (("labels", budget), ("scores", height)):
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ConfigError(f"{what}[{place}] is {values[place]}; a curve needs finite numbers")
    if budget[0] < 0:
        raise ConfigError(f"labels[0] is {budget[0]:g}; labels spent are 0 or more")
    falls = np.flatnonzero(np.diff(budget) <= 0)
    if len(falls):
        k = int(falls[0])
        raise ConfigError(
            f"labels must increase from point to point, but labels[{k}] is {budget[k]:g} and "
            f"labels[{k + 1}] is {budget[k + 1]:g}: sort the points, keep one per budget"
        )
    return budget, height
