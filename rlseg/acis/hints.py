"""Stage 1, the hints: direction to the instance centre in 8 bins, and the foreground."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rlseg.acis.angles import angle_bins, flip_bins
from rlseg.acis.config import Config
from rlseg.acis.fit import to_levels
from rlseg.acis.hint_networks import Fcn8, Generators, HintUNet, hint_network
from rlseg.acis.layers import ANGLES, AUXILIARY
from rlseg.data.budget import SHARED, Keeper
from rlseg.data.damage import MapStyle
from rlseg.data.memory import PackedSample, pack
from rlseg.data.samples import InstanceBatch, InstanceSample
from rlseg.data.seeds import named_generator
from rlseg.errors import ConfigError, CorruptDatasetError, ShapeError
from rlseg.networks.losses import masked_binary_cross_entropy
from rlseg.shapes import expect
from rlseg.train.runtime import Runtime

__all__ = [
    "CachedMaps",
    "HintLearner",
    "HintSums",
    "Hints",
    "angle_bins",
    "flip_bins",
    "normalised",
    "statistics",
]

_LOG = logging.getLogger(__name__)

CACHE_BLOCK = 8
"""Neighbours that are computed together on a GPU while there is room to keep them."""


def normalised(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """`(image - mean) / std` per channel.

    Args:
        image: float [B, C, H, W] in [0, 1].
        mean: C numbers.
        std: C numbers above 0.

    Raises:
        ConfigError: not one number per channel.
    """
    channels = image.shape[1]
    if not len(mean) == len(std) == channels:
        raise ConfigError(
            f"mean has {len(mean)} and std {len(std)} numbers, the images have {channels} "
            'channels: give one number per channel, or "auto"'
        )
    shape = (1, channels, 1, 1)
    return (image - image.new_tensor(mean).reshape(shape)) / image.new_tensor(std).reshape(shape)


def statistics(config: Config) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`mean` and `std` of the configuration as numbers.

    Raises:
        ConfigError: they are still "auto".
    """
    if config.mean == "auto" or config.std == "auto":
        raise ConfigError(
            'mean and std are "auto": resolve them from the data first, or give numbers'
        )
    return config.mean, config.std


class HintSums(NamedTuple):
    """Sums over pixels of both losses and of what was right; scalars float64 []."""

    cross_entropy: Tensor
    """Of the angles, in nats."""
    angle_pixels: Tensor
    """That count for the angles."""
    binary: Tensor
    """Cross entropy of the foreground, in nats."""
    pixels: Tensor
    """That are valid."""
    right: Tensor
    """Foreground pixels whose likeliest bin is the true one."""
    foreground: Tensor
    """True foreground pixels."""
    both: Tensor
    """True and predicted foreground."""
    either: Tensor
    """True or predicted foreground."""


