import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg.cli import main
from rlseg.data import DATASETS, open_dataset
from rlseg.data.images import read_colours
from rlseg.data.places import Options, Places, check
from rlseg.data.places_masks import joint_counts, mask_faults, read_instances
from rlseg.data.places_table import CATEGORIES, category_names, image_id_by_rule
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from tests.fake.places import (
    GREEN,
    RED,
    image_path,
    mask,
    mask_path,
    scene,
    write_places,
    write_table,
)
from tests.fake.tiny import refused, train_words


@pytest.fixture
def root(tmp_path):
    return write_places(tmp_path / "places")


def edit(path, change):
    """Changes the bands of a mask file in place."""
    bands = np.array(Image.open(path))
    change(bands)
    Image.fromarray(bands).save(path)


def what(problems):
    return [f"{p.where}: {p.what}" for p in problems if not p.note]


def test_splits_and_samples(root):
    splits = open_dataset("places", root)
    assert (splits.task, splits.ndim, splits.channels) == ("instance", 2, 3)
    assert splits.names == Places.splits == ("train", "valid", "test")
    assert splits.classes == Places.classes == CATEGORIES
    assert [len(splits.split(name)) for name in splits.names] == [4, 4, 2]
    part = splits.split("valid")
    assert [part[k].name for k in range(4)] == [
        "ADE_val_00000001", "ADE_val_00000002", "ADE_val_00000003", "ADE_val_00002000",
    ]  # fmt: skip
    image, labels = scene(2)
    sample = part[1]
    assert sample.image.shape == (3, 40, 48)
    assert sample.image.dtype == torch.float32
    assert (sample.image * 255 - torch.from_numpy(image).permute(2, 0, 1)).abs().max() < 8  # JPEG
    assert torch.equal(sample.labels, torch.from_numpy(labels).long())
    assert sample.valid.all()
    assert check(root, Options()) == []


def test_categories_by_instance(root):
    found = open_dataset("places", root).split("train").instances(0)
    assert found.ids.tolist() == GREEN[1:].tolist()
    assert found.categories.tolist() == list(RED)
    assert torch.equal(found.labels, open_dataset("places", root).split("train")[0].labels)


def test_test_images_have_no_truth(root):
    part = open_dataset("places", root).split("test")
    assert part[0].image.shape == (3, 40, 48)
    assert not part[0].valid.any()
    assert not part[0].labels.any()
    with pytest.raises(ConfigError, match="publishes no masks of test images"):
        part.instances(0)


@pytest.mark.parametrize("inside", [True, False])
def test_the_other_place_of_the_images(tmp_path, inside):
    base = tmp_path / "ADEChallengeData2016"
    write_places(base)
    if not inside:
        (base / "annotations_instance").rename(tmp_path / "annotations_instance")
    splits = open_dataset("places", tmp_path)
    assert len(splits.split("train")) == 4
    assert check(tmp_path, Options()) == []


def test_known_to_the_commands(root, capsys):
    assert "places" in DATASETS
    assert main(["data", "check", "places", str(root)]) == 0
    assert "no problems found" in capsys.readouterr().out
    mask_path(root).unlink()
    assert main(["data", "check", "places", str(root)]) == 2
    assert "no mask file for it" in capsys.readouterr().out


