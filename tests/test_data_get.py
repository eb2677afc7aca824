"""`rlseg data get`: what the user sees, and what lies in the folder afterwards."""

import argparse
import fcntl
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import h5py
import pytest

from rlseg import commands
from rlseg.cli import main
from rlseg.commands import data_get
from rlseg.data import DATASETS, obtain, sources
from rlseg.data.download import DownloadSettings
from rlseg.data.remote import Part, RemoteFile, Source
from tests.fake.server import serving

REPOSITORY = Path(__file__).resolve().parents[1]
RECORD = ".rlseg-downloads.json"
MEMBERS = {"repo-1/Set/train/a.png": b"a" * 30, "repo-1/Set/list.txt": b"list", "repo-1/no": b"n"}


def make_zip(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def make_tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def make_hdf(length=50_000):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["volumes/raw"] = [n % 251 for n in range(length)]
    return buffer.getvalue()


HDF, ZIP = make_hdf(), make_zip(MEMBERS)
SHA = hashlib.sha256(HDF).hexdigest()


@pytest.fixture
def server():
    with serving() as running:
        running.add("/volume.hdf", HDF)
        running.add("/set.zip", ZIP)
        running.add("/masks.tar.gz", make_tar({"masks/1.png": b"one", "masks/2.png": b"two"}))
        running.add("/ids.json", b'[{"id": 1}]')
        yield running


def fake_source(base, **volume):
    def part(name, file, **settings):
        remote = RemoteFile(saved_as=file, addresses=(f"{base}/{file}",), **settings)
        return Part(name=name, what="a thing", size="1 MB", files=(remote,))

    return Source(
        name="fake",
        terms="Be kind.",
        parts=(
            part("volume", "volume.hdf", kind="hdf5", **volume),
            part("set", "set.zip", kind="zip", below="*/Set", into="inside"),
            part("masks", "masks.tar.gz", kind="tar"),
            part("ids", "ids.json", kind="json"),
            Part(name="asked", what="on request", size="2 MB", default=False,
                 steps=("Ask at https://example.invalid .", "Unpack it in DIR as DIR/asked.")),
        ),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def known(server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    quick = DownloadSettings(timeout_seconds=5.0, attempts=2, pause_seconds=0.0)
    real = obtain.download
    monkeypatch.setattr(obtain, "download", lambda *a, **k: real(*a, **k | {"settings": quick}))
    monkeypatch.setitem(sources.SOURCES, "fake", fake_source(server.base))


def files(root):
    """Relative path -> bytes, without the record."""
    found = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    found.pop(RECORD, None)
    return found


def get(root, *parts):
    return main(["data", "get", "fake", str(root), *(["--part", *parts] if parts else [])])


def failed(capsys):
    """The one line of an error."""
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("rlseg: ")]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]


def test_everything_comes_and_is_remembered(server, tmp_path, capsys):
    root = tmp_path / "new" / "root"
    assert get(root) == 0
    expected = {
        "volume.hdf": HDF,
        "inside/train/a.png": b"a" * 30,
        "inside/list.txt": b"list",
        "masks/1.png": b"one",
        "masks/2.png": b"two",
        "ids.json": b'[{"id": 1}]',
    }
    assert files(root) == expected
    captured = capsys.readouterr()
    assert f"fake volume: volume.hdf, {len(HDF)} bytes, SHA-256 {SHA} (recorded now" in captured.out
    assert "terms of fake: Be kind." in captured.err
    assert "further parts of fake (--part): asked (on request, 2 MB)" in captured.err
    record = json.loads((root / RECORD).read_text())
    assert record["files"]["volume.hdf"] == {
        "address": f"{server.base}/volume.hdf", "size": len(HDF), "sha256": SHA,
        "stated_by": "the first download", "unpacked": None,
    }  # fmt: skip
    assert record["files"]["set.zip"]["unpacked"] == {
        "inside/train/a.png": 30, "inside/list.txt": 4
    }  # fmt: skip

    asked = len(server.requests)
    assert get(root) == 0  # nothing is asked for again
    assert len(server.requests) == asked
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(": already complete: " in line for line in lines)
    assert "as recorded at the first download" in lines[0]
    assert files(root) == expected


def test_single_parts_and_quiet(server, tmp_path, capsys):
    assert main(["data", "get", "fake", str(tmp_path), "--part", "ids", "set", "--quiet"]) == 0
    assert set(files(tmp_path)) == {"ids.json", "inside/train/a.png", "inside/list.txt"}
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "2 files unpacked" in captured.out


def test_a_digest_that_somebody_states(server, tmp_path, capsys, monkeypatch):
    stated = fake_source(server.base, sha256=SHA, size=len(HDF), stated_by="the makers")
    monkeypatch.setitem(sources.SOURCES, "fake", stated)
    assert get(tmp_path, "volume") == 0
    assert get(tmp_path, "volume") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith("(as stated by the makers)")
    assert out[1].startswith("fake volume: already complete")
    wrong = fake_source(server.base, sha256="0" * 64, stated_by="the makers")
    monkeypatch.setitem(sources.SOURCES, "fake", wrong)
    assert get(tmp_path, "volume") == 2  # what is there is not what the makers have
    assert "the makers has SHA-256 000" in failed(capsys)
    assert files(tmp_path) == {"volume.hdf": HDF}
    (tmp_path / "volume.hdf").unlink()
    assert get(tmp_path, "volume") == 2
    message = failed(capsys)
    assert "the file was removed" in message
    assert f"By hand: open {server.base}/volume.hdf in a browser" in message
    assert files(tmp_path) == {}


def test_fault_z3_what_was_recorded_binds_later_downloads(server, tmp_path, capsys):
    assert get(tmp_path, "volume") == 0
    (tmp_path / "volume.hdf").unlink()
    assert get(tmp_path, "volume") == 0  # the same again
    (tmp_path / "volume.hdf").unlink()
    server.add("/volume.hdf", make_hdf(60_000))
    capsys.readouterr()
    assert get(tmp_path, "volume") == 2
    message = failed(capsys)
    assert f"expected {len(HDF)}" in message
    assert f"remove {tmp_path / RECORD} before" in message
    assert files(tmp_path) == {}
    (tmp_path / RECORD).unlink()
    assert get(tmp_path, "volume") == 0


def test_a_file_that_was_changed_is_told_and_left(server, tmp_path, capsys):
    assert get(tmp_path, "volume") == 0
    (tmp_path / "volume.hdf").write_bytes(HDF + b"x")
    capsys.readouterr()
    assert get(tmp_path, "volume") == 2
    assert "It was not touched: move it away" in failed(capsys)
    assert files(tmp_path) == {"volume.hdf": HDF + b"x"}


def test_unpacked_files_that_are_lost_come_again(server, tmp_path, capsys):
    assert get(tmp_path, "set") == 0
    (tmp_path / "inside/train/a.png").unlink()
    capsys.readouterr()
    assert get(tmp_path, "set") == 0
    assert "as recorded at the first download" in capsys.readouterr().out
    assert len(server.requests) == 2
    assert files(tmp_path) == {"inside/train/a.png": b"a" * 30, "inside/list.txt": b"list"}
    (tmp_path / "inside/list.txt").write_bytes(b"mine!")
    capsys.readouterr()
    assert get(tmp_path, "set") == 2
    assert "are in the way (list.txt)" in failed(capsys)
    assert files(tmp_path)["inside/list.txt"] == b"mine!"


def test_what_was_put_there_by_hand_is_taken(server, tmp_path, capsys):
    (tmp_path / "volume.hdf").write_bytes(HDF)
    (tmp_path / "set.zip").write_bytes(ZIP)
    assert get(tmp_path, "volume", "set") == 0
    assert server.requests == []
    assert set(files(tmp_path)) == {"volume.hdf", "inside/train/a.png", "inside/list.txt"}
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("fake volume: already complete: volume.hdf")
    assert all("recorded now" in line for line in out)


@pytest.mark.parametrize("content", [b"<html>please log in</html>", b"something else", b""])
def test_what_was_put_there_by_hand_is_looked_at(content, tmp_path, capsys):
    (tmp_path / "volume.hdf").write_bytes(content)
    assert get(tmp_path, "volume") == 2
    assert "no hdf5 file; move it away, then repeat" in failed(capsys)
    assert files(tmp_path) == {"volume.hdf": content}


@pytest.mark.parametrize("status", [403, 404, 500])
def test_fault_z3_not_to_be_had(status, server, tmp_path, capsys):
    server.add("/volume.hdf", status=status)
    assert get(tmp_path, "volume") == 2
    message = failed(capsys)
    assert str(status) in message
    assert f"save it as {tmp_path / 'volume.hdf'}, and repeat the command" in message
    assert files(tmp_path) == {}


def test_fault_z3_no_network(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "fake", fake_source("http://127.0.0.1:9"))
    assert get(tmp_path) == 2
    message = failed(capsys)
    assert "perhaps no network" in message
    assert "By hand: open http://127.0.0.1:9/volume.hdf" in message


def test_fault_z3_a_login_page(server, tmp_path, capsys):
    server.add("/set.zip", b"<!doctype html><title>Log in</title>", content_type="text/html")
    assert get(tmp_path, "set") == 2
    message = failed(capsys)
    assert "a web page came instead of the zip file, perhaps a login" in message
    assert "By hand" in message
    assert files(tmp_path) == {}


def test_fault_z3_a_folder_that_cannot_be_written(server, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        assert get(root, "volume") == 2
        message = failed(capsys)
        assert "choose another output folder" in message or "cannot be made" in message
        assert f"By hand, in a folder of yours: {server.base}/volume.hdf" in message
    assert server.requests == []


def test_fault_z1_a_bad_archive_leaves_nothing(server, tmp_path, capsys):
    server.add("/set.zip", make_zip({"r/Set/good.txt": b"g", "../../evil.txt": b"evil"}))
    assert get(tmp_path / "deep" / "root", "set") == 2
    assert "'../../evil.txt' leads out of its folder" in failed(capsys)
    assert set(files(tmp_path)) == {f"deep/root/{RECORD}"}
    server.add("/set.zip", ZIP)  # a sound one is then taken
    assert get(tmp_path / "deep" / "root", "set") == 0


def test_fault_z2_a_bomb_leaves_nothing(server, tmp_path, capsys):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("r/Set/zeros.bin", bytes(10**6))
    server.add("/set.zip", buffer.getvalue())
    assert get(tmp_path, "set") == 2
    assert "200 times its size" in failed(capsys)
    assert files(tmp_path) == {}
    (tmp_path / "set.zip").write_bytes(buffer.getvalue())  # put there by hand: told, and left
    assert get(tmp_path, "set") == 2
    assert "200 times its size" in failed(capsys)
    assert set(files(tmp_path)) == {"set.zip"}


def test_another_process_is_at_work(server, tmp_path, capsys):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        assert get(tmp_path, "volume") == 2
        assert "another process is getting data there" in failed(capsys)
    finally:
        os.close(descriptor)
    assert get(tmp_path, "volume") == 0


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": 2, "files": {}}',
        '{"format": 1, "files": []}',
        '{"format": 1, "files": {"volume.hdf": 3}}',
        '{"format": 1, "files": {"volume.hdf": {"size": "x"}}}',
        '{"format": 1, "files": {"volume.hdf": {"address": "a", "size": 1, "sha256": "b", '
        '"stated_by": "c", "unpacked": {"a": "b"}}}}',
    ],
)
def test_a_damaged_record(text, tmp_path, capsys):
    (tmp_path / RECORD).write_text(text)
    assert get(tmp_path, "volume") == 2
    assert RECORD in failed(capsys)


