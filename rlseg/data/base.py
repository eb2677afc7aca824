"""What a dataset is: typed, map-style, and declared; and the named splits of one."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from rlseg.data.orientation import orientation_note
from rlseg.data.samples import InstanceSample, SemanticSample
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError, RlsegError

if TYPE_CHECKING:
    from rlseg.data.store import Store

_LOG = logging.getLogger(__name__)

LISTED = 10  # names shown in a message before "and n more"
FULL_IDS = (255, 65535)  # instances that fill label files of 8 and of 16 bits
SHARES_OFF = 1e-6  # by which shares may miss 1

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
    """Names of classes in the order of their ids; of `Categorised` instances, their categories."""
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


def check_fractions(fractions: tuple[float, float, float]) -> None:
    """Nothing, if these are shares of train, valid and test.

    Raises:
        ConfigError: negative, none for train, or not 1 in sum.
    """
    # Written so that it is false for numbers that are not finite, too.
    if not (min(fractions) >= 0 and fractions[0] > 0 and abs(sum(fractions) - 1) <= SHARES_OFF):
        raise ConfigError(
            "fractions must be shares of train, valid, test that add up to 1 with train above 0, "
            f"got {list(fractions)}"
        )


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


@runtime_checkable
class Categorised(Protocol):
    """A dataset of instances that knows the category of each."""

    def categories(self, index: int) -> Tensor:
        """Place in the splits' `classes` of instance 1..N of sample `index`: int64 [N].

        Empty for a sample without a truth.
        """


def try_samples(
    dataset: InstanceDataset | SemanticDataset,
    split: str,
    advance: Advance | None = None,
    *,
    truth: bool = True,
) -> list[Problem]:
    """What is wrong with the samples of a split, after reading them all.

    Where a sample cannot be read, there is one problem per damaged file of a `Readable` dataset, or
    one for the sample. Instances that are missing or suspiciously many are notes, and images whose
    EXIF orientation no size can confirm.

    Args:
        dataset: the split.
        split: its name.
        advance: told how far it is.
        truth: False where nobody expects one, as for test images of a challenge.
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
                problems += instance_notes(sample, where) if truth else []
            for place in list(halves)[:-1]:
                problems += image_notes(place)
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


def as_problem(error: RlsegError, where: str | Path | None = None) -> Problem:
    """A problem from an error of the form `file: what`.

    Args:
        error: the error.
        where: place of errors that name no file; None = all before the colon is the place.
    """
    place, _, what = str(error).partition(": ")
    if what and (where is None or _is_place(place)):
        return Problem(where=place, what=what)
    return Problem(where="data" if where is None else str(where), what=str(error))


def _is_place(text: str) -> bool:
    """Whether the beginning of a message is the path of a file, there or missing."""
    if "\0" in text or not text:
        return False
    path = Path(text)
    try:
        return os.path.lexists(path) or (os.sep in text and path.parent.is_dir())
    except OSError:  # longer than a path can be
        return False


OnError = Callable[[RlsegError], None]
"""Told of an error; goes on afterwards, or raises it."""


def stop_at(error: RlsegError) -> None:
    """What opening a data set does with an error, where checking goes on.

    Raises:
        RlsegError: always.
    """
    raise error


def raise_first(problems: Iterable[Problem]) -> None:
    """Nothing, if all problems are notes.

    Raises:
        CorruptDatasetError: names the first problem and how many more there are.
    """
    serious = [problem for problem in problems if not problem.note]
    if serious:
        more = f" (and {len(serious) - 1} more like it)" if len(serious) > 1 else ""
        raise CorruptDatasetError(f"{serious[0].where}: {serious[0].what}{more}")


def warn(notes: Iterable[Problem], dataset: str = "") -> None:
    """Logs each note as a warning, behind the name of the data set where one is given."""
    for note in notes:
        _LOG.warning("%s: %s", f"{dataset}, {note.where}" if dataset else note.where, note.what)


def image_notes(place: str | Path) -> list[Problem]:
    """A note on a sound image with labels, if these may have been drawn on it turned otherwise."""
    what = orientation_note(Path(place))
    return [] if what is None else [Problem(where=str(place), what=what, note=True)]


def instance_notes(sample: InstanceSample, where: str) -> list[Problem]:
    """Notes on a sound sample with labels: nothing known, no instance, or as many as fill a type.

    Args:
        sample: with consecutive labels.
        where: place of its labels.
    """
    count = int(sample.labels.max()) if sample.labels.numel() else 0
    if not bool(sample.valid.any()):
        what = "nothing is known: every pixel has the ignore id; it teaches and counts nothing"
    elif count == 0:
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
