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


@pytest.mark.parametrize("fractions", [[0.5, 0.2, 0.2], [0, 0.5, 0.5], [1.5, -0.5, 0]])
def test_fractions_must_add_up(fractions):
    with pytest.raises(ConfigError, match="fractions"):
        Options(fractions=tuple(fractions))
