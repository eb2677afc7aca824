"""From an image to instances: argmax colours, components, and the choice of a minimum size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from rlseg.colorrl.config import Config
from rlseg.colorrl.networks import ColoringNetwork
from rlseg.components import expand_labels, label_components, remove_small
from rlseg.data.samples import InstanceBatch
from rlseg.data.transforms import resize_nearest
from rlseg.metrics import adapted_rand_error, count_difference, overlap, symmetric_best_dice
from rlseg.prediction import Prediction
from rlseg.shapes import expect, pad_to_multiple
from rlseg.train.runtime import Runtime


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
        hint_stride = 1 if hints is None else 2 ** (len(config.hints.features) - 1)
        self.stride = max(network.stride, hint_stride)
        self.size = (round(config.crop / config.scale),) * 2

    def __call__(self, image: Tensor, *, trace: bool = False) -> Prediction:
        """Instances of float images [B, C, H, W] in [0, 1] of any size.

        The trace holds `bits` (uint8 [B, T, H, W]), `colors` (int64 [B, H, W]) and, where the
        method has hints, `hints` (float [B, 1, H, W]), all at the size of the image.

        Raises:
            ShapeError: another number of channels.
        """
        expect(f"B {self.in_channels} H W", image=image)
        sides = tuple(image.shape[2:])
        colors, bits, hint = self.color(image)
        labels = self.instances(colors, self.min_size)
        found: dict[str, Tensor] = {}
        if trace:
            found["bits"] = resize_nearest(bits, sides)
            found["colors"] = resize_nearest(colors, sides)
            if hint is not None:
                found["hints"] = resize_nearest(hint, sides)
        return Prediction(labels=resize_nearest(labels, sides), trace=found)

    @torch.no_grad()
    def color(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Colours at network resolution, padding removed.

        Args:
            image: float [B, C, H, W].

        Returns:
            colors int64 [B, h, w], bits uint8 [B, T, h, w], and the hint map float [B, 1, h, w]
            or None; all on the CPU, h = round(scale * H).
        """
        self.network.eval()
        image = resize_nearest(image.to(self.runtime.device), self.network_sides(image))
        height, width = image.shape[2:]
        image = pad_to_multiple(image, self.stride)
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
        worth = 2 ** torch.arange(self.config.depth, device=bits.device)
        colors = (bits.long() * worth.view(1, -1, 1, 1)).sum(dim=1)
        hint = None
        if self.hints is not None:
            hint = observation[:, -1:, :height, :width].cpu()
        return colors.cpu(), bits.cpu(), hint

    def instances(self, colors: Tensor, min_size: int) -> Tensor:
        """Labels int64 [B, h, w] of colours int64 [B, h, w]; both at network resolution."""
        labels = remove_small(label_components(colors), min_size)
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
    rows: dict[int, list[tuple[float, float, float, float]]] = {}
    for batch in items:
        colors, _, _ = predictor.color(batch.image)
        components = label_components(colors)
        for size in config.min_sizes:
            labels = remove_small(components, size)
            if config.expand:
                labels = expand_labels(labels, config.expand)
            sides = tuple(batch.labels.shape[1:])
            labels = resize_nearest(labels, sides)
            for found, true, valid in zip(labels, batch.labels, batch.valid, strict=True):
                table = overlap(found, true, valid)
                rows.setdefault(size, []).append(
                    (
                        symmetric_best_dice(table),
                        abs(count_difference(table)),
                        adapted_rand_error(table),
                        float(found.max()),
                    )
                )
    scores: dict[int, dict[str, float]] = {}
    for size, values in rows.items():
        means = torch.tensor(values, dtype=torch.float64).nanmean(dim=0).tolist()
        scores[size] = dict(zip(("sbd", "abs_dic", "arand", "instances"), means, strict=True))
        scores[size]["arand_complement"] = 1 - scores[size]["arand"]
        scores[size]["min_size"] = float(size)
    if not scores:
        return predictor.min_size, {}
    best = max(scores, key=lambda size: (scores[size][config.monitored], -size))
    return best, scores[best]
