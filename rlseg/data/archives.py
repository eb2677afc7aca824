"""Archives unpacked member by member: every name is checked, every real byte is counted.

Nothing is believed that an archive says about itself. Zip files and tar files (plain or gzip) are
read as streams; members land in a new folder inside the target and move to their places only when
all of them are there.
"""

from __future__ import annotations

import contextlib
import filecmp
import gzip
import io
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NoReturn

from rlseg.data.links import path_fault
from rlseg.data.tars import Readable, TarStream
from rlseg.errors import ConfigError, CorruptDatasetError, RlsegError

__all__ = [
    "MAX_ARCHIVE_BYTES",
    "MAX_ARCHIVE_MEMBERS",
    "MAX_ARCHIVE_RATIO",
    "UnpackLimits",
    "archive_kind",
    "unpack",
]

MAX_ARCHIVE_RATIO = 200
"""Bytes that come out of an archive, per byte of the archive."""
MAX_ARCHIVE_BYTES = 2**38
"""Bytes that come out of an archive."""
MAX_ARCHIVE_MEMBERS = 2**20
"""Files and folders in an archive."""
MAX_PATH_PARTS = 64
"""Folders above a member, and itself."""
MAX_DIRECTORY_BYTES = 2**27
"""Table of contents of a zip file, which is read as a whole."""

SCRATCH = ".rlseg-unpack-"
"""How the names of the folders begin in which members wait for the last one."""

_CHUNK = 1 << 20
_DRIVE = re.compile(r"[A-Za-z]:")
_ENCRYPTED = 0x1  # bit of a zip member's flags
_BROKEN = (
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    tarfile.HeaderError,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)  # what the standard library raises on damaged archives

Advance = Callable[[int, int | None], None]
"""Told the bytes written so far, and how many there will be, if that is known."""


@dataclass(frozen=True, kw_only=True)
class UnpackLimits:
    """How much an archive may hold, counted while it comes out."""

    ratio: float = MAX_ARCHIVE_RATIO
    """Bytes out per byte of the archive."""
    total_bytes: int = MAX_ARCHIVE_BYTES
    """Bytes out."""
    members: int = MAX_ARCHIVE_MEMBERS
    """Files and folders."""


