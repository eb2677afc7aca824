"""Conversion between folder, coco and cvppp: what stays the same, what is refused, what is left."""

import csv
import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from rlseg.cli import main
from rlseg.commands import data_convert
from rlseg.data import check_dataset, open_dataset
from rlseg.data.convert import FORMATS, convert
from rlseg.data.convert_sources import LABEL_ID
from rlseg.data.images import read_image, read_label_array
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from tests.fake.coco import compressed
from tests.fake.coco_root import content, write_by_split, write_images, write_json, write_single
from tests.fake.cvppp import scene, write_h5, write_png
from tests.fake.folder import write_divided, write_flat, write_nested, write_volumes
from tests.fake.scenes import rectangles


def files(root):
    """Path below the root -> digest of the bytes."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def ids_of(root, name, folder="labels"):
    """The ids of a label file, by any ending, as int64."""
    path = next((root / folder).glob(f"{name}.*"))
    array = np.load(path) if path.suffix == ".npy" else read_label_array(path)
    return array.astype(object).astype(np.int64)


def write_ids(root, name, ids, image=None):
    """A pair of the layout `folder` with these ids, as npy where PNG cannot hold them."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    picture = np.zeros(ids.shape, np.uint8) if image is None else image
    Image.fromarray(picture).save(root / "images" / f"{name}.png")
    if ids.max() <= 65535:
        Image.fromarray(ids.astype(np.uint16)).save(root / "labels" / f"{name}.png")
    else:
        np.save(root / "labels" / f"{name}.npy", ids)
    return root


def there_and_back(tmp_path, source, middle, form="folder", **options):
    """The source converted to `middle` and back."""
    convert(source, tmp_path / "mid", source_format=form, target_format=middle, **options)
    convert(tmp_path / "mid", tmp_path / "back", source_format=middle, target_format=form)
    return tmp_path / "back"


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_folder_to_coco_and_back_is_the_same_files(tmp_path):
    source = write_flat(tmp_path / "src", 4)
    before = files(source)
    back = there_and_back(tmp_path, source, "coco")
    assert {n: d for n, d in files(back).items() if n[:6] == "images"} == {
        n: d for n, d in before.items() if n[:6] == "images"
    }
    for k in range(4):
        assert np.array_equal(ids_of(back, f"cell{k}"), rectangles(k)[1])
    assert files(source) == before
    assert check_dataset("coco", tmp_path / "mid") == []


