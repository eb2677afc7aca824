import math
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from rlseg.data import warps
from rlseg.data.samples import InstanceSample
from rlseg.data.transforms import (
    CUBES_3D,
    GRAY_2D,
    KITTI_2D,
    PRESETS,
    PROBABILITIES,
    RGB_2D,
    Augmentation,
    TrainingTransform,
    augment,
    named,
    random_crop,
    resize,
    resize_nearest,
)
from rlseg.errors import ConfigError, ShapeError

RECIPES = Path(__file__).resolve().parents[2] / "benchmarks" / "recipes"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def coded(*sides):
    """A sample whose image holds each pixel's label: whatever moves, both must move alike."""
    labels = torch.arange(1, math.prod(sides) + 1).view(sides)
    return InstanceSample(
        image=labels.float()[None] / labels.max(),
        labels=labels,
        valid=labels % 5 != 0,
        name="coded",
    )


def blobs(side=48):
    """Grey level k / 10 in instance k, background 0; invalid exactly where the grey level is .2."""
    labels = torch.zeros(side, side, dtype=torch.int64)
    for k in range(9):
        top, left = 16 * (k // 3) + 1, 16 * (k % 3) + 2
        labels[top : top + 12, left : left + 11] = k + 1
    return InstanceSample(
        image=labels[None].float() / 10, labels=labels, valid=labels != 2, name="blobs"
    )


def original_ids(sample, result):
    """Labels before renumbering, from the image."""
    return (result.image[0] * sample.labels.max()).round().long()


def test_all_off_changes_nothing():
    sample = coded(6, 7)
    result = augment(sample, Augmentation(), generator())
    assert torch.equal(result.image, sample.image)
    assert torch.equal(result.labels, sample.labels)
    assert torch.equal(result.valid, sample.valid)
    assert result.name == "coded"


@pytest.mark.parametrize("sides", [(6, 6), (5, 8), (4, 4, 4), (3, 4, 4)])
@pytest.mark.parametrize("seed", range(6))
def test_flips_and_turns_move_all_maps_alike(sides, seed):
    everything = Augmentation(
        flip_horizontal=0.5, flip_vertical=0.5, flip_depth=0.5, rotate_90=1, transpose=0.5
    )
    sample = coded(*sides)
    result = augment(sample, everything, generator(seed))
    ids = original_ids(sample, result)
    assert torch.equal(ids.flatten().sort().values, sample.labels.flatten())
    assert torch.equal(result.labels, ids)
    assert torch.equal(result.valid, ids % 5 != 0)
    assert result.labels.shape == sides


def test_volumes_reach_all_48_orientations_and_pictures_all_8():
    def orientations(sides, config, draws):
        sample = coded(*sides)
        results = (augment(sample, config, generator(s)).labels for s in range(draws))
        return len({tuple(r.flatten().tolist()) for r in results})

    assert orientations((2, 2, 2), CUBES_3D, 400) == 48
    assert orientations((2, 2), replace(CUBES_3D, transpose=0.5), 100) == 8


@pytest.mark.parametrize("name", ["flip_horizontal", "flip_vertical", "flip_depth"])
def test_each_flip_is_its_own_axis(name):
    sample = coded(2, 3, 4)
    axis = {"flip_depth": 0, "flip_vertical": 1, "flip_horizontal": 2}[name]
    result = augment(sample, Augmentation(**{name: 1.0}), generator())
    assert torch.equal(result.labels, sample.labels.flip(axis))


@pytest.mark.parametrize("kind", ["elastic", "grid", "optical", "move"])
@pytest.mark.parametrize("crop", [None, (32, 40)])
def test_warps_move_all_maps_alike(kind, crop):
    config = (
        Augmentation(shift_scale_rotate=1)
        if kind == "move"
        else Augmentation(warp=1, warps=(kind,), elastic_alpha=20)
    )
    sample = blobs()
    changed = False
    for seed in range(5):
        result = augment(sample, config, generator(seed), crop=crop)
        assert result.labels.shape == (crop or (48, 48))
        ids = (result.image[0] * 10).round().long()
        assert torch.equal(result.labels > 0, ids > 0)
        for k in range(1, int(result.labels.max()) + 1):
            assert len(ids[result.labels == k].unique()) == 1
        assert len(ids.unique()) - 1 == result.labels.max()
        assert torch.equal(result.valid, ids != 2)
        changed |= crop is not None or not torch.equal(result.image, sample.image)
    assert changed


def test_border_can_be_unknown():
    config = Augmentation(shift_scale_rotate=1, scale=(0.5, 0.5), shift=0, rotate=0)
    full = replace(
        blobs(), labels=torch.ones(48, 48, dtype=torch.int64), valid=torch.ones(48, 48).bool()
    )
    result = augment(full, config, generator())
    assert result.valid.all()
    assert 0.2 < (result.labels == 1).float().mean() < 0.3
    unknown = augment(full, replace(config, border="unknown"), generator())
    assert torch.equal(unknown.valid, result.labels == 1)


def test_linear_interpolation_mixes_the_image_only():
    config = Augmentation(shift_scale_rotate=1, interpolation="linear")
    result = augment(blobs(), config, generator(3))
    assert len(result.image.unique()) > 50
    nearest = augment(blobs(), replace(config, interpolation="nearest"), generator(3))
    assert torch.equal(result.labels, nearest.labels)
    assert (result.image - nearest.image).abs().mean() < 0.1


def test_rotation_by_a_quarter_is_exact():
    sample = coded(7, 7)
    at = warps.window_coordinates((0, 0), (7, 7))
    turned = warps.shift_scale_rotate(at, (7, 7), (0.0, 0.0), 1.0, 90.0)
    found, inside = warps.sample_nearest(sample.labels, turned)
    assert inside.all()
    assert torch.equal(found, torch.rot90(sample.labels, 1))


def test_shift_and_scale_by_hand():
    at = warps.window_coordinates((2, 3), (2, 2))
    moved = warps.shift_scale_rotate(at, (10, 20), (0.1, -0.1), 1.0, 0.0)
    assert moved[0].tolist() == [[1, 1], [2, 2]]
    assert moved[1].tolist() == [[5, 6], [5, 6]]
    grown = warps.shift_scale_rotate(torch.tensor([[[5.0]], [[0.0]]]), (5, 5), (0, 0), 2.0, 0.0)
    assert grown.flatten().tolist() == [3.5, 1.0]


def test_warps_of_strength_zero_are_the_identity():
    at = warps.window_coordinates((0, 0), (9, 11))
    still = warps.elastic(at, (9, 11), alpha=0, sigma=2, affine=0, generator=generator())
    assert torch.allclose(still, at, atol=1e-4)
    assert torch.allclose(warps.grid_distortion(at, (9, 11), 0.0, generator()), at, atol=1e-4)
    assert torch.allclose(warps.optical_distortion(at, (9, 11), 0.0), at, atol=1e-4)


def test_grid_distortion_keeps_border_and_order():
    at = warps.window_coordinates((0, 0), (40, 40))
    bent = warps.grid_distortion(at, (40, 40), 0.5, generator(1))
    rows = bent[0, :, 0]
    assert (rows.diff() > 0).all()
    assert rows[0] > -0.5
    assert rows[-1] < 39.5
    assert (rows - at[0, :, 0]).abs().max() > 0.5


def test_blurs_against_scipy():
    planes = torch.rand(2, 20, 17, generator=generator())
    expected = [ndimage.gaussian_filter(p, 1.5, mode="nearest", radius=5) for p in planes.numpy()]
    assert np.allclose(warps.gaussian_blur(planes, 1.5).numpy(), expected, atol=1e-5)
    expected = [ndimage.uniform_filter(p, 3, mode="nearest") for p in planes.numpy()]
    assert np.allclose(warps.box_blur(planes, 3).numpy(), expected, atol=1e-5)
    volume = torch.rand(1, 5, 6, 7, generator=generator())
    expected = ndimage.uniform_filter(volume[0].numpy(), 3, mode="nearest")
    assert np.allclose(warps.box_blur(volume, 3)[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("brightness", 0.4, 0.6), ("contrast", 0.45, 0.55), ("noise", 0, 1)]
)
def test_intensity_changes_leave_labels_alone(name, low, high):
    sample = replace(blobs(), image=torch.full((1, 48, 48), 0.5))
    means = []
    for seed in range(20):
        result = augment(sample, Augmentation(**{name: 1.0}), generator(seed))
        assert torch.equal(result.labels, sample.labels)
        assert not torch.equal(result.image, sample.image)
        means.append(float(result.image.mean()))
        assert low - 1e-6 <= means[-1] <= high + 1e-6
        if name == "noise":
            assert 0.012 < float(result.image.std()) < 0.029
    assert min(means) < 0.5 < max(means)


def test_images_stay_in_range():
    config = Augmentation(brightness=1, brightness_limit=0.9, noise=1, noise_deviation=(0.5, 0.5))
    result = augment(blobs(), config, generator())
    assert result.image.min() == 0
    assert result.image.max() <= 1


def test_probabilities_are_met():
    config = Augmentation(flip_horizontal=0.3)
    sample = coded(1, 2)
    flips = sum(int(augment(sample, config, generator(s)).labels[0, 0]) == 2 for s in range(500))
    assert 0.24 < flips / 500 < 0.36


def test_gray_2d_is_repeatable_and_tells_seeds_apart():
    transform = TrainingTransform(GRAY_2D, (32, 32))
    first, again, other = (transform(blobs(), generator(s)) for s in (1, 1, 2))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.image, other.image)
    assert first.image.dtype == torch.float32
    assert first.image.is_contiguous()


