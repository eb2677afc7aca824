"""The colouring network: image and bit planes in, a policy and a value per pixel out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlseg.networks.blocks import ConvNormELU
from rlseg.networks.unet import AttentionUNet


class PaperInput(nn.Module):
    """One input path as the supplement draws it: four layers with a residual (colorrl fact 4.4)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = ConvNormELU(in_channels, out_channels)
        self.rest = nn.Sequential(*(ConvNormELU(out_channels, out_channels) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, out, H, W] from float [B, in, H, W]."""
        x = self.first(x)
        rest: Tensor = self.rest(x)
        return x + rest


class CodeInput(nn.Module):
    """One input path as the released code runs it: five parallel 3x3 layers, then one more.

    The code means four of the five to be dilated; a misspelt comparison makes all five plain.
    """

    BRANCHES = 5
    BRANCH_CHANNELS = 8

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # Five parallel convolutions on one input are one convolution with five times the outputs.
        width = self.BRANCHES * self.BRANCH_CHANNELS
        self.branches = nn.Conv2d(in_channels, width, 3, padding=1)
        self.join = ConvNormELU(width, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, out, H, W] from float [B, in, H, W]."""
        out: Tensor = self.join(functional.elu(self.branches(x)))
        return out


class ColoringNetwork(nn.Module):
    """Attention U-Net over an image path and a bit path, with a policy and a value head.

    Args:
        in_channels: image channels (plus one for a hint map, where there is one).
        bits: T, number of bit planes.
        features: channels per U-Net level; 10.1 M parameters at [32, 64, 128, 256, 512].
        input_module: `"paper"` or `"code"` (colorrl fact 4.4).
    """

    def __init__(
        self,
        in_channels: int,
        bits: int,
        features: Sequence[int],
        input_module: Literal["paper", "code"],
    ) -> None:
        super().__init__()
        path = PaperInput if input_module == "paper" else CodeInput
        self.image_path = path(in_channels, features[0] // 2)
        self.bits_path = path(bits, features[0] - features[0] // 2)
        self.body = AttentionUNet(features)
        self.policy = nn.Conv2d(features[0], 2, 1)
        self.value = nn.Conv2d(features[0], 1, 1)
        self.stride = self.body.stride

    def encode_image(self, image: Tensor) -> Tensor:
        """Float [B, F0 / 2, H, W] from float [B, C, H, W]: the same in every step of an episode."""
        encoded: Tensor = self.image_path(image)
        return encoded

    def forward(self, encoded: Tensor, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Policy and value of every pixel.

        Args:
            encoded: what `encode_image` returned.
            planes: float [B, T, H, W]: 0 = undecided, -1 = bit 0, +1 = bit 1.

        Returns:
            logits float [B, 2, H, W] of bit 0 and bit 1; value float [B, H, W].
        """
        features = self.body(torch.cat([encoded, self.bits_path(planes)], dim=1))
        return self.policy(features), self.value(features).squeeze(1)
