"""Whole images in order, and a data set at another resolution."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rlseg.data.samples import InstanceSample
from rlseg.data.whole import Scaled, WholeImages, check_crop, smallest_sides
from rlseg.errors import ConfigError, CorruptDatasetError, ShapeError


def sample(name, height, width, value=0.5):
    labels = torch.zeros(height, width, dtype=torch.int64)
    labels[: height // 2, : width // 2] = 1
    labels[-1, -1] = 2
    valid = torch.ones(height, width, dtype=torch.bool)
    valid[0, -1] = False
    return InstanceSample(
        image=torch.full((1, height, width), value), labels=labels, valid=valid, name=name
    )


def names(items):
    return [batch.names for batch in items]


def test_batches_hold_every_image_once_in_order():
    data = [sample(str(k), 6, 8, k / 10) for k in range(7)]
    whole = WholeImages(data, 3)
    assert names(whole) == [("0", "1", "2"), ("3", "4", "5"), ("6",)]
    assert names(whole) == names(whole), "iterable again"
    images = torch.cat([batch.image for batch in whole])
    assert torch.equal(images, torch.stack([item.image for item in data]))
    labels = torch.cat([batch.labels for batch in whole])
    assert torch.equal(labels, torch.stack([item.labels for item in data]))
    assert not torch.cat([batch.valid for batch in whole])[:, 0, -1].any()


def test_a_new_size_starts_a_new_batch():
    sizes = [(4, 4), (4, 4), (4, 5), (4, 4), (5, 4), (5, 4)]
    data = [sample(str(k), *size) for k, size in enumerate(sizes)]
    assert names(WholeImages(data, 4)) == [("0", "1"), ("2",), ("3",), ("4", "5")]
    assert names(WholeImages(data, 1)) == [(str(k),) for k in range(6)]


def test_an_empty_data_set_gives_no_batch():
    assert list(WholeImages([], 2)) == []


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_holds_at_least_one(size):
    with pytest.raises(ConfigError, match=f"at least 1, got {size}"):
        WholeImages([], size)


def test_scaling_picks_the_nearest_pixel_of_all_maps():
    item = sample("a", 8, 12)
    item = dataclasses.replace(item, image=torch.arange(96.0).view(1, 8, 12) / 96)
    small = Scaled([item], 0.5)[0]
    rows, columns = torch.arange(4) * 2 + 1, torch.arange(6) * 2 + 1
    assert torch.equal(small.image, item.image[:, rows][:, :, columns])
    assert torch.equal(small.labels, item.labels[rows][:, columns])
    assert torch.equal(small.valid, item.valid[rows][:, columns])
    assert small.name == "a"


@pytest.mark.parametrize(
    ("scale", "sides"),
    [(0.875, (224, 196)), (0.5, (128, 112)), (2.0, (512, 448)), (0.001, (1, 1)), (0.3, (77, 67))],
)
def test_every_side_is_rounded_and_stays_a_pixel(scale, sides):
    data = Scaled([sample("a", 256, 224)], scale)
    assert tuple(data[0].labels.shape) == sides == tuple(data[0].image.shape[1:])
    assert len(data) == 1


def test_scale_one_changes_nothing():
    item = sample("a", 5, 7)
    assert Scaled([item], 1.0)[0] is item


def test_instances_that_vanish_are_renumbered():
    labels = torch.zeros(8, 8, dtype=torch.int64)
    labels[0, 0], labels[4:, 4:] = 1, 2
    item = dataclasses.replace(sample("a", 8, 8), labels=labels)
    assert sorted(set(Scaled([item], 0.25)[0].labels.flatten().tolist())) == [0, 1]


@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_a_scale_is_positive(scale):
    with pytest.raises(ConfigError, match="above 0"):
        Scaled([], scale)


def test_scaled_images_are_whole_images():
    data = [sample(str(k), 8 + 2 * (k // 2), 8) for k in range(4)]
    shapes = [tuple(batch.labels.shape) for batch in WholeImages(Scaled(data, 0.5), 4)]
    assert shapes == [(2, 4, 4), (2, 5, 4)]


def test_the_smallest_side_of_each_axis():
    assert smallest_sides([sample("a", 8, 5), sample("b", 4, 9)]) == (4, 5)
    assert smallest_sides(Scaled([sample("a", 8, 6)], 0.5)) == (4, 3)
    assert smallest_sides([]) == ()


def test_a_crop_that_fits_is_fine():
    check_crop([sample("a", 8, 16), sample("b", 9, 8)], 8)
    check_crop([], 8)


def test_images_smaller_than_the_crop_are_named_with_what_fits():
    data = [sample("a", 64, 64), sample("b", 30, 40), sample("c", 50, 23), sample("d", 31, 99)]
    with pytest.raises(ShapeError) as caught:
        check_crop(data, 32, "raise the scale", multiple=8)
    for text in (
        "c is [50, 23]", "crop of 32", "3 of 4 samples", "--set crop=16", "raise the scale"
    ):  # fmt: skip
        assert text in str(caught.value)
    with pytest.raises(ShapeError, match="crop=23, or leave out"):
        check_crop(data, 32)
    with pytest.raises(ShapeError) as caught:
        check_crop(data, 32, multiple=32)
    assert "--set crop" not in str(caught.value)


class SomeDamaged:
    """Samples of 8 x 8 pixels, two of 200 unreadable."""

    def __init__(self, bad=(4, 40)):
        self.bad = bad

    def __len__(self):
        return 200

    def __getitem__(self, index):
        if index in self.bad:
            raise CorruptDatasetError(f"{index}.png: damaged")
        labels = torch.zeros(8, 8, dtype=torch.int64)
        return InstanceSample(
            image=torch.zeros(1, 8, 8), labels=labels, valid=labels == 0, name=str(index)
        )


def test_fault_i2_sizes_are_checked_past_damaged_samples():
    with pytest.raises(CorruptDatasetError, match=r"^4\.png"):
        check_crop(SomeDamaged(), 8)
    check_crop(SomeDamaged(), 8, on_bad_sample="skip")
    with pytest.raises(ShapeError, match="0 is"):
        check_crop(SomeDamaged(), 9, on_bad_sample="skip")
    with pytest.raises(CorruptDatasetError, match="3 of 200 samples are damaged"):
        check_crop(SomeDamaged((1, 2, 3)), 8, on_bad_sample="skip")
