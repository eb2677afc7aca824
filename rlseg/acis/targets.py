"""Instances of label maps as masks."""

from __future__ import annotations

import torch
from torch import Tensor

from rlseg.shapes import expect


def one_hot(labels: Tensor, count: int) -> Tensor:
    """One mask per instance: bool [B, count, H, W].

    Args:
        labels: int64 [B, H, W], 0 = background, 1..N instances.
        count: masks per image. Mask `k` is instance `k + 1`; it is empty where an image has no such
            instance, and instances above `count` are left out.
    """
    expect("B H W", labels=labels)
    ids = torch.arange(1, count + 1, device=labels.device, dtype=labels.dtype)
    return labels.unsqueeze(1) == ids.view(1, -1, 1, 1)


def draw_instance(labels: Tensor, generator: torch.Generator) -> Tensor:
    """The mask of one instance per image, drawn with equal chances: bool [B, H, W].

    Empty where an image has no instance.

    Args:
        labels: int64 [B, H, W], 0 = background, 1..N instances, consecutive.
        generator: on the CPU, so that every device draws the same.
    """
    expect("B H W", labels=labels)
    counts = labels.flatten(1).amax(dim=1)  # [B]
    lot = torch.rand(len(labels), generator=generator, dtype=torch.float64)
    lot = lot.to(labels.device, non_blocking=True)
    chosen = (lot * counts).long() + 1  # [B]
    return (labels == chosen.view(-1, 1, 1)) & (labels > 0)
