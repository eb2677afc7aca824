"""Geometry of a batch that stays fixed during an episode: who is rewarded, rings, loss mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlseg.colorrl.config import RewardConfig
from rlseg.data.rings import erode_to_share, number_instances, ring_pairs

FOREGROUND_ROW, BACKGROUND_ROW, UNKNOWN_ROW = 0, 1, 2
"""Rows of pixels without split and merge reward, counted from 2U."""


@dataclass(frozen=True, kw_only=True)
class Ring:
    """Rings of one radius for the rewarded instances, as pairs (instance, pixel)."""

    owner: Tensor
    """int64 [L], rewarded instance 0..U-1."""
    pixel: Tensor
    """int64 [L], place in the flattened batch."""
    size: Tensor
    """float [U], N_u = |E_u| + 1."""
    neighbors: Tensor | None
    """float [U, K], 1 where instance k has a pixel in the ring of u; only for "ins"."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What rewards need to know of the truth; U rewarded instances of K, P pixels in all."""

    row: Tensor
    """int64 [P]: 2u + 1 in the interior of rewarded instance u, 2u elsewhere in it; 2U other
    foreground, 2U + 1 background, 2U + 2 unknown."""
    loss_mask: Tensor
    """float [P], 1 where losses count."""
    inside_size: Tensor
    """float [U], M_u = |I_u| + 1."""
    members: int
    """Pixels of rewarded instances."""
    rings: tuple[Ring, ...]
    interior_of: Tensor | None
    """int64 [P], instance 0..K-1 whose interior the pixel belongs to, K = none; for "ins"."""
    interior_size: Tensor | None
    """float [K], |I_v|, at least 1; only for "ins"."""
    rewarded: Tensor
    """int64 [U], number of each rewarded instance in the batch."""

    @property
    def pairs(self) -> int:
        """Pairs (rewarded instance, pixel in one of its rings), all radii together."""
        return sum(len(ring.owner) for ring in self.rings)


def make_scene(
    labels: Tensor, valid: Tensor, config: RewardConfig, generator: torch.Generator
) -> Scene:
    """The fixed part of an episode.

    Args:
        labels: int64 [B, *S], 0 = background, 1..N within each image.
        valid: bool [B, *S]; unknown pixels get no reward and no loss.
        config: radii, subset rule, interior.
        generator: on the device of `labels`; draws the subset and the background sample.
    """
    index, image_of = number_instances(torch.where(valid, labels, 0))
    total = len(image_of)
    flat = index.flatten()
    area = torch.bincount(flat, minlength=total + 1)[:total]
    kept = _choose(index, image_of, area, config, generator)  # bool [K]: gets gradients
    rewarded = (kept & (area > config.min_instance)).nonzero().squeeze(1)  # [U]
    renumber = torch.full((total + 1,), -1, dtype=torch.int64, device=labels.device)
    renumber[rewarded] = torch.arange(len(rewarded), device=labels.device)
    inside = erode_to_share(index, total, config.interior, config.min_instance).flatten()

    row = _rows(flat, renumber[flat], inside, valid.flatten(), total, len(rewarded))
    neighborly = config.split == "ins"
    count = torch.bincount(row, minlength=2 * len(rewarded) + 3)[: 2 * len(rewarded)].view(-1, 2)
    return Scene(
        row=row,
        loss_mask=_loss_mask(index, kept, valid, config, generator),
        inside_size=count[:, 1].float() + 1,
        members=int(count.sum()),
        rings=tuple(
            _ring(index, image_of, rewarded, renumber, radius, config.dilation_factor, neighborly)
            for radius in config.radii
        ),
        interior_of=torch.where(inside, flat, total) if neighborly else None,
        interior_size=torch.bincount(flat[inside], minlength=total).clamp(min=1).float()
        if neighborly
        else None,
        rewarded=rewarded,
    )


def _rows(
    flat: Tensor, owner: Tensor, inside: Tensor, known: Tensor, total: int, rewarded: int
) -> Tensor:
    other = torch.where(flat == total, BACKGROUND_ROW, FOREGROUND_ROW)
    other = torch.where(known, other, UNKNOWN_ROW) + 2 * rewarded
    return torch.where(owner >= 0, 2 * owner + inside, other)


