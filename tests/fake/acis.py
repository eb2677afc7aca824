"""Tiny ACIS: settings, hints that cost nothing, scenes of bars, learners in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from rlseg.acis.actor_critic import EpisodeLearner
from rlseg.acis.build import make_actor, make_decoder
from rlseg.acis.config import (
    ActorConfig,
    Config,
    CriticConfig,
    HintConfig,
    MaskVAEConfig,
    SequenceConfig,
    StopConfig,
)
from rlseg.acis.curriculum import Phase, SequencePhase
from rlseg.acis.episode import Scene
from rlseg.acis.networks import Actor
from rlseg.data.samples import InstanceBatch
from rlseg.train.runtime import make_runtime

SIDE = 16
PHASE = SequencePhase(steps=10, learning_rate=0.0, length=3)
TINY = Config(
    size=(SIDE, SIDE),
    mean=(0.0,),
    std=(1.0,),
    batch=3,
    max_steps=6,
    hints=HintConfig(network="unet", features=(4, 6)),
    mask_vae=MaskVAEConfig(latent=3, hidden=8, encoder=(4, 6), decoder=(6, 4)),
    actor=ActorConfig(lstm=8, phases=(Phase(steps=3, learning_rate=1e-3),)),
    sequence=SequenceConfig(
        phases=(PHASE,),
        clip_value=1e9,
        critic=CriticConfig(features=(4, 6), hidden=(8,), warm_up=0),
    ),
    stop=StopConfig(hidden=8),
)


class FakeHints:
    """Angles and foreground as powers of a grey image; no weights."""

    def maps(self, image: Tensor, train: bool = False) -> Tensor:
        powers = torch.arange(1, 10, dtype=image.dtype).view(1, -1, 1, 1)
        return torch.cat([image, image**powers], dim=1)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state == {}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_sequence(config: Config = TINY, **changes: Any) -> Config:
    return dataclasses.replace(config, sequence=dataclasses.replace(config.sequence, **changes))


def with_critic(config: Config = TINY, **changes: Any) -> Config:
    critic = dataclasses.replace(config.sequence.critic, **changes)
    return with_sequence(config, critic=critic)


def bars(
    counts: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64
) -> InstanceBatch:
    """Images of vertical bars of unequal width, two columns apart, and a random invalid corner."""
    labels = torch.zeros(len(counts), SIDE, SIDE, dtype=torch.int64)
    for b, count in enumerate(counts):
        for k in range(count):
            labels[b, 1 + k : SIDE - 1, 3 * k : 3 * k + 2] = k + 1
    noise = torch.rand(labels.shape, generator=generator(seed), dtype=torch.float64)
    image = (0.2 + 0.1 * labels + 0.3 * noise).clamp(0, 1).unsqueeze(1)
    valid = torch.ones_like(labels, dtype=torch.bool)
    valid[:, :4, :4] = noise[:, :4, :4] > 0.5
    return InstanceBatch(image=image, labels=labels, valid=valid, names=("bars",) * len(counts))


def enliven(actor: Actor, seed: int = 0) -> None:
    """Weights that remember: those at the start of training have hardly any memory."""
    torch.manual_seed(seed)
    for name, parameter in actor.named_parameters():
        if "lstm" in name:
            torch.nn.init.normal_(parameter, std=0.5)
        elif "code_map" in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.0)


def make_learner(config: Config = TINY, *, seed: int = 0, double: bool = True, **parts: Any) -> Any:
    """A learner of the sequences of `config`, lively and, unless told otherwise, in float64."""
    runtime = make_runtime(device="cpu", seed=seed)
    runtime.seed_everything("weights")
    actor, decoder = make_actor(config, 1), make_decoder(config, 1)
    enliven(actor, seed)
    learner = EpisodeLearner(
        config,
        config.sequence,
        1,
        actor=actor,
        decoder=decoder,
        hints=FakeHints(),  # type: ignore[arg-type]
        runtime=runtime,
        name="sequence",
        **parts,
    )
    if double:
        actor.double()
        decoder.double()
        if learner.critic is not None:
            learner.critic.network.double()
        if learner.stop_head is not None:
            learner.stop_head.double()
    return learner


def scene_of(learner: Any, counts: tuple[int, ...] = (3, 1, 2), phase: Any = PHASE) -> Scene:
    return learner.scene(bars(counts), phase)


def one_of(scene: Scene, index: int) -> Scene:
    """One image of a scene as a scene of its own."""
    part = slice(index, index + 1)
    return dataclasses.replace(
        scene,
        maps=scene.maps[part],
        context=[one[part] for one in scene.context],
        canvas=scene.canvas[part],
        targets=scene.targets[part],
        valid=scene.valid[part],
        counts=scene.counts[part],
        instances=scene.instances[part],
    )


def gradients(learner: Any, scene: Scene, noise: Tensor, phase: Any = PHASE) -> dict[str, Tensor]:
    """Of an actor update whose learning rate is 0."""
    learner.actor_update(scene, noise, phase)
    named = learner.actor.named_parameters()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}


def close(first: dict[str, Tensor], second: dict[str, Tensor], atol: float) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        far = float((value - second[name]).abs().max())
        assert torch.allclose(value, second[name], rtol=1e-5, atol=atol), f"{name}: {far}"
