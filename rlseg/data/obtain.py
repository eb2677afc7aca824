"""Getting a data set: downloads what is missing, checks what is there, remembers digests.

The memory is `.rlseg-downloads.json` in the data set's folder: for each file its address, size and
SHA-256, who stated the digest, and what was unpacked from it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlseg.config import build
from rlseg.data.archives import SCRATCH, UnpackLimits, unpack
from rlseg.data.download import Advance, DownloadSettings, download
from rlseg.data.filekinds import check_kind, file_sha256
from rlseg.data.remote import Part, RemoteFile, Source
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError, RlsegError
from rlseg.files import as_json, load_json, output_folder, write_whole

__all__ = ["RECORD", "Obtained", "obtain"]

RECORD = ".rlseg-downloads.json"
"""Name of the memory in a data set's folder."""
FIRST = "the first download"
"""Who states a digest that nobody has published."""

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Obtained:
    """What became of one file."""

    part: str
    file: str
    came: bool
    """False if it was there already."""
    summary: str
    """One line: what there is now, and what it was checked against."""


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """What the memory holds of one file."""

    address: str
    size: int
    sha256: str
    stated_by: str
    unpacked: Mapping[str, int] | None


def obtain(
    source: Source,
    root: Path,
    parts: tuple[str, ...] = (),
    *,
    settings: DownloadSettings | None = None,
    limits: UnpackLimits | None = None,
    say: Callable[[str], None] | None = None,
    watch: Callable[[str], Advance] | None = None,
) -> Iterator[Obtained]:
    """Gets the downloadable files of a data set, one after the other; what is there stays.

    Args:
        source: where it comes from.
        root: its folder, made if absent.
        parts: names of parts; none = the default ones. Parts without files are passed over.
        settings: patience of downloads.
        limits: how much an archive may hold.
        say: told what goes on.
        watch: given what is being done, returns what is told the progress.

    Yields:
        What became of each file, as soon as it is complete.

    Raises:
        ConfigError: unknown part, or a folder that cannot be written, is full, or in use by another
            process.
        DatasetNotFoundError: not to be had; the message says how to get it by hand.
        CorruptDatasetError: something else than what is stated or was recorded came, or lies there.
    """
    wanted = [(part, file) for part in source.chosen(parts) for file in part.files]
    if not wanted:
        return
    try:
        output_folder(root)
    except ConfigError as error:
        pages = ", ".join(dict.fromkeys(file.addresses[0] for _, file in wanted))
        raise ConfigError(f"{error}. By hand, in a folder of yours: {pages}") from error
    with _locked(root):
        for leftover in root.glob(f"{SCRATCH}*"):  # of a run that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        for part, file in wanted:
            yield _Getter(root, part, file, settings, limits, say, watch).run()


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    # The lock is on the folder itself, so nothing is left behind, whatever ends the process.
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{root}: another process is getting data there; wait for it, or choose another "
                "folder"
            ) from error
        yield
    finally:
        os.close(descriptor)


