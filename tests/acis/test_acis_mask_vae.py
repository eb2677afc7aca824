"""Mask VAE: loss, its two variants, learner, and a toy that it must learn."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional

from rlseg.acis.config import Config, CriticConfig, HintConfig, MaskVAEConfig, Phase, SequenceConfig
from rlseg.acis.layers import ANGLES
from rlseg.acis.mask_vae import MaskVAE, MaskVAELearner, hard_dice, vae_loss
from rlseg.acis.targets import draw_instance, one_hot
from rlseg.data import open_dataset
from rlseg.data.samples import InstanceBatch
from rlseg.errors import ShapeError
from rlseg.networks.losses import kl_to_normal
from rlseg.train.runtime import make_runtime

TINY = MaskVAEConfig(
    latent=4,
    hidden=8,
    encoder=(6, 8),
    decoder=(8, 6),
    batch=4,
    phases=(Phase(steps=2, learning_rate=1e-3), Phase(steps=1, learning_rate=1e-4)),
)


class TrueHints:
    """Takes images that already hold the maps; counts how often maps were made for training."""

    def __init__(self):
        self.trained = 0

    def maps(self, image, train=False):
        self.trained += train
        return image


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def run(vae, sides=(16, 16)):
    """Settings of a run around those of the mask VAE."""
    critic = CriticConfig(features=(4,) * len(vae.encoder))
    return Config(
        size=sides,
        mask_vae=vae,
        hints=HintConfig(network="unet", features=(4, 4)),  # which asks for no larger stride
        sequence=SequenceConfig(critic=critic),
    )


def blocks(seed=0, count=4, side=16):
    """Images of 12 random maps whose three instances are vertical bars; the last image is empty."""
    labels = torch.zeros(count, side, side, dtype=torch.long)
    for k in range(3):
        labels[:-1, 2:-2, 1 + 5 * k : 5 + 5 * k] = k + 1
    maps = torch.randn(count, 12, side, side, generator=generator(seed))
    return make_batch(maps, labels)


def make_batch(maps, labels, valid=None):
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    return InstanceBatch(image=maps, labels=labels, valid=valid, names=("x",) * len(labels))


def learner(vae=TINY, sides=(16, 16), seed=0, precision="fp32"):
    runtime = make_runtime(device="cpu", precision=precision, seed=seed)
    runtime.seed_everything("weights")
    return MaskVAELearner(run(vae, sides), 3, TrueHints(), runtime)


def test_one_hot_by_hand():
    labels = torch.tensor([[[0, 1], [2, 2]], [[0, 0], [1, 0]]])
    masks = one_hot(labels, 2)
    assert masks.dtype == torch.bool
    assert masks.int().tolist() == [
        [[[0, 1], [0, 0]], [[0, 0], [1, 1]]],
        [[[0, 0], [1, 0]], [[0, 0], [0, 0]]],
    ]
    assert one_hot(labels, 0).shape == (2, 0, 2, 2)
    assert one_hot(labels, 1).shape == (2, 1, 2, 2)
    with pytest.raises(ShapeError, match="labels"):
        one_hot(labels[0], 2)


def test_instances_are_drawn_with_equal_chances():
    labels = torch.zeros(3000, 1, 4, dtype=torch.long)
    labels[:2000] = torch.tensor([1, 1, 2, 3])  # of unequal size
    drawn = draw_instance(labels, generator())
    assert not drawn[2000:].any()
    assert (drawn[:2000, 0, 0] == drawn[:2000, 0, 1]).all()
    shares = drawn[:2000, 0, [0, 2, 3]].float().mean(dim=0)
    assert float(shares.sum()) == pytest.approx(1)
    assert float((shares - 1 / 3).abs().max()) < 0.04  # 4 deviations
    assert torch.equal(drawn, draw_instance(labels, generator()))
    assert not torch.equal(drawn, draw_instance(labels, generator(1)))


def test_divergence_is_that_of_torch():
    mean = torch.randn(5, 7, generator=generator(1), dtype=torch.float64)
    log_var = torch.randn(5, 7, generator=generator(2), dtype=torch.float64)
    code = Independent(Normal(mean, (0.5 * log_var).exp()), 1)
    standard = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    torch.testing.assert_close(kl_to_normal(mean, log_var), kl_divergence(code, standard))
    assert not kl_to_normal(torch.zeros(2, 3), torch.zeros(2, 3)).any()


def test_noise_moves_the_code_by_its_deviation():
    vae = MaskVAE(TINY, 12, (16, 16))
    maps, mask = torch.randn(2, 12, 16, 16, generator=generator(1)), torch.ones(2, 1, 16, 16)
    noise = torch.randn(2, 4, generator=generator(2))
    found = vae(maps, mask, noise)
    code = Normal(found.mean, (0.5 * found.log_var).exp())
    drawn = code.mean + code.stddev * noise
    torch.testing.assert_close(found.logits, vae.decode(drawn, vae.context(maps)))
    plain = vae(maps, mask, None)
    torch.testing.assert_close(plain.logits, vae.decode(found.mean, vae.context(maps)))
    assert not torch.allclose(plain.logits, found.logits)


def found_and_target(dtype=torch.float64):
    vae = MaskVAE(TINY, 12, (16, 16)).to(dtype)
    batch = blocks()
    target = one_hot(batch.labels, 3)[:, 1]
    noise = torch.randn(4, 4, generator=generator(2), dtype=dtype)
    return vae, lambda: vae(batch.image.to(dtype), target.unsqueeze(1).to(dtype), noise), target


def test_loss_is_summed_over_valid_pixels_of_images_with_a_target():
    _, forward, target = found_and_target()
    found = forward()
    valid = torch.rand(target.shape, generator=generator(5)) < 0.7
    loss = vae_loss(found, target, valid)
    assert loss.counted.tolist() == [1, 1, 1, 0]
    probability = found.logits.detach().squeeze(1).sigmoid()
    for b in range(4):
        expected = 0.0
        for row, column in valid[b].nonzero().tolist():
            p = float(probability[b, row, column])
            expected -= math.log(p if target[b, row, column] else 1 - p)
        assert float(loss.cross_entropy[b]) == pytest.approx(expected * (b < 3), rel=1e-6)
        divergence = float(kl_to_normal(found.mean, found.log_var)[b])
        assert float(loss.divergence[b]) == pytest.approx(divergence * (b < 3))


def test_gradients_agree_with_differences():
    vae, forward, target = found_and_target()

    def value():
        loss = vae_loss(forward(), target, torch.ones_like(target))
        return (loss.cross_entropy + loss.divergence).sum()

    parameters = list(vae.parameters())
    gradients = torch.autograd.grad(value(), parameters)
    step = 1e-6
    for k, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        direction = torch.randn(parameter.shape, generator=generator(k), dtype=torch.float64)
        direction /= direction.norm()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
                values.append(float(value()))
                parameter -= sign * step * direction
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-4)


class Descent(torch.optim.SGD):
    """Moves every weight by the negative gradient, so that a step shows the gradient."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=1.0)


