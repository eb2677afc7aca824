"""Masks of the Places Challenge -> a truth that its evaluation reads."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as official_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rlseg import cli
from rlseg.data.places_convert import convert_annotations
from rlseg.data.places_table import CATEGORIES
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from tests.fake.places import NUMBERS, mask, mask_path, scene, write_places, write_table


@pytest.fixture
def root(tmp_path):
    return write_places(tmp_path / "places")


def official(root, folder, image_ids, first_id):
    """The annotations by the challenge's description, one mask after the other."""
    annotations = []
    for path in sorted((root / "annotations_instance" / folder).glob("*.png")):
        bands = np.array(Image.open(path))
        for number in np.unique(bands[..., 1]):
            if number == 0:
                continue
            pixels = bands[..., 1] == number
            encoded = official_masks.encode(np.asfortranarray(pixels.astype(np.uint8)))
            annotations.append(
                {
                    "id": first_id + len(annotations),
                    "image_id": image_ids[path.stem],
                    "category_id": int(bands[pixels][0, 0]),
                    "segmentation": {
                        "size": encoded["size"],
                        "counts": encoded["counts"].decode(),
                    },
                    "area": int(pixels.sum()),
                    "bbox": [int(side) for side in official_masks.toBbox(encoded)],
                    "iscrowd": 0,
                }
            )
    return annotations


