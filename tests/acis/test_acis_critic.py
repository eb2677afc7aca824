"""The critic's side: returns, targets, counterfactuals, updates, schedule, and the diagnosis."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from rlseg.acis.critic import episode_scores, exchanged
from rlseg.acis.curriculum import SequencePhase
from rlseg.acis.episode import unroll
from rlseg.acis.potential import overlap_share, soft_scores
from tests.fake.acis import PHASE, generator, make_learner, scene_of, with_critic, with_sequence

COUNTS = (3, 1, 2)


def noise_of(steps=3, images=3, seed=5):
    return torch.randn(steps, images, 3, generator=generator(seed)).double()


@torch.no_grad()
def played(learner, scene, noise):
    fixed = learner.actor.fixed(scene.maps)
    return list(unroll(learner.actor, learner.decoder, scene, fixed, noise, cut=True))


def replayed(scene, masks, index, sequence):
    """Rewards and discounted returns of one image, by trying all assignments."""
    count = scene.counts[index]
    targets = scene.targets[index : index + 1, :count]
    valid = scene.valid[index : index + 1]
    own = [mask[index : index + 1] for mask in masks[:count]]
    scores = torch.cat([soft_scores(mask, targets, valid, sequence.reward) for mask in own])
    potential = [0.0]
    for length in range(1, len(own) + 1):
        tried = itertools.permutations(range(count), length)
        potential.append(max(sum(float(scores[t, n]) for t, n in enumerate(one)) for one in tried))
    rewards = [after - before for before, after in itertools.pairwise(potential)]
    canvas = scene.canvas[index : index + 1]
    for t, mask in enumerate(own):
        rewards[t] -= sequence.overlap_penalty * float(overlap_share(mask, canvas))
        canvas = torch.maximum(canvas, mask)
    total = [
        sum(sequence.discount ** (i - t) * rewards[i] for i in range(t, len(rewards)))
        for t in range(len(rewards))
    ]
    return rewards, total


@pytest.mark.parametrize("reward", ["dice", "iou"])
@pytest.mark.parametrize("penalty", [0.0, 0.7])
@pytest.mark.parametrize("gradient", ["critic", "hybrid"])
@pytest.mark.parametrize("discount", [0.9, 0.5])
def test_returns_against_a_replay(reward, penalty, gradient, discount):
    config = with_sequence(
        reward=reward, overlap_penalty=penalty, gradient=gradient, discount=discount
    )
    learner = make_learner(config)
    scene = scene_of(learner)
    steps = played(learner, scene, noise_of())
    scores = episode_scores(scene, [step.mask for step in steps], reward)
    rewards, values = learner.critic.returns(scene, steps, scores)
    assert rewards.shape == values.shape == (3, 3)
    for b, count in enumerate(scene.counts):
        expected, total = replayed(scene, [step.mask for step in steps], b, config.sequence)
        if gradient == "hybrid":  # the critic is asked for what comes after the mask's own reward
            total = [value - own for value, own in zip(total, expected, strict=True)]
        assert rewards[b, :count].tolist() == pytest.approx(expected, abs=1e-6)
        assert values[b, :count].tolist() == pytest.approx(total, abs=1e-6)
        assert not rewards[b, count:].any()
        if gradient == "hybrid":
            assert float(values[b, count - 1]) == pytest.approx(0.0, abs=1e-7)
    if not penalty:
        assert rewards.min() >= -1e-6


@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_counterfactual_returns_are_those_of_a_replay_with_one_mask_exchanged(penalty):
    config = with_critic(with_sequence(overlap_penalty=penalty), counterfactual=3)
    learner = make_learner(config)
    scene = scene_of(learner)
    steps = played(learner, scene, noise_of())
    masks = [step.mask for step in steps]
    scores = episode_scores(scene, masks, "dice")
    found = learner.critic._others(scene, steps, scores, learner.actor, learner.decoder)
    assert len(found) == 3
    changed = 0.0
    for others, targets in found:
        for t, (other, values) in enumerate(zip(others, targets, strict=True)):
            assert other.shape == masks[t].shape
            changed += float((other - masks[t]).abs().mean())
            exchange = [other if i == t else mask for i, mask in enumerate(masks)]
            for b in range(len(other)):
                expected = replayed(scene, exchange, b, config.sequence)[1][t]
                assert float(values[b]) == pytest.approx(expected, abs=1e-6)
    assert changed > 0.01


def test_every_second_counterfactual_is_the_code_of_another_image():
    learner = make_learner(with_critic(counterfactual=2, counterfactual_noise=0.0))
    scene = scene_of(learner, (3, 3, 3))
    steps = played(learner, scene, noise_of())
    scores = episode_scores(scene, [step.mask for step in steps], "dice")
    found = learner.critic._others(scene, steps, scores, learner.actor, learner.decoder)
    for t, step in enumerate(steps):
        torch.testing.assert_close(found[0][0][t], step.mask, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            code = step.code.roll(1, dims=0)
            other = learner.decoder(learner.actor.code_map(code), scene.context).sigmoid()
        torch.testing.assert_close(found[1][0][t], other, rtol=1e-5, atol=1e-6)


def test_exchanging_a_mask_changes_the_canvases_that_follow():
    learner = make_learner()
    scene = scene_of(learner)
    steps = played(learner, scene, noise_of())
    found = exchanged(steps, 0, torch.ones_like(steps[0].mask))
    assert torch.equal(found[0].canvas, steps[0].canvas)
    assert all(bool((step.canvas == 1).all()) for step in found[1:])
    same = exchanged(steps, 1, steps[1].mask)
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(same, steps, strict=True))


def test_one_update_has_the_gradient_of_the_summed_squared_errors():
    learner = make_learner()
    scene = scene_of(learner)
    trainer = learner.critic
    before = [p.detach().clone() for p in trainer.network.parameters()]
    scalars = trainer.update(scene, noise_of(), learner.actor, learner.decoder, PHASE)
    found = [p.grad.clone() for p in trainer.network.parameters()]
    with torch.no_grad():
        for parameter, old in zip(trainer.network.parameters(), before, strict=True):
            parameter.copy_(old)
    trainer.network.zero_grad()
    steps = played(learner, scene, noise_of())
    loss, errors, wanted = 0.0, [], []
    for b, count in enumerate(scene.counts):
        total = replayed(scene, [step.mask for step in steps], b, learner.sequence)[1]
        for t in range(count):
            fixed = trainer.network.fixed(scene.maps[b : b + 1])
            part = slice(b, b + 1)
            value = trainer.network(fixed, steps[t].canvas[part], steps[t].mask[part])
            errors.append(float(value.detach()) - total[t])
            wanted.append(total[t])
            loss = loss + (value - total[t]).square().sum()
    loss.backward()
    for parameter, gradient in zip(trainer.network.parameters(), found, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
    assert float(scalars["critic/loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    mean = sum(wanted) / len(wanted)
    spread = sum((value - mean) ** 2 for value in wanted)
    expected = 1 - sum(error**2 for error in errors) / spread
    assert float(scalars["critic/r2"]) == pytest.approx(expected, rel=1e-4)


def test_the_critic_fits_a_hand_made_return(monkeypatch):
    """On fixed episodes: how much of the mask is in the left half, which no reward says."""
    phase = SequencePhase(steps=1, learning_rate=2e-3, length=3)
    learner = make_learner(double=False)
    trainer = learner.critic
    batch = scene_of(make_learner(), (4, 4, 4, 4, 4, 4), phase)
    scene = dataclasses.replace(
        batch,
        maps=batch.maps.float(),
        context=[part.float() for part in batch.context],
        canvas=batch.canvas.float(),
        targets=batch.targets.float(),
        valid=batch.valid.float(),
    )
    noise = 3 * noise_of(3, 6).float()

    def returns(scene, steps, scores):
        values = [
            3 * step.mask[:, 0, :, :8].mean(dim=(1, 2)) - step.canvas[:, 0, :, :8].mean(dim=(1, 2))
            for step in steps
        ]
        return torch.zeros(6, 3), torch.stack(values, dim=1)

    monkeypatch.setattr(trainer, "returns", returns)
    scores = [
        float(trainer.update(scene, noise, learner.actor, learner.decoder, phase)["critic/r2"])
        for _ in range(250)
    ]
    assert scores[0] < 0.5
    assert max(scores[-20:]) > 0.95


@pytest.mark.parametrize("gradient", ["critic", "hybrid"])
def test_the_critic_has_its_own_rate_and_decay(gradient):
    config = with_critic(with_sequence(gradient=gradient), rate=3.0, weight_decay=0.25)
    learner = make_learner(config)
    phase = dataclasses.replace(PHASE, learning_rate=0.5)
    scene = scene_of(learner)
    learner.critic.update(scene, noise_of(), learner.actor, learner.decoder, phase)
    group = learner.critic.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (1.5, 0.25)


@pytest.mark.parametrize(("warm_up", "per_actor"), [(0, 1), (4, 3), (2, 1), (1, 5)])
def test_whose_turn_it_is(warm_up, per_actor):
    trainer = make_learner(with_critic(warm_up=warm_up, per_actor=per_actor)).critic
    turns = [trainer.is_next(k) for k in range(warm_up + 3 * (per_actor + 1))]
    assert turns == [True] * warm_up + 3 * ([True] * per_actor + [False])


def test_no_critic_where_none_is_used():
    assert make_learner(with_sequence(objective="bl")).critic is None
    assert make_learner(with_sequence(gradient="potential")).critic is None
    assert make_learner(with_sequence(gradient="hybrid")).critic is not None


def test_norm_and_overlap_change_the_network():
    plain, normed, overlapping = (
        make_learner(with_critic(**changes)).critic.network
        for changes in ({}, {"norm": True}, {"overlap": True})
    )
    kinds = [type(module) for module in normed.modules()]
    assert kinds.count(nn.GroupNorm) == 2
    assert nn.GroupNorm not in [type(module) for module in plain.modules()]
    assert plain.trunk.first.conv.in_channels == 12
    assert overlapping.trunk.first.conv.in_channels == 13


class TrueReturn(nn.Module):
    """In place of a critic: what the return of each step truly is, by replay."""

    def __init__(self, scene, steps, sequence, sign=1.0, *, later=True):
        super().__init__()
        self.scene, self.sequence, self.sign, self.later = scene, sequence, sign, later
        self.masks = [step.mask for step in steps]

    def fixed(self, maps):
        return maps

    def forward(self, fixed, canvas, mask):
        t = next(t for t, old in enumerate(self.masks) if torch.allclose(old, mask, atol=1e-6))
        values = []
        for b in range(len(mask)):
            count = self.scene.counts[b]
            targets = self.scene.targets[b : b + 1, :count]
            own = [old[b : b + 1] for old in self.masks[:count]]
            own[t] = mask[b : b + 1]
            valid = self.scene.valid[b : b + 1]
            scores = torch.cat([soft_scores(m, targets, valid, self.sequence.reward) for m in own])
            ends = [scores.new_zeros(())]
            for length in range(1, count + 1):
                tried = itertools.permutations(range(count), length)
                sums = [sum(scores[k, n] for k, n in enumerate(one)) for one in tried]
                ends.append(torch.stack(sums).max())
            rewards = [after - before for before, after in itertools.pairwise(ends)]
            rewards[t] = (
                rewards[t]
                - self.sequence.overlap_penalty
                * overlap_share(mask[b : b + 1], canvas[b : b + 1]).sum()
            )
            start = t if self.later != "after" else t + 1
            stop = count if self.later else t + 1
            values.append(
                sum(
                    (self.sequence.discount ** (i - t) * rewards[i] for i in range(start, stop)),
                    0.0 * mask.sum(),
                )
            )
        return self.sign * torch.stack(values)


@pytest.mark.parametrize("penalty", [0.0, 0.3])
@pytest.mark.parametrize("gradient", ["critic", "hybrid"])
def test_the_diagnosis_of_a_perfect_critic_is_one(gradient, penalty):
    config = with_sequence(gradient=gradient, overlap_penalty=penalty)
    learner = make_learner(config)
    scene = scene_of(learner, (3, 3, 3))
    steps = played(learner, scene, noise_of())
    asked = "after" if gradient == "hybrid" else True
    learner.critic.network = TrueReturn(scene, steps, config.sequence, later=asked)
    found = learner.critic.diagnose(scene, noise_of(), learner.actor, learner.decoder)
    assert found.keys() == {"critic/cosine_true", "critic/cosine_now"}
    assert float(found["critic/cosine_true"]) == pytest.approx(1.0, abs=1e-4)
    assert -1 <= float(found["critic/cosine_now"]) <= 1.0001


def test_the_diagnosis_of_a_wrong_critic_and_of_a_short_sighted_one():
    config = with_sequence()
    learner = make_learner(config)
    scene = scene_of(learner, (3, 3, 3))
    steps = played(learner, scene, noise_of())
    learner.critic.network = TrueReturn(scene, steps, config.sequence, sign=-1.0)
    found = learner.critic.diagnose(scene, noise_of(), learner.actor, learner.decoder)
    assert float(found["critic/cosine_true"]) == pytest.approx(-1.0, abs=1e-4)
    learner.critic.network = TrueReturn(scene, steps, config.sequence, later=False)
    found = learner.critic.diagnose(scene, noise_of(), learner.actor, learner.decoder)
    assert float(found["critic/cosine_now"]) == pytest.approx(1.0, abs=1e-4)


def test_the_diagnosis_leaves_no_gradient():
    learner = make_learner()
    scene = scene_of(learner)
    learner.critic.diagnose(scene, noise_of(), learner.actor, learner.decoder)
    parts = (learner.actor, learner.decoder, learner.critic.network)
    assert all(p.grad is None for module in parts for p in module.parameters())
