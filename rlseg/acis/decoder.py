"""From a code to a mask: expand layers, State Pyramid and decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlseg.acis.layers import LAST, SLOPE, at_least_float32, linear


def pyramid(maps: Tensor, levels: int) -> list[Tensor]:
    """The State Pyramid: fixed Gaussian levels 1, 1/2, ... 1/2^levels of raw channels.

    Depthwise 4x4 taps of deviation 2/3 pixel, stride 2, one pixel of zeros around.

    Args:
        maps: float [B, C, H, W]: image, angles, foreground.
        levels: halvings.

    Returns:
        `levels + 1` tensors, float [B, C, H / 2^k, W / 2^k], without gradient.
    """
    maps = maps.contiguous(memory_format=LAST)
    taps = torch.tensor([0.0477, 0.4523, 0.4523, 0.0477], dtype=maps.dtype, device=maps.device)
    channels = maps.shape[1]
    kernel = torch.outer(taps, taps).expand(channels, 1, 4, 4).contiguous()
    found = [maps.detach()]
    for _ in range(levels):
        found.append(functional.conv2d(found[-1], kernel, stride=2, padding=1, groups=channels))
    return found


class CodeMap(nn.Module):
    """From a code to the coarsest map of the decoder: the "expand" layers of the code."""

    def __init__(self, latent: int, hidden: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.shape = (latent, *grid)
        self.first = linear(latent, hidden)
        self.second = linear(hidden, math.prod(self.shape))

    def forward(self, code: Tensor) -> Tensor:
        """Float [B, Z, h, w] from codes float [B, Z]."""
        x = functional.leaky_relu(self.first(code), SLOPE)
        x = functional.leaky_relu(self.second(x), SLOPE)
        return x.view(len(x), *self.shape)


def doubling_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Nearest doubling, one replicated pixel around, and a 3x3 convolution; float [B, O, 2H, 2W].

    Both copies of a pixel meet the same taps, so this is a transposed convolution whose 4x4 taps
    are sums of the 3x3 ones: fewer than half the products, and no doubled map in memory. On a CPU
    a pass forth and back through a frozen decoder takes half the time.

    Args:
        x: float [B, C, H, W].
        weight: float [O, C, 3, 3].
    """
    for axis in (2, 3):
        first, middle, last = weight.unbind(axis)
        weight = torch.stack([last, middle + last, first + middle, first], dim=axis)
    x = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2, padding=3)


class MaskDecoder(nn.Module):
    """From the coarsest map to a mask, conditioned on the State Pyramid.

    Args:
        channels: of image, angles and foreground together; 0 without pyramid (NoSP).
        latent: l.
        features: channels of the convolutions, each preceded by a doubling.
    """

    def __init__(self, channels: int, latent: int, features: Sequence[int]) -> None:
        super().__init__()
        self.channels = channels
        widths = [latent, *features]
        self.stages = nn.ModuleList(
            nn.Conv2d(a + channels, b, 3, bias=False) for a, b in pairwise(widths)
        )
        self.head = nn.Conv2d(features[-1] + channels, 1, 1, bias=False)
        for conv in (*self.stages, self.head):
            assert isinstance(conv, nn.Conv2d)  # for the type checker
            fan_out = conv.out_channels * math.prod(conv.kernel_size)
            nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))

    def convolutions(self) -> list[nn.Conv2d]:
        """The convolutions before the head, coarsest first."""
        return [conv for conv in self.stages if isinstance(conv, nn.Conv2d)]

    def context(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """What the pyramid contributes to every mask of an image; empty without pyramid.

        Args:
            levels: what `pyramid` gave, finest first.

        Returns:
            Per stage, and for the head, the convolution of its level, float [B, out, *].
        """
        if not self.channels:
            return []
        found = []
        for conv, level in zip(self.convolutions(), reversed(levels[1:]), strict=True):
            weight = conv.weight[:, -self.channels :].contiguous(memory_format=LAST)
            found.append(functional.conv2d(_doubled(level), weight))
        found.append(functional.conv2d(levels[0], self.head.weight[:, -self.channels :]))
        return found

    def forward(self, code_map: Tensor, context: Sequence[Tensor]) -> Tensor:
        """Logits float [B, 1, H, W].

        Args:
            code_map: float [B, Z, H / 2^n, W / 2^n].
            context: of the same images, from `context`.
        """
        x = code_map.contiguous(memory_format=LAST)
        for number, conv in enumerate(self.convolutions()):
            x = doubling_conv(x, conv.get_parameter("weight")[:, : x.shape[1]])
            if self.channels:
                x = x + context[number]
            x = functional.leaky_relu(x, SLOPE)
        logits = functional.conv2d(x, self.head.weight[:, : x.shape[1]])
        if self.channels:
            logits = logits + context[-1]
        return at_least_float32(logits)


def _doubled(x: Tensor) -> Tensor:
    """Twice the sides by nearest neighbour, and one more pixel of the border all around."""
    x = functional.interpolate(x, scale_factor=2, mode="nearest")
    return functional.pad(x, (1, 1, 1, 1), mode="replicate")
