"""Rewards: the change of the best total overlap between masks and instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlseg.matching import assign_batch

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Score = Literal["dice", "iou"]


def soft_scores(mask: Tensor, targets: Tensor, valid: Tensor, kind: Score) -> Tensor:
    """Dice, 2 sum(ST) / (sum S + sum T), or IoU of soft masks with every target.

    Args:
        mask: float [A, 1, H, W] in [0, 1].
        targets: float [A, N, H, W], 0 or 1; all-zero ones are padding.
        valid: float [A, 1, H, W], 0 where nothing counts.
        kind: the score.

    Returns:
        float [A, N] in [0, 1]; 0 for padding and where both are empty.
    """
    soft = (mask * valid).flatten(1)
    wanted = targets.flatten(2)
    shared = torch.bmm(wanted, soft.unsqueeze(2)).squeeze(2)
    area = wanted.sum(dim=2)
    both = soft.sum(dim=1, keepdim=True) + area
    above, below = (2 * shared, both) if kind == "dice" else (shared, both - shared)
    return above / below.clamp(min=1e-6)


def overlap_share(mask: Tensor, canvas: Tensor) -> Tensor:
    """Share of each mask that lies on its canvas, float [A] in [0, 1], from [A, 1, H, W] each."""
    return (mask * canvas).flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1).clamp(min=1e-6)


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Assignments and potentials of a batch of episodes, after each of their steps."""

    potential: Floats
    """[B, T + 1]: phi after 0, 1, ... masks; constant once an episode is over."""
    assigned: Ints
    """[B, T + 1, T]: target of each mask after so many masks; -1 = none."""

    @property
    def rewards(self) -> Floats:
        """r_t = phi after the mask less phi before it, [B, T]."""
        return np.diff(self.potential, axis=1)

    @property
    def final(self) -> Ints:
        """Target of each mask at the end of the episode, [B, T]; -1 = none."""
        return self.assigned[:, -1]


def match_episodes(scores: Floats, counts: Sequence[int], steps: Sequence[int]) -> Episodes:
    """The best assignment after every step of every episode, all in one call.

    Args:
        scores: [B, T, N], of each mask with each target.
        counts: targets per image, at most N.
        steps: masks per image, at most T.

    Returns:
        Potentials and assignments; a mask that matches nothing (score 0) may be assigned.
    """
    batch, length, _ = scores.shape
    potential = np.zeros((batch, length + 1))
    assigned = np.full((batch, length + 1, length), -1, dtype=np.int64)
    places = [(b, t) for b in range(batch) for t in range(1, steps[b] + 1)]
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = assign_batch(
        [scores[b, :t, : counts[b]] for b, t in places]
    )
    for (b, t), (rows, columns) in zip(places, pairs, strict=True):
        potential[b, t] = scores[b, rows, columns].sum()
        assigned[b, t, rows] = columns
    for b in range(batch):
        potential[b, steps[b] + 1 :] = potential[b, steps[b]]
        assigned[b, steps[b] + 1 :] = assigned[b, steps[b]]
    return Episodes(potential=potential, assigned=assigned)


def slope_weights(episodes: Episodes, targets: int, discount: float, *, later: bool) -> Floats:
    """How much each (mask, target) pair counts in the return of the mask's own step.

    The return of step t is sum over k of gamma^k (phi_(t+k+1) - phi_(t+k)), and with assignments
    held fixed, phi_j changes with mask t as the score of the pair (t, its target after j masks).

    Args:
        episodes: what `match_episodes` gave.
        targets: N.
        discount: gamma.
        later: count the later rewards too; else only the immediate one.

    Returns:
        [B, T, N]; a row of a played mask sums to at most 1.
    """
    batch, ends, length = episodes.assigned.shape
    weights = np.zeros((batch, length, targets + 1))  # the last column takes the unassigned
    images = np.arange(batch)
    for t in range(length):
        for j in range(t + 1, ends if later else t + 2):
            weight = discount ** (j - t - 1)
            if later and j < ends - 1:
                weight -= discount ** (j - t)
            np.add.at(weights[:, t], (images, episodes.assigned[:, j, t]), weight)
    return weights[..., :targets]
