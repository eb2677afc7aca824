"""Fitting images to the networks and masks back to images."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg.acis.fit import FittedDataset, fit_geometry, fit_image, fit_sample, unfit
from rlseg.data.memory import pack
from rlseg.data.samples import InstanceSample
from rlseg.errors import ShapeError


def sample(height, width, seed=0):
    """Blocks of 4 x 4 pixels of a few instances on background."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 5, (-(-height // 4), -(-width // 4)), generator=generator)
    labels = blocks.repeat_interleave(4, 0).repeat_interleave(4, 1)[:height, :width]
    labels = torch.unique(torch.cat([labels.flatten(), torch.tensor([0])]), return_inverse=True)[1]
    image = torch.rand(3, height, width, generator=generator)
    valid = torch.rand(height, width, generator=generator) > 0.2
    return InstanceSample(
        image=image,
        labels=torch.where(valid, labels[:-1].view(height, width), 0),
        valid=valid,
        name="one",
    )


def test_cvppp():
    geometry = fit_geometry((530, 500), (224, 224), "crop")
    assert geometry.resized == (237, 224)
    assert geometry.offset == (7, 0)  # ceil((237 - 224) / 2)
    assert fit_geometry((500, 530), (224, 224), "crop").offset == (0, 7)


def test_kitti():
    geometry = fit_geometry((375, 1242), (256, 768), "stretch")
    assert (geometry.resized, geometry.offset) == ((256, 768), (0, 0))


@pytest.mark.parametrize(
    ("original", "sides"),
    list(
        itertools.product([(1, 1), (64, 64), (9, 700), (33, 31), (530, 500)], [(32, 32), (64, 96)])
    ),
)
def test_a_crop_covers_the_window_and_keeps_proportions(original, sides):
    geometry = fit_geometry(original, sides, "crop")
    surplus = [r - s for r, s in zip(geometry.resized, sides, strict=True)]
    assert min(surplus) == 0  # no larger than needed
    for extra, start in zip(surplus, geometry.offset, strict=True):
        assert start == (extra + 1) // 2
    scale = max(s / o for s, o in zip(sides, original, strict=True))
    for new, old in zip(geometry.resized, original, strict=True):
        assert abs(new - scale * old) <= 0.5 + 1e-9


def test_nothing_happens_at_the_right_size():
    one = sample(32, 48)
    for how in ("crop", "stretch"):
        assert fit_sample(one, (32, 48), how) is one
        image = one.image[None]
        assert torch.equal(fit_image(image, (32, 48), how), image)
        masks = torch.rand(3, 32, 48)
        assert torch.equal(unfit(masks, (32, 48), how), masks)


def test_images_shrink_like_pillow():
    image = torch.rand(1, 3, 53, 50, generator=torch.Generator().manual_seed(1))
    found = fit_image(image, (16, 16), "crop")[0]
    for channel, ours in zip(image[0], found, strict=True):
        whole = Image.fromarray(channel.numpy()).resize((16, 17), Image.Resampling.BICUBIC)
        reference = np.asarray(whole)[1:17].clip(0, 1)  # ceil(1 / 2) = row 1
        assert np.abs(ours.numpy() - reference).max() < 1e-4


def test_bicubic_overshoot_stays_in_range():
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 1
    found = fit_image(image, (32, 32), "stretch")
    assert float(found.min()) == 0
    assert float(found.max()) == 1


@pytest.mark.parametrize("how", ["crop", "stretch"])
def test_labels_take_the_nearest_pixel(how):
    one = sample(40, 50)
    found = fit_sample(one, (16, 32), how)
    geometry = fit_geometry((40, 50), (16, 32), how)
    raw = torch.zeros(16, 32, dtype=torch.int64)
    valid = torch.zeros(16, 32, dtype=torch.bool)
    for y, x in itertools.product(range(16), range(32)):
        row = int((y + geometry.offset[0] + 0.5) * 40 / geometry.resized[0])
        column = int((x + geometry.offset[1] + 0.5) * 50 / geometry.resized[1])
        raw[y, x], valid[y, x] = one.labels[row, column], one.valid[row, column]
    ids = {0: 0} | {k: n for n, k in enumerate(sorted(set(raw.flatten().tolist()) - {0}), 1)}
    expected = torch.tensor([ids[k] for k in raw.flatten().tolist()]).view(16, 32)
    assert torch.equal(found.labels, expected)
    assert torch.equal(found.valid, valid)
    exact = fit_image(one.image[None], (16, 32), how)[0]
    torch.testing.assert_close(found.image, exact, atol=0.5 / 255 + 1e-6, rtol=0)
    assert pack(found).image.dtype == torch.uint8
    assert found.name == "one"