def test_a_run_is_trained_and_only_scored_where_there_is_truth(root, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "scores.json"
    assert main(train_words(run, "--dataset", "places", "--root", root, method="unet")) == 0
    error = refused(["evaluate", run, "--json", out], capsys)
    assert "no image of" in error
    assert "--split" in error
    assert not out.exists()
    assert main(["evaluate", str(run), "--split", "valid", "--json", str(out), "--quiet"]) == 0
    assert json.loads(out.read_text())["images"] == 4


def test_digest_follows_files_and_options(root):
    before = open_dataset("places", root).digest
    assert open_dataset("places", root).digest == before
    assert open_dataset("places", root, {"missing_masks": "leave_out"}).digest != before
    image_path(root).unlink()
    mask_path(root).unlink()
    assert open_dataset("places", root).digest != before
    with pytest.raises(ConfigError, match="missing_masks"):
        open_dataset("places", root, {"missing_masks": "ignore"})


# Files that are not there


def test_a_missing_mask_is_named_or_left_out(root):
    mask_path(root, "training", 10).unlink()
    with pytest.raises(CorruptDatasetError, match=r"ADE_train_00000010\.jpg: no mask.*0010\.png"):
        open_dataset("places", root)
    assert len(what(check(root, Options()))) == 1
    leave_out = Options(missing_masks="leave_out")
    splits = open_dataset("places", root, {"missing_masks": "leave_out"})
    assert len(splits.split("train")) == 3
    problems = check(root, leave_out)
    assert [p.note for p in problems] == [True]
    assert problems[0].where == str(image_path(root, "training", 10))


def test_a_mask_without_image_is_an_error_in_any_case(root):
    image_path(root).unlink()
    for option in ("error", "leave_out"):
        with pytest.raises(CorruptDatasetError, match=r"ADE_val_00000001\.png: no image"):
            open_dataset("places", root, {"missing_masks": option})


def test_splits_that_are_not_there(root):
    for path in (root / "images" / "testing").iterdir():
        path.unlink()
    assert open_dataset("places", root).names == ("train", "valid")
    assert [(p.where, p.note) for p in check(root, Options())] == [("split test", True)]


def test_a_wrong_root_says_what_was_looked_for(tmp_path):
    (tmp_path / "holiday").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"images/.*holiday/.*sceneparsing"):
        open_dataset("places", tmp_path)
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        open_dataset("places", tmp_path / "absent")
    with pytest.raises(ConfigError, match="--root"):
        open_dataset("places", None)
    assert len(check(tmp_path, Options())) == 1


# Files that are not sound


def test_all_damage_is_found_in_one_pass(root):
    image_path(root, "training", 1).write_bytes(b"\xff\xd8 damaged")
    mask_path(root, "training", 2).write_bytes(mask_path(root, "training", 2).read_bytes()[:-20])
    Image.fromarray(mask(scene(1)[1][:, :-1])).save(mask_path(root, "training", 10))
    Image.fromarray(scene(1)[1].astype(np.uint8)).save(mask_path(root, "training", 20210))

    def mixed(bands):
        rows, columns = np.nonzero(bands[..., 1] == 7)
        bands[rows[0], columns[0], 0] = 9

    def without(bands):
        bands[..., 0][bands[..., 1] == 255] = 0

    def beyond(bands):
        bands[..., 0][bands[..., 1] == 2] = 101

    edit(mask_path(root, "validation", 1), mixed)
    edit(mask_path(root, "validation", 2), without)
    edit(mask_path(root, "validation", 3), beyond)
    image_path(root, "testing", 2).write_bytes(b"")
    found = what(check(root, Options()))
    expected = [
        "ADE_train_00000001.jpg",
        "ADE_train_00000002.png: cut off",
        "ADE_train_00000010.jpg: size 40x48 differs from",
        "ADE_train_00020210.png: mode L with 8 bits per band; expected RGB",
        "ADE_val_00000001.png: more than one category in instance 7 (4, 9)",
        "ADE_val_00000002.png: instance 255 (green) has no category (red is 0) on",
        "ADE_val_00000003.png: category 101 (red) on",
        "ADE_test_00000002.jpg",
    ]
    assert len(found) == len(expected)
    for text, part in zip(found, expected, strict=True):
        assert part in text
    data = open_dataset("places", root)
    for split, index, message in (
        ("train", 0, r"ADE_train_00000001\.jpg"),
        ("train", 2, "same size"),
        ("valid", 0, "more than one category"),
        ("valid", 1, "no category"),
        ("valid", 2, "categories are 1 to 100"),
    ):
        with pytest.raises(CorruptDatasetError, match=message):
            data.split(split)[index]


