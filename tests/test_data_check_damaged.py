"""`rlseg data check` on damaged copies of every layout: all of it in one pass, each thing once."""

import json

import h5py
import numpy as np
import pytest
from PIL import Image

from rlseg.cli import main
from rlseg.data import check_dataset
from tests.fake import (
    camvid,
    cityscapes,
    coco_root,
    cremi,
    cvppp,
    em3d,
    folder,
    gtav,
    kitti,
    monuseg,
    places,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
ORIENTATION = 0x0112


def reread(path):
    """A picture with its palette, if it has one."""
    with Image.open(path) as picture:
        picture.load()
        return picture.copy()


# Each takes the paths of an image and its labels, damages one, and gives back the one to be named.


def missing_labels(image, labels):
    labels.unlink()
    return image


def missing_image(image, labels):
    image.unlink()
    return labels


def size_mismatch(image, labels):
    picture = reread(labels)
    picture.crop((0, 0, picture.width, picture.height - 1)).save(labels)
    return labels


def float_labels(image, labels):
    ids = np.asarray(reread(labels).convert("L"), np.float32)
    Image.fromarray(ids).save(labels.with_suffix(".tif"))
    labels.with_suffix(".tif").rename(labels)
    return labels


def rgba_labels(image, labels):
    reread(labels).convert("L").convert("RGBA").save(labels)
    return labels


def turned_labels(image, labels):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    reread(labels).save(labels, exif=exif)
    return labels


def turned_image(image, labels):
    """An image that is upright in the file, but says that it is not."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture = reread(image)
    picture.crop((0, 0, picture.width, picture.height - 2)).save(image, exif=exif)
    return image


def negative_ids(image, labels):
    ids = np.asarray(reread(labels)).astype(np.int32)
    ids[0, 0] = -1
    Image.fromarray(ids).save(labels.with_suffix(".tif"), format="TIFF")
    labels.with_suffix(".tif").rename(labels)
    return labels


def unheard_of_class(image, labels):
    picture = reread(labels)
    ids = np.asarray(picture).copy()
    ids[0, 0] = 250
    changed = Image.fromarray(ids)
    if picture.mode == "P":
        changed.putpalette(gtav.PALETTE)
    changed.save(labels)
    return labels


def cut_image(image, labels):
    image.write_bytes(image.read_bytes()[:-50])
    return image


def cut_labels(image, labels):
    labels.write_bytes(labels.read_bytes()[:-20])
    return labels


def garbage_image(image, labels):
    image.write_bytes(b"<html>please log in</html>")
    return image


# Found as notes: the data can be used.


def empty_labels(image, labels):
    picture = reread(labels)
    background = 7 if "instanceIds" in labels.name else 0  # a road; 0 is unknown there
    Image.new("L", picture.size, background).save(labels)
    return labels


def void_labels(image, labels):
    """Of class maps: no pixel has a class."""
    picture = reread(labels)
    changed = Image.new(picture.mode, picture.size, VOID_IDS[labels.parent.name[-5:]])
    if picture.mode == "P":
        changed.putpalette(gtav.PALETTE)
    changed.save(labels)
    return labels


VOID_IDS = {"annot": 11, "abels": 0, "achen": 0}


PAIR = (missing_labels, missing_image)
PNG = (size_mismatch, float_labels, rgba_labels, turned_labels, turned_image, cut_image, cut_labels)
IDS = (*PAIR, *PNG, garbage_image, negative_ids)
CLASSES = (*PAIR, *PNG, garbage_image, unheard_of_class)


def camvid_pairs(root, monkeypatch):
    frames = {"train": tuple(f"f{k:02d}" for k in range(14)), "val": ("v",), "test": ("t",)}
    camvid.write_camvid(root, frames=frames)
    return [
        (root / "train" / f"{n}.png", root / "trainannot" / f"{n}.png") for n in frames["train"]
    ]


def cityscapes_pairs(root, monkeypatch):
    frames = {"train": tuple(f"aachen_{k:06d}_000019" for k in range(14)), "val": ("ulm_000000_0",)}
    cityscapes.write_cityscapes(root, frames)
    return [cityscapes.paths(root, "train", name)[:2] for name in frames["train"]]


def cityscapes_instance_pairs(root, monkeypatch):
    cityscapes_pairs(root, monkeypatch)
    names = [f"aachen_{k:06d}_000019" for k in range(14)]
    return [cityscapes.paths(root, "train", name)[::2] for name in names]


def gtav_pairs(root, monkeypatch):
    frames = {"trainIds": tuple(range(1, 15)), "valIds": (15,), "testIds": (16,)}
    gtav.write_gtav(root, frames)
    return [
        (root / "images" / f"{n:05d}.png", root / "labels" / f"{n:05d}.png")
        for n in frames["trainIds"]
    ]


def cremi_pairs(root, monkeypatch):
    splits = {"train": range(14), "valid": range(20, 21), "test": range(30, 31)}
    monkeypatch.setattr(cremi, "SPLITS", splits)
    cremi.write_tif(root)
    base = root / "Cremi/Corrected/256/train"
    return [(base / "A" / f"A_{n}.tif", base / "B" / f"B_{n}.tif") for n in splits["train"]]


def cvppp_pairs(root, monkeypatch):
    plants = [f"plant{k:03d}" for k in range(1, 15)]
    cvppp.write_png(root, plants)
    return [(root / "A1" / f"{p}_rgb.png", root / "A1" / f"{p}_label.png") for p in plants]


def folder_pairs(root, monkeypatch):
    folder.write_flat(root, 14)
    return [(root / "images" / f"cell{n}.png", root / "labels" / f"cell{n}.png") for n in range(14)]


def kitti_pairs(root, monkeypatch):
    monkeypatch.setattr(kitti, "SPLITS", {"train": range(14), "valid": (20,), "test": (21,)})
    kitti.write_kitti(root)
    return [(root / "images" / f"{n:06d}.png", root / "gt" / f"{n:06d}.png") for n in range(14)]


def em3d_pairs(root, monkeypatch):
    monkeypatch.setattr(em3d, "COUNTS", {"train": 14, "valid": 1, "test": 1})
    em3d.write_pairs(root)
    base = root / "tif/train"
    return [(base / "A" / f"A_{n}.tif", base / "B" / f"B_{n}.tif") for n in range(14)]


# name -> (data set, options, what writes it and lists its pairs, damages, notes)
PAIRED = {
    "camvid": ("camvid", {}, camvid_pairs, CLASSES, (void_labels,)),
    "cityscapes": ("cityscapes", {}, cityscapes_pairs, CLASSES, (void_labels,)),
    "cityscapes instances": (
        "cityscapes",
        {"task": "instance"},
        cityscapes_instance_pairs,
        CLASSES,
        (empty_labels,),
    ),
    "gtav": ("gtav", {}, gtav_pairs, CLASSES, (void_labels,)),
    "cremi": (
        "cremi",
        {},
        cremi_pairs,
        (*PAIR, size_mismatch, rgba_labels, cut_image, cut_labels, garbage_image, negative_ids,
         float_labels),
        (empty_labels,),
    ),
    "cvppp": ("cvppp", {"division": "128/0"}, cvppp_pairs, IDS, (empty_labels,)),
    "folder": ("folder", {}, folder_pairs, IDS, (empty_labels,)),
    "kitti": (
        "kitti", {}, kitti_pairs,
        tuple(d for d in IDS if d is not rgba_labels),  # colours are ids there
        (empty_labels,),
    ),
}  # fmt: skip


def named(found, path, note):
    """Problems, or notes, that are about a file: named first, or as somebody's partner."""
    return [p for p in found if p.note == note and path.name in p.where + p.what]


@pytest.mark.parametrize("layout", PAIRED)
def test_every_damage_is_reported_once_in_one_pass(layout, tmp_path, monkeypatch):
    dataset, options, pairs_of, damages, notes = PAIRED[layout]
    pairs = pairs_of(tmp_path, monkeypatch)
    before = check_dataset(dataset, tmp_path, options)
    assert [p for p in before if not p.note] == []
    first = 1  # the first pair stays sound: it says what kind of data these are
    chosen = zip((*damages, *notes), pairs[first:], strict=False)
    hurt = {damage: damage(*pair) for damage, pair in chosen}
    assert len(hurt) == len(damages) + len(notes) >= 8
    found = check_dataset(dataset, tmp_path, options)
    for damage, path in hurt.items():
        about = named(found, path, damage in notes)
        if dataset == "cvppp":  # its foreground files contradict labels that were changed
            about = [p for p in about if "_fg." not in p.where]
        assert len(about) == 1, (damage.__name__, path, about)
    assert len([p for p in found if not p.note]) == len(damages), found


def test_both_files_of_a_pair_are_named(tmp_path):
    folder.write_flat(tmp_path, 4)
    cut_image(tmp_path / "images/cell1.png", None)
    rgba_labels(None, tmp_path / "labels/cell1.png")
    found = check_dataset("folder", tmp_path)
    assert [p.where.rpartition("/")[0].rpartition("/")[2] for p in found] == ["images", "labels"]


def test_as_many_instances_as_8_bits_hold_is_a_note(tmp_path):
    folder.write_flat(tmp_path, 2)
    ids = (np.arange(48 * 48).reshape(48, 48) % 256).astype(np.uint8)
    Image.fromarray(ids).save(tmp_path / "labels/cell1.png")
    (note,) = check_dataset("folder", tmp_path)
    assert note.note
    assert note.where.endswith("labels/cell1.png")
    assert "255 instances, as many as 8 bits tell apart" in note.what


# Volumes and other files that hold many samples: one damage at a time.


def edit_h5(path, name, make):
    with h5py.File(path, "r+") as file:
        array = file[name][...]
        attributes = dict(file[name].attrs)
        del file[name]
        changed = make(array)
        if changed is not None:
            file[name] = changed
            for key, value in attributes.items():
                file[name].attrs[key] = value


IDS_KEY, RAW_KEY = "volumes/labels/neuron_ids", "volumes/raw"
H5_DAMAGES = {
    "no labels": lambda path: edit_h5(path, IDS_KEY, lambda a: None),
    "no image": lambda path: edit_h5(path, RAW_KEY, lambda a: None),
    "size": lambda path: edit_h5(path, IDS_KEY, lambda a: a[:, :-1]),
    "float": lambda path: edit_h5(path, IDS_KEY, lambda a: a.astype(np.float64)),
    "negative": lambda path: edit_h5(path, IDS_KEY, lambda a: a.astype(np.int32) - 5),
    "flat": lambda path: edit_h5(path, IDS_KEY, lambda a: a[0]),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-300]),
    "garbage": lambda path: path.write_bytes(b"no HDF5"),
}


