"""Splits of active learning by lists of the user's own: a JSON file or a folder of text files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from rlseg.data.base import listed
from rlseg.data.links import inside
from rlseg.data.list_files import read_lines
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from rlseg.files import load_json

MAX_LISTS_BYTES = 1 << 24


def read_active_lists(
    path: Path, splits: Sequence[str], cut: str = ""
) -> dict[str, tuple[str, ...]]:
    """Split -> names of its images.

    Args:
        path: JSON `{"D_S": ["name", ...], ...}`, or a folder with `D_S.txt` and so on, one name
            per line; letter case of the splits does not matter.
        splits: the splits that must be there; others are refused.
        cut: what is removed from the end of a name; folders before it always are.

    Raises:
        DatasetNotFoundError: no such file or folder.
        ConfigError: a pickled file, a split missing or unknown, names that are no text.
        CorruptDatasetError: not JSON, a name twice, or in two splits; D_S may lie inside another
            one, as in the lists of the RALIS authors, because its labels are never used.
    """
    if path.suffix.lower() in (".npy", ".npz", ".pkl", ".pickle"):
        raise ConfigError(
            f"{path}: pickled files can run code and are not opened; write the lists as JSON, "
            f'{{"{splits[0]}": ["name", ...], ...}}, or as text files in a folder'
        )
    if path.is_dir():
        raw = {file.stem: read_lines(inside(file, path)) for file in sorted(path.glob("*.txt"))}
    elif path.is_file():
        raw = load_json(path, error_type=CorruptDatasetError, max_bytes=MAX_LISTS_BYTES)
    else:
        raise DatasetNotFoundError(f"{path}: no such file or folder (data set option lists)")
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected an object with the keys {', '.join(splits)}")
    known = {split.lower(): split for split in splits}
    unknown = [key for key in raw if key.lower() not in known]
    lacking = [split for split in splits if split.lower() not in {key.lower() for key in raw}]
    if unknown or lacking:
        what = f"unknown: {listed(unknown)}" if unknown else f"missing: {listed(lacking)}"
        raise ConfigError(f"{path}: needs lists for exactly {', '.join(splits)}; {what}")
    lists = {known[key.lower()]: _names(path, key, value, cut) for key, value in raw.items()}
    _check_apart(path, lists)
    return {split: lists[split] for split in splits}


def _names(path: Path, key: str, value: object, cut: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise ConfigError(f"{path}: {key}: expected a list of names in quotes")
    names = tuple(name.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(cut) for name in value)
    if len(set(names)) < len(names):
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise CorruptDatasetError(f"{path}: {key}: {twice} is listed twice; keep one of them")
    return names


def _check_apart(path: Path, lists: Mapping[str, tuple[str, ...]]) -> None:
    for (a, names_a), (b, names_b) in combinations(lists.items(), 2):
        shared = set(names_a) & set(names_b)
        if shared and "D_S" not in (a, b):
            raise CorruptDatasetError(
                f"{path}: {a} and {b} share {listed(sorted(shared))}; what is learned from must "
                "not give the reward or the score: keep each name in one of them"
            )