def test_pixels_with_category_but_no_instance_are_unknown(root):
    def loose(bands):
        bands[0, :5, 0] = 12
        bands[0, :5, 1] = 0

    edit(mask_path(root), loose)
    sample = open_dataset("places", root).split("valid")[0]
    assert not sample.valid[0, :5].any()
    assert int(sample.valid.sum()) == 40 * 48 - 5
    assert int(sample.labels.max()) == 3
    problems = check(root, Options())
    assert [(p.note, p.what) for p in problems] == [
        (True, "5 pixels with a category but no instance; they count as unknown")
    ]


def test_the_table_is_checked_against_the_masks(root):
    path = write_table(root / "imgCatIds.json")
    assert check(root, Options()) == []
    table = json.loads(path.read_text())
    table["images"][0]["height"] = 41
    del table["images"][1]
    path.write_text(json.dumps(table))
    found = what(check(root, Options()))
    assert len(found) == 2
    assert "ADE_train_00000001.png: size 40x48 differs from" in found[0]
    assert "has 41x48" in found[0]
    assert "lists no image of this name" in found[1]
    path.write_text("{")
    assert [text.split(": ")[1] for text in what(check(root, Options()))] == ["not JSON"]
    with pytest.raises(CorruptDatasetError, match="not JSON"):
        open_dataset("places", root)


# Masks, read


def slow_instances(bands):
    """By the words of the challenge: one loop over numbers, one over pixels for their category."""
    labels, ids, categories = np.zeros(bands.shape[:2], np.int64), [], []
    for number in range(1, 256):
        where = np.argwhere(bands[..., 1] == number)
        if len(where):
            ids.append(number)
            categories.append(int(bands[tuple(where[0])][0]))
            labels[tuple(where.T)] = len(ids)
    return labels, ids, categories


@pytest.mark.parametrize("seed", range(6))
def test_instances_agree_with_a_slow_reading(tmp_path, seed):
    numbers = np.random.default_rng(seed)
    green = numbers.choice([0, *numbers.choice(np.arange(1, 256), 3 + 30 * seed)], (17, 23))
    red = np.concatenate([[0], numbers.integers(1, 101, 255)])[green]
    red[(green == 0) & (numbers.random((17, 23)) < 0.3)] = 55
    blue = numbers.integers(0, 256, (17, 23))
    bands = np.stack([red, green, blue], axis=-1).astype(np.uint8)
    Image.fromarray(bands).save(tmp_path / "mask.png")
    found = read_instances(tmp_path / "mask.png")
    labels, ids, categories = slow_instances(bands)
    assert np.array_equal(found.labels.numpy(), labels)
    assert (found.ids.tolist(), found.categories.tolist()) == (ids, categories)
    assert np.array_equal(found.valid.numpy(), ~((red > 0) & (green == 0)))


def test_a_mask_with_nothing_and_one_with_255_instances(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(path)
    found = read_instances(path)
    assert (len(found.ids), len(found.categories), int(found.labels.max())) == (0, 0, 0)
    bands = np.zeros((16, 16, 3), np.uint8)
    bands[..., 1] = np.arange(256).reshape(16, 16)
    bands[..., 0] = 100
    Image.fromarray(bands).save(path)
    found = read_instances(path)
    assert found.ids.tolist() == list(range(1, 256))
    assert set(found.categories.tolist()) == {100}
    assert not found.valid[0, 0]


def test_faults_are_said_in_words():
    category = np.array([[0, 101, 255, 3, 3, 4]], np.uint8)
    instance = np.array([[9, 0, 1, 2, 2, 2]], np.uint8)
    assert mask_faults(joint_counts(category, instance)) == [
        "category 101, 255 (red) on 2 pixels; categories are 1 to 100",
        "instance 9 (green) has no category (red is 0) on 1 pixels",
        "more than one category in instance 2 (3, 4)",
    ]
    assert mask_faults(joint_counts(category[:, 3:4], instance[:, 3:4])) == []


def test_fault_i3_only_colour_of_8_bits_is_a_mask(tmp_path):
    good = mask(scene(1)[1])
    path = tmp_path / "mask.png"
    Image.fromarray(good).save(path)
    assert np.array_equal(read_colours(path), good)
    for image, words in (
        (Image.fromarray(good[..., 0]), "mode L"),
        (Image.fromarray(good).convert("RGBA"), "mode RGBA"),
        (Image.fromarray(good).convert("P"), "mode P"),
        (Image.fromarray(good[..., 0].astype(np.uint16)), "mode I;16"),
    ):
        image.save(path)
        with pytest.raises(CorruptDatasetError, match=words):
            read_colours(path)
    with pytest.raises(DatasetNotFoundError, match="no such file"):
        read_colours(tmp_path / "absent.png")


def test_fault_i4_colour_of_16_bits_is_refused(tmp_path):
    def chunk(kind, body):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)  # 2x1 pixels, RGB of 16 bits
    row = zlib.compress(bytes(1 + 2 * 3 * 2))
    parts = chunk(b"IHDR", header), chunk(b"IDAT", row), chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(CorruptDatasetError, match="mode RGB with 16 bits per band"):
        read_colours(tmp_path / "deep.png")


