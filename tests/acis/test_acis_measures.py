"""Scores of episodes on examples worked out by hand."""

import dataclasses

import pytest
import torch

from rlseg.acis.measures import EpisodeScores, evaluate_episodes
from tests.fake.acis import TINY, bars, make_learner


def masks_of(*rows):
    """Soft masks float [M, 1, W] from lists of values."""
    return torch.tensor(rows).view(len(rows), 1, -1) if rows else torch.zeros(0, 1, 6)


def scores(masks, labels, valid=None, threshold=0.3):
    found = EpisodeScores(threshold)
    labels = torch.tensor([labels])
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else torch.tensor([valid])
    found.add(masks, labels, valid)
    return found.compute()


def test_by_hand():
    labels = [1, 1, 1, 1, 2, 2]
    masks = masks_of(
        [0.0, 0.0, 0.0, 0.0, 0.9, 0.9],  # instance 2, perfectly, first
        [0.8, 0.8, 0.4, 0.0, 0.0, 0.0],  # instance 1: half of it above 0.5, 3/4 above 0.3
    )
    found = scores(masks, labels)
    assert found["masks"] == 2
    assert found["abs_dic"] == 0
    # Dice* reads the label map at 0.5 whatever the threshold: (1 + 2 * 2 / (2 + 4)) / 2.
    assert found["dice"] == pytest.approx((1 + 4 / 6) / 2)
    # Steps are scored at the threshold: 2 * 3 / (3 + 4).
    assert found["dice_step_1"] == pytest.approx(1.0)
    assert found["dice_step_2"] == pytest.approx(6 / 7)
    assert found["area_ratio"] == pytest.approx((1 + 3 / 4) / 2)
    assert found["duplicates"] == 0
    assert found["sbd"] == pytest.approx((1 + 6 / 7) / 2)


def test_dice_star_reads_the_label_map_and_the_soft_matching():
    """The second mask is matched by its soft values, but loses its pixels to the first one."""
    labels = [1, 1, 1, 2, 2, 2]
    masks = masks_of([0.9, 0.9, 0.9, 0.9, 0.9, 0.9], [0.0, 0.0, 0.0, 0.8, 0.8, 0.8])
    found = scores(masks, labels)
    # Matched: mask 1 with instance 1, mask 2 with instance 2, of which no pixel is left.
    assert found["dice"] == pytest.approx((2 * 3 / 9 + 0) / 2)
    assert found["dice_step_2"] == pytest.approx(1.0)
    assert found["area_ratio"] == pytest.approx((2 + 1) / 2)


def test_only_the_first_n_masks_count_for_dice_star_but_all_for_the_number():
    labels = [1, 1, 1, 0, 0, 0]
    wrong, right = [0.0, 0.0, 0.0, 0.9, 0.9, 0.9], [0.9, 0.9, 0.9, 0.0, 0.0, 0.0]
    found = scores(masks_of(wrong, right, right), labels)
    assert found["dice"] == 0
    assert found["abs_dic"] == 2
    assert found["masks"] == 3
    assert "dice_step_2" not in found


@pytest.mark.parametrize(
    ("second", "share"),
    [([0.9, 0.9, 0.9, 0.0, 0.0, 0.0], 0.5), ([0.9, 0.0, 0.0, 0.0, 0.0, 0.0], 0.0)],
)
def test_duplicates_share_more_than_half_with_an_earlier_mask(second, share):
    labels = [1, 1, 1, 1, 2, 2]
    first = [0.9, 0.9, 0.9, 0.9, 0.0, 0.0]
    found = scores(masks_of(first, second), labels)  # IoU 3/4 and 1/4
    assert found["duplicates"] == share


def test_exactly_half_is_no_duplicate_and_empty_masks_are_none():
    labels = [1, 1, 2, 2, 3, 3]
    first, second = [0.9, 0.9, 0.0, 0.0, 0.0, 0.0], [0.9, 0.0, 0.0, 0.0, 0.0, 0.0]
    empty = [0.0] * 6
    assert scores(masks_of(first, second), labels)["duplicates"] == 0
    assert scores(masks_of(empty, empty, empty), labels)["duplicates"] == 0


def test_instances_without_masks_have_dice_zero():
    found = scores(masks_of(), [1, 1, 2, 2, 0, 0])
    assert found["dice"] == 0
    assert found["sbd"] == 0
    assert found["abs_dic"] == 2
    assert found["masks"] == 0
    assert "duplicates" not in found


def test_no_instances():
    found = scores(masks_of([0.9] * 6), [0] * 6)
    assert found["abs_dic"] == 1
    assert "dice" not in found
    assert scores(masks_of(), [0] * 6)["abs_dic"] == 0


def test_invalid_pixels_do_not_count():
    labels = [1, 1, 1, 1, 0, 0]
    valid = [True, True, False, False, True, False]
    mask = [0.9, 0.9, 0.0, 0.0, 0.0, 0.9]
    found = scores(masks_of(mask), labels, valid)
    assert (found["sbd"], found["dice"], found["area_ratio"]) == (1, 1, 1)


def test_means_over_images_and_over_those_that_have_a_step():
    found = EpisodeScores(0.3)
    true = torch.tensor([[1, 1, 1, 2, 2, 2]])
    valid = torch.ones_like(true, dtype=torch.bool)
    one, two = [0.9, 0.9, 0.9, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.9, 0.9, 0.9]
    found.add(masks_of(one, two), true, valid)
    found.add(masks_of([0.0] * 6), true, valid)
    means = found.compute()
    assert means["dice"] == pytest.approx(0.5)
    assert means["abs_dic"] == pytest.approx(0.5)
    assert means["dice_step_1"] == pytest.approx(0.5)
    assert means["dice_step_2"] == pytest.approx(1.0)


def test_nothing_scored_gives_nothing():
    assert EpisodeScores(0.3).compute() == {}


def test_without_a_head_as_many_masks_as_instances_are_drawn():
    learner = make_learner()
    options = {name: getattr(learner, name) for name in ("actor", "decoder", "hints", "runtime")}
    found = evaluate_episodes(TINY, [bars((3, 1)), bars((0, 5))], **options)
    assert found["masks"] == pytest.approx(9 / 4)
    assert found["abs_dic"] == 0
    assert "dice_step_5" in found
    assert "dice_step_6" not in found
    capped = dataclasses.replace(TINY, max_steps=2)
    found = evaluate_episodes(capped, [bars((3, 1)), bars((0, 5))], **options)
    assert found["abs_dic"] == pytest.approx((1 + 3) / 4)
    assert learner.evaluate([bars((3, 1))]).keys() == {
        f"eval/{name}" for name in evaluate_episodes(TINY, [bars((3, 1))], **options)
    }


def test_the_foreground_is_that_of_the_settings_and_the_state_is_whole():
    learner = make_learner()
    options = {name: getattr(learner, name) for name in ("actor", "decoder", "hints", "runtime")}
    masks = dataclasses.replace(TINY.masks, threshold=0.05)
    plain = dataclasses.replace(TINY, masks=masks)
    shown = dataclasses.replace(plain, masks=dataclasses.replace(masks, foreground=True))
    blocked = dataclasses.replace(plain, state="mask")
    found = [
        evaluate_episodes(config, [bars((4, 4))], **options) for config in (plain, shown, blocked)
    ]
    assert found[0] != found[1]
    assert found[0] == found[2]
    assert found[1]["area_ratio"] < found[0]["area_ratio"]
