"""Rewards of the colouring game in table form: cost O(pixels + ring pairs) per step.

Everything the split and merge rewards need is two histograms of colours per instance: one over
its ring, one over its interior (colorrl fact 3.7). A pixel's reward then depends only on its row
(instance, interior or not), its colour and its bit, so rewards too are a small table, which every
pixel reads once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlseg.colorrl.config import RewardConfig
from rlseg.colorrl.scene import BACKGROUND_ROW, FOREGROUND_ROW, Scene


@dataclass(frozen=True, kw_only=True)
class StepReward:
    """Rewards of one step for the P pixels of the batch."""

    taken: Tensor
    """float [P], reward of the bit that was taken."""
    gain: Tensor
    """float [P], reward of bit 1 minus that of bit 0, everybody else's bit given."""
    split: Tensor
    """float [], mean weighted split reward over the pixels of rewarded instances."""
    merge: Tensor
    """float [], mean weighted merge reward over the same."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Colour histograms after step t, C = 2^(t+1) colours wide."""

    place: Tensor
    """int64 [P], cell of `rows.flatten()` that each pixel falls into: row * C + colour."""
    rows: Tensor
    """float [2U + 3, C], pixels per row and colour."""
    rings: tuple[Tensor, ...]
    """Per radius float [U, C]: e_t(u, k), ring pixels with colour k ("prox"), or the sum over
    neighbours of the share of their interior with colour k ("ins")."""

    @property
    def inside(self) -> Tensor:
        """Float [U, C], i_t(u, k): interior pixels of u with colour k."""
        return self.rows[1:-2:2]


def count_tables(colors: Tensor, scene: Scene, colors_wide: int, config: RewardConfig) -> Tables:
    """Histograms of the present colours.

    Args:
        colors: int64 [P], all below `colors_wide`.
        scene: fixed geometry.
        colors_wide: C.
        config: chooses what the ring tables hold.
    """
    rewarded = len(scene.rewarded)
    place = _cells(scene.row, colors, colors_wide)
    rows = _count(place, 2 * rewarded + 3, colors_wide)
    if config.split == "prox":
        rings = []
        for ring in scene.rings:
            cells = _cells(ring.owner, colors.index_select(0, ring.pixel), colors_wide)
            rings.append(_count(cells, rewarded, colors_wide))
        return Tables(place=place, rows=rows, rings=tuple(rings))
    assert scene.interior_of is not None
    assert scene.interior_size is not None
    total = len(scene.interior_size)
    cells = _cells(scene.interior_of, colors, colors_wide)
    shares = _count(cells, total + 1, colors_wide)[:total]
    shares = shares / scene.interior_size.unsqueeze(1)  # phi_t(v, k), [K, C]
    sums = tuple(_neighbors(ring.neighbors) @ shares for ring in scene.rings)
    return Tables(place=place, rows=rows, rings=sums)


def _cells(owner: Tensor, color: Tensor, colors: int) -> Tensor:
    """Int64: cell of a table [owners, colors]."""
    return (owner * colors).add_(color)


def _count(cells: Tensor, owners: int, colors: int) -> Tensor:
    """Float [owners, colors]: how often each cell occurs."""
    # scatter_add_ and not bincount, which waits for the device to learn its largest value; counts
    # are exact in float32 up to 2^24 pixels per cell.
    table = torch.zeros(owners * colors, device=cells.device)
    one = torch.ones((), device=cells.device).expand(cells.shape)
    return table.scatter_add_(0, cells, one).view(owners, colors)


def first_reward(new: Tables, scene: Scene, config: RewardConfig) -> StepReward:
    """Step 0: foreground and background only (colorrl fact 3.2).

    Args:
        new: tables after step 0.
        scene: fixed geometry.
        config: weight of the background.
    """
    on = _per_row(scene, 1 - config.background_weight, -config.background_weight)
    table = torch.stack([-on, on], dim=1).unsqueeze(2)  # [rows, bit, colour before]
    taken, gain = _read(table, torch.zeros_like(on), new.place)
    return StepReward(taken=taken, gain=gain, split=on.new_zeros(()), merge=on.new_zeros(()))


