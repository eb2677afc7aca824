"""Data set `coco`: where files may lie, what is painted, and what is refused or noted."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from rlseg.data import dataset_module, open_dataset
from rlseg.data.coco_dataset import Options, check, open_splits
from rlseg.data.coco_masks import paint
from rlseg.data.idlists import divide
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from rlseg.rle import encode
from tests.fake.coco import compressed, disc, random_problem
from tests.fake.coco_root import (
    content,
    write_by_split,
    write_exported,
    write_images,
    write_json,
    write_single,
)
from tests.fake.scenes import rectangles

WHOLE = {"fractions": [1, 0, 0]}


def names(splits):
    return {s: [splits.split(s)[i].name for i in range(len(splits.split(s)))] for s in splits.names}


def edit(root, change, path="annotations.json"):
    """The root with its JSON file changed."""
    data = json.loads((root / path).read_text())
    change(data)
    write_json(root / path, data)
    return root


def small(root, annotations, size=(6, 8), categories=("thing",)):
    """One image with these (mask or segmentation, iscrowd) annotations."""
    height, width = size
    (root / "images").mkdir(parents=True)
    Image.fromarray(np.zeros(size, np.uint8)).save(root / "images" / "one.png")
    data = {
        "images": [{"id": 1, "file_name": "one.png", "height": height, "width": width}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories, start=1)],
        "annotations": [
            {
                "id": 100 + k,
                "image_id": 1,
                "category_id": 1,
                "segmentation": mask if isinstance(mask, (list, dict)) else compressed(mask),
                "iscrowd": crowd,
            }
            for k, (mask, crowd) in enumerate(annotations)
        ],
    }
    write_json(root / "annotations.json", data)
    return root


def block(top, bottom, left, right, size=(6, 8)):
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def test_one_file_is_divided_by_fractions_and_seed(tmp_path):
    root = write_single(tmp_path)
    splits = open_dataset("coco", root)
    sets = divide([f"cell{k}" for k in range(10)], (0.7, 0.15, 0.15), "coco", 0)
    found = names(splits)
    assert [set(found[split]) for split in ("train", "valid", "test")] == sets
    assert {s: len(n) for s, n in found.items()} == {"train": 6, "valid": 2, "test": 2}
    assert names(open_dataset("coco", root)) == found
    assert names(open_dataset("coco", root, {"seed": 1})) != found
    assert splits.classes == ("round", "long")
    assert (splits.task, splits.ndim, splits.channels) == ("instance", 2, 1)


def test_polygons_text_and_counts_give_the_same_labels(tmp_path):
    part = open_dataset("coco", write_single(tmp_path), WHOLE).split("train")
    for k in range(10):
        image, labels = rectangles(k)
        assert part[k].name == f"cell{k}"
        assert torch.equal(part[k].image, torch.from_numpy(image)[None].float() / 255)
        assert torch.equal(part[k].labels, torch.from_numpy(labels).long())
        assert part[k].valid.all()
    found = part.dataset.instances(3)
    assert found.ids.tolist() == [10, 11, 12]
    assert found.categories.tolist() == [1, 4, 1]


@pytest.mark.parametrize(
    "write",
    [write_by_split, lambda root: write_by_split(root, ""), write_exported],
    ids=["coco", "without year", "exported"],
)
def test_files_by_split(tmp_path, write):
    root = write(tmp_path)
    assert names(open_dataset("coco", root)) == {
        "train": ["cell0", "cell1", "cell2"],
        "valid": ["cell3", "cell4"],
        "test": ["cell5"],
    }
    assert check(root, Options()) == []


def test_images_in_other_places(tmp_path):
    for number, folder in enumerate(("a", "a/images", "a/images/train", "a/train")):
        root = tmp_path / str(number)
        write_json(root / "a/instances_train.json", content([0]))
        write_images(root / folder, [0])
        assert names(open_dataset("coco", root / "a")) == {"train": ["cell0"]}


def test_two_files_for_one_split_are_not_guessed(tmp_path):
    root = write_by_split(tmp_path)
    write_json(root / "instances_val.json", content([3]))
    with pytest.raises(ConfigError, match=r"both hold split 'valid'"):
        open_dataset("coco", root)
    only = {"annotations": "annotations/instances_val2017.json", **WHOLE}
    with pytest.raises(CorruptDatasetError, match=r"cell3\.png': no such file"):
        open_dataset("coco", root, only)  # nothing says that its images are in val2017


def test_which_file_is_meant(tmp_path):
    write_images(tmp_path, [0, 1])
    with pytest.raises(DatasetNotFoundError, match=r"instances_train\.json.*found cell0\.png"):
        open_dataset("coco", tmp_path)
    write_json(tmp_path / "mine.json", content([0]))
    assert names(open_dataset("coco", tmp_path)) == {"train": ["cell0"]}
    write_json(tmp_path / "other.json", content([1]))
    with pytest.raises(ConfigError, match=r"2 JSON files \(mine\.json, other\.json\)"):
        open_dataset("coco", tmp_path)
    assert "2 JSON files" in check(tmp_path, Options())[0].what
    chosen = open_dataset("coco", tmp_path, {"annotations": "other.json"})
    assert names(chosen) == {"train": ["cell1"]}
    with pytest.raises(DatasetNotFoundError, match=r"third\.json: no such file"):
        open_dataset("coco", tmp_path, {"annotations": "third.json"})


def test_names_in_folders_and_with_equal_stems(tmp_path):
    write_images(tmp_path, [0, 1], "b/{}.png")
    write_json(tmp_path / "annotations.json", content([0, 1], "b/{}.png"))
    assert names(open_dataset("coco", tmp_path, WHOLE)) == {"train": ["b_0", "b_1"]}
    data = content([0, 1])
    for image, name in zip(data["images"], ("x.png", "x.bmp"), strict=True):
        image["file_name"] = name
        Image.fromarray(rectangles(0)[0]).save(tmp_path / name)
    write_json(tmp_path / "annotations.json", data)
    assert names(open_dataset("coco", tmp_path, WHOLE)) == {"train": ["x.png", "x.bmp"]}


def test_the_later_annotation_takes_the_pixels(tmp_path):
    """By hand: 4x4 and 3x4 blocks that share 2x2 pixels; the third lies under the fourth."""
    masks = [block(0, 4, 0, 4), block(2, 5, 2, 6), block(0, 1, 7, 8), block(0, 2, 6, 8)]
    root = small(tmp_path, [(mask, 0) for mask in masks])
    sample = open_dataset("coco", root).split("train")[0]
    expected = torch.zeros(6, 8, dtype=torch.int64)
    expected[0:4, 0:4], expected[2:5, 2:6], expected[0:2, 6:8] = 1, 2, 3
    assert torch.equal(sample.labels, expected)
    notes = check(root, Options())
    assert all(note.note for note in notes)
    assert [note.what.split(";")[0] for note in notes] == [
        "5 pixels of 1 images (one) are in several instances",
        "1 instances lie wholly under later ones and are lost",
    ]


def test_crowds_are_unknown_where_no_instance_is(tmp_path):
    crowd, thing = block(0, 3, 0, 8), block(1, 5, 1, 3)
    for order in ([(crowd, 1), (thing, 0)], [(thing, 0), (crowd, 1)]):
        root = small(tmp_path / str(order[0][1]), order)
        sample = open_dataset("coco", root).split("train")[0]
        assert torch.equal(sample.labels, torch.from_numpy(thing).long())
        assert torch.equal(sample.valid, torch.from_numpy(~crowd | thing))
        assert check(root, Options()) == []


@pytest.mark.parametrize("seed", range(4))
def test_painting_against_pixel_loops(seed):
    data, _ = random_problem(seed)
    for image in data["images"]:
        entries = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        masks = [coco_mask.decode(entry["segmentation"]).astype(bool) for entry in entries]
        size = image["height"], image["width"]
        crowd = np.array([bool(entry["iscrowd"]) for entry in entries], dtype=bool)
        owner, held, unknown = np.zeros(size, int), np.zeros(size, int), np.zeros(size, bool)
        for k, mask in enumerate(masks):
            if crowd[k]:
                unknown |= mask
            else:
                owner[mask], held = k + 1, held + mask
        stacked = np.array(masks) if masks else np.zeros((0, *size), dtype=bool)
        painted = paint(encode(stacked), crowd, *size)
        assert np.array_equal(painted.owner, owner)
        assert np.array_equal(painted.unknown, unknown & (owner == 0))
        assert painted.contested == (held > 1).sum()
        lost = [k for k, mask in enumerate(masks) if not crowd[k] and not (owner == k + 1).any()]
        assert sorted([*painted.hidden, *painted.empty]) == lost
        assert painted.empty.tolist() == [k for k in lost if not masks[k].any()]


def test_painting_one_large_mask_in_pieces(monkeypatch):
    monkeypatch.setattr("rlseg.data.coco_masks._PIXELS_AT_ONCE", 7)
    masks = np.stack([disc(30, 40, 15, 20, 12), disc(30, 40, 10, 25, 9)])
    painted = paint(encode(masks), np.zeros(2, dtype=bool), 30, 40)
    assert np.array_equal(painted.owner, np.where(masks[1], 2, masks[0]))
    assert painted.contested == (masks[0] & masks[1]).sum()


def test_fault_r7_polygons_outside_are_clipped_and_counted(tmp_path):
    outside, partly = [[20, 20, 30, 20, 30, 30]], [[6, 4, 12, 4, 12, 9, 6, 9]]
    root = small(tmp_path, [(outside, 0), (partly, 0)])
    sample = open_dataset("coco", root).split("train")[0]
    assert torch.equal(sample.labels, torch.from_numpy(block(4, 6, 6, 8)).long())
    assert [p.what for p in check(root, Options())] == [
        "1 annotations have no pixel inside their image"
    ]


def test_images_without_annotations_are_background(tmp_path):
    root = edit(write_single(tmp_path, 2), lambda data: data.update(annotations=[]))
    sample = open_dataset("coco", root, WHOLE).split("train")[1]
    assert not sample.labels.any()
    assert sample.valid.all()
    assert [p.what for p in check(root, Options())] == [
        "2 images have no annotation; all of them is background"
    ]


def test_categories_are_chosen_by_name(tmp_path):
    root = write_single(tmp_path, 2)
    splits = open_dataset("coco", root, {"categories": ["long"], **WHOLE})
    expected = torch.from_numpy(rectangles(0)[1] == 2).long()
    assert torch.equal(splits.split("train")[0].labels, expected)
    assert splits.classes == ("long",)
    with pytest.raises(ConfigError, match=r"no category oval; it has round, long"):
        open_dataset("coco", root, {"categories": ["oval"]})
    assert "no category oval" in check(root, Options(categories=("oval",)))[0].what


def test_splits_with_other_categories_are_refused(tmp_path):
    root = write_by_split(tmp_path)
    path = "annotations/instances_val2017.json"
    edit(root, lambda data: data["categories"][0].update(name="square"), path)
    with pytest.raises(CorruptDatasetError, match=r"instances_val2017.*square, long.*round, long"):
        open_dataset("coco", root)
    problems = check(root, Options())
    assert len(problems) == 1
    assert "differ from those of" in problems[0].what


def test_a_missing_image_is_an_error_or_left_out(tmp_path, caplog):
    root = write_single(tmp_path, 4)
    (root / "images/cell2.png").unlink()
    with pytest.raises(CorruptDatasetError, match=r"image 12: file_name 'cell2\.png': no such"):
        open_dataset("coco", root)
    assert [(p.where.split(": ")[1], p.note) for p in check(root, Options())] == [
        ("image 12", False)
    ]
    options = {"missing_images": "leave_out", **WHOLE}
    found = names(open_dataset("coco", root, options))
    assert found == {"train": ["cell0", "cell1", "cell3"]}
    assert "1 of its images are not there" in caplog.text
    assert [p.note for p in check(root, Options(missing_images="leave_out"))] == [True]
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(CorruptDatasetError, match="no images in it"):
        open_dataset("coco", root, options)


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "a/../../secret.png", "{}/secret.png", "C:\\secret.png", "..\\secret.png",
     "", ".", "a\0b", "/"],
)  # fmt: skip
def test_names_that_lead_out_of_the_root_are_refused(tmp_path, name):
    root = write_single(tmp_path / "root", 2)
    Image.fromarray(rectangles(0)[0]).save(tmp_path / "secret.png")
    (root / "images/a").mkdir()
    edit(root, lambda data: data["images"][1].update(file_name=name.format(tmp_path)))
    for options in (Options(), Options(missing_images="leave_out")):
        with pytest.raises(CorruptDatasetError, match=r"image 11: .*is no path below the folder"):
            open_splits(root, options)
    problems = check(root, Options())
    assert [p.where.split(": ")[1] for p in problems if not p.note] == ["image 11"]


def test_links_out_of_the_root_are_refused_and_others_followed(tmp_path):
    root = write_single(tmp_path / "root", 2)
    (root / "images").rename(root / "pictures")
    (root / "images").symlink_to("pictures")
    (tmp_path / "alias").symlink_to(root)
    for place in (root, tmp_path / "alias"):
        assert len(open_dataset("coco", place, WHOLE).split("train")) == 2
    (root / "pictures/cell1.png").rename(tmp_path / "outside.png")
    (root / "pictures/cell1.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(CorruptDatasetError, match=r"cell1\.png is a link to .* outside of"):
        open_dataset("coco", root)
    (root / "images").unlink()
    (root / "images").symlink_to(tmp_path)
    (problem,) = (p for p in check(root, Options()) if not p.note)  # the folder, once
    assert "root/images is a link to" in problem.what


def test_two_images_of_one_file_are_refused(tmp_path):
    root = edit(write_single(tmp_path, 3), lambda d: d["images"][2].update(file_name="cell0.png"))
    with pytest.raises(CorruptDatasetError, match=r"image 12: .*is also that of image 10"):
        open_dataset("coco", root)


def test_a_name_too_long_for_the_system_is_named(tmp_path):
    root = edit(write_single(tmp_path, 2), lambda d: d["images"][1].update(file_name="x" * 5000))
    problems = check(root, Options())
    assert [p.where.split(": ")[1] for p in problems if not p.note] == ["image 11"]


def test_sizes_are_those_of_the_file(tmp_path):
    root = write_single(tmp_path, 3)
    Image.fromarray(np.zeros((48, 40), np.uint8)).save(root / "images/cell1.png")
    part = open_dataset("coco", root, WHOLE).split("train")
    with pytest.raises(CorruptDatasetError, match=r"cell1\.png: size 48x40 differs from 48x48"):
        part[1]
    assert [p.where for p in check(root, Options())] == [str(root / "images/cell1.png")]


def test_channels(tmp_path):
    root = write_single(tmp_path, 3)
    colour = np.stack([rectangles(1)[0]] * 3, axis=-1)
    Image.fromarray(colour).save(root / "images/cell1.png")
    part = open_dataset("coco", root, WHOLE).split("train")
    with pytest.raises(CorruptDatasetError, match=r"cell1.* 3 channels, the first image has 1"):
        part[1]
    assert len(check(root, Options())) == 1
    for channels in (1, 3):
        part = open_dataset("coco", root, {"channels": channels, **WHOLE}).split("train")
        assert [part[k].image.shape[0] for k in range(3)] == [channels] * 3
        assert check(root, Options(channels=channels)) == []
    Image.fromarray(colour).save(root / "images/cell0.png")
    splits = open_dataset("coco", root, WHOLE)
    assert [splits.split("train")[k].image.shape[0] for k in range(3)] == [3, 3, 3]
    assert check(root, Options()) == []


def test_every_problem_comes_in_one_pass(tmp_path):
    root = write_by_split(tmp_path)
    (root / "train2017/cell0.png").write_bytes(b"not a picture")
    (root / "train2017/cell1.png").unlink()
    Image.fromarray(rectangles(0)[0]).save(root / "train2017/stray.png")
    (root / "val2017/cell4.png").write_bytes((root / "val2017/cell4.png").read_bytes()[:-30])
    edit(root, lambda d: d["annotations"][0].update(image_id=99),
         "annotations/instances_test2017.json")  # fmt: skip
    told = []
    problems = check(root, Options(), lambda *step: told.append(step))
    text = "\n".join(f"{p.where}: {p.what}" for p in problems if not p.note)
    assert len(problems) == 4
    for words in ("cell0.png", "image 11", "cell4.png", "instances_test2017.json"):
        assert words in text
    assert told == [("train", 1, 2), ("train", 2, 2), ("valid", 1, 2), ("valid", 2, 2)]
    edit(root, lambda d: d["annotations"][0].update(image_id=15),
         "annotations/instances_test2017.json")  # fmt: skip
    stray = [p.what for p in check(root, Options()) if p.note]
    assert stray == ["1 images are in no JSON file (" + str(root / "train2017/stray.png") + ") and "
                     "are not used"]  # fmt: skip


def test_a_damaged_file_is_named(tmp_path):
    root = write_single(tmp_path, 2)
    (root / "annotations.json").write_text('{"images": [')
    with pytest.raises(CorruptDatasetError, match=r"annotations\.json: not JSON"):
        open_dataset("coco", root)
    assert "not JSON" in check(root, Options())[0].what


def test_fault_i8_an_image_that_vanishes_is_named(tmp_path):
    root = write_single(tmp_path, 2)
    part = open_dataset("coco", root, WHOLE).split("train")
    (root / "images/cell1.png").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"cell1\.png"):
        part[1]


def test_digest_follows_annotations(tmp_path):
    root = write_single(tmp_path, 2)
    before = open_dataset("coco", root).digest
    edit(root, lambda data: data["annotations"][0].update(category_id=4))
    assert open_dataset("coco", root).digest != before


@pytest.mark.parametrize(
    "fractions", [(0.5, 0.2, 0.2), (0, 0.5, 0.5), (1.5, -0.5, 0), (float("nan"), 0, 0)]
)
def test_fractions_must_add_up(fractions):
    with pytest.raises(ConfigError, match="fractions"):
        Options(fractions=fractions)


def test_no_root_and_no_folder(tmp_path):
    with pytest.raises(ConfigError, match="needs a root folder"):
        open_dataset("coco", None)
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        open_dataset("coco", tmp_path / "nowhere")
    assert dataset_module("coco").DATASET.splits == ("train", "valid", "test")
