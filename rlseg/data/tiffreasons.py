"""Why a TIFF file is of a kind that cannot be read: what its first page says of itself."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from rlseg.data.tiffpages import (
    BITS,
    CHANNELS,
    COMPRESSION,
    FORMAT,
    MAX_TAGS,
    PHOTOMETRIC,
    REAL,
    SIGNED,
    UNSIGNED,
)

__all__ = ["unread_tiff"]

TILE_WIDTH = 322
FORMATS = {UNSIGNED: "unsigned integers", SIGNED: "signed integers", REAL: "floats"}
COMPRESSIONS = {1: "", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate",
                34887: "LERC", 34925: "LZMA", 50000: "Zstandard"}  # fmt: skip
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""TIFF types of whole numbers -> letter of `struct`."""


def unread_tiff(path: Path) -> str | None:
    """What a TIFF file holds that is not read, and what to do; None for files that are no TIFF.

    Args:
        path: of a file that has been refused.
    """
    try:
        with path.open("rb") as stream:
            found = _first_page(stream)
    except (OSError, struct.error):
        return None
    if found is None:
        return None
    order, tags = found
    bits, channels = tags.get(BITS, 1), tags.get(CHANNELS, 1)
    kind = FORMATS.get(tags.get(FORMAT, UNSIGNED), "numbers of an unknown kind")
    traits = [f"{bits}-bit {kind}", f"{order}-endian"]
    if channels != 1:
        traits.append(f"{channels} channels")
    method = tags.get(COMPRESSION, 1)
    name = COMPRESSIONS.get(method, f"method {method}")
    if name:
        traits.append(f"compressed ({name})")
    if tags.get(PHOTOMETRIC) == 0:
        traits.append("white is zero")
    if TILE_WIDTH in tags:
        traits.append("in tiles")
    return (
        f"(TIFF of {', '.join(traits)}); save it uncompressed, black as zero, with 8, 16 or 32 "
        "bits per number, or as npy"
    )


def _first_page(stream: BinaryIO) -> tuple[str, dict[int, int]] | None:
    """Byte order, and tag -> first number, of those tags that hold whole numbers in place."""
    head = stream.read(4)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or head[2:] not in (struct.pack(f"{order}H", n) for n in (42, 43)):
        return None
    big = head[2:] == struct.pack(f"{order}H", 43)
    if big:
        stream.read(4)  # bytes of an offset, and padding
    word, count_word, entry, room = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    (offset,) = struct.unpack(f"{order}{word}", stream.read(room))
    stream.seek(min(offset, 2**62))
    (count,) = struct.unpack(f"{order}{count_word}", stream.read(8 if big else 2))
    table = stream.read(entry * min(count, MAX_TAGS))
    if len(table) < entry * min(count, MAX_TAGS):
        return None  # cut off: what is missing says nothing about the kind
    tags: dict[int, int] = {}
    for place in range(0, len(table) - entry + 1, entry):
        tag, kind = struct.unpack_from(f"{order}HH", table, place)
        (many,) = struct.unpack_from(f"{order}{word}", table, place + 4)
        letter = _NUMBERS.get(kind)
        if letter is None or not 0 < many * struct.calcsize(letter) <= room:
            continue  # elsewhere in the file; of a grey picture, none of the tags asked for is
        (tags[tag],) = struct.unpack_from(f"{order}{letter}", table, place + entry - room)
    return ("little" if order == "<" else "big"), tags
