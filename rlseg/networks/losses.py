"""Losses and targets of dense prediction shared by the methods."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def interior_target(labels: Tensor, width: int) -> Tensor:
    """1 inside instances, 0 on background and near any other label.

    A pixel counts as interior if every pixel of the square of side `2 * width + 1` around it
    (as far as it lies in the image) carries the pixel's own, non-zero label.

    Args:
        labels: int64 [B, H, W], 0 = background.
        width: pixels, at least 1.

    Returns:
        float [B, H, W].
    """
    # Float32 keeps label numbers below 2^24 apart; numbers within an image are consecutive.
    value = labels.float().unsqueeze(1)
    value = functional.pad(value, (width,) * 4, mode="replicate")
    highest = functional.max_pool2d(value, 2 * width + 1, stride=1)
    lowest = -functional.max_pool2d(-value, 2 * width + 1, stride=1)
    return ((highest == lowest).squeeze(1) & (labels > 0)).float()


def masked_binary_cross_entropy(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean binary cross entropy over the pixels of the mask; 0 where the mask is empty.

    Args:
        logits: float [*S].
        target: float [*S] in [0, 1].
        mask: bool [*S].
    """
    each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return torch.where(mask, each, 0.0).sum() / mask.sum().clamp(min=1)


def kl_to_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(log_var)) from N(0, I), summed over the last axis, in nats.

    Args:
        mean: float [*S, Z].
        log_var: float [*S, Z].

    Returns:
        float [*S], at least 0.
    """
    return 0.5 * (log_var.exp() + mean.square() - 1 - log_var).sum(dim=-1)