def step_reward(
    *, step: int, steps: int, old: Tables, new: Tables, scene: Scene, config: RewardConfig
) -> StepReward:
    """Rewards of a step t >= 1 for the bit taken and for the other (colorrl fact 3.3).

    The reward of the bit that was not taken is exact: ring tables do not depend on the pixel
    itself, and the interior table changes by one.

    Args:
        step: t.
        steps: T.
        old: tables after step t - 1.
        new: tables after step t.
        scene: fixed geometry.
        config: weights.
    """
    wide = 1 << step  # colours before the step
    size = scene.inside_size.view(-1, 1, 1)
    # [U, 2, wide]: after bit 0 and after bit 1, by the colour before.
    inside_new = new.inside.reshape(-1, 2, wide)
    inside_old = old.inside.unsqueeze(1)
    merge = config.merge_weight * (inside_new / steps + inside_new - inside_old) / size
    split = _split(old, new, wide, steps, scene, config)
    table = merge.new_zeros(2 * len(scene.rewarded) + 3, 2, wide)
    table[0:-3:2] = merge
    table[1:-2:2] = merge + split
    # B_t: only clean pixels, of colour 0, that turn on.
    late = _per_row(scene, config.late_foreground_reward, -config.late_background_penalty)
    table[:, 1, 0] += late
    # The interior would hold one more pixel of the colour that was not taken.
    more = merge.new_zeros(len(table))
    more[1:-2:2] = config.merge_weight * (1 / steps + 1) / scene.inside_size
    taken, gain = _read(table, more, new.place)
    members = max(scene.members, 1)
    rows = new.rows[:-3].reshape(-1, 2, 2, wide)  # [U, outside or inside, bit, colour before]
    return StepReward(
        taken=taken,
        gain=gain,
        split=(split * rows[:, 1]).sum() / members,
        merge=(merge * rows.sum(dim=1)).sum() / members,
    )


def _read(table: Tensor, more: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Reward of the bit taken and gain of bit 1, float [P] each.

    Args:
        table: float [rows, 2, colours before], reward by bit.
        more: float [rows], what the bit that was not taken would earn besides.
        place: int64 [P], cell of [rows, 2, colours before] that the taken bit leads to.
    """
    gain = table[:, 1] - table[:, 0]
    more = more.unsqueeze(1)
    by_taken = torch.stack([gain + more, gain - more], dim=1)  # after bit 0 and after bit 1
    read = torch.stack([table, by_taken], dim=-1).view(-1, 2).index_select(0, place)
    return read[:, 0], read[:, 1]


def _split(
    old: Tables, new: Tables, wide: int, steps: int, scene: Scene, config: RewardConfig
) -> Tensor:
    """Float [U, 2, wide]: weighted split reward of an interior pixel, summed over radii."""
    total = torch.zeros(len(scene.rewarded), 2, wide, device=scene.row.device)
    for ring, table_old, table_new in zip(scene.rings, old.rings, new.rings, strict=True):
        shared = table_new.reshape(-1, 2, wide)
        gain = table_old.unsqueeze(1) - shared - shared / steps
        if config.split == "prox":
            total += gain / ring.size.view(-1, 1, 1)
        else:
            count = _neighbors(ring.neighbors).sum(dim=1).view(-1, 1, 1)
            # An instance without neighbours is told that all is well, at every step.
            total += torch.where(count > 0, gain / count.clamp(min=1), 1.0)
    return config.split_weight * total


def _per_row(scene: Scene, foreground: float, background: float) -> Tensor:
    """Float [2U + 3]: one number for all foreground, one for background, 0 for unknown pixels."""
    others = 2 * len(scene.rewarded)
    values = torch.zeros(others + 3, device=scene.row.device)
    values[: others + FOREGROUND_ROW + 1] = foreground
    values[others + BACKGROUND_ROW] = background
    return values


def _neighbors(matrix: Tensor | None) -> Tensor:
    assert matrix is not None, 'scenes for split = "ins" carry neighbour matrices'
    return matrix
