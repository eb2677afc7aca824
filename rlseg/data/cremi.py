"""CREMI: slices of a fly brain in electron microscopy, with a neuron id per pixel.

Two forms are read: TIFF pairs `<split>/A/A_<n>.tif` and `<split>/B/B_<n>.tif` (the packaging of the
ColorRL authors, "Cre-256" and its sisters), and one HDF5 file per split in CREMI's own layout,
`volumes/raw` and `volumes/labels/neuron_ids`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from rlseg.data.arrays import h5_dataset, opened_h5, read_h5
from rlseg.data.base import (
    InstanceDataset,
    Problem,
    Splits,
    contents,
    digest_of,
    existing_root,
    try_samples,
)
from rlseg.data.images import check_same_size, read_image, read_labels, scale_to_unit
from rlseg.data.labels import from_array
from rlseg.data.layout import Layout, Record
from rlseg.data.memory import InMemory
from rlseg.data.samples import InstanceSample
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError, RlsegError

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
    """Which form to read; "auto" takes the TIFF pairs where both are there."""


class Cremi:
    """CREMI slices as TIFF pairs: grey image, neurons 1..N, 0 = membrane or unlabelled."""

    layout: ClassVar[str] = (
        "<split>/A/A_<n>.tif images and <split>/B/B_<n>.tif ids, below the root, root/256 or "
        f"root/Cremi/Corrected/256; or one HDF5 file per split (its name holds the split) with "
        f"{RAW} and {IDS}, in the root or root/hdf"
    )
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test")
    classes: ClassVar[tuple[str, ...]] = ()
    citation: ClassVar[str] = (
        "CREMI, MICCAI Challenge on Circuit Reconstruction from Electron Microscopy Images, 2016; "
        "256-pixel slices: Tuan, Khoa, Quan, Jeong, ColorRL, CVPR 2021"
    )
    how_to_get: ClassVar[str] = (
        "Cre-256: folder Data/Cremi/Corrected/256 of github.com/anhtuanhsgs/ColorRL; "
        "full volumes: cremi.org/data. Academic use with citation."
    )
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


class CremiVolume:
    """The slices of one CREMI HDF5 file, read one by one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with opened_h5(path) as file:
            raw, ids = h5_dataset(file, RAW, path), h5_dataset(file, IDS, path)
            if raw.ndim != 3 or raw.shape != ids.shape:
                raise CorruptDatasetError(
                    f"{path}: {RAW} has shape {list(raw.shape)}, {IDS} {list(ids.shape)}; "
                    "both must be [slices, rows, columns] and equal"
                )
            self.shape: tuple[int, ...] = tuple(raw.shape)

    def __len__(self) -> int:
        """Number of slices."""
        return self.shape[0]

    def __getitem__(self, index: int) -> InstanceSample:
        """Slice `index`; pixels with id 2^64 - 1 are not valid."""
        if not 0 <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        with opened_h5(self.path) as file:
            raw = read_h5(h5_dataset(file, RAW, self.path), f"{self.path}: {RAW}", index)
            ids = read_h5(h5_dataset(file, IDS, self.path), f"{self.path}: {IDS}", index)
        labels, valid = from_array(ids, f"{self.path}: {IDS}, slice {index}", IGNORE_ID)
        image = torch.from_numpy(scale_to_unit(raw, f"{self.path}: {RAW}, slice {index}"))
        return InstanceSample(
            image=image[None], labels=labels, valid=valid, name=f"{self.path.stem}_{index:04d}"
        )


DATASET = Cremi


def open_splits(root: Path | None, options: Options) -> Splits:
    """The splits found below `root`.

    Raises:
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
        elif split in volumes:
            volume = CremiVolume(volumes[split])
            parts[split] = volume
            seen[split] = (volume.path.name, volume.shape)
    return Splits(
        dataset="cremi",
        task="instance",
        ndim=2,
        channels=1,
        parts={name: InMemory(part) for name, part in parts.items()},
        digest=digest_of("cremi", seen),
    )


def check(root: Path | None, options: Options) -> list[Problem]:
    """Every problem of every split: missing partners, unreadable or contradicting files."""
    try:
        root = existing_root(root, "cremi", Cremi.how_to_get)
        base, volumes = _find(root, options)
    except RlsegError as error:
        return [Problem(where=str(root), what=str(error))]
    problems: list[Problem] = []
    for split in Cremi.splits:
        part: InstanceDataset | None = None
        if base is not None:
            records, missing = Cremi.files.survey(base, split)
            problems += missing
            part = Cremi(records) if records else None
        elif split in volumes:
            try:
                part = CremiVolume(volumes[split])
            except RlsegError as error:
                problems.append(Problem(where=str(volumes[split]), what=str(error)))
                continue
        if part is None:
            problems.append(Problem(where=f"split {split}", what=f"no files below {root}"))
        else:
            problems += try_samples(part, split)
    return problems


def _find(root: Path, options: Options) -> tuple[Path | None, dict[str, Path]]:
    """The folder of the TIFF pairs, or else the HDF5 file per split."""
    if options.form != "hdf":
        base = Cremi.files.find(root, Cremi.splits)
        if base is not None:
            return base, {}
    if options.form != "tif":
        volumes = _volumes(root)
        if volumes:
            return None, volumes
    wanted = {
        "tif": "<split>/A/A_<n>.tif with <split>/B/B_<n>.tif",
        "hdf": f"*.hdf, *.hdf5, *.h5 with {' or '.join(Cremi.splits)} in the name",
    }
    looked = " and ".join(text for form, text in wanted.items() if options.form in ("auto", form))
    places = ", ".join(str(root / start) for start in (*Cremi.files.roots, "hdf"))
    raise DatasetNotFoundError(
        f"no CREMI data at {root}: looked for {looked} in {places}; "
        f"found {contents(root)}. {Cremi.how_to_get}"
    )


def _volumes(root: Path) -> dict[str, Path]:
    """The HDF5 file of each split, by the word in its name.

    Raises:
        CorruptDatasetError: two files for one split.
    """
    found: dict[str, Path] = {}
    for folder in (root / name for name in HDF_FOLDERS):
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in HDF_SUFFIXES:
                continue
            words = re.split(r"[^a-z]+", path.stem.lower())
            for split, names in SPLIT_WORDS.items():
                if any(name in words for name in names):
                    if split in found:
                        raise CorruptDatasetError(
                            f"{path} and {found[split]} both look like split {split!r}; "
                            "keep one of them in the folder"
                        )
                    found[split] = path
    return found
