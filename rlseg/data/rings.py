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
    if not len(wanted):
        return wanted, wanted.clone()
    start, extent = _windows(index, len(image_of), wanted, radius + factor, factor)
    reach = max(radius // factor, 1)
    chunk = max(1, CHUNK_CELLS // math.prod(extent))
    background, flat = len(image_of), index.flatten()
    owners, pixels = [], []
    for some, corner in zip(torch.split(wanted, chunk), torch.split(start, chunk), strict=True):
        place = image_of[some].view(-1, *(1,) * len(sides))
        exists = torch.ones_like(place, dtype=torch.bool)
        for axis, (side, length) in enumerate(zip(sides, extent, strict=True)):
            shape = [1] * (len(sides) + 1)
            shape[axis + 1] = -1
            line = torch.arange(length, device=index.device).view(shape)
            line = line + corner[:, axis].view(-1, *(1,) * len(sides))
            exists = exists & (line < side)
            place = place * side + line.clamp(max=side - 1)
        here = torch.where(exists, flat[place], background)  # [U, *extent]
        own = here == some.view(-1, *(1,) * len(sides))
        thin = (slice(None), *(slice(None, None, factor) for _ in sides))
        near = dilate(own[thin].contiguous(), reach)
        for axis, length in enumerate(extent, start=1):
            if factor > 1:
                near = near.repeat_interleave(factor, dim=axis).narrow(axis, 0, length)
        near &= (here != background) & ~own
        found = near.nonzero(as_tuple=True)
        owners.append(some[found[0]])
        pixels.append(place[found])
    return torch.cat(owners), torch.cat(pixels)


def _windows(
    index: Tensor, total: int, wanted: Tensor, margin: int, factor: int
) -> tuple[Tensor, tuple[int, ...]]:
    """Corner of a window around each wanted instance, int64 [U, axes], and their common sides.

    The windows hold the instance and `margin` pixels around it where the image has them; corners
    are multiples of `factor`, so that thinning takes the same pixels in all of them.
    """
    flat = index.flatten()
    corners, extent = [], []
    for axis in range(1, index.ndim):
        side = index.shape[axis]
        shape = [1] * index.ndim
        shape[axis] = -1
        place = torch.arange(side, device=index.device).view(shape).expand_as(index).flatten()
        low = torch.full((total + 1,), side, dtype=torch.int64, device=index.device)
        low = low.scatter_reduce(0, flat, place, "amin")[wanted]
        high = torch.full((total + 1,), -1, dtype=torch.int64, device=index.device)
        high = high.scatter_reduce(0, flat, place, "amax")[wanted]
        low = (low - margin).clamp(min=0, max=side - 1) // factor * factor
        high = (high + margin).clamp(max=side - 1)
        corners.append(low)
        extent.append(max(int((high - low).max()) + 1, 1))
    return torch.stack(corners, dim=1), tuple(extent)


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Pixels within Euclidean distance `radius` of the mask, exactly.

    A disk is a stack of rows of different lengths: the mask is widened along its last axis pixel
    by pixel, and each width is shifted along the other axes to where the disk has it.

    Args:
        mask: bool [U, *S].
        radius: pixels, at least 1.

    Returns:
        bool [U, *S].
    """
    if radius < 1:
        raise ConfigError(f"a ring's radius must be at least 1 pixel, got {radius}")
    offsets: dict[int, list[tuple[int, ...]]] = {}
    for offset in itertools.product(range(-radius, radius + 1), repeat=mask.ndim - 2):
        squared = radius * radius - sum(step * step for step in offset)
        if squared >= 0:
            offsets.setdefault(math.isqrt(squared), []).append(offset)
    wide, result = mask.clone(), torch.zeros_like(mask)
    for width in range(radius + 1):
        if width and width < mask.shape[-1]:
            wide[..., width:] |= mask[..., :-width]
            wide[..., :-width] |= mask[..., width:]
        for offset in offsets.get(width, ()):
            _shift_into(result, wide, offset)
    return result


def _shift_into(result: Tensor, mask: Tensor, offset: tuple[int, ...]) -> None:
    """`result |= mask` moved by `offset` along the axes between the first and the last."""
    source, target = [slice(None)], [slice(None)]
    for step, side in zip(offset, mask.shape[1:-1], strict=True):
        if abs(step) >= side:
            return
        source.append(slice(max(-step, 0), side - max(step, 0)))
        target.append(slice(max(step, 0), side - max(-step, 0)))
    result[tuple(target)] |= mask[tuple(source)]


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
