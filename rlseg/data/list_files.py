"""Text files in a data folder that list one thing per line."""

from __future__ import annotations

from pathlib import Path

from rlseg.errors import CorruptDatasetError, DatasetNotFoundError

MAX_LIST_BYTES = 1 << 24


def read_lines(path: Path) -> list[str]:
    """The lines of a list as `numbered_lines`, without their numbers."""
    return [line for _, line in numbered_lines(path)]


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Number from 1 on and text of each line that is not empty, without surrounding blanks.

    Bytes that are not UTF-8 are kept, so that they still name a file.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, larger than `MAX_LIST_BYTES`, or with NUL bytes.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(min(path.stat().st_size, MAX_LIST_BYTES) + 1)
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise CorruptDatasetError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_LIST_BYTES:
        raise CorruptDatasetError(f"{path}: larger than {MAX_LIST_BYTES} bytes; not a list")
    if b"\0" in raw:
        raise CorruptDatasetError(f"{path}: byte {raw.index(0)} is NUL; a list is plain text")
    text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    lines = enumerate((line.strip() for line in text.splitlines()), start=1)
    return [(number, line) for number, line in lines if line]
