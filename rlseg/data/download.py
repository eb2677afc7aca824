"""One file over HTTP: continued after a cut, verified, and only then given its name.

While it comes, the file is `<name>.part`, with `<name>.part.json` beside it: where it comes from
and which version of it (the server's entity tag). Only the standard library is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from rlseg import __version__
from rlseg.data.archives import MAX_ARCHIVE_BYTES
from rlseg.data.filekinds import FileKind, check_kind, file_sha256
from rlseg.data.web import make_opener
from rlseg.errors import (
    ConfigError,
    CorruptDatasetError,
    DatasetNotFoundError,
    RlsegError,
)
from rlseg.files import load_json, write_whole

__all__ = [
    "Advance",
    "Download",
    "DownloadSettings",
    "download",
]

Advance = Callable[[int, int | None], None]
"""Told the bytes there are, and how many there will be, if that is known."""

_CHUNK = 1 << 18
_HASHED = 1 << 20
_STATE_BYTES = 1 << 16  # the small JSON beside a part
_RETRIED = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that may do better later
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """How patient a download is."""

    timeout_seconds: float = 30.0
    """Silence of the server that ends an attempt."""
    attempts: int = 5
    """Attempts in a row that bring nothing new."""
    pause_seconds: float = 1.0
    """Before the second attempt; twice as long before each further one."""
    max_bytes: int = MAX_ARCHIVE_BYTES
    """Larger files are refused."""

    def __post_init__(self) -> None:
        if self.timeout_seconds <= 0 or self.attempts < 1 or self.pause_seconds < 0:
            raise ConfigError(f"a download needs time and at least one attempt, got {self}")


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file that came."""

    address: str
    size: int
    sha256: str
    continued_from: int
    """Bytes that an earlier run had brought."""


class _CutError(Exception):
    """An attempt ended too early; the next one may go on from where it stopped."""


def download(
    addresses: Sequence[str],
    destination: Path,
    *,
    kind: FileKind,
    size: int | None = None,
    sha256: str | None = None,
    settings: DownloadSettings | None = None,
    advance: Advance | None = None,
    say: Callable[[str], None] | None = None,
) -> Download:
    """Gets a file, from the first of its addresses that has it.

    What an earlier, interrupted call left in `<destination>.part` is continued if the server can
    do so and still has the same version; else the file comes anew.

    Args:
        addresses: http or https, tried in this order.
        destination: its name in an existing folder; an existing file of this name is replaced.
        kind: what it must be.
        size: bytes it must have, if known.
        sha256: hex digest it must have, if known.
        settings: patience; None = the defaults.
        advance: told how far it is.
        say: told what happens otherwise (a second attempt, another address).

    Returns:
        What came, and its digest.

    Raises:
        DatasetNotFoundError: no network, no such file, a page instead of the file, or cut off for
            good; what came is kept in `<destination>.part`, except for a page.
        CorruptDatasetError: wrong size, digest or kind; the file is removed.
        ConfigError: the folder cannot be written or is full.
    """
    settings = settings or DownloadSettings()
    say = say or (lambda message: None)
    for number, address in enumerate(addresses):
        if urlsplit(address).scheme not in ("http", "https"):
            raise ConfigError(f"{address}: not a web address (http:// or https://)")
        transfer = _Transfer(address, destination, kind, size, sha256, settings, advance, say)
        try:
            return transfer.run()
        except DatasetNotFoundError as error:
            if number + 1 == len(addresses):
                raise
            say(f"{error}; trying {addresses[number + 1]}")
    raise ConfigError(f"{destination.name}: no address to get it from")