@dataclass
class _Getter:
    """One file, on its way."""

    root: Path
    part: Part
    file: RemoteFile
    settings: DownloadSettings | None
    limits: UnpackLimits | None
    say: Callable[[str], None] | None
    watch: Callable[[str], Advance] | None

    def run(self) -> Obtained:
        entry = self._entry()
        place = self.root / self.file.saved_as
        if entry is not None and entry.unpacked is not None and self._is_unpacked(entry.unpacked):
            return self._obtained(entry, came=False, is_first=False)
        came = not place.is_file()
        known = self._fetch(place, entry) if came else self._identify(place, entry)
        if self.file.is_archive:
            try:
                known = self._unpack(place, known)
            except CorruptDatasetError as error:
                self._remember(None)
                if not came and entry is None:  # not ours to remove
                    raise
                place.unlink(missing_ok=True)
                raise CorruptDatasetError(f"{error}. {self._by_hand(None)}") from error
            came = True
        return self._obtained(known, came=came, is_first=entry is None)

    def _entry(self) -> _Entry | None:
        found = self._memory().get(self.file.saved_as)
        if found is None:
            return None
        try:
            return build(_Entry, found, self.file.saved_as)
        except ConfigError as error:
            raise CorruptDatasetError(
                f"{self.root / RECORD}: {error}; remove that file, then repeat"
            ) from error

    def _memory(self) -> dict[str, Any]:
        path = self.root / RECORD
        if not path.exists():
            return {}
        memory = load_json(path, error_type=CorruptDatasetError)
        files = memory.get("files") if isinstance(memory, dict) else None
        if not isinstance(files, dict) or memory.get("format") != _FORMAT:
            raise CorruptDatasetError(
                f"{path}: no record of downloads, or of another version; remove it, then repeat"
            )
        return files

    def _remember(self, entry: _Entry | None) -> None:
        """Writes what is known of the file into the memory; None: takes it out."""
        files = self._memory()
        files.pop(self.file.saved_as, None)
        if entry is not None:
            files[self.file.saved_as] = vars(entry)
        write_whole(self.root / RECORD, as_json({"format": _FORMAT, "files": files}))

    def _expected(self, entry: _Entry | None) -> tuple[int | None, str | None, str]:
        """Size and digest to hold a file against, and who states them."""
        if self.file.sha256 is not None or entry is None:
            return self.file.size, self.file.sha256, self.file.stated_by
        return entry.size, entry.sha256, entry.stated_by

    def _identify(self, place: Path, entry: _Entry | None) -> _Entry:
        """What lies there already: of an earlier run, or put there by hand."""
        size, sha256, stated_by = self._expected(entry)
        actual = place.stat().st_size
        digest = file_sha256(place)
        if (size is not None and actual != size) or (sha256 is not None and digest != sha256):
            raise CorruptDatasetError(
                f"{place}: {actual} bytes with SHA-256 {digest}; {stated_by} has "
                f"{'' if size is None else f'{size} bytes, '}SHA-256 {sha256}. It was not touched: "
                "move it away, then repeat"
            )
        if sha256 is None:
            try:
                check_kind(place, self.file.kind)
            except RlsegError as error:
                raise CorruptDatasetError(
                    f"{place}: no {self.file.kind} file; move it away, then repeat"
                ) from error
        known = _Entry(
            address=self.file.addresses[0] if entry is None else entry.address,
            size=actual,
            sha256=digest,
            stated_by=stated_by if sha256 is not None else FIRST,
            unpacked=None,
        )
        if known != entry:
            self._remember(known)
        return known

    def _fetch(self, place: Path, entry: _Entry | None) -> _Entry:
        size, sha256, stated_by = self._expected(entry)
        output_folder(place.parent)
        try:
            came = download(
                self.file.addresses,
                place,
                kind=self.file.kind,
                size=size,
                sha256=sha256,
                settings=self.settings,
                advance=self._watched(self.file.saved_as),
                say=self.say,
            )
        except (DatasetNotFoundError, CorruptDatasetError, ConfigError) as error:
            raise type(error)(f"{error}. {self._by_hand(entry)}") from error
        known = _Entry(
            address=came.address,
            size=came.size,
            sha256=came.sha256,
            stated_by=FIRST if sha256 is None else stated_by,
            unpacked=None,
        )
        self._remember(known)
        return known

    def _by_hand(self, entry: _Entry | None) -> str:
        text = (
            f"By hand: open {self.file.addresses[0]} in a browser, save it as "
            f"{self.root / self.file.saved_as}, and repeat the command"
        )
        if entry is not None and entry.stated_by == FIRST:
            text += (
                "; if the publisher has replaced the file since the first download, remove "
                f"{self.root / RECORD} before"
            )
        return text

    def _unpack(self, place: Path, known: _Entry) -> _Entry:
        target = self.root / self.file.into
        files = unpack(
            place,
            target,
            below=self.file.below,
            limits=self.limits,
            advance=self._watched(f"unpacking {self.file.saved_as}"),
        )
        prefix = f"{self.file.into}/" if self.file.into else ""
        unpacked = {f"{prefix}{name}": size for name, size in files.items()}
        done = replace(known, unpacked=unpacked)
        self._remember(done)
        with contextlib.suppress(OSError):  # it only takes room
            place.unlink()
        return done

    def _is_unpacked(self, files: Mapping[str, int]) -> bool:
        """Whether every file is there in its size."""
        for name, size in files.items():
            place = self.root / name
            if not place.is_file() or place.stat().st_size != size:
                return False
        return True

    def _watched(self, what: str) -> Advance | None:
        return None if self.watch is None else self.watch(what)

    def _obtained(self, entry: _Entry, *, came: bool, is_first: bool) -> Obtained:
        if entry.stated_by != FIRST:
            checked = f"as stated by {entry.stated_by}"
        elif is_first:
            checked = "recorded now, since none is published; later downloads must have it too"
        else:
            checked = f"as recorded at {FIRST}"
        held = f"{entry.size} bytes, SHA-256 {entry.sha256} ({checked})"
        if entry.unpacked is not None:
            held += f"; {len(entry.unpacked)} files unpacked"
        begin = "" if came else "already complete: "
        return Obtained(
            part=self.part.name,
            file=self.file.saved_as,
            came=came,
            summary=f"{begin}{self.file.saved_as}, {held}",
        )
