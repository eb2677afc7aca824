"""`rlseg data cache`: what a folder of derived maps holds, and how large it is; removes it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlseg.data.store import Entry

EXAMPLES = "  rlseg data cache CACHE\n  rlseg data cache runs/cells --clear"
_RUN_FILE, _RUN_CACHE = "config.json", "cache"


def add_arguments(parser: Any) -> None:
    """Adds the arguments of `cache`."""
    parser.add_argument(
        "folder", metavar="DIR", type=Path, help="a cache folder, or the folder of a run"
    )
    parser.add_argument("--clear", action="store_true", help="remove all entries; other files stay")


def run(args: argparse.Namespace) -> int:
    """Exit code 0: the entries were listed, or removed."""
    from rlseg.data.store import Store
    from rlseg.errors import DatasetNotFoundError

    folder: Path = args.folder
    if not folder.exists():
        raise DatasetNotFoundError(
            f"{folder} does not exist; name the folder given to --cache, or the folder of a run"
        )
    if (folder / _RUN_FILE).is_file():
        folder = folder / _RUN_CACHE
    store = Store(folder)
    if args.clear:
        removed = store.clear()
        print(f"{folder}: removed {_amount(removed)}")
        left = store.entries()
        if left:
            print(f"{folder}: {_amount(left)} left, in use by another process")
        return 0
    entries = store.entries()
    for kind in sorted({entry.kind for entry in entries}):
        print(f"{kind:<12}  {_amount([entry for entry in entries if entry.kind == kind])}")
    print(f"{folder}: {_amount(entries)}")
    return 0


def _amount(entries: Sequence[Entry]) -> str:
    size = sum(entry.size for entry in entries)
    word = "entry" if len(entries) == 1 else "entries"
    return f"{len(entries)} {word}, {_bytes(size)}"


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
