"""All instance scores of a data set: sums over its images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlseg.errors import ConfigError, ShapeError
from rlseg.metrics.detection import (
    DSB_THRESHOLDS,
    Detections,
    ThresholdRow,
    panoptic_quality,
    pooled_average_precision,
)
from rlseg.metrics.image_scores import AP_KEYS, PQ_KEYS, ImageScores, Settings, score_image
from rlseg.metrics.overlap import LabelMap, overlap

COUNTS = (
    "images",
    "images_empty_pred",
    "images_empty_true",
    "images_empty_both",
    "instances_pred",
    "instances_true",
)
RECORDS = (
    *("name", "pred_instances", "true_instances", "scored"),
    *("values", "rows", "score", "iou"),
)
"""Arrays that `InstanceScores.records` returns."""
_THRESHOLDS = (*DSB_THRESHOLDS, 0.5)  # of the rows of an image: those of `dsb`, and that of `pq`


class InstanceScores:
    """Adds up all instance scores of a data set; an `Accumulator`.

    Means over images leave out the images on which a score is undefined. `dsb_pooled`, `pq`, `sq`
    and `rq` come from summed counts; `ap`, `ap50` and `ap75` from all predictions, which are no sum
    over images. Processes that share the images out join their parts without loss by `records` and
    `add_records` (objects of one process by `merge`); `state` and `load` keep the sums only.

    The result does not depend on the order in which images come, nor on who adds which. Among equal
    AP scores, predictions are sorted by the name of their image; images of equal name, as without
    names, by what is known of them. Names make this order one that other tools can repeat.

    Args:
        settings: what to compute, and under which conventions.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.images: list[ImageScores] = []
        self._loaded: Tensor | None = None

    def update(
        self,
        pred: LabelMap,
        true: LabelMap,
        valid: LabelMap | None = None,
        *,
        name: str = "",
        scores: NDArray[Any] | None = None,
    ) -> None:
        """Adds one image.

        Args:
            pred: integer [*S], 0 = background.
            true: integer [*S].
            valid: bool [*S], pixels that count; None = all.
            name: of the image; decides among equal AP scores, see the class.
            scores: confidence of the predicted instances in ascending order of ids, [M].
        """
        table = overlap(pred, true, valid)
        self.add(score_image(table, self.settings, name=name, scores=scores))

    def add(self, image: ImageScores) -> None:
        """Adds the scores of one image, computed under the same settings."""
        self.images.append(image)

    def merge(self, other: InstanceScores) -> None:
        """Adds everything the other one holds.

        Raises:
            ConfigError: it was made with other settings.
        """
        if other.settings != self.settings:
            raise ConfigError("cannot merge scores computed under different settings")
        if other._loaded is not None:
            self._loaded = other._loaded if self._loaded is None else self._loaded + other._loaded
        self.images.extend(other.images)

    def sorted_images(self) -> list[ImageScores]:
        """The images in name order, those of equal name by content: never in order of arrival."""
        return _in_order(self.images)

    def records(self) -> dict[str, NDArray[Any]]:
        """All that was added, as arrays: to be sent to another process, for `add_records`.

        Keys: `name` str [I], `pred_instances`, `true_instances` int64 [I], `scored` bool [I],
        `values` float64 [I, K] (of `settings.image_keys`), `rows` float64 [I, 11, 4] (TP, FP, FN
        and sum of IoU at the thresholds and for PQ), `score` and `iou` float64 of all predictions.

        Raises:
            ConfigError: after `load`: sums do not tell what they were added up from.
        """
        if self._loaded is not None:
            raise ConfigError(
                "a loaded state holds sums, not images; take records before, and use them instead"
            )
        keys, images, none = self.settings.image_keys, self.images, [np.zeros(0)]
        values = [[image.values[key] for key in keys] for image in images]
        rows = [image.numbers for image in images]
        return {
            "name": np.array([image.name for image in images], dtype=np.str_),
            "pred_instances": np.array([i.pred_instances for i in images], dtype=np.int64),
            "true_instances": np.array([i.true_instances for i in images], dtype=np.int64),
            "scored": np.array([image.scored for image in images], dtype=np.bool_),
            "values": np.array(values, dtype=np.float64).reshape(len(images), len(keys)),
            "rows": np.array(rows, dtype=np.float64).reshape(len(images), len(_THRESHOLDS), 4),
            "score": np.concatenate(none + [image.detections.score for image in images]),
            "iou": np.concatenate(none + [image.detections.iou for image in images]),
        }

    def add_records(self, records: Mapping[str, NDArray[Any]]) -> None:
        """Adds what `records` of another one with the same settings returned.

        Raises:
            ShapeError: an array is missing or has another shape, as under other settings.
        """
        _check_records(records, len(self.settings.image_keys))
        ends = np.cumsum(records["pred_instances"])[:-1]
        score, iou = (np.split(records[key], ends) for key in ("score", "iou"))
        for k, name in enumerate(records["name"].tolist()):
            true_instances = int(records["true_instances"][k])
            rows = [
                _row(threshold, row)
                for threshold, row in zip(_THRESHOLDS, records["rows"][k].tolist(), strict=True)
            ]
            values = records["values"][k].tolist()
            self.images.append(
                ImageScores(
                    name=name,
                    pred_instances=int(records["pred_instances"][k]),
                    true_instances=true_instances,
                    values=dict(zip(self.settings.image_keys, values, strict=True)),
                    thresholds=tuple(rows[:-1]),
                    panoptic=rows[-1],
                    detections=Detections(
                        score=score[k], iou=iou[k], true_instances=true_instances
                    ),
                    scored=bool(records["scored"][k]),
                )
            )

    def state(self) -> Tensor:
        """Sums over images, float64 [K]; states may be added.

        What is no sum is not in it: the rows per image, and with them `ap`, `ap50`, `ap75` and
        which images came with scores. `records` has everything.
        """
        size = len(COUNTS) + 2 * len(self.settings.mean_keys) + 4 * (len(DSB_THRESHOLDS) + 1)
        total = np.zeros(size)
        for image in self.sorted_images():
            total += _sums(image, self.settings.mean_keys)
        state = torch.from_numpy(total)
        return state if self._loaded is None else state + self._loaded

    def load(self, state: Tensor) -> None:
        """Continues from a state. Rows per image are then unknown, and `compute` has no AP scores.

        Raises:
            ShapeError: another length: it belongs to other settings.
        """
        wanted = InstanceScores(self.settings).state().shape
        if state.shape != wanted:
            raise ShapeError(
                f"state has shape {list(state.shape)}, expected {list(wanted)}; it was made with "
                "other metrics or conventions"
            )
        self.images = []
        self._loaded = state.detach().cpu().double().clone()

    def counts(self) -> dict[str, int]:
        """Images, those without instances, and instances on both sides."""
        state = self.state()[: len(COUNTS)].tolist()
        return {key: int(value) for key, value in zip(COUNTS, state, strict=True)}

    def undefined(self) -> dict[str, int]:
        """Per-image scores that are undefined on some images -> on how many."""
        keys = self.settings.mean_keys
        defined = self.state()[len(COUNTS) :][len(keys) : 2 * len(keys)].tolist()
        images = self.counts()["images"]
        return {k: images - int(n) for k, n in zip(keys, defined, strict=True) if n < images}

    def ap_score(self) -> str:
        """What average precision sorted the predictions by: "area", "one" or "file".

        Raises:
            ConfigError: rule "auto", and only some of the images came with scores.
        """
        rule = self.settings.conventions.ap_score
        if rule != "auto":
            return rule
        images = [image for image in self.sorted_images() if image.pred_instances]
        without = [image.name for image in images if not image.scored]
        if without and len(without) < len(images):
            raise ConfigError(
                f"{len(without)} of {len(images)} predictions come without scores, for example "
                f"{without[0]!r}; give scores for all, or choose ap_score area (--ap-score area)"
            )
        return "area" if without or not images else "file"

    def threshold_rows(self) -> list[ThresholdRow]:
        """Matches at 0.50, 0.55 .. 0.95, summed over the data set."""
        rows = self.state()[-4 * (len(DSB_THRESHOLDS) + 1) : -4].reshape(-1, 4).tolist()
        return [_row(t, row) for t, row in zip(DSB_THRESHOLDS, rows, strict=True)]

    def compute(self) -> dict[str, float]:
        """The scores; nan where undefined.

        No images: all nan. After `load`, `ap`, `ap50` and `ap75` are left out.

        Raises:
            ConfigError: see `ap_score`.
        """
        keys, state = self.settings.mean_keys, self.state()
        means = state[len(COUNTS) :].numpy()
        scores = {
            key: float(total / defined) if defined else float("nan")
            for key, total, defined in zip(
                keys, means[: len(keys)], means[len(keys) : 2 * len(keys)], strict=True
            )
        }
        if self.settings.wants("dsb_pooled"):
            pooled = [row.scores()["dsb"] for row in self.threshold_rows()]
            scores["dsb_pooled"] = float(np.mean(pooled)) if state[0] else float("nan")
        quality = panoptic_quality(_row(0.5, state[-4:].tolist()))._asdict()
        scores |= {key: quality[key] for key in PQ_KEYS if self.settings.wants(key)}
        if self._loaded is None and self.settings.wants(*AP_KEYS):
            self.ap_score()  # refuses a mixture of areas and scores
            precision = pooled_average_precision([i.detections for i in self.sorted_images()])
            scores |= {k: v for k, v in precision._asdict().items() if self.settings.wants(k)}
        return scores


