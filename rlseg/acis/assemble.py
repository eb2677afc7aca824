"""From soft masks in their order to a label map: smoothing, threshold, argmax."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlseg.acis.fit import Fit, Sides, unfit
from rlseg.data.labels import compact
from rlseg.shapes import expect

CHUNK = 1 << 24
"""Most mask pixels that are at the size of the image at once."""


def bilateral(
    masks: Tensor, size: int = 5, sigma_colour: float = 10.0, sigma_space: float = 10.0
) -> Tensor:
    """Masks smoothed with weights that fall with distance and with difference of value.

    The neighbours are those within `size // 2` pixels (a disc, as in OpenCV); the border is
    mirrored without repeating the last pixel. For values in [0, 1] a `sigma_colour` of 10 lets
    nearly all of the neighbours' weight pass: this is almost a box filter.

    Args:
        masks: float [M, H, W].
        size: diameter in pixels, odd.
        sigma_colour: deviation of the weights over values, in units of the masks (C: 10).
        sigma_space: deviation of the weights over distance, in pixels (C: 10).

    Returns:
        float [M, H, W].
    """
    _, height, width = masks.shape
    radius = size // 2
    rows = _mirrored(height, radius, masks.device)
    columns = _mirrored(width, radius, masks.device)
    padded = masks[:, rows][:, :, columns]
    total, weights = torch.zeros_like(masks), torch.zeros_like(masks)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            distance = dy * dy + dx * dx
            if distance > radius * radius:
                continue
            top, left = radius + dy, radius + dx
            neighbour = padded[:, top : top + height, left : left + width]
            weight = torch.exp(
                (neighbour - masks).square() / (-2 * sigma_colour**2)
                - distance / (2 * sigma_space**2)
            )
            total += weight * neighbour
            weights += weight
    return total / weights


def _mirrored(count: int, radius: int, device: torch.device) -> Tensor:
    """int64 [count + 2 radius]: where positions -radius, ... lie after mirroring at the ends."""
    place = torch.arange(-radius, count + radius, device=device)
    if count == 1:
        return torch.zeros_like(place)
    place = place.abs() % (2 * count - 2)
    return torch.where(place < count, place, 2 * count - 2 - place)


class Assembled(NamedTuple):
    """A label map and where it comes from."""

    labels: Tensor
    """int64 [H, W]: 0 = background, 1..K in the order of prediction."""
    order: Tensor
    """int64 [K]: which mask, 0, 1, ..., instance 1..K is."""
    value: Tensor
    """float [H, W]: the highest mask value of each pixel; 0 without masks."""


def to_labels(masks: Tensor, threshold: float) -> Assembled:
    """Every pixel to the mask that is highest there, if it is above the threshold.

    Ties go to the earlier mask. No component is split off and no small one dropped; masks that
    win no pixel leave no gap in the ids.

    Args:
        masks: float [M, H, W], in the order of prediction.
        threshold: pixels at or below it in all masks are background.
    """
    expect("M H W", masks=masks)
    if not len(masks):
        zero = masks.new_zeros(masks.shape[1:])
        return _assembled(zero, zero.long(), threshold)
    return _assembled(*masks.max(dim=0), threshold)


def assemble(
    masks: Tensor, original: Sides, how: Fit, *, threshold: float, smooth: bool = False
) -> Assembled:
    """`to_labels` of masks that are brought to the size of the image, a few at a time.

    Args:
        masks: float [M, h, w] at the size of the networks, in the order of prediction.
        original: height and width of the image.
        how: how the image was fitted.
        threshold: see `to_labels`.
        smooth: apply `bilateral` at the size of the image.
    """
    best = masks.new_zeros(original)
    winner = torch.zeros(original, dtype=torch.int64, device=masks.device)
    chunk = max(1, CHUNK // math.prod(original))
    for start in range(0, len(masks), chunk):
        part = unfit(masks[start : start + chunk], original, how)
        value, index = (bilateral(part) if smooth else part).max(dim=0)
        higher = value > best  # strictly: ties stay with the earlier mask
        best = torch.where(higher, value, best)
        winner = torch.where(higher, index + start, winner)
    return _assembled(best, winner, threshold)


def _assembled(value: Tensor, winner: Tensor, threshold: float) -> Assembled:
    numbered = torch.where(value > threshold, winner + 1, 0)
    kept = torch.unique(numbered)
    return Assembled(compact(numbered), kept[kept > 0] - 1, value)


def mean_values(found: Assembled) -> Tensor:
    """Float [K]: the mean mask value over the pixels of instance 1..K."""
    count = len(found.order) + 1
    flat = found.labels.flatten()
    total = torch.bincount(flat, weights=found.value.flatten().double(), minlength=count)
    area = torch.bincount(flat, minlength=count).clamp(min=1)
    return (total / area)[1:].float()


def prediction_order(found: Assembled) -> Tensor:
    """Int64 [H, W]: 0 = background, else the number of the step, from 1, that drew the pixel."""
    steps = torch.cat([found.order.new_zeros(1), found.order + 1])
    return steps[found.labels]