@pytest.mark.parametrize("damage", H5_DAMAGES)
@pytest.mark.parametrize("dataset", ["cremi", "em3d"])
def test_a_damaged_volume_is_named(dataset, damage, tmp_path):
    if dataset == "cremi":
        cremi.write_hdf(tmp_path / "set")
        path = tmp_path / "set/cre256_valid.hdf"
    else:
        for number, split in enumerate(("train", "valid", "test")):
            em3d.write_volume(tmp_path / "set" / f"v_{split}.h5", number=number)
        path = tmp_path / "set/v_valid.h5"
    assert all(p.note for p in check_dataset(dataset, tmp_path / "set"))
    H5_DAMAGES[damage](path)
    found = [p for p in check_dataset(dataset, tmp_path / "set") if not p.note]
    assert found
    assert all(path.name in p.where for p in found), found
    assert len(found) == 1, found


@pytest.mark.parametrize(
    "damage",
    [*PAIR, cut_image, cut_labels, garbage_image, "float", "negative", "thinner"],
)
def test_a_damaged_stack_is_named(damage, tmp_path, monkeypatch):
    pairs = em3d_pairs(tmp_path, monkeypatch)
    assert all(p.note for p in check_dataset("em3d", tmp_path))
    image, labels = pairs[3]
    if callable(damage):
        path = damage(image, labels)
    else:
        path, ids = labels, em3d.blocks(3)[1]
        changed = {
            "float": ids.astype(np.float32),
            "negative": ids.astype(np.int32) - 1,
            "thinner": ids[:-1].astype(np.uint8),
        }[damage]
        em3d.write_stack(path, changed)
    found = [p for p in check_dataset("em3d", tmp_path) if not p.note]
    assert len(found) == 1, found
    assert path.name in found[0].where + found[0].what