def _in_order(images: Sequence[ImageScores]) -> list[ImageScores]:
    """By name; those of equal name by content."""
    by_name = sorted(images, key=lambda image: image.name)
    ordered: list[ImageScores] = []
    for _, group in groupby(by_name, key=lambda image: image.name):
        same = list(group)
        ordered += same if len(same) == 1 else sorted(same, key=lambda image: image.content)
    return ordered


def _check_records(records: Mapping[str, NDArray[Any]], keys: int) -> None:
    missing = [name for name in RECORDS if name not in records]
    if missing:
        raise ShapeError(f"records lack {missing[0]!r}; give what `records` returned")
    images, instances = len(records["name"]), int(np.sum(records["pred_instances"]))
    shapes = {"values": (images, keys), "rows": (images, len(_THRESHOLDS), 4)}
    shapes |= {"score": (instances,), "iou": (instances,)}
    for name in RECORDS:
        expected = shapes.get(name, (images,))
        if records[name].shape != expected:
            raise ShapeError(
                f"records[{name!r}] has shape {list(records[name].shape)}, expected "
                f"{list(expected)}; it was made with other metrics or conventions, or cut"
            )


def _row(threshold: float, values: Sequence[float]) -> ThresholdRow:
    tp, fp, fn = (int(value) for value in values[:3])
    return ThresholdRow(iou=threshold, tp=tp, fp=fp, fn=fn, iou_sum=float(values[3]))


def _sums(image: ImageScores, keys: Collection[str]) -> NDArray[np.float64]:
    no_pred, no_true = image.pred_instances == 0, image.true_instances == 0
    values = np.array([image.values[key] for key in keys], dtype=np.float64)
    defined = ~np.isnan(values)
    counts: Iterable[float] = (
        1,
        no_pred,
        no_true,
        no_pred and no_true,
        image.pred_instances,
        image.true_instances,
    )
    parts = (list(counts), np.where(defined, values, 0.0), defined, np.ravel(image.numbers))
    return np.concatenate(parts).astype(np.float64)
