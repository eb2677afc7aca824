"""The learner: its loss against finite differences, what it may touch, and its schedules."""

import copy
import dataclasses

import pytest
import torch
from naive import rewards as naive_rewards

from rlseg.colorrl.a3c import ColorLearner, learning_rate
from rlseg.colorrl.config import Config, Phase, RewardConfig
from rlseg.data.samples import InstanceBatch
from rlseg.errors import ConfigError
from rlseg.supervised import BoundaryNetwork
from rlseg.train.runtime import make_runtime

TINY = Config(
    bits=3,
    features=(4, 8),
    scale=1.0,
    crop=16,
    batch=2,
    rewards=RewardConfig(radii=(2, 4), subset="all", min_instance=2),
    phases=(Phase(steps=100, learning_rate=1e-3),),
    min_sizes=(0, 5),
)

SUBSET = dataclasses.replace(TINY.rewards, subset="neighbors", subset_seeds=1, subset_neighbors=0)


def scene(images=2, side=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(images, side, side, dtype=torch.int64)
    labels[:, 2:7, 2:7], labels[:, 7:13, 3:8], labels[:, 4:11, 8:14] = 1, 2, 3
    image = torch.rand(images, 1, side, side, generator=generator) * 0.3
    image += (labels.unsqueeze(1) > 0).float() * 0.4 + 0.1 * labels.unsqueeze(1)
    return InstanceBatch(
        image=image,
        labels=labels,
        valid=torch.ones_like(labels, dtype=torch.bool),
        names=tuple(map(str, range(images))),
    )


def learner(config=TINY, seed=0, hints=None):
    runtime = make_runtime(device="cpu", seed=seed)
    runtime.seed_everything("test")
    return ColorLearner(config, 1, runtime, hints)


def random_episode(steps=3, shape=(2, 4, 5)):
    generator = torch.Generator().manual_seed(1)
    draw = lambda: torch.randn(steps, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    actions = torch.rand(steps, *shape, generator=generator) < 0.5
    mask = (torch.rand(shape, generator=generator) < 0.7).double()
    return draw(), draw(), actions, draw(), draw(), mask


def expected_gradients(logits, values, actions, rewards, gains, mask, config):
    """By hand, pixel by pixel: d(policy)/d(logit), d(value loss)/dV, d(entropy)/d(logit)."""
    steps = len(rewards)
    later = config.gradient == "counterfactual"
    gamma = config.discount
    policy = torch.zeros_like(logits)
    value = torch.zeros_like(values)
    for t in range(steps):
        total = sum(gamma ** (k - t) * rewards[k] for k in range(t + later, steps))
        total = total if torch.is_tensor(total) else torch.zeros_like(rewards[0])
        pi = 1 / (1 + torch.exp(-logits[t]))
        score = torch.where(actions[t], 1 - pi, -pi)  # d log pi(a) / d logit
        policy[t] = -score * (total - values[t]) * mask
        if later:
            policy[t] -= pi * (1 - pi) * gains[t] * mask
        value[t] = (values[t] - total) * mask
    pi = 1 / (1 + torch.exp(-logits))
    entropy = pi * (1 - pi) * torch.log((1 - pi) / pi) * mask
    return policy, value, entropy


@pytest.mark.parametrize("gradient", ["sampled", "counterfactual"])
@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_loss_gradients_equal_a_second_derivation(gradient, discount):
    config = dataclasses.replace(TINY, gradient=gradient, discount=discount)
    logits, values, actions, rewards, gains, mask = random_episode()
    logits.requires_grad_()
    values.requires_grad_()
    terms = learner(config).losses(logits, values, actions, rewards, gains, mask)
    policy, value, entropy = expected_gradients(
        logits.detach(), values.detach(), actions, rewards, gains, mask, config
    )
    grad = torch.autograd.grad(
        terms["policy"], [logits, values], allow_unused=True, retain_graph=True
    )
    torch.testing.assert_close(grad[0], policy)
    assert grad[1] is None, "the critic learns from the value loss only"
    torch.testing.assert_close(
        torch.autograd.grad(terms["value"], values, retain_graph=True)[0], value
    )
    torch.testing.assert_close(torch.autograd.grad(terms["entropy"], logits)[0], entropy)


def test_policy_gradient_equals_finite_differences_of_the_expected_reward():
    """One step, one pixel: averaged over both actions the gradient is that of E[r]."""
    gain, base = 0.7, -0.2
    for gradient in ("sampled", "counterfactual"):
        config = dataclasses.replace(TINY, bits=1, gradient=gradient)
        logit = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        probability = torch.sigmoid(logit.detach())
        found = 0.0
        for action, chance in ((True, probability), (False, 1 - probability)):
            terms = learner(config).losses(
                logit.view(1, 1, 1, 1),
                torch.zeros(1, 1, 1, 1, dtype=torch.float64),
                torch.tensor(action).view(1, 1, 1, 1),
                torch.tensor(base + gain * action, dtype=torch.float64).view(1, 1, 1, 1),
                torch.tensor(gain, dtype=torch.float64).view(1, 1, 1, 1),
                torch.ones(1, 1, 1, dtype=torch.float64),
            )
            found += chance * torch.autograd.grad(terms["policy"], logit)[0]
        reward = lambda x: base + gain * torch.sigmoid(x)  # noqa: E731
        step = 1e-6
        numeric = (reward(logit.detach() + step) - reward(logit.detach() - step)) / (2 * step)
        assert float(-found) == pytest.approx(float(numeric), abs=1e-8)


@pytest.mark.parametrize("gradient", ["sampled", "counterfactual"])
def test_the_loss_gradient_equals_finite_differences_through_the_network(gradient):
    """Actions are drawn from the same numbers; the heads are apart, so that a change of the policy
    head leaves the advantages alone, and returns never depend on the value head.
    """
    agent = learner(dataclasses.replace(TINY, bits=2, gradient=gradient))
    agent.network.double()
    batch = scene()
    batch = dataclasses.replace(batch, image=batch.image.double())

    def terms():
        agent.generator.manual_seed(5)
        return agent.episode(batch)[0]

    losses = {
        agent.network.policy.weight: lambda: terms()["policy"] - 0.05 * terms()["entropy"],
        agent.network.value.weight: lambda: terms()["value"],
        agent.network.bits_path.first.conv.weight: lambda: terms()["entropy"],
    }
    for weight, loss in losses.items():
        (exact,) = torch.autograd.grad(loss(), weight)
        with torch.no_grad():
            for place in ((0, 0, 0, 0), (0, 1, 0, 0)):
                old, step = float(weight[place]), 1e-6
                weight[place] = old + step
                above = float(loss())
                weight[place] = old - step
                below = float(loss())
                weight[place] = old
                numeric = (above - below) / (2 * step)
                assert numeric == pytest.approx(float(exact[place]), rel=2e-3, abs=1e-4)


def test_weights_of_the_terms_and_lambda_enter_the_update():
    """The norm of the gradient moves with each of them; rewards are the same throughout."""
    norms = {}
    for name, change in {
        "plain": {},
        "value": {"value_weight": 3.0},
        "entropy": {"entropy_weight": 5.0},
        "lambda": {"gae_lambda": 0.0},
        "discount": {"discount": 0.1},
    }.items():
        norms[name] = float(
            learner(dataclasses.replace(TINY, **change)).step(scene())["train/gradient_norm"]
        )
    assert len(set(norms.values())) == len(norms)


def test_clipping_bounds_the_step_but_not_the_logged_norm():
    loose = learner().step(scene())["train/gradient_norm"]
    agent = learner(dataclasses.replace(TINY, max_norm=1e-6))
    torch.testing.assert_close(agent.step(scene())["train/gradient_norm"], loose)
    norms = [p.grad.norm() for p in agent.network.parameters() if p.grad is not None]
    assert norms
    assert float(torch.stack(norms).norm()) <= 1.01e-6


def test_scalars_are_the_mean_rewards_of_the_played_episode(monkeypatch):
    agent = learner()
    batch = scene(images=1)
    played = []
    original = agent.environment.step
    monkeypatch.setattr(
        agent.environment, "step", lambda bits: (played.append(bits), original(bits))[1]
    )
    scalars = agent.step(batch)
    actions = torch.stack(played)[:, 0].numpy()
    expected = naive_rewards(batch.labels[0].numpy(), actions, TINY.rewards)
    assert float(scalars["reward/total"]) == pytest.approx(expected.sum(0).mean(), abs=1e-5)
    assert float(scalars["reward/foreground"]) == pytest.approx(expected[0].mean(), abs=1e-5)


def test_only_masked_pixels_move_the_network():
    config = dataclasses.replace(TINY, rewards=SUBSET)
    agent = learner(config)
    batch = scene(images=1)
    agent.episode(batch)
    mask = agent.environment.scene.loss_mask.view(1, 16, 16)
    assert 0 < mask.sum() < mask.numel()
    logits = torch.zeros(3, 1, 16, 16, requires_grad=True)
    terms = agent.losses(
        logits,
        torch.zeros(3, 1, 16, 16),
        torch.ones(3, 1, 16, 16, dtype=torch.bool),
        torch.ones(3, 1, 16, 16),
        torch.ones(3, 1, 16, 16),
        mask,
    )
    (gradient,) = torch.autograd.grad(terms["policy"], logits)
    assert torch.equal(gradient != 0, (mask > 0).expand_as(gradient))


def test_the_mask_belongs_to_the_sample_that_was_played():
    """The original resets first and then reads the mask of the next sample (fact 9.1)."""
    config = dataclasses.replace(TINY, rewards=SUBSET)
    agent, seen = learner(config), []
    original = agent.losses

    def spy(*tensors):
        seen.append((agent.environment.scene.loss_mask, tensors[-1]))
        return original(*tensors)

    agent.losses = spy
    agent.step(scene(seed=1))
    agent.step(scene(seed=2))
    for held, used in seen:
        assert torch.equal(held.view(used.shape), used)


def test_dividing_by_the_mask_scales_the_gradient_by_its_coverage():
    norms = {}
    for mean in ("all", "mask"):
        agent = learner(dataclasses.replace(TINY, rewards=SUBSET, loss_mean=mean))
        norms[mean] = float(agent.step(scene())["train/gradient_norm"])
        coverage = float(agent.environment.scene.loss_mask.mean())
    assert norms["all"] == pytest.approx(norms["mask"] * coverage, rel=1e-4)


def test_frozen_hints_never_change_and_travel_with_the_state():
    torch.manual_seed(0)
    hints = BoundaryNetwork(1, (4, 8))
    before = {name: value.clone() for name, value in hints.state_dict().items()}
    config = dataclasses.replace(
        TINY, hints=dataclasses.replace(TINY.hints, features=(4, 8), steps=1)
    )
    agent = learner(config, hints=hints)
    for _ in range(3):
        agent.step(scene())
    for name, value in hints.state_dict().items():
        assert torch.equal(value, before[name])
    assert agent.state_dict()["hints"].keys() == before.keys()
    assert agent.network.image_path.first.conv.in_channels == 2


def test_a_copy_restored_from_the_state_goes_on_identically():
    first, second = learner(), learner(seed=7)
    for _ in range(2):
        first.step(scene())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    one, two = first.step(scene()), second.step(scene())
    assert {k: float(v) for k, v in one.items()} == {k: float(v) for k, v in two.items()}
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_learning_rate_follows_the_phases():
    phases = (
        Phase(steps=10, learning_rate=1.0),
        Phase(steps=10, learning_rate=0.5, final_learning_rate=0.1),
    )
    assert learning_rate(phases, 0) == 1.0
    assert learning_rate(phases, 9) == 1.0
    assert learning_rate(phases, 10) == 0.5
    assert learning_rate(phases, 15) == pytest.approx(0.3)
    assert learning_rate(phases, 1000) == 0.1


def test_evaluation_chooses_the_minimum_size_and_the_predictor_uses_it():
    agent = learner(dataclasses.replace(TINY, min_sizes=(0, 300)))
    batch = scene()
    scores = agent.evaluate([batch])
    assert scores["eval/min_size"] in (0.0, 300.0)
    assert agent.predictor.min_size == int(scores["eval/min_size"])
    assert scores["eval/arand_complement"] == pytest.approx(1 - scores["eval/arand"])
    labels = agent.predictor(batch.image).labels
    assert float(labels.flatten(1).amax(1).float().mean()) == scores["eval/instances"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": 0}, "1..16"),
        ({"bits": 17}, "1..16"),
        ({"crop": 15}, "multiple"),
        ({"scale": 0.0}, "scale"),
        ({"batch": 0}, "batch"),
        ({"phases": ()}, "phases"),
        ({"min_sizes": ()}, "min_sizes"),
    ],
)
def test_impossible_settings_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"radii": ()}, "radii"),
        ({"radii": (4, 2)}, "radii"),
        ({"background_weight": 1.5}, "background_weight"),
        ({"split_weight": -1.0}, "split_weight"),
        ({"interior": 0.0}, "interior"),
        ({"dilation_factor": 0}, "dilation_factor"),
        ({"subset_seeds": 0}, "subset_seeds"),
    ],
)
def test_impossible_rewards_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        RewardConfig(**change)
