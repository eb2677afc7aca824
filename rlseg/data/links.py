"""Links and other things in a data folder that are no files of it: named, and never followed out.

A data folder may come from anybody. A link in it that leads out of it would make a reader open any
file of the machine; links that stay inside, and a root that is itself a link, are harmless.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rlseg.errors import CorruptDatasetError

__all__ = ["inside", "link_fault", "not_a_file", "path_fault"]

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def link_fault(path: Path, root: Path) -> str | None:
    """What is wrong with a path if it is a link that may not be followed; None for all others.

    Args:
        path: below `root`; only its last part is looked at.
        root: folder that links may not leave.

    Returns:
        What the link leads to and what to do, for behind the name of the path.
    """
    try:
        if not stat.S_ISLNK(path.lstat().st_mode):
            return None
        target = os.readlink(path)
    except OSError:
        return None  # it is not there or cannot be looked at: who opens it says so
    try:
        reached = path.resolve(strict=True)
    except FileNotFoundError:
        reached = None
    except (OSError, RuntimeError):  # a loop: one or the other, by the version of Python
        return f"a link to {target}, which leads in a circle; put the file itself there"
    if reached is None:
        return f"a link to {target}, which is not there; put the file itself there"
    if reached.is_relative_to(root.resolve()):
        return None
    return (
        f"a link to {target}, outside of {root}, which is not followed; copy what it leads to into "
        "its place, or give the folder that really holds the data as the root"
    )


def path_fault(path: Path, root: Path) -> tuple[Path, str] | None:
    """The first part of a path below `root` that is a link as in `link_fault`, and what is wrong.

    None where there is none, and for paths elsewhere.
    """
    try:
        parts = path.relative_to(root).parts
    except ValueError:
        return None
    place = root
    for part in parts:
        place = place / part
        fault = link_fault(place, root)
        if fault is not None:
            return place, fault
    return None


def inside(path: Path, root: Path) -> Path:
    """The path itself, if no part of it below `root` is a link as in `link_fault`.

    Raises:
        CorruptDatasetError: one is; names it.
    """
    fault = path_fault(path, root)
    if fault is not None:
        raise CorruptDatasetError(f"{fault[0]}: {fault[1]}")
    return path


def not_a_file(path: Path) -> str | None:
    """What a path has that is there under the name of a file, if it is none; None for files."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError as error:
        return f"cannot be looked at ({error.strerror or error}); replace it"
    if kind == stat.S_IFREG:
        return None
    what = _KINDS.get(kind, "a device")
    return f"{what} where a file is expected; move it away, or rename it"
