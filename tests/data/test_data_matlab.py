import random
import struct
import zlib

import numpy as np
import pytest
from scipy import io

from rlseg.data.matlab import read_number_arrays
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError, RlsegError

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_as_scipy_writes_them(tmp_path, packed, dtype):
    rng = np.random.default_rng(0)
    arrays = {
        "long": rng.integers(0, 100, (300, 1)).astype(dtype),
        "x": rng.integers(0, 100, (1, 3)).astype(dtype),
        "table": rng.integers(0, 100, (5, 4)).astype(dtype),
        "none": np.zeros((0, 1), dtype),
    }
    others = {"text": "abc", "structure": {"a": np.arange(3)}, "cells": np.array([1, "a"], object)}
    io.savemat(tmp_path / "a.mat", arrays | others, do_compression=packed)
    found = read_number_arrays(tmp_path / "a.mat", list(arrays))
    expected = io.loadmat(tmp_path / "a.mat")
    assert set(found) == set(arrays)
    for name in arrays:
        assert found[name].dtype == np.float64
        assert (found[name] == expected[name].ravel(order="F")).all()
    for name in others:
        with pytest.raises(CorruptDatasetError, match=f"{name} is no array of real numbers"):
            read_number_arrays(tmp_path / "a.mat", [name])
    with pytest.raises(CorruptDatasetError, match="no variable y; the file holds long, x, table"):
        read_number_arrays(tmp_path / "a.mat", ["y"])


def element(kind, content, order):
    return struct.pack(f"{order}II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def matrix(name, content, order, sides, kind=9, flags=6):
    return element(14, element(6, struct.pack(f"{order}II", flags, 0), order)
                   + element(5, struct.pack(f"{order}{len(sides)}i", *sides), order)
                   + element(1, name, order) + element(kind, content, order), order)  # fmt: skip


def file_of(*variables, order="<", version=0x0100):
    mark = struct.pack(f"{order}H", version) + (b"IM" if order == "<" else b"MI")
    return b"MATLAB 5.0".ljust(124) + mark + b"".join(variables)


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders(tmp_path, order):
    path = tmp_path / "a.mat"
    content = struct.pack(f"{order}3d", 1, 2.5, -3)
    path.write_bytes(file_of(matrix(b"x", content, order, (3, 1)), order=order))
    assert read_number_arrays(path, ["x"])["x"].tolist() == [1, 2.5, -3]


def test_declared_sizes_that_do_not_fit(tmp_path):
    path = tmp_path / "a.mat"
    good = matrix(b"x", struct.pack("<2d", 1, 2), "<", (2, 1))
    for variables, message in [
        ((matrix(b"x", b"", "<", (1 << 30, 1 << 30)),), "0 bytes where"),
        ((matrix(b"x", struct.pack("<2d", 1, 2), "<", (-2, -1)),), "no numbers"),
        ((matrix(b"x", struct.pack("<2d", 1, 2), "<", (2, 1), kind=14),), "no numbers"),
        ((matrix(b"x", struct.pack("<2d", 1, 2), "<", (2, 1), flags=6 | 0x0800),), "no array"),
        ((good[:-4],), "goes beyond the end"),
        ((good, b"\0\0\0"), "cut off"),
        ((struct.pack("<II", 14, 1 << 31),), "goes beyond the end"),
        ((element(9, b"12345678", "<"),), "element of type 9"),
        ((element(14, b"", "<"),), "without type, size and name"),
        ((element(15, zlib.compress(good)[:-9], "<"),), "cut off or larger"),
        ((element(15, b"nonsense", "<"),), "incorrect header"),
    ]:
        path.write_bytes(file_of(*variables))
        with pytest.raises(CorruptDatasetError, match=message):
            read_number_arrays(path, ["x"])


def test_a_small_file_that_unpacks_to_a_large_one(tmp_path):
    path = tmp_path / "a.mat"
    bomb = zlib.compress(matrix(b"x", bytes(1 << 24), "<", (1 << 21, 1)), 9)
    path.write_bytes(file_of(struct.pack("<II", 15, len(bomb)) + bomb))
    assert path.stat().st_size < 1 << 15
    with pytest.raises(CorruptDatasetError, match="larger than 65536 bytes"):
        read_number_arrays(path, ["x"], max_bytes=1 << 16)
    assert len(read_number_arrays(path, ["x"])["x"]) == 1 << 21


def test_other_files(tmp_path):
    path = tmp_path / "a.mat"
    for content in (b"", b"x" * 127, b"x" * 500, file_of(version=0x0200)):
        path.write_bytes(content)
        with pytest.raises(CorruptDatasetError, match="not a MATLAB file of level 5"):
            read_number_arrays(path, ["x"])
    with pytest.raises(DatasetNotFoundError, match="no such file"):
        read_number_arrays(tmp_path / "b.mat", ["x"])
    with pytest.raises(CorruptDatasetError, match="cannot be read"):
        read_number_arrays(tmp_path, ["x"])


@pytest.mark.parametrize("packed", [True, False])
def test_random_damage_is_an_error_or_nothing(tmp_path, packed):
    path, chance = tmp_path / "a.mat", random.Random(0)
    arrays = {"x": np.arange(5.0)[:, None], "y": np.arange(300, dtype=np.uint16)[:, None]}
    io.savemat(path, arrays, do_compression=packed)
    whole = path.read_bytes()
    outcomes = {True: 0, False: 0}
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.choice((0, 1, 6, 14, 15, 255, 128))
        path.write_bytes(content[: chance.choice((len(content), chance.randrange(len(content))))])
        try:
            read_number_arrays(path, list(arrays))
            outcomes[True] += 1
        except RlsegError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 5, "both happen"