def test_the_sample_given_is_not_changed():
    sample = blobs()
    before = sample.image.clone(), sample.labels.clone(), sample.valid.clone()
    for seed in range(10):
        result = augment(sample, GRAY_2D, generator(seed), crop=(20, 20))
        result.image.zero_()
        result.labels.zero_()
    for old, now in zip(before, (sample.image, sample.labels, sample.valid), strict=True):
        assert torch.equal(old, now)


def test_fault_l9_crops_renumber_what_is_left():
    sample = blobs()
    places = set()
    for seed in range(40):
        result = random_crop(sample, (16, 10), generator(seed))
        ids = (result.image[0] * 10).round().long()
        present = ids.unique()[ids.unique() > 0].tolist()
        assert result.labels.max() == len(present)
        for rank, old in enumerate(present, start=1):
            assert torch.equal(result.labels == rank, ids == old)
        places.add(tuple(present))
    assert len(places) > 3
    empty = replace(sample, labels=torch.zeros_like(sample.labels))
    assert not random_crop(empty, (8, 8), generator()).labels.any()


def test_crops_reach_every_place():
    sample = coded(3, 4)
    corners = {float(random_crop(sample, (2, 2), generator(s)).image[0, 0, 0]) for s in range(100)}
    assert len(corners) == 6


