"""Classical baselines on shapes whose answer is known, and their tuning."""

import numpy as np
import pytest
import torch

from rlseg.baselines.classical import (
    ClassicalConfig,
    components,
    foreground,
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