def test_what_is_written_is_what_pycocotools_reads(tmp_path):
    source = write_flat(tmp_path / "src", 3)
    ids = np.array([0, 3, 7, 400])[rectangles(5)[1]]
    write_ids(source, "gaps", ids)
    done = convert(
        source, tmp_path / "c", source_format="folder", target_format="coco", category="leaf"
    )
    assert (done.images, done.instances, done.notes) == (4, 12, ())
    data = COCO(str(tmp_path / "c/annotations.json"))
    assert [c["name"] for c in data.dataset["categories"]] == ["leaf"]
    assert len({a["id"] for a in data.dataset["annotations"]}) == 12
    for image in data.dataset["images"]:
        name = image["file_name"].removesuffix(".png")
        true = ids if name == "gaps" else rectangles(int(name[4:]))[1]
        assert (tmp_path / "c/images" / image["file_name"]).is_file()
        assert (image["height"], image["width"]) == true.shape
        annotations = data.imgToAnns[image["id"]]
        assert len(annotations) == 3
        for annotation in annotations:
            mask = true == annotation[LABEL_ID]
            assert np.array_equal(data.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0


@pytest.mark.parametrize("write", [write_divided, write_nested])
def test_splits_stay(tmp_path, write):
    source = write(tmp_path / "src")
    back = there_and_back(tmp_path, source, "coco")
    first, again = open_dataset("folder", source), open_dataset("folder", back)
    middle = open_dataset("coco", tmp_path / "mid")
    assert first.names == again.names == middle.names
    for split in first.names:
        for a, b, c in zip(*(s.split(split) for s in (first, again, middle)), strict=True):
            assert a.name == b.name == c.name
            assert a.labels.equal(b.labels)
            assert a.labels.equal(c.labels)
            assert a.image.equal(b.image)


def test_folder_to_cvppp_and_back(tmp_path):
    source = write_flat(tmp_path / "src", 11)
    back = there_and_back(tmp_path, source, "cvppp")
    plants = rows(tmp_path / "mid/names.csv")
    assert plants[0] == ["plant", "name", "split", "image"]
    assert [row[:2] for row in plants[1:]] == [[f"plant{k + 1:03d}", f"cell{k}"] for k in range(11)]
    for plant, name, _, _ in plants[1:]:
        image, labels = rectangles(int(name[4:]))
        assert np.array_equal(ids_of(back, plant), labels)
        assert np.array_equal(
            read_image(back / "images" / f"{plant}.png").numpy(),
            np.repeat(image[None], 3, axis=0).astype(np.float32) / np.float32(255),
        )
        fg = read_label_array(tmp_path / "mid/A1" / f"{plant}_fg.png")
        assert np.array_equal(fg, labels > 0)
        assert read_label_array(tmp_path / "mid/A1" / f"{plant}_label.png").dtype == np.uint8
    assert rows(tmp_path / "mid/A1/A1.csv") == [
        [f"plant{k + 1:03d}_rgb.png", "3"] for k in range(11)
    ]
    assert all(problem.note for problem in check_dataset("cvppp", tmp_path / "mid"))


def test_cvppp_through_coco_keeps_plants_images_and_gaps(tmp_path):
    source = write_png(tmp_path / "src")
    before = {n: d for n, d in files(source).items() if n.endswith("_rgb.png")}
    back = there_and_back(tmp_path, source, "coco", "cvppp", category="leaf")
    assert {n: d for n, d in files(back).items() if n.endswith("_rgb.png")} == before
    for number, path in enumerate(sorted((source / "A1").glob("*_label.png"))):
        ids = read_label_array(back / "A1" / path.name)
        assert np.array_equal(ids, scene(number)[1])
        assert np.array_equal(ids, read_label_array(path))


def test_cvppp_hdf5_and_several_parts(tmp_path):
    convert(
        write_h5(tmp_path / "h5"), tmp_path / "a", source_format="cvppp", target_format="folder"
    )
    assert np.array_equal(ids_of(tmp_path / "a", "plant001"), scene(0)[1])
    image = read_image(tmp_path / "a/images/plant001.png").numpy()
    assert np.array_equal(np.moveaxis(image * 255, 0, -1).round(), scene(0)[0][..., :3])
    write_png(tmp_path / "two", ("plant001",))
    write_png(tmp_path / "two", ("plant001", "plant002"), part="A3")
    done = convert(tmp_path / "two", tmp_path / "b", source_format="cvppp", target_format="folder")
    assert done.images == 3
    assert sorted(p.stem for p in (tmp_path / "b/labels").iterdir()) == [
        "A1_plant001", "A3_plant001", "A3_plant002",
    ]  # fmt: skip
    convert(tmp_path / "two", tmp_path / "c", source_format="cvppp", target_format="folder",
            settings={"parts": ["A3"]})  # fmt: skip
    assert sorted(p.stem for p in (tmp_path / "c/labels").iterdir()) == ["plant001", "plant002"]
    with pytest.raises(DatasetNotFoundError, match="no labelled plants of A2"):
        convert(tmp_path / "two", tmp_path / "d", source_format="cvppp", target_format="folder",
                settings={"parts": ["A1", "A2"]})  # fmt: skip


def test_fault_l1_many_instances_keep_their_ids(tmp_path):
    """300 and 70 000 instances, and ids beyond 16, 31 and 53 bits."""
    few = np.zeros((40, 60), np.int64)
    few.ravel()[: 300 * 8] = np.repeat(np.arange(1, 301), 8)
    many = np.arange(300 * 240).reshape(300, 240)
    many[many > 70_000] = 0
    wide = np.array([[0, 7], [2**40, 2**62 + 1]])
    source = tmp_path / "src"
    for name, ids in (("few", few), ("many", many), ("wide", wide)):
        write_ids(source, name, ids)
    back = there_and_back(tmp_path, source, "coco")
    for name, ids, ending in (("few", few, ".png"), ("many", many, ".tif"), ("wide", wide, ".npy")):
        assert (back / "labels" / f"{name}{ending}").is_file()
        assert np.array_equal(ids_of(back, name), ids)
    assert check_dataset("folder", back) == []


def test_fault_l1_cvppp_refuses_what_8_bits_do_not_hold(tmp_path):
    ids = np.zeros((20, 20), np.int64)
    ids.ravel()[:256] = np.arange(1, 257)
    source = write_ids(tmp_path / "many", "x", ids)
    for renumber in (False, True):
        with pytest.raises(ConfigError, match=r"x\.png: 256 instances; .* up to 255: convert to"):
            convert(source, tmp_path / "a", source_format="folder", target_format="cvppp",
                    renumber=renumber)  # fmt: skip
    few = np.where(ids == 5, 300, np.where(ids == 9, 2, 0))
    source = write_ids(tmp_path / "few", "x", few)
    with pytest.raises(ConfigError, match=r"id 300; .*--renumber"):
        convert(source, tmp_path / "a", source_format="folder", target_format="cvppp")
    assert not (tmp_path / "a").exists()
    convert(source, tmp_path / "a", source_format="folder", target_format="cvppp", renumber=True)
    found = read_label_array(tmp_path / "a/A1/plant001_label.png")
    assert np.array_equal(found, np.where(few == 300, 2, few == 2))


def test_coco_of_other_programs_is_numbered_in_its_order(tmp_path):
    source = write_by_split(tmp_path / "src")
    done = convert(source, tmp_path / "f", source_format="coco", target_format="folder")
    assert (done.images, done.instances) == (6, 18)
    for split, numbers in {"train": (0, 1, 2), "val": (3, 4), "test": (5,)}.items():
        for number in numbers:
            found = ids_of(tmp_path / "f" / split, f"cell{number}")
            assert np.array_equal(found, rectangles(number)[1])
    table = rows(tmp_path / "f/instances.csv")
    assert table[0] == ["split", "name", "id", "annotation_id", "category_id", "category"]
    assert table[1:4] == [
        ["train", "cell0", "1", "1", "1", "round"],
        ["train", "cell0", "2", "2", "4", "long"],
        ["train", "cell0", "3", "3", "1", "round"],
    ]
    assert len(table) == 19


def test_label_ids_that_are_not_of_one_image_each_are_not_used(tmp_path):
    for number, wrong in enumerate((7, 0, -1, True, "4", 1.0, 2**64)):
        source = write_single(tmp_path / f"{number}", 1)
        data = json.loads((source / "annotations.json").read_text())
        for annotation, label in zip(data["annotations"], (7, 9, wrong), strict=True):
            annotation[LABEL_ID] = label
        write_json(source / "annotations.json", data)
        convert(source, tmp_path / f"{number}f", source_format="coco", target_format="folder")
        assert np.array_equal(ids_of(tmp_path / f"{number}f", "cell0"), rectangles(0)[1])


def overlapping(root):
    """Two images: in the second one, mask 2 covers part of mask 1 and all of mask 3's pixels."""
    write_images(root, [0, 1])
    data = content([0, 1])
    labels = rectangles(1)[1]
    masks = [labels == 1, (labels == 2) | (labels == 3), labels == 3]
    masks[1][:10] |= masks[0][:10]
    for annotation, mask in zip(data["annotations"][3:], masks[::-1], strict=True):
        annotation["segmentation"] = compressed(mask)
    write_json(root / "annotations.json", data)
    return root, masks


def test_overlapping_masks_are_refused_or_the_later_one_wins(tmp_path):
    source, masks = overlapping(tmp_path / "src")
    shared = int((masks[0] & masks[1]).sum() + (masks[1] & masks[2]).sum())
    assert shared > 0
    with pytest.raises(
        ConfigError, match=rf"{shared} pixels of 1 images \(cell1\.png\).*--overlaps later"
    ):
        convert(source, tmp_path / "f", source_format="coco", target_format="folder")
    assert not (tmp_path / "f").exists()
    done = convert(
        source, tmp_path / "f", source_format="coco", target_format="folder", overlaps="later"
    )
    expected = np.where(masks[0], 2, masks[1])  # the file holds them in reverse: 2 over 1 over 3
    assert np.array_equal(ids_of(tmp_path / "f", "cell1"), expected)
    assert done.notes == (
        f"{shared} pixels were in several instances; the later one took them",
        "1 instances were wholly under later ones and are lost",
    )
    assert done.instances == 5


def crowded(root):
    write_images(root, [0])
    data = content([0])
    data["annotations"][1]["iscrowd"] = 1
    write_json(root / "annotations.json", data)
    return root


def test_crowds_need_an_id_and_come_back_as_crowds(tmp_path):
    source = crowded(tmp_path / "src")
    labels = rectangles(0)[1]
    with pytest.raises(ConfigError, match=r"pixels without a truth.*--ignore-id"):
        convert(source, tmp_path / "f", source_format="coco", target_format="folder")
    with pytest.raises(ConfigError, match=r"which CVPPP cannot say"):
        convert(source, tmp_path / "f", source_format="coco", target_format="cvppp")
    with pytest.raises(ConfigError, match="2 is the id of an instance"):
        convert(source, tmp_path / "f", source_format="coco", target_format="folder", ignore_id=2)
    convert(source, tmp_path / "f", source_format="coco", target_format="folder", ignore_id=999)
    assert np.array_equal(ids_of(tmp_path / "f", "cell0"), np.array([0, 1, 999, 2])[labels])
    convert(tmp_path / "f", tmp_path / "c", source_format="folder", target_format="coco",
            ignore_id=999)  # fmt: skip
    sample = open_dataset("coco", tmp_path / "c").split("train")[0]
    assert np.array_equal(sample.valid.numpy(), labels != 2)
    assert np.array_equal(sample.labels.numpy(), np.array([0, 1, 0, 2])[labels])
    convert(tmp_path / "f", tmp_path / "again", source_format="folder", target_format="coco")
    assert open_dataset("coco", tmp_path / "again").split("train")[0].labels.max() == 3


def test_only_some_categories(tmp_path):
    source = write_single(tmp_path / "src", 2)
    convert(source, tmp_path / "f", source_format="coco", target_format="folder",
            settings={"categories": ["long"]})  # fmt: skip
    assert np.array_equal(ids_of(tmp_path / "f", "cell0"), rectangles(0)[1] == 2)


@pytest.mark.parametrize("target", ["coco", "cvppp"])
def test_volumes_are_refused(tmp_path, target):
    source = write_volumes(tmp_path / "src")
    with pytest.raises(ConfigError, match=r"labels with 3 axes; .* COCO and CVPPP know no volumes"):
        convert(source, tmp_path / "x", source_format="folder", target_format=target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]


def test_images_that_the_target_does_not_take_become_png(tmp_path):
    source = write_ids(tmp_path / "src", "array", np.eye(6, dtype=np.int64))
    (source / "images/array.png").unlink()
    deep = (np.arange(36).reshape(6, 6) * 1800).astype(np.uint16)
    np.save(source / "images/array.npy", deep)
    back = there_and_back(tmp_path, source, "coco")
    assert np.array_equal(np.asarray(Image.open(back / "images/array.png")), deep)
    with pytest.raises(ConfigError, match=r"array\.npy: more than 8 bits"):
        convert(source, tmp_path / "x", source_format="folder", target_format="cvppp")
    np.save(source / "images/array.npy", np.full((6, 6), 0.123456, np.float32))
    with pytest.raises(ConfigError, match=r"array\.npy: PNG holds 8 bits per colour or 16 bits"):
        convert(source, tmp_path / "x", source_format="folder", target_format="coco")


def test_jpeg_is_copied_and_a_turned_one_stored_upright(tmp_path):
    source = tmp_path / "src"
    for name in ("plain", "turned"):
        write_ids(source, name, np.ones((16, 24), np.int64))
        (source / f"images/{name}.png").unlink()
        wide = name == "plain"
        shape = (16, 24, 3) if wide else (24, 16, 3)
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 1 if wide else 6
        picture.save(source / f"images/{name}.jpg", exif=exif)
    convert(source, tmp_path / "c", source_format="folder", target_format="coco")
    plain = (source / "images/plain.jpg").read_bytes()
    assert (tmp_path / "c/images/plain.jpg").read_bytes() == plain
    upright = Image.open(tmp_path / "c/images/turned.png")
    assert upright.size == (24, 16)
    expected = read_image(source / "images/turned.jpg")
    assert read_image(tmp_path / "c/images/turned.png").equal(expected)
    convert(source, tmp_path / "p", source_format="folder", target_format="cvppp")
    assert read_image(tmp_path / "p/A1/plant002_rgb.png").equal(expected)


def test_binary_labels_can_be_split_on_the_way(tmp_path):
    source = write_ids(tmp_path / "src", "x", (rectangles(0)[1] > 0).astype(np.int64))
    convert(source, tmp_path / "c", source_format="folder", target_format="coco",
            settings={"components": "sides"})  # fmt: skip
    sample = open_dataset("coco", tmp_path / "c").split("train")[0]
    assert np.array_equal(sample.labels.numpy(), rectangles(0)[1])


def test_empty_label_maps_stay_empty(tmp_path):
    source = write_ids(tmp_path / "src", "none", np.zeros((5, 7), np.int64))
    for target in ("coco", "cvppp"):
        assert convert(source, tmp_path / target, source_format="folder",
                       target_format=target).instances == 0  # fmt: skip
        convert(tmp_path / target, tmp_path / f"{target}-back", source_format=target,
                target_format="folder")  # fmt: skip
        labels = next((tmp_path / f"{target}-back/labels").iterdir())
        assert read_label_array(labels).shape == (5, 7)
        assert not read_label_array(labels).any()


def test_nothing_half_written_is_left(tmp_path):
    source = write_flat(tmp_path / "src", 5)
    (source / "labels/cell4.png").write_bytes(b"not a picture")
    for target in ("coco", "cvppp"):
        with pytest.raises(CorruptDatasetError, match=r"cell4\.png"):
            convert(source, tmp_path / "x", source_format="folder", target_format=target)

    def interrupt(done, total):
        assert total == 4
        if done == 2:
            raise KeyboardInterrupt

    (source / "labels/cell4.png").unlink()
    (source / "images/cell4.png").unlink()
    (tmp_path / "x").mkdir()
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "x", source_format="folder", target_format="coco",
                progress=interrupt)  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src", "x"]
    assert not list((tmp_path / "x").iterdir())


