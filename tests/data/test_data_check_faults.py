"""What `rlseg data check` and its neighbours do with data that are odd rather than damaged."""

import json
import os
import random
import struct
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

from rlseg.cli import main
from rlseg.data import check_dataset, open_dataset
from rlseg.data.archives import unpack
from rlseg.data.arrays import npy_shape, read_npy
from rlseg.data.base import as_problem
from rlseg.errors import ConfigError, CorruptDatasetError, RlsegError
from rlseg.files import as_json
from tests.fake import camvid, cityscapes, coco_root, cremi, cvppp, em3d, folder, gtav

STRANGE = b"\xff\xfe$x_{.png"  # no UTF-8, and the beginning of a formula


def strange_names(root):
    folder.write_flat(root, 4)
    for name in (b"images", b"labels"):
        place = os.fsencode(root) + b"/" + name
        os.rename(place + b"/cell1.png", place + b"/" + STRANGE)
    return root


def test_fault_p5_a_name_that_is_no_utf8_stands_in_the_report(tmp_path, capsys):
    root = strange_names(tmp_path / os.fsdecode(b"r\xfcben"))
    os.remove(os.fsencode(root / "labels") + b"/" + STRANGE)
    out = tmp_path / "report.json"
    assert main(["data", "check", "folder", str(root), "--json", str(out)]) == 2
    captured = capsys.readouterr()
    assert "no labels file for it" in captured.out
    assert captured.err.endswith("1 problem found\n")
    report = json.loads(out.read_text(encoding="utf-8"))
    (problem,) = report["problems"]
    assert os.fsencode(problem["where"]) == os.fsencode(root) + b"/images/" + STRANGE
    assert os.fsencode(report["root"]) == os.fsencode(root)


def test_fault_p5_a_name_that_is_no_utf8_is_drawn(tmp_path):
    root, out = strange_names(tmp_path / "root"), tmp_path / "overview.png"
    assert main(["data", "stats", "folder", str(root), "--out", str(out), "--quiet"]) == 0
    with Image.open(out) as picture:
        assert min(picture.size) > 100


def test_json_keeps_every_text():
    texts = ["plain", "ü", "\udcff\ud800", 'a"\\u', "😀", "\\udcff"]
    text = as_json(texts)
    assert json.loads(text) == texts
    text.encode("utf-8")
    assert "ü" in text
    assert "😀" in text


@pytest.mark.parametrize("shape", [(0, 20), (20, 0), (0, 0), (0, 4, 5)])
@pytest.mark.parametrize("kind", ["npy", "h5"])
def test_fault_h1_arrays_without_a_number_are_refused(shape, kind, tmp_path, capsys):
    folder.write_flat(tmp_path, 2)
    for name in ("images", "labels"):
        (tmp_path / name / "cell0.png").unlink()
        if kind == "npy":
            np.save(tmp_path / name / "cell0.npy", np.zeros(shape, np.uint8))
        else:
            with h5py.File(tmp_path / name / "cell0.h5", "w") as file:
                file["a"] = np.zeros(shape, np.uint8)
    found = [p for p in check_dataset("folder", tmp_path) if not p.note]
    assert [p.where.split("/")[-1] for p in found] == [f"cell0.{kind}"] * 2
    assert all("without a single number" in p.what for p in found)
    assert main(["data", "stats", "folder", str(tmp_path), "--quiet"]) == 2
    assert "without a single number" in capsys.readouterr().err


def npy(header):
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(400)


HEADERS = {
    "bytes for a key": b"{'descr': '|u1', 'fortran_order': False,b'shape': (20, 20), }",
    "number for a key": b"{'descr': '|u1', 'fortran_order': False, 3: (20, 20), }",
    "no keys": b"{}",
    "a list": b"['descr', 'fortran_order', 'shape']",
    "side in words": b"{'descr': '|u1', 'fortran_order': False, 'shape': (20, '20'), }",
    "side of 10^40": b"{'descr': '|u1', 'fortran_order': False, 'shape': (1" + b"0" * 40 + b",), }",
    "negative side": b"{'descr': '|u1', 'fortran_order': False, 'shape': (-20, -20), }",
    "type of its own": b"{'descr': {'a': 1}, 'fortran_order': False, 'shape': (20, 20), }",
    "nested": b"{'descr': " + b"(" * 50 + b"1" + b",)" * 25,
}


