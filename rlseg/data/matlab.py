"""Arrays of numbers in MATLAB files of level 5, and nothing else of them.

Written after the published description of the format; readers of whole MATLAB files follow every
reference in a damaged file and can bring the process down.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlseg.data.base import listed
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError

MAX_MATLAB_BYTES = 1 << 26
"""Of the file, and of each of its variables when unpacked."""
HEADER_BYTES = 128
LEVEL_5 = 0x0100
NUMBERS = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"
}  # fmt: skip
"""Data type in a tag -> numpy's; 14 is an array, 15 a compressed element."""
INT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 5, 6, 14, 15
NUMERIC_CLASSES = range(6, 16)  # double, single, and whole numbers of 8 to 64 bits
COMPLEX, LOGICAL = 0x0800, 0x0200  # flags of an array


class _DamagedError(Exception):
    """What does not fit; the reader adds the file."""


def read_number_arrays(
    path: Path, names: Collection[str], *, max_bytes: int = MAX_MATLAB_BYTES
) -> dict[str, NDArray[np.float64]]:
    """The numbers of the named variables, column after column.

    Args:
        path: file of level 5 (MATLAB's `-v6` and `-v7`).
        names: variables that must be there as arrays of real numbers.
        max_bytes: of the file, and of each variable when unpacked.

    Returns:
        float64 [N] per name.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, too large, damaged, or without one of the variables.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(min(path.stat().st_size, max_bytes) + 1)
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise CorruptDatasetError(f"{path}: cannot be read: {error.strerror or error}") from error
    found: dict[str, NDArray[np.float64]] = {}
    seen: list[str] = []
    try:
        if len(raw) > max_bytes:
            raise _DamagedError(f"larger than {max_bytes} bytes")
        order = _byte_order(raw)
        for content in _matrices(raw, order, max_bytes):
            name, numbers = _matrix(content, order)
            seen.append(name)
            if name in names:
                if numbers is None:
                    raise _DamagedError(f"{name} is no array of real numbers")
                found[name] = numbers
    except (_DamagedError, zlib.error) as error:
        raise CorruptDatasetError(f"{path}: {error}; replace the file") from error
    lacking = [name for name in names if name not in found]
    if lacking:
        raise CorruptDatasetError(
            f"{path}: no variable {lacking[0]}; the file holds {listed(seen) or 'nothing'}"
        )
    return found


def _byte_order(raw: bytes) -> str:
    """`<` or `>` by the last two bytes of the header, after a look at the version."""
    order = {b"IM": "<", b"MI": ">"}.get(raw[HEADER_BYTES - 2 : HEADER_BYTES])
    if order is None or struct.unpack_from(f"{order}H", raw, HEADER_BYTES - 4)[0] != LEVEL_5:
        raise _DamagedError("not a MATLAB file of level 5 (save it with -v6 or -v7)")
    return order


def _elements(raw: bytes, order: str, start: int) -> Iterator[tuple[int, bytes]]:
    """Data type and content of one element after the other."""
    while start < len(raw):
        if start + 8 > len(raw):
            raise _DamagedError(f"cut off at byte {start}")
        kind, count = struct.unpack_from(f"{order}II", raw, start)
        if kind >> 16:  # a small element: type, size and content in 8 bytes
            kind, count, begin, padded = kind & 0xFFFF, kind >> 16, start + 4, 4
            if count > padded:
                raise _DamagedError(f"element of {count} bytes in {padded}, at byte {start}")
        else:
            begin = start + 8
            padded = count if kind == COMPRESSED else -(-count // 8) * 8
        # The padding of the last element may be missing.
        if begin + count > len(raw):
            raise _DamagedError(f"element of {count} bytes at byte {start} goes beyond the end")
        yield kind, raw[begin : begin + count]
        start = begin + padded


def _matrices(raw: bytes, order: str, max_bytes: int) -> Iterator[bytes]:
    """The contents of all arrays, unpacked one by one."""
    for kind, content in _elements(raw, order, HEADER_BYTES):
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            plain = unpacker.decompress(content, max_bytes)
            if unpacker.unconsumed_tail or not unpacker.eof:
                raise _DamagedError(f"a variable is cut off or larger than {max_bytes} bytes")
            inner = list(_elements(plain, order, 0))
            kind, content = inner[0] if len(inner) == 1 else (0, b"")
        if kind != MATRIX:
            raise _DamagedError(f"element of type {kind} where a variable is expected")
        yield content


def _matrix(content: bytes, order: str) -> tuple[str, NDArray[np.float64] | None]:
    """Name of an array and its numbers; None for texts, structures and complex numbers."""
    parts: list[tuple[int, bytes]] = []
    for part in _elements(content, order, 0):
        parts.append(part)
        if len(parts) == 3:
            break
    if [kind for kind, _ in parts] != [UINT32, INT32, INT8] or len(parts[0][1]) != 8:
        raise _DamagedError("a variable without type, size and name")
    flags = struct.unpack_from(f"{order}I", parts[0][1])[0]
    name = parts[2][1].decode("latin-1")
    sides = np.frombuffer(parts[1][1][: len(parts[1][1]) // 4 * 4], dtype=f"{order}i4")
    if flags & 0xFF not in NUMERIC_CLASSES or flags & (COMPLEX | LOGICAL):
        return name, None
    values = list(_elements(content, order, 0))[3:]
    if len(values) != 1 or values[0][0] not in NUMBERS or (sides < 0).any():
        raise _DamagedError(f"{name} has no numbers")
    kind, data = values[0]
    dtype = np.dtype(f"{order}{NUMBERS[kind]}")
    count = int(np.prod(sides.astype(object))) if len(sides) else 0
    if count * dtype.itemsize != len(data):
        raise _DamagedError(f"{name} has {len(data)} bytes where {count} numbers are declared")
    return name, np.frombuffer(data, dtype=dtype).astype(np.float64)
