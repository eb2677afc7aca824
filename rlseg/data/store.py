"""Derived maps kept on disk: one checked file per entry, made again whenever it is in doubt.

A file is HDF5 behind a block of 512 bytes with the SHA-256 of the rest, so that nothing damaged
reaches the HDF5 library; inside, every array carries a Fletcher-32 checksum, and an attribute the
digest of all of them. Nothing is unpickled and no link is followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rlseg.data.entrylock import in_use, lock_descriptor
from rlseg.errors import ConfigError

_LOG = logging.getLogger(__name__)

FORMAT = 1
"""Of the files; others are made again."""
MAX_ENTRY_BYTES = 2**30
"""Largest entry, on disk and in RAM."""
UNFINISHED = "unfinished"
"""Kind of the files that a dead process has left, or a living one has not finished."""
WAIT_SECONDS = 600.0
"""So long one process waits for another that makes the same entry, before it works without."""

_BLOCK = 512  # the smallest user block of HDF5
_MAGIC = b"rlseg store "
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_ENTRY = re.compile(r"(?P<kind>[a-z][a-z0-9_]{0,63})-[0-9a-f]{40}\.h5")
_LEFT = re.compile(r"\.[a-z][a-z0-9_]{0,63}-[0-9a-f]{40}\.h5\.(?:tmp|lock)")

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a store."""

    path: Path
    kind: str
    """What it holds; `UNFINISHED` for what is no entry yet."""
    size: int
    """Bytes on disk."""