def test_instances_that_are_cut_away_are_not_counted():
    one = sample(64, 32)
    labels = torch.zeros(64, 32, dtype=torch.int64)
    labels[:3] = 1  # above the window
    labels[30:34, 4:9] = 2
    labels[30:34, 20:25] = 3
    cut = InstanceSample(
        image=one.image, labels=labels, valid=torch.ones_like(one.valid), name="cut"
    )
    found = fit_sample(cut, (32, 32), "crop")
    assert found.labels.unique().tolist() == [0, 1, 2]
    assert torch.equal(found.labels > 0, labels[16:48] > 0)


@pytest.mark.parametrize(("how", "original"), [("crop", (90, 60)), ("stretch", (90, 70))])
def test_there_and_back(how, original):
    """A smooth mask comes back nearly as it was wherever the networks saw it."""
    y, x = torch.meshgrid(*(torch.linspace(0, 3, side) for side in original), indexing="ij")
    mask = 0.5 + 0.4 * torch.sin(y) * torch.cos(x)  # [H, W]
    found = unfit(fit_image(mask[None, None], (32, 32), how)[0], original, how)
    assert found.shape == (1, *original)
    rows = slice(17, 73) if how == "crop" else slice(2, -2)  # 16 of 48 rows are cut off, 8 above
    assert float((found[0] - mask)[rows, 2:-2].abs().max()) < 0.01
    if how == "crop":
        assert float(found[0, :13].abs().max()) == 0
        assert float(found[0, 77:].abs().max()) == 0


def test_back_is_bilinear():
    masks = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(2))
    found = unfit(masks, (25, 16), "crop")  # a window of rows 3..10 of 13: 13 = round(12.5)
    geometry = fit_geometry((25, 16), (8, 8), "crop")
    assert (geometry.resized, geometry.offset) == ((13, 8), (3, 0))
    canvas = torch.zeros(2, 13, 8)
    canvas[:, 3:11] = masks
    for m, y, x in itertools.product(range(2), range(25), range(16)):
        row = min(max((y + 0.5) * 13 / 25 - 0.5, 0), 12)
        column = min(max((x + 0.5) * 8 / 16 - 0.5, 0), 7)
        top, left = int(row), int(column)
        down, right = min(top + 1, 12), min(left + 1, 7)
        a, b = row - top, column - left
        value = (1 - a) * ((1 - b) * canvas[m, top, left] + b * canvas[m, top, right])
        value += a * ((1 - b) * canvas[m, down, left] + b * canvas[m, down, right])
        assert abs(float(found[m, y, x] - value)) < 1e-5


def test_no_masks():
    assert unfit(torch.zeros(0, 8, 8), (20, 30), "crop").shape == (0, 20, 30)
    assert unfit(torch.zeros(0, 8, 8), (8, 8), "crop").shape == (0, 8, 8)


@pytest.mark.parametrize("side", [32, 40], ids=["same size", "resized"])
def test_instances_without_a_valid_pixel_are_dropped(side):
    labels = torch.zeros(side, side, dtype=torch.int64)
    labels[2:12, 2:12], labels[2:12, 16:26], labels[16:26, 2:12] = 1, 2, 3
    valid = labels != 2
    valid[2:6] = False
    one = InstanceSample(image=torch.rand(3, side, side), labels=labels, valid=valid, name="one")
    found = fit_sample(one, (32, 32), "crop")
    assert found.labels.unique().tolist() == [0, 1, 2]
    assert not found.labels[~found.valid].any()
    if side == 32:
        wanted = torch.where(valid, labels, 0)
        assert torch.equal(found.labels, torch.where(wanted == 3, 2, wanted))


def test_a_data_set():
    samples = [sample(40, 50), sample(64, 32)]
    fitted = FittedDataset(samples, (32, 32), "crop")
    assert len(fitted) == 2
    for got, one in zip([fitted[0], fitted[1]], samples, strict=True):
        assert torch.equal(got.labels, fit_sample(one, (32, 32), "crop").labels)
        assert got.image.shape == (3, 32, 32)


def test_bad_input():
    with pytest.raises(ShapeError, match="every side needs a pixel"):
        fit_geometry((0, 5), (32, 32), "crop")
    with pytest.raises(ShapeError, match="expected axes"):
        fit_image(torch.zeros(3, 8, 8), (32, 32), "crop")
    with pytest.raises(ShapeError, match="expected axes"):
        unfit(torch.zeros(8, 8), (8, 8), "crop")
