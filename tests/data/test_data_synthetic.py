import hashlib
import time

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu

from rlseg.data.synthetic import MIN_VISIBLE, Cells, Options, check, open_splits
from rlseg.data.synthetic import cells as cells_module
from rlseg.errors import ConfigError

AREAS = [2954, 206, 100, 25, 88, 239, 58, 99, 110, 217]  # pixels per label of one scene
MEAN = 0.25202
FIRST_SCENES = "6827bec34861248b76770b27378fb17a49721f87ee459ff4af07980bf79d416f"


@pytest.fixture(scope="module")
def scenes():
    cells = Cells("train", Options(train=64))
    return [cells[i] for i in range(64)]


def test_half_of_the_cells_touch_another(scenes):
    touching = total = 0
    for scene in scenes:
        labels = scene.labels.numpy()
        for cell in range(1, labels.max() + 1):
            around = ndimage.binary_dilation(labels == cell, np.ones((3, 3)))
            touching += bool(((labels > 0) & (labels != cell) & around).any())
            total += 1
    assert touching >= total / 2


def test_otsu_finds_the_foreground(scenes):
    dice = []
    for scene in scenes:
        image, true = scene.image[0].numpy(), scene.labels.numpy() > 0
        found = image > threshold_otsu(image)
        dice.append(2 * (found & true).sum() / (found.sum() + true.sum()))
    assert np.mean(dice) >= 0.90


def test_rims_are_darker_than_insides(scenes):
    """What makes neighbours distinguishable: the outline of a cell is darker than its middle."""
    contrast = []
    for scene in scenes:
        image, labels = scene.image[0].numpy(), scene.labels.numpy()
        for cell in range(1, labels.max() + 1):
            depth = ndimage.distance_transform_edt(np.pad(labels == cell, 1))[1:-1, 1:-1]
            touching = ndimage.binary_dilation((labels > 0) & (labels != cell))
            inner, rim = image[depth >= 3], image[(depth == 1) & touching]
            if len(inner) >= 10 and len(rim) >= 3:
                contrast.append(inner.mean() - rim.mean())
    assert np.mean(contrast) > 0.1


def test_each_cell_is_one_consecutive_piece(scenes):
    for scene in scenes:
        labels = scene.labels.numpy()
        assert labels.max() >= 1
        for cell in range(1, labels.max() + 1):
            assert (labels == cell).sum() >= MIN_VISIBLE
            assert ndimage.label(labels == cell)[1] == 1


def test_types_and_ranges(scenes):
    scene = scenes[0]
    assert scene.image.shape == (1, 64, 64)
    assert scene.image.dtype == torch.float32
    assert 0 <= scene.image.min() <= scene.image.max() <= 1
    assert scene.labels.dtype == torch.int64
    assert scene.valid.all()
    assert len({s.name for s in scenes}) == len(scenes)


def test_repeatable_and_disjoint_between_splits_and_seeds():
    def pictures(**options):
        splits = open_splits(None, Options(train=3, valid=3, tune=3, test=3, **options))
        return {name: [part[i].image for i in range(3)] for name, part in splits.parts.items()}

    first, again, other = pictures(), pictures(), pictures(seed=1)
    seen = []
    for name, images in first.items():
        for k, image in enumerate(images):
            assert torch.equal(image, again[name][k])
            assert not torch.equal(image, other[name][k])
            assert not any(torch.equal(image, old) for old in seen)
            seen.append(image)


def test_version_1_is_frozen():
    """These numbers are part of `cells/1`: if they change, the version must."""
    scene = Cells("train", Options())[0]
    areas = torch.bincount(scene.labels.flatten()).tolist()
    assert areas == AREAS
    assert float(scene.image.mean()) == pytest.approx(MEAN, abs=1e-4)
    found = hashlib.sha256()
    for options, count in ((Options(), 6), (Options(size=128, seed=3), 2)):
        for split in ("train", "test"):
            cells = Cells(split, options)
            for index in range(count):
                found.update(cells[index].labels.numpy().astype("<i8").tobytes())
                whole = (cells[index].image * 255).round().to(torch.uint8)
                found.update(whole.numpy().tobytes())
    assert found.hexdigest() == FIRST_SCENES


def test_prefix_does_not_depend_on_counts():
    assert torch.equal(
        Cells("test", Options(test=2))[1].image, Cells("test", Options(test=50))[1].image
    )


@pytest.mark.parametrize("size", [40, 64, 67])
def test_texture_of_a_box_is_that_of_the_whole_picture(size):
    draw = torch.Generator().manual_seed(size)
    coarse = 2 * torch.rand(size // 4, size // 4, generator=draw).numpy() - 1
    whole = cells_module._enlarge(coarse, size)
    for a, b, c, d in ((0, 9, 5, 6), (17, 31, 2, size), (size - 1, size, 0, size), (3, 4, 30, 39)):
        box = (slice(a, b), slice(c, d))
        assert np.array_equal(cells_module._texture(coarse, box, size), whole[box])


@pytest.mark.parametrize("size", [40, 128])
def test_no_cell_leaves_its_box(size):
    outlines = cells_module._place(size, 60, torch.Generator().manual_seed(3))
    boxes = cells_module._boxes(size, outlines)
    parts = cells_module._depths(size, boxes, outlines)
    full = [(slice(0, size), slice(0, size))] * 60
    for box, part, whole in zip(
        boxes, parts, cells_module._depths(size, full, outlines), strict=True
    ):
        inside = np.zeros((size, size), dtype=bool)
        inside[box] = part > 0
        assert np.array_equal(inside, whole > 0)
        assert np.allclose(part, whole[box], atol=1e-4)


def test_a_single_cell():
    scene = Cells("train", Options(min_cells=1, max_cells=1))[0]
    assert scene.labels.max() == 1


@pytest.mark.parametrize("size", [32, 96])
def test_other_sizes(size):
    scene = Cells("train", Options(size=size, min_cells=3, max_cells=6))[0]
    assert scene.labels.shape == (size, size)
    assert 1 <= scene.labels.max() <= 6


def test_a_scene_takes_milliseconds():
    cells = Cells("train", Options())
    start = time.process_time()
    for index in range(50):
        cells[index]
    assert (time.process_time() - start) / 50 < 0.03


@pytest.mark.parametrize(
    "wrong", [{"size": 8}, {"min_cells": 9, "max_cells": 3}, {"train": 0}, {"max_cells": 999}]
)
def test_options_out_of_range(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Options(**wrong)


def test_index_beyond_the_end():
    with pytest.raises(IndexError):
        Cells("test", Options(test=2))[2]


def test_check_finds_nothing():
    assert check(None, Options()) == []


def test_digest_tells_options_apart():
    digests = {open_splits(None, Options(seed=s)).digest for s in (0, 1)}
    assert len(digests) == 2