@pytest.mark.parametrize("crop", [(7, 4), (4,), (0, 3), (2, 2, 2)])
def test_crops_that_do_not_fit(crop):
    with pytest.raises(ShapeError, match=r"cannot crop .* out of coded"):
        random_crop(coded(6, 6), crop, generator())


def test_tall_pictures_keep_their_size_unless_the_crop_fits_both_ways():
    config = Augmentation(rotate_90=1, transpose=0.5)
    for seed in range(10):
        assert augment(coded(4, 6), config, generator(seed)).labels.shape == (4, 6)
        assert augment(coded(4, 6), config, generator(seed), crop=(3, 5)).labels.shape == (3, 5)
        assert augment(coded(4, 6), config, generator(seed), crop=(4, 4)).labels.shape == (4, 4)


@pytest.mark.parametrize(("old", "new"), [(4, 2), (2, 4), (5, 3), (256, 224), (3, 3), (1, 6)])
def test_nearest_is_the_pixel_under_the_centre(old, new):
    expected = [math.floor((i + 0.5) * old / new) for i in range(new)]
    assert resize_nearest(torch.arange(old), (new,)).tolist() == expected


def test_resize_both_ways():
    sample = blobs()
    large = resize(sample, (96, 144), "nearest")
    assert large.image.shape == (1, 96, 144)
    assert torch.equal((large.image[0] * 10).round().long(), large.labels)
    back = resize(large, (48, 48), "nearest")
    assert torch.equal(back.labels, sample.labels)
    small = resize(sample, (24, 24))
    assert small.image.mean() == pytest.approx(float(sample.image.mean()), abs=0.01)
    assert resize(coded(4, 4, 4), (2, 2, 2)).image.shape == (1, 2, 2, 2)
    assert resize(coded(2, 2, 2), (4, 3, 2)).labels.shape == (4, 3, 2)
    with pytest.raises(ShapeError, match="one positive side per axis"):
        resize(sample, (3,))


def test_fault_l9_instances_lost_in_resizing_are_removed():
    labels = torch.zeros(8, 8, dtype=torch.int64)
    labels[0, 0], labels[4:, 4:] = 1, 2
    sample = replace(blobs(8), labels=labels)
    assert resize(sample, (2, 2)).labels.tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("name", PROBABILITIES)