def test_a_full_disk_is_a_short_message(tmp_path, monkeypatch):
    source = write_flat(tmp_path / "src", 2)

    def full(*_):
        raise OSError(28, "No space left on device", "cell0.png")

    monkeypatch.setattr("rlseg.data.convert_targets.shutil.copyfile", full)
    with pytest.raises(ConfigError, match=r"cell0\.png: cannot be written: No space left"):
        convert(source, tmp_path / "x", source_format="folder", target_format="coco")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]


def test_targets_that_are_not_empty_are_left_alone(tmp_path):
    source = write_flat(tmp_path / "src", 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    for target, words in (("full", "is not empty"), ("full/mine.txt", "is not a folder"),
                          ("src", "is not empty")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            convert(source, tmp_path / target, source_format="folder", target_format="coco")
    assert sorted(p.name for p in (tmp_path / "full").iterdir()) == ["mine.txt"]
    convert(source, tmp_path / "new/deep", source_format="folder", target_format="coco")
    assert (tmp_path / "new/deep/annotations.json").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_format": "folder"}, "both formats are folder"),
        ({"target_format": "voc"}, "unknown format 'voc'; known: folder, coco, cvppp"),
        ({"source_format": "coco", "target_format": "cvppp", "ignore_id": 5}, "label maps of a"),
        ({"ignore_id": 0}, "from 1 to"),
        ({"ignore_id": 2**64}, "from 1 to"),
        ({"ignore_id": 5, "settings": {"ignore_id": 5}}, "given twice"),
        ({"overlaps": "later"}, "have no overlaps"),
        ({"target_format": "cvppp", "category": "leaf"}, "category in a COCO file"),
        ({"category": ""}, "category in a COCO file"),
        ({"settings": {"fractions": [1, 0, 0]}}, "fractions divides a data set"),
        ({"settings": {"sufix": "x"}}, "sufix"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, words):
    source = write_flat(tmp_path / "src", 1)
    with pytest.raises(ConfigError, match=words):
        convert(
            source, tmp_path / "x", **{"source_format": "folder", "target_format": "coco"} | options
        )
    assert not (tmp_path / "x").exists()


def test_targets_inside_the_source_are_refused(tmp_path):
    source = write_flat(tmp_path / "src", 1)
    (tmp_path / "alias").symlink_to(source)
    before = sorted(source.rglob("*"))
    for target in ("src/new", "src/images/new", "alias/new", "src/labels/../new"):
        with pytest.raises(ConfigError, match=r"lies inside .*src, which is only read"):
            convert(source, tmp_path / target, source_format="folder", target_format="coco")
    assert sorted(source.rglob("*")) == before
    (tmp_path / "src2").mkdir()  # a name that begins alike is another folder
    convert(source, tmp_path / "src2/new", source_format="folder", target_format="coco")


def test_sources_that_are_not_there(tmp_path):
    (tmp_path / "src").mkdir()
    for form in ("folder", "coco", "cvppp"):
        with pytest.raises(DatasetNotFoundError):
            convert(tmp_path / "src", tmp_path / "x", source_format=form,
                    target_format="coco" if form == "folder" else "folder")  # fmt: skip
    source = write_png(tmp_path / "src")
    (source / "A1/plant001_label.png").unlink()
    with pytest.raises(CorruptDatasetError, match="plant001"):
        convert(source, tmp_path / "x", source_format="cvppp", target_format="folder")


def test_fault_l2_labels_that_are_no_ids_are_refused(tmp_path):
    source = write_flat(tmp_path / "src", 2)
    (source / "labels/cell1.png").unlink()
    for wrong in (np.full((48, 48), 1.0), np.full((48, 48), -1), np.full((48, 48), 1j)):
        np.save(source / "labels/cell1.npy", wrong)
        with pytest.raises(CorruptDatasetError, match=r"cell1\.npy"):
            convert(source, tmp_path / "x", source_format="folder", target_format="coco")
    np.save(source / "labels/cell1.npy", np.eye(48, dtype=bool))
    back = there_and_back(tmp_path, source, "coco")
    assert np.array_equal(ids_of(back, "cell1"), np.eye(48))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "mid", "src"]


def test_fault_i4_image_and_labels_of_different_size(tmp_path):
    source = write_flat(tmp_path / "src", 1)
    Image.fromarray(np.zeros((48, 40), np.uint8)).save(source / "images/cell0.png")
    with pytest.raises(CorruptDatasetError, match=r"images/cell0\.png: size 48x40 .*labels/cell0"):
        convert(source, tmp_path / "x", source_format="folder", target_format="coco")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    source = write_flat(tmp_path / "src", 1)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be written: Not a directory"):
        convert(source, tmp_path / "file/x", source_format="folder", target_format="coco")


def test_names_that_cannot_be_written_are_refused(tmp_path):
    source = write_single(tmp_path / "src", 1)
    data = json.loads((source / "annotations.json").read_text())
    data["images"][0]["file_name"] = ".hidden.png"
    write_images(source / "images", [0], ".hidden.png")
    write_json(source / "annotations.json", data)
    with pytest.raises(ConfigError, match=r"\.hidden: names that begin with a dot"):
        convert(source, tmp_path / "x", source_format="coco", target_format="folder")


def test_fault_p5_names_that_are_not_utf_8(tmp_path):
    source = write_flat(tmp_path / "src", 1)
    for folder in ("images", "labels"):
        (source / folder / "cell0.png").rename(source / folder / "caf\udce9.png")
    with pytest.raises(ConfigError, match="is not UTF-8; rename it"):
        convert(source, tmp_path / "x", source_format="folder", target_format="coco")
    convert(source, tmp_path / "x", source_format="folder", target_format="cvppp")
    assert "caf\\udce9" in (tmp_path / "x/names.csv").read_text()


def test_command(tmp_path, capsys):
    source, _ = overlapping(tmp_path / "src")
    arguments = ["data", "convert", str(source), str(tmp_path / "f"), "--from", "coco"]
    assert main([*arguments, "--to", "folder"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("rlseg: ")
    assert "--overlaps later" in captured.err
    assert main([*arguments, "--to", "folder", "--overlaps", "later"]) == 0
    captured = capsys.readouterr()
    assert captured.out == (
        f"{tmp_path / 'f'} (folder): 2 images, 5 instances of {source} (coco)\n"
    )
    assert "note: 1 instances were wholly under later ones" in captured.err
    assert main(["data", "convert", str(tmp_path / "f"), str(tmp_path / "c"), "--from", "folder",
                 "--to", "coco", "--category", "cell", "--quiet"]) == 0  # fmt: skip
    captured = capsys.readouterr()
    assert "2 images" in captured.out
    assert captured.err == ""
    assert main([*arguments[:3], str(tmp_path / "g"), "--from", "coco", "--to", "folder",
                 "--overlaps", "later", "--data", 'categories=["long"]']) == 0  # fmt: skip
    assert main([*arguments, "--to", "vocal"]) == 2
    assert "unknown word 'vocal'" in capsys.readouterr().err


def test_the_command_knows_the_formats():
    assert data_convert.FORMATS == FORMATS


def test_help_shows_examples(capsys):
    assert main(["data", "convert", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.count("  rlseg data convert ") == 2
    for option in ("--from", "--to", "--overlaps", "--ignore-id", "--renumber", "--category"):
        assert option in text
