import math

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg.data import open_dataset
from rlseg.data.folder import Options, check
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from tests.fake.folder import write_divided, write_flat, write_nested, write_pair, write_volumes
from tests.fake.scenes import rectangles


def names(splits):
    return {s: [splits.split(s)[i].name for i in range(len(splits.split(s)))] for s in splits.names}


def test_flat_folder_is_divided_by_fractions_and_seed(folder_root):
    first, again = (
        names(open_dataset("folder", folder_root)),
        names(open_dataset("folder", folder_root)),
    )
    assert first == again
    assert {s: len(n) for s, n in first.items()} == {"train": 7, "valid": 2, "test": 1}
    assert sorted(n for part in first.values() for n in part) == sorted(
        f"cell{n}" for n in range(10)
    )
    other = names(open_dataset("folder", folder_root, {"seed": 1}))
    assert other != first
    whole = open_dataset("folder", folder_root, {"fractions": [1, 0, 0]})
    assert {s: len(n) for s, n in names(whole).items()} == {"train": 10}


def test_contents(folder_root):
    part = open_dataset("folder", folder_root, {"fractions": [1, 0, 0]}).split("train")
    sample = part[3]
    image, labels = rectangles(3)
    assert sample.name == "cell3"
    assert torch.equal(sample.image, torch.from_numpy(image)[None].float() / 255)
    assert torch.equal(sample.labels, torch.from_numpy(labels).long())


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (2, [1, 1]), (3, [1, 1, 1]), (20, [14, 3, 3])]
)
def test_few_files(tmp_path, count, sizes):
    found = names(open_dataset("folder", write_flat(tmp_path, count)))
    assert [len(n) for n in found.values()] == sizes


def test_folders_by_split(tmp_path):
    assert {
        s: len(n) for s, n in names(open_dataset("folder", write_divided(tmp_path / "a"))).items()
    } == {
        "train": 3,
        "valid": 2,
        "test": 1,
    }
    nested = open_dataset("folder", write_nested(tmp_path / "b"))
    assert names(nested) == {"train": ["train0", "train1", "train2"], "test": ["test0"]}
    write_pair(tmp_path / "a/valid/images", tmp_path / "a/valid/labels", "x", 0)
    with pytest.raises(CorruptDatasetError, match="valid and val hold data"):
        open_dataset("folder", tmp_path / "a")


def test_volumes_of_all_kinds(tmp_path):
    splits = open_dataset("folder", write_volumes(tmp_path), {"fractions": [1, 0, 0]})
    assert (splits.ndim, splits.channels) == (3, 1)
    part = splits.split("train")
    for k in range(3):
        assert part[k].image.shape == (1, 4, 48, 48)
        assert torch.equal(part[k].labels, part[0].labels)
        assert torch.equal(part[k].image, part[0].image)
    assert check(tmp_path, Options()) == []


def test_suffixes_and_channels(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    colour = np.zeros((5, 6, 3), np.uint8)
    Image.fromarray(colour).save(tmp_path / "images/p1_rgb.png")
    np.save(tmp_path / "labels/p1_label.npy", np.eye(5, 6, dtype=np.int64))
    suffixes = {"image_suffix": "_rgb", "label_suffix": "_label"}
    splits = open_dataset("folder", tmp_path, suffixes)
    assert splits.channels == 3
    assert splits.split("train")[0].name == "p1"
    grey = open_dataset("folder", tmp_path, suffixes | {"channels": 1})
    assert grey.split("train")[0].image.shape == (1, 5, 6)
    np.save(tmp_path / "images/p2_rgb.npy", np.full((5, 6), 0.5, np.float32))
    np.save(tmp_path / "labels/p2_label.npy", np.zeros((5, 6), np.uint8))
    both = open_dataset("folder", tmp_path, suffixes | {"fractions": [1, 0, 0]})
    with pytest.raises(CorruptDatasetError, match=r"p2_rgb\.npy: 1 channels.*channels to 1 or 3"):
        both.split("train")[1]
    same = open_dataset("folder", tmp_path, suffixes | {"fractions": [1, 0, 0], "channels": 3})
    assert same.split("train")[1].image.shape == (3, 5, 6)


def test_ignored_pixels(tmp_path):
    write_flat(tmp_path, 1)
    ids = rectangles(0)[1].astype(np.uint16)
    ids[0] = 999
    Image.fromarray(ids).save(tmp_path / "labels/cell0.png")
    sample = open_dataset("folder", tmp_path, {"ignore_id": 999}).split("train")[0]
    assert not sample.valid[0].any()
    assert sample.valid[1:].all()
    assert sample.labels.max() == 3


def rgb_labels(root):
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(root / "labels/cell4.png")


def float_labels(root):
    (root / "labels/cell4.png").unlink()
    np.save(root / "labels/cell4.npy", np.zeros((48, 48)))


def negative_labels(root):
    (root / "labels/cell4.png").unlink()
    np.save(root / "labels/cell4.npy", np.full((48, 48), -3))


def lossy_labels(root):
    (root / "labels/cell4.png").unlink()
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(root / "labels/cell4.jpg")


def other_size(root):
    Image.fromarray(np.zeros((48, 47), np.uint8)).save(root / "images/cell4.png")


def volume_among_pictures(root):
    (root / "labels/cell4.png").unlink()
    np.save(root / "labels/cell4.npy", np.zeros((4, 48, 48), np.uint8))


def damaged_image(root):
    path = root / "images/cell4.png"
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rgb_labels, "colour"),
        (float_labels, "float64"),
        (negative_labels, "-3"),
        (lossy_labels, "JPEG"),
        (other_size, "48x47 .*48x48"),
        (volume_among_pictures, "3 axes, expected 2"),
        (damaged_image, "cut off"),
    ],
)
def test_bad_files_are_named(folder_root, damage, message):
    damage(folder_root)
    part = open_dataset("folder", folder_root, {"fractions": [1, 0, 0]}).split("train")
    with pytest.raises(CorruptDatasetError, match=rf"cell4.*{message}"):
        part[4]
    problems = check(folder_root, Options())
    assert len(problems) == 1
    assert "cell4" in problems[0].where


def test_missing_partners(folder_root):
    (folder_root / "labels/cell3.png").unlink()
    (folder_root / "images/cell5.png").unlink()
    with pytest.raises(CorruptDatasetError, match=r"cell3\.png: no labels.*and 1 more"):
        open_dataset("folder", folder_root)
    assert len(check(folder_root, Options())) == 2


def test_nothing_there(tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"images/\{id\}.*found nothing"):
        open_dataset("folder", tmp_path)
    for name in ("images", "labels", "notes.txt"):
        (tmp_path / name).mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"found images/, labels/, notes"):
        open_dataset("folder", tmp_path)
    assert "no files of 'folder'" in check(tmp_path, Options())[0].what
    (tmp_path / "file").touch()
    with pytest.raises(DatasetNotFoundError, match="is a file"):
        open_dataset("folder", tmp_path / "file")


@pytest.mark.parametrize(
    "fractions", [[0.5, 0.2, 0.2], [0, 0.5, 0.5], [1.5, -0.5, 0], [math.nan, 0, 0]]
)
def test_fractions_must_add_up(fractions):
    with pytest.raises(ConfigError, match="fractions"):
        Options(fractions=tuple(fractions))


