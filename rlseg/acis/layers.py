"""Layers and constants shared by the networks of ACIS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.01
"""Of the leaky rectifiers (C)."""
ANGLES = 8
"""Bins of the direction to the instance centre (P)."""
AUXILIARY = ANGLES + 1
"""Auxiliary channels: angles and foreground (P)."""
LOG_VAR_RANGE = (-20.0, 10.0)
"""Log variances are kept in here, so that exp() stays finite."""
LAST = torch.channels_last
"""Layout of maps and weights: two to ten times faster than the default for these networks."""


class SplitConv(nn.Module):
    """A 3x3 convolution whose first input channels stay the same during an episode.

    Its part for those is computed once per episode by `fixed` and added in every step.
    """

    def __init__(self, fixed: int, moving: int, out_channels: int) -> None:
        super().__init__()
        self.channels = fixed
        self.conv = nn.Conv2d(fixed + moving, out_channels, 3, padding=1)

    def fixed(self, x: Tensor) -> Tensor:
        """Float [B, out, H, W], to be handed to `forward`, from the fixed channels [B, F, H, W]."""
        # Slices of a channels-last weight fit no fast kernel until they are copied.
        weight = self.conv.weight[:, : self.channels].contiguous(memory_format=LAST)
        return functional.conv2d(x, weight, self.conv.bias, padding=1)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Float [B, out, H, W] from what `fixed` gave and the moving channels [B, M, H, W]."""
        weight = self.conv.weight[:, self.channels :].contiguous(memory_format=LAST)
        return fixed + functional.conv2d(moving.to(weight.dtype), weight, padding=1)


class Trunk(nn.Module):
    """Convolutions, each followed by a rectifier and a halving.

    Args:
        fixed: channels that stay the same during an episode: image, angles, foreground.
        moving: channels that change with every mask.
        features: channels after each convolution.
        norm: group normalisation after each convolution.
    """

    def __init__(
        self, fixed: int, moving: int, features: Sequence[int], *, norm: bool = False
    ) -> None:
        super().__init__()
        self.first = SplitConv(fixed, moving, features[0])
        self.rest = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(features))
        self.norms = nn.ModuleList(
            nn.GroupNorm(math.gcd(8, width), width) if norm else nn.Identity() for width in features
        )

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Float [B, last, H / 2^n, W / 2^n] from `self.first.fixed(...)` and moving channels."""
        # The rectifier commutes with the maximum and is cheaper after it.
        x = self.norms[0](self.first(fixed, moving))
        x = functional.relu(functional.max_pool2d(x, 2))
        for conv, norm in zip(self.rest, self.norms[1:], strict=True):
            x = functional.relu(functional.max_pool2d(norm(conv(x)), 2))
        return x


class Bottleneck(nn.Module):
    """Fully connected layers to the mean and log variance of a code."""

    def __init__(self, inputs: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden, bias=False)
        self.statistics = linear(hidden, 2 * latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, float [B, Z] each, from float [B, inputs]."""
        hidden = functional.leaky_relu(self.first(x), SLOPE)
        mean, log_var = at_least_float32(self.statistics(hidden)).chunk(2, dim=1)
        return mean, log_var.clamp(*LOG_VAR_RANGE)


def coarse_grid(sides: tuple[int, int], features: Sequence[int]) -> tuple[int, int]:
    """Height and width of what a `Trunk` with these features makes of maps with these sides."""
    return sides[0] >> len(features), sides[1] >> len(features)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with torch's default weights and zero biases (C)."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.bias)
    return layer


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor, widened if autocast made it narrower; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
