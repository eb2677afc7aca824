"""Rings: the pixels of other instances near an instance, as flat index lists on any device."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from rlseg.errors import ConfigError

CHUNK_CELLS = 2**25
"""Mask cells handled at once: 32 MiB of bytes, whatever the number of instances."""


def number_instances(labels: Tensor) -> tuple[Tensor, Tensor]:
    """One numbering of all instances of a batch.

    Args:
        labels: int64 [B, *S], 0 = background, 1..N within each image.

    Returns:
        index: int64 [B, *S], 0..K-1 over the whole batch, K = background.
        image_of: int64 [K], image of each instance. K = sum of the largest label per image, so
        that a label that does not occur is an instance without pixels.
    """
    per_image = labels.flatten(1).amax(dim=1)  # [B]
    first = per_image.cumsum(0) - per_image
    total = int(per_image.sum())
    shape = (-1,) + (1,) * (labels.ndim - 1)
    index = torch.where(labels > 0, labels - 1 + first.view(shape), total)
    image_of = torch.repeat_interleave(
        torch.arange(len(labels), device=labels.device), per_image, output_size=total
    )
    return index, image_of


def ring_pairs(
    index: Tensor, image_of: Tensor, wanted: Tensor, radius: int, factor: int = 1
) -> tuple[Tensor, Tensor]:
    """All pairs (instance u, pixel q): q belongs to another instance, within `radius` of u.

    This is E_u^r of colorrl fact 3.1, in 2-D and 3-D; background is left out. With `factor` 1
    the distance is Euclidean and exact; above, labels are thinned first, as the original does
    (instances that vanish in thinning get an empty ring), and own pixels never count.

    Args:
        index: int64 [B, *S] of `number_instances`.
        image_of: int64 [K].
        wanted: int64 [U], the instances whose rings are asked for.
        radius: pixels, at least 1.
        factor: thinning, at least 1.

    Returns:
        owner int64 [L] (values of `wanted`) and pixel int64 [L], an index into
        `index.flatten()`; sorted by owner in the order of `wanted`, then by pixel.
    """
    if radius < 1 or factor < 1:
        raise ConfigError(f"radius and factor must be at least 1, got {radius} and {factor}")
    sides = index.shape[1:]
    area = math.prod(sides)
    background = len(image_of)
    thin = index[(slice(None), *(slice(None, None, factor) for _ in sides))]
    reach = max(radius // factor, 1)
    chunk = max(1, CHUNK_CELLS // max(area, 1))
    owners, pixels = [], []
    for some in wanted.split(chunk):
        home = image_of[some]  # [U]
        own = thin[home] == some.view(-1, *(1,) * len(sides))  # [U, *S']
        near = dilate(own, reach)
        for axis, side in enumerate(sides, start=1):
            if factor > 1:
                near = near.repeat_interleave(factor, dim=axis).narrow(axis, 0, side)
        here = index[home]
        near &= (here != background) & (here != some.view(-1, *(1,) * len(sides)))
        row, position = near.flatten(1).nonzero(as_tuple=True)
        owners.append(some[row])
        pixels.append(home[row] * area + position)
    if not owners:
        empty = index.new_zeros(0)
        return empty, empty.clone()
    return torch.cat(owners), torch.cat(pixels)


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Pixels within Euclidean distance `radius` of the mask, exactly.

    Args:
        mask: bool [U, *S].
        radius: pixels, 1 to 250.

    Returns:
        bool [U, *S].
    """
    if not 1 <= radius <= 250:
        raise ConfigError(f"a ring's radius must be in 1..250 pixels, got {radius}")
    along = _distance_along_last(mask, radius)  # uint8: distances fit up to 250, 255 = farther
    result = torch.zeros_like(mask)
    leading = mask.ndim - 2
    for offset in itertools.product(range(-radius, radius + 1), repeat=leading):
        squared = radius * radius - sum(o * o for o in offset)
        if squared < 0 or any(
            abs(o) >= side for o, side in zip(offset, mask.shape[1:], strict=False)
        ):
            continue
        source, target = [slice(None)], [slice(None)]
        for step in offset:
            source.append(slice(max(step, 0), min(step, 0) or None))
            target.append(slice(max(-step, 0), min(-step, 0) or None))
        result[tuple(target)] |= along[tuple(source)] <= math.isqrt(squared)
    return result


def _distance_along_last(mask: Tensor, limit: int) -> Tensor:
    """uint8 [U, *S]: distance to the nearest True along the last axis, 255 beyond `limit`."""
    width = mask.shape[-1]
    place = torch.arange(width, dtype=torch.int16, device=mask.device)
    far = width + limit + 1
    before = torch.where(mask, place, -far).cummax(dim=-1).values
    after = torch.where(mask, place, 2 * far).flip(-1).cummin(dim=-1).values.flip(-1)
    distance = torch.minimum(place - before, after - place)
    return torch.where(distance <= limit, distance, 255).to(torch.uint8)


def erode_to_share(index: Tensor, instances: int, share: float, min_side: float) -> Tensor:
    """Interior I_u of every instance: eroded until its side is `share` of what it was.

    Repeats a 4- (6-) connected erosion of each instance while sqrt(area) is above
    `share * sqrt(original area)` and above `min_side` (colorrl fact 3.1: the original compares
    a side length with its minimum size). Pixels at the image border erode too.

    Args:
        index: int64 [B, *S] of `number_instances`.
        instances: K.
        share: alpha; 1 or more means no erosion.
        min_side: pixels.

    Returns:
        bool [B, *S].
    """
    inside = index != instances
    if share >= 1 or not instances:
        return inside
    flat = index.flatten()
    area = torch.bincount(flat, minlength=instances + 1).double()
    target = share * area.sqrt()
    while True:
        now = torch.bincount(flat[inside.flatten()], minlength=instances + 1).double().sqrt()
        active = (now > target) & (now > min_side)
        active[instances] = False
        if not bool(active.any()):
            return inside
        edge = torch.zeros_like(inside)
        for axis in range(1, index.ndim):
            for way in (1, -1):
                same = (inside & (index == index.roll(way, axis))) & inside.roll(way, axis)
                same.select(axis, 0 if way == 1 else -1).fill_(False)
                edge |= inside & ~same
        inside &= ~(edge & active[index])
