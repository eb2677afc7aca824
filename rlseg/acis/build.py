"""Networks and data of the stages, as a configuration wants them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from rlseg.acis.config import Config, SequenceConfig
from rlseg.acis.curriculum import SequencePhase
from rlseg.acis.decoder import MaskDecoder
from rlseg.acis.fit import FittedDataset
from rlseg.acis.hints import CachedMaps, Hints
from rlseg.acis.layers import AUXILIARY
from rlseg.acis.networks import Actor, StopHead
from rlseg.data.base import InstanceDataset, Splits
from rlseg.data.memory import InMemory
from rlseg.data.samples import InstanceBatch, InstanceSample, collate_instances
from rlseg.data.stream import EpochStream
from rlseg.data.transforms import TrainingTransform
from rlseg.data.whole import WholeImages
from rlseg.train.runtime import Runtime
from rlseg.train.stage import Stage


def start_of(config: Config) -> SequenceConfig:
    """Stage 3 as a sequence of one mask: cross entropy with the one instance left."""
    phases = tuple(
        SequencePhase(
            steps=phase.steps,
            learning_rate=phase.learning_rate,
            kl_weight=phase.kl_weight,
            length=1,
        )
        for phase in config.actor.phases
    )
    return dataclasses.replace(
        config.sequence,
        objective="bl_trunc",
        gradient="critic",
        unroll_canvas=False,
        memory="fast",
        sample_prob=None,
        phases=phases,
        weight_decay=config.actor.weight_decay,
    )


def make_actor(config: Config, channels: int) -> Actor:
    """The actor of a configuration, for images of so many channels."""
    vae = config.mask_vae
    actor = Actor(
        channels + AUXILIARY,
        vae.encoder,
        vae.hidden,
        vae.latent,
        config.sides,
        config.actor.lstm,
        config.actor.layers,
    )
    with torch.no_grad():
        first = actor.trunk.first
        first.conv.weight[:, first.channels :] *= config.actor.canvas_gain
    return actor.to(memory_format=torch.channels_last)


def make_decoder(config: Config, channels: int) -> MaskDecoder:
    """The decoder of a configuration, for images of so many channels."""
    vae = config.mask_vae
    return MaskDecoder(channels + AUXILIARY if vae.pyramid else 0, vae.latent, vae.decoder)


def make_stop_head(config: Config) -> StopHead:
    """The stop head of a configuration."""
    return StopHead(config.actor.lstm, config.stop.hidden, skip=config.stop.skip)


class Scenes:
    """Training and validation images at the size of the networks, and stages around them.

    Args:
        config: resolved.
        data: with a training split.
        runtime: seeds, ranks.
    """

    def __init__(self, config: Config, data: Splits, runtime: Runtime) -> None:
        self.config, self.runtime = config, runtime
        self.train: Any = InMemory(FittedDataset(data.split("train"), config.sides, config.fit))
        self.whole: InstanceDataset = data.split("valid") if "valid" in data.names else InMemory([])
        self.valid: InstanceDataset = InMemory(FittedDataset(self.whole, config.sides, config.fit))

    def cache(self, hints: Hints) -> None:
        """From now on training images are cached copies with their hints, if so configured.

        One cache serves all later stages: what one has made, the next one reads.
        """
        if self.config.hints.maps == "cached":
            augment = TrainingTransform(self.config.augmentation, None)
            copies, seed = self.config.hints.copies, self.runtime.seed
            self.train = CachedMaps(self.train, hints, augment, copies, seed, self.runtime)

    def stage(
        self,
        name: str,
        learner: Any,
        *,
        steps: int,
        batch: int,
        monitor: str | None,
        original: bool = False,
    ) -> Stage[InstanceBatch]:
        """A stage on the training images, scored on those for validation.

        Args:
            name: of the stage and of its random order.
            learner: trained.
            steps: updates.
            batch: images per update.
            monitor: score whose best weights the next stage starts from; None = the last ones.
            original: score images in their own size.
        """
        stream = self._stream(name, batch)
        valid = self.whole if original else self.valid
        return Stage(
            name=name,
            learner=learner,
            stream=stream,
            scalars=stream.scalars,
            steps=steps,
            held_out=WholeImages(valid, self.config.batch),
            evaluate_every=self.config.evaluate_every,
            monitor=f"eval/{monitor}" if monitor and len(valid) else None,
        )

    def _stream(self, name: str, batch: int) -> EpochStream[InstanceSample, InstanceBatch]:
        """Augmented images; cached copies are augmented already."""
        made = isinstance(self.train, CachedMaps)
        transform = _as_it_is if made else TrainingTransform(self.config.augmentation, None)
        return EpochStream(
            self.train,
            batch_size=batch,
            transform=transform,
            collate=collate_instances,
            seed=self.runtime.seed,
            rank=self.runtime.rank,
            world_size=self.runtime.world_size,
            name=name,
            on_bad_sample=self.config.on_bad_sample,
        )


def _as_it_is(sample: InstanceSample, generator: torch.Generator) -> InstanceSample:
    return sample