CVPPP_H5 = {
    "no labels": ("truth", "label", lambda a: None),
    "no image": ("images", "rgb", lambda a: None),
    "size": ("truth", "label", lambda a: a[:-1]),
    "float": ("truth", "label", lambda a: a.astype(np.float32)),
    "negative": ("truth", "label", lambda a: a.astype(np.int16) - 1),
    "colours": ("truth", "label", lambda a: np.stack([a, a, a], axis=-1)),
    "grey": ("images", "rgb", lambda a: a[..., 0]),
    "empty": ("truth", "label", lambda a: a * 0),
}


@pytest.mark.parametrize("damage", CVPPP_H5)
def test_a_damaged_plant_in_hdf5_is_named(damage, tmp_path):
    cvppp.write_h5(tmp_path / "set")
    options = {"division": "128/0"}
    assert all(p.note for p in check_dataset("cvppp", tmp_path / "set", options))
    part, name, make = CVPPP_H5[damage]
    edit_h5(tmp_path / f"set/CVPPP2017_training_{part}.h5", f"A1/plant002/{name}", make)
    found = check_dataset("cvppp", tmp_path / "set", options)
    about = [p for p in found if f"plant002/{name}" in p.where + p.what and "fg" not in p.where]
    assert [p.note for p in about if "differs from the labelled" not in p.what] == [
        damage == "empty"
    ], found
    assert len([p for p in found if not p.note]) == (damage != "empty")


