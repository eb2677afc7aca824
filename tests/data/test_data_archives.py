"""Archives: what is good comes out unchanged, what is bad leaves nothing behind."""

import bz2
import gzip
import io
import itertools
import os
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from rlseg.data import archives
from rlseg.data.archives import UnpackLimits, archive_kind, unpack
from rlseg.data.tars import MAX_HEADER_BYTES
from rlseg.errors import ConfigError, CorruptDatasetError

NOISE = random.Random(3).randbytes(3000)
GOOD = {"train/a.png": NOISE, "train/deep/b.txt": b"", "c.txt": b"hello"}


def write_zip(path, members, **settings):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **settings) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def write_tar(path, members, *, form=tarfile.PAX_FORMAT, mode="w"):
    """Members: (name, bytes), or a TarInfo as it is."""
    with tarfile.open(path, mode, format=form) as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            file.addfile(info, io.BytesIO(member[1]))
    return path


def write_any(kind, path, members):
    if kind == "zip":
        return write_zip(path, members)
    return write_tar(path, members, mode="w:gz" if kind == "tar.gz" else "w")


def contents(folder):
    """Relative path -> bytes of all files, hidden ones too."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def refused(archive, tmp_path, words, **settings):
    """The message of the refusal; nothing may be left, inside the target or beside it."""
    target = tmp_path / "target"
    before = sorted(p.name for p in tmp_path.iterdir() if p.name != "target")
    with pytest.raises(CorruptDatasetError, match=words) as raised:
        unpack(archive, target, **settings)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "target") == before
    assert list(target.iterdir()) == []
    assert str(archive) in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_good_archives_come_out_whole(kind, tmp_path):
    archive = write_any(kind, tmp_path / "archive", GOOD.items())
    assert archive_kind(archive) == kind
    told = []
    files = unpack(
        archive, tmp_path / "out", advance=lambda done, total: told.append((done, total))
    )
    assert contents(tmp_path / "out") == GOOD
    assert files == {name: len(data) for name, data in GOOD.items()}
    assert told
    assert [d for d, _ in told] == sorted(d for d, _ in told)
    assert unpack(archive, tmp_path / "out") == files  # again: everything is there already
    assert contents(tmp_path / "out") == GOOD


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_names_long_and_foreign_in_every_form_of_tar(form, tmp_path):
    names = ["a" * 90 + ".png", "b" * 90 + "/" + "c" * 90 + ".png", "plain.png"]
    if form != tarfile.USTAR_FORMAT:
        names += ["d" * 200 + "/" + "e" * 200, "Grün/ネコ.png"]
    archive = write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names], form=form)
    unpack(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == {name: name.encode() for name in names}


def test_a_tar_that_git_made_and_folders_named_twice(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", pax_headers={"comment": "0cf9327"}) as file:
        folder = tarfile.TarInfo("x/")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        file.addfile(folder)
        info = tarfile.TarInfo("./x//y.txt")
        info.size = 2
        file.addfile(info, io.BytesIO(b"ab"))
    assert unpack(path, tmp_path / "out") == {"x/y.txt": 2}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_below_takes_one_folder_and_drops_its_name(kind, tmp_path):
    members = [("repo-1/CamVid/train.txt", b"t"), ("repo-1/CamVid/train/a.png", b"a"),
               ("repo-1/README", b"r"), ("repo-1/CamVid2/b", b"b")]  # fmt: skip
    archive = write_any(kind, tmp_path / "archive", members)
    assert unpack(archive, tmp_path / "out", below="*/CamVid") == {"train.txt": 1, "train/a.png": 1}
    assert contents(tmp_path / "out") == {"train.txt": b"t", "train/a.png": b"a"}
    message = refused(archive, tmp_path, "no files below 'Other'", below="Other")
    assert "it holds repo-1" in message


def test_a_zip_from_windows(tmp_path):
    archive = write_zip(tmp_path / "a.zip", [("x\\y.txt", b"ab")])
    assert unpack(archive, tmp_path / "out") == {"x/y.txt": 2}


BAD_NAMES = {
    "../up.txt": "leads out",
    "a/../../up.txt": "leads out",
    "..": "leads out",
    "a\\..\\..\\up.txt": "leads out",
    "/etc/rlseg-test": "absolute",
    "\\\\host\\share": "absolute",
    "C:\\Windows\\x.txt": "drive letter",
    "c:x.txt": "drive letter",
    "a\nb.txt": "control characters",
    "/".join(["d"] * 70): "more than 64 folders",
}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_fault_z1_names_that_lead_out_of_the_folder(kind, name, tmp_path):
    archive = write_any(kind, tmp_path / "archive", [("good.txt", b"g"), (name, b"evil")])
    refused(archive, tmp_path, BAD_NAMES[name])
    # The same in a part of the archive that nobody asked for.
    refused(archive, tmp_path, BAD_NAMES[name], below="elsewhere")
    assert not os.path.exists("/etc/rlseg-test")


def test_fault_z1_a_nul_in_a_zip_name(tmp_path):
    archive = write_zip(tmp_path / "a.zip", [("axb.txt", b"g")])
    archive.write_bytes(archive.read_bytes().replace(b"axb.txt", b"a\0b.txt"))
    refused(archive, tmp_path, "control characters")


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
        b"Z",
    ],
)
def test_fault_z1_links_and_devices_in_tar(kind, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "../secret.txt"
    archive = write_tar(tmp_path / "a.tar", [("good.txt", b"g"), info, ("link/in.txt", b"x")])
    message = refused(archive, tmp_path, "member 'link' is (a|of)")
    expected = {tarfile.SYMTYPE: "symbolic link", tarfile.LNKTYPE: "hard link", b"Z": "unknown"}
    assert expected.get(kind, "") in message
    assert (tmp_path / "secret.txt").read_text() == "secret"


def test_fault_z1_sparse_files_in_pax_form(tmp_path):
    info = tarfile.TarInfo("holes")
    info.pax_headers = {"GNU.sparse.major": "1"}
    refused(write_tar(tmp_path / "a.tar", [info]), tmp_path, "a file with holes")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_fault_z1_links_and_devices_in_zip(mode, tmp_path):
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, (mode | 0o777) << 16
    archive = write_zip(tmp_path / "a.zip", [("good.txt", b"g"), (info, b"../secret")])
    refused(archive, tmp_path, "symbolic link" if mode == stat.S_IFLNK else "device or a pipe")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize(
    "names",
    [
        ("a.txt", "a.txt"),
        ("a.txt", "A.TXT"),
        ("Train/a.txt", "train/b.txt"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("x/./a", "x//a"),
        ("\u00e9.txt", "e\u0301.txt"),
        ("stra\u00dfe", "STRASSE"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_fault_z1_two_members_of_one_name(kind, names, tmp_path):
    archive = write_any(kind, tmp_path / "archive", [(name, b"x") for name in names])
    refused(archive, tmp_path, "has the name of another one")


def test_fault_z2_the_limits_that_hold_unless_raised():
    assert UnpackLimits() == UnpackLimits(ratio=200, total_bytes=2**38, members=2**20)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_fault_z2_expansion_ratio(kind, tmp_path):
    archive = write_any(kind, tmp_path / "bomb", [("zeros.bin", bytes(10**6))])
    size = archive.stat().st_size
    assert 10**6 / size > archives.MAX_ARCHIVE_RATIO  # the bomb is one
    message = refused(archive, tmp_path, "the limit is 200 times its size")
    assert f"grows from {size} to more than {200 * size} bytes" in message
    files = unpack(archive, tmp_path / "allowed", limits=UnpackLimits(ratio=2000))
    assert files == {"zeros.bin": 10**6}


def test_fault_z2_a_gzip_bomb_outside_the_members(tmp_path):
    plain = write_tar(tmp_path / "a.tar", [("a.txt", b"a")]).read_bytes()
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(gzip.compress(plain + bytes(10**7)))
    refused(archive, tmp_path, "times its size")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_fault_z2_total_bytes_and_members(kind, tmp_path):
    archive = write_any(kind, tmp_path / "archive", [(f"{i}.bin", NOISE) for i in range(5)])
    refused(archive, tmp_path, "more than 9000 bytes", limits=UnpackLimits(total_bytes=9000))
    refused(archive, tmp_path, "more than 4 members", limits=UnpackLimits(members=4))
    assert len(unpack(archive, tmp_path / "out", limits=UnpackLimits(members=5))) == 5


def test_fault_z2_sizes_are_counted_not_believed(tmp_path):
    """A zip whose headers say 10 bytes where a megabyte comes out."""
    archive = write_zip(tmp_path / "a.zip", [("a.bin", bytes(10**6))])
    lied = archive.read_bytes().replace((10**6).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lied != archive.read_bytes()
    archive.write_bytes(lied)
    refused(archive, tmp_path, "damaged|times its size")


def test_fault_z2_long_headers_of_tar(tmp_path):
    info = tarfile.TarInfo("x")
    info.size, info.type = MAX_HEADER_BYTES + 1, tarfile.GNUTYPE_LONGNAME
    head = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(head + bytes(3 * 10**6))
    refused(tmp_path / "a.tar", tmp_path, "a header of")


def test_a_large_table_of_contents_is_not_read(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", [(f"{i}.txt", b"") for i in range(100)])
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 1000)
    refused(archive, tmp_path, "table of contents")


def test_packing_that_cannot_be_bounded_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("a.bin", bytes(10**6))
    refused(path, tmp_path, "packed by method 12")
    other = tmp_path / "a.tar.bz2"
    other.write_bytes(bz2.compress(b"x"))
    refused_kind(other, tmp_path)


def refused_kind(path, tmp_path):
    with pytest.raises(CorruptDatasetError, match="neither a zip, a tar nor"):
        unpack(path, tmp_path / "target")


@pytest.mark.parametrize("content", [b"", b"PK", b"<html>login</html>", bytes(2000)])
def test_what_is_no_archive(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    refused_kind(tmp_path / "file", tmp_path)


def test_an_encrypted_zip(tmp_path):
    archive = write_zip(tmp_path / "a.zip", [("a.txt", b"abc")])
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    archive.write_bytes(data)
    refused(archive, tmp_path, "is encrypted")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_every_cut_and_many_flipped_bytes(kind, tmp_path):
    """Good or refused: never another exception, never something half there, never another file."""
    archive = write_any(kind, tmp_path / "archive", [("a/b.txt", b"hello"), ("c.bin", NOISE[:700])])
    whole = archive.read_bytes()
    damaged = [whole[:n] for n in range(0, len(whole), max(1, len(whole) // 60))]
    generator = random.Random(5)
    for _ in range(150):
        place = generator.randrange(len(whole))
        flipped = whole[place] ^ (1 << generator.randrange(8))
        damaged.append(whole[:place] + bytes([flipped]) + whole[place + 1 :])
    refusals = 0
    for number, data in enumerate(damaged):
        archive.write_bytes(data)
        target = tmp_path / f"out{number}"
        try:
            files = unpack(archive, target)
        except CorruptDatasetError:
            refusals += 1
            assert not target.exists() or contents(target) == {}
        else:
            assert {n: len(d) for n, d in contents(target).items()} == files
    assert refusals > 40  # a tar has no checksum of its data, and is padded at the end
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("out")) == ["archive"]


def test_files_in_the_way_are_named_and_nothing_changes(tmp_path):
    archive = write_zip(tmp_path / "a.zip", GOOD.items())
    target = tmp_path / "target"
    (target / "train").mkdir(parents=True)
    (target / "c.txt").write_bytes(b"mine")
    (target / "train" / "a.png").write_bytes(NOISE)  # the same as in the archive
    before = contents(target)
    with pytest.raises(ConfigError, match=r"are in the way \(c\.txt\); move"):
        unpack(archive, target)
    assert contents(target) == before
    (target / "c.txt").unlink()
    unpack(archive, target)
    assert contents(target) == GOOD


def test_a_file_where_a_folder_should_be(tmp_path):
    archive = write_zip(tmp_path / "a.zip", [("train/a.png", b"a")])
    target = tmp_path / "target"
    target.mkdir()
    (target / "train").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="move them away"):
        unpack(archive, target)
    assert contents(target) == {"train": b"mine"}


def test_a_target_that_cannot_be_written(tmp_path):
    archive = write_zip(tmp_path / "a.zip", [("train/a.png", b"a")])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be unpacked there"):
        unpack(archive, tmp_path / "file")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", [(f"{i}.bin", NOISE) for i in range(3)])
    opened, real = itertools.count(), Path.open

    def full(path, mode="r", *arguments, **settings):
        if mode == "xb" and next(opened) == 2:
            raise OSError(28, "No space left on device")
        return real(path, mode, *arguments, **settings)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ConfigError, match="No space left on device; nothing of it was kept"):
        unpack(archive, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []
