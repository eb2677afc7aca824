"""The attention U-Net of ColorRL, without its input and output layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlseg.errors import ConfigError
from rlseg.networks.blocks import AttentionGate, ResidualBlock, UpConv


def check_features(features: Sequence[int]) -> None:
    """Nothing, if an `AttentionUNet` can have these channels per level.

    Raises:
        ConfigError: fewer than two levels, or a count that is odd or below 2.
    """
    if len(features) < 2 or any(f < 2 or f % 2 for f in features):
        raise ConfigError(
            f"features must be at least two even channel counts, got {list(features)}"
        )


class AttentionUNet(nn.Module):
    """U-Net of residual blocks with attention on the skips (colorrl facts 4.1, 4.2).

    Args:
        features: channels per level from full resolution down, at least two; the sides of the
            input must be multiples of `stride`.
    """

    def __init__(self, features: Sequence[int]) -> None:
        super().__init__()
        check_features(features)
        self.stride = 2 ** (len(features) - 1)
        widths = list(features)
        self.encoder = nn.ModuleList(
            ResidualBlock(widths[max(level - 1, 0)], widths[level]) for level in range(len(widths))
        )
        downwards = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(UpConv(deep, shallow) for deep, shallow in downwards)
        self.attention = nn.ModuleList(AttentionGate(shallow) for _, shallow in downwards)
        self.decoder = nn.ModuleList(
            ResidualBlock(2 * shallow, shallow) for _, shallow in downwards
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, features[0], H, W] from the same shape; H and W multiples of `stride`."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        x = skips.pop()
        for up, attention, decoder in zip(self.up, self.attention, self.decoder, strict=True):
            x = up(x)
            x = decoder(torch.cat([attention(x, skips.pop()), x], dim=1))
        return x