class Store:
    """A folder of derived arrays, found by what they were derived from.

    An entry that is damaged, half written, of another format or not ours is made again, with a
    note. Two processes that want the same entry: the second waits for the first and reads. Where
    the folder cannot be written the arrays are made each time, with one note.

    Args:
        folder: made when the first entry is written; no link.
        max_bytes: entries beyond this total are made each time; None = no limit.
        wait_seconds: see `WAIT_SECONDS`.
        note: told what was made again and why; default: a logged warning.

    Raises:
        ConfigError: the folder is a link or a file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int | None = None,
        wait_seconds: float = WAIT_SECONDS,
        note: Callable[[str], None] | None = None,
    ) -> None:
        if folder.is_symlink():
            raise ConfigError(f"{folder} is a link; name the cache folder itself")
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file; a cache needs a folder")
        self.folder = folder
        self.max_bytes = max_bytes
        self._wait = wait_seconds
        self._note = note or (lambda text: _LOG.warning("%s", text))
        self._said: set[str] = set()
        self._used: int | None = None
        self._guard = threading.Lock()

    def get_or_make(
        self, kind: str, key_parts: Mapping[str, object], make: Callable[[], Arrays]
    ) -> Arrays:
        """The arrays of an entry, read if they are there, else made and kept.

        Args:
            kind: what they are, lower-case letters, digits and underscores.
            key_parts: all that the arrays depend on: arrays, tensors on the CPU, numbers, texts,
                and lists of numbers and texts. A change of the code that makes them belongs here,
                too, as a version number.
            make: name -> bool, integer or float array; one process at a time calls it.

        Raises:
            ConfigError: a kind, name, part or array of another sort.
        """
        if not _NAME.fullmatch(kind):
            raise ConfigError(f"a cache entry's kind is like 'neighbours', got {kind!r}")
        key = _key(kind, key_parts)
        path = self.folder / f"{kind}-{key}.h5"
        found, _ = _read(path, key)
        if found is not None:
            return found
        with self._locked(path) as held:
            found, reason = _read(path, key)  # another process may have made it meanwhile
            if found is not None:
                return found
            if reason is not None:
                self._note(f"{path}: {reason}; made again")
            made = _checked(kind, make())
            if held:
                self._write(path, key, made)
        return made

    def entries(self) -> list[Entry]:
        """What the folder holds of ours, by name; empty if there is no folder.

        Raises:
            ConfigError: the folder cannot be read.
        """
        found = []
        try:
            with os.scandir(self.folder) as inside:
                for item in inside:
                    match = _ENTRY.fullmatch(item.name)
                    if not item.is_file(follow_symlinks=False):
                        continue
                    if match or _LEFT.fullmatch(item.name):
                        kind = match["kind"] if match else UNFINISHED
                        size = item.stat(follow_symlinks=False).st_size
                        found.append(Entry(path=Path(item.path), kind=kind, size=size))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"{self.folder}: cannot be read: {error.strerror}") from error
        return sorted(found, key=lambda entry: entry.path.name)

    def clear(self) -> list[Entry]:
        """Removes all entries and what dead processes have left; returns what was removed.

        What a living process is making stays, as does every file that is not ours; the folder goes
        if nothing is left in it.

        Raises:
            ConfigError: a file cannot be removed.
        """
        removed = []
        for entry in self.entries():
            if entry.kind == UNFINISHED and in_use(entry.path):
                continue
            try:
                entry.path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ConfigError(f"{entry.path}: cannot be removed: {error.strerror}") from error
            removed.append(entry)
        with contextlib.suppress(OSError):  # not empty, or not there
            self.folder.rmdir()
        with self._guard:
            self._used = None
        return removed

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[bool]:
        """Holds an entry for this process; False where that cannot be done."""
        lock = _beside(path, "lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = lock_descriptor(lock, self._wait)
        except OSError as error:
            self._without(error)
            yield False
            return
        try:
            yield True
        finally:
            with contextlib.suppress(OSError):  # an empty file stays; the lock itself ends here
                lock.unlink()
            os.close(descriptor)

    def _write(self, path: Path, key: str, arrays: Arrays) -> None:
        data = _encoded(arrays, key)
        if not self._fits(len(data)):
            return
        temporary = _beside(path, "tmp")  # nobody else writes it: the entry is locked
        try:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(temporary, flags, 0o644), "wb") as file:
                file.write(data)
            # No flush to disk: what a power cut tears is found by its checksum.
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            self._without(error)

    def _fits(self, size: int) -> bool:
        if size > MAX_ENTRY_BYTES:
            self._say_once(f"{self.folder}: an entry has {size} bytes, too many to be kept")
            return False
        if self.max_bytes is None:
            return True
        with self._guard:
            if self._used is None:
                kept = (entry for entry in self.entries() if entry.kind != UNFINISHED)
                self._used = sum(entry.size for entry in kept)
            if self._used + size <= self.max_bytes:
                self._used += size
                return True
        self._say_once(
            f"{self.folder}: its {self.max_bytes} bytes are used up; the rest is not kept"
        )
        return False

    def _without(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        self._say_once(f"{self.folder}: cannot be written ({reason}); working without this cache")

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._note(text)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{suffix}")


def _key(kind: str, parts: Mapping[str, object]) -> str:
    digest = hashlib.sha256()
    _feed(digest, "kind", kind)
    for name in sorted(parts):
        value = parts[name]
        if hasattr(value, "__array__"):  # tensors too, without importing torch for them
            _feed_array(digest, name, np.asarray(value))
            continue
        try:
            text = json.dumps(value, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"part {name!r} of a cache entry's key is a {type(value).__name__}; it must be an "
                "array, a finite number, a text, or a list of these"
            ) from error
        _feed(digest, name, text)
    return digest.hexdigest()[:40]


def _feed(digest: hashlib._Hash, *texts: str) -> None:
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(raw) + raw)


def _feed_array(digest: hashlib._Hash, name: str, array: NDArray[Any]) -> None:
    if array.dtype.kind not in "biuf":
        raise ConfigError(f"{name!r} has dtype {array.dtype}; a cache takes bool, int and float")
    _feed(digest, name, array.dtype.str, json.dumps(array.shape))
    digest.update(np.ascontiguousarray(array).data)


def _content(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        _feed_array(digest, name, arrays[name])
    return digest.hexdigest()


def _checked(kind: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    for name, array in arrays.items():
        if not _NAME.fullmatch(name) or not isinstance(array, np.ndarray):
            raise ConfigError(f"{kind}: {name!r} is no name of an array, or no array")
        if array.dtype.kind not in "biuf":
            raise ConfigError(f"{kind}: {name!r} has dtype {array.dtype}, not bool, int or float")
    return dict(arrays)


def _encoded(arrays: Arrays, key: str) -> bytes:
    whole = io.BytesIO()
    with h5py.File(whole, "w", userblock_size=_BLOCK, libver="latest") as file:
        file.attrs["key"] = key
        file.attrs["content"] = _content(arrays)
        for name, array in arrays.items():
            guarded = array.ndim > 0 and array.size > 0  # only chunks can carry a checksum
            options = {"chunks": True, "fletcher32": True} if guarded else {}
            file.create_dataset(name, data=array, **options)
    body = whole.getvalue()[_BLOCK:]
    header = _MAGIC + b"%d " % FORMAT + hashlib.sha256(body).hexdigest().encode()
    return header.ljust(_BLOCK, b"\0") + body


def _read(path: Path, key: str) -> tuple[dict[str, NDArray[Any]] | None, str | None]:
    """The arrays, or why they cannot be used (None: there is no file)."""
    try:
        # Without waiting, should somebody have put a pipe there.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, "is a link" if path.is_symlink() else f"cannot be read ({error.strerror})"
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_ENTRY_BYTES:
            return None, f"no file of at most {MAX_ENTRY_BYTES} bytes"
        data = file.read(MAX_ENTRY_BYTES + 1)
    words = data[:_BLOCK].rstrip(b"\0").split(b" ")
    if len(data) <= _BLOCK or not data.startswith(_MAGIC) or len(words) != 4:
        return None, "half written, or no entry of this cache"
    if words[2] != b"%d" % FORMAT:
        return None, "of another format"
    body = data[_BLOCK:]
    if words[3] != hashlib.sha256(body).hexdigest().encode():
        return None, "damaged (its checksum differs)"
    try:
        return _decoded(data, key)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        return None, f"not readable as HDF5 ({error})"


def _decoded(data: bytes, key: str) -> tuple[dict[str, NDArray[Any]] | None, str | None]:
    arrays, room = {}, MAX_ENTRY_BYTES
    with h5py.File(io.BytesIO(data), "r") as file:
        if file.attrs["key"] != key:
            return None, "another entry under this name"
        for name in file:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                return None, f"{name} is a link"
            item = file[name]
            if not isinstance(item, h5py.Dataset) or item.external:
                return None, f"{name} is no array"
            room -= item.nbytes
            if room < 0:
                return None, f"more than {MAX_ENTRY_BYTES} bytes when read"
            arrays[name] = np.asarray(item[...])
        if file.attrs["content"] != _content(arrays):
            return None, "damaged (the digest of its arrays differs)"
    return arrays, None
