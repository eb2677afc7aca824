"""Gradients of every objective against episodes written out, and what the learner keeps apart."""

import copy
import dataclasses
import itertools
from functools import partial

import pytest
import torch

from rlseg.acis.config import ActorConfig
from rlseg.acis.curriculum import Phase, SequencePhase
from rlseg.acis.episode import frozen_context, unroll
from rlseg.acis.potential import soft_scores
from rlseg.train.runtime import make_runtime
from tests.fake import acis as fake
from tests.fake.acis import (
    PHASE,
    TINY,
    bars,
    close,
    generator,
    gradients,
    make_learner,
    one_of,
    scene_of,
    with_critic,
    with_sequence,
)

COUNTS = (3, 1, 2)
KINDS = {
    "bl_trunc": {"objective": "bl_trunc"},
    "bl": {"objective": "bl"},
    "unrolled": {"objective": "bl", "unroll_canvas": True},
    "critic": {"gradient": "critic"},
    "potential": {"gradient": "potential"},
    "hybrid": {"gradient": "hybrid"},
}


def learner_of(kind, config=TINY, **changes):
    return make_learner(with_sequence(config, **KINDS[kind], **changes))


def noise_of(steps=3, images=3, seed=5):
    return torch.randn(steps, images, 3, generator=generator(seed)).double()


def best_targets(masks, targets, valid):
    """The assignment with the largest sum of Dice, by trying all."""
    scores = torch.cat([soft_scores(mask, targets, valid, "dice") for mask in masks])
    tried = itertools.permutations(range(targets.shape[1]), len(masks))
    return max(tried, key=lambda one: sum(float(scores[t, n]) for t, n in enumerate(one)))


def written_out(learner, scene, noise, kl_weight, *, states=False, canvases=False):
    """Gradients of the cross entropy of every image on its own, gradient cut by hand."""
    actor, decoder = learner.actor, learner.decoder
    learner.actor.zero_grad()
    images, length = len(scene.maps), len(noise)
    for b in range(images):
        part, steps = slice(b, b + 1), min(scene.counts[b], length)
        maps, context = scene.maps[part], frozen_context(decoder, scene.maps[part])
        state, canvas = actor.initial(1), scene.canvas[part]
        masks, divergence = [], 0.0
        for t in range(steps):
            if not states:
                state = type(state)(state.hidden.detach(), state.cell.detach())
            if not canvases:
                canvas = canvas.detach()
            proposal = actor(actor.fixed(maps), canvas, state)
            spread = torch.exp(proposal.log_var / 2)
            code = proposal.mean + spread * noise[t, part]
            mask = torch.sigmoid(decoder(actor.code_map(code), context))
            masks.append(mask)
            square = proposal.mean**2 + spread**2 - 1 - 2 * torch.log(spread)
            divergence = divergence + square.sum() / 2
            state, canvas = proposal.state, torch.maximum(canvas, mask)
        targets, valid = scene.targets[part, : scene.counts[b]], scene.valid[part]
        chosen = best_targets([mask.detach() for mask in masks], targets, valid)
        loss = kl_weight * divergence
        for mask, n in zip(masks, chosen, strict=True):
            wanted = targets[:, n : n + 1]
            each = wanted * mask.log() + (1 - wanted) * (1 - mask).log()
            loss = loss - (each * valid).sum()
        (loss / (images * length)).backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in actor.named_parameters()
    }


@pytest.mark.parametrize(
    ("kind", "passes"),
    [
        ("bl_trunc", {}),
        ("bl", {"states": True}),
        ("unrolled", {"states": True, "canvases": True}),
    ],
)
@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
def test_baselines_against_episodes_written_out(kind, passes, kl_weight):
    learner = learner_of(kind)
    phase = dataclasses.replace(PHASE, kl_weight=kl_weight)
    scene = scene_of(learner)
    found = gradients(learner, scene, noise_of(), phase)
    close(found, written_out(learner, scene, noise_of(), kl_weight, **passes), atol=1e-9)
    assert found["lstm.0.weight_hh"].abs().max() > 1e-6