class _Intake:
    """Takes members in order, checks names and counts, and writes what was asked for."""

    def __init__(self, archive: Path, folder: Path, below: str, limits: UnpackLimits) -> None:
        self.archive, self.folder, self.limits = archive, folder, limits
        self.below = tuple(part for part in below.split("/") if part)
        self.size = archive.stat().st_size
        self.total = self.members = 0
        self.files: dict[str, int] = {}
        self.tops: set[str] = set()
        self._names: dict[tuple[str, ...], tuple[tuple[str, ...], bool]] = {}

    def refuse(self, name: str, why: str) -> NoReturn:
        raise CorruptDatasetError(
            f"{self.archive}: member {name[:120]!a} {why}; nothing of the archive was kept: "
            "get it again, from its publisher"
        )

    def exceeds(self, what: str, limit: str) -> NoReturn:
        raise CorruptDatasetError(
            f"{self.archive}: {what}; the limit is {limit}, nothing was kept: this is no archive "
            "of images and labels; get it again, from its publisher"
        )

    def count(self, amount: int) -> None:
        """Notes real bytes that came out."""
        self.total += amount
        if self.total > self.limits.total_bytes:
            self.exceeds(f"more than {self.limits.total_bytes} bytes come out of it",
                         f"{self.limits.total_bytes} bytes")  # fmt: skip
        if self.total > self.limits.ratio * max(self.size, 1):
            self.exceeds(
                f"it grows from {self.size} to more than {self.limits.ratio * self.size:.0f} bytes",
                f"{self.limits.ratio:g} times its size",
            )

    def admit(self, name: str, *, is_folder: bool) -> str | None:
        """Path of a member below the target, or None if it was not asked for."""
        self.members += 1
        if self.members > self.limits.members:
            self.exceeds(f"it has more than {self.limits.members} members",
                         f"{self.limits.members}")  # fmt: skip
        parts = self._parts(name)
        for length in range(1, len(parts) + 1):
            self._register(name, parts[:length], is_folder=is_folder or length < len(parts))
        if parts:
            self.tops.add(parts[0])
        lead = len(self.below)
        fits = len(parts) > lead and all(
            wanted in ("*", part) for wanted, part in zip(self.below, parts, strict=False)
        )
        return "/".join(parts[lead:]) if fits else None

    def _parts(self, name: str) -> tuple[str, ...]:
        # A backslash separates folders where the archive was made on Windows.
        plain = name.replace("\\", "/")
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in plain):
            self.refuse(name, "has control characters in its name")
        if plain.startswith("/"):
            self.refuse(name, "has an absolute path")
        if _DRIVE.match(plain):
            self.refuse(name, "has a drive letter")
        parts = tuple(part for part in plain.split("/") if part not in ("", "."))
        if ".." in parts:
            self.refuse(name, "leads out of its folder with '..'")
        if not plain:
            self.refuse(name, "has no name")
        if len(parts) > MAX_PATH_PARTS:
            self.refuse(name, f"lies in more than {MAX_PATH_PARTS} folders")
        return parts

    def _register(self, name: str, parts: tuple[str, ...], *, is_folder: bool) -> None:
        # On many file systems two names are one if they differ by case or by how accents are made.
        key = tuple(unicodedata.normalize("NFC", part).casefold() for part in parts)
        known = self._names.get(key)
        if known is None:
            self._names[key] = (parts, is_folder)
        elif known != (parts, True) or not is_folder:  # a folder may be named again
            other = "/".join(known[0])
            self.refuse(name, f"has the name of another one ({other[:120]!a})")

    def store(self, path: str, pieces: Iterable[bytes]) -> None:
        """Writes a file that `admit` let in."""
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        with place.open("xb") as file:
            for piece in pieces:
                file.write(piece)
                size += len(piece)
        self.files[path] = size

    def store_folder(self, path: str) -> None:
        """Makes a folder that `admit` let in."""
        (self.folder / path).mkdir(parents=True, exist_ok=True)


def archive_kind(path: Path) -> Literal["zip", "tar", "tar.gz"] | None:
    """What the first bytes of a file say it is; None: no archive that is read here."""
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(b"\x1f\x8b"):
        return "tar.gz"
    return "tar" if head[257:262] == b"ustar" else None


