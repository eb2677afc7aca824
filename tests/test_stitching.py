"""Windows cover, assemble undoes cut, and stitching finds instances across windows."""

import numpy as np
import pytest
import torch
from skimage.measure import label

from rlseg.errors import ConfigError
from rlseg.stitching import assemble, cover, stitch


@pytest.mark.parametrize("sides", [(64, 64), (65, 130), (10, 200), (64, 127)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_windows_cover_every_pixel_and_assemble_undoes_cut(sides, overlap):
    windows = cover(sides, 64, overlap)
    image = torch.rand(2, 3, *sides)
    parts = windows.cut(image).unflatten(0, (2, len(windows.corners)))
    assert parts.shape[2:] == (3, *windows.size)
    assert torch.equal(assemble(parts, windows), image)


def test_one_window_is_the_image():
    windows = cover((30, 40), None, 0.5)
    assert windows.corners == ((0, 0),)
    assert windows.size == (30, 40)
    labels = torch.randint(0, 4, (1, 30, 40), generator=torch.Generator().manual_seed(0))
    found = stitch(labels, windows, 0.5)
    for k in range(4):
        assert len(torch.unique(found[labels[0] == k])) == 1


def test_neighbouring_windows_overlap_by_the_share():
    starts = [x for y, x in cover((64, 200), 64, 0.5).corners if y == 0]
    assert starts == [0, 32, 64, 96, 128, 136]


def blobs(side=150, seed=0):
    rng = np.random.default_rng(seed)
    picture = np.zeros((side, side), dtype=bool)
    for y, x in rng.integers(0, side, (25, 2)):
        picture[max(y - 6, 0) : y + 6, max(x - 6, 0) : x + 6] = True
    return label(picture, connectivity=2)


def test_objects_cut_by_windows_come_back_whole():
    truth = torch.from_numpy(blobs()).long()
    windows = cover((150, 150), 64, 0.5)
    parts = windows.cut(truth[None, None])[:, 0].numpy()
    numbered = torch.stack([torch.from_numpy(label(part > 0, connectivity=2)) for part in parts])
    found = stitch(numbered.long(), windows, 0.5)
    assert int(found.max()) == int(truth.max())
    assert torch.equal(found > 0, truth > 0)
    for k in range(1, int(truth.max()) + 1):
        assert len(torch.unique(found[truth == k])) == 1


def test_a_high_threshold_keeps_disagreeing_windows_apart():
    windows = cover((4, 6), 4, 0.5)
    assert windows.corners == ((0, 0), (0, 2))
    left = torch.ones(4, 4, dtype=torch.int64)
    right = torch.zeros(4, 4, dtype=torch.int64)
    right[:3] = 1  # of the 4 x 2 common pixels the two share 6 of 8
    labels = torch.stack([left, right])
    assert int(stitch(labels, windows, 0.7).max()) == 1
    assert int(stitch(labels, windows, 0.8).max()) == 2


def test_empty_windows_give_an_empty_map():
    windows = cover((8, 12), 8, 0.5)
    assert not stitch(torch.zeros(2, 8, 8, dtype=torch.int64), windows, 0.5).any()


def test_impossible_windows_are_refused():
    with pytest.raises(ConfigError, match="share"):
        cover((8, 8), 4, 1.0)
    with pytest.raises(ConfigError, match="pixel"):
        cover((8, 8), 0, 0.5)