def _ring(
    index: Tensor,
    image_of: Tensor,
    rewarded: Tensor,
    renumber: Tensor,
    radius: int,
    factor: int,
    neighborly: bool,
) -> Ring:
    who, pixel = ring_pairs(index, image_of, rewarded, radius, factor)
    owner = renumber[who]
    neighbors = None
    if neighborly:
        neighbors = torch.zeros(len(rewarded), len(image_of), device=index.device)
        neighbors[owner, index.flatten()[pixel]] = 1.0
    size = torch.bincount(owner, minlength=len(rewarded)).float() + 1
    return Ring(owner=owner, pixel=pixel, size=size, neighbors=neighbors)


def _choose(
    index: Tensor,
    image_of: Tensor,
    area: Tensor,
    config: RewardConfig,
    generator: torch.Generator,
) -> Tensor:
    """Bool [K]: instances whose pixels get rewards and gradients (colorrl fact 3.5)."""
    total = len(image_of)
    if config.subset == "all" or not total:
        return torch.ones(total, dtype=torch.bool, device=index.device)
    images = len(index)
    draw = torch.rand(total, generator=generator, device=index.device)
    large = area > config.min_instance
    if config.subset == "neighbors":
        order = torch.where(large, draw, 2.0)  # small ones last, and never taken
        kept = (_rank_within(image_of, order, images) < config.subset_seeds) & large
        who, pixel = ring_pairs(
            index, image_of, kept.nonzero().squeeze(1), config.radii[0], config.dilation_factor
        )
        near = torch.zeros(total, total, dtype=torch.bool, device=index.device)
        near[who, index.flatten()[pixel]] = True
        seed, neighbor = near.nonzero(as_tuple=True)
        lot = torch.rand(len(seed), generator=generator, device=index.device)
        kept[neighbor[_rank_within(seed, lot, total) < config.subset_neighbors]] = True
        return kept
    # "nearest_third": distance between centroids; the supplement does not name the measure.
    centroids = _centroids(index, area)
    present = area > 0
    first = _rank_within(image_of, torch.where(present, draw, 2.0), images) == 0
    start = torch.zeros(images, centroids.shape[1], device=index.device)
    start[image_of[first]] = centroids[first]
    distance = (centroids - start[image_of]).square().sum(dim=1)
    distance = torch.where(present, distance, torch.inf)
    count = torch.bincount(image_of[present], minlength=images)
    quota = (count + 2) // 3  # a third, rounded up: never none
    return (_rank_within(image_of, distance, images) < quota[image_of]) & present


def _rank_within(group: Tensor, value: Tensor, groups: int) -> Tensor:
    """int64: place of each element among those of its group, in the order of `value`."""
    by_value = value.argsort(stable=True)
    order = by_value[group[by_value].argsort(stable=True)]
    count = torch.bincount(group, minlength=groups)
    first = count.cumsum(0) - count
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - first[group[order]]
    return rank


def _centroids(index: Tensor, area: Tensor) -> Tensor:
    """Float [K, space axes]."""
    total = len(area)
    flat = index.flatten()
    axes = []
    for axis in range(1, index.ndim):
        shape = [1] * index.ndim
        shape[axis] = -1
        place = torch.arange(index.shape[axis], device=index.device, dtype=torch.float32)
        weights = place.view(shape).expand_as(index).flatten()
        summed = torch.zeros(total + 1, device=index.device).index_add_(0, flat, weights)
        axes.append(summed[:total] / area.clamp(min=1))
    return torch.stack(axes, dim=1)


def _loss_mask(
    index: Tensor, kept: Tensor, valid: Tensor, config: RewardConfig, generator: torch.Generator
) -> Tensor:
    """Float [P]: kept instances, and background drawn with the kept share of the foreground."""
    if config.subset == "all":
        return valid.flatten().float()
    images = len(index)
    foreground = (index != len(kept)).view(images, -1)
    in_kept = torch.cat([kept, kept.new_zeros(1)])[index].view(images, -1)
    share = in_kept.sum(dim=1) / foreground.sum(dim=1).clamp(min=1)
    share = torch.where(share > 0, share, 1.0)  # no instance to learn from: learn the background
    lot = torch.rand(index.shape, generator=generator, device=index.device).view(images, -1)
    sampled = (lot < share.unsqueeze(1)) & ~foreground & valid.view(images, -1)
    return (in_kept | sampled).flatten().float()
