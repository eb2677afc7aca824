"""What a dataset is: typed, map-style, and declared; and the named splits of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from rlseg.data.samples import InstanceSample, SemanticSample
from rlseg.errors import ConfigError, DatasetNotFoundError, RlsegError

if TYPE_CHECKING:
    from rlseg.data.store import Store

LISTED = 10  # names shown in a message before "and n more"
FULL_IDS = (255, 65535)  # instances that fill label files of 8 and of 16 bits

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
    store: Store | None = None
    """Where maps derived from the samples are kept; None = they are made each time."""

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


def with_cache(splits: Splits, folder: Path | None) -> Splits:
    """The splits with derived maps kept in a folder; as they are without one.

    Raises:
        ConfigError: the folder is a link or a file.
    """
    if folder is None:
        return splits
    from rlseg.data.store import Store  # needs h5py, which only those who want a cache wait for

    return replace(splits, store=Store(folder))


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


@runtime_checkable
class Readable(Protocol):
    """A dataset whose files can be read one by one, so that all that are damaged are named."""

    def readers(self, index: int) -> Mapping[str, Callable[[], object]]:
        """Place of each file of sample `index`, the labels last -> what reads it alone."""


def try_samples(
    dataset: InstanceDataset | SemanticDataset, split: str, advance: Advance | None = None
) -> list[Problem]:
    """What is wrong with the samples of a split, after reading them all.

    Where a sample cannot be read, there is one problem per damaged file of a `Readable` dataset, or
    one for the sample. Instances that are missing or suspiciously many are notes.
    """
    problems: list[Problem] = []
    for index in range(len(dataset)):
        halves = dataset.readers(index) if isinstance(dataset, Readable) else {}
        try:
            sample = dataset[index]
        except RlsegError as error:
            problems += faults_of(error, halves.values(), f"{split}, sample {index}")
        else:
            if isinstance(sample, InstanceSample):
                where = list(halves)[-1] if halves else f"{split}, {sample.name}"
                problems += instance_notes(sample, where)
        if advance is not None:
            advance(split, index + 1, len(dataset))
    return problems


def faults_of(
    error: RlsegError, readers: Iterable[Callable[[], object]], where: str
) -> list[Problem]:
    """The faults of each file of a sample that could not be read, or the sample's own.

    Args:
        error: what reading the sample said.
        readers: read one file each.
        where: place of errors that name none.
    """
    found: list[Problem] = []
    for read in readers:
        try:
            read()
        except RlsegError as fault:
            found.append(as_problem(fault, where))
    return found or [as_problem(error, where)]


def as_problem(error: RlsegError, where: str = "data") -> Problem:
    """A problem from an error of the form `file: what`.

    Args:
        error: the error.
        where: place, if the error names none.
    """
    place, _, what = str(error).partition(": ")
    return Problem(where=place, what=what) if what else Problem(where=where, what=str(error))


def instance_notes(sample: InstanceSample, where: str) -> list[Problem]:
    """Notes on a sound sample: no instance, or as many as the ids of a narrow type can tell apart.

    Args:
        sample: with consecutive labels.
        where: place of its labels.
    """
    count = int(sample.labels.max()) if sample.labels.numel() else 0
    if count == 0 and bool(sample.valid.any()):
        what = "no instance; all that is known is background"
    elif count in FULL_IDS:
        bits = count.bit_length()
        what = (
            f"{count} instances, as many as {bits} bits tell apart; if the file was written with "
            f"{bits} bits, look whether there were more and ids overflowed"
        )
    else:
        return []
    return [Problem(where=where, what=what, note=True)]
