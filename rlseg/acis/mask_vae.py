"""Stage 2: a conditional VAE of single masks; its decoder is the action space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlseg.acis.config import Config, MaskVAEConfig
from rlseg.acis.curriculum import phase_at
from rlseg.acis.decoder import CodeMap, MaskDecoder, pyramid
from rlseg.acis.layers import AUXILIARY, coarse_grid
from rlseg.acis.networks import MaskEncoder
from rlseg.acis.targets import draw_instance, one_hot
from rlseg.data.samples import InstanceBatch
from rlseg.networks.losses import kl_to_normal
from rlseg.train.runtime import Runtime

EVALUATED_AT_ONCE = 64
"""Instances per forward pass of an evaluation, which bounds its memory."""


class HintMaps(Protocol):
    """What turns the image of a batch into the maps that the networks read."""

    def maps(self, image: Tensor, train: bool = False) -> Tensor:
        """Float [B, C + 9, H, W]: normalised image, angles, foreground."""


class Reconstruction(NamedTuple):
    """What a mask VAE makes of masks."""

    logits: Tensor
    """Float [B, 1, H, W]."""
    mean: Tensor
    """Of the code, float [B, Z]."""
    log_var: Tensor
    """Of the code, float [B, Z]."""


class Loss(NamedTuple):
    """Terms of the loss of a mask VAE, per image."""

    cross_entropy: Tensor
    """Float [B], summed over valid pixels; 0 where the target is empty."""
    divergence: Tensor
    """KL of the code from N(0, I), float [B]; 0 where the target is empty."""
    counted: Tensor
    """Float [B]: 1 where there is a target, else 0."""


class MaskVAE(nn.Module):
    """Encoder, expand layers and decoder of single masks.

    Args:
        config: channel numbers and sizes.
        channels: of image, angles and foreground together.
        sides: height and width of the maps.
    """

    def __init__(self, config: MaskVAEConfig, channels: int, sides: tuple[int, int]) -> None:
        super().__init__()
        latent, hidden = config.latent, config.hidden
        self.encoder = MaskEncoder(channels, config.encoder, hidden, latent, sides)
        self.code_map = CodeMap(latent, hidden, coarse_grid(sides, config.encoder))
        self.decoder = MaskDecoder(channels if config.pyramid else 0, latent, config.decoder)
        first = self.encoder.trunk.first
        with torch.no_grad():
            first.conv.weight[:, first.channels :] *= config.mask_gain

    def forward(self, maps: Tensor, mask: Tensor, noise: Tensor | None) -> Reconstruction:
        """The mask, through its code.

        Args:
            maps: float [B, C, H, W]: normalised image, angles, foreground.
            mask: float [B, 1, H, W] in [0, 1].
            noise: float [B, Z] from N(0, I); None = the code is its mean.
        """
        mean, log_var = self.encoder(maps, mask)
        code = mean if noise is None else mean + (0.5 * log_var).exp() * noise
        return Reconstruction(self.decode(code, self.context(maps)), mean, log_var)

    def context(self, maps: Tensor) -> list[Tensor]:
        """What the State Pyramid of maps contributes to every mask of their image."""
        return self.decoder.context(pyramid(maps, len(self.decoder.stages)))

    def decode(self, code: Tensor, context: list[Tensor]) -> Tensor:
        """Logits float [B, 1, H, W] from codes float [B, Z] and the context of their images."""
        logits: Tensor = self.decoder(self.code_map(code), context)
        return logits


def vae_loss(found: Reconstruction, target: Tensor, valid: Tensor) -> Loss:
    """Cross entropy and divergence, summed over pixels and latents but not over images.

    Args:
        found: from the network.
        target: bool [B, H, W]; an image whose target is empty does not count.
        valid: bool [B, H, W]; other pixels do not count.
    """
    each = functional.binary_cross_entropy_with_logits(
        found.logits.squeeze(1), target.to(found.logits.dtype), reduction="none"
    )
    counted = target.flatten(1).any(dim=1).to(each.dtype)
    cross_entropy = torch.where(valid, each, 0.0).flatten(1).sum(dim=1)
    divergence = kl_to_normal(found.mean, found.log_var)
    return Loss(cross_entropy * counted, divergence * counted, counted)


class MaskVAELearner:
    """Trains a `MaskVAE` on one random instance per image and update.

    Args:
        config: of the run; `mask_vae` and `size` are read.
        channels: image channels; the maps have 9 more.
        hints: makes the maps; stays as it is.
        runtime: device, precision, seeds.
    """

    def __init__(self, config: Config, channels: int, hints: HintMaps, runtime: Runtime) -> None:
        self.config = config.mask_vae
        self.hints = hints
        self.runtime = runtime
        network = MaskVAE(self.config, channels + AUXILIARY, config.sides).to(runtime.device)
        # Channels innermost: convolutions in bf16 run about twice as fast on a CPU.
        self.vae = network.to(memory_format=torch.channels_last)
        runtime.share(self.vae)
        # The code keeps one Adam for the encoder and one for the decoder, which is the same.
        self.optimizer = torch.optim.Adam(
            self.vae.parameters(),
            lr=self.config.phases[0].learning_rate,
            weight_decay=self.config.weight_decay,
        )
        # Ranks draw different instances and codes, so the rank is part of the name.
        self.generator = runtime.generator("acis", "mask_vae", runtime.rank)
        self.steps = 0

    def step(self, item: InstanceBatch) -> Mapping[str, float | Tensor]:
        """One update."""
        rate = phase_at(self.config.phases, self.steps).learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = item.to(self.runtime.device)
        target = draw_instance(batch.labels, self.generator) & batch.valid
        noise = torch.randn(len(target), self.config.latent, generator=self.generator)
        self.vae.train()
        maps = self.hints.maps(batch.image, train=True)
        with self.runtime.autocast():
            found = self.vae(
                maps.contiguous(memory_format=torch.channels_last),
                target.unsqueeze(1).to(maps.dtype),
                noise.to(self.runtime.device, non_blocking=True),
            )
        loss = vae_loss(found, target, batch.valid)
        norm = self._update(loss, pixels=target[0].numel())
        self.steps += 1
        images = loss.counted.sum().clamp(min=1)
        cross_entropy = loss.cross_entropy.detach().sum() / images
        divergence = loss.divergence.detach().sum() / images
        return {
            "train/loss": cross_entropy + self.config.beta * divergence,
            "train/bce": cross_entropy,
            "train/kl": divergence,
            "train/gradient_norm": norm,
            "train/learning_rate": rate,
        }

    def _update(self, loss: Loss, pixels: int) -> Tensor:
        total = (loss.cross_entropy + self.config.beta * loss.divergence).sum()
        if self.config.loss == "sum":
            # Gradients are averaged over ranks; the sum over all their images is wanted.
            return self.runtime.update(
                total * self.runtime.world_size,
                self.optimizer,
                max_value=self.config.clip_value,
            )
        # Both terms are divided by the pixels, so their ratio is that of the sums.
        return self.runtime.update(
            total / pixels,
            self.optimizer,
            count=loss.counted.sum(),
            max_norm=self.config.clip_norm,
        )

    def evaluate(self, items: Iterable[InstanceBatch]) -> Mapping[str, float]:
        """Mean Dice of hard reconstructions (code = mean, threshold 0.5) of all instances.

        `eval/dice` is the ceiling of every later stage. `eval/shuffled_dice` decodes the code of
        the next instance of the same batch instead: it is low if the code decides what is drawn.
        """
        self.vae.eval()
        own: list[Tensor] = []
        shuffled: list[Tensor] = []
        for item in items:
            scores = self._scores(item.to(self.runtime.device))
            own.append(scores[0])
            if len(scores[0]) > 1:  # a lone instance has no other code to be drawn from
                shuffled.append(scores[1])
        pairs = {"eval/dice": own, "eval/shuffled_dice": shuffled}
        joined = {name: torch.cat(parts) for name, parts in pairs.items() if parts}
        return {name: float(dice.mean()) for name, dice in joined.items() if len(dice)}

    @torch.no_grad()
    def _scores(self, batch: InstanceBatch) -> tuple[Tensor, Tensor]:
        """Dice of each instance of a batch from its own and from the next code, float [N] each."""
        masks = one_hot(batch.labels, int(batch.labels.max())) & batch.valid.unsqueeze(1)
        image, index = masks.flatten(2).any(dim=2).nonzero(as_tuple=True)  # [N] each
        maps = self.hints.maps(batch.image)
        with self.runtime.autocast():
            context = self.vae.context(maps)
            codes = [maps.new_zeros(0, self.config.latent)]
            for part in _parts(len(image)):
                target = masks[image[part], index[part]].unsqueeze(1).to(maps.dtype)
                codes.append(self.vae.encoder(maps[image[part]], target)[0])
            code = torch.cat(codes)
            result = []
            for used in (code, code.roll(1, dims=0)):
                dice = [maps.new_zeros(0)]
                for part in _parts(len(image)):
                    near = [one[image[part]] for one in context]
                    drawn = self.vae.decode(used[part], near).squeeze(1) > 0
                    drawn &= batch.valid[image[part]]
                    dice.append(hard_dice(drawn, masks[image[part], index[part]]))
                result.append(torch.cat(dice))
        return result[0], result[1]

    def state_dict(self) -> dict[str, Any]:
        """Network, optimizer, generator and step count."""
        return {
            "vae": self.vae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.vae.load_state_dict(state["vae"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.steps = int(state["steps"])


def hard_dice(a: Tensor, b: Tensor) -> Tensor:
    """2 |A and B| / (|A| + |B|) per mask, float [N]; 0 where both are empty.

    Args:
        a: bool [N, H, W].
        b: bool [N, H, W].
    """
    both = (a & b).flatten(1).sum(dim=1)
    sizes = a.flatten(1).sum(dim=1) + b.flatten(1).sum(dim=1)
    return 2 * both / sizes.clamp(min=1)


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, EVALUATED_AT_ONCE):
        yield slice(start, start + EVALUATED_AT_ONCE)
