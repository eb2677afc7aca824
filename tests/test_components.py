"""Components of equal value against a flood fill; their clean-up."""

import numpy as np
import pytest
import torch
from skimage.segmentation import expand_labels as skimage_expand

from rlseg.components import expand_labels, in_raster_order, label_components, remove_small
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


@pytest.mark.parametrize("shape", [(7, 8), (4, 5, 6), (1, 1), (1, 9), (4, 6, 1), (4, 1, 6)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64, bool])
@pytest.mark.parametrize("backend", ["skimage", "auto"])
def test_components_equal_a_flood_fill(shape, dtype, backend):
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 3, (3, *shape)).astype(dtype)
    if dtype == np.uint64:
        colors[colors == 2] = 2**64 - 1
    found = label_components(colors, backend=backend)
    assert found.dtype == np.int64
    for image, labels in zip(colors, found, strict=True):
        assert (labels == flood(image)).all()


@pytest.mark.parametrize("backend", ["skimage", "auto"])
@pytest.mark.parametrize("batch", [1, 3])
def test_narrow_labels_are_the_same_numbers(backend, batch):
    colors = np.random.default_rng(1).integers(0, 3, (batch, 9, 11))
    for min_size in (0, 1, 4):
        narrow = label_components(colors, min_size, backend=backend, dtype="int32")
        assert narrow.dtype == np.int32
        assert (narrow == label_components(colors, min_size, backend=backend)).all()
    assert label_components(torch.from_numpy(colors), dtype="int32").dtype == torch.int32
    with pytest.raises(ConfigError, match="int16"):
        label_components(colors, dtype="int16")
    huge = np.broadcast_to(np.uint8(0), (1, 2**11, 2**10, 2**10))
    with pytest.raises(ConfigError, match="int64"):
        label_components(huge, dtype="int32")


def test_without_the_extra_scikit_image_does_it(monkeypatch):
    monkeypatch.setattr("rlseg.components.find_spec", lambda name: None)
    colors = np.array([[[2, 2, 0, 1]]])
    assert label_components(colors).tolist() == [[[1, 1, 0, 2]]]
    with pytest.raises(ConfigError, match=r"rlseg\[fast\]"):
        label_components(colors, backend="cc3d")
    with pytest.raises(ConfigError, match="scipy"):
        label_components(colors, backend="scipy")


def layouts(rng):
    """Small maps of every integer type, order and sign, with axes of length 1 among them."""
    for dtype in ("?", "u1", "i1", "u2", "i2", ">u2", "u4", "i4", ">i4", "u8", "i8"):
        for axes in (2, 3):
            for largest in (2, 4, 7, 12):
                shape = tuple(rng.integers(1, largest + 1, axes + 1))
                colors = rng.integers(0, rng.integers(2, 6), shape)
                if dtype == "u8":
                    colors = np.array([0, 2**63, 2**64 - 1, 1, 2**40], dtype=dtype)[colors]
                elif dtype != "?":
                    colors = (colors - ("i" in dtype)).astype(dtype)
                else:
                    colors = colors > 0
                yield colors
                yield np.asfortranarray(colors)
                yield colors[:, ::-1, ::-1]


def test_backends_give_the_same_numbers():
    pytest.importorskip("cc3d", reason="the extra `fast` is not installed")
    rng = np.random.default_rng(0)
    for colors in (c for _ in range(8) for c in layouts(rng)):
        found = label_components(colors, backend="cc3d")
        assert found.dtype == np.int64
        assert (found == label_components(colors, backend="skimage")).all()
        assert (found == label_components(colors)).all()
        small = (label_components(colors, 3, backend=b) for b in ("cc3d", "skimage"))
        assert (next(small) == next(small)).all()
    tensor = torch.from_numpy(rng.integers(0, 3, (2, 40, 50)))
    one, other = (label_components(tensor, backend=b) for b in ("cc3d", "skimage"))
    assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(6, 7), (3, 1, 9), (200, 300), (20, 40, 50), (1, 128), (1, 129)])
@pytest.mark.parametrize("values", [2, 3, 40])
def test_renumbering_by_first_pixels(shape, values):
    rng = np.random.default_rng(values)
    colors = rng.integers(0, values, shape)
    if shape[-1] > 30 and values == 3:  # large regions, so that few blocks bring new ids
        colors = np.repeat(np.repeat(colors, 9, axis=-1), 7, axis=-2)
    labels = label_components(colors[None], backend="skimage")[0]
    assert in_raster_order(labels.astype(np.uint32)).tolist() == labels.tolist()
    for _ in range(3):
        names = np.concatenate(([0], 1 + rng.permutation(labels.max())))
        assert (in_raster_order(names[labels].astype(np.uint16)) == labels).all()
    last = labels.max()
    if last > 1:  # the last two exchanged: hardest to see
        swapped = np.where(labels == last, last - 1, np.where(labels == last - 1, last, labels))
        assert (in_raster_order(swapped) == labels).all()


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
