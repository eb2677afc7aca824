"""Components of equal value against a flood fill; their clean-up."""

import numpy as np
import pytest
import torch
from skimage.segmentation import expand_labels as skimage_expand

from rlseg.components import expand_labels, label_components, remove_small
from rlseg.errors import ConfigError, ShapeError

pytestmark = pytest.mark.filterwarnings("error")


def flood(colors):
    """Components by flood fill over all neighbours, corners included; numbered in raster order."""
    labels = np.zeros(colors.shape, dtype=np.int64)
    steps = [np.array(s) - 1 for s in np.ndindex(*(3,) * colors.ndim)]
    number = 0
    for start in np.ndindex(*colors.shape):
        if colors[start] == 0 or labels[start]:
            continue
        number += 1
        labels[start] = number
        stack = [start]
        while stack:
            place = stack.pop()
            for step in steps:
                other = tuple(np.array(place) + step)
                inside = all(0 <= o < side for o, side in zip(other, colors.shape, strict=True))
                if inside and not labels[other] and colors[other] == colors[start]:
                    labels[other] = number
                    stack.append(other)
    return labels


@pytest.mark.parametrize("shape", [(7, 8), (4, 5, 6), (1, 1), (1, 9)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64, bool])
def test_components_equal_a_flood_fill(shape, dtype):
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 3, (3, *shape)).astype(dtype)
    if dtype == np.uint64:
        colors[colors == 2] = 2**64 - 1
    found = label_components(colors)
    assert found.dtype == np.int64
    for image, labels in zip(colors, found, strict=True):
        assert (labels == flood(image)).all()


def test_uint64_without_background():
    colors = np.full((1, 2, 3), 2**63, dtype=np.uint64)
    colors[0, 0, 0] = 2**63 + 1
    assert label_components(colors).tolist() == [[[1, 2, 2], [2, 2, 2]]]


def test_tensors_give_tensors_numbered_per_image():
    colors = torch.tensor([[[1, 1, 0], [0, 0, 2]], [[3, 0, 3], [3, 0, 3]]])
    found = label_components(colors)
    assert found.dtype == torch.int64
    assert found.tolist() == [[[1, 1, 0], [0, 0, 2]], [[1, 0, 2], [1, 0, 2]]]


def test_minimum_size_removes_and_renumbers():
    colors = torch.tensor([[[1, 0, 2, 2], [0, 0, 2, 0], [3, 3, 0, 0]]])
    assert label_components(colors, 2).tolist() == [[[0, 0, 1, 1], [0, 0, 1, 0], [2, 2, 0, 0]]]
    assert label_components(colors, 3).tolist() == [[[0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]]]
    assert not label_components(colors, 4).any()
    assert torch.equal(label_components(colors, 0), label_components(colors, 1))


@pytest.mark.parametrize("size", [0, 1, 2, 5])
def test_remove_small_keeps_the_large(size):
    labels = np.random.default_rng(1).integers(0, 9, (2, 6, 7))
    found = remove_small(labels, size)
    for before, after in zip(labels, found, strict=True):
        kept = [i for i in range(1, 9) if (before == i).sum() >= max(size, 1)]
        assert after.max() == len(kept)
        for number, old in enumerate(kept, start=1):
            assert ((after == number) == (before == old)).all()


def test_expand_equals_scikit_image_and_keeps_instances():
    labels = np.zeros((2, 9, 9), dtype=np.int32)
    labels[0, 4, 4], labels[0, 0, 0] = 1, 2
    for distance in (1, 2.5):
        found = expand_labels(torch.from_numpy(labels), distance)
        assert found.dtype == torch.int64
        for image, grown in zip(labels, found.numpy(), strict=True):
            assert (grown == skimage_expand(image, distance)).all()
    assert not found[1].any()
    assert (expand_labels(labels, 0) == labels).all()


def test_empty_batches_and_images():
    for function in (label_components, lambda a: remove_small(a, 3), lambda a: expand_labels(a, 2)):
        assert function(np.zeros((0, 4, 4), dtype=int)).shape == (0, 4, 4)
        assert function(np.zeros((2, 0, 4), dtype=int)).shape == (2, 0, 4)


def test_bad_input_is_refused():
    with pytest.raises(ShapeError, match="float"):
        label_components(torch.zeros(1, 4, 4))
    with pytest.raises(ShapeError, match="batch"):
        label_components(torch.zeros(4, 4, dtype=torch.int64))
    with pytest.raises(ShapeError, match="negative"):
        remove_small(torch.full((1, 2, 2), -1), 2)
    with pytest.raises(ConfigError, match="-1"):
        remove_small(torch.zeros(1, 2, 2, dtype=torch.int64), -1)
    with pytest.raises(ConfigError, match="nan"):
        expand_labels(torch.zeros(1, 2, 2, dtype=torch.int64), float("nan"))