@dataclass
class _Transfer:
    """One file from one address."""

    address: str
    destination: Path
    kind: FileKind
    size: int | None
    sha256: str | None
    settings: DownloadSettings
    advance: Advance | None
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.part = self.destination.with_name(self.destination.name + ".part")
        self.state = self.destination.with_name(self.destination.name + ".part.json")
        self.opener = make_opener()

    def run(self) -> Download:
        start = self._length()
        failures, before = 0, start
        while True:
            try:
                got, digest, continued = self._attempt()
                break
            except _CutError as cut:
                length = self._length()
                failures = 1 if length > before else failures + 1
                before = length
                if failures >= self.settings.attempts:
                    kept = f"; {length} bytes are kept in {self.part.name}: run it again to go on"
                    raise DatasetNotFoundError(
                        f"{self.address}: {cut}{kept if length else ''}"
                    ) from cut.__cause__
                self.say(f"{self.address}: {cut}; trying again")
                time.sleep(self.settings.pause_seconds * 2 ** (failures - 1))
        self._verify(got, digest)
        try:
            os.replace(self.part, self.destination)
        except OSError as error:
            self._unwritable(error)
        with contextlib.suppress(OSError):  # harmless if it stays
            self.state.unlink()
        return Download(
            address=self.address, size=got, sha256=digest, continued_from=min(start, continued)
        )

    def _attempt(self) -> tuple[int, str, int]:
        """Size and digest of the complete part, and where this attempt began."""
        offset, headers = self._place_to_go_on()
        if offset and not headers:  # all had come when an earlier run was stopped
            return offset, file_sha256(self.part), offset
        response = self._open(offset, headers)
        with contextlib.closing(response):
            if response.status == 200:
                offset = 0
            total = self._announced(response, offset)
            if "html" in response.headers.get_content_type():
                self._is_page()
            if offset == 0:
                self._write_state(response.headers, total)
            done, digest = self._receive(response, offset, total)
        if total is not None and done < total:
            raise _CutError(f"cut off after {done} of {total} bytes")
        return done, digest, offset

    def _place_to_go_on(self) -> tuple[int, dict[str, str]]:
        """Bytes to keep, and the headers that ask for the rest (none if there is no rest)."""
        offset = self._length()
        if offset == 0:
            return 0, {}
        try:
            state = load_json(self.state, max_bytes=_STATE_BYTES)
        except RlsegError:
            return 0, {}  # nothing says which version the part belongs to
        if not isinstance(state, dict) or state.get("address") != self.address:
            return 0, {}
        if state.get("size") == offset:
            return offset, {}
        version = state.get("version")
        if isinstance(version, str):
            return offset, {"Range": f"bytes={offset}-", "If-Range": version}
        # Without a version only the digest can tell whether the pieces fit together.
        return (offset, {"Range": f"bytes={offset}-"}) if self.sha256 else (0, {})

    def _open(self, offset: int, headers: dict[str, str]) -> http.client.HTTPResponse:
        about = {"User-Agent": f"rlseg/{__version__}", "Accept-Encoding": "identity"}
        try:
            request = urllib.request.Request(self.address, headers=about | headers)
            response = self.opener.open(request, timeout=self.settings.timeout_seconds)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and offset:
                self._remove_part()
                raise _CutError("the server has no more of it") from error
            if error.code in _RETRIED:
                raise _CutError(f"the server answers {error.code} {error.reason}") from error
            hint = " (it asks for a login)" if error.code in (401, 403) else ""
            raise DatasetNotFoundError(
                f"{self.address}: the server answers {error.code} {error.reason}{hint}"
            ) from error
        except RlsegError:
            raise
        except (OSError, http.client.HTTPException) as error:
            self._no_connection(error)
        assert isinstance(response, http.client.HTTPResponse)
        if response.status not in (200, 206):
            response.close()
            raise DatasetNotFoundError(f"{self.address}: the server answers {response.status}")
        return response

    def _no_connection(self, error: OSError | http.client.HTTPException) -> NoReturn:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        text = str(reason) or type(reason).__name__
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DatasetNotFoundError(
                f"{self.address}: the server's certificate is not valid ({reason.verify_message})"
            ) from error
        brief = (TimeoutError, ConnectionResetError, ConnectionAbortedError)
        if isinstance(reason, (*brief, http.client.HTTPException)):
            raise _CutError(f"no answer ({text})") from error
        raise DatasetNotFoundError(
            f"{self.address}: no connection ({text}), perhaps no network"
        ) from error

    def _announced(self, response: http.client.HTTPResponse, offset: int) -> int | None:
        """Size of the whole file, if the server says so."""
        if response.status == 206:
            found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != offset or not offset:
                self._remove_part()
                raise _CutError("the server sends another piece than the one asked for")
            total = None if found[3] == "*" else int(found[3])
        else:
            length = response.headers.get("Content-Length", "")
            total = int(length) if re.fullmatch(r"\d{1,18}", length, re.ASCII) else None
        if total is None:
            return None
        if total > self.settings.max_bytes:
            raise CorruptDatasetError(
                f"{self.address}: {total} bytes; the limit is {self.settings.max_bytes}"
            )
        if self.size is not None and total != self.size:
            self._wrong(f"it has {total} bytes, expected {self.size}")
        free = shutil.disk_usage(self.destination.parent).free
        if total - offset > free:
            raise ConfigError(
                f"{self.destination.parent}: {total - offset} bytes are to come and {free} are "
                "free; make room or choose another folder"
            )
        return total

    def _receive(
        self, response: http.client.HTTPResponse, offset: int, total: int | None
    ) -> tuple[int, str]:
        digest = hashlib.sha256()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW  # never through a link left there
        try:
            with os.fdopen(os.open(self.part, flags, 0o666), "r+b", buffering=0) as file:
                while piece := file.read(_HASHED):
                    digest.update(piece)
                done = file.tell()
                while piece := self._next_piece(response, done, total):
                    if done == 0 and piece.lstrip()[:1] == b"<":
                        self._is_page()
                    file.write(piece)
                    digest.update(piece)
                    done += len(piece)
                    if done > self.settings.max_bytes:
                        self._wrong(f"more than {self.settings.max_bytes} bytes, the limit")
                    if self.advance is not None:
                        self.advance(done, total)
                os.fsync(file.fileno())
        except OSError as error:
            if isinstance(error, RlsegError):
                raise
            self._unwritable(error)
        return done, digest.hexdigest()

    def _next_piece(
        self, response: http.client.HTTPResponse, done: int, total: int | None
    ) -> bytes:
        try:
            return response.read1(_CHUNK)
        except (OSError, http.client.HTTPException, ValueError) as error:
            of = f" of {total}" if total is not None else ""
            raise _CutError(f"cut off after {done}{of} bytes ({type(error).__name__})") from error

    def _write_state(self, headers: Message, total: int | None) -> None:
        tag = headers.get("ETag", "")
        # A weak tag (W/...) says that two versions mean the same, not that their bytes are equal.
        version = tag if tag.startswith('"') else headers.get("Last-Modified")
        self._remove_part()
        state = {"address": self.address, "version": version, "size": total}
        write_whole(self.state, json.dumps(state))

    def _verify(self, size: int, digest: str) -> None:
        if self.size is not None and size != self.size:
            self._wrong(f"it has {size} bytes, expected {self.size}")
        if self.sha256 is not None and digest != self.sha256.lower():
            self._wrong(f"its SHA-256 is {digest}, expected {self.sha256.lower()}")
        try:
            check_kind(self.part, self.kind)
        except RlsegError:
            self._remove_part()
            raise

    def _wrong(self, what: str) -> NoReturn:
        self._remove_part()
        raise CorruptDatasetError(
            f"{self.address}: {what}; the file was removed: it is damaged or another one, try again"
        )

    def _is_page(self) -> NoReturn:
        self._remove_part()
        raise DatasetNotFoundError(
            f"{self.address}: a web page came instead of the {self.kind} file, perhaps a login"
        )

    def _unwritable(self, error: OSError) -> NoReturn:
        raise ConfigError(
            f"{self.destination}: cannot be written: {error.strerror or error}; "
            "make room, or choose a folder that you may write to"
        ) from error

    def _length(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _remove_part(self) -> None:
        for path in (self.part, self.state):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._unwritable(error)
