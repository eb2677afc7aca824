"""CREMI: slices of a fly brain in electron microscopy, with a neuron id per pixel.

Two forms are read: TIFF pairs `<split>/A/A_<n>.tif` and `<split>/B/B_<n>.tif` (the packaging of the
ColorRL authors, "Cre-256" and its sisters), and HDF5 files in CREMI's own layout, `volumes/raw` and
`volumes/labels/neuron_ids`: one per split, if their names say so, else the files of the challenge
(`sample_A_20160501.hdf`), each cut into runs of neighbouring slices. Of padded volumes, whose
labels cover a part of the image (attribute `offset`), that part is read.

HDF5 files give whole slices, or patches by the recipes Cre-160, Cre-256 and Cre-448. The authors
cut theirs from sample A and published the places of none; here they are drawn with a seed, each
split from slices of its own, and a place counts if enough of it belongs to neurons. Patches keep
their size: the network's 224 pixels come by the scale 1.4, 0.875 or 0.5 of a method's settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from rlseg.data.arrays import H5_SUFFIXES
from rlseg.data.base import (
    Advance,
    InstanceDataset,
    Problem,
    Splits,
    as_problem,
    contents,
    digest_of,
    existing_root,
    try_samples,
)
from rlseg.data.crops import Crops, Slices, check_draws
from rlseg.data.images import check_same_size, read_levels, read_narrow_labels
from rlseg.data.layout import Layout, Record
from rlseg.data.links import inside
from rlseg.data.memory import InMemory, PackedSample
from rlseg.data.samples import InstanceSample
from rlseg.data.slabs import (
    Piece,
    SlabOptions,
    check_ranges,
    named_split,
    one_per_split,
    pieces,
    sound,
    the_file,
)
from rlseg.data.volume_files import IDS, IGNORE_ID, RAW, Volume
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError, RlsegError

__all__ = ["DATASET", "RECIPES", "Cremi", "Options", "check", "open_splits"]

HDF_FOLDERS = (".", "hdf")
RECIPES = {"Cre-160": 160, "Cre-256": 256, "Cre-448": 448}
"""Name of a recipe -> side of its patches."""

needs_root = True


@dataclass(frozen=True, kw_only=True)
class Options(SlabOptions):
    """Settings of the CREMI slices."""

    form: Literal["auto", "tif", "hdf"] = "auto"
    """Which form to read; "auto" takes the TIFF pairs where both are there, unless another setting
    asks for HDF5 files."""
    recipe: Literal["slices", "Cre-160", "Cre-256", "Cre-448"] = "slices"
    """Whole slices, or square patches of that side from HDF5 files."""
    patches: tuple[int, int, int] = (103, 20, 25)
    """Patches to train, validate and test with; the default: numbers of the authors' code."""
    min_labelled: float = 0.5
    """A place counts as a patch if at least this share of it belongs to neurons."""
    seed: int = 0
    """Seed of the places of the patches."""

    def __post_init__(self) -> None:
        if self.form == "tif" and self.of_volumes:
            raise ConfigError(
                "file, slice ranges and patch recipes belong to HDF5 files; leave them out or set "
                "form to hdf"
            )
        super().__post_init__()
        check_draws("patches", self.patches, self.min_labelled)

    @property
    def of_volumes(self) -> bool:
        """Whether a setting asks for HDF5 files."""
        return super().of_volumes or self.recipe != "slices"


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
        return self.packed(index).whole()

    def packed(self, index: int) -> PackedSample[InstanceSample]:
        """Slice `index` in the types of its files."""
        record = self.records[index]
        image_path, labels_path = record.files["image"], record.files["labels"]
        image, scale = read_levels(image_path, channels=1)
        labels, valid = _read_slice_labels(labels_path)
        check_same_size(image, labels, str(image_path), str(labels_path))
        return PackedSample(
            image=image, scale=scale, labels=labels, valid=valid, name=record.name, semantic=False
        )

    def readers(self, index: int) -> dict[str, Callable[[], object]]:
        """Path of slice `index` and of its labels -> what reads it alone."""
        image_path, labels_path = (self.records[index].files[role] for role in ("image", "labels"))
        return {
            str(image_path): lambda: read_levels(image_path, channels=1),
            str(labels_path): lambda: _read_slice_labels(labels_path),
        }


