"""CREMI: slices of a fly brain in electron microscopy, with a neuron id per pixel.

Two forms are read: TIFF pairs `<split>/A/A_<n>.tif` and `<split>/B/B_<n>.tif` (the packaging of the
ColorRL authors, "Cre-256" and its sisters), and HDF5 files in CREMI's own layout, `volumes/raw` and
`volumes/labels/neuron_ids`: one per split, if their names say so, else the files of the challenge
(`sample_A_20160501.hdf`), each cut into runs of neighbouring slices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import torch

from rlseg.data.arrays import h5_dataset, opened_h5, read_h5
from rlseg.data.base import (
    Advance,
    InstanceDataset,
    Problem,
    Splits,
    contents,
    digest_of,
    existing_root,
    listed,
    try_samples,
)
from rlseg.data.images import check_same_size, read_image, read_labels, scale_to_unit
from rlseg.data.labels import from_array
from rlseg.data.layout import Layout, Record
from rlseg.data.memory import InMemory
from rlseg.data.samples import InstanceSample
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError, RlsegError

IGNORE_ID = (1 << 64) - 1  # CREMI's id for pixels without a truth
RAW, IDS = "volumes/raw", "volumes/labels/neuron_ids"
HDF_FOLDERS = (".", "hdf")
HDF_SUFFIXES = (".hdf", ".hdf5", ".h5")
SPLIT_WORDS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}

needs_root = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the CREMI slices."""

    form: Literal["auto", "tif", "hdf"] = "auto"
    """Which form to read; "auto" takes the TIFF pairs where both are there, unless a setting below
    asks for HDF5 files."""
    file: str | None = None
    """The one HDF5 file to read, below the root, whatever its name; None = files named by split, or
    where there are none, all of the root or root/hdf."""
    train_slices: tuple[int, int] | None = None
    """First slice, and the one after the last, of each HDF5 file that is cut into splits. None for
    all three splits: the first 80 % train, the next 10 % validate, the rest test. Neighbouring
    slices look alike, so splits are runs of slices; ranges that leave a gap keep them further
    apart. None while another split has a range: no such split."""
    valid_slices: tuple[int, int] | None = None
    """Likewise, for validation."""
    test_slices: tuple[int, int] | None = None
    """Likewise, for the test."""

    def __post_init__(self) -> None:
        if self.form == "tif" and self.of_volumes:
            raise ConfigError(
                "file and slice ranges belong to HDF5 files; leave them out or set form to hdf"
            )
        given = sorted(self.ranges.items(), key=lambda pair: pair[1])
        for split, (start, stop) in given:
            if not 0 <= start < stop:
                raise ConfigError(
                    f"{split}_slices must be a first slice from 0 on and a larger end, "
                    f"got [{start}, {stop}]"
                )
        for (first, (_, end)), (second, (start, _)) in pairwise(given):
            if start < end:
                raise ConfigError(
                    f"{first}_slices and {second}_slices share slices from {start} on; "
                    "what is trained on must not be scored: give ranges that do not overlap"
                )

    @property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """The ranges that were given, by split."""
        found = {name: getattr(self, f"{name}_slices") for name in SPLIT_WORDS}
        return {name: pair for name, pair in found.items() if pair is not None}

    @property
    def of_volumes(self) -> bool:
        """Whether a setting asks for HDF5 files."""
        return self.file is not None or bool(self.ranges)


