"""Rand errors and variation of information against scikit-image and slow loops."""

import math

import numpy as np
import pytest
import slow_scores as slow
from skimage.metrics import adapted_rand_error as skimage_rand
from skimage.metrics import variation_of_information as skimage_voi

from rlseg.errors import ConfigError
from rlseg.metrics import (
    adapted_rand,
    adapted_rand_error,
    adjusted_rand_index,
    overlap,
    variation_of_information,
)

pytestmark = pytest.mark.filterwarnings("error")
IGNORE = 2**64 - 1


def maps(seed, shape=(6, 7), dtype=np.int64):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 5, shape).astype(dtype), rng.integers(0, 4, shape).astype(dtype)


def close(value):
    return pytest.approx(value, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("shape", [(6, 7), (3, 4, 5)])
@pytest.mark.parametrize("seed", range(8))
def test_equal_to_scikit_image(seed, shape):
    pred, true = maps(seed, shape)
    table = overlap(pred, true)
    for convention, ignored in (("skimage", (0,)), ("skimage-all", ())):
        error, over_true, over_pred = skimage_rand(true, pred, ignore_labels=ignored)
        ours = adapted_rand(table, convention=convention)
        # scikit-image calls S / A precision and S / B recall: the other way round.
        assert ours == pytest.approx((error, over_pred, over_true), abs=1e-12)
        assert adapted_rand_error(table, convention=convention) == ours.error
    found = variation_of_information(table)
    assert (found.split, found.merge) == pytest.approx(tuple(skimage_voi(true, pred)), abs=1e-12)
    assert found.voi == found.split + found.merge


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64])
@pytest.mark.parametrize("seed", range(8))
def test_equal_to_the_slow_loops(seed, dtype):
    pred, true = maps(seed, dtype=dtype)
    if dtype == np.uint64 and seed % 2:
        true[true == 3] = IGNORE
    table = overlap(pred, true)
    for convention in ("skimage", "skimage-all", "cremi"):
        ours = adapted_rand(table, convention=convention)
        assert ours == close(slow.arand(pred, true, convention))
    for convention in ("skimage", "cremi"):
        ours = variation_of_information(table, convention=convention)
        assert (ours.split, ours.merge) == close(slow.voi(pred, true, convention))
    assert adjusted_rand_index(table) == close(slow.ari(pred, true))
    inside = true > 0
    assert adjusted_rand_index(table, convention="foreground") == close(
        slow.ari(pred[inside], true[inside])
    )


def test_cremi_by_hand():
    pred = np.array([[0, 1, 1, 2]])
    true = np.array([[1, 1, 1, 0]])  # last pixel ignored
    # q = 1/4; S = 4 + 1/4, B = 4 + 1/4, A = 9
    ours = adapted_rand(overlap(pred, true), convention="cremi")
    assert ours == pytest.approx((1 - 8.5 / 13.25, 1, 4.25 / 9))
    voi = variation_of_information(overlap(pred, true), convention="cremi")
    assert voi.merge == 0
    assert voi.split == pytest.approx(math.log2(3) - 2 / 3)


def test_fault_l6_ignore_id_of_cremi():
    pred = np.array([[1, 1, 1, 2]], dtype=np.uint64)
    true = np.array([[0, 0, IGNORE, 5]], dtype=np.uint64)
    table = overlap(pred, true)
    # 0 is a neuron where 2^64 - 1 marks what is unknown.
    assert adapted_rand(table, convention="cremi") == (0, 1, 1)
    # Told otherwise: 5 is left out and 2^64 - 1 is a neuron; S = 4 + 1, B = 9, A = 4 + 1.
    told = adapted_rand(table, convention="cremi", ignore_id=5)
    assert told == pytest.approx((1 - 10 / 14, 5 / 9, 1))
    # Told 0: the others stay.
    assert adapted_rand(table, convention="cremi", ignore_id=0).error == 0
    nothing = overlap(pred, np.full_like(true, IGNORE))
    assert all(math.isnan(v) for v in adapted_rand(nothing, convention="cremi"))
    assert all(math.isnan(v) for v in variation_of_information(nothing, convention="cremi"))


def test_ignore_id_that_was_taken_out_before():
    pred, true = maps(3)
    valid = true != 2
    table = overlap(pred, true, valid)
    # An id that is no longer there: nothing more is left out, 0 included.
    voi = variation_of_information(table, convention="cremi", ignore_id=2)
    expected = variation_of_information(overlap(pred[valid], true[valid]))
    assert voi == expected


@pytest.mark.parametrize("pixels", [0, 1])
def test_fault_l7_one_voxel_or_none(pixels):
    labels = np.ones((1, pixels), dtype=np.int64)
    table = overlap(labels, labels)
    assert adjusted_rand_index(table) == 1
    assert math.isnan(adapted_rand_error(table)) == (pixels < 2)
    voi = variation_of_information(table)
    assert voi == (0, 0, 0) if pixels else all(math.isnan(v) for v in voi)


def test_fault_l7_singletons_constants_and_nothing_kept():
    singles, constant = np.arange(1, 7).reshape(2, 3), np.ones((2, 3), dtype=np.int64)
    ours = adapted_rand(overlap(singles, constant))
    assert (ours.error, math.isnan(ours.precision), ours.recall) == (1, True, 0)
    assert math.isnan(adapted_rand_error(overlap(singles, singles)))  # no pair on either side
    assert variation_of_information(overlap(constant, constant)) == (0, 0, 0)
    assert adjusted_rand_index(overlap(singles, singles)) == 1
    assert adjusted_rand_index(overlap(singles, constant)) == 0
    empty = overlap(singles, np.zeros_like(singles))
    assert math.isnan(adapted_rand_error(empty))
    assert math.isnan(adjusted_rand_index(empty, convention="foreground"))


def test_swapping_turns_split_into_merge_and_precision_into_recall():
    table = overlap(*maps(5))
    one, other = variation_of_information(table), variation_of_information(table.swapped())
    assert (one.split, one.merge) == close((other.merge, other.split))
    rand = adapted_rand(table, convention="skimage-all")
    swapped = adapted_rand(table.swapped(), convention="skimage-all")
    assert (rand.precision, rand.recall) == (swapped.recall, swapped.precision)


def test_adjusted_rand_index_of_many_pixels_is_exact():
    # Counts whose pair products pass 2^63: blown up from a small table.
    pred, true = maps(2)
    table = overlap(pred, true)
    factor = 2**31 + 1
    for name in ("count", "pred_area", "true_area"):
        object.__setattr__(table, name, getattr(table, name) * factor)
    expected = adjusted_rand_index(table)
    small = overlap(np.repeat(pred, 300, axis=0), np.repeat(true, 300, axis=0))
    assert expected == pytest.approx(adjusted_rand_index(small), abs=1e-3)


@pytest.mark.parametrize("score", [adapted_rand, variation_of_information, adjusted_rand_index])
def test_unknown_convention_is_named(score):
    with pytest.raises(ConfigError, match="it knows"):
        score(overlap(*maps(0)), convention="gala")