def test_fault_i5_a_turned_or_animated_mask_is_refused(tmp_path):
    good = Image.fromarray(mask(scene(1)[1]))
    exif = Image.Exif()
    exif[0x0112] = 6
    good.save(tmp_path / "turned.png", exif=exif)
    with pytest.raises(CorruptDatasetError, match="EXIF orientation"):
        read_colours(tmp_path / "turned.png")
    pages = [Image.fromarray(mask(scene(n)[1])) for n in (1, 2)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(CorruptDatasetError, match="2 frames"):
        read_colours(tmp_path / "pages.tif")


# Names and numbers


def test_the_hundred_categories():
    assert len(CATEGORIES) == len(set(CATEGORIES)) == 100
    assert [CATEGORIES[k - 1] for k in (1, 2, 3, 4, 98, 99, 100)] == [
        "bed", "windowpane", "cabinet", "person", "glass", "clock", "flag",
    ]  # fmt: skip


def test_names_come_from_a_table_in_the_root(tmp_path):
    assert category_names(tmp_path) == CATEGORIES
    other = tuple(f"thing {k}" for k in range(1, 101))
    names = {str(k): name for k, name in enumerate(other, 1)}
    (tmp_path / "instance_categories.json").write_text(json.dumps(names))
    assert category_names(tmp_path) == other
    write_table(tmp_path / "imgCatIds.json")
    assert category_names(tmp_path) == CATEGORIES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0": "none"}, "missing or unknown: 0, 1, 2"),
        ({"one": "bed"}, "category number -> name"),
        ({"1": 2}, "category number -> name"),
        (["bed"], "category number -> name"),
        ({str(k): "x" for k in range(1, 102)}, "missing or unknown: 101"),
    ],
)
def test_other_tables_of_names_are_refused(tmp_path, content, message):
    (tmp_path / "instance_categories.json").write_text(json.dumps(content))
    with pytest.raises(CorruptDatasetError, match=message):
        category_names(tmp_path)


def test_image_ids_by_rule():
    ids = {
        "ADE_train_00000001": 0,
        "ADE_train_00020210": 20209,
        "ADE_val_00000001": 20210,
        "ADE_val_00002000": 22209,
    }
    assert {name: image_id_by_rule(name) for name in ids} == ids


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ADE_test_00000002", "gaps"),
        ("ADE_val_00002001", "1 to 2000"),
        ("ADE_train_00020211", "1 to 20210"),
        ("ADE_train_00000000", "1 to 20210"),
        ("ADE_train_1x", "not a name of the challenge"),
        ("ade_val_00000001", "not a name"),
        ("ADE_val_00000001.png", "not a name"),
    ],
)
def test_names_without_an_id_by_rule(name, message):
    with pytest.raises(ConfigError, match=message):
        image_id_by_rule(name)