@pytest.mark.parametrize("header", HEADERS)
def test_fault_h6_headers_that_are_not_understood(header, tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(npy(HEADERS[header]))
    with pytest.raises(CorruptDatasetError, match=r"a\.npy: "):
        read_npy(path)
    folder.write_flat(tmp_path / "set", 2)
    (tmp_path / "set/labels/cell1.png").unlink()
    path.rename(tmp_path / "set/labels/cell1.npy")
    (problem,) = check_dataset("folder", tmp_path / "set")
    assert problem.where.endswith("labels/cell1.npy")


def test_fault_h6_nested_beyond_the_parser(tmp_path):
    header = b"{'descr': " + b"(" * 9000
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(CorruptDatasetError, match=r"a\.npy: "):
        read_npy(path)


def test_fault_h6_thousands_of_changed_headers(tmp_path):
    chance = random.Random(6)
    words = [
        b" ",
        b" ",
        b"  ",
        b"b'",
        b"'",
        b"(",
        b")",
        b",",
        b"{",
        b"}",
        b"0",
        b"-",
        b"9" * 30,
        b":",
        b"None",
        b"\0",
    ]
    sound = npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (20, 20), }")
    path = tmp_path / "a.npy"
    read = refused = 0
    for _ in range(3000):
        changed = bytearray(sound)
        for _ in range(chance.randint(1, 3)):
            start = chance.randrange(0, 110)
            word = chance.choice(words) if chance.random() < 0.6 else bytes([chance.randrange(256)])
            changed[start : start + chance.choice((len(word), len(word), 0, 3))] = word
        path.write_bytes(changed)
        try:
            array = read_npy(path)
        except RlsegError as error:
            refused += str(error).startswith(f"{path}: ")
        else:
            read += array.shape == npy_shape(path)
    assert read + refused == 3000
    assert read > 20
    assert refused > 1000


def test_fault_a5_a_frame_in_two_lists_of_camvid(tmp_path):
    camvid.write_camvid(tmp_path)
    both = (tmp_path / "train.txt").read_text() + (tmp_path / "test.txt").read_text()
    (tmp_path / "train.txt").write_text(both)
    found = [p for p in check_dataset("camvid", tmp_path) if not p.note]
    assert [p.where for p in found] == [f"{tmp_path / 'test.txt'}, entry {k}" for k in range(1, 5)]
    assert "0001TP_008550 is in" in found[0].what
    assert "train.txt, entry 5 too; what is learnt must not be scored" in found[0].what
    with pytest.raises(CorruptDatasetError, match="must not be scored"):
        open_dataset("camvid", tmp_path)


def test_fault_p8_damaged_tiffs_write_nothing_beside_the_report(tmp_path, capfd):
    folder.write_flat(tmp_path, 30)
    chance = random.Random(3)
    for number in range(30):
        for role in ("images", "labels"):
            path = tmp_path / role / f"cell{number}.png"
            with Image.open(path) as picture:
                picture.load()
            method = ("raw", "tiff_lzw", "tiff_adobe_deflate")[number % 3]
            picture.save(path.with_suffix(".tif"), compression=method)
            path.unlink()
        changed = bytearray(path.with_suffix(".tif").read_bytes())
        for _ in range(3):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        path.with_suffix(".tif").write_bytes(changed)
    assert main(["data", "check", "folder", str(tmp_path), "--quiet"]) == 2
    captured = capfd.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.endswith("problems found\n")
    assert captured.out.count("problem  labels/") > 5


def test_a_missing_part_hides_no_problem_of_another_one(tmp_path):
    cvppp.write_png(tmp_path)
    (tmp_path / "A1/plant002_label.png").unlink()
    options = {"parts": ["A1", "A2"], "division": "128/0"}
    found = [p for p in check_dataset("cvppp", tmp_path, options) if not p.note]
    assert len(found) == 2
    assert found[0].where == str(tmp_path)
    assert found[0].what.startswith("no plants of A2 at")
    assert found[1].where.endswith("A1/plant002_rgb.png")


def test_fault_h3_a_linked_plant_hides_no_problem_of_another_one(tmp_path):
    root = tmp_path / "root"
    cvppp.write_h5(root)
    with h5py.File(root / "CVPPP2017_training_images.h5", "r+") as file:
        del file["A1/plant001"]
        file["A1/plant001"] = h5py.ExternalLink("/etc/passwd", "/")
        del file["A1/plant005"]
        file["A1/plant005"] = np.zeros(3)
        grey = file["A1/plant006/rgb"][..., 0]
        del file["A1/plant006/rgb"]
        file["A1/plant006/rgb"] = grey
    options = {"form": "h5", "division": "128/0"}
    found = [p for p in check_dataset("cvppp", root, options) if not p.note]
    assert len(found) == 3, found
    assert "is a link to another file (/etc/passwd)" in found[0].what
    assert "'A1/plant005' is not a group" in found[1].what
    assert all(p.where.endswith("CVPPP2017_training_images.h5") for p in found)
    assert found[2].what.startswith("A1/plant006/rgb: image of shape")


@pytest.mark.parametrize("split", ["missing", "damaged"])
def test_split_mat_hides_no_problem_of_a_frame(split, tmp_path):
    gtav.write_gtav(tmp_path)
    path = tmp_path / "split.mat"
    path.unlink() if split == "missing" else path.write_bytes(b"MATLAB")
    image = tmp_path / "images/00002.png"
    image.write_bytes(image.read_bytes()[:-30])
    found = [p for p in check_dataset("gtav", tmp_path) if not p.note]
    assert [p.where for p in found] == [str(path), str(image)]