def gradient_of(loss, **changes):
    """Change of all weights by one plain step, and the scalars of the step."""
    vae = replace(TINY, loss=loss, **changes)
    trained = learner(replace(vae, phases=(Phase(steps=9, learning_rate=1.0),)))
    trained.optimizer = Descent(trained.vae.parameters())
    before = [p.detach().clone() for p in trained.vae.parameters()]
    scalars = trained.step(blocks())
    after = list(trained.vae.parameters())
    return [a - b.detach() for a, b in zip(before, after, strict=True)], scalars


def test_sum_and_mean_differ_by_images_times_pixels():
    """Three of four images have a target, so the factor is 3 * 16 * 16."""
    summed, of_sum = gradient_of("sum", clip_value=1e9)
    mean, of_mean = gradient_of("mean", clip_norm=1e9)
    for a, b in zip(summed, mean, strict=True):
        torch.testing.assert_close(a, b * 3 * 256, rtol=2e-3, atol=1e-3)
    assert float(of_sum["train/loss"]) == pytest.approx(float(of_mean["train/loss"]))
    ratio = float(of_sum["train/gradient_norm"]) / float(of_mean["train/gradient_norm"])
    assert ratio == pytest.approx(3 * 256, rel=1e-4)


def test_each_variant_is_clipped_in_its_way():
    free, _ = gradient_of("sum", clip_value=1e9)
    clamped, _ = gradient_of("sum", clip_value=0.5)
    assert max(float(g.abs().max()) for g in free) > 0.6
    for a, b in zip(free, clamped, strict=True):
        torch.testing.assert_close(a.clamp(-0.5, 0.5), b, rtol=1e-4, atol=1e-4)
    short, scalars = gradient_of("mean", clip_norm=1e-3)
    assert float(scalars["train/gradient_norm"]) > 2e-3  # before clipping
    norm = math.sqrt(sum(float(g.square().sum()) for g in short))
    assert norm == pytest.approx(1e-3, rel=1e-2)


