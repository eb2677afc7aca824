import numpy as np
import pytest
import torch
from skimage import color

from rlseg.data import clahe
from rlseg.data.samples import InstanceSample
from rlseg.data.transforms import Augmentation, augment


def smooth(height, width, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.cumsum(rng.normal(size=(height, width)), axis=0)
    field = np.cumsum(rows, axis=1)
    field = (field - field.min()) / max(np.ptp(field), 1e-9)
    return (field**2 * 255).astype(np.uint8)


def slow(levels, limit, tiles):
    """Pixel by pixel; sides are multiples of the tiles."""
    height, width = levels.shape
    tall, wide = height // tiles, width // tiles
    tables = {}
    for a in range(tiles):
        for b in range(tiles):
            counts = [0] * 256
            for value in levels[a * tall : (a + 1) * tall, b * wide : (b + 1) * wide].flatten():
                counts[value] += 1
            clip = max(int(limit * tall * wide / 256), 1)
            excess = 0
            for k in range(256):
                if counts[k] > clip:
                    excess, counts[k] = excess + counts[k] - clip, clip
            for k in range(256):
                counts[k] += excess // 256
            rest = excess % 256
            if rest:
                for k in range(0, 256, max(256 // rest, 1)):
                    if rest == 0:
                        break
                    counts[k], rest = counts[k] + 1, rest - 1
            total, table = 0, []
            for k in range(256):
                total += counts[k]
                table.append(min(round(total * 255 / (tall * wide)), 255))
            tables[a, b] = table
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v, u = y / tall - 0.5, x / wide - 0.5
            a, b = int(np.floor(v)), int(np.floor(u))
            p, q = v - a, u - b
            value = 0.0
            for i, share in ((a, 1 - p), (a + 1, p)):
                for j, part in ((b, 1 - q), (b + 1, q)):
                    place = min(max(i, 0), tiles - 1), min(max(j, 0), tiles - 1)
                    value += share * part * tables[place][levels[y, x]]
            result[y, x] = value
    return result


@pytest.mark.parametrize(("limit", "tiles"), [(1.0, 2), (2.5, 4), (40.0, 8)])
def test_grey_against_a_slow_loop(limit, tiles):
    levels = smooth(48, 64)
    found = clahe.equalise_plane(torch.from_numpy(levels) / 255, limit, tiles) * 255
    assert np.abs(found.numpy() - slow(levels, limit, tiles)).max() <= 0.51


@pytest.mark.parametrize("sides", [(64, 64), (67, 80), (9, 13), (224, 176)])
def test_grey_against_opencv(sides):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the oracle here and is not installed")
    levels = smooth(*sides, seed=1)
    for limit in (1.0, 2.3, 4.0):
        expected = cv2.createCLAHE(limit, (8, 8)).apply(levels).astype(int)
        found = (clahe.equalise_plane(torch.from_numpy(levels) / 255, limit) * 255).round().numpy()
        assert np.abs(found - expected).max() <= 1
        assert (found != expected).mean() < 0.01


def test_lightness_against_scikit_image_and_back():
    image = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    lab = clahe._to_lab(image)
    expected = color.rgb2lab(image.permute(1, 2, 0).numpy()).transpose(2, 0, 1)
    assert np.abs(lab.numpy() - expected).max() < 0.05
    assert (clahe._to_rgb(lab) - image).abs().max() < 1e-4


def test_colour_keeps_its_hue_and_gains_contrast():
    grey = torch.from_numpy(smooth(64, 64)) / 255 * 0.1 + 0.4
    image = torch.stack((grey, grey, grey))
    result = clahe.equalise(image, 4.0)
    assert result.std() > 1.5 * image.std()
    assert (result - result.mean(0, keepdim=True)).abs().max() < 0.01
    assert 0 <= result.min() <= result.max() <= 1


@pytest.mark.parametrize("sides", [(1, 1), (1, 40), (8, 8), (3, 17)])
def test_small_pictures(sides):
    image = torch.rand(1, *sides, generator=torch.Generator().manual_seed(0))
    result = clahe.equalise(image, 2.0)
    assert result.shape == image.shape
    assert torch.isfinite(result).all()
    assert 0 <= result.min() <= result.max() <= 1


def test_a_flat_picture_stays_flat():
    assert len(clahe.equalise(torch.full((1, 32, 32), 0.5), 3.0).unique()) == 1


def test_as_augmentation():
    levels = torch.from_numpy(smooth(64, 64))[None] / 255
    labels = torch.ones(64, 64, dtype=torch.int64)
    sample = InstanceSample(image=levels, labels=labels, valid=labels > 0, name="s")
    config = Augmentation(clahe=1.0, clahe_clip=(2.0, 2.0))
    result = augment(sample, config, torch.Generator().manual_seed(0))
    assert torch.equal(result.image, clahe.equalise(levels, 2.0))
    assert torch.equal(result.labels, labels)
    volume = InstanceSample(
        image=levels[:, None],
        labels=labels[None],
        valid=labels[None] > 0,
        name="v",
    )
    assert torch.equal(
        augment(volume, config, torch.Generator().manual_seed(0)).image, volume.image
    )
