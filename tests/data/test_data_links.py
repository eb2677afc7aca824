"""Links in a data folder: followed inside it, never out of it, whatever the layout."""

import os
import shutil
import socket

import pytest

from rlseg.data import check_dataset, open_dataset
from rlseg.data.links import inside, link_fault, not_a_file, path_fault
from rlseg.errors import CorruptDatasetError, RlsegError
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


def beside(root):
    folder.write_flat(root, 2)
    for path in (root / "labels").iterdir():
        path.rename(root / f"{path.stem}_label.png")
    for path in (root / "images").iterdir():
        path.rename(root / path.name)
    for name in ("images", "labels"):
        (root / name).rmdir()


def used(name, options, path):
    """Whether the data set reads that file."""
    by_hand = path.parent.parent / "gt_man" / path.name
    if name == "kitti" and path.parent.name == "gt" and by_hand.is_file():
        return False
    other = "labelIds" if options.get("task") == "instance" else "instanceIds"
    return path.is_file() and not (name == "cityscapes" and other in path.name)


def kitti_by_hand(root):
    kitti.write_kitti(root)
    kitti.write_by_hand(root)


LAYOUTS = {
    "camvid": ("camvid", camvid.write_camvid, {}),
    "camvid without lists": ("camvid", lambda root: camvid.write_camvid(root, lists=False), {}),
    "cityscapes": ("cityscapes", cityscapes.write_cityscapes, {}),
    "cityscapes instances": ("cityscapes", cityscapes.write_cityscapes, {"task": "instance"}),
    "coco": ("coco", lambda root: coco_root.write_single(root, 4), {}),
    "cremi": ("cremi", cremi.write_tif, {}),
    "cremi hdf": ("cremi", cremi.write_hdf, {}),
    "cvppp": ("cvppp", cvppp.write_png, {"division": "128/0"}),
    "cvppp hdf": ("cvppp", cvppp.write_h5, {"division": "128/0"}),
    "em3d": ("em3d", em3d.write_pairs, {}),
    "em3d hdf": ("em3d", lambda root: em3d.write_volume(root / "hdf/volume.h5"), {}),
    "folder": ("folder", lambda root: folder.write_flat(root, 3), {}),
    "folder by split": ("folder", folder.write_divided, {}),
    "folder beside": ("folder", beside, {}),
    "gtav": ("gtav", gtav.write_gtav, {}),
    "kitti": ("kitti", kitti_by_hand, {}),
    "monuseg": ("monuseg", monuseg.write_monuseg, {}),
    "places": ("places", lambda root: places.write_places(root, table=True), {}),
}


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path):
    """Name, root and options of a sound data set."""
    name, write, options = LAYOUTS[request.param]
    write(tmp_path / "root")
    assert serious(check_dataset(name, tmp_path / "root", options)) == []
    return name, tmp_path / "root", options


def serious(problems):
    return [problem for problem in problems if not problem.note]


def everything(root):
    return sorted(path for path in root.rglob("*"))


def test_fault_p5_no_file_is_read_by_a_link_out_of_the_root(layout, tmp_path):
    name, root, options = layout
    secret = tmp_path / "secret"
    secret.write_bytes(b"whoever reads this has followed the link")
    for path in (path for path in everything(root) if used(name, options, path)):
        shutil.move(path, tmp_path / "kept")
        path.symlink_to(secret)
        found = serious(check_dataset(name, root, options))
        assert len(found) == 1, (path, found)
        said = f"{found[0].where}: {found[0].what}"
        assert f"{path}: a link to" in said or f"{path} is a link to" in said, said
        assert str(secret) in said
        assert "outside of" in said
        assert "copy what it leads to" in said
        with pytest.raises(RlsegError, match="outside of"):
            open_dataset(name, root, options)
        path.unlink()
        shutil.move(tmp_path / "kept", path)
    assert serious(check_dataset(name, root, options)) == []