def test_probabilities_out_of_range(name):
    with pytest.raises(ConfigError, match=name):
        Augmentation(**{name: 1.2})


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (1.2, 0.8)},
        {"scale": (0.0, 1.0)},
        {"noise_deviation": (0.2, 0.1)},
        {"blur_size": 4},
        {"warp": 0.5, "warps": ()},
        {"contrast_limit": 1.0},
        {"shift": -0.1},
        {"elastic_sigma": 0.0},
        {"clahe_clip": (0.5, 4.0)},
        {"clahe_clip": (4.0, 1.0)},
    ],
)
def test_ranges_out_of_range(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Augmentation(**wrong)


# Presets, against the numbers of the ColorRL authors' code

OFF = dict.fromkeys(PROBABILITIES, 0.0)
GRAY = OFF | {
    "flip_horizontal": 0.5,
    "flip_vertical": 0.5,
    "rotate_90": 0.5,
    "transpose": 0.5,
    "warp": 0.6,
    "warps": ("elastic", "grid", "optical"),
    "elastic_alpha": 1.0,
    "elastic_sigma": 5.0,
    "elastic_affine": 5.0,
    "optical_limit": 0.2,
    "shift_scale_rotate": 0.5,
    "shift": 0.3,
    "scale": (0.8, 1.2),
    "rotate": 180.0,
    "brightness": 0.7,
    "brightness_limit": 0.1,
    "contrast": 0.5,
    "contrast_limit": 0.1,
    "noise": 0.5,
    "blur": 0.3,
    "interpolation": "nearest",
    "border": "background",
}
STATED = {
    "gray_2d": GRAY,
    "rgb_2d": GRAY
    | {
        "warp": 0.7,
        "shift_scale_rotate": 0.7,
        "scale": (0.7, 1.5),
        "clahe": 0.3,
        "brightness_limit": 0.5,
        "contrast_limit": 0.2,
        "blur": 0.5,
    },
    "kitti_2d": OFF
    | {
        "flip_horizontal": 0.5,
        "warp": 0.7,
        "warps": ("elastic", "optical"),
        "elastic_alpha": 1.0,
        "elastic_sigma": 5.0,
        "elastic_affine": 5.0,
        "optical_limit": 0.2,
        "shift_scale_rotate": 0.7,
        "shift": 0.2,
        "scale": (0.6, 1.4),
        "rotate": 10.0,
        "brightness": 0.7,
        "brightness_limit": 0.5,
        "contrast": 0.5,
        "noise": 0.5,
        "blur": 0.5,
        "interpolation": "nearest",
    },
    "cubes_3d": OFF
    | {"flip_horizontal": 0.5, "flip_vertical": 0.5, "flip_depth": 0.5, "rotate_90": 1.0},
    "none": OFF,
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hold_the_stated_numbers(name):
    preset = PRESETS[name]
    for setting, value in STATED[name].items():
        assert getattr(preset, setting) == value, setting


def test_presets_by_name():
    assert named("rgb_2d") is RGB_2D
    assert named("kitti_2d") is KITTI_2D
    assert TrainingTransform("gray_2d").augmentation is GRAY_2D
    own = Augmentation(blur=0.1)
    assert named(own) is own
    with pytest.raises(ConfigError, match=r"'gray' is no preset.*gray_2d"):
        named("gray")


def test_recipe_and_preset_agree():
    recipe = tomllib.loads((RECIPES / "cremi_256.toml").read_text())
    assert Augmentation(**recipe["config"]["augmentation"]) == GRAY_2D


@pytest.mark.parametrize(
    ("name", "sides", "channels"),
    [("rgb_2d", (40, 40), 3), ("kitti_2d", (24, 70), 3), ("cubes_3d", (8, 8, 8), 1)],
)
def test_presets_move_image_and_labels_alike(name, sides, channels):
    preset = replace(PRESETS[name], clahe=0.0, brightness=0.0, contrast=0.0, noise=0.0, blur=0.0)
    grey = torch.zeros(sides, dtype=torch.int64)
    grey[tuple(slice(2, side // 2) for side in sides)] = 1
    grey[tuple(slice(side // 2, side - 1) for side in sides)] = 2
    sample = InstanceSample(
        image=(grey.float() / 4).expand(channels, *sides), labels=grey, valid=grey >= 0, name="s"
    )
    crop = tuple(side - 4 for side in sides)
    for seed in range(12):
        result = augment(sample, preset, generator(seed), crop=crop)
        assert result.labels.shape == crop
        assert torch.equal(result.labels > 0, result.image[0] > 0)
        full = augment(sample, PRESETS[name], generator(seed), crop=crop)
        again = augment(sample, PRESETS[name], generator(seed), crop=crop)
        assert torch.equal(full.image, again.image)
        assert 0 <= full.image.min() <= full.image.max() <= 1


def test_fault_l9_warps_can_push_every_instance_out():
    sample = blobs()
    corner = replace(sample, labels=torch.where(sample.labels == 1, 1, 0))
    config = Augmentation(shift_scale_rotate=1, shift=0.5, scale=(1, 1), rotate=0)
    counts = {int(augment(corner, config, generator(s)).labels.max()) for s in range(40)}
    assert counts == {0, 1}
    lost = replace(sample, labels=torch.zeros_like(sample.labels))
    for preset in ("gray_2d", "rgb_2d", "kitti_2d"):
        assert not augment(lost, PRESETS[preset], generator(), crop=(20, 20)).labels.any()
