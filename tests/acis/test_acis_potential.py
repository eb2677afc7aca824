"""Scores, matchings and slopes of returns against loops, permutations and finite differences."""

import itertools

import numpy as np
import pytest
import torch

from rlseg.acis.potential import match_episodes, overlap_share, slope_weights, soft_scores
from tests.fake.acis import generator


@pytest.mark.parametrize("kind", ["dice", "iou"])
def test_soft_scores_against_a_loop(kind):
    mask = torch.rand(2, 1, 5, 4, generator=generator(0))
    targets = (torch.rand(2, 3, 5, 4, generator=generator(1)) > 0.6).float()
    valid = (torch.rand(2, 1, 5, 4, generator=generator(2)) > 0.3).float()
    targets[1, 2] = 0.0  # padding
    targets = targets * valid  # as in a scene
    found = soft_scores(mask, targets, valid, kind)
    for b, n in itertools.product(range(2), range(3)):
        shared = area = 0.0
        for y, x in itertools.product(range(5), range(4)):
            if valid[b, 0, y, x]:
                soft, hard = float(mask[b, 0, y, x]), float(targets[b, n, y, x])
                shared += soft * hard
                area += soft + hard
        expected = 2 * shared / area if kind == "dice" else shared / (area - shared)
        assert float(found[b, n]) == pytest.approx(expected, abs=1e-6)
    assert found[1, 2] == 0


def test_scores_by_hand():
    mask = torch.tensor([[[[1.0, 0.5, 0.0, 0.0]]]])
    targets = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 1.0]]]])
    valid = torch.ones(1, 1, 1, 4)
    dice = soft_scores(mask, targets, valid, "dice")
    torch.testing.assert_close(dice, torch.tensor([[2 * 1.5 / 3.5, 0.0]]))
    iou = soft_scores(mask, targets, valid, "iou")
    torch.testing.assert_close(iou, torch.tensor([[1.5 / 2.0, 0.0]]))
    empty = torch.zeros(1, 1, 1, 4)
    assert soft_scores(empty, torch.zeros(1, 1, 1, 4), valid, "dice").tolist() == [[0.0]]
    assert soft_scores(empty, torch.zeros(1, 1, 1, 4), valid, "iou").tolist() == [[0.0]]
    assert soft_scores(mask, torch.zeros(1, 0, 1, 4), valid, "dice").shape == (1, 0)


def test_overlap_share_by_hand():
    mask = torch.tensor([[[[1.0, 0.5, 0.0]]], [[[0.0, 0.0, 0.0]]]])
    canvas = torch.tensor([[[[0.0, 1.0, 1.0]]], [[[1.0, 1.0, 1.0]]]])
    torch.testing.assert_close(overlap_share(mask, canvas), torch.tensor([0.5 / 1.5, 0.0]))


def brute_force(scores):
    """The largest total of a one-to-one assignment of [t, n] scores, by trying them all."""
    rows, columns = scores.shape
    if rows <= columns:
        tried = itertools.permutations(range(columns), rows)
        return max(sum(scores[r, c] for r, c in enumerate(one)) for one in tried)
    return brute_force(scores.T)


@pytest.mark.parametrize("seed", range(6))
def test_matching_against_all_permutations(seed):
    rng = np.random.default_rng(seed)
    counts = [4, 2, 0, 5, 1]
    steps = [3, 2, 0, 4, 1]  # fewer masks than targets, as many, none
    scores = rng.random((5, 4, 5))
    scores[rng.random(scores.shape) < 0.3] = 0.0  # ties
    found = match_episodes(scores, counts, steps)
    assert found.potential.shape == (5, 5)
    assert found.assigned.shape == (5, 5, 4)
    for b, (count, length) in enumerate(zip(counts, steps, strict=True)):
        assert found.potential[b, 0] == 0
        for t in range(1, 5):
            rows = min(t, length)
            best = brute_force(scores[b, :rows, :count]) if rows else 0.0
            assert found.potential[b, t] == pytest.approx(best)
            assigned = found.assigned[b, t]
            pairs = [(row, int(n)) for row, n in enumerate(assigned) if n >= 0]
            assert len({n for _, n in pairs}) == len(pairs) == rows
            assert all(row < rows and n < count for row, n in pairs)
            assert sum(scores[b, row, n] for row, n in pairs) == pytest.approx(best)
        assert (found.final[b] == found.assigned[b, -1]).all()
    # Rewards add up to the potential at the end, and none is negative.
    np.testing.assert_allclose(found.rewards.sum(axis=1), found.potential[:, -1])
    assert found.rewards.min() >= -1e-6