def test_fault_p5_no_folder_is_read_by_a_link_out_of_the_root(layout, tmp_path):
    name, root, options = layout
    for path in (path for path in everything(root) if path.is_dir()):
        shutil.move(path, tmp_path / "kept")
        path.symlink_to(tmp_path / "kept")
        found = serious(check_dataset(name, root, options))
        said = [f"{problem.where}: {problem.what}" for problem in found]
        assert len([text for text in said if str(path) in text and "outside of" in text]) == 1, said
        assert len(said) == 1, (path, said)
        with pytest.raises(RlsegError, match="outside of"):
            open_dataset(name, root, options)
        path.unlink()
        shutil.move(tmp_path / "kept", path)
    assert serious(check_dataset(name, root, options)) == []


def test_fault_p5_a_linked_root_and_links_inside_it_are_followed(layout, tmp_path):
    name, root, options = layout
    (tmp_path / "alias").symlink_to(root)
    before = open_dataset(name, root, options)
    moved = root / ".real"
    moved.mkdir()
    for number, path in enumerate(path for path in everything(root) if path.is_file()):
        path.rename(moved / str(number))
        path.symlink_to(os.path.relpath(moved / str(number), path.parent))
    for place in (root, tmp_path / "alias"):
        assert serious(check_dataset(name, place, options)) == []
        after = open_dataset(name, place, options)
        assert {k: len(after.split(k)) for k in after.names} == {
            k: len(before.split(k)) for k in before.names
        }
        assert after.split(after.names[0])[0].image.shape[0] == before.channels


@pytest.mark.parametrize("kind", ["dangling", "loop", "folder", "pipe"])
@pytest.mark.parametrize("place", ["images/p9.png", "labels/cell1.png", "p9_label.png"])
def test_fault_i8_what_is_no_file_is_named_once(kind, place, tmp_path):
    (beside if "/" not in place else folder.write_flat)(tmp_path)
    path = tmp_path / place
    path.unlink(missing_ok=True)
    if kind == "dangling":
        path.symlink_to(tmp_path / "nowhere.png")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    (problem,) = serious(check_dataset("folder", tmp_path))
    assert problem.where == str(path)
    words = {
        "dangling": "nowhere.png, which is not there; put the file itself there",
        "loop": "leads in a circle",
        "folder": "a folder where a file is expected; move it away",
        "pipe": "a pipe where a file is expected",
    }
    assert words[kind] in problem.what
    with pytest.raises(CorruptDatasetError, match=path.name):
        open_dataset("folder", tmp_path)


def test_what_lies_beside_the_data_of_a_folder_is_noted(tmp_path):
    folder.write_divided(tmp_path)
    assert check_dataset("folder", tmp_path) == []
    folder.write_flat(tmp_path, 1)  # images/ and labels/ in the root
    for name in ("Train", "training", "validation", "notes"):
        (tmp_path / name).mkdir()
    for name in ("a.webp", "b.GIF", "read.me"):
        (tmp_path / "train/images" / name).touch()
    found = check_dataset("folder", tmp_path)
    assert all(problem.note for problem in found)
    said = {problem.where.removeprefix(str(tmp_path)): problem.what for problem in found}
    assert set(said) == {"", "/Train", "/training", "/validation", "/train/images"}
    assert said[""].startswith("files that are images/{id}.{ext} lie here too and are not used")
    assert "the folder of this split is called train;" in said["/Train"]
    assert "2 pictures of a kind that is not read (a.webp, b.GIF)" in said["/train/images"]
    assert len(open_dataset("folder", tmp_path).split("train")) == 3


def test_functions(tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a/file").touch()
    (root / "up").symlink_to("..")
    (root / "same").symlink_to("a")
    (root / "a/abs").symlink_to(root / "a/file")
    assert link_fault(root / "a/file", root) is None
    assert link_fault(root / "a/abs", root) is None
    assert link_fault(root / "absent", root) is None
    assert path_fault(root / "same/file", root) is None
    assert path_fault(tmp_path / "other", root) is None
    place, what = path_fault(root / "up/root/a/file", root)  # in the end inside, but by way of out
    assert place == root / "up"
    assert what.startswith("a link to .., outside of")
    assert inside(root / "same/file", root) == root / "same/file"
    with pytest.raises(CorruptDatasetError, match=r"root/up: a link to"):
        inside(root / "up/x", root)
    assert not_a_file(root / "a/file") is None
    assert "cannot be looked at" in not_a_file(root / "absent")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(root)  # paths of sockets are short
        server.bind("socket")
    assert not_a_file(root / "socket").startswith("a socket where")
