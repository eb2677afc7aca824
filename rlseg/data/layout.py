"""Declared file patterns -> verified list of records: no file of a pair is skipped in silence."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlseg.data.base import Problem, contents, listed, raise_first
from rlseg.data.links import inside, link_fault, not_a_file, path_fault
from rlseg.errors import ConfigError, DatasetNotFoundError

PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Record:
    """The files that make one sample."""

    name: str
    """What the placeholders stood for, joined by underscores: unique within a split."""
    files: Mapping[str, Path]
    """Role (`image`, `labels`) -> existing file."""


Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What has the names of one role's files."""

    files: list[tuple[Key, Path]]
    unusable: dict[Key, Path]
    """Names of files that are none: links out of the root, folders, pipes."""
    blocked: bool
    """A folder on the way is a link that is not followed; what lies behind it is unknown."""
    problems: list[Problem]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the files of a data set lie.

    A pattern is a path below the root with placeholders: `{split}` is given, `{ext}` is one of
    `extensions`, any other name stands for a part of one file or folder name and belongs to the
    record's key, e.g. `leftImg8bit/{split}/{city}/{id}_leftImg8bit.png`.
    """

    patterns: Mapping[str, str]
    """Role -> pattern; the first role leads, the others must have the same keys."""
    roots: tuple[str, ...] = (".",)
    """Folders below the given root where the patterns may start, tried in this order."""
    extensions: tuple[str, ...] = ()
    """What `{ext}` may be, in lower case and without a dot; letter case does not matter."""
    optional: frozenset[str] = frozenset()
    """Roles that a whole split may lack (unlabelled data)."""

    def __post_init__(self) -> None:
        keys = {frozenset(self._keys(pattern)) for pattern in self.patterns.values()}
        if len(keys) != 1:
            raise ConfigError(f"patterns of one layout need the same placeholders: {self.patterns}")

    def find(self, root: Path, splits: Sequence[str]) -> Path | None:
        """The first of `roots` below `root` where the first role of any split has a file.

        Raises:
            CorruptDatasetError: one of `roots` is a link that is not followed.
        """
        lead = next(iter(self.patterns))
        for start in self.roots:
            base = inside(root / start, root)
            if not base.is_dir():
                continue
            for seen in (self._seen(base, lead, split, root) for split in splits):
                if seen.files or seen.problems:
                    return base
        return None

    def records(self, base: Path, split: str, root: Path | None = None) -> list[Record]:
        """All records of a split in natural order of their names; empty if it has no files.

        Args:
            base: what `find` gave.
            split: its name in the patterns.
            root: folder that links may not leave; None = `base`.

        Raises:
            CorruptDatasetError: partners are missing, two files claim the same key, or one is a
                link that is not followed.
        """
        found, problems = self.survey(base, split, root)
        raise_first(problems)
        return found

    def survey(
        self, base: Path, split: str, root: Path | None = None
    ) -> tuple[list[Record], list[Problem]]:
        """The complete records of a split, and one problem per file that is not part of one.

        Args:
            base: where the patterns start.
            split: its name in the patterns.
            root: folder that links may not leave; None = `base`.
        """
        start = path_fault(base, root or base)
        if start is not None:
            return [], [Problem(where=str(start[0]), what=start[1])]
        problems: list[Problem] = []
        found: dict[str, dict[Key, Path]] = {}
        roles: dict[str, _Seen] = {}
        for role in self.patterns:
            seen = roles[role] = self._seen(base, role, split, root or base)
            problems += seen.problems
            files: dict[Key, Path] = {}
            for key, path in seen.files:
                if key in files:
                    what = f"stands for the same sample as {files[key]}; keep one of them"
                    problems.append(Problem(where=str(path), what=what))
                files.setdefault(key, path)
            if files or seen.problems or role not in self.optional:
                found[role] = files
        records: list[Record] = []
        for key in sorted({k for files in found.values() for k in files}, key=natural):
            have = {role: files[key] for role, files in found.items() if key in files}
            absent = [role for role in found if role not in have]
            lacking = [
                role
                for role in absent
                if not roles[role].blocked and key not in roles[role].unusable
            ]
            if lacking:
                wanted = " and ".join(self._filled(role, split, key) for role in lacking)
                where = str(next(iter(have.values())))
                what = f"no {' and no '.join(lacking)} file for it; expected {base / wanted}"
                problems.append(Problem(where=where, what=what))
            elif not absent:
                records.append(Record(name="_".join(key), files=have))
        return records, problems

    def not_found(self, root: Path, dataset: str, how_to_get: str) -> DatasetNotFoundError:
        """An error that says what was looked for below `root`, and what lies there."""
        looked = [str(Path(start) / next(iter(self.patterns.values()))) for start in self.roots]
        return DatasetNotFoundError(
            f"no files of {dataset!r} below {root}: looked for {listed(looked)}; "
            f"found {contents(root)}. {how_to_get}"
        )

    @staticmethod
    def _keys(pattern: str) -> list[str]:
        return [name for name in PLACEHOLDER.findall(pattern) if name not in ("split", "ext")]

    def _seen(self, base: Path, role: str, split: str, root: Path) -> _Seen:
        pattern = self.patterns[role]
        problems: list[Problem] = []
        folders, blocked = [base], False
        *way, last = pattern.split("/")
        for part in way:
            reached = [child for folder in folders for child in self._step(folder, part, split)]
            folders = []
            for child in reached:
                fault = link_fault(child, root)
                if fault is None:
                    folders.append(child)
                else:
                    problems.append(Problem(where=str(child), what=fault))
                    blocked = True
        names = sorted(set(self._keys(pattern)))
        expression = re.compile(self._regex(pattern, split))
        files: list[tuple[Key, Path]] = []
        unusable: dict[Key, Path] = {}
        for path in (child for folder in folders for child in self._step(folder, last, split)):
            match = expression.fullmatch(path.relative_to(base).as_posix())
            if match is None:
                continue
            key = tuple(match[name] for name in names)
            fault = link_fault(path, root) or not_a_file(path)
            if fault is None:
                files.append((key, path))
            else:
                unusable[key] = path
                problems.append(Problem(where=str(path), what=fault))
        return _Seen(files=files, unusable=unusable, blocked=blocked, problems=problems)

    def _step(self, folder: Path, part: str, split: str) -> list[Path]:
        if not PLACEHOLDER.search(part):
            child = folder / part
            return [child] if os.path.lexists(child) else []
        if not folder.is_dir():
            return []
        expression = re.compile(self._regex(part, split))
        children = (c for c in folder.iterdir() if not c.name.startswith("."))
        return sorted(child for child in children if expression.fullmatch(child.name))

    def _regex(self, pattern: str, split: str) -> str:
        seen: set[str] = set()
        pieces: list[str] = []
        for index, piece in enumerate(PLACEHOLDER.split(pattern)):
            if index % 2 == 0:
                pieces.append(re.escape(piece))
            elif piece == "split":
                pieces.append(re.escape(split))
            elif piece == "ext":
                pieces.append(f"(?i:{'|'.join(re.escape(e) for e in self.extensions)})")
            else:
                pieces.append(f"(?P={piece})" if piece in seen else f"(?P<{piece}>[^/]+)")
                seen.add(piece)
        return "".join(pieces)

    def _filled(self, role: str, split: str, key: tuple[str, ...]) -> str:
        pattern = self.patterns[role]
        values = dict(zip(sorted(set(self._keys(pattern))), key, strict=True))
        values |= {"split": split, "ext": "|".join(self.extensions)}
        return PLACEHOLDER.sub(lambda match: values[match[1]], pattern)


def natural(key: tuple[str, ...]) -> list[list[tuple[int, int, str]]]:
    """Sort key that puts 2 before 10."""
    return [
        [
            (0, int(p), "") if p[0] in "0123456789" else (1, 0, p)
            for p in re.split(r"([0-9]+)", part)
            if p
        ]
        for part in key
    ]