def test_bad_lists_hide_no_problem_of_an_image(tmp_path):
    cityscapes.write_cityscapes(tmp_path)
    (tmp_path / "lists.json").write_text('{"D_S": []}')
    image = cityscapes.paths(tmp_path, "train", cityscapes.FRAMES["train"][0])[0]
    image.write_bytes(image.read_bytes()[:-30])
    options = {"splits": "active", "lists": "lists.json"}
    found = [p for p in check_dataset("cityscapes", tmp_path, options) if not p.note]
    assert [p.where for p in found] == [str(tmp_path / "lists.json"), str(image)]


def test_where_is_the_file_that_is_meant(tmp_path):
    em3d.write_pairs(tmp_path / "em3d")
    stack = tmp_path / "em3d/tif/train/B/B_0.tif"
    stack.write_bytes(stack.read_bytes()[:-100])
    cremi.write_hdf(tmp_path / "cremi")
    volume = tmp_path / "cremi/cre256_valid.hdf"
    volume.write_bytes(volume.read_bytes()[:-300])
    coco_root.write_single(tmp_path / "coco", 2)
    category = {"categories": ["horse"]}
    for name, options, place in (
        ("em3d", {}, stack),
        ("cremi", {}, volume),
        ("coco", category, tmp_path / "coco/annotations.json"),
    ):
        found = [p for p in check_dataset(name, tmp_path / name, options) if not p.note]
        assert [p.where for p in found] == [str(place)], found
        assert str(place) not in found[0].what


def test_problems_from_errors(tmp_path):
    (tmp_path / "a b.h5").touch()
    for text, where, what in (
        (f"{tmp_path}/a b.h5: key: cut", f"{tmp_path}/a b.h5", "key: cut"),
        (f"{tmp_path}/gone.h5: no such file", f"{tmp_path}/gone.h5", "no such file"),
        (f"no data at {tmp_path}/x: look", "here", f"no data at {tmp_path}/x: look"),
        ("volumes/raw: no numbers", "here", "volumes/raw: no numbers"),
        ("x" * 9000 + "/y: z", "here", "x" * 9000 + "/y: z"),
        ("just words", "here", "just words"),
    ):
        problem = as_problem(CorruptDatasetError(text), "here")
        assert (problem.where, problem.what) == (where, what)


@pytest.mark.parametrize("dataset", ["folder", "cremi", "cityscapes"])
def test_fault_l6_labels_of_which_nothing_is_known_are_noted(dataset, tmp_path):
    options = {}
    if dataset == "folder":
        folder.write_flat(tmp_path, 2)
        path, options = tmp_path / "labels/cell1.png", {"ignore_id": 7}
        Image.fromarray(np.full((48, 48), 7, np.uint8)).save(path)
    elif dataset == "cremi":
        cremi.write_challenge_hdf(tmp_path, 4)
        (path,) = tmp_path.glob("*.hdf")
        with h5py.File(path, "r+") as file:
            file["volumes/labels/neuron_ids"][...] = 2**64 - 1
    else:
        cityscapes.write_cityscapes(tmp_path)
        options = {"task": "instance"}
        path = cityscapes.paths(tmp_path, "train", cityscapes.FRAMES["train"][0])[2]
        with Image.open(path) as picture:
            size = picture.size
        Image.new("I;16", size, 3).save(path)
    found = check_dataset(dataset, tmp_path, options)
    assert all(p.note for p in found)
    said = [p for p in found if p.what.startswith("nothing is known: every pixel")]
    assert len(said) == (4 if dataset == "cremi" else 1)
    if dataset != "cremi":
        assert said[0].where == str(path)


def test_a_report_that_cannot_be_written_is_printed_all_the_same(tmp_path, capsys):
    folder.write_flat(tmp_path / "set", 2)
    (tmp_path / "set/labels/cell1.png").unlink()
    (tmp_path / "file").touch()
    out = tmp_path / "file/report.json"
    assert main(["data", "check", "folder", str(tmp_path / "set"), "--json", str(out)]) == 2
    captured = capsys.readouterr()
    assert "problem  images/cell1.png" in captured.out
    assert "cannot be written" in captured.err


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_fault_z1_nothing_is_unpacked_through_a_link(target, tmp_path):
    archive = zipped(tmp_path / "a.zip", images__deep__x="1", y="2")
    (tmp_path / "elsewhere").mkdir()
    place = tmp_path / "target"
    place.mkdir()
    (place / "images").symlink_to(tmp_path / target)
    with pytest.raises(ConfigError, match=r"target/images is a link to .*nothing was unpacked"):
        unpack(archive, place)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert [path.name for path in place.iterdir()] == ["images"]
    (place / "images").unlink()
    (place / "real").mkdir()
    (place / "images").symlink_to("real")  # inside the target: the user's own order
    (tmp_path / "alias").symlink_to(place)
    assert set(unpack(archive, tmp_path / "alias")) == {"images/deep/x", "y"}
    assert (place / "real/deep/x").read_text() == "1"