class Cremi:
    """CREMI slices as TIFF pairs: grey image, neurons 1..N, 0 = membrane or unlabelled."""

    layout: ClassVar[str] = (
        "<split>/A/A_<n>.tif images and <split>/B/B_<n>.tif ids, below the root, root/256 or "
        f"root/Cremi/Corrected/256; or HDF5 files with {RAW} and {IDS} in the root or root/hdf: "
        "one per split (its name holds the split), else each cut into runs of slices, 80 % train, "
        "10 % valid, 10 % test"
    )
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test")
    classes: ClassVar[tuple[str, ...]] = ()
    citation: ClassVar[str] = (
        "CREMI, MICCAI Challenge on Circuit Reconstruction from Electron Microscopy Images, 2016; "
        "256-pixel slices: Tuan, Khoa, Quan, Jeong, ColorRL, CVPR 2021"
    )
    how_to_get: ClassVar[str] = (
        "Cre-256: folder Data/Cremi/Corrected/256 of github.com/anhtuanhsgs/ColorRL; "
        "full volumes (sample_A_20160501.hdf and others): cremi.org/data."
    )
    terms: ClassVar[str] = "Academic use with citation."
    files: ClassVar[Layout] = Layout(
        patterns={"image": "{split}/A/A_{id}.{ext}", "labels": "{split}/B/B_{id}.{ext}"},
        roots=(".", "256", "Corrected/256", "Cremi/Corrected/256", "Data/Cremi/Corrected/256"),
        extensions=("tif", "tiff"),
    )

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.records)

    def __getitem__(self, index: int) -> InstanceSample:
        """Slice `index`, read from its two files."""
        record = self.records[index]
        image_path, labels_path = record.files["image"], record.files["labels"]
        image = read_image(image_path, channels=1)
        labels, valid = read_labels(labels_path)
        check_same_size(image, labels, str(image_path), str(labels_path))
        if labels.ndim != 2:
            raise CorruptDatasetError(
                f"{labels_path}: {labels.shape[0]} pages; slices have one page per file"
            )
        return InstanceSample(image=image, labels=labels, valid=valid, name=record.name)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A run of slices of one HDF5 file."""

    path: Path
    start: int
    stop: int
    """After the last one."""


class CremiVolume:
    """Slices of CREMI HDF5 files, read one by one, in the order of the pieces."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.slices = [(p.path, number) for p in pieces for number in range(p.start, p.stop)]

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.slices)

    def __getitem__(self, index: int) -> InstanceSample:
        """Slice `index`; pixels with id 2^64 - 1 are not valid."""
        if not 0 <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        path, number = self.slices[index]
        with opened_h5(path) as file:
            raw = read_h5(h5_dataset(file, RAW, path), f"{path}: {RAW}", number)
            ids = read_h5(h5_dataset(file, IDS, path), f"{path}: {IDS}", number)
        labels, valid = from_array(ids, f"{path}: {IDS}, slice {number}", IGNORE_ID)
        image = torch.from_numpy(scale_to_unit(raw, f"{path}: {RAW}, slice {number}"))
        return InstanceSample(
            image=image[None], labels=labels, valid=valid, name=f"{path.stem}_{number:04d}"
        )


def volume_shape(path: Path) -> tuple[int, ...]:
    """Slices, rows, columns of an HDF5 file.

    Raises:
        CorruptDatasetError: unreadable, without images or ids, or of two shapes.
    """
    with opened_h5(path) as file:
        raw, ids = h5_dataset(file, RAW, path), h5_dataset(file, IDS, path)
        if raw.ndim != 3 or raw.shape != ids.shape:
            raise CorruptDatasetError(
                f"{path}: {RAW} has shape {list(raw.shape)}, {IDS} {list(ids.shape)}; "
                "both must be [slices, rows, columns] and equal: name another file (data set "
                "option file), or remove this one"
            )
        return tuple(raw.shape)


DATASET = Cremi


