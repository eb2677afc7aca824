"""The critic's side of ACIS: returns of played episodes, updates, and how far its slope is off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rlseg.acis.config import Config, SequenceConfig
from rlseg.acis.curriculum import SequencePhase
from rlseg.acis.decoder import MaskDecoder
from rlseg.acis.episode import Scene, Step, unroll
from rlseg.acis.layers import AUXILIARY, at_least_float32
from rlseg.acis.networks import Actor, Critic
from rlseg.acis.potential import Score, match_episodes, overlap_share, slope_weights, soft_scores
from rlseg.rl.returns import discounted_returns
from rlseg.train.runtime import Runtime


def episode_scores(scene: Scene, masks: Sequence[Tensor], kind: Score) -> Tensor:
    """Score of every mask with every target, float [B, T, N]; 0 where an image was over.

    Args:
        scene: a batch.
        masks: per step float [A, 1, H, W] of the images active then.
        kind: the score.
    """
    found = scene.maps.new_zeros(len(scene.maps), len(masks), scene.targets.shape[1])
    for t, mask in enumerate(masks):
        active = len(mask)
        found[:active, t] = soft_scores(mask, scene.targets[:active], scene.valid[:active], kind)
    return found


def steps_of(scene: Scene, length: int) -> list[int]:
    """Masks per image in an episode of so many steps."""
    return [min(count, length) for count in scene.counts]


def exchanged(steps: Sequence[Step], place: int, mask: Tensor) -> list[Step]:
    """An episode with another mask at one step, and the canvases that follow from it.

    Args:
        steps: of the episode; their codes and proposals stay as they are.
        place: number of the step.
        mask: float [A, 1, H, W].
    """
    found = list(steps)
    found[place] = steps[place]._replace(mask=mask)
    for t in range(place + 1, len(found)):
        canvas = torch.maximum(found[t - 1].canvas, found[t - 1].mask)
        found[t] = found[t]._replace(canvas=canvas[: len(found[t].mask)])
    return found


class CriticTrainer:
    """Owns the critic and its optimizer.

    Args:
        config: the whole configuration.
        sequence: discount, reward and critic settings of the stage.
        channels: of the images.
        runtime: device, precision.
    """

    def __init__(
        self, config: Config, sequence: SequenceConfig, channels: int, runtime: Runtime
    ) -> None:
        self.sequence, self.runtime = sequence, runtime
        self.config = sequence.critic
        self.network = Critic(
            channels + AUXILIARY,
            self.config.features,
            self.config.hidden,
            config.sides,
            norm=self.config.norm,
            overlap=self.config.overlap,
        ).to(runtime.device)
        runtime.share(self.network)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=self.config.rate * sequence.phases[0].learning_rate,
            weight_decay=self.config.weight_decay,
        )
        self.generator = runtime.generator("acis", "counterfactual", runtime.rank)

    def is_next(self, iteration: int) -> bool:
        """Whether this iteration, counted from 0, belongs to the critic."""
        after = iteration - self.config.warm_up
        return after < 0 or after % (self.config.per_actor + 1) != self.config.per_actor

    def frozen(self, maps: Tensor) -> Tensor:
        """Freezes the critic; what the images contribute to its every step."""
        self.network.requires_grad_(False)
        return self.network.fixed(maps)

    def update(
        self,
        scene: Scene,
        noise: Tensor,
        actor: Actor,
        decoder: MaskDecoder,
        phase: SequencePhase,
    ) -> dict[str, float | Tensor]:
        """Plays an episode without gradient and fits Q to what it brought, in one step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate * phase.learning_rate
        with torch.no_grad(), self.runtime.autocast():
            fixed = actor.fixed(scene.maps)
            steps = list(unroll(actor, decoder, scene, fixed, noise, cut=True))
        scores = episode_scores(scene, [step.mask for step in steps], self.sequence.reward)
        rewards, values = self.returns(scene, steps, scores)
        targets = [values[: len(step.mask), t] for t, step in enumerate(steps)]
        self.network.requires_grad_(True)
        self.optimizer.zero_grad(set_to_none=True)
        if self.config.counterfactual:
            others = self._others(scene, steps, scores, actor, decoder)
        else:
            others = []
        lists = [([step.mask for step in steps], targets), *others]
        loss, predicted = self._fit(scene, steps, lists)
        norm = self.runtime.apply(self.optimizer)
        wanted = torch.cat(targets)
        spread = (wanted - wanted.mean()).square().sum()
        return {
            "critic/loss": loss,
            "critic/r2": 1 - (predicted - wanted).square().sum() / spread.clamp(min=1e-9),
            "critic/value": predicted.mean(),
            "critic/gradient_norm": norm,
            "reward/total": rewards.sum() / max(len(scene.maps), 1),
            "reward/least": rewards.min(),
        }

    def returns(self, scene: Scene, steps: Sequence[Step], scores: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards and what Q is fitted to, float [B, T] each."""
        played = steps_of(scene, len(steps))
        episodes = match_episodes(scores.double().cpu().numpy(), scene.counts, played)
        rewards = torch.as_tensor(episodes.rewards, dtype=torch.float32, device=scores.device)
        if self.sequence.overlap_penalty:
            for t, step in enumerate(steps):
                share = overlap_share(step.mask, step.canvas)
                rewards[: len(share), t] -= self.sequence.overlap_penalty * share
        total = discounted_returns(
            rewards.T, torch.zeros_like(rewards[:, 0]), self.sequence.discount
        ).T
        return rewards, total - rewards if self.sequence.gradient == "hybrid" else total

    def _fit(
        self,
        scene: Scene,
        steps: Sequence[Step],
        lists: Sequence[tuple[list[Tensor], list[Tensor]]],
    ) -> tuple[Tensor, Tensor]:
        """Adds the gradient of the squared errors; their sum, and Q of the played masks."""
        with self.runtime.autocast():
            fixed = self.network.fixed(scene.maps)
        # As in the actor: the part of the first layer that all steps share comes last.
        leaf = fixed.detach().requires_grad_()
        predicted, total = [], torch.zeros((), device=scene.maps.device)
        for number, (masks, targets) in enumerate(lists):
            for step, mask, wanted in zip(steps, masks, targets, strict=True):
                with self.runtime.autocast():
                    value = self.network(leaf[: len(mask)], step.canvas, mask)
                loss = (value - wanted).square().sum()
                # Gradients are averaged over ranks; the sum over all their images is wanted.
                (loss * self.runtime.world_size).backward()
                total = total + loss.detach()
                if number == 0:
                    predicted.append(value.detach())
        fixed.backward(leaf.grad)  # type: ignore[no-untyped-call]
        return total, torch.cat(predicted)

    @torch.no_grad()
    def _others(
        self,
        scene: Scene,
        steps: Sequence[Step],
        scores: Tensor,
        actor: Actor,
        decoder: MaskDecoder,
    ) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Masks of changed codes and their returns with the rest of the episode held fixed."""
        found = []
        for k in range(self.config.counterfactual):
            masks: list[Tensor] = []
            for step in steps:
                active = len(step.code)
                change = torch.randn(step.code.shape, generator=self.generator)
                code = at_least_float32(step.code) + self.config.counterfactual_noise * change.to(
                    step.code.device
                )
                if k % 2:  # every second one is far away: the code of another image
                    code = code.roll(1, dims=0)
                context = [part[:active] for part in scene.context]
                with self.runtime.autocast():
                    masks.append(decoder(actor.code_map(code), context).sigmoid())
            changed = episode_scores(scene, masks, self.sequence.reward)
            targets = []
            for t in range(len(steps)):
                mixed = scores.clone()
                mixed[:, t] = changed[:, t]
                one = exchanged(steps, t, masks[t]) if self.sequence.overlap_penalty else steps
                values = self.returns(scene, one, mixed)[1]
                targets.append(values[: len(masks[t]), t])
            found.append((masks, targets))
        return found

    def diagnose(
        self, scene: Scene, noise: Tensor, actor: Actor, decoder: MaskDecoder
    ) -> dict[str, float | Tensor]:
        """Mean cosine, in code space, of what drives the actor and the true slope of the return.

        What drives it is the critic's slope, for `gradient = "hybrid"` with that of the immediate
        reward. True: assignments and all other masks held fixed, the later rewards counted as well
        ("true") or not ("now"); of the overlap penalty, that of the step itself.
        """
        with torch.no_grad(), self.runtime.autocast():
            fixed = actor.fixed(scene.maps)
            steps = list(unroll(actor, decoder, scene, fixed, noise, cut=True))
        sequence = self.sequence
        scores = episode_scores(scene, [step.mask for step in steps], sequence.reward)
        played, count = steps_of(scene, len(steps)), scene.targets.shape[1]
        episodes = match_episodes(scores.double().cpu().numpy(), scene.counts, played)
        weights = {
            name: torch.as_tensor(
                slope_weights(episodes, count, sequence.discount, later=name == "true")
            ).to(scores)
            for name in ("now", "true")
        }
        held = self.frozen(scene.maps)
        cosines: dict[str, list[Tensor]] = {name: [] for name in weights}
        for t, step in enumerate(steps):
            active = len(step.code)
            code = at_least_float32(step.code.detach()).requires_grad_()
            mask = decoder(
                actor.code_map(code), [part[:active] for part in scene.context]
            ).sigmoid()
            each = soft_scores(mask, scene.targets[:active], scene.valid[:active], sequence.reward)
            penalty = (
                sequence.overlap_penalty * overlap_share(mask, at_least_float32(step.canvas)).sum()
            )
            slopes = {
                name: _slope((each * weight[:active, t]).sum() - penalty, code)
                for name, weight in weights.items()
            }
            value = self.network(
                at_least_float32(held[:active]), at_least_float32(step.canvas), mask
            ).sum()
            driving = _slope(value, code)
            if sequence.gradient == "hybrid":
                driving = driving + slopes["now"]
            for name, slope in slopes.items():
                cosines[name].append(functional.cosine_similarity(driving, slope))
        return {f"critic/cosine_{name}": torch.cat(v).mean() for name, v in cosines.items()}

    def state_dict(self) -> dict[str, Any]:
        """Network, optimizer and generator."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())


def _slope(value: Tensor, code: Tensor) -> Tensor:
    return torch.autograd.grad(value, code, retain_graph=True)[0]
