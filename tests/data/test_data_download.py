"""Downloads from a server on this machine: continued, verified, and never half there."""

import errno
import hashlib
import io
import itertools
import json
import os
import random
import shutil
import socket
import ssl
import zipfile
from types import SimpleNamespace
from urllib.error import URLError

import h5py
import pytest

from rlseg.data import download as module
from rlseg.data.download import DownloadSettings, download
from rlseg.data.filekinds import check_kind, file_sha256
from rlseg.data.web import make_opener
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from tests.fake.server import serving

QUICK = DownloadSettings(timeout_seconds=5.0, attempts=3, pause_seconds=0.0)
NOISE = random.Random(7).randbytes(700_000)


def make_zip(data=NOISE):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.bin", data)
    return buffer.getvalue()


BODY = make_zip()
OTHER = make_zip(NOISE[::-1])
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "data.zip"


def get(addresses, place, **settings):
    addresses = (addresses,) if isinstance(addresses, str) else addresses
    return download(addresses, place, **{"kind": "zip", "settings": QUICK} | settings)


def names(place):
    return sorted(path.name for path in place.parent.iterdir())


def leave_part(place, address, kept, **state):
    """What a killed run leaves."""
    place.with_name("data.zip.part").write_bytes(kept)
    text = json.dumps({"address": address, "version": '"one"', "size": len(BODY)} | state)
    place.with_name("data.zip.part.json").write_text(text)


