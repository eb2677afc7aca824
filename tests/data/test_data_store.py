"""Kept derived maps: never wrong, whatever happens to the files."""

import os
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest
import torch

from rlseg.data import store as module
from rlseg.data.neighbours import neighbour_counts, neighbour_pairs
from rlseg.data.statistics import split_statistics
from rlseg.data.store import Store
from rlseg.data.synthetic.cells import Cells, Options
from rlseg.errors import ConfigError

ARRAYS = {
    "pairs": np.arange(12, dtype=np.int64).reshape(6, 2),
    "distance": np.linspace(0, 1, 6),
    "inside": np.array([True, False]),
    "nothing": np.zeros((0, 3), dtype=np.uint8),
    "number": np.array(2.5, dtype=np.float32),
}
KEY = {"labels": np.eye(4, dtype=np.int64), "radius": 3.0}


class Making:
    """A maker that counts its calls."""

    def __init__(self, arrays=ARRAYS):
        self.arrays, self.calls = arrays, 0

    def __call__(self):
        self.calls += 1
        return self.arrays


def same(found, arrays=ARRAYS):
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)


def kept(folder, notes=None, **settings):
    """A store, its maker, and the file of an entry written just now."""
    store = Store(folder, note=None if notes is None else notes.append, **settings)
    make = Making()
    same(store.get_or_make("maps", KEY, make))
    (path,) = folder.glob("*.h5")
    assert make.calls == 1
    return store, make, path


def test_made_once_and_read_afterwards(tmp_path):
    store, make, path = kept(tmp_path / "new" / "cache")
    for again in (store, Store(path.parent)):
        found = again.get_or_make("maps", KEY, make)
        same(found)
        found["pairs"][:] = 0  # what comes back is the caller's
        assert found["distance"].flags.owndata or found["distance"].base is None
    assert make.calls == 1
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no lock, no temporary


@pytest.mark.parametrize(
    "other",
    [
        {"labels": np.eye(4, dtype=np.int64), "radius": 3},  # a whole number is not 3.0
        {"labels": np.eye(4, dtype=np.int32), "radius": 3.0},
        {"labels": np.eye(4, dtype=np.int64).reshape(2, 8), "radius": 3.0},
        {"labels": np.eye(4, dtype=np.int64), "radius": 3.0, "version": 2},
        {"labels": 1 - np.eye(4, dtype=np.int64), "radius": 3.0},
        {"label": np.eye(4, dtype=np.int64), "sradius": 3.0},
    ],
)
def test_another_key_is_another_entry(tmp_path, other):
    store, _, _ = kept(tmp_path)
    make = Making({"pairs": np.zeros(1)})
    same(store.get_or_make("maps", other, make), make.arrays)
    assert make.calls == 1
    assert len(list(tmp_path.glob("*.h5"))) == 2
    same(store.get_or_make("maps", KEY, make))


def test_kind_is_part_of_the_key_and_tensors_count_like_arrays(tmp_path):
    store, make, _ = kept(tmp_path)
    store.get_or_make("maps", {"labels": torch.eye(4, dtype=torch.int64), "radius": 3.0}, make)
    store.get_or_make("maps", {"radius": 3.0, "labels": np.eye(8, dtype=int)[::2, ::2]}, make)
    assert make.calls == 1
    store.get_or_make("other", KEY, make)
    assert make.calls == 2


