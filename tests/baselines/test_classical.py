"""Classical baselines on shapes whose answer is known, and their tuning."""

import numpy as np
import pytest
import torch

from rlseg.baselines.classical import (
    ClassicalConfig,
    components,
    equal_sectors,
    foreground,
    median_count,
    segment,
    split_by_distance,
    tune,
)
from rlseg.data.samples import InstanceSample
from rlseg.errors import ConfigError


def disks(centres, radius=7, side=40):
    y, x = np.mgrid[:side, :side]
    return np.stack([(y - a) ** 2 + (x - b) ** 2 <= radius**2 for a, b in centres])


def sample(masks):
    labels = np.zeros(masks.shape[1:], dtype=np.int64)
    for k, mask in enumerate(masks, start=1):
        labels[mask] = k
    image = 0.2 + 0.6 * (labels > 0)
    return InstanceSample(
        image=torch.from_numpy(image).float()[None],
        labels=torch.from_numpy(labels),
        valid=torch.ones(labels.shape, dtype=torch.bool),
        name="disks",
    )


TOUCHING = sample(disks([(20, 12), (20, 26)]))


def test_components_cannot_part_touching_disks_and_watershed_can():
    config = ClassicalConfig(marker_distance=5)
    assert segment(TOUCHING, components, config).max() == 1
    found = segment(TOUCHING, split_by_distance, config)
    assert found.max() == 2
    assert (found[20, 12], found[20, 26]) in {(1, 2), (2, 1)}


def test_small_pieces_are_dropped_and_numbers_close_up():
    masks = disks([(10, 10), (30, 30)])
    masks[0][:] = False
    masks[0][2, 2] = True
    found = segment(sample(masks), components, ClassicalConfig(min_size=5))
    assert found.max() == 1
    assert found[2, 2] == 0


def test_a_constant_image_has_no_foreground():
    assert not foreground(np.full((4, 4), 0.5, dtype=np.float32)).any()


def test_the_true_foreground_ignores_the_image():
    dark = InstanceSample(
        image=torch.zeros_like(TOUCHING.image),
        labels=TOUCHING.labels,
        valid=TOUCHING.valid,
        name="dark",
    )
    assert segment(dark, components, ClassicalConfig()).max() == 0
    assert segment(dark, components, ClassicalConfig(), True).max() == 1


def test_tuning_finds_the_settings_that_score_best():
    config = tune([TOUCHING], split_by_distance, marker_distances=(2, 5, 30), smoothings=(1.0,))
    assert config.marker_distance in (2, 5)
    assert segment(TOUCHING, split_by_distance, config).max() == 2


@pytest.mark.parametrize("change", [{"marker_distance": 0}, {"smoothing": -1.0}, {"min_size": -1}])
def test_impossible_settings_are_refused(change):
    with pytest.raises(ConfigError, match="marker_distance"):
        ClassicalConfig(**change)


def test_sectors_of_a_square_by_hand():
    """Four sectors begin at the right and go on downwards; the centroid lies between pixels."""
    found = equal_sectors(np.ones((2, 2), dtype=bool), 4)
    assert found.tolist() == [[3, 4], [2, 1]]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_sectors_of_a_disk_are_equal_and_agree_with_a_slow_loop(count):
    mask = disks([(20, 17)], radius=12)[0]
    found = equal_sectors(mask, count)
    centre = np.argwhere(mask).mean(axis=0)
    for y, x in np.ndindex(*mask.shape):
        angle = np.degrees(np.arctan2(y - centre[0], x - centre[1])) % 360
        assert found[y, x] == (1 + int(angle // (360 / count)) if mask[y, x] else 0)
    areas = np.bincount(found.ravel())[1:]
    assert len(areas) == count
    assert areas.max() < 1.25 * areas.min()  # whole pixels


def test_sectors_of_nothing_and_of_a_line():
    assert equal_sectors(np.zeros((3, 4), dtype=bool), 5).max() == 0
    line = np.zeros((3, 9), dtype=bool)
    line[1, 1:8] = True
    found = equal_sectors(line, 4)  # two of the four have no pixel, and no number
    assert sorted(set(found[line].tolist())) == [1, 2]


def test_sectors_of_a_volume_stand_on_the_slices():
    mask = np.stack([disks([(20, 20)])[0]] * 3)
    found = equal_sectors(mask, 5)
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[1], equal_sectors(mask[1], 5))


def test_sectors_need_a_count():
    with pytest.raises(ConfigError, match="count must be 1 or more"):
        equal_sectors(np.ones((2, 2), dtype=bool), 0)


def test_the_median_count_is_the_lower_middle():
    one, two = sample(disks([(10, 10)])), TOUCHING
    three = sample(disks([(10, 10), (30, 30), (10, 30)]))
    empty = sample(disks([(10, 10)]) & False)
    assert median_count([three, one, two]) == 2
    assert median_count([one, three]) == 1
    assert median_count([empty]) == 0
    with pytest.raises(ConfigError, match="at least one sample"):
        median_count([])


def test_components_and_watershed_work_on_volumes():
    z, y, x = np.mgrid[:16, :16, :30]
    balls = [(z - 8) ** 2 + (y - 8) ** 2 + (x - c) ** 2 <= 49 for c in (8, 20)]
    mask = balls[0] | balls[1]
    assert components(mask, ClassicalConfig()).max() == 1
    found = split_by_distance(mask, ClassicalConfig(marker_distance=4))
    assert found.max() == 2
    assert found[8, 8, 8] != found[8, 8, 20]
