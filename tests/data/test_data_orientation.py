"""Fault I5 where sizes tell nothing: `data check` says that labels may lie otherwise."""

import numpy as np
import pytest
from PIL import Image

from rlseg.cli import main
from rlseg.data import check_dataset
from rlseg.data.orientation import EXIF_ORIENTATION, orientation_note
from tests.fake import camvid, cityscapes, coco_root, cvppp, kitti, monuseg, places

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8)


def exif(orientation):
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = orientation
    return tags


def save(path, array, orientation=1, **options):
    Image.fromarray(array).save(path, exif=exif(orientation), **options)
    return path


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_fault_i5_note_exactly_where_sizes_are_the_same_either_way(tmp_path, ending, orientation):
    square = save(tmp_path / f"s.{ending}", RAMP[:, :6], orientation)
    oblong = save(tmp_path / f"o.{ending}", RAMP, orientation)
    notes = orientation_note(square), orientation_note(oblong)
    assert [note is not None for note in notes] == [orientation > 1, orientation in (2, 3, 4)]
    for note, size in zip(notes, ("6x6", "6x8"), strict=True):
        assert note is None or f"orientation {orientation} is applied; its size, {size}" in note


def test_no_note_on_other_files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "a.hdf").write_bytes(b"")
    Image.fromarray(RAMP).save(tmp_path / "b.png")
    for name in ("a.png", "a.jpg", "a.hdf", "b.png", "none.png"):
        assert orientation_note(tmp_path / name) is None


def turned(path):
    """The same picture on the screen, stored upside down with a tag that says so."""
    with Image.open(path) as image:
        stored = image.transpose(Image.Transpose.ROTATE_180)
        stored.save(path, exif=exif(3))


def loaders(root):
    """Data set -> its options and an image that has labels."""
    cvppp.write_png(root / "cvppp")
    kitti.write_kitti(root / "kitti")
    monuseg.write_monuseg(root / "monuseg")
    camvid.write_camvid(root / "camvid")
    cityscapes.write_cityscapes(root / "cityscapes")
    places.write_places(root / "places")
    coco_root.write_single(root / "coco")
    tile = f"{monuseg.TRAINING}/Tissue Images/{sorted(monuseg.TRAIN[:3])[0]}.tif"
    things = sorted((root / "cityscapes/leftImg8bit/train").rglob("*.png"))[0]
    return {
        "cvppp": ({"division": "128/0"}, root / "cvppp/A1/plant001_rgb.png"),
        "kitti": ({}, root / "kitti/images/000000.png"),
        "monuseg": ({}, root / "monuseg" / tile),
        "camvid": ({}, sorted((root / "camvid/train").glob("*"))[0]),
        "cityscapes": ({"task": "instance"}, things),
        "places": ({}, places.image_path(root / "places")),
        "coco": ({}, sorted((root / "coco").rglob("*.png"))[0]),
    }


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_fault_i5_every_loader_notes_an_image_that_is_turned(tmp_path):
    for name, (options, path) in loaders(tmp_path).items():

        def notes(name=name, options=options):
            found = check_dataset(name, tmp_path / name, options)
            assert not [problem for problem in found if not problem.note], found
            return {problem.where for problem in found if "EXIF orientation 3" in problem.what}

        assert notes() == set(), name
        turned(path)
        assert notes() == {str(path)}, name


def test_fault_i5_a_folder_of_square_pictures(tmp_path, capsys):
    for number in range(3):
        for kind in ("images", "labels"):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(RAMP[:, :6]).save(tmp_path / kind / f"{number}.png")
    save(tmp_path / "images" / "1.png", RAMP[:, :6], 6)
    words = ["data", "check", "folder", str(tmp_path)]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "note     images/1.png  EXIF orientation 6 is applied" in text
    assert text.count("EXIF") == 1
