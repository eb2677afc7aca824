"""The colouring game on a batch of images: tensors only, no loop over pixels or instances."""

from __future__ import annotations

import torch
from torch import Tensor

from rlseg.colorrl.config import RewardConfig
from rlseg.colorrl.rewards import Tables, count_tables, first_reward, step_reward
from rlseg.colorrl.scene import Scene, make_scene
from rlseg.data.samples import InstanceBatch
from rlseg.errors import ConfigError


class ColoringEnv:
    """T steps in which every pixel sets one bit of its colour, least significant first.

    Args:
        config: rewards.
        bits: T, at least 1.
        generator: on the device of the batches; draws instance subsets.
    """

    def __init__(self, config: RewardConfig, bits: int, generator: torch.Generator) -> None:
        if bits < 1:
            raise ConfigError(f"bits must be at least 1, got {bits}: a colour has one bit per step")
        self.config = config
        self.bits = bits
        self.generator = generator
        self._tables: Tables

    def reset(self, batch: InstanceBatch) -> Tensor:
        """Starts an episode.

        Args:
            batch: images [B, C, *S], labels, valid.

        Returns:
            Observation float [B, C+T, *S]: the image, then T planes of zeros.
        """
        self.scene: Scene = make_scene(batch.labels, batch.valid, self.config, self.generator)
        self._shape = batch.labels.shape
        self._colors = torch.zeros(
            batch.labels.numel(), dtype=torch.int64, device=batch.labels.device
        )
        self._step = 0
        # Means over the batch's instances of what the split and merge rewards add up to.
        self.components: dict[str, Tensor] = {}
        planes = batch.image.new_zeros(len(batch.image), self.bits, *self._shape[1:])
        self._observation = torch.cat([batch.image, planes], dim=1)
        return self._observation

    @property
    def colors(self) -> Tensor:
        """int64 [B, *S], colours so far."""
        return self._colors.view(self._shape)

    @property
    def done(self) -> bool:
        """Whether all T bits are set."""
        return self._step >= self.bits

    def step(self, bits: Tensor) -> tuple[Tensor, Tensor]:
        """Sets bit t of every pixel.

        Args:
            bits: bool [B, *S].

        Returns:
            Observation float [B, C+T, *S] with plane t at -1 or +1, and the reward float
            [B, *S]. `self.gain`, float [B, *S], is then the reward that bit 1 would have had
            minus that of bit 0, everybody else's bit given.
        """
        if self.done:
            raise ConfigError(f"the episode ended after {self.bits} steps: call reset first")
        step = self._step
        after = self._colors + bits.flatten() * (1 << step)
        tables = count_tables(after, self.scene, 2 << step, self.config)
        if step == 0:
            outcome = first_reward(tables, self.scene, self.config)
            self._log("foreground", outcome.taken.mean())
        else:
            outcome = step_reward(
                step=step,
                steps=self.bits,
                old=self._tables,
                new=tables,
                scene=self.scene,
                config=self.config,
            )
            self._log("split", outcome.split)
            self._log("merge", outcome.merge)
        self._log("total", outcome.taken.mean())
        self.gain = outcome.gain.view(self._shape)
        self._colors, self._tables, self._step = after, tables, step + 1
        observation = self._observation.clone()
        observation[:, observation.shape[1] - self.bits + step] = bits.float() * 2 - 1
        self._observation = observation
        return observation, outcome.taken.view(self._shape)

    def _log(self, name: str, value: Tensor) -> None:
        self.components[name] = self.components.get(name, torch.zeros_like(value)) + value
