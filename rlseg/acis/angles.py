"""Direction of a pixel as seen from the centroid of its instance, in 8 bins."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from rlseg.acis.layers import ANGLES

CENTRE_BIN = 6
"""Bin of a pixel that lies exactly on the centroid of its instance (C)."""
Axis = Literal["horizontal", "vertical"]


def angle_bins(labels: Tensor) -> Tensor:
    """Direction from the centroid of a pixel's instance to the pixel, in 8 bins.

    `bin = (floor((theta + 22.5) / 45) + 4) mod 8` with `theta = atan2(dy, dx)` in degrees and y
    pointing down: 0 = left of the centroid, 2 = above, 4 = right, 6 = below.

    Args:
        labels: integer [B, H, W], 0 = background.

    Returns:
        int64 [B, H, W] in 0..7; 6 on a centroid itself. Background is 0, as in the code: tell it
        apart by `labels > 0`.
    """
    batch, height, width = labels.shape
    labels = labels.long()
    # A number of its own for every instance of the batch, background included.
    most = labels.amax() + 1 if labels.numel() else labels.new_ones(())
    image = torch.arange(batch, device=labels.device).reshape(batch, 1, 1)
    ids = (labels + most * image).flatten()
    rows = torch.arange(height, device=labels.device).reshape(height, 1)
    columns = torch.arange(width, device=labels.device)
    at = torch.stack([rows.expand_as(labels), columns.expand_as(labels)]).flatten(1)  # [2, P]
    sums = at.new_zeros(3, batch * int(most))
    for total, terms in zip(sums, (*at, torch.ones_like(ids)), strict=True):
        total.index_add_(0, ids, terms)
    # Whole numbers, area times (pixel - centroid), have the same direction and no rounding.
    dy, dx = at * sums[2, ids] - sums[:2, ids]
    degrees = torch.atan2(dy.double(), dx.double()) * (180 / math.pi)
    bins = (((degrees + 22.5) / 45).floor().long() + 4) % ANGLES
    bins = torch.where((dy == 0) & (dx == 0), CENTRE_BIN, bins).reshape(labels.shape)
    return torch.where(labels > 0, bins, 0)


def flip_bins(bins: Tensor, foreground: Tensor, axis: Axis) -> Tensor:
    """The bins of the mirrored picture, from those of the picture.

    Equal to `angle_bins` of the mirrored labels but for pixels exactly on a centroid, whose bin 6
    becomes 2 when top and bottom change places.

    Args:
        bins: int64 [..., H, W] in 0..7.
        foreground: bool [..., H, W], inside an instance; background stays 0.
        axis: "horizontal" exchanges left and right, "vertical" top and bottom.
    """
    side, turned = (-1, ANGLES // 2 - bins) if axis == "horizontal" else (-2, ANGLES - bins)
    return torch.where(foreground, turned % ANGLES, 0).flip(side)
