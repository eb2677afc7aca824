"""Scores of episodes on whole images: SBD, counting, Dice per step, duplicates, areas."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from rlseg.acis.assemble import prediction_order, to_labels
from rlseg.acis.config import Config
from rlseg.acis.decoder import MaskDecoder
from rlseg.acis.episode import play
from rlseg.acis.hints import Hints
from rlseg.acis.networks import Actor, StopHead
from rlseg.acis.potential import soft_scores
from rlseg.acis.targets import one_hot
from rlseg.data.samples import InstanceBatch
from rlseg.matching import assign
from rlseg.metrics import overlap, symmetric_best_dice
from rlseg.train.runtime import Runtime

DUPLICATE_IOU = 0.5
"""A mask that shares more than this with an earlier one is a duplicate."""


class EpisodeScores:
    """Sums of the scores of played images.

    Args:
        threshold: a pixel belongs to a mask above this.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._images: list[dict[str, float]] = []
        self._steps: list[list[float]] = []

    def add(self, masks: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Takes one image in.

        Args:
            masks: float [M, H, W] in the order of prediction, on the CPU.
            labels: int64 [H, W], instances 1..N.
            valid: bool [H, W].
        """
        true_count = int(labels.max()) if labels.numel() else 0
        found = to_labels(masks * valid, self.threshold).labels
        joint = overlap(found, torch.where(valid, labels, 0))
        image = {
            "sbd": symmetric_best_dice(joint),
            "abs_dic": float(abs(len(masks) - true_count)),
            "masks": float(len(masks)),
        }
        if true_count:
            image |= self._matched(masks[:true_count], labels, valid)
        self._images.append(image)

    def _matched(self, masks: Tensor, labels: Tensor, valid: Tensor) -> dict[str, float]:
        """Dice*, duplicates and areas of the first n masks."""
        if not len(masks):
            return {"dice": 0.0}
        total = int(labels.max())
        true = one_hot(labels.unsqueeze(0), total)[0] & valid
        spread = true.float().unsqueeze(0).expand(len(masks), -1, -1, -1)
        known = valid.float().expand(len(masks), 1, -1, -1)
        soft = soft_scores(masks.unsqueeze(1), spread, known, "dice")
        rows, columns = assign(soft)
        flat = prediction_order(to_labels(masks * valid, 0.5))
        drawn = (masks * valid) > self.threshold
        area = drawn.flatten(1).sum(dim=1).float()
        per_step = [0.0] * len(masks)
        dice = 0.0
        ratios = []
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            dice += _dice(flat == row + 1, true[column])
            per_step[row] = _dice(drawn[row], true[column])
            ratios.append(float(area[row]) / max(float(true[column].sum()), 1.0))
        self._steps.append(per_step)
        pixels = drawn.flatten(1).float()
        shared = pixels @ pixels.T
        union = area.unsqueeze(0) + area.unsqueeze(1) - shared
        same = (shared / union.clamp(min=1)).tril(diagonal=-1) > DUPLICATE_IOU
        return {
            "dice": dice / total,
            "duplicates": float(same.any(dim=1).float().mean()),
            "area_ratio": sum(ratios) / len(ratios),
        }

    def compute(self) -> dict[str, float]:
        """Means over images; `dice_step_<t>` over the images that have a mask t, from 1 on."""
        names = sorted({name for image in self._images for name in image})
        means = {}
        for name in names:
            values = [image[name] for image in self._images if name in image]
            means[name] = sum(values) / len(values)
        for t in range(max(map(len, self._steps), default=0)):
            values = [steps[t] for steps in self._steps if len(steps) > t]
            means[f"dice_step_{t + 1}"] = sum(values) / len(values)
        return means


def _dice(a: Tensor, b: Tensor) -> float:
    both = float(a.sum() + b.sum())
    return 2 * float((a & b).sum()) / both if both else 0.0


def evaluate_episodes(
    config: Config,
    items: Iterable[InstanceBatch],
    *,
    actor: Actor,
    decoder: MaskDecoder,
    hints: Hints,
    runtime: Runtime,
    stop_head: StopHead | None = None,
    threshold: float = 0.5,
) -> dict[str, float]:
    """Plays images of network size from an empty canvas; see `EpisodeScores.compute`.

    Without a stop head, as many masks are drawn as there are instances, at most
    `config.max_steps` (as the code's trainer does), and `abs_dic` says how many that leaves out.
    `config.state` is for predictions: the actor has its whole state here.
    """
    scores = EpisodeScores(config.masks.threshold)
    for module in (actor, decoder, stop_head):
        if module is not None:
            module.eval()
    for item in items:
        batch = item.to(runtime.device)
        maps = hints.maps(batch.image)
        counts = item.labels.flatten(1).amax(dim=1).tolist()
        with runtime.autocast():
            played = play(
                actor,
                decoder,
                maps,
                steps=config.max_steps,
                stop_head=stop_head,
                threshold=threshold,
                foreground=maps[:, -1:] if config.masks.foreground else None,
                blocked="both",
                at_least_one=config.masks.at_least_one,
                counts=None if stop_head is not None else counts,
            )
        masks = played.masks.float().cpu()
        for b, count in enumerate(played.counts):
            scores.add(masks[b, :count], item.labels[b], item.valid[b])
    return scores.compute()