def test_weight_of_the_divergence():
    free, _ = gradient_of("sum", clip_value=1e9, beta=0.0)
    weighed, scalars = gradient_of("sum", clip_value=1e9, beta=100.0)
    assert any(not torch.allclose(a, b, rtol=1e-2) for a, b in zip(free, weighed, strict=True))
    expected = float(scalars["train/bce"]) + 100 * float(scalars["train/kl"])
    assert float(scalars["train/loss"]) == pytest.approx(expected)


def test_learning_rate_follows_the_phases():
    trained = learner()
    rates = [trained.step(blocks())["train/learning_rate"] for _ in range(4)]
    assert rates == [1e-3, 1e-3, 1e-4, 1e-4]
    assert trained.hints.trained == 4


def test_batch_without_instances_changes_nothing_but_decay():
    for loss in ("sum", "mean"):
        trained = learner(replace(TINY, loss=loss, weight_decay=0.0))
        before = copy.deepcopy(trained.vae.state_dict())
        batch = blocks()
        empty = make_batch(batch.image, torch.zeros_like(batch.labels))
        scalars = trained.step(empty)
        assert float(scalars["train/loss"]) == 0
        for name, value in trained.vae.state_dict().items():
            assert torch.equal(value, before[name])
        assert trained.evaluate([empty]) == {}


def test_image_without_instances_does_not_count():
    batch = blocks()
    full = InstanceBatch(
        image=batch.image[:3], labels=batch.labels[:3], valid=batch.valid[:3], names=("x",) * 3
    )
    found = learner().evaluate([batch])
    assert found == pytest.approx(learner().evaluate([full]), abs=1e-5)


def test_without_pyramid_the_decoder_reads_no_image():
    trained = learner(replace(TINY, pyramid=False))
    assert trained.vae.decoder.channels == 0
    with torch.no_grad():
        code = torch.randn(2, 4, generator=generator())
        one, other = (trained.vae.context(torch.randn(2, 12, 16, 16)) for _ in range(2))
        assert torch.equal(trained.vae.decode(code, one), trained.vae.decode(code, other))
    assert math.isfinite(float(trained.step(blocks())["train/loss"]))


def test_hard_dice_by_hand():
    a = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]], [[1, 1, 1, 1]]]).bool()
    b = torch.tensor([[[1, 0, 0, 0]], [[1, 1, 0, 0]], [[0, 0, 0, 0]], [[1, 1, 1, 1]]]).bool()
    assert hard_dice(a, b).tolist() == pytest.approx([2 / 3, 0, 0, 1])


