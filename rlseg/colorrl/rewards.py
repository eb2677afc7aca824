"""Rewards of the colouring game in table form: cost O(pixels + ring pairs) per step.

Everything the split and merge rewards need is two histograms of colours per instance: one over
its ring, one over its interior (colorrl fact 3.7). They are counted once per step and read back
per pixel, for the bit that was taken and for the other one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlseg.colorrl.config import RewardConfig
from rlseg.colorrl.scene import Scene


@dataclass(frozen=True, kw_only=True)
class StepReward:
    """Rewards of one step for all P pixels of the batch, per possible bit."""

    total: Tensor
    """float [2, P]: reward if the pixel sets its bit to 0, to 1, everybody else's bit given."""
    split: Tensor
    """float [2, Q] for `Scene.member_pixel`, weighted and summed over radii."""
    merge: Tensor
    """float [2, Q], weighted."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Colour histograms after a step, C colours wide."""

    inside: Tensor
    """float [U, C], i_t(u, k): interior pixels of u with colour k."""
    rings: tuple[Tensor, ...]
    """Per radius float [U, C]: e_t(u, k), ring pixels with colour k ("prox"), or the sum over
    neighbours of the share of their interior with colour k ("ins")."""


def count_tables(colors: Tensor, scene: Scene, colors_wide: int, config: RewardConfig) -> Tables:
    """Histograms of the present colours.

    Args:
        colors: int64 [P], all below `colors_wide`.
        scene: fixed geometry.
        colors_wide: C, 2^(t+1) after step t.
        config: chooses what the ring tables hold.
    """
    rewarded = len(scene.rewarded)
    inside = _histogram(
        scene.inside_owner, colors.index_select(0, scene.inside_pixel), rewarded, colors_wide
    )
    if config.split == "prox":
        rings = tuple(
            _histogram(ring.owner, colors.index_select(0, ring.pixel), rewarded, colors_wide)
            for ring in scene.rings
        )
        return Tables(inside=inside, rings=rings)
    assert scene.others_pixel is not None
    assert scene.others_owner is not None
    assert scene.others_size is not None
    shares = _histogram(
        scene.others_owner,
        colors.index_select(0, scene.others_pixel),
        len(scene.others_size),
        colors_wide,
    )
    shares = shares / scene.others_size.unsqueeze(1)  # phi_t(v, k), [K, C]
    rings = tuple(_neighbors(ring.neighbors) @ shares for ring in scene.rings)
    return Tables(inside=inside, rings=rings)


def foreground_reward(scene: Scene, config: RewardConfig) -> Tensor:
    """Float [2, P]: reward of step 0 for bit 0 and bit 1 (colorrl fact 3.2)."""
    on = (1 - config.background_weight) * scene.foreground.float()
    on = on - config.background_weight * scene.background.float()
    return torch.stack([-on, on])


def late_reward(before: Tensor, scene: Scene, config: RewardConfig) -> Tensor:
    """Float [2, P]: B_t of steps 1..T-1 (colorrl fact 3.3).

    Args:
        before: int64 [P], colours before the step.
        scene: fixed geometry.
        config: penalty of turning clean background on; reward of late foreground.
    """
    clean = (before == 0).float()
    on = -config.late_background_penalty * scene.background.float() * clean
    if config.late_foreground_reward:
        on = on + config.late_foreground_reward * scene.foreground.float() * clean
    return torch.stack([torch.zeros_like(on), on])


def step_reward(
    *,
    before: Tensor,
    bits: Tensor,
    step: int,
    steps: int,
    old: Tables,
    new: Tables,
    scene: Scene,
    config: RewardConfig,
) -> StepReward:
    """Rewards of a step t >= 1 for both bits of every pixel (colorrl fact 3.3).

    The reward of the bit that was not taken is exact: ring tables do not depend on the pixel
    itself, and the interior table changes by one.

    Args:
        before: int64 [P], colours before the step.
        bits: bool [P], the bits taken.
        step: t.
        steps: T.
        old: tables after step t - 1.
        new: tables after step t.
        scene: fixed geometry.
        config: weights.
    """
    owner, pixel, inside = scene.member_owner, scene.member_pixel, scene.member_inside
    color = before.index_select(0, pixel)  # [Q]
    options = torch.stack([color, color + (1 << step)])  # k_0, k_1, [2, Q]
    chosen = bits.index_select(0, pixel)
    untaken = torch.stack([chosen, ~chosen])  # [2, Q]
    inside_now = _read(new.inside, owner, options) + (untaken & inside).float()
    inside_old = _read(old.inside, owner, color)
    size = scene.inside_size.index_select(0, owner)
    merge = config.merge_weight * (inside_now / steps + inside_now - inside_old) / size

    split = torch.zeros_like(merge)
    for ring, table_old, table_new in zip(scene.rings, old.rings, new.rings, strict=True):
        shared_old = _read(table_old, owner, color)
        shared_new = _read(table_new, owner, options)
        gain = shared_old - shared_new - shared_new / steps
        if config.split == "prox":
            split += gain / ring.size.index_select(0, owner)
        else:
            count = _neighbors(ring.neighbors).sum(dim=1).index_select(0, owner)
            # An instance without neighbours is told that all is well, at every step.
            split += torch.where(count > 0, gain / count.clamp(min=1), 1.0)
    split *= config.split_weight * inside.float()

    total = late_reward(before, scene, config)
    total.index_add_(1, pixel, split + merge)  # every pixel at most once: order cannot matter
    return StepReward(total=total, split=split, merge=merge)


def _histogram(owner: Tensor, color: Tensor, owners: int, colors: int) -> Tensor:
    # scatter_add_ and not bincount, which waits for the device to learn its largest value; counts
    # are exact in float32 up to 2^24 pixels per cell.
    cells = torch.zeros(owners * colors, device=color.device)
    cells.scatter_add_(0, owner * colors + color, torch.ones_like(color, dtype=cells.dtype))
    return cells.view(owners, colors)


def _read(table: Tensor, owner: Tensor, color: Tensor) -> Tensor:
    return torch.take(table, owner * table.shape[1] + color)


def _neighbors(matrix: Tensor | None) -> Tensor:
    assert matrix is not None, 'scenes for split = "ins" carry neighbour matrices'
    return matrix