def test_a_file_comes_whole_and_is_told(server, place):
    told = []
    came = get(server.add("/data.zip", BODY), place, size=len(BODY), sha256=SHA.upper(),
               advance=lambda done, total: told.append((done, total)))  # fmt: skip
    assert place.read_bytes() == BODY
    assert names(place) == ["data.zip"]
    assert (came.size, came.sha256, came.continued_from) == (len(BODY), SHA, 0)
    assert told[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert server.requests[0][1]["Accept-Encoding"] == "identity"
    assert server.requests[0][1]["User-Agent"].startswith("rlseg/")


def test_fault_z3_cut_connections_are_continued(server, place):
    address = server.add("/data.zip", BODY, cuts=[300_000, 100_000, 0])
    said = []
    came = get(address, place, say=said.append)
    assert came.sha256 == SHA
    assert place.read_bytes() == BODY
    assert server.ranges() == [None, "bytes=300000-", "bytes=400000-", "bytes=400000-"]
    assert [headers.get("If-Range") for _, headers in server.requests] == [None] + ['"one"'] * 3
    assert "cut off after 300000" in said[0]
    assert len(said) == 3
    assert came.continued_from == 0


def test_fault_z3_an_interrupted_run_goes_on(server, place):
    address = server.add("/data.zip", BODY)

    def stop(done, total):
        if done > 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(address, place, advance=stop)
    assert names(place) == ["data.zip.part", "data.zip.part.json"]
    kept = place.with_name("data.zip.part").stat().st_size
    assert 200_000 < kept < len(BODY)
    came = get(address, place)
    assert came.continued_from == kept
    assert server.ranges() == [None, f"bytes={kept}-"]
    assert place.read_bytes() == BODY
    assert names(place) == ["data.zip"]


def test_fault_z3_a_server_without_ranges_starts_again(server, place):
    address = server.add("/data.zip", BODY, ranges=False, cuts=[300_000])
    came = get(address, place)
    assert place.read_bytes() == BODY
    assert came.continued_from == 0
    assert server.ranges() == [None, "bytes=300000-"]


def test_fault_z3_another_version_starts_again(server, place):
    leave_part(place, server.add("/data.zip", OTHER, etag='"two"'), BODY[:300_000])
    came = get(server.base + "/data.zip", place)
    assert place.read_bytes() == OTHER
    assert came.continued_from == 0


@pytest.mark.parametrize(
    ("etag", "modified", "asked"),
    [
        (None, None, [None, None]),
        ('W/"weak"', None, [None, None]),
        (None, "Sun, 01 May 2016 10:00:00 GMT", [None, "bytes=300000-"]),
    ],
)
def test_only_a_sure_version_is_continued(etag, modified, asked, server, place):
    address = server.add("/data.zip", BODY, etag=etag, modified=modified, cuts=[300_000])
    get(address, place)
    assert server.ranges() == asked
    assert place.read_bytes() == BODY


def test_with_a_digest_no_version_is_needed(server, place):
    address = server.add("/data.zip", BODY, etag=None, cuts=[300_000])
    get(address, place, sha256=SHA)
    assert server.ranges() == [None, "bytes=300000-"]


@pytest.mark.parametrize("state", ["", "{", "[]", '{"address": 3}', '{"address": "http://other"}'])
def test_a_part_of_unknown_origin_is_not_continued(state, server, place):
    address = server.add("/data.zip", BODY)
    leave_part(place, address, OTHER[:300_000])
    place.with_name("data.zip.part.json").write_text(state)
    get(address, place)
    assert server.ranges() == [None]
    assert place.read_bytes() == BODY


def test_a_part_that_is_whole_is_only_verified(server, place):
    address = server.add("/data.zip", BODY)
    leave_part(place, address, BODY)
    came = get(address, place)
    assert server.requests == []
    assert (came.sha256, came.continued_from) == (SHA, len(BODY))
    assert names(place) == ["data.zip"]


def test_a_part_that_is_too_long_is_dropped(server, place):
    address = server.add("/data.zip", BODY)
    leave_part(place, address, BODY + b"more", size=None)
    get(address, place)
    assert server.ranges() == [f"bytes={len(BODY) + 4}-", None]
    assert place.read_bytes() == BODY


def test_a_server_that_sends_another_range(server, place):
    address = server.add("/data.zip", BODY, cuts=[300_000], wrong_range=True)
    get(address, place)
    assert server.ranges() == [None, "bytes=300000-", None]
    assert place.read_bytes() == BODY


def test_no_part_is_written_through_a_link(server, place, tmp_path):
    (tmp_path / "victim").write_bytes(b"precious")
    place.with_name("data.zip.part").symlink_to(tmp_path / "victim")
    leave = place.with_name("data.zip.part.json")
    leave.write_text("{}")
    get(server.add("/data.zip", BODY), place)
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert place.read_bytes() == BODY
    assert not place.is_symlink()
    other = place.with_name("b.zip.part")
    other.symlink_to(tmp_path / "victim")
    state = {"address": server.base + "/data.zip", "version": '"one"', "size": len(BODY)}
    other.with_name("b.zip.part.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError, match="cannot be written"):
        get(server.base + "/data.zip", place.with_name("b.zip"))
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_fault_z3_wrong_digest(server, place):
    with pytest.raises(CorruptDatasetError, match=f"its SHA-256 is {SHA}, expected 000"):
        get(server.add("/data.zip", BODY), place, sha256="0" * 64)
    assert names(place) == []


def test_fault_z3_wrong_digest_after_a_part_of_another_file(server, place):
    address = server.add("/data.zip", BODY)
    leave_part(place, address, OTHER[:300_000])
    with pytest.raises(CorruptDatasetError, match="the file was removed"):
        get(address, place, sha256=SHA)
    assert names(place) == []
    get(address, place, sha256=SHA)  # and then it comes anew
    assert place.read_bytes() == BODY


def test_fault_z3_wrong_size_is_seen_before_anything_comes(server, place):
    told = []
    with pytest.raises(CorruptDatasetError, match=f"has {len(BODY)} bytes, expected 5"):
        get(server.add("/data.zip", BODY), place, size=5, advance=lambda *now: told.append(now))
    assert names(place) == []
    assert told == []


def test_fault_z3_wrong_size_without_an_announcement(server, place):
    address = server.add("/data.zip", BODY, length=False)
    with pytest.raises(CorruptDatasetError, match="expected 5"):
        get(address, place, size=5)
    assert names(place) == []
    get(address, place)
    assert place.read_bytes() == BODY


def test_fault_z3_chunks_that_break_off(server, place):
    address = server.add("/data.zip", BODY, length=False, cuts=[300_000])
    get(address, place)
    assert server.ranges() == [None, "bytes=300000-"]
    assert place.read_bytes() == BODY


def test_fault_z3_cut_off_for_good_keeps_the_part(server, place):
    address = server.add("/data.zip", BODY, cuts=[300_000] + [0] * 9)
    with pytest.raises(DatasetNotFoundError, match=r"300000 bytes are kept in data\.zip\.part"):
        get(address, place)
    assert names(place) == ["data.zip.part", "data.zip.part.json"]
    assert len(server.requests) == 1 + 2  # three in a row that bring nothing end it
    server.resources["/data.zip"].cuts.clear()
    assert get(address, place).continued_from == 300_000


@pytest.mark.parametrize(
    "body", [b"<!DOCTYPE html><html>Please log in</html>", b"\n <html></html>"]
)
@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_fault_z3_a_login_page_instead_of_the_file(body, content_type, server, place):
    with pytest.raises(DatasetNotFoundError, match="a web page came instead of the zip file"):
        get(server.add("/data.zip", body, content_type=content_type), place)
    assert names(place) == []


def test_fault_z3_a_redirect_to_a_login_page(server, place):
    server.add("/login", b"<html>", content_type="text/html")
    with pytest.raises(DatasetNotFoundError, match="perhaps a login"):
        get(server.add("/data.zip", redirect="/login"), place)


def test_fault_z3_another_kind_of_file(server, place):
    with pytest.raises(CorruptDatasetError, match="no zip file, it begins with b'not a zip'"):
        get(server.add("/data.zip", b"not a zip"), place)
    assert names(place) == []


@pytest.mark.parametrize(("status", "words"), [(404, "404"), (403, "a login"), (401, "a login")])
def test_fault_z3_refusals_are_final(status, words, server, place):
    with pytest.raises(DatasetNotFoundError, match=words):
        get(server.add("/data.zip", status=status), place)
    assert len(server.requests) == 1
    assert names(place) == []


def test_a_server_in_trouble_is_asked_again(server, place):
    said = []
    get(server.add("/data.zip", BODY, failures=[503, 429]), place, say=said.append)
    assert len(server.requests) == 3
    assert "503" in said[0]
    with pytest.raises(DatasetNotFoundError, match="503"):
        get(server.add("/data.zip", BODY, failures=[503] * 9), place)


def test_fault_z3_no_network(place):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DatasetNotFoundError, match=r"no connection .*, perhaps no network"):
        get(f"http://127.0.0.1:{port}/data.zip", place)
    with pytest.raises(DatasetNotFoundError, match="no connection"):
        get("http://no-such-host.invalid/data.zip", place)
    assert names(place) == []


def test_fault_z3_a_silent_server(server, place):
    quick = DownloadSettings(timeout_seconds=0.1, attempts=2, pause_seconds=0.0)
    with pytest.raises(DatasetNotFoundError, match="no answer"):
        get(server.add("/data.zip", BODY, stall_seconds=0.5), place, settings=quick)
    assert len(server.requests) == 2


def test_an_invalid_certificate_is_final(place, monkeypatch):
    asked = []

    def fail(request, timeout):
        asked.append(request.full_url)
        error = ssl.SSLCertVerificationError(1, "failed")
        error.verify_message = "certificate has expired"
        raise URLError(error)

    monkeypatch.setattr(module, "make_opener", lambda: SimpleNamespace(open=fail))
    with pytest.raises(DatasetNotFoundError, match=r"not valid \(certificate has expired\)"):
        get("https://example.invalid/data.zip", place)
    assert len(asked) == 1


def test_the_next_address_is_tried(server, place):
    said = []
    addresses = (server.base + "/gone.zip", server.add("/data.zip", BODY))
    came = get(addresses, place, say=said.append)
    assert came.address == addresses[1]
    assert "404" in said[0]
    assert f"trying {addresses[1]}" in said[0]


def test_redirects_are_followed_among_web_addresses_only(server, place, tmp_path):
    server.add("/data.zip", BODY)
    assert get(server.add("/moved.zip", redirect="/data.zip"), place).sha256 == SHA
    (tmp_path / "secret").write_bytes(BODY)
    for target in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/data.zip", "data:,x"):
        with pytest.raises(DatasetNotFoundError, match="no web address"):
            get(server.add("/moved.zip", redirect=target), place.with_name("b.zip"))
    with pytest.raises(DatasetNotFoundError, match="redirect"):
        get(server.add("/loop.zip", redirect="/loop.zip"), place.with_name("b.zip"))
    assert names(place) == ["data.zip"]


def test_redirects_never_leave_encryption():
    handler = next(h for h in make_opener().handlers if hasattr(h, "redirect_request"))
    request = module.urllib.request.Request("https://127.0.0.1/a.zip")
    with pytest.raises(DatasetNotFoundError, match="not encrypted"):
        handler.redirect_request(request, None, 302, "", {}, "http://127.0.0.1/b.zip")
    followed = handler.redirect_request(request, None, 302, "", {}, "https://127.0.0.1/b.zip")
    assert followed.full_url == "https://127.0.0.1/b.zip"


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/a", "a.zip"])
def test_only_web_addresses(address, place):
    with pytest.raises(ConfigError, match="not a web address"):
        get(address, place)


def test_fault_z3_a_full_disk_before_it_begins(server, place, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ConfigError, match=f"{len(BODY)} bytes are to come and 1000 are free"):
        get(server.add("/data.zip", BODY), place)
    assert names(place) == []


class FullFile(io.FileIO):
    """A file on a disk that is full after 400000 bytes."""

    def write(self, data):
        if self.tell() + len(data) > 400_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_fault_z3_a_full_disk_on_the_way(server, place, monkeypatch):
    address = server.add("/data.zip", BODY)
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fdopen", lambda fd, mode, buffering: FullFile(fd, mode))
        with pytest.raises(ConfigError, match="No space left on device; make room"):
            get(address, place)
    assert names(place) == ["data.zip.part", "data.zip.part.json"]
    came = get(address, place)  # once there is room, it goes on
    assert came.continued_from > 0
    assert place.read_bytes() == BODY


def test_fault_z3_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    address = server.add("/data.zip", BODY)
    with pytest.raises(ConfigError, match="cannot be written"):
        get(address, tmp_path / "file" / "data.zip")


def test_an_endless_file_is_stopped(server, place):
    limited = DownloadSettings(attempts=1, pause_seconds=0.0, max_bytes=300_000)
    with pytest.raises(CorruptDatasetError, match="the limit is 300000"):
        get(server.add("/data.zip", BODY), place, settings=limited)
    with pytest.raises(CorruptDatasetError, match="more than 300000 bytes"):
        get(server.add("/data.zip", BODY, length=False), place, settings=limited)
    assert names(place) == []


def test_pauses_grow(server, place, monkeypatch):
    pauses = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=pauses.append))
    patient = DownloadSettings(attempts=4, pause_seconds=1.5)
    with pytest.raises(DatasetNotFoundError):
        get(server.add("/data.zip", BODY, failures=[500] * 9), place, settings=patient)
    assert pauses == [1.5, 3.0, 6.0]


def test_kinds(tmp_path):
    path = tmp_path / "a.hdf"
    with h5py.File(path, "w") as file:
        file["x"] = list(range(1000))
    check_kind(path, "hdf5")
    whole = path.read_bytes()
    for cut in itertools.chain([9, 100], range(500, len(whole), 1000)):
        path.write_bytes(whole[:cut])
        with pytest.raises(CorruptDatasetError, match="damaged HDF5"):
            check_kind(path, "hdf5")
    path.write_bytes(b"\xef\xbb\xbf [1]")
    check_kind(path, "json")
    with pytest.raises(CorruptDatasetError, match="no tar file"):
        check_kind(path, "tar")
    path.write_bytes(b"")
    with pytest.raises(CorruptDatasetError, match="no json file"):
        check_kind(path, "json")
    assert file_sha256(path) == hashlib.sha256(b"").hexdigest()
