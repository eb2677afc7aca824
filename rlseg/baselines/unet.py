"""Supervised baseline: a boundary network, its map thresholded and cut into components.

The same network and crops as ColorRL's hints: what a user would try before any reinforcement
learning, and so a row in every table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from rlseg.components import expand_labels, label_components, remove_small
from rlseg.data.base import Splits
from rlseg.data.damage import OnBadSample
from rlseg.data.memory import InMemory, Packed
from rlseg.data.samples import InstanceBatch, collate_instances
from rlseg.data.stream import EpochStream
from rlseg.data.transforms import Augmentation, PresetName, TrainingTransform, resize_nearest
from rlseg.data.whole import Scaled, WholeImages, check_crop
from rlseg.errors import CheckpointError, ConfigError
from rlseg.metrics import OptionScores, best_option
from rlseg.networks.unet import check_features
from rlseg.prediction import Prediction
from rlseg.shapes import expect, pad_to_multiple
from rlseg.supervised import BoundaryLearner, BoundaryNetwork
from rlseg.train.checkpoint import Checkpoint
from rlseg.train.runtime import Runtime
from rlseg.train.stage import Stage

__all__ = ["Config", "UNetLearner", "UNetPredictor", "load_predictor", "stages"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the supervised baseline."""

    features: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Channels per level of the attention U-Net."""
    scale: float = 1.0
    """Images are resized by this factor before the network, nearest."""
    crop: int = 224
    """Side of the training crops in network pixels, a multiple of the network's stride."""
    batch: int = 8
    """Crops per update."""
    steps: int = 2000
    """Updates."""
    learning_rate: float = 1e-3
    """Adam's step size, falling to zero in a straight line."""
    boundary_width: int = 1
    """Pixels within this distance of another label count as boundary."""
    augmentation: Augmentation | PresetName = field(default_factory=Augmentation)
    """Random changes of the training images, or the name of a preset."""
    on_bad_sample: OnBadSample = "fail"
    """What happens at a training image that cannot be decoded; "skip" leaves out 1 % at most."""
    evaluate_every: int = 500
    """Updates between evaluations on the validation split."""
    thresholds: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Tried on the validation split: pixels with a higher probability of "inside" are kept."""
    min_sizes: tuple[int, ...] = (0, 5, 10, 20, 40)
    """Smallest components in network pixels, tried on the validation split."""
    expand: int = 3
    """Labels grow into the boundary by this many network pixels afterwards."""

    def __post_init__(self) -> None:
        check_features(self.features)
        stride = 2 ** (len(self.features) - 1)
        if self.crop < 1 or self.crop % stride:
            raise ConfigError(
                f"crop is {self.crop}; a network with {len(self.features)} levels needs a "
                f"multiple of {stride}"
            )
        if not 0 < self.scale <= 4:
            raise ConfigError(f"scale must be above 0 and at most 4, got {self.scale}")
        if min(self.batch, self.steps, self.evaluate_every, self.boundary_width) < 1:
            raise ConfigError("batch, steps, evaluate_every and boundary_width must be at least 1")
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not self.thresholds or not all(0 < t < 1 for t in self.thresholds):
            raise ConfigError(f"thresholds must lie between 0 and 1, got {list(self.thresholds)}")
        if not self.min_sizes or min(self.min_sizes) < 0 or self.expand < 0:
            raise ConfigError("min_sizes and expand must not be negative, nor min_sizes empty")


class UNetPredictor:
    """Threshold, components, expansion; threshold and minimum size are chosen on validation."""

    task: Literal["instance"] = "instance"
    ndim = 2

    def __init__(
        self, config: Config, network: BoundaryNetwork, in_channels: int, runtime: Runtime
    ) -> None:
        self.config = config
        self.network = network
        self.in_channels = in_channels
        self.runtime = runtime
        self.stride = network.stride
        self.size = (round(config.crop / config.scale),) * 2
        self.threshold = 0.5
        self.min_size = 0

    def __call__(self, image: Tensor, *, trace: bool = False) -> Prediction:
        """Instances of float images [B, C, H, W] in [0, 1] of any size.

        The trace holds `probability`, float [B, H, W], of lying inside an instance.
        """
        expect(f"B {self.in_channels} H W", image=image)
        sides = tuple(image.shape[2:])
        inside = self.probability(image)
        labels = self.instances(inside, self.threshold, self.min_size)
        found = {"probability": resize_nearest(inside, sides)} if trace else {}
        return Prediction(labels=resize_nearest(labels, sides), trace=found)

    @torch.no_grad()
    def probability(self, image: Tensor) -> Tensor:
        """Float [B, h, w] at network resolution, on the CPU."""
        self.network.eval()
        sides = tuple(max(round(side * self.config.scale), 1) for side in image.shape[2:])
        image = resize_nearest(image.to(self.runtime.device), sides)
        with self.runtime.autocast():
            logits = self.network(pad_to_multiple(image, self.stride))
        inside: Tensor = logits[:, : sides[0], : sides[1]].float().sigmoid().cpu()
        return inside

    def instances(self, inside: Tensor, threshold: float, min_size: int) -> Tensor:
        """Labels int64 [B, h, w]."""
        labels = remove_small(label_components((inside > threshold).long()), min_size)
        return expand_labels(labels, self.config.expand) if self.config.expand else labels


class UNetLearner(BoundaryLearner):
    """A `BoundaryLearner` that is scored by its instances."""

    def __init__(self, config: Config, in_channels: int, runtime: Runtime) -> None:
        super().__init__(
            in_channels=in_channels,
            features=config.features,
            learning_rate=config.learning_rate,
            steps=config.steps,
            boundary_width=config.boundary_width,
            runtime=runtime,
        )
        self.config = config
        self.predictor = UNetPredictor(config, self.network, in_channels, runtime)

    def evaluate(self, items: Iterable[InstanceBatch]) -> Mapping[str, float]:
        """Scores on whole images at the best threshold and minimum size, which are kept."""
        options = [(t, size) for t in self.config.thresholds for size in self.config.min_sizes]
        tried: OptionScores[tuple[float, int]] = OptionScores()
        for batch in items:
            inside = self.predictor.probability(batch.image)
            for option in options:
                labels = self.predictor.instances(inside, *option)
                labels = resize_nearest(labels, tuple(batch.labels.shape[1:]))
                tried.add(option, labels, batch.labels, batch.valid)
        means = tried.means()
        if not means:
            return {}
        best = best_option(means, lambda scores: scores["sbd"])
        self.predictor.threshold, self.predictor.min_size = best
        scores = {f"eval/{name}": means[best][name] for name in ("sbd", "abs_dic", "arand")}
        return {**scores, "eval/threshold": best[0], "eval/min_size": float(best[1])}

    def state_dict(self) -> dict[str, Any]:
        """As the `BoundaryLearner`, with the chosen threshold and minimum size."""
        chosen = {"threshold": self.predictor.threshold, "min_size": self.predictor.min_size}
        return {**super().state_dict(), **chosen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        self.predictor.threshold = float(state["threshold"])
        self.predictor.min_size = int(state["min_size"])


def stages(config: Config, data: Splits, runtime: Runtime) -> Iterator[Stage[InstanceBatch]]:
    """One supervised stage.

    Raises:
        ConfigError: data without instances, or volumes.
        ShapeError: a training image that is smaller than the crop.
    """
    if data.task != "instance" or data.ndim != 2:
        raise ConfigError(
            f"unet needs 2-D instance data, {data.dataset!r} is {data.ndim}-D {data.task} data"
        )
    valid = data.split("valid") if "valid" in data.names else []
    train = InMemory(Scaled(data.split("train"), config.scale))
    stride = 2 ** (len(config.features) - 1)
    hint = f"raise the scale (--set scale=..., now {config.scale:g})"
    bad = config.on_bad_sample
    check_crop(train, config.crop, hint, multiple=stride, on_bad_sample=bad)
    stream = EpochStream(
        Packed(train),  # only the window of the crop is unpacked
        batch_size=config.batch,
        transform=TrainingTransform(config.augmentation, (config.crop, config.crop)),
        collate=collate_instances,
        seed=runtime.seed,
        rank=runtime.rank,
        world_size=runtime.world_size,
        name="unet",
        on_bad_sample=bad,
    )
    yield Stage(
        name="unet",
        learner=UNetLearner(config, data.channels, runtime),
        stream=stream,
        scalars=stream.scalars,
        steps=config.steps,
        held_out=WholeImages(valid, config.batch),
        evaluate_every=config.evaluate_every,
        monitor="eval/sbd" if len(valid) else None,
    )


def load_predictor(config: Config, checkpoint: Checkpoint, runtime: Runtime) -> UNetPredictor:
    """The predictor of a checkpoint.

    Raises:
        CheckpointError: weights that do not fit `config`.
    """
    state = checkpoint.state
    try:
        in_channels = next(iter(state["network"].values())).shape[1]
        network = BoundaryNetwork(in_channels, config.features).to(runtime.device)
        network.load_state_dict(state["network"])
        predictor = UNetPredictor(config, network, in_channels, runtime)
        predictor.threshold = float(state["threshold"])
        predictor.min_size = int(state["min_size"])
    except (KeyError, RuntimeError, StopIteration) as error:
        raise CheckpointError(
            f"{checkpoint.path}: its weights do not fit its configuration "
            f"({' '.join(str(error).split())[:200]}); use the config.json the run was trained with"
        ) from error
    return predictor
