"""Group I of the list of faults on the loaders of leaves, cars and nuclei: what a pair may be."""

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg.data import check_dataset, open_dataset
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError
from tests.fake import cvppp, kitti, monuseg

ORIENTATION = 0x0112


class Loader:
    """One fake data set: its name, root, first pair, options, and a sample of that pair."""

    def __init__(self, name, root):
        self.name, self.root, self.options = name, root, {}
        if name == "cvppp":
            cvppp.write_png(root)
            self.image, self.labels = (
                root / "A1" / f"plant001_{kind}.png" for kind in ("rgb", "label")
            )
            self.options = {"division": "128/0"}
        elif name == "kitti":
            kitti.write_kitti(root)
            self.image, self.labels = (root / kind / "000000.png" for kind in ("images", "gt"))
        else:
            monuseg.write_monuseg(root)
            folder, tile = root / monuseg.TRAINING, sorted(monuseg.TRAIN[:3])[0]
            self.image = folder / "Tissue Images" / f"{tile}.tif"
            self.labels = folder / "Annotations" / f"{tile}.xml"

    def sample(self):
        return open_dataset(self.name, self.root, self.options).split("train")[0]

    def problems(self):
        found = check_dataset(self.name, self.root, self.options)
        return [problem.where + problem.what for problem in found if not problem.note]


@pytest.fixture(params=["cvppp", "kitti", "monuseg"])
def loader(request, tmp_path):
    return Loader(request.param, tmp_path / request.param)


@pytest.fixture(params=["cvppp", "kitti"])
def with_png_labels(request, tmp_path):
    return Loader(request.param, tmp_path / request.param)


def assert_refused(loader, message):
    with pytest.raises(CorruptDatasetError, match=message):
        loader.sample()
    assert len(loader.problems()) == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("damage", ["cut", "empty", "zeros", "text"])
def test_fault_i2_damaged_images(loader, damage):
    data = loader.image.read_bytes()
    damaged = {
        "cut": data[: len(data) * 2 // 3],
        "empty": b"",
        "zeros": b"\0" * 99,
        "text": b"<html>",
    }[damage]
    loader.image.write_bytes(damaged)
    assert_refused(loader, loader.image.name.replace(".", r"\."))


@pytest.mark.parametrize("kind", ["palette", "16 bits", "32 bits"])
def test_fault_i3_labels_of_several_kinds_hold_the_same_ids(with_png_labels, kind):
    before = with_png_labels.sample().labels
    ids = before.numpy().astype(np.uint8)
    if kind == "palette":
        picture = Image.fromarray(ids)
        picture.putpalette([200, 10, 3] * 256)
        picture.save(with_png_labels.labels)
    elif kind == "16 bits":
        Image.fromarray(ids.astype(np.uint16) * 256).save(with_png_labels.labels)
    else:
        Image.fromarray(ids.astype(np.int32) * 65_536).save(
            with_png_labels.labels.with_suffix(".tif")
        )
        with_png_labels.labels.with_suffix(".tif").rename(with_png_labels.labels)
    assert torch.equal(with_png_labels.sample().labels, before)


def test_fault_i3_one_bit_labels_are_one_instance(with_png_labels):
    inside = with_png_labels.sample().labels > 0
    Image.fromarray(inside.numpy()).save(with_png_labels.labels)
    assert torch.equal(with_png_labels.sample().labels, inside.long())


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_fault_i3_coloured_leaves_are_refused(tmp_path, mode):
    loader = Loader("cvppp", tmp_path / "set")
    Image.open(loader.labels).convert(mode).save(loader.labels)
    assert_refused(loader, rf"plant001_label\.png: labels in colour \(mode {mode}\)")


def test_fault_i3_coloured_cars_are_read_unless_alpha_varies(tmp_path):
    loader = Loader("kitti", tmp_path / "set")
    before = loader.sample().labels
    Image.open(loader.labels).convert("RGBA").save(loader.labels)
    assert torch.equal(loader.sample().labels, before)
    picture = Image.open(loader.labels)
    picture.putalpha(Image.fromarray(np.arange(48 * 96, dtype=np.uint8).reshape(48, 96)))
    picture.save(loader.labels)
    assert_refused(loader, r"gt/000000\.png: alpha varies")


def test_fault_i4_sizes_that_differ_name_both_files(with_png_labels):
    Image.fromarray(np.zeros((17, 16), np.uint8)).save(with_png_labels.labels)
    image, labels = with_png_labels.image.name, with_png_labels.labels.name
    assert_refused(with_png_labels, rf"{image}: size \d+x\d+ differs from .*{labels}, size 17x16")


@pytest.mark.parametrize("gone", ["image", "labels"])
def test_fault_i4_one_of_a_pair_is_missing(loader, gone):
    getattr(loader, gone).unlink()
    kept = loader.labels if gone == "image" else loader.image
    assert_refused(loader, rf"{kept.name}: no {gone}.* for it; expected .*{loader.image.stem[:8]}")


def test_fault_i5_orientation_is_applied_before_sizes_are_compared(with_png_labels):
    before = with_png_labels.sample()
    upright = Image.open(with_png_labels.image).convert("RGB")
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turn by 90 degrees clockwise to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(with_png_labels.image, exif=exif)
    after = with_png_labels.sample()
    assert torch.equal(after.image, before.image)
    assert torch.equal(after.labels, before.labels)


def test_fault_i5_orientation_of_labels_is_refused(with_png_labels):
    picture = Image.open(with_png_labels.labels)
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    picture.save(with_png_labels.labels, exif=exif)
    assert_refused(with_png_labels, rf"{with_png_labels.labels.name}: a label image with an EXIF")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "16 bits"])
def test_fault_i6_images_of_other_modes_become_colour(loader, mode):
    before = loader.sample().image
    picture = Image.open(loader.image).convert("RGB")
    grey = np.asarray(picture.convert("L"))
    if mode == "16 bits":
        Image.fromarray(grey.astype(np.uint16) * 257).save(loader.image)
    else:
        picture.convert(mode).save(loader.image)
    after = loader.sample().image
    assert after.shape == before.shape
    if mode in ("L", "16 bits"):
        expected = torch.from_numpy(grey / np.float32(255)).expand(3, -1, -1)
        assert torch.allclose(after, expected, atol=1e-6)
    elif mode == "RGBA":
        assert torch.equal(after, before)


def test_fault_i8_a_file_that_vanishes_is_named(loader):
    part = open_dataset(loader.name, loader.root, loader.options).split("train")
    loader.labels.unlink()
    with pytest.raises(DatasetNotFoundError, match=f"{loader.labels.name}: no such file"):
        part[0]
    loader.image.unlink()
    with pytest.raises(DatasetNotFoundError, match=f"{loader.image.name}: no such file"):
        part[0]


def test_samples_without_instances_are_legal(loader):
    if loader.name == "monuseg":
        loader.labels.write_text("<Annotations/>")
    else:
        size = Image.open(loader.image).size
        Image.new("L", size).save(loader.labels)
    sample = loader.sample()
    assert not sample.labels.any()
    assert sample.valid.all()
    assert loader.problems() == []
