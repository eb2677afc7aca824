"""What is said about where a data set can be had: files, parts, sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from rlseg.config import nearest
from rlseg.data.filekinds import FileKind
from rlseg.errors import ConfigError

__all__ = ["Part", "RemoteFile", "Source"]


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a publisher."""

    saved_as: str
    """Path below the data set's folder, with slashes; archives lie there until unpacked."""
    addresses: tuple[str, ...]
    """Web addresses, tried in this order. Plain http only where nothing else is known."""
    kind: FileKind
    size: int | None = None
    """Bytes, if somebody states them."""
    sha256: str | None = None
    """Digest, if somebody states one; else the first download is recorded and binds later ones."""
    stated_by: str = "the publisher"
    """Who states size and digest."""
    below: str = ""
    """Archives: the folder inside whose content is wanted; a part `*` stands for any one folder."""
    into: str = ""
    """Archives: where that content goes, below the data set's folder."""

    def __post_init__(self) -> None:
        for path in (self.saved_as, self.into):
            pure = PurePosixPath(path)
            if pure.is_absolute() or ".." in pure.parts:
                raise ConfigError(f"{path}: must lie below the folder of the data set")
        if not self.saved_as or not self.addresses:
            raise ConfigError("a file needs a name and an address")

    @property
    def is_archive(self) -> bool:
        """Whether it is unpacked."""
        return self.kind in ("zip", "tar")


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is asked for by one name."""

    name: str
    what: str
    """A few words."""
    size: str
    """How much comes, in words."""
    files: tuple[RemoteFile, ...] = ()
    """What is downloaded; empty: `steps` say how to get it."""
    steps: tuple[str, ...] = ()
    """What a person has to do."""
    default: bool = True
    """Whether it comes when no part is named."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """How one data set can be had."""

    name: str
    terms: str
    """What its owners ask, in a sentence."""
    parts: tuple[Part, ...] = ()
    """Empty for generated data and a user's own."""
    note: str = ""
    """Instead of parts: why there is nothing to get."""
    tried: bool = False
    """Whether the addresses have been tried."""

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names) or bool(names) == bool(self.note):
            raise ConfigError(
                f"source {self.name!r}: parts need different names, or a note instead"
            )

    @property
    def way(self) -> Literal["direct", "partly direct", "by hand", "nothing to get"]:
        """How it is had, in two words."""
        direct = [bool(part.files) for part in self.parts]
        if not direct:
            return "nothing to get"
        if all(direct):
            return "direct"
        return "partly direct" if any(direct) else "by hand"

    def chosen(self, names: tuple[str, ...]) -> tuple[Part, ...]:
        """The parts of these names, in the order of the source; the default ones for none.

        Raises:
            ConfigError: no such part.
        """
        known = [part.name for part in self.parts]
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"data set {self.name!r} has no part {name!r}{nearest(name, known) or ';'} "
                    f"parts: {', '.join(known) or 'none'}"
                )
        return tuple(p for p in self.parts if (p.name in names if names else p.default))
