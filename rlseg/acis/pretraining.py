"""Settings of the stages before the actor: hints and mask VAE.

P, C and I below: stated in the paper, read from its code, or our own choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlseg.acis.checks import above, at_least, not_negative, some
from rlseg.acis.curriculum import Phase
from rlseg.errors import ConfigError
from rlseg.networks.unet import check_features


@dataclass(frozen=True, kw_only=True)
class HintConfig:
    """Stage 1: maps of the direction to the instance centre, and of the foreground."""

    network: Literal["fcn8", "unet"] = "fcn8"
    """The VGG-like FCN-8s of the code (C), or an attention U-Net that suits small images (I)."""
    features: tuple[int, ...] = (16, 32, 64, 96)
    """Channels per level of the U-Net; not used by the FCN."""
    width: float = 1.0
    """Factor on all channel numbers of the FCN; 1 = 64 to 512, and 4096 (C)."""
    steps: int = 3900
    """Updates: 300 passes of 13 batches (C)."""
    batch: int = 8
    """Images per update: two batches of 4 are added up in the code (C)."""
    learning_rate: float = 1e-3
    """Adam's step size at the start (C)."""
    decay: float = 2e-5
    """The step size is divided by 1 + decay * updates (C)."""
    weight_decay: float = 1e-4
    """L2 weight added to the gradient (C)."""
    angles_on: Literal["all", "foreground"] = "all"
    """Pixels that train the angles; on background the code trains bin 0 (C)."""
    maps: Literal["live", "cached"] = "live"
    """Compute the maps in every step (I: a GPU does so at little cost), or once for `copies`
    augmented copies of every image, kept in RAM (C)."""
    copies: int = 300
    """Augmented copies of each training image for `maps = "cached"` (C)."""
    dropout: bool = False
    """Keep the FCN's dropout on while training maps are made, as noise on the hints (C: on)."""

    def __post_init__(self) -> None:
        check_features(self.features)
        for name in ("steps", "batch", "copies"):
            at_least(f"hints.{name}", getattr(self, name), 1)
        for name in ("learning_rate", "decay", "weight_decay"):
            not_negative(f"hints.{name}", getattr(self, name))
        if self.dropout and self.network != "fcn8":
            raise ConfigError(
                'hints.dropout needs hints.network = "fcn8": the U-Net has no dropout to keep on'
            )
        if not 0 < self.width <= 4:
            raise ConfigError(f"hints.width must be above 0 and at most 4, got {self.width}")


@dataclass(frozen=True, kw_only=True)
class MaskVAEConfig:
    """Stage 2: the conditional VAE of single masks; its decoder is the action space."""

    latent: int = 16
    """l: numbers in a code (P: 16 for CVPPP, 64 for KITTI)."""
    hidden: int = 256
    """F: width of the fully connected layers (C: 256 for CVPPP, 512 for KITTI)."""
    encoder: tuple[int, ...] = (32, 48, 64, 96, 128)
    """Channels of the encoder's convolutions, each followed by a halving; the actor's, too (C)."""
    decoder: tuple[int, ...] = (96, 64, 48, 32, 16)
    """Channels of the decoder's convolutions, each preceded by a doubling (C)."""
    pyramid: bool = True
    """Condition the decoder on the State Pyramid; False is the ablation NoSP (P)."""
    mask_gain: float = 1.0
    """Factor on the encoder's first weights from the mask at the start (C: 1). Above 1 the code
    carries the mask, one channel among many, from the first hundred updates on (I)."""
    beta: float = 1.0
    """Weight of the KL term against the cross entropy summed over pixels (C)."""
    loss: Literal["sum", "mean"] = "sum"
    """Sum over batch and pixels with gradients clamped (C), or mean over batch and pixels with the
    KL divided by the pixels, which keeps the ratio, and clipping by norm (I)."""
    clip_value: float = 1.0
    """Bound on every element of the gradient for `loss = "sum"` (C)."""
    clip_norm: float = 1.0
    """Bound on the norm of the gradient for `loss = "mean"`."""
    batch: int = 8
    """Images, with one instance each, per update (C)."""
    weight_decay: float = 1e-4
    """L2 weight added to the gradient after the clamp (C)."""
    phases: tuple[Phase, ...] = (
        Phase(steps=12_800, learning_rate=2e-4),
        Phase(steps=6_400, learning_rate=2e-5),
        Phase(steps=6_400, learning_rate=2e-6),
    )
    """Epochs 1-400, 401-600 and 601-800 of 32 updates (C). The weight of the KL term is `beta`."""

    def __post_init__(self) -> None:
        for name in ("latent", "hidden", "batch"):
            at_least(f"mask_vae.{name}", getattr(self, name), 1)
        if not self.encoder or min(self.encoder + self.decoder) < 1:
            raise ConfigError("mask_vae.encoder and decoder need channel numbers >= 1")
        if len(self.encoder) != len(self.decoder):
            raise ConfigError(
                f"mask_vae.encoder halves {len(self.encoder)} times, decoder doubles "
                f"{len(self.decoder)} times: give them equal lengths"
            )
        not_negative("mask_vae.beta", self.beta)
        not_negative("mask_vae.weight_decay", self.weight_decay)
        for name in ("mask_gain", "clip_value", "clip_norm"):
            above("mask_vae." + name, getattr(self, name), 0)
        some("mask_vae.phases", self.phases)
        if any(phase.kl_weight for phase in self.phases):
            raise ConfigError(
                "mask_vae.phases has a kl_weight, which this stage does not read: its KL term is "
                "weighted by mask_vae.beta"
            )
