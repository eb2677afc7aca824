"""What a downloaded file must begin like, and its digest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from rlseg.data.archives import archive_kind
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError

__all__ = ["FileKind", "check_kind", "file_sha256"]

FileKind = Literal["zip", "tar", "hdf5", "json"]
"""What a file must begin like."""

_HDF5 = b"\x89HDF\r\n\x1a\n"


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_kind(path: Path, kind: FileKind) -> None:
    """Nothing, if a file is what it should be.

    Raises:
        DatasetNotFoundError: it is a web page.
        CorruptDatasetError: it is something else, or cut off (HDF5).
    """
    with path.open("rb") as file:
        head = file.read(512)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        raise DatasetNotFoundError(
            f"{path.name}: a web page came instead of the {kind} file, perhaps a login"
        )
    fits = {
        "zip": lambda: archive_kind(path) == "zip",
        "tar": lambda: archive_kind(path) in ("tar", "tar.gz"),
        "hdf5": lambda: head.startswith(_HDF5),
        "json": lambda: text[:1] in (b"{", b"["),
    }[kind]()
    if not fits:
        raise CorruptDatasetError(
            f"{path.name}: no {kind} file, it begins with {head[:16]!r}; it was removed: try again"
        )
    if kind == "hdf5":
        import h5py

        try:
            h5py.File(path, "r").close()
        except OSError as error:
            raise CorruptDatasetError(
                f"{path.name}: damaged HDF5 ({error}); it was removed: try again"
            ) from error