def open_splits(root: Path | None, options: Options) -> Splits:
    """The splits found below `root`.

    Raises:
        ConfigError: slice ranges that the files do not have, or that do not apply.
        DatasetNotFoundError: neither form is there; says what was looked for and found.
        CorruptDatasetError: an image without labels or the reverse, or an unreadable volume.
    """
    root = existing_root(root, "cremi", Cremi.how_to_get)
    base, volumes = _find(root, options)
    parts: dict[str, InstanceDataset] = {}
    seen: dict[str, object] = {}
    for split in Cremi.splits:
        if base is not None:
            records = Cremi.files.records(base, split)
            if records:
                parts[split] = Cremi(records)
                seen[split] = [
                    (r.name, [p.stat().st_size for p in r.files.values()]) for r in records
                ]
        else:
            pieces = _pieces(volumes, split, options)
            if pieces:
                parts[split] = CremiVolume(pieces)
                seen[split] = [(p.path.name, volume_shape(p.path), p.start, p.stop) for p in pieces]
    return Splits(
        dataset="cremi",
        task="instance",
        ndim=2,
        channels=1,
        parts={name: InMemory(part) for name, part in parts.items()},
        digest=digest_of("cremi", seen),
    )


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Every problem of every split: missing partners, unreadable or contradicting files.

    A split that is not there is a note.
    """
    try:
        root = existing_root(root, "cremi", Cremi.how_to_get)
        base, volumes = _find(root, options)
    except RlsegError as error:
        return [Problem(where=str(root), what=str(error))]
    problems: list[Problem] = []
    if base is None:
        volumes, problems = _sound(volumes)
    damaged = bool(problems)
    for split in Cremi.splits:
        part: InstanceDataset | None = None
        if base is not None:
            records, missing = Cremi.files.survey(base, split)
            problems += missing
            part = Cremi(records) if records else None
            damaged = bool(missing)
        else:
            try:
                pieces = _pieces(volumes, split, options)
            except RlsegError as error:
                problems.append(Problem(where=f"split {split}", what=str(error)))
                continue
            part = CremiVolume(pieces) if pieces else None
        if part is not None:
            problems += try_samples(part, split, advance)
        elif not damaged:
            what = f"nothing for it below {root}; the other splits can be used"
            problems.append(Problem(where=f"split {split}", what=what, note=True))
    return problems


def _find(root: Path, options: Options) -> tuple[Path | None, dict[str | None, list[Path]]]:
    """The folder of the TIFF pairs, or else the HDF5 files: by split, or to be cut (key None)."""
    if options.form != "hdf" and not options.of_volumes:
        base = Cremi.files.find(root, Cremi.splits)
        if base is not None:
            return base, {}
    if options.form != "tif":
        volumes = _volumes(root, options)
        if volumes:
            return None, volumes
    wanted = {
        "tif": "<split>/A/A_<n>.tif with <split>/B/B_<n>.tif",
        "hdf": "*.hdf, *.hdf5, *.h5",
    }
    looked = " and ".join(text for form, text in wanted.items() if options.form in ("auto", form))
    places = ", ".join(str(root / start) for start in (*Cremi.files.roots, "hdf"))
    raise DatasetNotFoundError(
        f"no CREMI data at {root}: looked for {looked} in {places}; "
        f"found {contents(root)}. {Cremi.how_to_get}"
    )


def _volumes(root: Path, options: Options) -> dict[str | None, list[Path]]:
    """The HDF5 file of each split, by the word in its name; else all of them under None.

    Raises:
        ConfigError: slice ranges, but files that are whole splits.
        CorruptDatasetError: two files for one split.
        DatasetNotFoundError: the file named in the options is not there.
    """
    if options.file is not None:
        path = root / options.file
        if not path.is_file():
            raise DatasetNotFoundError(
                f"{path}: no such file (data set option file); found {contents(root)}"
            )
        return {None: [path]}
    found: dict[str | None, list[Path]] = {}
    others: list[Path] = []
    for folder in (root / name for name in HDF_FOLDERS):
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in HDF_SUFFIXES:
                continue
            words = re.split(r"[^a-z]+", path.stem.lower())
            splits = [s for s, names in SPLIT_WORDS.items() if any(n in words for n in names)]
            others += [] if splits else [path]
            for split in splits:
                if split in found:
                    raise CorruptDatasetError(
                        f"{path} and {found[split][0]} both look like split {split!r}; "
                        "keep one of them in the folder"
                    )
                found[split] = [path]
    if found and options.ranges:
        raise ConfigError(
            f"slice ranges are given, but files say their split by name "
            f"({listed(p.name for paths in found.values() for p in paths)}): name the file to be "
            "cut (data set option file), or leave the ranges out"
        )
    return found or ({None: others} if others else {})


def _sound(
    volumes: dict[str | None, list[Path]],
) -> tuple[dict[str | None, list[Path]], list[Problem]]:
    """The volumes whose shapes can be read, and the problems of the others."""
    problems: list[Problem] = []
    sound: dict[str | None, list[Path]] = {}
    for split, paths in volumes.items():
        for path in paths:
            try:
                volume_shape(path)
            except RlsegError as error:
                problems.append(Problem(where=str(path), what=str(error)))
            else:
                sound.setdefault(split, []).append(path)
    return sound, problems


def _pieces(volumes: dict[str | None, list[Path]], split: str, options: Options) -> list[Piece]:
    """What belongs to a split: a file of its own, or a run of slices of every file.

    Raises:
        ConfigError: a range that ends after the last slice.
        CorruptDatasetError: an unreadable file.
    """
    whole = [Piece(path=p, start=0, stop=volume_shape(p)[0]) for p in volumes.get(split, [])]
    if whole:
        return whole
    pieces = []
    for path in volumes.get(None, []):
        count = volume_shape(path)[0]
        ranges = options.ranges or _borders(count)
        start, stop = ranges.get(split, (0, 0))
        if stop > count:
            raise ConfigError(
                f"{split}_slices is [{start}, {stop}], but {path} has {count} slices; lower it"
            )
        if start < stop:
            pieces.append(Piece(path=path, start=start, stop=stop))
    return pieces


def _borders(count: int) -> dict[str, tuple[int, int]]:
    """First slice and end of each split by its share; train is never empty, others may be."""
    valid, test = max(1, count * 8 // 10), max(1, count * 9 // 10)
    return {"train": (0, valid), "valid": (valid, test), "test": (test, count)}