def _read_slice_labels(path: Path) -> tuple[Tensor, Tensor | None]:
    """Labels uint8 or int32 [H, W] and known pixels bool [H, W], None = all.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, or several pages.
    """
    labels, valid = read_narrow_labels(path)
    if labels.ndim != 2:
        raise CorruptDatasetError(f"{path}: {labels.shape[0]} pages; slices have one page per file")
    return labels, valid


DATASET = Cremi
"""The class that declares the data set."""


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
            records = Cremi.files.records(base, split, root)
            if records:
                parts[split] = Cremi(records)
                seen[split] = [
                    (r.name, [p.stat().st_size for p in r.files.values()]) for r in records
                ]
        else:
            runs = pieces(volumes, split, options)
            part = _of_volumes(runs, split, options)
            if part is not None:
                parts[split] = part
                seen[split] = [(p.volume.labels.name, p.shape, p.start, p.stop) for p in runs]
                seen |= _drawn(options)
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
        return [as_problem(error, str(root))]
    problems: list[Problem] = []
    if base is None:
        volumes, problems = sound(volumes)
    damaged = bool(problems)
    for split in Cremi.splits:
        part: InstanceDataset | None = None
        if base is not None:
            records, missing = Cremi.files.survey(base, split, root)
            problems += missing
            part = Cremi(records) if records else None
            damaged = bool(missing)
        else:
            try:
                part = _of_volumes(pieces(volumes, split, options), split, options)
            except RlsegError as error:
                problems.append(Problem(where=f"split {split}", what=str(error)))
                continue
        if part is not None:
            problems += try_samples(part, split, advance)
        elif not damaged:
            what = f"nothing for it below {root}; the other splits can be used"
            problems.append(Problem(where=f"split {split}", what=what, note=True))
    return problems


def _of_volumes(runs: Sequence[Piece], split: str, options: Options) -> InstanceDataset | None:
    """Slices or patches of a split; None if it has none."""
    if options.recipe == "slices":
        return Slices(runs, IGNORE_ID) if runs else None
    count = dict(zip(Cremi.splits, options.patches, strict=True))[split]
    if not count or not runs:
        return None
    side = RECIPES[options.recipe]
    return Crops(
        runs,
        count=count,
        sides=(1, side, side),
        seed=options.seed,
        key=f"cremi {split}",
        min_labelled=options.min_labelled,
        ignore=IGNORE_ID,
        picture=True,
    )


def _drawn(options: Options) -> dict[str, object]:
    """What the patches hang on besides the files."""
    if options.recipe == "slices":
        return {}
    names = ("recipe", "patches", "min_labelled", "seed")
    return {"options": [getattr(options, name) for name in names]}


def _find(root: Path, options: Options) -> tuple[Path | None, Mapping[str | None, list[Volume]]]:
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


def _volumes(root: Path, options: Options) -> Mapping[str | None, list[Volume]]:
    """The HDF5 file of each split, by the word in its name; else all of them under None.

    Raises:
        ConfigError: slice ranges, but files that are whole splits.
        CorruptDatasetError: two files for one split.
        DatasetNotFoundError: the file named in the options is not there.
    """
    if options.file is not None:
        return {None: [_volume(the_file(root, options.file))]}
    found: dict[str | None, list[Volume]] = {}
    others: list[Volume] = []
    for folder in (inside(root / name, root) for name in HDF_FOLDERS):
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in H5_SUFFIXES:
                continue
            inside(path, root)
            splits = named_split(path.stem)
            others += [] if splits else [_volume(path)]
            for split in splits:
                found.setdefault(split, []).append(_volume(path))
    one_per_split(found)
    check_ranges(found, options)
    return found or ({None: others} if others else {})


def _volume(path: Path) -> Volume:
    return Volume(name=path.stem, image=path, labels=path)