def write_cells(root):
    """Two cells that touch at a corner, and one apart, all of the value 255; a hole is unknown."""
    inside = np.zeros((12, 12), np.uint8)
    inside[1:4, 1:4] = inside[4:7, 4:7] = inside[9:11, 1:11] = 255
    inside[10, 5] = 7
    for folder, array in (("image", inside // 2), ("label", inside)):
        (root / folder).mkdir(parents=True)
        Image.fromarray(array).save(root / folder / "0.png")
    return inside


@pytest.mark.parametrize(("joined", "cells"), [("sides", 4), ("corners", 3)])
def test_binary_cells_are_split_into_components(tmp_path, joined, cells):
    inside = write_cells(tmp_path)
    options = {
        "image_folder": "image",
        "label_folder": "label",
        "components": joined,
        "fractions": [1, 0, 0],
    }
    labels = open_dataset("folder", tmp_path, options).split("train")[0].labels
    assert labels.unique().tolist() == list(range(cells + 1))
    assert torch.equal(labels > 0, torch.from_numpy(inside > 0))
    assert (labels[2, 2] == labels[5, 5]) == (joined == "corners")
    assert labels[10, 5] not in (labels[10, 4], labels[9, 5])  # another value, another instance
    plain = open_dataset("folder", tmp_path, {**options, "components": "no"}).split("train")[0]
    assert int(plain.labels.max()) == 2
    unknown = open_dataset("folder", tmp_path, {**options, "ignore_id": 7}).split("train")[0]
    assert not unknown.valid[10, 5]
    assert int(unknown.labels.max()) == cells - 1


def test_components_of_volumes(tmp_path):
    volume = np.zeros((3, 4, 4), np.uint8)
    volume[0, :2, :2] = volume[1, 2, 2] = volume[2, 2, 2] = 1
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "a.npy", volume)
    for joined, pieces in (("sides", 2), ("corners", 1)):
        options = {"components": joined, "fractions": [1, 0, 0]}
        labels = open_dataset("folder", tmp_path, options).split("train")[0].labels
        assert int(labels.max()) == pieces


@pytest.mark.parametrize("name", ["", "..", "a/b", "{split}", "labels"])
def test_folder_names_that_cannot_be_used(name):
    with pytest.raises(ConfigError, match="image_folder"):
        Options(image_folder=name)


def write_beside(folder, numbers, suffix="_label", image_suffix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for n in numbers:
        image, ids = rectangles(n)
        Image.fromarray(image).save(folder / f"p{n}{image_suffix}.png")
        Image.fromarray(ids.astype(np.uint8)).save(folder / f"p{n}{suffix}.png")


def test_labels_beside_their_images(tmp_path):
    write_beside(tmp_path / "a", range(12))
    splits = open_dataset("folder", tmp_path / "a", {"fractions": [1, 0, 0]})
    assert names(splits) == {"train": [f"p{n}" for n in range(12)]}
    assert torch.equal(splits.split("train")[10].labels, torch.from_numpy(rectangles(10)[1]).long())
    write_beside(tmp_path / "b/train", range(3))
    write_beside(tmp_path / "b/val", range(3, 5))
    assert names(open_dataset("folder", tmp_path / "b")) == {
        "train": ["p0", "p1", "p2"],
        "valid": ["p3", "p4"],
    }
    assert check(tmp_path / "b", Options()) == []


def test_labels_beside_images_with_more_files_among_them(tmp_path):
    write_beside(tmp_path, range(3), "_mask", "_rgb")
    (tmp_path / "p0_fg.png").write_bytes(b"not read")
    (tmp_path / "notes.txt").touch()
    suffixes = {"image_suffix": "_rgb", "label_suffix": "_mask"}
    splits = open_dataset("folder", tmp_path, suffixes | {"fractions": [1, 0, 0]})
    assert names(splits) == {"train": ["p0", "p1", "p2"]}
    (tmp_path / "p1_mask.png").unlink()
    with pytest.raises(CorruptDatasetError, match=r"p1_rgb\.png: no labels.*p1_mask\.png"):
        open_dataset("folder", tmp_path, suffixes)
    (tmp_path / "p2_rgb.png").rename(tmp_path / "p2_rgb.tif")
    Image.fromarray(rectangles(2)[0]).save(tmp_path / "p2_rgb.png")
    found = [p.what for p in check(tmp_path, Options(**suffixes))]
    assert len(found) == 2
    assert "same sample" in found[0]


def test_pictures_without_any_label_are_no_data_set(tmp_path):
    Image.fromarray(rectangles(0)[0]).save(tmp_path / "holiday.png")
    with pytest.raises(DatasetNotFoundError, match=r"found holiday\.png"):
        open_dataset("folder", tmp_path)
