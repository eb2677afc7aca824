"""Damage that Pillow reads over: PNG checksums and TIFF page lists that run in a circle."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from rlseg.errors import CorruptDatasetError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK_BYTES = 1 << 20  # read at once while summing


def check_png(path: Path) -> None:
    """Nothing, if every chunk up to IEND is complete and its CRC-32 fits.

    Raises:
        CorruptDatasetError: a cut or altered file; names the chunk.
    """
    with path.open("rb") as stream:
        stream.seek(len(PNG_SIGNATURE))
        kind = b""
        while kind != b"IEND":
            start = stream.tell()
            head = stream.read(8)
            if len(head) < 8:
                raise CorruptDatasetError(f"{path}: cut off at byte {start}; replace the file")
            length, kind = struct.unpack(">I4s", head)
            total = zlib.crc32(kind)
            left = length
            while left:
                piece = stream.read(min(left, CHUNK_BYTES))
                if not piece:
                    raise CorruptDatasetError(f"{path}: cut off after byte {start}; replace it")
                total, left = zlib.crc32(piece, total), left - len(piece)
            if stream.read(4) != struct.pack(">I", total):
                raise CorruptDatasetError(
                    f"{path}: checksum of chunk {kind!r} at byte {start} does not fit; "
                    "the file is damaged: replace it"
                )


def check_tiff(path: Path, max_pages: int) -> None:
    """Nothing, if the list of pages ends.

    Raises:
        CorruptDatasetError: it returns to an earlier page, leaves the file, or exceeds `max_pages`.
    """
    with path.open("rb") as stream:
        order = "<" if stream.read(2) == b"II" else ">"
        big = _number(stream, f"{order}H", path) == 43
        if big:
            stream.read(4)  # offset size and padding
        count_format, offset_format, entry_bytes = (
            (f"{order}Q", f"{order}Q", 20) if big else (f"{order}H", f"{order}I", 12)
        )
        offset = _number(stream, offset_format, path)
        seen: set[int] = set()
        while offset:
            if offset in seen:
                raise CorruptDatasetError(
                    f"{path}: the list of pages returns to byte {offset}; replace the file"
                )
            seen.add(offset)
            if len(seen) > max_pages:
                raise CorruptDatasetError(f"{path}: more than {max_pages} pages")
            stream.seek(offset)
            entries = _number(stream, count_format, path)
            stream.seek(offset + struct.calcsize(count_format) + entries * entry_bytes)
            offset = _number(stream, offset_format, path)


def _number(stream: BinaryIO, layout: str, path: Path) -> int:
    place = stream.tell()
    raw = stream.read(struct.calcsize(layout))
    if len(raw) < struct.calcsize(layout):
        raise CorruptDatasetError(f"{path}: the list of pages leaves the file at byte {place}")
    return int(struct.unpack(layout, raw)[0])