class HintLearner:
    """Trains a hint network: mean cross entropy of angles plus that of foreground.

    Args:
        config: with `size`, `mean` and `std` as numbers.
        channels: of the image.
        runtime: device, precision, seeds.

    Raises:
        ConfigError: the size does not fit the network.
    """

    def __init__(self, config: Config, channels: int, runtime: Runtime) -> None:
        self.config = config
        self.runtime = runtime
        self.mean, self.std = statistics(config)
        self.network = hint_network(config, channels).to(runtime.device)
        runtime.share(self.network)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=config.hints.learning_rate,
            weight_decay=config.hints.weight_decay,
        )
        self.steps = 0

    def step(self, item: InstanceBatch) -> Mapping[str, float | Tensor]:
        """One update."""
        hints = self.config.hints
        rate = hints.learning_rate / (1 + hints.decay * self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        runtime = self.runtime
        batch = item.to(runtime.device)
        generator = runtime.generator(
            "hints", "dropout", runtime.rank, self.steps, device=runtime.device
        )
        bins, foreground, counted = self._targets(batch)
        logits = self._logits(batch, (generator,))
        each = functional.cross_entropy(logits[:, :ANGLES], bins, reduction="none")
        angles = torch.where(counted, each, 0.0).sum() / counted.sum().clamp(min=1)
        binary = masked_binary_cross_entropy(logits[:, ANGLES], foreground.float(), batch.valid)
        norm = runtime.update(angles + binary, self.optimizer)
        self.steps += 1
        return {
            "train/loss": (angles + binary).detach(),
            "train/angle_loss": angles.detach(),
            "train/foreground_loss": binary.detach(),
            "train/gradient_norm": norm,
            "train/learning_rate": rate,
        }

    def evaluate(self, items: Iterable[InstanceBatch]) -> Mapping[str, float]:
        """Scores over the valid pixels of all images together.

        `eval/log_likelihood` is the loss, negated; `eval/angle_accuracy` the share of true
        foreground pixels whose likeliest bin is right; `eval/foreground_iou` intersection over
        union of the foreground at probability 1/2. nan where there is no such pixel.
        """
        total: list[Tensor] = []
        for item in items:
            found = torch.stack(self._sums(item.to(self.runtime.device)))
            total = [found + total[0]] if total else [found]
        if not total:
            return {}
        sums = HintSums(*total[0].cpu())
        angles = sums.cross_entropy / sums.angle_pixels.clamp(min=1)
        binary = sums.binary / sums.pixels.clamp(min=1)
        return {
            "eval/log_likelihood": -float(angles + binary),
            "eval/angle_accuracy": float(sums.right / sums.foreground),
            "eval/foreground_iou": float(sums.both / sums.either),
        }

    def state_dict(self) -> dict[str, Any]:
        """Network, optimizer and step count."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = int(state["steps"])

    def _logits(self, batch: InstanceBatch, dropout: Generators) -> Tensor:
        image = normalised(batch.image, self.mean, self.std)
        with self.runtime.autocast():
            logits: Tensor = self.network(image, dropout)
        return logits.float()

    def _targets(self, batch: InstanceBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Bins [B, H, W], foreground [B, H, W], pixels that count for the angles [B, H, W]."""
        foreground = batch.labels > 0
        everywhere = self.config.hints.angles_on == "all"
        counted = batch.valid if everywhere else batch.valid & foreground
        return angle_bins(batch.labels), foreground, counted

    @torch.no_grad()
    def _sums(self, batch: InstanceBatch) -> HintSums:
        logits = self._logits(batch, ())
        bins, foreground, counted = self._targets(batch)
        angles = functional.cross_entropy(logits[:, :ANGLES], bins, reduction="none")
        binary = functional.binary_cross_entropy_with_logits(
            logits[:, ANGLES], foreground.float(), reduction="none"
        )
        true, found = foreground & batch.valid, (logits[:, ANGLES] > 0) & batch.valid
        right = true & (logits[:, :ANGLES].argmax(1) == bins)
        return HintSums(
            cross_entropy=torch.where(counted, angles, 0.0).double().sum(),
            angle_pixels=counted.sum().double(),
            binary=torch.where(batch.valid, binary, 0.0).double().sum(),
            pixels=batch.valid.sum().double(),
            right=right.sum().double(),
            foreground=true.sum().double(),
            both=(true & found).sum().double(),
            either=(true | found).sum().double(),
        )


class Hints:
    """A trained hint network, frozen, that turns images into what all later networks read.

    Args:
        network: its weights get no gradient from now on.
        config: with `size`, `mean` and `std` as numbers.
        runtime: device and precision.
    """

    def __init__(self, network: Fcn8 | HintUNet, config: Config, runtime: Runtime) -> None:
        self.network = network.to(runtime.device).requires_grad_(False)
        self.channels = network.channels
        self.sides = config.sides
        self.dropout = config.hints.dropout
        self.runtime = runtime
        self.mean, self.std = statistics(config)

    def maps(self, image: Tensor, train: bool = False) -> Tensor:
        """Normalised image, 8 angle probabilities, foreground probability.

        Args:
            image: float [B, C, H, W] in [0, 1], at the size of the network; or [B, C + 9, H, W]
                with the hints as `predict` gives them.
            train: where `hints.dropout` is set, hints are computed with dropout, which draws from
                torch's global state.

        Returns:
            float32 [B, C + 9, H, W] on the runtime's device.

        Raises:
            ShapeError: another size than that of the network, or neither C nor C + 9 channels.
        """
        expect(f"B C {self.sides[0]} {self.sides[1]}", image=image)
        image = image.to(self.runtime.device, non_blocking=True)
        image, hints = image[:, : self.channels], image[:, self.channels :]
        if image.shape[1] != self.channels or hints.shape[1] not in (0, AUXILIARY):
            raise ShapeError(
                f"image has {image.shape[1] + hints.shape[1]} channels; expected {self.channels}, "
                f"or {self.channels + AUXILIARY} with hints: was it trained on other images?"
            )
        if not hints.shape[1]:
            hints = self.predict(image, (None,) if train and self.dropout else ())
        return torch.cat([normalised(image, self.mean, self.std), hints], dim=1)

    def state_dict(self) -> dict[str, Any]:
        """Weights of the network."""
        return {"network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; what a `CachedMaps` has made stays as it is."""
        self.network.load_state_dict(state["network"])

    @torch.no_grad()
    def predict(self, image: Tensor, dropout: Generators = ()) -> Tensor:
        """Float32 [B, 9, H, W]: softmax over 8 angles, and the foreground's sigmoid.

        Args:
            image: float [B, C, H, W] in [0, 1].
            dropout: see `Generators`; empty = off.
        """
        image = image.to(self.runtime.device, non_blocking=True)
        with self.runtime.autocast():
            logits = self.network(normalised(image, self.mean, self.std), dropout)
        logits = logits.float()
        return torch.cat([logits[:, :ANGLES].softmax(1), logits[:, ANGLES:].sigmoid()], dim=1)


class CachedMaps:
    """Augmented copies of a data set with their hints as further image channels.

    Sample `copy * len(dataset) + i` is sample `i`, changed with numbers drawn from
    `(seed, "hints", copy, i)`. It is made when first asked for and kept as bytes while the budget
    of the process lasts, else made again, which the log tells once. Image and hints are rounded to
    multiples of 1/255, the image before the network sees it, so that both belong together.

    Args:
        dataset: map-style, samples at the size of the network.
        hints: frozen.
        transform: augmentation that keeps the size.
        copies: of each sample, at least 1.
        seed: of the augmentation and, where `hints.dropout` is set, of the dropout.
        runtime: its device decides whether neighbours are computed together.

    Raises:
        ConfigError: no copy.
    """

    def __init__(
        self,
        dataset: MapStyle[InstanceSample],
        hints: Hints,
        transform: Callable[[InstanceSample, torch.Generator], InstanceSample],
        copies: int,
        seed: int,
        runtime: Runtime,
    ) -> None:
        if copies < 1:
            raise ConfigError(f"hints.copies must be at least 1, got {copies}")
        self.dataset = dataset
        self.hints = hints
        self.transform = transform
        self.copies = copies
        self.seed = seed
        # Alone on the CPU, where blocks save nothing and could change the last bit.
        self._block = 1 if runtime.device.type == "cpu" else CACHE_BLOCK
        self._keeper: Keeper[PackedSample[InstanceSample]] = Keeper(SHARED)
        self._told = False

    def __len__(self) -> int:
        """Number of samples, all copies together."""
        return self.copies * len(self.dataset)

    def __getitem__(self, index: int) -> InstanceSample:
        """Sample `index`: image float32 [C + 9, H, W] in [0, 1]; IndexError beyond."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        kept = self._keeper.items.get(index)
        return (self._make(index) if kept is None else kept).whole()

    def _make(self, index: int) -> PackedSample[InstanceSample]:
        start = index - index % self._block
        group = range(start, min(start + self._block, len(self)))
        made: dict[int, PackedSample[InstanceSample]] = {}
        samples: dict[int, InstanceSample] = {}
        for number in group:
            try:
                if number not in self._keeper.items:
                    samples[number] = self._augmented(number)
            except CorruptDatasetError:
                if number == index:
                    raise  # the others are met when their turn comes
        images = torch.stack([sample.image for sample in samples.values()])
        maps = to_levels(self.hints.predict(images, self._generators(samples)).cpu())
        for (number, sample), extra in zip(samples.items(), maps, strict=True):
            image = torch.cat([sample.image, extra])
            made[number] = pack(replace(sample, image=image))
            self._keeper.offer(number, made[number])
            if number not in self._keeper.items:
                self._block = 1  # no room: what is not asked for would be thrown away
                self._tell()
        return made[index]

    def _tell(self) -> None:
        """Says once that there is no room for more."""
        told, self._told = self._told, True
        if not told:
            _LOG.warning(
                "memory holds %d of %d copies of training images with their hints; the others are "
                "made anew whenever they are needed: raise --memory, lower hints.copies (now %d), "
                "or take hints.maps=live",
                len(self._keeper.items),
                len(self),
                self.copies,
            )

    def _augmented(self, index: int) -> InstanceSample:
        copy, place = divmod(index, len(self.dataset))
        generator = named_generator(self.seed, "hints", copy, place)
        sample = self.transform(self.dataset[place], generator)
        return replace(sample, image=to_levels(sample.image), name=f"{sample.name}+{copy}")

    def _generators(self, numbers: Iterable[int]) -> Generators:
        if not self.hints.dropout:
            return ()
        count = len(self.dataset)
        return [
            named_generator(self.seed, "hints", "dropout", *divmod(number, count))
            for number in numbers
        ]
