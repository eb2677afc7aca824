"""Average precision of a file of scored masks against a COCO data set file, as one result table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlseg import __version__
from rlseg.data.coco import CocoTruth, read_truth
from rlseg.errors import ConfigError
from rlseg.metrics.coco import (
    COCO_MAX_DETS,
    PLACES_MAX_DETS,
    CocoScores,
    Detected,
    Truths,
    coco_scores,
    keep_best,
)
from rlseg.metrics.coco_hotcoco import available, hotcoco_can, hotcoco_scores
from rlseg.metrics.coco_pairs import run_pairs
from rlseg.submissions import Results, read_results

__all__ = [
    "EVALUATE_SCHEMA",
    "PLACES_SCHEMA",
    "Backend",
    "Mode",
    "evaluate_coco",
    "evaluate_places",
]

EVALUATE_SCHEMA = "rlseg.evaluate/1"
"""Names the keys of a result of `rlseg evaluate`."""
PLACES_SCHEMA = "rlseg.places/1"
"""Names the keys of a result of `rlseg places evaluate`."""

Mode = Literal["official", "strict"]
"""As the code of the challenge and COCO, or as the challenge's rules."""
Backend = Literal["auto", "own", "hotcoco"]
"""Who computes."""
Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""
STEPS = 3
"""Steps that `Progress` counts."""

TruthSource = str | Path | Mapping[str, Any] | CocoTruth
ResultSource = str | Path | Sequence[Any] | Results