def test_the_three_truncations_differ():
    learner = learner_of("bl_trunc")
    scene = scene_of(learner)
    cut, states, canvases = (
        gradients(learner_of(kind), scene, noise_of()) for kind in ("bl_trunc", "bl", "unrolled")
    )
    for first, second in itertools.combinations((cut, states, canvases), 2):
        for name in ("trunk.first.conv.weight", "lstm.0.weight_hh"):
            assert not torch.allclose(first[name], second[name], rtol=1e-3)


@pytest.mark.parametrize("kind", ["bl_trunc", "critic", "potential", "hybrid"])
def test_flat_and_fast_memory_have_equal_gradients(kind):
    phase = dataclasses.replace(PHASE, kl_weight=0.1)
    flat, fast = (learner_of(kind, memory=memory) for memory in ("flat", "fast"))
    scene = scene_of(flat)
    first = gradients(flat, scene, noise_of(), phase)
    second = gradients(fast, scene, noise_of(), phase)
    close(first, second, atol=1e-12)
    assert all(value.abs().max() > 0 for value in first.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_the_mean_of_its_images(kind):
    """Each image's episode stands alone; the loss is divided by images times steps."""
    learner = learner_of(kind)
    scene = scene_of(learner)
    whole = gradients(learner, scene, noise_of())
    total = {name: torch.zeros_like(value) for name, value in whole.items()}
    for b, count in enumerate(scene.counts):
        part = gradients(learner, one_of(scene, b), noise_of()[:count, b : b + 1])
        for name, value in part.items():
            total[name] += value * count / (len(scene.counts) * 3)
    close(whole, total, atol=1e-10)


@pytest.mark.parametrize("kind", ["bl_trunc", "critic", "potential"])
def test_no_gradient_reaches_earlier_steps(kind):
    """The graph of a step ends at its canvas and its state."""
    learner = learner_of(kind)
    scene = scene_of(learner, (3, 3, 3))
    fixed = learner.actor.fixed(scene.maps)
    steps = list(unroll(learner.actor, learner.decoder, scene, fixed, noise_of(), cut=True))
    for early, late in itertools.combinations(steps, 2):
        assert not late.canvas.requires_grad
        reached = torch.autograd.grad(
            late.mask.sum(),
            [early.mask, *early.proposal.state],
            allow_unused=True,
            retain_graph=True,
        )
        assert all(part is None for part in reached)


def driven(learner, scene, t):
    """What the actor's loss pushes at the means of step t, and the loss of a moved code."""
    noise = torch.zeros(3, 3, 3, dtype=torch.float64)
    actor, decoder = learner.actor, learner.decoder
    fixed = actor.fixed(scene.maps)
    steps = list(unroll(actor, decoder, scene, fixed, noise, cut=True))
    plan = learner.plan(scene, [step.mask.detach() for step in steps])
    held = None if learner.critic is None else learner.critic.frozen(scene.maps)
    step = steps[t]
    loss = learner.loss(scene, step, t, plan, held, 0.0, plan.steps)
    (slope,) = torch.autograd.grad(loss, step.proposal.mean)
    context = [part[: len(step.mask)] for part in scene.context]

    def moved(change):
        with torch.no_grad():
            mask = decoder(actor.code_map(step.code + change), context).sigmoid()
        return mask, step, held

    return slope, moved


def differences(value, shape, size=1e-5):
    """Central differences of a function of a change of a tensor."""
    found = torch.zeros(shape, dtype=torch.float64)
    for place in itertools.product(*map(range, shape)):
        change = torch.zeros(shape, dtype=torch.float64)
        change[place] = size
        found[place] = (value(change) - value(-change)) / (2 * size)
    return found


@pytest.mark.parametrize("t", [0, 1])
def test_the_critic_drives_the_actor_through_the_decoder(t):
    """-dQ/dcode over B * T, by finite differences."""
    learner = learner_of("critic")
    scene = scene_of(learner)
    slope, moved = driven(learner, scene, t)

    def value(change):
        mask, step, held = moved(change)
        q = learner.critic.network(held[: len(mask)], step.canvas, mask)
        return -float(q.sum()) / (3 * 3)

    torch.testing.assert_close(slope, differences(value, slope.shape), rtol=1e-3, atol=1e-9)
    assert slope.abs().max() > 1e-8


@pytest.mark.parametrize("penalty", [0.0, 0.5])
@pytest.mark.parametrize("reward", ["dice", "iou"])
@pytest.mark.parametrize("kind", ["potential", "hybrid"])
def test_the_true_slope_drives_the_actor(kind, reward, penalty):
    """Of the discounted return, matched anew (and Q of the rest), by finite differences."""
    learner = learner_of(kind, reward=reward, overlap_penalty=penalty)
    scene = scene_of(learner, (3, 3, 2))
    slope, moved = driven(learner, scene, 1)
    zero = torch.zeros(3, 3, 3, dtype=torch.float64)
    fixed = learner.actor.fixed(scene.maps)
    steps = list(unroll(learner.actor, learner.decoder, scene, fixed, zero, cut=True))
    masks = [step.mask.detach() for step in steps]

    def value(change):
        mask, step, held = moved(change)
        total = 0.0
        for b in range(3):
            played = [masks[0][b], mask[b], *([masks[2][b]] if b < len(masks[2]) else [])]
            targets = scene.targets[b : b + 1, : scene.counts[b]]
            valid = scene.valid[b : b + 1]
            potential = []
            for count in range(1, len(played) + 1):
                some = [one[None] for one in played[:count]]
                chosen = best_scored(some, targets, valid, reward)
                potential.append(chosen)
            rewards = [after - before for before, after in itertools.pairwise(potential)]
            total += rewards[0]
            if kind == "potential":
                total += sum(0.9**k * r for k, r in enumerate(rewards) if k)
            canvas = step.canvas[b]
            total -= penalty * float((mask[b] * canvas).sum() / mask[b].sum())
        if kind == "hybrid":
            total += float(learner.critic.network(held[: len(mask)], step.canvas, mask).sum())
        return -total / (3 * 3)

    torch.testing.assert_close(slope, differences(value, slope.shape), rtol=1e-3, atol=1e-7)
    assert slope.abs().max() > 1e-6


def best_scored(masks, targets, valid, reward):
    scores = torch.cat([soft_scores(mask, targets, valid, reward) for mask in masks])
    tried = itertools.permutations(range(targets.shape[1]), len(masks))
    return max(sum(float(scores[t, n]) for t, n in enumerate(one)) for one in tried)


RATE = SequencePhase(steps=10, learning_rate=1e-2, length=3)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_actor_and_critic_updates_keep_apart():
    config = with_critic(with_sequence(phases=(RATE,)), per_actor=1, warm_up=1)
    learner = make_learner(config, double=False)
    batch = dataclasses.replace(bars(COUNTS), image=bars(COUNTS).image.float())
    decoder = weights(learner.decoder)
    kinds = []
    for _ in range(6):
        actor, critic = weights(learner.actor), weights(learner.critic.network)
        scalars = learner.step(batch)
        changed = not equal(actor, learner.actor.state_dict())
        judged = not equal(critic, learner.critic.network.state_dict())
        assert changed != judged
        assert ("critic/loss" in scalars) == judged
        assert ("train/loss" in scalars) == changed
        kinds.append("actor" if changed else "critic")
        if changed:  # nor has a gradient been left behind
            assert all(not p.requires_grad for p in learner.critic.network.parameters())
        else:
            assert all(p.requires_grad for p in learner.critic.network.parameters())
    assert kinds == ["critic", "critic", "actor", "critic", "actor", "critic"]
    assert learner.actor_steps == 2
    assert equal(decoder, learner.decoder.state_dict())
    assert all(p.grad is None for p in learner.decoder.parameters())


def test_a_critic_update_leaves_no_gradient_in_the_actor_and_the_other_way_round():
    learner = learner_of("critic")
    scene = scene_of(learner)
    learner.critic.update(scene, noise_of(), learner.actor, learner.decoder, PHASE)
    assert all(p.grad is None for p in learner.actor.parameters())
    before = [p.grad.clone() for p in learner.critic.network.parameters()]
    gradients(learner, scene, noise_of())
    after = [p.grad for p in learner.critic.network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_sampling_probability(probability):
    actor = dataclasses.replace(TINY.actor, sample_prob=probability)
    learner = make_learner(dataclasses.replace(TINY, actor=actor))
    scene = scene_of(learner)
    drawn = torch.cat([learner.noise(scene, 6) for _ in range(100)])
    steps = drawn.flatten(1).any(dim=1)
    assert abs(float(steps.float().mean()) - probability) < 0.08
    full = drawn[steps]
    assert (full != 0).all()
    if len(full):
        assert abs(float(full.std()) - 1) < 0.1


def test_log_variances_learn_through_the_code_only_where_it_is_drawn():
    learner = learner_of("bl_trunc")
    scene = scene_of(learner)
    name = "bottleneck.statistics.weight"
    drawn = gradients(learner, scene, noise_of())[name]
    mean = gradients(learner, scene, torch.zeros_like(noise_of()))[name]
    assert drawn[3:].abs().max() > 0  # the second half is log variances
    assert mean[3:].abs().max() == 0
    assert mean[:3].abs().max() > 0


def test_a_frozen_code_map_keeps_its_weights():
    changes = {"phases": (RATE,), "weight_decay": 0.1}
    for how, kept in (("frozen", True), ("fresh", False)):
        actor = dataclasses.replace(TINY.actor, code_map=how)
        config = dataclasses.replace(with_sequence(objective="bl_trunc", **changes), actor=actor)
        learner = make_learner(config)
        before = weights(learner.actor.code_map)
        for _ in range(3):
            learner.step(bars(COUNTS))
        assert equal(before, learner.actor.code_map.state_dict()) == kept


def test_phases_change_rate_length_and_divergence():
    phases = (
        SequencePhase(steps=1, learning_rate=1e-3, length=1),
        SequencePhase(steps=1, learning_rate=1e-4, length=3, kl_weight=1e6),
    )
    learner = learner_of("bl_trunc", phases=phases)
    found = [learner.step(bars(COUNTS)) for _ in range(3)]
    assert [one["train/learning_rate"] for one in found] == [1e-3, 1e-4, 1e-4]
    assert [one["train/length"] for one in found] == [1, 3, 3]
    assert found[1]["train/loss"] > 5 * found[0]["train/loss"]
    assert learner.optimizer.param_groups[0]["lr"] == 1e-4


def test_random_loading_is_capped_by_the_most_steps():
    phase = SequencePhase(steps=9, learning_rate=0.0, length=1, load="random")
    config = dataclasses.replace(with_sequence(objective="bl_trunc", phases=(phase,)), max_steps=2)
    learner = make_learner(config)
    lengths = set()
    for _ in range(10):
        scene = learner.scene(bars((4,)), phase)
        lengths.add(scene.steps(2))
        assert torch.isfinite(
            learner.actor_update(scene, learner.noise(scene, 2), phase)["train/loss"]
        )
    assert lengths == {1, 2}


def test_clip_value_and_weight_decay():
    clipped = learner_of("bl_trunc", clip_value=1e-3)
    scene = scene_of(clipped)
    found = gradients(clipped, scene, noise_of())
    raw = gradients(learner_of("bl_trunc"), scene, noise_of())
    close(found, {name: value.clamp(-1e-3, 1e-3) for name, value in raw.items()}, atol=1e-12)
    assert max(value.abs().max() for value in raw.values()) > 1e-3
    for decay in (0.0, 0.25):
        learner = learner_of("bl_trunc", weight_decay=decay)
        assert learner.optimizer.param_groups[0]["weight_decay"] == decay


def test_matched_is_the_mean_score_of_the_matching():
    learner = learner_of("bl_trunc")
    scene = scene_of(learner)
    fixed = learner.actor.fixed(scene.maps)
    steps = list(unroll(learner.actor, learner.decoder, scene, fixed, noise_of(), cut=True))
    masks = [step.mask.detach() for step in steps]
    plan = learner.plan(scene, masks)
    total = 0.0
    for b, count in enumerate(scene.counts):
        own = [masks[t][b : b + 1] for t in range(count)]
        targets, valid = scene.targets[b : b + 1, :count], scene.valid[b : b + 1]
        total += best_scored(own, targets, valid, "dice")
        chosen = best_targets(own, targets, valid)
        assert plan.chosen[b, :count].argmax(dim=1).tolist() == list(chosen)
        assert plan.chosen[b, count:].sum() == 0
    assert float(plan.matched) == pytest.approx(total / 6)


@pytest.mark.parametrize("kind", ["bl_trunc", "critic"])
def test_a_batch_without_instances_changes_nothing(kind):
    learner = learner_of(kind, phases=(RATE,))
    before = weights(learner.actor)
    for _ in range(4):
        assert learner.step(bars((0, 0))) == {"train/targets": 0.0}
    assert equal(before, learner.actor.state_dict())
    assert learner.steps == 4


def test_images_without_instances_beside_others():
    learner = learner_of("bl_trunc")
    scene = scene_of(learner, (2, 0, 1))
    assert scene.counts == (2, 1, 0)
    found = gradients(learner, scene, noise_of(2))
    assert all(torch.isfinite(value).all() for value in found.values())
    assert found["lstm.0.weight_ih"].abs().max() > 0


def test_the_reward_decides_the_matching():
    """Dice and IoU rank single pairs alike, but not sums of pairs."""
    learner = learner_of("potential")
    other = learner_of("potential", reward="iou")
    scene = scene_of(learner)
    masks = [torch.rand(n, 1, 16, 16, generator=generator(n)).double() for n in (3, 2, 1)]
    first, second = learner.plan(scene, masks).matched, other.plan(scene, masks).matched
    assert first > second > 0


def test_diagnosis_every_so_many_actor_updates():
    config = with_critic(with_sequence(diagnose_every=2), per_actor=1)
    learner = make_learner(config, double=False)
    batch = dataclasses.replace(bars(COUNTS), image=bars(COUNTS).image.float())
    found = ["critic/cosine_true" in learner.step(batch) for _ in range(8)]
    assert found == [False, False, False, True, False, False, False, True]


@pytest.mark.parametrize("kind", ["bl_trunc", "critic"])
def test_state_dict_round_trip_goes_on_bit_for_bit(kind):
    config = with_critic(
        with_sequence(**KINDS[kind], phases=(RATE,)), counterfactual=1, per_actor=1
    )
    first, second = (make_learner(config, seed=seed, double=False) for seed in (0, 1))
    batch = dataclasses.replace(bars(COUNTS), image=bars(COUNTS).image.float())
    for _ in range(3):
        first.step(batch)
    state = copy.deepcopy(first.state_dict())
    second.load_state_dict(state)
    for _ in range(3):
        one, other = first.step(batch), second.step(batch)
        assert {k: float(v) for k, v in one.items()} == {k: float(v) for k, v in other.items()}
    assert equal(first.actor.state_dict(), second.actor.state_dict())
    if kind == "critic":
        assert equal(first.critic.network.state_dict(), second.critic.network.state_dict())


def test_the_start_is_a_sequence_of_one_mask():
    from rlseg.acis.build import start_of

    phases = (Phase(steps=2, learning_rate=0.5, kl_weight=0.1), Phase(steps=3, learning_rate=0.25))
    config = dataclasses.replace(TINY, actor=ActorConfig(phases=phases, weight_decay=0.125))
    start = start_of(with_sequence(config, gradient="hybrid", overlap_penalty=1.0))
    assert [dataclasses.astuple(phase) for phase in start.phases] == [
        (2, 0.5, 0.1, 1, "last"),
        (3, 0.25, 0.0, 1, "last"),
    ]
    assert not start.uses_critic
    assert (start.objective, start.weight_decay) == ("bl_trunc", 0.125)
    start_of(with_sequence(config, objective="bl", unroll_canvas=True))  # is allowed, too


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_updates_are_nearly_those_in_float32(kind, monkeypatch):
    config = with_critic(with_sequence(**KINDS[kind]), per_actor=1)
    if config.sequence.uses_critic:
        config = with_sequence(config, diagnose_every=1)
    batch = dataclasses.replace(bars(COUNTS), image=bars(COUNTS).image.float())
    found = []
    for precision in ("fp32", "bf16"):
        options = {"precision": precision}
        monkeypatch.setattr(fake, "make_runtime", partial(make_runtime, **options))
        learner = make_learner(config, double=False)
        rows = [learner.step(batch) for _ in range(2)]
        found.append({k: float(v) for row in rows for k, v in row.items()})
        assert all(p.dtype == torch.float32 for p in learner.actor.parameters())
    assert found[0].keys() == found[1].keys()
    for name in ("train/loss", "train/matched", "train/gradient_norm"):
        assert found[1][name] == pytest.approx(found[0][name], rel=0.1, abs=1e-3)
    assert any(found[0][name] != found[1][name] for name in found[0])