CODE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from rlseg.cli import main
from rlseg.data import sources
from rlseg.data.remote import Part, RemoteFile, Source
file = RemoteFile(saved_as="volume.hdf", addresses=(sys.argv[1],), kind="hdf5")
part = Part(name="volume", what="", size="", files=(file,))
sources.SOURCES["fake"] = Source(name="fake", terms=".", parts=(part,))
code = main(["data", "get", "fake", sys.argv[2]])
assert "torch" not in sys.modules, "nothing heavy is needed to download"
sys.exit(code)
"""


def start(server, root):
    return subprocess.Popen(
        [sys.executable, "-c", CODE, f"{server.base}/volume.hdf", str(root)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "no_proxy": "127.0.0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_fault_z3_stopped_on_the_way_and_continued(sent, code, server, tmp_path):
    server.add("/volume.hdf", HDF, hold_after=100_000)
    process = start(server, tmp_path)
    part = tmp_path / "volume.hdf.part"
    until = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size == 100_000):
        assert time.monotonic() < until, process.communicate(timeout=1)
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=30)
    server.released.set()
    assert process.returncode == code
    assert "Traceback" not in errors
    assert sorted(files(tmp_path)) == ["volume.hdf.part", "volume.hdf.part.json"]
    assert part.stat().st_size == 100_000
    (tmp_path / ".rlseg-unpack-left").mkdir()  # what a killed run may leave
    process = start(server, tmp_path)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert server.ranges() == [None, "bytes=100000-"]
    assert files(tmp_path) == {"volume.hdf": HDF}
    assert not (tmp_path / ".rlseg-unpack-left").exists()


def test_instructions_are_printed(server, tmp_path, capsys):
    assert main(["data", "get", "fake", "--part", "asked"]) == 0
    out = capsys.readouterr().out
    assert "1. Ask at https://example.invalid ." in out
    assert "2. Unpack it in DIR as DIR/asked." in out
    assert "terms: Be kind." in out
    assert get(tmp_path / "my data", "asked", "ids") == 0
    out = capsys.readouterr().out
    assert "fake ids: ids.json" in out
    place = tmp_path / "my data"
    assert f"Unpack it in {place} as {place}/asked." in " ".join(out.split())
    assert main(["data", "get", "cityscapes", "somewhere"]) == 0
    out = capsys.readouterr().out
    assert "leftImg8bit_trainvaltest.zip" in out
    assert "Then: rlseg data check cityscapes somewhere" in out
    assert not Path("somewhere").exists()


def test_places_are_partly_downloaded(server, tmp_path, capsys):
    assert main(["data", "get", "places", "--part", "images"]) == 0
    assert "ADEChallengeData2016.zip" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["cells"], 0, "generated"),
        (["folder", "x"], 0, "your own files"),
        (["rlseg.data.cremi"], 0, "cremi.org"),
        (["cityscape"], 2, "did you mean 'cityscapes'"),
        (["fake", "x", "--part", "volme"], 2, "did you mean 'volume'"),
        (["cells", "x", "--part", "a"], 2, "no part 'a'"),
        (["fake"], 2, "which folder? `rlseg data get fake DIR`; parts: volume (a thing, 1 MB)"),
        (["no.such.module"], 2, "unknown data set"),
    ],
)
def test_names_and_parts(words, code, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "get", *words]) == code
    captured = capsys.readouterr()
    assert text in (captured.err if code else captured.out)
    assert list(tmp_path.iterdir()) == []


def test_the_list_says_how(capsys, monkeypatch):
    assert main(["data", "list", "--json"]) == 0
    lines = {entry["name"]: entry["download"] for entry in json.loads(capsys.readouterr().out)}
    assert set(lines) == set(DATASETS)
    assert lines["cremi"] == (
        "`rlseg data get cremi DIR`: parts A, B, C, cre256 (addresses not tried)."
    )
    assert "steps for images" in lines["places"]
    assert "nothing to get" in lines["cells"]
    assert data_get.download_line("kitti") == "`rlseg data get kitti` prints the steps."
    assert data_get.download_line("my.module") == "`rlseg data get my.module` prints the steps."
    tried = Source(name="fake", terms=".", parts=sources.SOURCES["fake"].parts, tried=True)
    monkeypatch.setitem(sources.SOURCES, "fake", tried)
    assert data_get.download_line("fake") == (
        "`rlseg data get fake DIR`: parts volume, set, masks, ids; steps for asked."
    )


def test_progress_shows_bytes_rate_and_time_left(capsys, monkeypatch):
    now = [100.0]
    for module in (commands, data_get):
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    ticker = data_get.ByteTicker(argparse.Namespace(quiet=False), "volume.hdf")
    ticker.report(10_000_000, 100_000_000)  # continued: these came earlier
    now[0] += 10
    ticker.report(15_000_000, 100_000_000)  # too early for a line
    now[0] += 30
    ticker.report(50_000_000, 100_000_000)
    ticker.report(51_000_000, 100_000_000)
    now[0] += 40
    ticker.report(60_000_000, None)
    assert capsys.readouterr().err.splitlines() == [
        "volume.hdf: 50.0 of 100.0 MB, 1.0 MB/s, 50 s left",
        "volume.hdf: 60.0 MB, 0.6 MB/s",
    ]
    quiet = data_get.ByteTicker(argparse.Namespace(quiet=True), "volume.hdf")
    quiet.report(0, 10)
    now[0] += 100
    quiet.report(5, 10)
    assert capsys.readouterr().err == ""