# Outlines in XML.


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


XML_DAMAGES = {
    "missing labels": missing_labels,
    "missing image": missing_image,
    "cut image": cut_image,
    "cut labels": cut_labels,
    "garbage image": garbage_image,
    "no number": lambda image, labels: edited(labels, 'X="', 'X="left'),
    "entity": lambda image, labels: edited(
        labels, "<Annotations ", '<!DOCTYPE a [<!ENTITY b "c">]><Annotations '
    ),
    "other root": lambda image, labels: (
        edited(labels, "<Annotations ", "<Notes ") and edited(labels, "</Annotations>", "</Notes>")
    ),
}


def test_every_damaged_tile_is_reported_once_in_one_pass(tmp_path):
    names = monuseg.TRAIN[:10]
    monuseg.write_monuseg(tmp_path, train=names)
    base = tmp_path / monuseg.TRAINING
    pairs = [
        (base / "Tissue Images" / f"{n}.tif", base / "Annotations" / f"{n}.xml") for n in names
    ]
    assert all(p.note for p in check_dataset("monuseg", tmp_path))
    hurt = {
        name: damage(*pair)
        for (name, damage), pair in zip(XML_DAMAGES.items(), pairs, strict=False)
    }
    pairs[9][1].write_text(monuseg.xml([]))
    found = check_dataset("monuseg", tmp_path)
    for name, path in hurt.items():
        assert [p.note for p in found if path.name in p.where] == [False], (name, found)
    assert [p.note for p in found if pairs[9][1].name in p.where] == [True]
    assert len([p for p in found if not p.note]) == len(XML_DAMAGES) == 8


# Masks with a category and an instance per pixel.


def changed_mask(labels, change):
    bands = np.array(reread(labels))
    change(bands)
    Image.fromarray(bands).save(labels)
    return labels


def second_category(bands):
    rows, columns = np.nonzero(bands[..., 1] == 2)
    bands[rows[0], columns[0], 0] = 50


def out_of_range(bands):
    bands[bands[..., 1] == 255, 0] = 200


def grey_mask(image, labels):
    reread(labels).convert("L").save(labels)
    return labels


PLACES_DAMAGES = {
    missing_labels: "",
    size_mismatch: "",
    rgba_labels: "",
    grey_mask: "",
    turned_labels: "",
    cut_image: "",
    cut_labels: "",
    second_category: "mask",
    out_of_range: "mask",
}


def test_every_damaged_mask_is_reported_once_in_one_pass(tmp_path, monkeypatch):
    numbers = {"training": (1,), "validation": tuple(range(1, 12)), "testing": (2,)}
    monkeypatch.setattr(places, "NUMBERS", numbers)
    places.write_places(tmp_path)
    assert all(p.note for p in check_dataset("places", tmp_path))
    hurt = {}
    for number, (damage, kind) in enumerate(PLACES_DAMAGES.items(), start=1):
        image, labels = (
            path(tmp_path, "validation", number) for path in (places.image_path, places.mask_path)
        )
        hurt[damage] = changed_mask(labels, damage) if kind else damage(image, labels)
    found = [p for p in check_dataset("places", tmp_path) if not p.note]
    for damage, path in hurt.items():
        about = [p for p in found if path.stem in p.where]
        assert len(about) == 1, (damage.__name__, about)
    assert len(found) == len(PLACES_DAMAGES) == 9


# COCO: images one by one, and entries of the JSON file.


def test_every_damaged_image_of_coco_is_reported_once_in_one_pass(tmp_path):
    coco_root.write_single(tmp_path)
    image = [tmp_path / f"images/cell{n}.png" for n in range(10)]
    assert all(p.note for p in check_dataset("coco", tmp_path))
    image[1].unlink()
    cut_image(image[2], None)
    garbage_image(image[3], None)
    image[4].write_bytes(b"")
    turned_image(image[5], None)
    Image.fromarray(np.zeros((20, 48), np.uint8)).save(image[6])
    flipped = bytearray(image[7].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    image[7].write_bytes(bytes(flipped))
    found = [p for p in check_dataset("coco", tmp_path) if not p.note]
    for path in image[1:8]:
        assert len([p for p in found if path.name in p.where + p.what]) == 1, (path, found)
    assert len(found) == 7


def entry(**changes):
    def change(data):
        data["annotations"][4].update(changes)

    return change


COCO_DAMAGES = {
    "unknown image": (entry(image_id=999), "999"),
    "unknown category": (entry(category_id=77), "77"),
    "second id": (entry(id=1), "annotations|annotation"),
    "run lengths": (entry(segmentation={"size": [48, 48], "counts": [5, 6]}), "11|2304"),
    "other size": (entry(segmentation={"size": [9, 9], "counts": [81]}), "size|9"),
    "polygon": (entry(segmentation=[[1, 2, 3]]), "segmentation"),
    "no mask": (lambda data: data["annotations"][4].pop("segmentation"), "segmentation"),
    "crowd": (entry(iscrowd="maybe"), "iscrowd"),
}


@pytest.mark.parametrize("damage", COCO_DAMAGES)
def test_a_damaged_entry_of_coco_is_named(damage, tmp_path):
    coco_root.write_single(tmp_path, 3)
    path = tmp_path / "annotations.json"
    data = json.loads(path.read_text())
    change, words = COCO_DAMAGES[damage]
    change(data)
    path.write_text(json.dumps(data))
    found = [p for p in check_dataset("coco", tmp_path) if not p.note]
    assert len(found) == 1, found
    assert path.name in found[0].where
    assert any(word in found[0].what for word in words.split("|")), found


# The report.


def refuse(constant):
    raise AssertionError(constant)


def test_report_as_table_and_json(tmp_path, capsys):
    root, out = tmp_path / "my cells", tmp_path / "out/report.json"
    pairs = folder_pairs(root, None)
    assert main(["data", "check", "folder", str(root), "--json", str(out)]) == 0
    report = json.loads(out.read_text(), parse_constant=refuse)
    assert (report["ok"], report["problems"], report["notes"]) == (True, [], [])
    empty_labels(*pairs[0])
    assert main(["data", "check", "folder", str(root), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert "note     labels/cell0.png  no instance" in captured.out
    assert captured.out.endswith("no problems found, 1 note\n")
    damages = (missing_labels, cut_image, rgba_labels, size_mismatch)
    for damage, pair in zip(damages, pairs[1:], strict=False):
        damage(*pair)
    arguments = ["--json", str(out), "--data", "channels=1"]
    assert main(["data", "check", "folder", str(root), *arguments]) == 2
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert [line.split()[0] for line in lines] == ["where", *["problem"] * 4, "note"]
    assert str(root) not in captured.out  # paths from the root on
    assert captured.err == f"rlseg: folder at {root}: 4 problems found\n"
    report = json.loads(out.read_text(), parse_constant=refuse)
    assert report["schema"] == "rlseg.data-check/1"
    assert (report["dataset"], report["root"], report["data"]) == (
        "folder", str(root), {"channels": 1},
    )  # fmt: skip
    assert (report["ok"], len(report["problems"]), len(report["notes"])) == (False, 4, 1)
    for note, kind in ((False, "problems"), (True, "notes")):
        assert all(set(item) == {"where", "what", "note"} for item in report[kind])
        assert all(item["note"] is note for item in report[kind])
    assert main(["data", "check", "folder", str(root), "--data", "chanels=1"]) == 2
    assert "did you mean channels" in capsys.readouterr().err.replace("'", "")


def monuseg_pairs(root, monkeypatch):
    names = monuseg.TRAIN[:6]
    monuseg.write_monuseg(root, train=names)
    base = root / monuseg.TRAINING
    return [(base / "Tissue Images" / f"{n}.tif", base / "Annotations" / f"{n}.xml") for n in names]


def places_pairs(root, monkeypatch):
    numbers = {"training": (1,), "validation": tuple(range(1, 8)), "testing": (2,)}
    monkeypatch.setattr(places, "NUMBERS", numbers)
    places.write_places(root)
    return [
        (places.image_path(root, "validation", n), places.mask_path(root, "validation", n))
        for n in numbers["validation"]
    ]


def coco_pairs(root, monkeypatch):
    """Images, and the JSON file that is the truth of all of them."""
    coco_root.write_single(root)
    return [(root / f"images/cell{n}.png", root / "annotations.json") for n in range(10)]


def linked_image(image, labels):
    """An image that lies beside the root, and a link to it."""
    outside = image.parents[2] / image.name
    image.rename(outside)
    image.symlink_to(outside)
    return image


# layout -> data set, options, what writes it and lists its pairs, what is done to pairs 1, 2, ...
COPIES = {
    "camvid": ({}, camvid_pairs, (*PAIR, size_mismatch, unheard_of_class, cut_image)),
    "cityscapes": ({}, cityscapes_pairs, (*PAIR, rgba_labels, unheard_of_class, cut_labels)),
    "coco": ({}, coco_pairs, (cut_image, garbage_image, turned_image, linked_image)),
    "cremi": ({}, cremi_pairs, (*PAIR, size_mismatch, float_labels, cut_labels)),
    "cvppp": ({"division": "128/0"}, cvppp_pairs, (*PAIR, float_labels, turned_labels, cut_image)),
    "em3d": ({}, em3d_pairs, (*PAIR, cut_image, cut_labels, garbage_image)),
    "folder": ({}, folder_pairs, (*PAIR, size_mismatch, negative_ids, garbage_image, linked_image)),
    "gtav": ({}, gtav_pairs, (*PAIR, float_labels, unheard_of_class, cut_image)),
    "kitti": ({}, kitti_pairs, (*PAIR, size_mismatch, turned_labels, cut_labels)),
    "monuseg": ({}, monuseg_pairs, (*PAIR, cut_image, cut_labels, garbage_image)),
    "places": ({}, places_pairs, (missing_labels, size_mismatch, rgba_labels, cut_image)),
}


@pytest.mark.parametrize("dataset", COPIES)
def test_report_of_a_damaged_copy_of_every_layout(dataset, tmp_path, monkeypatch, capfd):
    options, pairs_of, damages = COPIES[dataset]
    root, out = tmp_path / dataset, tmp_path / "report.json"
    pairs = pairs_of(root, monkeypatch)
    arguments = ["data", "check", dataset, str(root), "--quiet", "--json", str(out)]
    for key, value in options.items():
        arguments += ["--data", f"{key}={value}"]
    assert main(arguments) == 0
    assert json.loads(out.read_text())["ok"]
    capfd.readouterr()
    hurt = [damage(*pair) for damage, pair in zip(damages, pairs[1:], strict=False)]
    assert len(hurt) == len(damages)
    assert main(arguments) == 2
    captured = capfd.readouterr()
    assert captured.err == f"rlseg: {dataset} at {root}: {len(damages)} problems found\n"
    lines = [line for line in captured.out.splitlines() if line.startswith("problem  ")]
    assert len(lines) == len(damages)
    for path in hurt:
        assert len([line for line in lines if path.name in line]) == 1, (path, lines)
    report = json.loads(out.read_text(), parse_constant=refuse)
    assert not report["ok"]
    assert [p["what"] for p in report["problems"]] == [
        p.what for p in check_dataset(dataset, root, options) if not p.note
    ]
    assert all(p["where"].startswith(str(root)) for p in report["problems"])