@pytest.mark.parametrize(
    ("kind", "key", "arrays", "words"),
    [
        ("../up", KEY, ARRAYS, "kind is like"),
        ("Maps", KEY, ARRAYS, "kind is like"),
        ("maps", {"x": object()}, ARRAYS, "part 'x'.*is a object"),
        ("maps", {"x": float("nan")}, ARRAYS, "part 'x'"),
        ("maps", {"x": np.array(["text"])}, ARRAYS, "'x' has dtype <U4"),
        ("maps", KEY, {"a/b": np.zeros(1)}, "'a/b' is no name"),
        ("maps", KEY, {"a": [1, 2]}, "'a' is no name of an array, or no array"),
        ("maps", KEY, {"a": np.array([object()])}, "'a' has dtype object"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path, kind, key, arrays, words):
    with pytest.raises(ConfigError, match=words):
        Store(tmp_path).get_or_make(kind, key, lambda: arrays)
    assert list(tmp_path.iterdir()) == []


def test_fault_h5_written_half_is_rebuilt_at_every_byte(tmp_path):
    notes = []
    store, make, path = kept(tmp_path, notes)
    whole = path.read_bytes()
    used = len(whole[: module._BLOCK].rstrip(b"\0"))
    lengths = [*range(used + 2), *range(used + 2, len(whole), 41), len(whole) - 1]
    for calls, length in enumerate(lengths, start=2):
        path.write_bytes(whole[:length])
        same(store.get_or_make("maps", KEY, make))
        assert make.calls == calls, length
        assert len(notes) == calls - 1
        assert path.read_bytes() == whole
    assert all("made again" in note and str(path) in note for note in notes)


def test_fault_h4_flipped_byte_is_rebuilt_with_a_note(tmp_path):
    notes = []
    store, make, path = kept(tmp_path, notes)
    whole = path.read_bytes()
    used = len(whole[: module._BLOCK].rstrip(b"\0"))
    places = [*range(used), *range(module._BLOCK, len(whole), 31)]
    for calls, place in enumerate(places, start=2):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        same(store.get_or_make("maps", KEY, make))
        assert make.calls == calls, place
        assert len(notes) == calls - 1


def test_fault_h4_entries_carry_fletcher32_and_a_digest(tmp_path):
    _, _, path = kept(tmp_path)
    with h5py.File(path) as file:
        assert file["pairs"].fletcher32
        assert file["distance"].fletcher32
        assert len(file.attrs["content"]) == 64


def rewritten(path, change):
    """The entry with changed HDF5 content and a checksum of the block that fits it."""
    import hashlib

    with h5py.File(path, "r+") as file:
        change(file)
    body = path.read_bytes()[module._BLOCK :]
    header = b"rlseg store 1 " + hashlib.sha256(body).hexdigest().encode()
    path.write_bytes(header.ljust(module._BLOCK, b"\0") + body)


def another_number(file):
    file["pairs"][0, 0] = 99


def another_key(file):
    file.attrs["key"] = "0" * 40


def no_digest(file):
    del file.attrs["content"]


def outside_link(file):
    file["away"] = h5py.ExternalLink("elsewhere.h5", "/x")


def inner_group(file):
    file.create_group("inner")


def another_array(file):
    file["more"] = np.zeros(3)


@pytest.mark.parametrize(
    "change", [another_number, another_key, no_digest, outside_link, inner_group, another_array]
)
def test_fault_h5_content_that_contradicts_itself_is_rebuilt(tmp_path, change):
    notes = []
    store, make, path = kept(tmp_path, notes)
    rewritten(path, lambda file: None)
    same(store.get_or_make("maps", KEY, make))
    assert make.calls == 1, "the rewriting itself must be sound"
    rewritten(path, change)
    same(store.get_or_make("maps", KEY, make))
    assert make.calls == 2
    assert len(notes) == 1


def test_fault_h5_older_format_is_rebuilt(tmp_path, monkeypatch):
    notes = []
    store, make, _ = kept(tmp_path, notes)
    monkeypatch.setattr(module, "FORMAT", 2)
    same(store.get_or_make("maps", KEY, make))
    assert make.calls == 2
    assert "of another format" in notes[0]
    same(store.get_or_make("maps", KEY, make))
    assert make.calls == 2


def test_too_large_an_entry_is_neither_read_nor_written(tmp_path, monkeypatch):
    notes = []
    store, make, path = kept(tmp_path, notes)
    monkeypatch.setattr(module, "MAX_ENTRY_BYTES", 1000)
    for _ in range(2):
        same(store.get_or_make("maps", KEY, make))
    assert make.calls == 3
    assert "too many to be kept" in " ".join(notes)
    assert path.exists()


def test_links_and_pipes_are_not_followed(tmp_path):
    notes, folder = [], tmp_path / "cache"
    store, make, path = kept(folder, notes)
    target = tmp_path / "precious"
    target.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(target)
    same(store.get_or_make("maps", KEY, make))
    assert make.calls == 2
    assert "is a link" in notes[0]
    assert not path.is_symlink()
    path.unlink()
    os.mkfifo(path)
    same(store.get_or_make("maps", KEY, make))  # and does not hang
    assert make.calls == 3
    lock = path.with_name(f".{path.name}.lock")
    path.unlink()
    lock.symlink_to(target)
    before = target.read_bytes()
    same(store.get_or_make("maps", KEY, make))  # without keeping it
    assert not path.exists()
    assert target.read_bytes() == before
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ConfigError, match="is a link"):
        Store(tmp_path / "link")
    with pytest.raises(ConfigError, match="is a file"):
        Store(target)


def test_a_maker_that_fails_leaves_nothing(tmp_path):
    store, make = Store(tmp_path), Making()

    def broken():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.get_or_make("maps", KEY, broken)
    assert list(tmp_path.iterdir()) == []
    same(store.get_or_make("maps", KEY, make))


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    """No permission (root may do all, so the system call says no): works, with one note."""
    notes, real = [], os.open

    def refuse(path, flags, *more):
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *more)

    _, make, _ = kept(tmp_path)
    monkeypatch.setattr(module.os, "open", refuse)
    store = Store(tmp_path, note=notes.append)
    same(store.get_or_make("maps", KEY, make))
    assert make.calls == 1  # reading needs no permission to write
    for _ in range(3):
        same(store.get_or_make("others", KEY, make))
    assert make.calls == 4
    assert len(notes) == 1
    assert "Permission denied" in notes[0]
    assert "without this cache" in notes[0]


def test_disk_full_while_writing(tmp_path, monkeypatch):
    notes, make = [], Making()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    store = Store(tmp_path, note=notes.append)
    same(store.get_or_make("maps", KEY, make))
    assert list(tmp_path.iterdir()) == []
    assert "No space left" in notes[0]


