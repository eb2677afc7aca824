"""Networks of the hints: the FCN-8s of the code, and an attention U-Net for small images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlseg.acis.config import Config
from rlseg.acis.layers import AUXILIARY
from rlseg.errors import ConfigError
from rlseg.networks.blocks import ConvNormELU
from rlseg.networks.unet import AttentionUNet

Generators = Sequence[torch.Generator | None]
"""Of the dropout: none = no dropout; one for the batch, or one per image. A None among them stands
for torch's global state."""

PADDING = 100
"""Zeros around the image in the first convolution of the FCN (C)."""
BLOCKS = ((64, 64), (128,), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the FCN's 3x3 convolutions; each block is followed by a halving (C)."""
FULL = 4096
"""Channels of the FCN's two "fully connected" convolutions (C)."""
KERNEL = 7
"""Side of the first of them (C)."""
CROPS = (5, 9, 28)
"""Pixels cut off each side of pool4, of pool3, and of the last deconvolution (C)."""
DROPOUT = 0.5
"""Share of the "fully connected" channels that dropout clears (C)."""


class Fcn8(nn.Module):
    """FCN-8s on a VGG-16 without conv2_2, with random weights.

    Its crops give back the size of the image exactly where both sides are multiples of 32.

    Args:
        channels: of the image.
        width: factor on all channel numbers but the 9 of the scores.
        sides: height and width of the image.

    Raises:
        ConfigError: a side is not a multiple of 32.
    """

    def __init__(self, channels: int, width: float, sides: tuple[int, int]) -> None:
        super().__init__()
        self.channels = channels
        self.stride = 1 << len(BLOCKS)
        check_sides("fcn8", self.stride, sides)
        blocks, before, ends = [], channels, []
        for number, wanted in enumerate(BLOCKS):
            block: list[nn.Module] = []
            for place, count in enumerate(wanted):
                after = scaled(count, width)
                first = number == place == 0
                block += [_conv(before, after, 3, PADDING if first else 1), nn.ReLU()]
                before = after
            blocks.append(nn.Sequential(*block, nn.MaxPool2d(2)))
            ends.append(before)
        self.blocks = nn.ModuleList(blocks)
        full = scaled(FULL, width)
        self.full = nn.ModuleList([_conv(before, full, KERNEL), _conv(full, full, 1)])
        self.score = _conv(full, AUXILIARY, 1)
        self.score_pool4 = _conv(ends[3], AUXILIARY, 1)
        self.score_pool3 = _conv(ends[2], AUXILIARY, 1)
        self.up_to_pool4 = _deconv(AUXILIARY, AUXILIARY, 4, 2)
        self.up_to_pool3 = _deconv(AUXILIARY, AUXILIARY, 4, 2)
        # The code's separate deconvolutions of angles and foreground, side by side in one.
        self.up_to_image = _deconv(AUXILIARY, AUXILIARY, 16, 8)

    def forward(self, image: Tensor, dropout: Generators = ()) -> Tensor:
        """Logits float [B, 9, H, W]: 8 angles and foreground, from a normalised image.

        Args:
            image: float [B, C, H, W], sides multiples of `stride`.
            dropout: where dropout draws from; empty = off.
        """
        pools = []
        x = image
        for block in self.blocks:
            x = block(x)
            pools.append(x)
        for layer in self.full:
            x = drop(functional.relu(layer(x)), dropout)
        x = self.up_to_pool4(self.score(x))
        x = self.up_to_pool3(x + _cut(self.score_pool4(pools[3]), CROPS[0]))
        x = self.up_to_image(x + _cut(self.score_pool3(pools[2]), CROPS[1]))
        return _cut(x, CROPS[2])


class HintUNet(nn.Module):
    """Attention U-Net with the outputs of the FCN; it has no dropout.

    Args:
        channels: of the image.
        features: channels per level.
        sides: height and width of the image.

    Raises:
        ConfigError: a side is not a multiple of the network's stride.
    """

    def __init__(self, channels: int, features: Sequence[int], sides: tuple[int, int]) -> None:
        super().__init__()
        self.channels = channels
        self.first = ConvNormELU(channels, features[0])
        self.body = AttentionUNet(features)
        self.last = nn.Conv2d(features[0], AUXILIARY, 1)
        self.stride = self.body.stride
        check_sides("unet", self.stride, sides)

    def forward(self, image: Tensor, dropout: Generators = ()) -> Tensor:
        """Logits float [B, 9, H, W], as `Fcn8.forward`; nothing is dropped."""
        logits: Tensor = self.last(self.body(self.first(image)))
        return logits


def hint_network(config: Config, channels: int) -> Fcn8 | HintUNet:
    """The network that `config.hints` names, with weights from torch's global state.

    Raises:
        ConfigError: `config.size` does not fit it or is still "auto".
    """
    hints = config.hints
    if hints.network == "fcn8":
        return Fcn8(channels, hints.width, config.sides)
    return HintUNet(channels, hints.features, config.sides)


def check_sides(network: str, stride: int, sides: tuple[int, int]) -> None:
    """Nothing, if both sides are multiples of the stride.

    Raises:
        ConfigError: they are not; says which sizes near by are.
    """
    if all(side >= stride and side % stride == 0 for side in sides):
        return
    nearest = [max(round(side / stride), 1) * stride for side in sides]
    other = ', or choose hints.network = "unet"' if network == "fcn8" else ""
    raise ConfigError(
        f"size is {list(sides)}; hints.network = {network!r} gives back the size of its input only "
        f"for multiples of {stride}: use size = {nearest}{other}"
    )


def scaled(channels: int, width: float) -> int:
    """A channel number times `width`, rounded, at least 1."""
    return max(round(channels * width), 1)


def drop(x: Tensor, generators: Generators) -> Tensor:
    """`x` with half of its numbers cleared and the others doubled; `x` itself without generators.

    Args:
        x: float [B, *S].
        generators: one per equal share of the batch, of the device of `x`, or of the CPU.
    """
    if not generators:
        return x
    parts = []
    for part, generator in zip(x.tensor_split(len(generators)), generators, strict=True):
        device = x.device if generator is None else generator.device
        chance = torch.rand(part.shape, generator=generator, device=device)
        parts.append((chance >= DROPOUT).to(device=x.device, dtype=x.dtype))
    return x * torch.cat(parts) / (1 - DROPOUT)


def _conv(before: int, after: int, kernel: int, padding: int = 0) -> nn.Conv2d:
    """A convolution without bias, its weights from N(0, 2 / (k^2 C_out)) (C)."""
    conv = nn.Conv2d(before, after, kernel, padding=padding, bias=False)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / (kernel**2 * after)))
    return conv


def _deconv(before: int, after: int, kernel: int, stride: int) -> nn.ConvTranspose2d:
    """A deconvolution with Torch7's default weights and biases, U(+-1 / sqrt(C_in k^2))."""
    deconv = nn.ConvTranspose2d(before, after, kernel, stride)
    bound = 1 / math.sqrt(before * kernel**2)
    nn.init.uniform_(deconv.weight, -bound, bound)
    if deconv.bias is not None:
        nn.init.uniform_(deconv.bias, -bound, bound)
    return deconv


def _cut(x: Tensor, border: int) -> Tensor:
    return x[:, :, border:-border, border:-border]
