"""A tar file read once from front to back, with bounded headers and no seeking.

Only what holds data is understood: files, folders, and the two ways to write long names. Headers
are decoded by the standard library; what they promise (sizes, names) is checked here.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn, Protocol

from rlseg.errors import CorruptDatasetError

__all__ = ["MAX_HEADER_BYTES", "Readable", "TarMember", "TarStream"]

MAX_HEADER_BYTES = 2**20
"""One long name, or one list of attributes; both are read as a whole."""

_BLOCK = 512
_CHUNK = 1 << 20
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a file with holes",
}
_LENGTH = re.compile(rb"(\d{1,12}) ")


class Readable(Protocol):
    """What is read forwards."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """One entry of a tar file."""

    name: str
    size: int
    """Bytes of data that follow."""
    is_folder: bool
    refused: str
    """Why it is neither file nor folder ("a symbolic link"); empty if it is."""


class TarStream:
    """Members of a tar file in order; the data of each are read before the next one is asked for.

    Args:
        stream: the unpacked bytes, read forwards only.
        where: name for messages.
        count: told the number of bytes after each read.
    """

    def __init__(self, stream: Readable, where: str, count: Callable[[int], None]) -> None:
        self._stream, self._where, self._count = stream, where, count
        self._left = 0  # bytes of the current member, with its padding, not yet read
        self._data = 0  # bytes of the current member not yet read

    def __iter__(self) -> Iterator[TarMember]:
        """All members.

        Raises:
            CorruptDatasetError: cut off, damaged, or a header that is too long.
        """
        attributes: dict[str, str] = {}
        long_name = ""
        while (block := self._exactly(_BLOCK)).count(0) != _BLOCK:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                attributes = self._attributes(info.size)
                continue
            if info.type == tarfile.XGLTYPE:  # about the archive: its date, its commit
                if {"path", "size", "linkpath"} & set(self._attributes(info.size)):
                    self._damaged("one name or size is given to all members")
                continue
            if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                text = self._header(info.size).split(b"\0")[0].decode("utf-8", "surrogateescape")
                long_name = text if info.type == tarfile.GNUTYPE_LONGNAME else long_name
                continue
            yield self._member(info, attributes, long_name)
            for _ in self.data():
                pass  # what the caller left
            self._exactly(self._left)
            self._left = 0
            attributes, long_name = {}, ""
        while piece := self._stream.read(_CHUNK):  # to the end, where gzip keeps its checksum
            self._count(len(piece))

    def _member(self, info: tarfile.TarInfo, attributes: dict[str, str], name: str) -> TarMember:
        size_text = attributes.get("size", str(info.size))
        if not re.fullmatch(r"\d{1,18}", size_text, re.ASCII):
            self._damaged(f"the size of a member is {size_text[:20]!r}")
        self._data = int(size_text)
        self._left = -self._data % _BLOCK
        sparse = any(key.startswith("GNU.sparse") for key in attributes)
        kind = tarfile.GNUTYPE_SPARSE if sparse else info.type
        allowed = kind in _FILES or kind == tarfile.DIRTYPE
        refused = "" if allowed else _KINDS.get(kind, f"of the unknown type {kind!r}")
        return TarMember(
            name=attributes.get("path") or name or info.name,
            size=self._data,
            is_folder=kind == tarfile.DIRTYPE,
            refused=refused,
        )

    def data(self) -> Iterator[bytes]:
        """What is left of the current member's data, in pieces of at most 1 MiB."""
        while self._data:
            piece = self._exactly(min(self._data, _CHUNK))
            self._data -= len(piece)
            yield piece

    def _attributes(self, size: int) -> dict[str, str]:
        """The extended header that the pax form puts before a member: `length key=value` lines."""
        text, found, place = self._header(size), {}, 0
        while place < len(text) and text[place]:
            length = _LENGTH.match(text, place)
            end = place + int(length[1]) if length else 0
            if length is None or not length.end() < end <= len(text) or text[end - 1] != 10:
                self._damaged("an extended header cannot be read")
            key, _, value = text[length.end() : end - 1].partition(b"=")
            found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
            place = end
        return found

    def _header(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            self._damaged(f"a header of {size} bytes; the limit is {MAX_HEADER_BYTES}")
        text = self._exactly(size)
        self._exactly(-size % _BLOCK)
        return text

    def _exactly(self, size: int) -> bytes:
        pieces, missing = [], size
        while missing:
            piece = self._stream.read(missing)
            if not piece:
                raise CorruptDatasetError(f"{self._where}: cut off; get the archive again")
            self._count(len(piece))
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def _damaged(self, why: str) -> NoReturn:
        raise CorruptDatasetError(f"{self._where}: {why}; get the archive again")
