"""All instance scores of one image, under the chosen conventions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rlseg.config import nearest
from rlseg.errors import ConfigError
from rlseg.metrics.conventions import CHOICES, Conventions
from rlseg.metrics.detection import (
    DSB_THRESHOLDS,
    Detections,
    ThresholdRow,
    detections,
    panoptic_quality,
    panoptic_row,
    scores_at_thresholds,
)
from rlseg.metrics.instance import (
    aji,
    aji_plus,
    best_dice,
    count_difference,
    coverage,
    false_instances,
    fgbg_dice,
    symmetric_best_dice,
)
from rlseg.metrics.overlap import Overlap
from rlseg.metrics.partition import adapted_rand, adjusted_rand_index, variation_of_information

Choice = Any
"""A convention's name, checked by `Conventions` against `CHOICES`."""

DSB_KEYS = ("dsb", "dsb50", "dsb75", "dsb90")
_DSB_PLACES = tuple(DSB_THRESHOLDS.index(threshold) for threshold in (0.5, 0.75, 0.9))
PQ_KEYS = ("pq", "sq", "rq")
PARTS = {"arand": ("precision", "recall"), "voi": ("split", "merge")}
AP_KEYS = ("ap", "ap50", "ap75")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is computed, and how."""

    conventions: Conventions = field(default_factory=Conventions)
    all_conventions: bool = False
    """Also the scores under every other convention, with the convention in the key."""
    metrics: frozenset[str] | None = None
    """Keys wanted; None = all."""
    ignore_id: int | None = None
    """True id of pixels that do not count; None = none, except by the "cremi" rule."""

    def __post_init__(self) -> None:
        if self.metrics is not None:
            if not self.metrics:
                raise ConfigError(
                    f"no score chosen; name some of {', '.join(self.all_keys)}, or none for all"
                )
            for name in sorted(self.metrics - set(self.all_keys)):
                raise ConfigError(
                    f"unknown metric {name!r}{nearest(name, self.all_keys) or ';'} known: "
                    f"{', '.join(self.all_keys)}"
                )
        if self.ignore_id is not None and not 0 <= self.ignore_id < 2**64:
            raise ConfigError(f"ignore id must be in 0..2^64-1, got {self.ignore_id}")

    @property
    def all_keys(self) -> tuple[str, ...]:
        """Every score these conventions have."""
        pooled = (*PQ_KEYS, "dsb_pooled", *AP_KEYS)
        return (*_mean_keys(self.all_conventions), *pooled)

    @property
    def mean_keys(self) -> tuple[str, ...]:
        """The wanted scores that are means over images."""
        return tuple(key for key in _mean_keys(self.all_conventions) if self.wants(key))

    @property
    def image_keys(self) -> tuple[str, ...]:
        """The wanted scores that each image has: those, and the panoptic ones."""
        return (*self.mean_keys, *(key for key in PQ_KEYS if self.wants(key)))

    def wants(self, *keys: str) -> bool:
        """Whether any of the keys is wanted."""
        return self.metrics is None or any(key in self.metrics for key in keys)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageScores:
    """What one image adds to a data set's scores."""

    name: str
    pred_instances: int
    true_instances: int
    values: dict[str, float]
    """The per-image scores, pq, sq and rq included."""
    thresholds: tuple[ThresholdRow, ...]
    panoptic: ThresholdRow
    detections: Detections
    scored: bool
    """Whether the predictions came with scores and these were used."""

    @property
    def numbers(self) -> list[tuple[float, float, float, float]]:
        """TP, FP, FN and sum of IoU at the thresholds and, last, for panoptic quality."""
        return [(r.tp, r.fp, r.fn, r.iou_sum) for r in (*self.thresholds, self.panoptic)]

    @cached_property
    def content(self) -> bytes:
        """Equal for images that add the same to every score; puts images of equal name in order."""
        found = self.detections
        parts = (found.score, found.iou, list(self.values.values()), np.ravel(self.numbers))
        counts = [self.true_instances, self.pred_instances, self.scored]
        return np.concatenate([counts, *parts]).astype(np.float64).tobytes()

    def row(self) -> dict[str, Any]:
        """The image's entry of `per_image`."""
        return {
            "name": self.name,
            "n_pred": self.pred_instances,
            "n_true": self.true_instances,
            **self.values,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Image:
    """What the scores of one image are computed from."""

    table: Overlap
    settings: Settings

    @cached_property
    def rows(self) -> tuple[ThresholdRow, ...]:
        """Matches at the thresholds of `dsb`."""
        convention = _choice(self.settings.conventions.dsb)
        return tuple(scores_at_thresholds(self.table, convention=convention))


Group = tuple[tuple[str, ...], Callable[[Overlap, _Image], tuple[float, ...]]]


def _dsb_values(rows: Sequence[ThresholdRow]) -> tuple[float, ...]:
    """Mean over the thresholds, and at 0.50, 0.75 and 0.90."""
    values = [row.dsb for row in rows]
    return float(np.mean(values)), *(values[place] for place in _DSB_PLACES)


def _counts(table: Overlap, convention: Choice) -> tuple[float, float]:
    difference = float(count_difference(table, convention=convention))
    return difference, abs(difference)


def _choice(name: str) -> Choice:
    return cast("Choice", name)


GROUPS: tuple[Group, ...] = (
    (
        ("sbd",),
        lambda t, i: (symmetric_best_dice(t, convention=_choice(i.settings.conventions.sbd)),),
    ),
    (
        ("best_dice_pred", "best_dice_true"),
        lambda t, i: (best_dice(t, "pred"), best_dice(t, "true")),
    ),
    (("dic", "abs_dic"), lambda t, i: _counts(t, i.settings.conventions.count)),
    (
        ("fgbg_dice",),
        lambda t, i: (fgbg_dice(t, convention=_choice(i.settings.conventions.count)),),
    ),
    (
        ("mucov", "mwcov"),
        lambda t, i: coverage(t, convention=_choice(i.settings.conventions.coverage)),
    ),
    (("avgfp", "avgfn"), lambda t, i: false_instances(t)),
    (
        ("avgfp_fraction", "avgfn_fraction"),
        lambda t, i: false_instances(t, convention="fraction"),
    ),
    (
        ("avgfp_colorrl50", "avgfn_colorrl50"),
        lambda t, i: false_instances(t, convention="colorrl-50"),
    ),
    (DSB_KEYS, lambda t, i: _dsb_values(i.rows)),
    (("aji",), lambda t, i: (aji(t),)),
    (("aji_plus",), lambda t, i: (aji_plus(t),)),
    (
        ("arand", "arand_precision", "arand_recall"),
        lambda t, i: adapted_rand(
            t, convention=_choice(i.settings.conventions.arand), ignore_id=i.settings.ignore_id
        ),
    ),
    (
        ("voi", "voi_split", "voi_merge"),
        lambda t, i: variation_of_information(
            t, convention=_choice(i.settings.conventions.voi), ignore_id=i.settings.ignore_id
        ),
    ),
    (
        ("ari",),
        lambda t, i: (adjusted_rand_index(t, convention=_choice(i.settings.conventions.ari)),),
    ),
)
"""Keys of the per-image scores and what computes them."""


def _every_convention() -> tuple[Group, ...]:
    """Groups of `--all-conventions`: keys end in the convention's name."""

    def sbd(name: Choice) -> Group:
        return (f"sbd_{_key(name)}",), lambda t, i: (symmetric_best_dice(t, convention=name),)

    def arand(name: Choice) -> Group:
        keys = tuple(f"{k}_{_key(name)}" for k in ("arand", "arand_precision", "arand_recall"))
        return keys, lambda t, i: adapted_rand(t, convention=name, ignore_id=i.settings.ignore_id)

    def voi(name: Choice) -> Group:
        keys = tuple(f"{k}_{_key(name)}" for k in ("voi", "voi_split", "voi_merge"))
        return keys, lambda t, i: variation_of_information(
            t, convention=name, ignore_id=i.settings.ignore_id
        )

    def count(name: Choice) -> Group:
        keys = tuple(f"{k}_{_key(name)}" for k in ("dic", "abs_dic", "fgbg_dice"))
        return keys, lambda t, i: (*_counts(t, name), fgbg_dice(t, convention=name))

    def covered(name: Choice) -> Group:
        keys = tuple(f"{k}_{_key(name)}" for k in ("mucov", "mwcov"))
        return keys, lambda t, i: coverage(t, convention=name)

    def dsb(name: Choice) -> Group:
        return (f"dsb_{_key(name)}",), lambda t, i: _dsb_values(
            scores_at_thresholds(t, convention=name)
        )[:1]

    def ari(name: Choice) -> Group:
        return (f"ari_{_key(name)}",), lambda t, i: (adjusted_rand_index(t, convention=name),)

    makers = {
        "sbd": sbd,
        "count": count,
        "coverage": covered,
        "dsb": dsb,
        "arand": arand,
        "voi": voi,
        "ari": ari,
    }
    return tuple(make(name) for score, make in makers.items() for name in CHOICES[score])


def _key(convention: str) -> str:
    return convention.replace("-", "_")


ALL_GROUPS = GROUPS + _every_convention()


def _groups(all_conventions: bool) -> tuple[Group, ...]:
    return ALL_GROUPS if all_conventions else GROUPS


def _mean_keys(all_conventions: bool) -> tuple[str, ...]:
    return tuple(key for keys, _ in _groups(all_conventions) for key in keys)


def score_image(
    table: Overlap,
    settings: Settings,
    *,
    name: str = "",
    scores: NDArray[Any] | None = None,
) -> ImageScores:
    """All wanted scores of one image.

    Args:
        table: overlap of prediction and truth.
        settings: what to compute; `ap_score` "auto" means `scores` if given, else area.
        name: decides the order among equal AP scores.
        scores: confidence of the predicted instances, [M] in ascending order of ids.

    Raises:
        ConfigError: `ap_score` "file" without `scores`, or a score that is not finite.
        ShapeError: another number of scores than instances.
    """
    values: dict[str, float] = {}
    image = _Image(table=table, settings=settings)
    for keys, function in _groups(settings.all_conventions):
        if settings.metrics is None:
            values.update(zip(keys, map(float, function(table, image)), strict=True))
        elif settings.wants(*keys):
            found = dict(zip(keys, map(float, function(table, image)), strict=True))
            values |= {key: value for key, value in found.items() if settings.wants(key)}
    used = _ap_scores(table, settings.conventions.ap_score, scores)
    row = panoptic_row(table)
    quality = panoptic_quality(row)._asdict()
    values |= {key: quality[key] for key in PQ_KEYS if settings.wants(key)}
    return ImageScores(
        name=name,
        pred_instances=table.pred_instances,
        true_instances=table.true_instances,
        values=values,
        thresholds=image.rows,
        panoptic=row,
        detections=detections(table, used),
        scored=used is not None and used is scores,
    )


def _ap_scores(table: Overlap, rule: str, scores: NDArray[Any] | None) -> NDArray[Any] | None:
    if rule == "area":
        return None
    if rule == "one":
        return np.ones(table.pred_instances)
    if rule == "file" and scores is None:
        raise ConfigError('ap_score is "file" but the predictions come without scores')
    return scores


def convention_key(metric: str) -> str | None:
    """Which entry of the conventions a score follows; None where there is only one definition."""
    by_metric = {
        "sbd": "sbd",
        "dic": "count",
        "abs_dic": "count",
        "fgbg_dice": "count",
        "mucov": "coverage",
        "mwcov": "coverage",
        "avgfp": "avgfp",
        "avgfn": "avgfp",
        "dsb_pooled": "dsb",
        "ari": "ari",
    }
    if metric in PQ_KEYS:
        return "pq"
    if metric in AP_KEYS:
        return "ap_score"
    if metric in DSB_KEYS:
        return "dsb"
    for name in ("arand", "voi"):
        if metric in (name, *(f"{name}_{part}" for part in PARTS[name])):
            return name
    return by_metric.get(metric)