def pictured(seed, height=37, width=53):
    """A mask with many instances in pieces, of many categories."""
    numbers = np.random.default_rng(seed)
    blocks = numbers.integers(0, 256, (height // 4 + 1, width // 4 + 1))
    green = blocks.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    red = np.concatenate([[0], numbers.integers(1, 101, 255)])[green]
    return np.stack([red, green, np.zeros_like(red)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("first_id", [0, 1, 17])
def test_annotations_are_those_of_the_official_description(tmp_path, first_id):
    folder = tmp_path / "annotations_instance" / "validation"
    folder.mkdir(parents=True)
    for seed in range(1, 5):
        Image.fromarray(pictured(seed)).save(folder / f"ADE_val_{seed:08d}.png")
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(folder / "ADE_val_00000009.png")
    truth = convert_annotations(tmp_path, "validation", first_id=first_id)
    ids = {f"ADE_val_{n:08d}": 20209 + n for n in (1, 2, 3, 4, 9)}
    assert truth["annotations"] == official(tmp_path, "validation", ids, first_id)
    assert truth["images"] == [
        {"file_name": f"{stem}.jpg", "id": number,
         "width": 4 if number == 20218 else 53, "height": 3 if number == 20218 else 37}
        for stem, number in ids.items()
    ]  # fmt: skip
    assert truth["categories"] == [{"id": k, "name": n} for k, n in enumerate(CATEGORIES, 1)]


def test_image_ids_by_rule_or_table(root, tmp_path):
    by_rule = convert_annotations(root, "training")
    assert [image["id"] for image in by_rule["images"]] == [0, 1, 9, 20209]
    path = write_table(tmp_path / "table.json")
    table = json.loads(path.read_text())
    for image in table["images"]:
        image["id"] += 1000
    table["categories"][3]["name"] = "human"
    path.write_text(json.dumps(table))
    by_table = convert_annotations(root, "training", images_json=path)
    assert [image["id"] for image in by_table["images"]] == [1000, 1001, 1009, 21209]
    assert by_table["categories"][3] == {"id": 4, "name": "human"}
    assert len(by_table["images"]) == len(NUMBERS["training"])  # only those with a mask
    path.rename(root / "imgCatIds.json")
    assert convert_annotations(root, "training") == by_table
    del table["categories"]
    path.write_text(json.dumps(table))
    (root / "imgCatIds.json").unlink()
    unnamed = convert_annotations(root, "training", images_json=path)
    assert unnamed["categories"] == by_rule["categories"]


def test_the_layout_of_the_scene_parsing_archive(tmp_path):
    write_places(tmp_path / "ADEChallengeData2016")
    assert len(convert_annotations(tmp_path, "validation")["images"]) == 4


def test_progress_is_told(root):
    told = []
    convert_annotations(root, "validation", progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_cannot_be_converted(root, tmp_path):
    with pytest.raises(ConfigError, match="publishes no masks"):
        convert_annotations(root, "testing")
    with pytest.raises(ConfigError, match="choose training or validation"):
        convert_annotations(root, "val")
    with pytest.raises(ConfigError, match="first_id must be 0 or more, got -1"):
        convert_annotations(root, "validation", first_id=-1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"no files annotations_instance/training/"):
        convert_annotations(tmp_path / "empty", "training")
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        convert_annotations(tmp_path / "absent", "training")
    with pytest.raises(ConfigError, match="no such file"):
        convert_annotations(root, "training", images_json=tmp_path / "absent.json")


def test_all_faults_are_listed_in_one_pass(root):
    folder = root / "annotations_instance" / "validation"
    bands = mask(scene(1)[1])
    broken = bands.copy()
    broken[..., 0][broken[..., 1] == 7] = 0
    Image.fromarray(broken).save(mask_path(root, "validation", 1))
    mask_path(root, "validation", 2).write_bytes(b"no image")
    Image.fromarray(bands).save(folder / "ADE_val_00003000.png")
    Image.fromarray(bands).save(folder / "ADE_val_3.png")
    Image.fromarray(bands).save(folder / "ADE_test_00000001.png")
    with pytest.raises(CorruptDatasetError) as caught:
        convert_annotations(root, "validation")
    text = str(caught.value)
    for part in (
        "ADE_val_00000001.png: instance 7 (green) has no category",
        "ADE_val_00000002.png: not an image",
        "ADE_val_00003000.png: number 3000; val images are 1 to 2000",
        "ADE_val_3.png: image id 20212 is that of ",
        "ADE_test_00000001.png: the numbers of test images have gaps",
    ):
        assert part in text
    for number in range(4000, 4012):
        Image.fromarray(bands).save(folder / f"ADE_val_0000{number}.png")
    with pytest.raises(CorruptDatasetError, match=r"; and 7 more$"):
        convert_annotations(root, "validation")


def test_masks_that_contradict_the_table(root):
    path = write_table(root / "imgCatIds.json")
    table = json.loads(path.read_text())
    table["images"][4]["width"] = 47
    table["images"] = [image for image in table["images"] if image["id"] != 20211]
    path.write_text(json.dumps(table))
    with pytest.raises(CorruptDatasetError) as caught:
        convert_annotations(root, "validation")
    assert "ADE_val_00000001.png: size 40x48 differs from" in str(caught.value)
    assert "ADE_val_00000002.png: " in str(caught.value)
    assert "lists no image of this name" in str(caught.value)


# The command, and whether others can read what it writes


def convert(root, out, *words):
    arguments = ["places", "convert", str(root), "--split", "validation", "--out", str(out)]
    return cli.main([*arguments, *map(str, words)])


def test_the_command_writes_one_file_that_repeats(root, tmp_path, capsys):
    out = tmp_path / "new" / "truth.json"
    assert convert(root, out) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert "4 images, 12 instances" in captured.err
    assert json.loads(out.read_text()) == convert_annotations(root, "validation")
    assert [path.name for path in out.parent.iterdir()] == ["truth.json"]
    again = tmp_path / "again.json"
    assert convert(root, again, "--quiet") == 0
    assert again.read_bytes() == out.read_bytes()
    assert convert(root, again, "--quiet", "--first-id", 0) == 0
    assert [a["id"] for a in json.loads(again.read_text())["annotations"]] == list(range(12))
    table = write_table(tmp_path / "table.json")
    assert convert(root, again, "--quiet", "--images-json", table) == 0
    assert again.read_bytes() == out.read_bytes()


def test_nothing_is_written_when_a_mask_is_damaged(root, tmp_path, capsys):
    mask_path(root).write_bytes(b"no image")
    out = tmp_path / "new" / "truth.json"
    assert convert(root, out) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert str(mask_path(root)) in captured.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("split", "why"),
    [
        ("testing", "the challenge publishes no masks of it; choose training or validation"),
        ("test", "the challenge publishes no masks of it"),
        ("val", "unknown; choose training or validation"),
    ],
)
def test_the_command_refuses_other_splits(root, tmp_path, capsys, split, why):
    out = tmp_path / "truth.json"
    words = ["places", "convert", str(root), "--split", split, "--out", str(out)]
    assert cli.main(words) == 2
    assert f"split {split!r}: {why}" in capsys.readouterr().err
    assert not out.exists()


def test_pixels_of_a_category_without_an_instance_are_noted(tmp_path, capsys):
    root = write_places(tmp_path / "places")
    path = mask_path(root)
    bands = np.array(Image.open(path))
    bands[..., 0][bands[..., 1] == 0] = 0
    Image.fromarray(bands).save(path)
    empty = np.argwhere(bands[..., 1] == 0)[:3]
    for other in sorted(path.parent.glob("*.png")):
        clean = np.array(Image.open(other))
        clean[..., 0][clean[..., 1] == 0] = 0
        Image.fromarray(clean).save(other)
    assert convert(root, tmp_path / "a.json") == 0
    assert "note" not in capsys.readouterr().err
    for row, column in empty:
        bands[row, column, 0] = 5
    Image.fromarray(bands).save(path)
    assert convert(root, tmp_path / "b.json") == 0
    shown = capsys.readouterr().err
    assert "note: 3 pixels in 1 of 4 masks have a category but no instance" in shown
    assert str(path) in shown
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def perfect(truth):
    """A submission that is the truth."""
    keys = ("image_id", "category_id", "segmentation")
    return [{key: item[key] for key in keys} | {"score": 1.0} for item in truth["annotations"]]


def official_scores(truth_path, results):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_path))
        found = truth.loadRes(results)
        evaluation = COCOeval(truth, found, "segm")
        evaluation.params.maxDets = [1, 50, 255]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return precision[precision > -1].mean()


@pytest.mark.parametrize(("first_id", "expected"), [(1, 1.0), (0, 0.9)])
def test_the_official_tools_give_a_perfect_submission_its_due(root, tmp_path, first_id, expected):
    out = tmp_path / "truth.json"
    assert convert(root, out, "--quiet", "--first-id", first_id) == 0
    truth = json.loads(out.read_text())
    score = official_scores(out, perfect(truth))
    if first_id == 0:
        assert score < expected  # annotation 0 is lost
    else:
        assert score == pytest.approx(expected, abs=1e-12)
