import hashlib

import numpy as np
import pytest
import torch
from scipy import ndimage

from rlseg.baselines.classical import ClassicalConfig, components, equal_sectors, segment
from rlseg.data import open_dataset
from rlseg.data.seeds import named_generator
from rlseg.data.synthetic import volumes as volumes_module
from rlseg.data.synthetic.volumes import VERSION, Options, Volumes, check, open_splits
from rlseg.errors import ConfigError
from rlseg.metrics import overlap, symmetric_best_dice

FIRST_VOLUMES = "e09d254e6dabcef36788f10e062442c0893942cc6c7b6b084dde05fb09af0e09"


@pytest.fixture(scope="module")
def volumes():
    found = Volumes("train", Options())
    return [found[i] for i in range(4)]


def digest(samples):
    """Of labels, and of images in whole 1/255."""
    found = hashlib.sha256()
    for sample in samples:
        found.update(sample.labels.numpy().astype("<i8").tobytes())
        found.update((sample.image * 255).round().to(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def test_version_1_is_frozen(volumes):
    """These volumes are part of `volumes/1`: if they change, the version must."""
    other = Volumes("test", Options(depth=12, size=48, anisotropy=5, seed=3))
    assert digest([volumes[0], volumes[1], other[0]]) == FIRST_VOLUMES


def test_types_and_ranges(volumes):
    volume = volumes[0]
    assert volume.image.shape == (1, 32, 64, 64)
    assert volume.image.dtype == torch.float32
    assert torch.equal((volume.image * 255).round() / 255, volume.image)
    assert volume.labels.dtype == torch.int64
    assert volume.labels.shape == (32, 64, 64)
    assert volume.valid.all()
    assert len({v.name for v in volumes}) == len(volumes)


def test_each_body_is_one_piece_and_numbers_are_consecutive(volumes):
    for volume in volumes:
        labels = volume.labels.numpy()
        assert labels.max() >= 8
        for body in range(1, labels.max() + 1):
            assert (labels == body).sum() >= 20
            assert ndimage.label(labels == body)[1] == 1


def test_nearly_all_bodies_touch_another(volumes):
    touching = total = 0
    for volume in volumes:
        labels = volume.labels.numpy()
        assert 0.5 < (labels > 0).mean() < 0.95
        for body in range(1, labels.max() + 1):
            around = ndimage.binary_dilation(labels == body)
            touching += bool(((labels > 0) & (labels != body) & around).any())
            total += 1
    assert touching / total > 0.9


def test_borders_are_dark_and_some_fade(volumes):
    contrast, faded = [], []
    for volume in volumes:
        image, labels = volume.image[0].numpy(), volume.labels.numpy()
        border = np.zeros(labels.shape, dtype=bool)
        border[:, :, 1:] = (labels[:, :, 1:] != labels[:, :, :-1]) & (labels[:, :, 1:] > 0)
        border[:, :, 1:] &= labels[:, :, :-1] > 0
        inside = (labels > 0) & ~ndimage.binary_dilation(border, iterations=3)
        contrast.append(image[inside].mean() - image[border].mean())
        # As light as most of the insides: there no threshold can close the wall.
        faded.append((image[border] > np.percentile(image[inside], 30)).mean())
    assert 0.03 < np.mean(faded) < 0.3
    assert np.mean(contrast) > 0.1


def test_floors_are_low(volumes):
    """What a score has to leave behind: one blob, sectors, and a threshold with components."""
    config = ClassicalConfig(min_size=20)
    scores = {"blob": [], "sectors": [], "threshold": []}
    for volume in volumes:
        labels = volume.labels.numpy()
        found = {
            "blob": equal_sectors(labels > 0, 1),
            "sectors": equal_sectors(labels > 0, 18),
            "threshold": segment(volume, components, config),
        }
        for name, guess in found.items():
            scores[name].append(symmetric_best_dice(overlap(guess, volume.labels)))
    assert np.mean(scores["blob"]) < 0.2
    assert np.mean(scores["sectors"]) < 0.4
    assert np.mean(scores["threshold"]) < 0.4


def test_anisotropy_makes_bodies_flat():
    def steps(anisotropy):
        """How often the label changes from slice to slice, over from column to column."""
        labels = Volumes("train", Options(anisotropy=anisotropy))[0].labels
        return float((labels[1:] != labels[:-1]).float().mean()) / float(
            (labels[:, :, 1:] != labels[:, :, :-1]).float().mean()
        )

    assert steps(4.0) > 1.5 * steps(1.0)


def test_distances_have_no_jumps():
    """Each body is computed on a box; were a box too small, its field would end in a step."""
    options = Options()
    generator = named_generator(0, VERSION, "train", 2)
    tissue = volumes_module._fill(volumes_module._warped(options, generator), options, generator)
    inside = tissue.first < 0
    for axis, step in ((0, 2 * 2.0), (1, 2.0), (2, 2.0)):
        change = np.abs(np.diff(tissue.first, axis=axis))
        both = np.minimum(np.delete(inside, 0, axis), np.delete(inside, -1, axis))
        assert change[both].max() < step


def test_splits_and_seeds_never_share_a_volume():
    seen = []
    for seed in (0, 1):
        options = Options(depth=8, size=32, train=1, valid=1, tune=1, test=1, seed=seed)
        seen += [part[0].image for part in open_splits(None, options).parts.values()]
    assert not any(torch.equal(a, b) for k, a in enumerate(seen) for b in seen[:k])


def test_a_volume_depends_on_its_number_alone():
    small = {"depth": 8, "size": 32}
    one = Volumes("test", Options(test=2, **small))[1]
    many = Volumes("test", Options(test=9, **small))
    last = many[8]
    assert torch.equal(one.image, many[1].image)
    assert torch.equal(last.labels, many[8].labels)


def test_opens_by_name():
    splits = open_dataset("volumes", None, {"train": 3})
    assert (splits.task, splits.ndim, splits.channels) == ("instance", 3, 1)
    assert splits.names == ("train", "valid", "tune", "test")
    assert len(splits.split("train")) == 3
    assert splits.digest != open_dataset("volumes", None, {"train": 3, "seed": 1}).digest
    assert check(None, Options()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": 4}, {"size": 16}, {"anisotropy": 0.5}, {"test": 0},
        {"min_bodies": 9, "max_bodies": 3},
    ],
)  # fmt: skip
def test_options_out_of_range(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Options(**wrong)


def test_index_beyond_the_end():
    with pytest.raises(IndexError):
        Volumes("test", Options(test=2))[2]
