import logging

import numpy as np
import pytest
from PIL import Image
from scipy import io

from rlseg.data import check_dataset, open_dataset
from rlseg.data.gtav import read_split_mat
from rlseg.data.idlists import committed_ids
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError
from tests.fake import gtav as fake


@pytest.fixture
def root(tmp_path):
    return fake.write_gtav(tmp_path / "gtav")


def names(splits):
    return {k: [r.name for r in splits.split(k).dataset.records] for k in splits.names}


def problems(root, **options):
    return [p for p in check_dataset("gtav", root, options) if not p.note]


@pytest.mark.parametrize(
    ("classes", "count", "expected"),
    [
        ("cityscapes", 19, {23: 10, 7: 0, 26: 13, 24: 11, 25: 12, 34: 255}),
        ("camvid", 11, {23: 0, 7: 3, 26: 8, 24: 9, 25: 255, 34: 255}),
    ],
)
def test_classes(root, classes, count, expected):
    splits = open_dataset("gtav", root, {"classes": classes})
    assert (splits.task, len(splits.classes)) == ("semantic", count)
    assert names(splits) == {
        "train": ["00001", "00002", "00003"], "valid": ["00004", "00005"], "test": ["00006"]
    }  # fmt: skip
    for k in range(3):
        ids, found = fake.ids(k), splits.split("train")[k].classes.numpy()
        assert {int(i): set(found[ids == i].tolist()) for i in np.unique(ids)} == {
            i: {c} for i, c in expected.items()
        }
    assert problems(root) == []


def test_frames_of_unequal_size_are_left_out():
    ids = committed_ids("gtav", "mismatched")
    assert len(ids) == 62
    assert (ids[0], ids[1], ids[2], ids[-1]) == ("15188", "17705", "20801", "20860")


def test_a_part_of_the_frames_is_a_warning(root, caplog):
    for folder in ("images", "labels"):
        (root / folder / "00002.png").unlink()
    with caplog.at_level(logging.WARNING):
        assert names(open_dataset("gtav", root))["train"] == ["00001", "00003"]
    assert "split train: 2 of the 3 published images" in caplog.text
    Image.fromarray(fake.ids(0)).save(root / "labels" / "00099.png")
    Image.fromarray(fake.image(0)).save(root / "images" / "00099.png")
    assert names(open_dataset("gtav", root))["train"] == ["00001", "00003"]
    notes = [p.what for p in check_dataset("gtav", root) if p.note]
    assert any("no split for 1 frames: 00099" in what for what in notes)
    assert problems(root) == []


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_fault_i4_one_of_a_pair_is_missing(root, folder):
    (root / folder / "00004.png").unlink()
    with pytest.raises(CorruptDatasetError, match=r"00004\.png"):
        open_dataset("gtav", root)
    assert len(problems(root)) == 1


def test_fault_i2_i3_i4_damaged_labels(root):
    folder = root / "labels"
    Image.open(folder / "00001.png").convert("RGB").save(folder / "00001.png")
    (folder / "00002.png").write_bytes(b"")
    Image.fromarray(fake.ids(0)[:-2]).save(folder / "00003.png")
    found = problems(root)
    assert ["colour" in found[0].what, "not an image" in found[1].what] == [True, True]
    assert [p.where for p in found] == [
        str(folder / "00001.png"), str(folder / "00002.png"), str(root / "images" / "00003.png")
    ]  # fmt: skip
    assert "differs" in found[2].what
    splits = open_dataset("gtav", root)
    with pytest.raises(CorruptDatasetError, match="labels in colour"):
        splits.split("train")[0]


def test_a_division_of_our_own(tmp_path):
    frames = {"trainIds": tuple(range(1, 101))}
    root = fake.write_gtav(tmp_path / "g", frames, split=False)
    with pytest.raises(DatasetNotFoundError, match="splits to 'seeded'"):
        open_dataset("gtav", root)
    found = names(open_dataset("gtav", root, {"splits": "seeded"}))
    assert {k: len(v) for k, v in found.items()} == {"train": 49, "valid": 26, "test": 25}
    assert len({n for group in found.values() for n in group}) == 100
    assert names(open_dataset("gtav", root, {"splits": "seeded"})) == found
    assert names(open_dataset("gtav", root, {"splits": "seeded", "seed": 3})) != found


def test_the_split_file(tmp_path):
    path = fake.write_split(tmp_path / "split.mat")
    assert read_split_mat(path) == {
        "train": ("00001", "00002", "00003", "15188"), "valid": ("00004", "00005"),
        "test": ("00006", "20801"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainIds": None}, "no variable trainIds; the file holds valIds"),
        ({"trainIds": "text"}, "trainIds is no array"),
        ({"trainIds": {"a": 1}}, "trainIds is no array"),
        ({"trainIds": np.array([1.5])}, "not a list of frame numbers"),
        ({"trainIds": np.array([np.nan])}, "not a list of frame numbers"),
        ({"trainIds": np.array([0])}, "not a list of frame numbers"),
        ({"trainIds": np.array([100000])}, "not a list of frame numbers"),
        ({"trainIds": np.array([7, 7])}, "names a frame twice"),
        ({"trainIds": np.zeros((0, 1))}, "not a list of frame numbers"),
    ],
)
def test_a_split_file_with_other_things(tmp_path, change, message):
    arrays = {k: np.array(v) for k, v in fake.FRAMES.items()} | change
    io.savemat(tmp_path / "split.mat", {k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(CorruptDatasetError, match=message):
        read_split_mat(tmp_path / "split.mat")


def test_a_frame_in_two_splits(root):
    fake.write_split(root / "split.mat", fake.FRAMES | {"valIds": (4, 1)})
    with pytest.raises(CorruptDatasetError, match="in two splits"):
        open_dataset("gtav", root)
    assert len(problems(root)) == 1


def test_a_split_file_that_is_too_large_or_absent(tmp_path):
    path = tmp_path / "split.mat"
    path.write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(CorruptDatasetError, match="larger than"):
        read_split_mat(path)
    with pytest.raises(DatasetNotFoundError, match="says which frame"):
        read_split_mat(tmp_path / "absent.mat")


def test_nothing_there(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="from_games"):
        open_dataset("gtav", tmp_path)