def test_bytes_are_bounded(tmp_path):
    notes = []
    _, _, path = kept(tmp_path / "first")
    size = path.stat().st_size
    store, make, _ = kept(tmp_path / "cache", notes, max_bytes=size + 10)
    for number in (1, 1, 2):
        store.get_or_make("maps", {"number": number}, make)
    assert make.calls == 4
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert len(notes) == 1
    assert "used up" in notes[0]
    store.clear()
    store.get_or_make("maps", {"number": 1}, make)
    store.get_or_make("maps", {"number": 1}, make)
    assert make.calls == 5


def test_threads_share_one_making(tmp_path):
    store, calls, found = Store(tmp_path), [], []

    def slow():
        calls.append(1)
        time.sleep(0.2)
        return ARRAYS

    def work():
        found.append(store.get_or_make("maps", KEY, slow))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    for one in found:
        same(one)


CHILD = """
import sys, time, pathlib, numpy as np
from rlseg.data.store import Store
folder, log, seconds = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), float(sys.argv[3])
def make():
    with log.open("a") as file:
        file.write("made\\n")
    time.sleep(seconds)
    return {"x": np.arange(5)}
assert Store(folder).get_or_make("maps", {"n": 1}, make)["x"].sum() == 10
"""


def start(folder, log, seconds):
    return subprocess.Popen([sys.executable, "-c", CHILD, str(folder), str(log), str(seconds)])


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_fault_h5_two_processes_make_an_entry_once(tmp_path):
    log = tmp_path / "log"
    children = [start(tmp_path / "cache", log, 0.5) for _ in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    assert log.read_text() == "made\n"
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_lock_and_pieces_of_a_killed_process_are_taken_over(tmp_path):
    folder, log = tmp_path / "cache", tmp_path / "log"
    child = start(folder, log, 60)
    wait_for(log)
    (lock,) = folder.glob(".*.lock")
    assert str(child.pid) in lock.read_text()
    lock.with_suffix(".tmp").write_bytes(b"rlseg store 1 half of an ent")
    waiting = Store(folder, wait_seconds=0.1, note=(notes := []).append)
    make = Making({"x": np.arange(5)})
    assert waiting.get_or_make("maps", {"n": 1}, make)["x"].sum() == 10  # gives up waiting
    assert make.calls == 1
    assert f'"pid": {child.pid}' in notes[0]
    assert waiting.clear() == []  # it belongs to a living process
    child.kill()
    child.wait(60)
    assert Store(folder).get_or_make("maps", {"n": 1}, make)["x"].sum() == 10
    assert make.calls == 2
    assert [path.suffix for path in folder.iterdir()] == [".h5"]


def test_entries_and_clear(tmp_path):
    folder = tmp_path / "cache"
    assert Store(folder).entries() == []
    store, make, path = kept(folder)
    store.get_or_make("rings", KEY, make)
    name = path.name
    left = path.with_name(f".{name}.tmp")
    left.write_bytes(b"half")
    foreign = folder / "notes.txt"
    foreign.write_text("mine")
    (folder / f"maps-{'1' * 40}.h5").symlink_to(foreign)
    assert sorted((e.kind, e.size) for e in store.entries()) == [
        ("maps", path.stat().st_size),
        ("rings", path.stat().st_size),
        ("unfinished", 4),
    ]
    assert len(store.clear()) == 3
    assert foreign.read_text() == "mine"
    assert store.entries() == []
    same(store.get_or_make("maps", KEY, make))
    assert make.calls == 3
    foreign.unlink()
    (folder / f"maps-{'1' * 40}.h5").unlink()
    store.clear()
    assert not folder.exists()
    assert store.clear() == []


@pytest.mark.parametrize("sides", [(24, 30), (6, 12, 12)])
def test_neighbours_are_the_same_with_and_without_a_store(tmp_path, sides, monkeypatch):
    labels = torch.randint(0, 6, sides, generator=torch.Generator().manual_seed(1))
    labels = labels * (torch.rand(sides, generator=torch.Generator().manual_seed(2)) < 0.1)
    store = Store(tmp_path)
    for radius in (2, 4.5):
        for _ in range(2):
            a, b = neighbour_pairs(labels, radius), neighbour_pairs(labels, radius, store)
            for x, y in zip(a, b, strict=True):
                assert torch.equal(x, y)
                assert x.dtype == y.dtype
            assert torch.equal(
                neighbour_counts(labels.int(), radius, store), neighbour_counts(labels, radius)
            )
    empty = torch.zeros(sides, dtype=torch.int64)
    for _ in range(2):
        pairs, distance = neighbour_pairs(empty, 3, store)
        assert pairs.shape == (0, 2)
        assert distance.shape == (0,)
    assert len(store.entries()) == 3
    monkeypatch.setattr("rlseg.data.neighbours._pairs", None)  # read, not made
    neighbour_pairs(labels, 2, store)


def test_statistics_are_the_same_with_and_without_a_store(tmp_path):
    cells = Cells("valid", Options(valid=3))
    store = Store(tmp_path)
    plain = split_statistics(cells)
    for _ in range(2):
        assert split_statistics(cells, store=store) == plain
    assert len(store.entries()) == 3