def test_evaluation_agrees_with_one_instance_at_a_time(monkeypatch):
    monkeypatch.setattr("rlseg.acis.mask_vae.EVALUATED_AT_ONCE", 4)
    trained = learner()
    for conv in trained.vae.decoder.stages:  # masks of random weights that are not empty
        torch.nn.init.normal_(conv.weight, std=0.3, generator=generator(9))
    batch = blocks()
    valid = torch.rand(batch.labels.shape, generator=generator(5)) < 0.8
    batch = make_batch(batch.image, batch.labels, valid)
    codes, places, own = [], [], []
    with torch.no_grad():
        for b in range(3):
            for k in (1, 2, 3):
                mask = ((batch.labels[b] == k) & valid[b]).float()
                maps = batch.image[b : b + 1]
                codes.append(trained.vae.encoder(maps, mask.view(1, 1, 16, 16))[0])
                places.append((maps, mask, valid[b]))
        for turn in (0, -1):
            scores = []
            for n, (maps, mask, known) in enumerate(places):
                logits = trained.vae.decode(codes[n + turn], trained.vae.context(maps))
                drawn = (functional.sigmoid(logits[0, 0]) > 0.5).float() * known
                scores.append(float(2 * (drawn * mask).sum() / (drawn.sum() + mask.sum())))
            own.append(sum(scores) / len(scores))
    found = trained.evaluate([batch])
    assert own[0] > 0.05
    assert found == pytest.approx({"eval/dice": own[0], "eval/shuffled_dice": own[1]}, abs=1e-4)


def test_a_lone_instance_has_no_shuffled_score():
    batch = blocks(count=2)
    lone = make_batch(batch.image, (batch.labels == 1).long())
    assert set(learner().evaluate([lone])) == {"eval/dice"}
    assert learner().evaluate([]) == {}


def test_state_goes_round():
    """A learner that takes over in the middle goes on like the one that did not stop."""
    first, second = learner(), learner(seed=1)
    first.step(blocks())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(2):
        here, there = first.step(blocks()), second.step(blocks())
        assert {k: float(v) for k, v in here.items()} == {k: float(v) for k, v in there.items()}
    for a, b in zip(first.vae.parameters(), second.vae.parameters(), strict=True):
        assert torch.equal(a, b)


def test_seed_repeats_and_decides():
    results = [float(learner(seed=seed).step(blocks())["train/loss"]) for seed in (3, 3, 4)]
    assert results[0] == results[1] != results[2]


def true_maps(image, labels):
    """Image, angle bins and foreground from the truth, slowly."""
    maps = torch.zeros(3 + ANGLES + 1, *labels.shape)
    maps[:3] = (image - 0.4) / 0.2
    maps[-1] = labels > 0
    rows, columns = torch.meshgrid(*(torch.arange(n).float() for n in labels.shape), indexing="ij")
    for k in range(1, int(labels.max()) + 1):
        mask = labels == k
        down, right = rows - rows[mask].mean(), columns - columns[mask].mean()
        angle = torch.rad2deg(torch.atan2(down, right))
        bins = (torch.floor((angle + 22.5) / 45).long() + 4) % ANGLES
        for k in range(ANGLES):
            maps[3 + k][mask & (bins == k)] = 1
    return maps


def leaves(split, count):
    data = open_dataset("leaves", None, {"size": 32, "train": 32, "valid": 16}).split(split)
    samples = [data[index] for index in range(count)]
    maps = torch.stack([true_maps(sample.image, sample.labels) for sample in samples])
    return make_batch(maps, torch.stack([sample.labels for sample in samples]))


def test_mask_gain_scales_the_weights_of_the_mask_only():
    plain, scaled = learner(), learner(replace(TINY, mask_gain=3.0))
    for (name, a), b in zip(plain.vae.named_parameters(), scaled.vae.parameters(), strict=True):
        factor = torch.ones_like(a)
        if name == "encoder.trunk.first.conv.weight":
            factor[:, 12:] = 3
        torch.testing.assert_close(a * factor, b)


def test_masks_of_leaves_are_learnt():
    """Dice of unseen scenes far above what the code of another instance gives."""
    vae = MaskVAEConfig(
        encoder=(16, 24, 32),
        decoder=(32, 24, 16),
        mask_gain=6.0,
        phases=(Phase(steps=200, learning_rate=1e-3),),
    )
    trained = learner(vae, (32, 32))
    scenes = leaves("train", 32)
    order = generator(1)
    for _ in range(180):
        index = torch.randint(32, (16,), generator=order)
        trained.step(make_batch(scenes.image[index], scenes.labels[index]))
    scores = trained.evaluate([leaves("valid", 16)])
    assert scores["eval/dice"] > 0.25, scores
    assert scores["eval/shuffled_dice"] < 0.5 * scores["eval/dice"], scores