def test_more_masks_than_targets_leave_some_unassigned():
    scores = np.array([[[0.5], [0.9], [0.2]]])
    found = match_episodes(scores, [1], [3])
    assert found.potential.tolist() == [[0.0, 0.5, 0.9, 0.9]]
    assert found.assigned[0].tolist() == [[-1, -1, -1], [0, -1, -1], [-1, 0, -1], [-1, 0, -1]]


def test_no_target_at_all():
    found = match_episodes(np.zeros((2, 3, 0)), [0, 0], [0, 0])
    assert not found.potential.any()
    assert (found.assigned == -1).all()


def returns(potential, discount):
    """Discounted return of every step of one image, by the definition."""
    rewards = np.diff(potential)
    return [
        sum(discount ** (i - t) * rewards[i] for i in range(t, len(rewards)))
        for t in range(len(rewards))
    ]


def held_potential(scores, assigned):
    """Potentials of one image with given assignments."""
    return [sum(scores[row, n] for row, n in enumerate(ends) if n >= 0) for ends in assigned]


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_slope_weights_against_finite_differences(seed, later):
    """Of the return of a mask's own step, matched anew and with assignments held fixed."""
    rng = np.random.default_rng(seed)
    counts, steps, discount, change = [4, 3, 0], [4, 2, 0], 0.7, 1e-6
    scores = rng.random((3, 4, 5))
    episodes = match_episodes(scores, counts, steps)
    weights = slope_weights(episodes, 5, discount, later=later)
    assert weights.shape == (3, 4, 5)

    def value(potential, t):
        return returns(potential, discount)[t] if later else np.diff(potential)[t]

    for b, t, n in itertools.product(range(3), range(4), range(5)):
        if t >= steps[b] or n >= counts[b]:
            assert weights[b, t, n] == 0
            continue
        slopes = []
        for matched in (True, False):
            ends = []
            for sign in (1, -1):
                moved = scores.copy()
                moved[b, t, n] += sign * change
                if matched:
                    potential = match_episodes(moved, counts, steps).potential[b]
                else:
                    potential = held_potential(moved[b], episodes.assigned[b])
                ends.append(value(potential, t))
            slopes.append((ends[0] - ends[1]) / (2 * change))
        assert slopes[0] == pytest.approx(weights[b, t, n], abs=1e-6)
        assert slopes[1] == pytest.approx(weights[b, t, n], abs=1e-6)
    assert weights.sum(axis=2).max() <= 1 + 1e-12


def test_assignments_do_change_within_these_episodes():
    """Else the weights of later rewards would not have been tested."""
    changed = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        episodes = match_episodes(rng.random((3, 4, 5)), [4, 3, 0], [4, 2, 0])
        for t, j in itertools.combinations(range(4), 2):
            changed += int(episodes.assigned[0, j, t] != episodes.assigned[0, j + 1, t])
    assert changed > 0


@pytest.mark.parametrize("kind", ["dice", "iou"])
def test_the_slope_of_the_return_by_the_pixels_of_a_mask(kind):
    """The whole chain: return of step 1 as a function of the pixels of mask 1."""
    masks = torch.rand(3, 1, 4, 4, generator=generator(0), dtype=torch.float64)
    targets = (torch.rand(1, 3, 4, 4, generator=generator(1)) > 0.5).double()
    valid = torch.ones(1, 1, 4, 4, dtype=torch.float64)

    def scored(mask):
        parts = [masks[0], mask, masks[2]]
        return torch.cat([soft_scores(one[None], targets, valid, kind) for one in parts])

    def value(mask):
        scores = scored(mask).numpy()[None]
        return returns(match_episodes(scores, [3], [3]).potential[0], 0.9)[1]

    mask = masks[1].clone().requires_grad_()
    scores = scored(mask)
    episodes = match_episodes(scores.detach().numpy()[None], [3], [3])
    weights = torch.from_numpy(slope_weights(episodes, 3, 0.9, later=True))
    (slope,) = torch.autograd.grad((scores * weights[0])[1].sum(), mask)
    for y, x in itertools.product(range(4), range(4)):
        moved = torch.zeros_like(masks[1])
        moved[0, y, x] = 1e-6
        found = (value(masks[1] + moved) - value(masks[1] - moved)) / 2e-6
        assert float(slope[0, y, x]) == pytest.approx(found, abs=1e-6)
    assert slope.abs().max() > 1e-3
