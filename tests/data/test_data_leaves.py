import hashlib
import time

import numpy as np
import pytest
import torch
from scipy import ndimage

from rlseg.baselines.classical import equal_sectors, median_count
from rlseg.data import open_dataset
from rlseg.data.synthetic import leaves as leaves_module
from rlseg.data.synthetic.leaves import Leaves, Options, check, draw_leaves, open_splits
from rlseg.data.synthetic.leaves_outline import SHADOW, outline, reach
from rlseg.errors import ConfigError
from rlseg.metrics import overlap, symmetric_best_dice

FIRST_SCENES = "91ea10ad38c56faf07b695fa75b5a96d008824d75399ae3913926dd4116e6010"


@pytest.fixture(scope="module")
def scenes():
    leaves = Leaves("train", Options(train=96))
    return [leaves[i] for i in range(96)]


def digest(samples):
    """Of labels, and of images in whole 1/255."""
    found = hashlib.sha256()
    for sample in samples:
        found.update(sample.labels.numpy().astype("<i8").tobytes())
        found.update((sample.image * 255).round().to(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def test_version_1_is_frozen():
    """These scenes are part of `leaves/1`: if they change, the version must."""
    small, large = Leaves("train", Options()), Leaves("test", Options(size=128, seed=3))
    assert digest([small[0], small[1], small[2], large[0]]) == FIRST_SCENES


def test_types_and_ranges(scenes):
    scene = scenes[0]
    assert scene.image.shape == (3, 64, 64)
    assert scene.image.dtype == torch.float32
    assert torch.equal((scene.image * 255).round() / 255, scene.image)
    assert scene.labels.dtype == torch.int64
    assert scene.labels.shape == (64, 64)
    assert scene.valid.all()
    assert len({s.name for s in scenes}) == len(scenes)


def test_each_leaf_is_one_piece_and_numbers_are_consecutive(scenes):
    for scene in scenes:
        labels = scene.labels.numpy()
        assert 2 <= labels.max() <= 15
        for leaf in range(1, labels.max() + 1):
            assert (labels == leaf).sum() >= 12
            assert ndimage.label(labels == leaf)[1] == 1


def test_leaves_overlap_and_differ_in_size(scenes):
    touching = total = 0
    spread = []
    for scene in scenes:
        labels = scene.labels.numpy()
        areas = np.bincount(labels.ravel())[1:]
        spread.append(areas.max() / areas.min())
        for leaf in range(1, labels.max() + 1):
            around = ndimage.binary_dilation(labels == leaf, np.ones((3, 3)))
            touching += bool(((labels > 0) & (labels != leaf) & around).any())
            total += 1
    assert touching / total > 0.8
    assert np.median(spread) > 6


def test_equal_sectors_stay_below_one_half(scenes):
    """What makes a score say something: cutting the foreground like a cake is no answer."""
    count = median_count(scenes)
    scores = [
        symmetric_best_dice(overlap(equal_sectors(s.labels.numpy() > 0, count), s.labels))
        for s in scenes
    ]
    assert 0.3 < np.mean(scores) < 0.5


def test_leaves_are_greener_than_soil_and_moss_is_nearly_as_green(scenes):
    leaf, soil = [], []
    for scene in scenes:
        green = scene.image[1] - scene.image[0]
        leaf.append(float(green[scene.labels > 0].mean()))
        soil.append(float(green[scene.labels == 0].mean()))
        assert float(green[scene.labels == 0].max()) > 0.05  # moss: no clean cut by colour
    assert np.mean(leaf) > np.mean(soil) + 0.15


def test_later_leaves_lie_over_earlier_ones(monkeypatch):
    """Where outlines overlap, the later leaf is seen, but for the pieces that are erased."""
    drawn = []

    def remember(size, shapes, k, box):
        leaf = outline(size, shapes, k, box)
        whole = np.zeros((size, size), dtype=bool)
        whole[leaf.box] = leaf.depth > 0
        drawn.append(whole)
        return leaf

    outline = leaves_module.outline
    monkeypatch.setattr(leaves_module, "outline", remember)
    _, labels = draw_leaves(96, 12, 12, generator=torch.Generator().manual_seed(5))
    covered = np.stack(drawn).sum(axis=0) > 1
    top = np.max(np.stack(drawn) * np.arange(1, 13)[:, None, None], axis=0)
    seen = labels.numpy()
    pairs = np.unique(np.stack((seen[covered], top[covered])), axis=1, return_counts=True)
    assert covered.sum() > 300
    drawn_as = {}
    for (mine, number), count in zip(pairs[0].T.tolist(), pairs[1].tolist(), strict=True):
        if mine and count > drawn_as.get(mine, (0, 0))[1]:
            drawn_as[mine] = (number, count)
    order = [drawn_as[mine][0] for mine in sorted(drawn_as)]
    assert order == sorted(set(order))  # numbers go from the lowest leaf to the topmost
    agree = sum(count for _, count in drawn_as.values())
    assert agree > 0.9 * covered.sum()


@pytest.mark.parametrize("size", [40, 128])
def test_neither_leaf_nor_shadow_leaves_its_box(size):
    full = (slice(0, size), slice(0, size))
    outside = 0
    for seed in range(12):
        shapes = leaves_module._grow(size, 15, torch.Generator().manual_seed(seed))
        for k, box in enumerate(reach(size, shapes)):
            whole, part = outline(size, shapes, k, full), outline(size, shapes, k, box)
            assert np.array_equal(whole.depth[box], part.depth)
            beyond = np.ones((size, size), dtype=bool)
            beyond[box] = False
            assert (whole.depth[beyond] < -SHADOW * size).all()
            outside += beyond.sum()
    assert outside > 100 * size * size  # of 180 leaves: the boxes are small


def test_picture_and_truth_are_repeatable():
    first = draw_leaves(64, 4, 15, generator=torch.Generator().manual_seed(0))
    again = draw_leaves(64, 4, 15, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_splits_and_seeds_never_share_a_scene():
    seen = []
    for seed in (0, 1):
        splits = open_splits(None, Options(train=2, valid=2, tune=2, test=2, seed=seed))
        seen += [part[k].image for part in splits.parts.values() for k in range(2)]
    assert not any(torch.equal(a, b) for k, a in enumerate(seen) for b in seen[:k])


def test_a_scene_depends_on_its_number_alone():
    one = Leaves("test", Options(test=2))[1]
    many = Leaves("test", Options(test=50))
    last = many[49]
    assert torch.equal(one.image, many[1].image)
    assert torch.equal(last.labels, many[49].labels)


@pytest.mark.parametrize("size", [32, 200])
def test_other_sizes(size):
    scene = Leaves("train", Options(size=size, min_leaves=3, max_leaves=6))[0]
    assert scene.image.shape == (3, size, size)
    assert 1 <= scene.labels.max() <= 6


def test_opens_by_name():
    splits = open_dataset("leaves", None, {"train": 3})
    assert (splits.task, splits.ndim, splits.channels) == ("instance", 2, 3)
    assert splits.names == ("train", "valid", "tune", "test")
    assert len(splits.split("train")) == 3
    assert splits.digest != open_dataset("leaves", None, {"train": 3, "seed": 1}).digest
    assert check(None, Options()) == []


def test_a_scene_takes_milliseconds():
    leaves = Leaves("train", Options(size=128))
    leaves[0]
    start = time.process_time()
    for index in range(20):
        leaves[index]
    assert (time.process_time() - start) / 20 < 0.03


@pytest.mark.parametrize(
    "wrong", [{"size": 8}, {"min_leaves": 9, "max_leaves": 3}, {"min_leaves": 1}, {"tune": 0}]
)
def test_options_out_of_range(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Options(**wrong)


def test_index_beyond_the_end():
    with pytest.raises(IndexError):
        Leaves("test", Options(test=2))[2]