def unpack(
    archive: Path,
    target: Path,
    *,
    below: str = "",
    limits: UnpackLimits | None = None,
    advance: Advance | None = None,
) -> dict[str, int]:
    """Unpacks a zip, tar or tar.gz file into a folder, which is made if absent.

    Files that are there already with the same content stay as they are.

    Args:
        archive: the file.
        target: where its members go; nothing is written anywhere else.
        below: only what lies below this folder of the archive, whose name is left out; a part `*`
            stands for any one folder. Members elsewhere are checked, and not written.
        limits: how much may come out; None = the constants of this module.
        advance: told how far it is.

    Returns:
        Path below `target`, with slashes -> size in bytes, of every file unpacked.

    Raises:
        CorruptDatasetError: no archive, damaged, encrypted; a name that leads out of the folder or
            comes twice, a link or a device; more than the limits allow. Nothing is kept then.
        ConfigError: the target cannot be written, or has other files of the same names.
    """
    kind = archive_kind(archive)
    if kind is None:
        raise CorruptDatasetError(
            f"{archive}: neither a zip, a tar nor a tar.gz file; get it again, from its publisher"
        )
    scratch: Path | None = None
    try:
        target.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=target))
        intake = _Intake(archive, scratch, below, limits or UnpackLimits())
        try:
            (_unpack_zip if kind == "zip" else _unpack_tar)(intake, advance)
        except RlsegError:
            raise
        except _BROKEN as error:
            raise CorruptDatasetError(
                f"{archive}: damaged ({error}); nothing was kept: get it again"
            ) from error
        if not intake.files:
            held = ", ".join(sorted(intake.tops)[:10]) or "nothing"
            what = f"no files below {below or 'the top'!r}; it holds {held}"
            raise CorruptDatasetError(f"{archive}: {what}: is it the right archive?")
        _settle(scratch, target, intake.files)
    except OSError as error:
        raise ConfigError(
            f"{target}: {archive.name} cannot be unpacked there: {error.strerror or error}; "
            "nothing of it was kept: make room or choose another folder, then repeat"
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return intake.files


def _unpack_zip(intake: _Intake, advance: Advance | None) -> None:
    with _BoundedFile(intake.archive) as file, zipfile.ZipFile(file) as opened:
        members = opened.infolist()
        wanted = [(info, _admit_zip(intake, info)) for info in members]  # all names, then data
        total = sum(info.file_size for info, path in wanted if path is not None)
        for info, path in wanted:
            if path is None:
                continue
            if info.is_dir():
                intake.store_folder(path)
                continue
            with opened.open(info) as stream:
                intake.store(path, _counted(stream, intake, total, advance))


def _admit_zip(intake: _Intake, info: zipfile.ZipInfo) -> str | None:
    if "\0" in info.orig_filename:
        intake.refuse(info.orig_filename, "has control characters in its name")
    if info.flag_bits & _ENCRYPTED:
        intake.refuse(info.filename, "is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        intake.refuse(info.filename, f"is packed by method {info.compress_type}, not by deflate")
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
    if kind == stat.S_IFLNK:
        intake.refuse(info.filename, "is a symbolic link")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        intake.refuse(info.filename, "is a device or a pipe")
    return intake.admit(info.filename, is_folder=info.is_dir())


class _BoundedFile(io.FileIO):
    """A file whose readers may not ask for more at once than a table of contents may need."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = os.fstat(self.fileno()).st_size - self.tell()
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a table of contents of {wanted} bytes")
        return super().read(max(wanted, 0)) or b""


def _counted(
    stream: IO[bytes], intake: _Intake, total: int, advance: Advance | None
) -> Iterator[bytes]:
    while piece := stream.read(_CHUNK):
        intake.count(len(piece))
        if advance is not None:
            advance(intake.total, max(total, intake.total))
        yield piece


def _unpack_tar(intake: _Intake, advance: Advance | None) -> None:
    def count(amount: int) -> None:
        intake.count(amount)
        if advance is not None:
            advance(intake.total, None)

    with intake.archive.open("rb") as file, contextlib.ExitStack() as stack:
        packed = archive_kind(intake.archive) == "tar.gz"
        stream: Readable = stack.enter_context(gzip.GzipFile(fileobj=file)) if packed else file
        members = TarStream(stream, str(intake.archive), count)
        for member in members:
            if member.refused:
                intake.refuse(member.name, f"is {member.refused}")
            path = intake.admit(member.name, is_folder=member.is_folder)
            if path is None:
                continue
            if member.is_folder:
                intake.store_folder(path)
            else:
                intake.store(path, members.data())


def _settle(scratch: Path, target: Path, files: dict[str, int]) -> None:
    """Moves everything to its place, after looking whether anything is in the way."""
    in_the_way = []
    folders = {parent for name in files for parent in Path(name).parents}
    for folder in sorted(folders):
        linked = path_fault(target / folder, target)
        if linked is not None:
            raise ConfigError(
                f"{linked[0]} is {linked[1]}; nothing was unpacked: move it away, then repeat"
            )
    for name in files:
        place = target / name
        if not os.path.lexists(place):
            blocker = next((p for p in place.parents if p.exists()), target)
            if not blocker.is_dir():
                in_the_way.append(name)
        elif not place.is_file() or not filecmp.cmp(scratch / name, place, shallow=False):
            in_the_way.append(name)
    if in_the_way:
        more = f" and {len(in_the_way) - 10} more" if len(in_the_way) > 10 else ""
        raise ConfigError(
            f"{target}: files with other content than in the archive are in the way "
            f"({', '.join(in_the_way[:10])}{more}); move them away, then repeat: nothing changed"
        )
    _merge(scratch, target)


def _merge(source: Path, target: Path) -> None:
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if not place.exists():
            entry.rename(place)
        elif entry.is_dir():
            _merge(entry, place)
