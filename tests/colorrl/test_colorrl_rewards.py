"""Table-form rewards against the slow formulas, and the identities that follow from them."""

import dataclasses

import numpy as np
import pytest
import torch
from naive import rewards as naive_rewards
from naive import ring as naive_ring

from rlseg.colorrl.config import RewardConfig
from rlseg.colorrl.environment import ColoringEnv
from rlseg.colorrl.scene import make_scene
from rlseg.data.rings import dilate, erode_to_share, number_instances, ring_pairs
from rlseg.data.samples import InstanceBatch
from rlseg.errors import ConfigError

ALL = RewardConfig(radii=(2, 4), subset="all", min_instance=2)


def blobs(seed, height=14, width=17, count=6):
    """Random rectangles that touch and cover each other; ids consecutive."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), dtype=np.int64)
    for k in range(1, count + 1):
        y, x = rng.integers(0, height - 3), rng.integers(0, width - 3)
        labels[y : y + rng.integers(2, 7), x : x + rng.integers(2, 7)] = k
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def batch_of(*maps):
    labels = torch.from_numpy(np.stack(maps)).long()
    if (labels.flatten(1).amin(1) > 0).any():
        raise AssertionError("test maps have background")
    return InstanceBatch(
        image=torch.zeros(len(maps), 1, *labels.shape[1:]),
        labels=labels,
        valid=torch.ones_like(labels, dtype=torch.bool),
        names=tuple(str(k) for k in range(len(maps))),
    )


def play(batch, actions, config, seed=0):
    """Rewards [T, B, H, W], gains likewise, and the environment after the episode."""
    environment = ColoringEnv(config, len(actions), torch.Generator().manual_seed(seed))
    environment.reset(batch)
    rewards, gains = [], []
    for bits in actions:
        _, reward = environment.step(bits)
        rewards.append(reward)
        gains.append(environment.gain)
    return torch.stack(rewards), torch.stack(gains), environment


def draw_actions(steps, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(steps, *batch.labels.shape, generator=generator) < 0.5


VARIANTS = [
    ALL,
    dataclasses.replace(ALL, split="ins"),
    dataclasses.replace(ALL, interior=0.6),
    dataclasses.replace(ALL, split="ins", interior=0.6),
    dataclasses.replace(ALL, radii=(3,), split_weight=1.0, merge_weight=2.0),
    dataclasses.replace(
        ALL, background_weight=0.3, late_background_penalty=0.7, late_foreground_reward=0.4
    ),
]


@pytest.mark.parametrize("config", VARIANTS)
def test_tables_agree_with_the_loop_on_random_scenes(config):
    batch = batch_of(blobs(1), blobs(2), blobs(3, count=1))
    actions = draw_actions(4, batch)
    found, _, _ = play(batch, actions, config)
    for image in range(3):
        expected = naive_rewards(batch.labels[image].numpy(), actions[:, image].numpy(), config)
        np.testing.assert_allclose(found[:, image].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("split", ["prox", "ins"])
def test_gain_is_what_brute_force_finds_for_the_other_bit(split):
    config = dataclasses.replace(ALL, split=split, late_foreground_reward=0.2)
    batch = batch_of(blobs(5, 9, 9, 4))
    actions = draw_actions(3, batch, seed=1)
    taken, gains, _ = play(batch, actions, config)
    generator = np.random.default_rng(0)
    for t in range(3):
        for _ in range(25):
            y, x = generator.integers(0, 9, 2)
            flipped = actions.clone()
            flipped[t, 0, y, x] = ~flipped[t, 0, y, x]
            other = play(batch, flipped, config)[0][t, 0, y, x]
            sign = 1.0 if actions[t, 0, y, x] else -1.0
            expected = sign * (taken[t, 0, y, x] - other)
            assert abs(float(gains[t, 0, y, x] - expected)) < 1e-5


def test_true_split_telescopes_when_the_first_step_is_perfect():
    batch = batch_of(blobs(7))
    labels = batch.labels[0].numpy()
    actions = draw_actions(5, batch, seed=2)
    actions[0] = batch.labels > 0
    config = dataclasses.replace(
        ALL, radii=(4,), split_weight=1.0, merge_weight=0.0, late_background_penalty=0.0
    )
    found, _, _ = play(batch, actions, config)
    colors = (actions.long() * (2 ** torch.arange(5)).view(-1, 1, 1, 1)).cumsum(0)[:, 0].numpy()
    for u in np.unique(labels)[1:]:
        if (labels == u).sum() <= config.min_instance:
            continue
        pixels = naive_ring(labels, u, 4)
        size = len(pixels) + 1
        for place in map(tuple, np.argwhere(labels == u)):
            same = [sum(c[q] == c[place] for q in pixels) for c in colors]
            assert same[0] == size - 1
            expected = (same[0] - same[-1]) / size - sum(same[1:]) / (size * 5)
            assert found[1:, 0, place[0], place[1]].sum() == pytest.approx(expected, abs=1e-5)


def perfect_actions(labels, steps):
    """Bit 0 = foreground, the others = the bits of the label number."""
    return torch.stack(
        [labels > 0] + [((labels >> (t - 1)) & 1 == 1) & (labels > 0) for t in range(1, steps)]
    )


def test_perfect_colouring_earns_what_the_fact_sheet_says():
    batch = batch_of(blobs(8, 20, 20, 6))
    steps = 4  # 8 foreground colours for at most 6 instances
    found, _, _ = play(batch, perfect_actions(batch.labels, steps), ALL)
    for u in range(1, int(batch.labels.max()) + 1):
        mask = batch.labels[0] == u
        if mask.sum() <= ALL.min_instance:
            continue
        area = float(mask.sum())
        merge = (steps - 1) / steps * area / (area + 1)
        total = found[:, 0][:, mask].sum(0)
        # Split: all of the ring is set apart in the end, less the charge for the steps until then.
        late, whole = 0.0, 0.0
        for radius in ALL.radii:
            near = len(naive_ring(batch.labels[0].numpy(), u, radius))
            whole += ALL.split_weight * near / (near + 1)
            late += ALL.split_weight * (steps - 2) / steps * near / (near + 1)
        assert torch.all(total <= (1 - 0.5) + merge + whole + 1e-5)
        assert torch.all(total >= (1 - 0.5) + merge + whole - late - 1e-5)


def test_one_colour_for_all_earns_the_merged_optimum():
    batch = batch_of(blobs(9))
    steps = 4
    actions = torch.zeros(steps, *batch.labels.shape, dtype=torch.bool)
    actions[0] = batch.labels > 0
    config = dataclasses.replace(ALL, radii=(4,))
    found, _, _ = play(batch, actions, config)
    labels = batch.labels[0]
    for u in range(1, int(labels.max()) + 1):
        mask, near = labels == u, len(naive_ring(labels.numpy(), u, 4))
        area = float(mask.sum())
        if area <= config.min_instance:
            continue
        expected = 0.5 + (steps - 1) / steps * (
            area / (area + 1) - config.split_weight * near / (near + 1)
        )
        assert found[:, 0][:, mask].sum(0) == pytest.approx(expected, abs=1e-5)


def test_ids_are_only_names():
    batch = batch_of(blobs(10))
    actions = draw_actions(4, batch)
    count = int(batch.labels.max())
    order = torch.randperm(count, generator=torch.Generator().manual_seed(3)) + 1
    renamed = torch.cat([torch.zeros(1, dtype=torch.int64), order])[batch.labels]
    first = play(batch, actions, ALL)[0]
    second = play(dataclasses.replace(batch, labels=renamed), actions, ALL)[0]
    torch.testing.assert_close(first, second)


def test_no_subset_rewards_every_instance_and_masks_nothing():
    batch = batch_of(blobs(11), blobs(12))
    scene = make_scene(batch.labels, batch.valid, ALL, torch.Generator())
    assert scene.loss_mask.all()
    large = [
        (batch.labels[i] == u).sum() > ALL.min_instance
        for i in range(2)
        for u in range(1, int(batch.labels[i].max()) + 1)
    ]
    assert len(scene.rewarded) == sum(map(bool, large))


def test_neighbour_subset_keeps_seeds_and_their_neighbours_and_masks_the_rest():
    config = dataclasses.replace(ALL, subset="neighbors", subset_seeds=1, subset_neighbors=2)
    batch = batch_of(blobs(13, 24, 24, 9))
    labels = batch.labels[0]
    for seed in range(10):
        scene = make_scene(batch.labels, batch.valid, config, torch.Generator().manual_seed(seed))
        mask = scene.loss_mask.view(24, 24) > 0
        kept = sorted(set(labels[mask & (labels > 0)].tolist()))
        assert 1 <= len(kept) <= 3
        for u in kept:  # an instance counts whole or not at all
            assert bool(mask[labels == u].all())
        near = [{int(labels[q]) for q in naive_ring(labels.numpy(), u, 2)} for u in kept]
        assert any(set(kept) - {u} <= near[k] for k, u in enumerate(kept))
        background = labels == 0
        share = sum(int((labels == u).sum()) for u in kept) / int((labels > 0).sum())
        assert abs(float(mask[background].float().mean()) - share) < 0.2


def test_nearest_third_keeps_a_third_and_the_nearest():
    config = dataclasses.replace(ALL, subset="nearest_third", min_instance=0)
    labels = np.zeros((6, 60), dtype=np.int64)
    for k in range(9):
        labels[1:5, 6 * k + 2 : 6 * k + 6] = k + 1
    batch = batch_of(labels)
    for seed in range(8):
        scene = make_scene(batch.labels, batch.valid, config, torch.Generator().manual_seed(seed))
        kept = sorted((scene.rewarded + 1).tolist())
        assert len(kept) == 3
        assert kept[-1] - kept[0] == 2, "nine in a row: the nearest three are consecutive"


def test_rewards_of_a_subset_equal_those_of_all_where_it_is_rewarded():
    config = dataclasses.replace(ALL, subset="neighbors", subset_seeds=2, subset_neighbors=1)
    batch = batch_of(blobs(14, 20, 20, 8))
    actions = draw_actions(4, batch)
    some, _, environment = play(batch, actions, config, seed=4)
    everyone = play(batch, actions, ALL)[0]
    rewarded = torch.isin(batch.labels, environment.scene.rewarded + 1)
    assert 0 < rewarded.sum() < (batch.labels > 0).sum()
    torch.testing.assert_close(some[:, rewarded], everyone[:, rewarded])


def test_unknown_pixels_get_no_reward_and_no_loss():
    batch = batch_of(blobs(15))
    valid = batch.valid.clone()
    valid[0, :5] = False
    hidden = dataclasses.replace(batch, valid=valid)
    found, _, environment = play(hidden, draw_actions(3, batch), ALL)
    assert not found[:, 0, :5].any()
    assert not environment.scene.loss_mask.view(batch.labels.shape)[0, :5].any()


def test_images_without_instances_are_played_and_learned():
    empty = np.zeros((14, 17), dtype=np.int64)
    config = dataclasses.replace(ALL, subset="neighbors")
    found, _, environment = play(
        batch_of(empty, empty), draw_actions(3, batch_of(empty, empty)), config
    )
    assert torch.isfinite(found).all()
    assert environment.scene.loss_mask.all()
    assert float(found[0].abs().min()) == pytest.approx(0.5)


def test_an_image_of_specks_teaches_its_background():
    labels = np.zeros((14, 17), dtype=np.int64)
    labels[3, 3] = 1
    config = dataclasses.replace(ALL, subset="neighbors")
    batch = batch_of(labels)
    scene = make_scene(batch.labels, batch.valid, config, torch.Generator().manual_seed(0))
    assert torch.equal(scene.loss_mask.view(14, 17) > 0, batch.labels[0] == 0)


def test_rings_are_exact_disks_and_exclude_own_and_background_pixels():
    labels = blobs(16, 20, 20, 7)
    index, image_of = number_instances(torch.from_numpy(labels)[None])
    for radius in (1, 3, 5):
        owner, pixel = ring_pairs(index, image_of, torch.arange(len(image_of)), radius)
        for u in range(len(image_of)):
            found = {divmod(int(q), 20) for q in pixel[owner == u]}
            assert found == set(naive_ring(labels, u + 1, radius))


def test_rings_in_three_dimensions_are_balls():
    labels = torch.zeros(1, 9, 10, 11, dtype=torch.int64)
    labels[0, 2:4, 2:4, 2:4] = 1
    labels[0, 5:9, 1:8, 3:9] = 2
    index, image_of = number_instances(labels)
    _, pixel = ring_pairs(index, image_of, torch.tensor([0]), 3)
    expected = set(naive_ring(labels[0].numpy(), 1, 3))
    assert len(expected) > 5
    assert {tuple(np.unravel_index(int(q), (9, 10, 11))) for q in pixel} == expected


def test_thinned_rings_never_hold_own_pixels():
    labels = torch.from_numpy(blobs(17, 31, 29, 9))[None]
    index, image_of = number_instances(labels)
    owner, pixel = ring_pairs(index, image_of, torch.arange(len(image_of)), 6, factor=2)
    assert len(owner)
    assert torch.all(index.flatten()[pixel] != owner)
    assert torch.all(labels.flatten()[pixel] > 0)


def test_dilation_refuses_a_radius_below_one_pixel():
    with pytest.raises(ConfigError, match="at least 1"):
        dilate(torch.zeros(1, 3, 3, dtype=torch.bool), 0)


def test_thinning_reaches_the_environment():
    """Rings of thinned labels are coarser, so that rewards differ from the exact ones."""
    batch = batch_of(blobs(20, 40, 40, 9))
    actions = draw_actions(3, batch)
    exact = play(batch, actions, ALL)[0]
    thin = play(batch, actions, dataclasses.replace(ALL, dilation_factor=2))[0]
    assert torch.equal(exact[0], thin[0])
    assert not torch.allclose(exact[1:], thin[1:])


def test_erosion_stops_at_the_minimum_side():
    labels = torch.zeros(1, 20, 20, dtype=torch.int64)
    labels[0, 2:17, 2:17] = 1
    index, image_of = number_instances(labels)
    eroded = erode_to_share(index, len(image_of), 0.5, min_side=0)
    assert int(eroded.sum()) == 7 * 7  # 15 -> 13 -> 11 -> 9 -> 7 <= 7.5
    early = erode_to_share(index, len(image_of), 0.5, min_side=11)
    assert int(early.sum()) == 11 * 11


def test_an_episode_cannot_go_on_after_its_last_step():
    batch = batch_of(blobs(18))
    environment = ColoringEnv(ALL, 1, torch.Generator())
    environment.reset(batch)
    environment.step(batch.labels > 0)
    assert environment.done
    with pytest.raises(ConfigError, match="reset"):
        environment.step(batch.labels > 0)


def test_observation_holds_the_image_and_ternary_planes():
    batch = batch_of(blobs(19))
    batch = dataclasses.replace(batch, image=torch.rand(batch.image.shape))
    environment = ColoringEnv(ALL, 2, torch.Generator())
    start = environment.reset(batch)
    assert start.shape == (1, 3, 14, 17)
    assert not start[:, 1:].any()
    bits = batch.labels > 2
    after, _ = environment.step(bits)
    torch.testing.assert_close(after[:, :1], batch.image)
    torch.testing.assert_close(after[:, 1], bits.float() * 2 - 1)
    assert not after[:, 2].any()
    assert not start[:, 1:].any(), "earlier observations stay as they were: gradients need them"
