"""Convolution, normalisation and attention blocks used by more than one network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvNormELU(nn.Module):
    """3x3 convolution, instance normalisation, ELU: `CIE` in colorrl fact 4.1.

    The normalisation has no affine part and keeps no running statistics: in a colouring episode
    the input changes its statistics from step to step, so that no running mean fits.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        # The normalisation removes any bias, and passes on rounding noise, many times enlarged,
        # as its gradient: the original's biases are left out.
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, out, H, W] from float [B, in, H, W]."""
        return functional.elu(instance_norm(self.conv(x)))


def instance_norm(x: Tensor) -> Tensor:
    """Every channel of every image at mean 0 and variance 1; a constant channel becomes 0."""
    # One group per channel is instance normalisation, and unlike `F.instance_norm` it keeps the
    # channels-last layout; the wrapper in `functional` refuses a single pixel per channel.
    return torch.group_norm(x, x.shape[1])


class ResidualBlock(nn.Module):
    """`x1 + CIE(CIE(x1))` with `x1 = CIE(x)` and half the channels in between."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = ConvNormELU(in_channels, out_channels)
        self.squeeze = ConvNormELU(out_channels, out_channels // 2)
        self.widen = ConvNormELU(out_channels // 2, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, out, H, W] from float [B, in, H, W]."""
        x = self.first(x)
        change: Tensor = self.widen(self.squeeze(x))
        return x + change


class UpConv(nn.Module):
    """Transposed convolution that doubles the sides, then CIE."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, in_channels, 2, stride=2)
        self.conv = ConvNormELU(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, out, 2H, 2W] from float [B, in, H, W]."""
        out: Tensor = self.conv(self.up(x))
        return out


class AttentionGate(nn.Module):
    """Scales a skip connection by a mask computed from it and the decoder's feature."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.skip = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.mask = nn.Conv2d(channels // 2, 1, 1, bias=False)

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        """Float [B, C, H, W] from two of that shape."""
        joint = functional.relu(instance_norm(self.gate(gate)) + instance_norm(self.skip(skip)))
        return skip * torch.sigmoid(instance_norm(self.mask(joint)))
