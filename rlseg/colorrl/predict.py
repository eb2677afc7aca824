"""From an image to instances: argmax colours, components, and the choice of a minimum size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rlseg.colorrl.config import Config
from rlseg.colorrl.networks import ColoringNetwork
from rlseg.components import expand_labels, label_components, remove_small
from rlseg.data.samples import InstanceBatch
from rlseg.data.transforms import resize_nearest
from rlseg.metrics import OptionScores, best_option
from rlseg.prediction import Prediction
from rlseg.shapes import expect, pad_to_multiple
from rlseg.stitching import Windows, assemble, cover, stitch
from rlseg.train.runtime import Runtime

TILE_OVERLAP = 0.5
"""Share by which neighbouring windows overlap."""
STITCH_IOU = 0.5
"""Pieces of two windows become one if they share more than this of their union."""
MAX_WINDOWS = 32
"""Windows coloured at once."""


@dataclass(frozen=True, kw_only=True)
class Colored:
    """Images coloured window by window; one window each unless `inference` is "tiles"."""

    windows: Windows
    colors: Tensor
    """int64 [B, n, h, w]."""
    bits: Tensor
    """uint8 [B, n, T, h, w]."""
    hints: Tensor | None
    """float [B, n, 1, h, w], or None without hints."""


class ColorPredictor:
    """Colours an image with the most likely bits and returns connected equal-coloured pieces.

    Args:
        config: scale, bits, expansion.
        network: the colouring network; put into evaluation mode at every call.
        hints: boundary network for the hint channel, or None.
        in_channels: channels of the image, without the hint channel.
        runtime: device and precision.
        min_size: smaller components become background; in network pixels.
    """

    task: Literal["instance"] = "instance"
    ndim = 2

    def __init__(
        self,
        config: Config,
        network: ColoringNetwork,
        hints: nn.Module | None,
        in_channels: int,
        runtime: Runtime,
        min_size: int = 0,
    ) -> None:
        self.config = config
        self.network = network
        self.hints = hints
        self.in_channels = in_channels
        self.runtime = runtime
        self.min_size = min_size
        self.stride = config.stride
        self.size = (round(config.side / config.scale),) * 2

    def __call__(self, image: Tensor, *, trace: bool = False) -> Prediction:
        """Instances of float images [B, C, H, W] in [0, 1] of any size.

        The trace holds `bits` (uint8 [B, T, H, W]), `colors` (int64 [B, H, W]) and, where the
        method has hints, `hints` (float [B, 1, H, W]), all at the size of the image.

        Raises:
            ShapeError: another number of channels.
        """
        expect(f"B {self.in_channels} H W", image=image)
        sides = tuple(image.shape[2:])
        colored = self.color(image)
        labels = self.instances(colored, self.min_size)
        found: dict[str, Tensor] = {}
        if trace:
            bits = assemble(colored.bits, colored.windows)
            found["bits"] = resize_nearest(bits, sides)
            found["colors"] = resize_nearest(assemble(colored.colors, colored.windows), sides)
            if colored.hints is not None:
                found["hints"] = resize_nearest(assemble(colored.hints, colored.windows), sides)
        return Prediction(labels=resize_nearest(labels, sides), trace=found)

    def color(self, image: Tensor) -> Colored:
        """Colours of float images [B, C, H, W] at network resolution, on the CPU."""
        image = resize_nearest(image, self.network_sides(image))
        sides = (image.shape[2], image.shape[3])
        tiled = self.config.inference == "tiles"
        windows = cover(sides, self.config.side if tiled else None, TILE_OVERLAP)
        parts = [self._color(part) for part in torch.split(windows.cut(image), MAX_WINDOWS)]
        shape = (len(image), len(windows.corners))
        bits = _per_image(torch.cat([part[0] for part in parts]), shape)
        worth = 2 ** torch.arange(self.config.depth)
        colors = (bits.long() * worth.view(-1, 1, 1)).sum(dim=2)
        hints = None
        if self.hints is not None:
            hints = _per_image(torch.cat([part[1] for part in parts]), shape)
        return Colored(windows=windows, colors=colors, bits=bits, hints=hints)

    @torch.no_grad()
    def _color(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Bits uint8 [B, T, h, w] and hint maps float [B, 0 or 1, h, w] of network-sized images."""
        self.network.eval()
        height, width = image.shape[2:]
        image = pad_to_multiple(image.to(self.runtime.device), self.stride)
        observation = self.with_hints(image)
        planes = image.new_zeros(len(image), self.config.depth, *image.shape[2:])
        with self.runtime.autocast():
            encoded = self.network.encode_image(observation)
        for t in range(self.config.depth):
            with self.runtime.autocast():
                policy, _ = self.network(encoded, planes)
            planes = planes.clone()
            planes[:, t] = (policy[:, 1] > policy[:, 0]).to(planes.dtype) * 2 - 1
        bits = (planes[..., :height, :width] > 0).to(torch.uint8)
        return bits.cpu(), observation[:, self.in_channels :, :height, :width].cpu()

    def instances(self, colored: Colored, min_size: int) -> Tensor:
        """Labels int64 [B, h, w] at network resolution: equal-coloured pieces, stitched."""
        images, count = colored.colors.shape[:2]
        pieces = label_components(colored.colors.flatten(0, 1))
        pieces = _per_image(remove_small(pieces, min_size), (images, count))
        if count == 1:
            labels = pieces[:, 0]
        else:
            stitched = [stitch(one, colored.windows, STITCH_IOU) for one in pieces]
            # A window's border may leave slivers of its pieces behind.
            labels = remove_small(label_components(torch.stack(stitched)), min_size)
        return expand_labels(labels, self.config.expand) if self.config.expand else labels

    def with_hints(self, image: Tensor) -> Tensor:
        """The image, with the boundary network's map as a further channel where there is one."""
        if self.hints is None:
            return image
        with torch.no_grad(), self.runtime.autocast():
            hint = self.hints(image).float().sigmoid()
        return torch.cat([image, hint.unsqueeze(1)], dim=1)

    def network_sides(self, image: Tensor) -> tuple[int, ...]:
        """Sides of the image after scaling, at least one pixel."""
        return tuple(max(round(side * self.config.scale), 1) for side in image.shape[2:])


def _per_image(parts: Tensor, shape: tuple[int, int]) -> Tensor:
    """[B, n, *any] from [B * n, *any]."""
    return parts.reshape(*shape, *parts.shape[1:])


def choose_min_size(
    predictor: ColorPredictor, items: Iterable[InstanceBatch], config: Config
) -> tuple[int, Mapping[str, float]]:
    """The best of `config.min_sizes` on whole images, and the mean scores it gives.

    Args:
        predictor: its own minimum size is not used.
        items: batches of whole images with truth.
        config: candidates and the score that decides; the smallest candidate wins ties.

    Returns:
        The size, and `sbd`, `abs_dic`, `arand` (convention "skimage"), `arand_complement` (1 -
        arand), `instances` (mean number found) and `min_size`. No items: the predictor's own
        size and no scores.
    """
    tried: OptionScores[int] = OptionScores()
    for batch in items:
        colored = predictor.color(batch.image)
        for size in sorted(config.min_sizes):
            labels = predictor.instances(colored, size)
            labels = resize_nearest(labels, tuple(batch.labels.shape[1:]))
            tried.add(size, labels, batch.labels, batch.valid)
    means = tried.means()
    if not means:
        return predictor.min_size, {}
    for size, scores in means.items():
        scores["arand_complement"] = 1 - scores["arand"]
        scores["min_size"] = float(size)
    best = best_option(means, lambda scores: scores[config.monitored])
    return best, means[best]
