"""What a dataset is: typed, map-style, and declared; and the named splits of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from rlseg.data.samples import InstanceSample, SemanticSample
from rlseg.errors import ConfigError, DatasetNotFoundError, RlsegError

LISTED = 10  # names shown in a message before "and n more"

Advance = Callable[[str, int, int], None]
"""Told the split, the number of its samples done, and their number, for a progress display."""


class InstanceDataset(Protocol):
    """Map-style dataset of instance samples."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> InstanceSample:
        """Sample `index` in 0..len-1; IndexError beyond."""


class SemanticDataset(Protocol):
    """Map-style dataset of semantic samples."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> SemanticSample:
        """Sample `index` in 0..len-1; IndexError beyond."""


class Declaration(Protocol):
    """What a dataset class says about itself, as class constants."""

    layout: ClassVar[str]
    """Where the files lie below the root, in words and patterns."""
    splits: ClassVar[tuple[str, ...]]
    classes: ClassVar[tuple[str, ...]]
    """Class names of semantic data; empty for instances of one kind."""
    citation: ClassVar[str]
    how_to_get: ClassVar[str]
    terms: ClassVar[str]
    """What the owner of the data asks of who uses them, in a sentence."""


class DatasetModule(Protocol):
    """What every dataset module offers; `Options` is its frozen dataclass of settings."""

    @property
    def DATASET(self) -> type[Declaration]:
        """The class that declares the data set."""

    @property
    def Options(self) -> type[Any]:
        """Frozen dataclass of settings."""

    @property
    def needs_root(self) -> bool:
        """False for generated data."""

    def open_splits(self, root: Path | None, options: Any) -> Splits:
        """The splits found below `root`, verified."""

    def check(
        self, root: Path | None, options: Any, advance: Advance | None = None
    ) -> list[Problem]:
        """Every problem found in one pass over all files; empty when all is well."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with a data set."""

    where: str
    """File, folder, or split."""
    what: str
    """What is wrong and what next."""
    note: bool = False
    """Worth knowing, but the data are sound: a split that is not there."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The named parts of one data set, opened and verified."""

    dataset: str
    """Name under which it was opened."""
    task: Literal["instance", "semantic"]
    ndim: int
    """Space axes, 2 or 3."""
    channels: int
    """Image channels."""
    classes: tuple[str, ...] = ()
    """Class names of semantic data, in the order of class ids."""
    parts: Mapping[str, Any]
    """Split name -> InstanceDataset or SemanticDataset."""
    digest: str
    """Hex digest of names, sizes and options: two runs compare their data by it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.parts)

    def split(self, name: str) -> Any:
        """The map-style dataset of one split.

        Raises:
            ConfigError: no such split.
        """
        if name not in self.parts:
            raise ConfigError(
                f"data set {self.dataset!r} has no split {name!r}; it has {', '.join(self.parts)}: "
                "name one of these, or add the missing files"
            )
        return self.parts[name]


def digest_of(*parts: object) -> str:
    """Hex digest of plain values (nested lists, dicts, strings, numbers): 32 characters."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def listed(names: Iterable[object]) -> str:
    """The first few names, separated by commas, and how many more there are."""
    items = [str(name) for name in names]
    shown = ", ".join(items[:LISTED])
    return shown if len(items) <= LISTED else f"{shown} and {len(items) - LISTED} more"


def existing_root(root: Path | None, dataset: str, how_to_get: str) -> Path:
    """The root folder, after checking that it is one.

    Raises:
        ConfigError: none was given.
        DatasetNotFoundError: no such folder; says how to get the data.
    """
    if root is None:
        raise ConfigError(
            f"data set {dataset!r} needs a root folder (--root DIR, or DIR of `rlseg data`). "
            f"{how_to_get}"
        )
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise DatasetNotFoundError(f"{root} {kind}; wanted the root of {dataset!r}. {how_to_get}")
    return root


def contents(folder: Path) -> str:
    """What lies directly in a folder, for messages that say what was found."""
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir())
    return listed(names) if names else "nothing"


def try_samples(
    dataset: InstanceDataset | SemanticDataset, split: str, advance: Advance | None = None
) -> list[Problem]:
    """One problem per sample that cannot be read, after reading them all."""
    problems: list[Problem] = []
    for index in range(len(dataset)):
        try:
            dataset[index]
        except RlsegError as error:
            where, _, what = str(error).partition(": ")
            if not what:
                where, what = f"{split}, sample {index}", str(error)
            problems.append(Problem(where=where, what=what))
        if advance is not None:
            advance(split, index + 1, len(dataset))
    return problems
