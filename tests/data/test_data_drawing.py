"""What the generators draw with, against slow references."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from rlseg.data.synthetic.drawing import (
    crown,
    eight_bits,
    fraction,
    grain,
    largest_pieces,
    lattice,
    number,
    pieces,
    smooth_field,
    soften,
    uniform,
    whole,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_numbers_stay_in_their_range():
    draw = generator()
    values = uniform(draw, -2.0, 3.0, 40, 50)
    assert values.shape == (40, 50)
    assert -2 <= values.min() < -1.9
    assert 2.9 < values.max() < 3
    assert {whole(draw, 2, 4) for _ in range(60)} == {2, 3, 4}
    assert 5 <= number(draw, 5, 6) < 6


def test_grain_is_nearly_normal():
    values = grain(generator(), 200, 300)
    assert values.dtype == np.float32
    assert abs(float(values.mean())) < 0.02
    assert float(values.std()) == pytest.approx(1, abs=0.02)
    assert float((np.abs(values) < 1).mean()) == pytest.approx(0.68, abs=0.02)
    assert np.abs(values).max() <= 3.5
    neighbours = np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.02


@pytest.mark.parametrize("shape", [(1,), (3, 1), (2, 3, 5)])
def test_grain_of_few_numbers(shape):
    assert grain(generator(), *shape).shape == shape


@pytest.mark.parametrize(
    ("knots", "sides"), [((4, 7), (20, 33)), ((2, 5, 5), (31, 16)), ((3, 4, 5), (9, 17, 12))]
)
def test_a_field_is_smooth_and_within_the_range_of_its_knots(knots, sides):
    coarse = uniform(generator(1), -1, 1, *knots)
    field = smooth_field(coarse, *sides)
    assert field.shape == (*knots[: len(knots) - len(sides)], *sides)
    assert coarse.min() <= field.min() <= field.max() <= coarse.max()
    for axis, side in enumerate(sides, start=-len(sides)):
        steepest = 2 * knots[axis] / side
        assert np.abs(np.diff(field, axis=axis)).max() <= steepest
    level = smooth_field(np.full(knots, 0.3), *sides)
    assert np.allclose(level, 0.3, atol=1e-6)


def test_softening_is_a_binomial_blur():
    image = uniform(generator(), 0, 1, 3, 6, 7)
    expected = image
    for axis in (1, 2, 1, 2):
        expected = ndimage.convolve1d(expected, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    assert np.allclose(soften(image, 2), expected)
    assert np.array_equal(soften(image, 0), image)


def slow_pieces(labels):
    """(area, mask) of each piece, per label."""
    for label in np.unique(labels[labels > 0]):
        found, count = ndimage.label(labels == label)
        for piece in range(1, count + 1):
            yield label, found == piece


@pytest.mark.parametrize("shape", [(12, 15), (5, 6, 7)])
def test_pieces_agree_with_a_slow_search(shape):
    labels = whole_numbers(shape)
    expected = sorted(
        np.flatnonzero(mask).tolist() for _, mask in slow_pieces(labels) if mask.sum() >= 3
    )
    found = pieces(labels, 3)
    assert expected == sorted(
        np.flatnonzero(found == k).tolist() for k in np.unique(found[found > 0])
    )


@pytest.mark.parametrize("shape", [(12, 15), (5, 6, 7)])
def test_largest_pieces_agree_with_a_slow_search(shape):
    labels = whole_numbers(shape)
    expected = np.zeros_like(labels)
    for label in range(1, 5):
        masks = [mask for owner, mask in slow_pieces(labels) if owner == label]
        best = max(masks, key=np.count_nonzero)  # the first of equal ones
        if best.sum() >= 3:
            expected[best] = label
    assert np.array_equal(largest_pieces(labels, 3), expected)


def whole_numbers(shape):
    return torch.randint(0, 5, shape, generator=generator(4)).numpy()


@pytest.mark.parametrize("find", [pieces, largest_pieces])
def test_nothing_has_no_pieces(find):
    empty = np.zeros((4, 5), dtype=np.int64)
    assert np.array_equal(find(empty, 0), empty)


def test_fraction():
    values = np.concatenate((uniform(generator(), -50, 50, 1000), [0.0, 3.0, -2.0, 9e3 + 0.25]))
    assert np.array_equal(fraction(values), np.modf(values)[0])


@pytest.mark.parametrize("box", [(0, 7, 3, 20), (30, 31, 5, 6), (10, 50, 90, 128)])
def test_a_lattice_agrees_with_its_formula_at_each_pixel(box):
    rows, columns = np.arange(0.5, 200)[:, None], np.arange(0.5, 200)[None, :]
    rows, columns, pitch = rows[box[0] : box[1]], columns[:, box[2] : box[3]], 0.075 * 128
    one = np.abs(np.modf((rows + columns) / pitch)[0] - 0.5) < 0.13
    other = np.abs(np.modf((rows - columns + 9e3) / pitch)[0] - 0.5) < 0.13
    found = lattice((slice(*box[:2]), slice(*box[2:])), pitch)
    assert np.array_equal(found, one | other)


@pytest.mark.parametrize("radius", [0.8, 7.3, 41.0])
def test_a_crown_agrees_with_its_formula_at_each_pixel(radius):
    y, x = np.arange(-50.3, 50)[:, None], np.arange(-60.1, 60)[None, :]
    lobes = 1 + 0.12 * np.cos(5 * np.arctan2(y, x) + 1.1)
    assert np.array_equal(crown(y, x, radius, 1.1), np.hypot(y, x) < radius * lobes)


def test_eight_bits():
    image = eight_bits(np.array([-0.2, 0.5, 0.50001, 1.7]))
    assert image.dtype == torch.float32
    assert image.tolist() == pytest.approx([0, 128 / 255, 128 / 255, 1])
