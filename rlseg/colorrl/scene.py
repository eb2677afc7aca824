"""Geometry of a batch that stays fixed during an episode: who is rewarded, rings, loss mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlseg.colorrl.config import RewardConfig
from rlseg.data.rings import erode_to_share, number_instances, ring_pairs


@dataclass(frozen=True, kw_only=True)
class Ring:
    """Rings of one radius for the rewarded instances."""

    owner: Tensor
    """int64 [L], rewarded instance (0..U-1)."""
    pixel: Tensor
    """int64 [L], place in the flattened batch."""
    size: Tensor
    """float [U], N_u = |E_u| + 1."""
    neighbors: Tensor | None
    """float [U, K], 1 where instance k has a pixel in the ring of u; only for "ins"."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What rewards need to know of the truth; U rewarded instances of K, P pixels in all."""

    foreground: Tensor
    """bool [P], label > 0."""
    background: Tensor
    """bool [P], label = 0 and known."""
    loss_mask: Tensor
    """float [P], 1 where losses count."""
    member_pixel: Tensor
    """int64 [Q], pixels of rewarded instances."""
    member_owner: Tensor
    """int64 [Q], 0..U-1."""
    member_inside: Tensor
    """bool [Q], in the interior I_u."""
    inside_pixel: Tensor
    """int64, the members that lie in an interior."""
    inside_owner: Tensor
    """int64, 0..U-1."""
    inside_size: Tensor
    """float [U], M_u = |I_u| + 1."""
    rings: tuple[Ring, ...]
    others_pixel: Tensor | None
    """int64, interior pixels of all K instances; only for "ins"."""
    others_owner: Tensor | None
    """int64, their instance 0..K-1; only for "ins"."""
    others_size: Tensor | None
    """float [K], |I_v|, at least 1; only for "ins"."""
    rewarded: Tensor
    """int64 [U], number of each rewarded instance in the batch."""


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

    owner = renumber[flat]
    member_pixel = (owner >= 0).nonzero().squeeze(1)
    member_owner = owner[member_pixel]
    member_inside = inside[member_pixel]
    inside_owner = member_owner[member_inside]
    inside_area = torch.bincount(inside_owner, minlength=len(rewarded))

    neighborly = config.split == "ins"
    rings = tuple(
        _ring(index, image_of, rewarded, renumber, radius, config.dilation_factor, neighborly)
        for radius in config.radii
    )
    others = inside.nonzero().squeeze(1) if neighborly else None
    known = valid.flatten()
    foreground = (flat != total) & known
    background = (flat == total) & known
    return Scene(
        foreground=foreground,
        background=background,
        loss_mask=_loss_mask(index, kept, foreground, background, config, generator),
        member_pixel=member_pixel,
        member_owner=member_owner,
        member_inside=member_inside,
        inside_pixel=member_pixel[member_inside],
        inside_owner=inside_owner,
        inside_size=inside_area.float() + 1,
        rings=rings,
        others_pixel=others,
        others_owner=None if others is None else flat[others],
        others_size=None
        if others is None
        else torch.bincount(flat[others], minlength=total).clamp(min=1).float(),
        rewarded=rewarded,
    )


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
        seeds = (_rank_within(image_of, order, images) < config.subset_seeds) & large
        who, pixel = ring_pairs(
            index, image_of, seeds.nonzero().squeeze(1), config.radii[0], config.dilation_factor
        )
        pairs = torch.unique(who * (total + 1) + index.flatten()[pixel])
        seed, neighbor = pairs // (total + 1), pairs % (total + 1)
        lot = torch.rand(len(pairs), generator=generator, device=index.device)
        taken = neighbor[_rank_within(seed, lot, total) < config.subset_neighbors]
        seeds[taken] = True
        return seeds
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
    index: Tensor,
    kept: Tensor,
    foreground: Tensor,
    background: Tensor,
    config: RewardConfig,
    generator: torch.Generator,
) -> Tensor:
    """Float [P]: kept instances, and background drawn with the kept share of the foreground."""
    if config.subset == "all":
        return (foreground | background).float()
    in_kept = torch.cat([kept, kept.new_zeros(1)])[index.flatten()] & foreground
    images = len(index)
    total = foreground.view(images, -1).sum(dim=1)
    share = in_kept.view(images, -1).sum(dim=1) / total.clamp(min=1)
    share = torch.where(total > 0, share, 1.0)  # no instance at all: learn the background
    lot = torch.rand(index.shape, generator=generator, device=index.device).view(images, -1)
    sampled = (lot < share.unsqueeze(1)).flatten() & background
    return (in_kept | sampled).float()
