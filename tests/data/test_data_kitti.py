import logging

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg.data import check_dataset, open_dataset
from rlseg.data.kitti import Options, check
from rlseg.data.list_files import MAX_LIST_BYTES
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from tests.fake.kitti import GREYS, SPLITS, scene, write_by_hand, write_kitti


@pytest.fixture
def root(tmp_path):
    return write_kitti(tmp_path / "kitti")


def names(splits):
    return {s: [splits.split(s)[k].name for k in range(len(splits.split(s)))] for s in splits.names}


def problems(root, options=None):
    return [p for p in check_dataset("kitti", root, options) if not p.note]


def notes(root, options=None):
    return [p.what for p in check_dataset("kitti", root, options) if p.note]


def test_lists_say_which_image_is_in_which_split(root):
    splits = open_dataset("kitti", root)
    assert (splits.task, splits.ndim, splits.channels) == ("instance", 2, 3)
    assert names(splits) == {s: [f"{n:06d}" for n in ids] for s, ids in SPLITS.items()}
    sample = splits.split("train")[2]
    image, labels = scene(12)
    assert torch.equal(sample.image, torch.from_numpy(image).permute(2, 0, 1).float() / 255)
    order = {int(grey): k for k, grey in enumerate(np.sort(GREYS))}
    expected = torch.tensor([order[int(grey)] for grey in GREYS])[torch.from_numpy(labels).long()]
    assert torch.equal(sample.labels, expected)
    assert sample.valid.all()
    assert problems(root) == []


def test_fewer_images_than_published_is_a_warning(root, caplog):
    with caplog.at_level(logging.WARNING):
        before = open_dataset("kitti", root)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 3
    assert f"{root / 'train.txt'}: 3 of the 3712 published images" in texts
    (root / "train.txt").write_text("0\n12\n")
    after = open_dataset("kitti", root)
    assert names(after)["train"] == ["000000", "000012"]
    assert after.digest != before.digest
    assert any("1 images are in no list (000003.png)" in text for text in notes(root))


def test_listed_images_that_are_not_there_are_left_out_with_a_warning(root, caplog):
    for folder in ("images", "gt"):
        (root / folder / "000003.png").unlink()
    with caplog.at_level(logging.WARNING):
        assert names(open_dataset("kitti", root))["train"] == ["000000", "000012"]
    assert "train.txt: 1 listed images are not there (000003)" in caplog.text
    assert problems(root) == []


@pytest.mark.parametrize(("folder", "other"), [("images", "gt"), ("gt", "images")])
def test_half_a_pair_is_an_error(root, folder, other):
    (root / folder / "000003.png").unlink()
    with pytest.raises(CorruptDatasetError, match=rf"{other}/000003\.png: no .*{folder}/000003"):
        open_dataset("kitti", root)
    assert len(problems(root)) == 1


def test_labels_by_hand(root):
    plain = open_dataset("kitti", root).digest
    write_by_hand(root)
    splits = open_dataset("kitti", root)
    counts = {
        name: [int(splits.split(name)[k].labels.max()) for k in range(len(splits.split(name)))]
        for name in splits.names
    }
    assert counts == {"train": [3, 2, 3], "valid": [2], "test": [2, 2]}
    automatic = open_dataset("kitti", root, {"by_hand": False})
    assert [int(automatic.split("train")[k].labels.max()) for k in range(3)] == [3, 3, 3]
    assert int(automatic.split("valid")[0].labels.max()) == 2
    assert len({plain, splits.digest, automatic.digest}) == 3
    assert problems(root) == []


def test_a_list_by_hand_goes_before_the_other(root):
    write_by_hand(root)
    (root / "valid.txt").write_text("99\n")
    assert names(open_dataset("kitti", root))["valid"] == ["000005"]


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("0\n\nthree\n", "train.txt, line 3", "got 'three'"),
        ("0\n-3\n", "train.txt, line 2", "got '-3'"),
        ("1.0\n", "train.txt, line 1", "up to 6 digits"),
        ("0\n" + "9" * 5000 + "\n", "train.txt, line 2", "5000 characters"),
        ("0\n3\n000\n", "train.txt, line 3", "0 is in line 1 too"),
        ("0\n5\n", "valid.txt, line 1", "5 is in .*train.txt, line 2 too; what is learnt"),
        ("\ufb01\n", "train.txt, line 1", "got"),
    ],
)
def test_lists_that_cannot_be_used(root, text, where, what):
    (root / "train.txt").write_text(text, encoding="utf-8")
    with pytest.raises(CorruptDatasetError, match=rf"{where}: .*{what}"):
        open_dataset("kitti", root)
    assert len(problems(root)) == 1


def test_windows_lists_are_read(root):
    (root / "train.txt").write_bytes(b"\xef\xbb\xbf0\r\n12\r\n\r\n")
    assert names(open_dataset("kitti", root))["train"] == ["000000", "000012"]


def test_a_list_beyond_the_limit_is_not_read(root):
    with (root / "train.txt").open("wb") as stream:
        stream.truncate(MAX_LIST_BYTES + 1)
    with pytest.raises(CorruptDatasetError, match=r"train\.txt: larger than \d+ bytes"):
        open_dataset("kitti", root)


def test_damage_is_found_in_one_pass(root):
    image = root / "images" / "000000.png"
    image.write_bytes(image.read_bytes()[:-30])
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "gt" / "000003.png")
    (root / "gt" / "000005.png").unlink()
    frames = [Image.fromarray(np.zeros((48, 96), np.uint8))] * 2
    frames[0].save(root / "gt" / "t.tif", save_all=True, append_images=frames[1:])
    (root / "gt" / "t.tif").rename(root / "gt" / "000007.png")
    found = [p.where + p.what for p in problems(root)]
    assert len(found) == 4
    for expected in ("000000.pngc", "differs from", "no labels", "000007.png2 frames"):
        assert sum(expected in text for text in found) == 1, expected


def test_missing_parts_say_what_was_looked_for(tmp_path, root):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"looked for train\.txt.*found nothing"):
        open_dataset("kitti", tmp_path / "empty")
    assert len(check(tmp_path / "empty", Options())) == 1
    (root / "test.txt").unlink()
    splits = open_dataset("kitti", root)
    assert splits.names == ("train", "valid")
    with pytest.raises(ConfigError, match="no split 'test'"):
        splits.split("test")
    assert "no list test.txt" in " ".join(notes(root))
    for folder in ("images", "gt"):
        for path in (root / folder).iterdir():
            path.unlink()
    with pytest.raises(DatasetNotFoundError, match="no image of the lists"):
        open_dataset("kitti", root)
    assert "no image of the lists" in problems(root)[0].what