def evaluate_coco(
    truth: TruthSource,
    results: ResultSource,
    *,
    max_dets: Sequence[int] = COCO_MAX_DETS,
    mode: Mode = "official",
    compat: bool = False,
    backend: Backend = "auto",
    schema: str = EVALUATE_SCHEMA,
    unknown_category: Literal["error", "drop"] = "error",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The twelve COCO numbers of scored masks, AP per category, and what they were computed from.

    Args:
        truth: file, content, or what `read_truth` made of it.
        results: file, list, or what `read_results` made of it.
        max_dets: limits per image and category, three, ascending; AP is at the largest.
        mode: "official": as the COCO tools; "strict": first only the best `max_dets[-1]` of each
            image over all categories are kept.
        compat: lose the truth with annotation id 0, as the original code does; not by hotcoco.
        backend: who computes the same numbers: "own", "hotcoco" (the extra `fast`), or "auto": our
            own code, the faster one from checked masks (hotcoco wants them written as text again).
        schema: written into the result.
        unknown_category: results of a category that the data set lacks are an error, or are
            dropped, counted and warned of. Not used for `Results`, which are dropped.
        progress: told after each step: data set read, results read, scored.

    Returns:
        `ap ap50 ap75 ap_small ap_medium ap_large`, `ar<limit>` for each limit,
        `ar_small ar_medium ar_large` (nan where no truth counts); `schema`, `version`, `max_dets`,
        `mode`, `compat`, `backend` (who computed it), counts `images annotations predictions
        dropped`, `warnings`, and `per_category`: rows of `id name ap ap50 n_true n_pred`.

    Raises:
        InvalidResultsError: malformed results, with all reasons.
        CorruptDatasetError: a malformed data set.
        ConfigError: contradicting settings, or a backend that is not installed.
    """
    limits = _limits(max_dets)
    who = _backend(backend, compat)
    if not isinstance(truth, CocoTruth):
        truth = read_truth(truth)
    _tell(progress, 1)
    if not isinstance(results, Results):
        keep: Literal["error", "keep"] = "error" if unknown_category == "error" else "keep"
        results = read_results(results, truth, unknown_category=keep)
    _tell(progress, 2)
    chosen, warnings = _selected(results, truth, mode, limits[-1])
    warnings += _notes(chosen, truth)
    scores = _scores(truth, chosen, limits, who, compat)
    _tell(progress, STEPS)
    return {
        **{"schema": schema, "version": __version__},
        **scores.summary(),
        **{"max_dets": list(limits), "mode": mode, "compat": compat, "backend": who},
        **{"images": len(truth.image_ids), "annotations": len(truth)},
        **{"predictions": len(results), "dropped": len(results) - len(chosen)},
        **{"warnings": warnings, "per_category": _rows(scores, truth)},
    }


def evaluate_places(
    truth: TruthSource,
    results: ResultSource,
    *,
    mode: Mode = "official",
    compat: bool = False,
    backend: Backend = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The numbers of the Places Challenge 2017: AP, and AR at 1, 50 and 255 masks per image.

    Args:
        truth: as `evaluate_coco`.
        results: as `evaluate_coco`.
        mode: "official": as the challenge's code, with at most 255 masks per image *and category*
            and masks of unknown categories dropped; "strict": as its rules, the 255 best per image
            over all categories, unknown categories refused.
        compat: as `evaluate_coco`.
        backend: as `evaluate_coco`.
        progress: as `evaluate_coco`.

    Returns:
        As `evaluate_coco`, with the schema "rlseg.places/1".

    Raises:
        RlsegError: as `evaluate_coco`.
    """
    return evaluate_coco(
        truth,
        results,
        max_dets=PLACES_MAX_DETS,
        mode=mode,
        compat=compat,
        backend=backend,
        schema=PLACES_SCHEMA,
        unknown_category="error" if mode == "strict" else "drop",
        progress=progress,
    )


def _tell(progress: Progress | None, done: int) -> None:
    if progress is not None:
        progress(done, STEPS)


def _limits(max_dets: Sequence[int]) -> tuple[int, int, int]:
    limits = tuple(max_dets)
    if len(limits) != 3 or not 0 < limits[0] < limits[1] < limits[2]:
        raise ConfigError(
            f"max_dets must be three ascending whole numbers above 0, got "
            f"{' '.join(str(limit) for limit in limits)}; COCO's are 1 10 100"
        )
    return limits


def _backend(backend: Backend, compat: bool) -> Literal["own", "hotcoco"]:
    if backend != "hotcoco":
        return "own"
    if not hotcoco_can(compat=compat):
        raise ConfigError("compat is computed by our own code only; leave out backend hotcoco")
    if not available():
        raise ConfigError(
            "backend hotcoco is not installed: pip install 'rlseg[fast]', or use backend own"
        )
    return "hotcoco"


def _selected(
    results: Results, truth: CocoTruth, mode: Mode, limit: int
) -> tuple[Results, list[str]]:
    """The masks that are scored, and a sentence on those that are not."""
    warnings = []
    known = np.isin(results.category, truth.category_ids)
    if not known.all():
        some = np.unique(results.category[~known])
        listed = ", ".join(str(number) for number in some[:10].tolist())
        more = f" and {len(some) - 10} more" if len(some) > 10 else ""
        warnings.append(
            f"{_count(int((~known).sum()), 'prediction')} of unknown categories dropped: "
            f"{listed}{more}"
        )
        results = results.take(known)
    if mode == "strict":
        best = keep_best(_detected(results), limit)
        if len(best) < len(results):
            warnings.append(
                f"{_count(len(results) - len(best), 'prediction')} dropped: beyond the {limit} "
                "best of an image over all categories"
            )
            results = results.take(best)
    return results, warnings


def _notes(results: Results, truth: CocoTruth) -> list[str]:
    """What a reader of the numbers should know."""
    notes = []
    empty = int((results.runs.areas() == 0).sum())
    if empty:
        notes.append(
            f"{_count(empty, 'prediction')} with an empty mask: counted as false positives"
        )
    empty = int(((truth.runs.areas() == 0) & ~truth.crowd).sum())
    if empty:
        notes.append(f"{_count(empty, 'annotation')} with an empty mask: can never be found")
    if results.boxed:
        notes.append(
            f"{_count(results.boxed, 'prediction')} with a bbox: not read; area ranges use the "
            "pixels of the mask (the original code would use the area of the box)"
        )
    if len(truth) == 0:
        notes.append("the data set has no annotations: no score is defined")
    elif truth.crowd.all():
        notes.append("the data set has crowd regions only: no score is defined")
    return notes


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _rows(scores: CocoScores, truth: CocoTruth) -> list[dict[str, Any]]:
    names = dict(zip(truth.category_ids.tolist(), truth.category_names, strict=True))
    return [{"id": row["id"], "name": names[row["id"]], **row} for row in scores.per_category()]


def _detected(results: Results) -> Detected:
    return Detected(
        image=results.image,
        category=results.category,
        area=results.runs.areas().astype(np.float64),
        score=results.score,
    )


def _scores(
    truth: CocoTruth,
    results: Results,
    limits: tuple[int, int, int],
    who: Literal["own", "hotcoco"],
    compat: bool,
) -> CocoScores:
    detected = _detected(results)
    truths = Truths(image=truth.image, category=truth.category, area=truth.area, crowd=truth.crowd)
    if who == "hotcoco":
        return hotcoco_scores(
            truths,
            detected,
            truth.runs,
            results.runs,
            images=truth.image_ids,
            categories=truth.category_ids,
            max_dets=limits,
        )
    lost = np.flatnonzero(truth.annotation_ids == 0)
    return coco_scores(
        truths,
        detected,
        run_pairs(detected, truths, results.runs, truth.runs, limit=limits[-1]),
        images=truth.image_ids,
        categories=truth.category_ids,
        max_dets=limits,
        compat=int(lost[0]) if compat and len(lost) else None,
    )
