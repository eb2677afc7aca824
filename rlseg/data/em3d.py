"""Volumes of electron microscopy (or any other) with an id per voxel, in 3-D.

Three kinds of file are read: pairs `<split>/A/A_<k>` and `<split>/B/B_<k>` of TIFF stacks or npy
arrays, slices first, and HDF5 files with image and ids in CREMI's layout or under other names. HDF5
files belong to a split by their folder or a word in their name; any other one is cut along its
first axis.

A volume is one sample, or gives crops at places drawn with a seed, read without the rest of it.
The recipe `zebrafish` brings every volume (the paper's: 512 x 512 x 512) to 96 x 96 x 96 voxels,
picking the nearest ones, as ColorRL does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

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
    raise_first,
    try_samples,
)
from rlseg.data.crops import Crops, check_draws
from rlseg.data.layout import Layout
from rlseg.data.links import link_fault, not_a_file, path_fault
from rlseg.data.memory import InMemory, PackedSample
from rlseg.data.samples import InstanceSample
from rlseg.data.slabs import (
    SPLIT_WORDS,
    Piece,
    SlabOptions,
    check_ranges,
    named_split,
    pieces,
    sound,
    the_file,
)
from rlseg.data.volume_files import IDS, IGNORE_ID, RAW, Sides, Volume, box, measure, read_packed
from rlseg.errors import ConfigError, DatasetNotFoundError, RlsegError

__all__ = ["DATASET", "ZEBRAFISH", "Em3d", "Options", "check", "open_splits"]

ZEBRAFISH: Sides = (96, 96, 96)
"""Sides to which ColorRL brings its volumes of a zebrafish (supplement)."""
HDF_FOLDERS = (".", "hdf")

needs_root = True


@dataclass(frozen=True, kw_only=True)
class Options(SlabOptions):
    """Settings of the volumes."""

    form: Literal["auto", "pairs", "hdf"] = "auto"
    """Which form to read; "auto" takes the pairs where both are there, unless another setting asks
    for HDF5 files."""
    image_key: str = RAW
    """Name of the grey values inside HDF5 files."""
    labels_key: str = IDS
    """Name of the ids inside HDF5 files."""
    ignore_id: int | None = IGNORE_ID
    """Id of voxels without a truth; the default is CREMI's."""
    recipe: Literal["as they are", "zebrafish"] = "as they are"
    """"zebrafish" sets `size` to 96 x 96 x 96."""
    size: tuple[int, int, int] | None = None
    """Slices, rows, columns that volumes or crops are brought to, by the nearest voxel; None = they
    keep their size."""
    crop: tuple[int, int, int] | None = None
    """Slices, rows, columns of crops; None = every volume is one sample."""
    crops: tuple[int, int, int] = (80, 20, 40)
    """Crops to train, validate and test with."""
    min_labelled: float = 0.5
    """A place counts as a crop if at least this share of its voxels belongs to instances."""
    seed: int = 0
    """Seed of the places of the crops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "pairs" and self.of_volumes:
            raise ConfigError(
                "file, slice ranges and names of arrays belong to HDF5 files; leave them out or "
                "set form to hdf"
            )
        for name in ("size", "crop"):
            sides = getattr(self, name)
            if sides is not None and min(sides) < 1:
                raise ConfigError(f"{name} needs sides of at least 1, got {list(sides)}")
        if self.recipe == "zebrafish" and self.size is not None:
            raise ConfigError(
                f"the recipe zebrafish has the size {list(ZEBRAFISH)}, and size is "
                f"{list(self.size)}; leave one of them out"
            )
        check_draws("crops", self.crops, self.min_labelled)

    @property
    def of_volumes(self) -> bool:
        """Whether a setting asks for HDF5 files."""
        return super().of_volumes or (self.image_key, self.labels_key) != (RAW, IDS)

    @property
    def sides(self) -> Sides | None:
        """What samples are brought to; None = they keep their size."""
        return ZEBRAFISH if self.recipe == "zebrafish" else self.size


class Em3d:
    """Volumes with ids as samples [1, D, H, W]."""

    layout: ClassVar[str] = (
        "<split>/A/A_<k>.tif grey stacks and <split>/B/B_<k>.tif stacks of ids, slices first, or "
        "both as .npy, below the root, root/tif or root/npy; or HDF5 files with "
        f"{RAW} and {IDS} (or other names), in <split>/, with a split's word in their names, or "
        "else each cut along its first axis, 80 % train, 10 % valid, 10 % test; these lie in the "
        "root or root/hdf"
    )
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test")
    classes: ClassVar[tuple[str, ...]] = ()
    citation: ClassVar[str] = (
        "that of your volumes; zebrafish recipe: Tuan, Khoa, Quan, Jeong, ColorRL, CVPR 2021"
    )
    how_to_get: ClassVar[str] = (
        "Any labelled volume will do. The 120 zebrafish volumes of the ColorRL paper are not "
        "public; the FIB-25 sample of github.com/janelia-flyem/neuroproof_examples "
        "(training_sample2) is one of the kind."
    )
    terms: ClassVar[str] = "Those of the owner of the volumes."
    files: ClassVar[Layout] = Layout(
        patterns={"image": "{split}/A/A_{id}.{ext}", "labels": "{split}/B/B_{id}.{ext}"},
        roots=(".", "tif", "npy"),
        extensions=("tif", "tiff", "npy"),
    )
    stacks: ClassVar[Layout] = Layout(
        patterns={"image": "{split}/{id}.{ext}"},
        roots=HDF_FOLDERS,
        extensions=tuple(suffix[1:] for suffix in H5_SUFFIXES),
    )

    def __init__(
        self, parts: Sequence[Piece], *, ignore: int | None, size: Sides | None = None
    ) -> None:
        self.pieces, self.ignore, self.size = tuple(parts), ignore, size

    def __len__(self) -> int:
        """Number of volumes."""
        return len(self.pieces)

    def __getitem__(self, index: int) -> InstanceSample:
        """Volume `index`, or its run of slices; voxels with the ignore id are not valid."""
        return self.packed(index).whole()

    def packed(self, index: int) -> PackedSample[InstanceSample]:
        """Volume `index` in the types of its files."""
        if not 0 <= index < len(self):
            raise IndexError(f"volume {index} of {len(self)}")
        piece = self.pieces[index]
        window = box((piece.start, 0, 0), piece.sides)
        sample = read_packed(piece.volume, window, ignore=self.ignore, size=self.size)
        run = "" if piece.whole else f"_{piece.start:04d}-{piece.stop - 1:04d}"
        return replace(sample, name=f"{piece.volume.name}{run}")

    def resolution(self, index: int) -> tuple[float, float, float] | None:
        """Sides of a voxel of sample `index` in the file's unit; None where it states none.

        A volume is isotropic if they are equal; serial sections are thicker than their pixels.
        """
        piece = self.pieces[index]
        stated = measure(piece.volume).resolution
        if stated is None or self.size is None:
            return stated
        z, y, x = (
            side * have / want
            for side, have, want in zip(stated, piece.sides, self.size, strict=True)
        )
        return z, y, x


DATASET = Em3d
"""The class that declares the data set."""


def open_splits(root: Path | None, options: Options) -> Splits:
    """The splits found below `root`.

    Raises:
        ConfigError: slice ranges or crops that the files do not have, or that do not apply.
        DatasetNotFoundError: no volumes; says what was looked for and found.
        CorruptDatasetError: an image without labels or the reverse, or an unreadable header.
    """
    root = existing_root(root, "em3d", Em3d.how_to_get)
    volumes, problems = _find(root, options)
    raise_first(problems)
    parts: dict[str, InstanceDataset] = {}
    seen: dict[str, object] = {}
    for split in Em3d.splits:
        runs = pieces(volumes, split, options)
        part = _part(runs, split, options)
        if part is not None:
            parts[split] = InMemory(part)
            seen[split] = [
                (p.volume.name, p.volume.labels.stat().st_size, p.shape, p.start, p.stop)
                for p in runs
            ]
    return Splits(
        dataset="em3d",
        task="instance",
        ndim=3,
        channels=1,
        parts=parts,
        digest=digest_of("em3d", asdict(options), seen),
    )


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Every problem of every volume or crop: missing partners, unreadable or contradicting files.

    A split that is not there is a note.
    """
    try:
        root = existing_root(root, "em3d", Em3d.how_to_get)
        volumes, problems = _find(root, options)
    except RlsegError as error:
        return [as_problem(error, str(root))]
    volumes, unsound = sound(volumes)
    problems += unsound
    damaged = bool(problems)
    for split in Em3d.splits:
        try:
            part = _part(pieces(volumes, split, options), split, options)
        except RlsegError as error:
            problems.append(Problem(where=f"split {split}", what=str(error)))
            continue
        if part is not None:
            problems += try_samples(part, split, advance)
        elif not damaged:
            what = f"nothing for it below {root}; the other splits can be used"
            problems.append(Problem(where=f"split {split}", what=what, note=True))
    return problems


def _part(runs: Sequence[Piece], split: str, options: Options) -> InstanceDataset | None:
    """The samples of a split; None if it has none."""
    if not runs:
        return None
    if options.crop is None:
        return Em3d(runs, ignore=options.ignore_id, size=options.sides)
    count = dict(zip(Em3d.splits, options.crops, strict=True))[split]
    if not count:
        return None
    return Crops(
        runs,
        count=count,
        sides=options.crop,
        seed=options.seed,
        key=f"em3d {split}",
        min_labelled=options.min_labelled,
        ignore=options.ignore_id,
        size=options.sides,
    )


def _find(root: Path, options: Options) -> tuple[Mapping[str | None, list[Volume]], list[Problem]]:
    """Split -> its volumes (None: to be cut), and files without a partner."""
    if options.file is not None:
        return {None: [_hdf(the_file(root, options.file), options)]}, []
    if options.form != "hdf" and not options.of_volumes:
        found, problems = _pairs(root)
        if found or problems:
            return found, problems
    if options.form != "pairs":
        stacks, problems = _stacks(root, options)
        if stacks or problems:
            check_ranges(stacks, options)
            return stacks, problems
    wanted = {
        "pairs": "<split>/A/A_<k>.tif (or .npy) with <split>/B/B_<k>.tif",
        "hdf": "*.hdf, *.hdf5, *.h5",
    }
    looked = " and ".join(text for form, text in wanted.items() if options.form in ("auto", form))
    places = ", ".join(str(root / start) for start in (*Em3d.files.roots, "hdf"))
    raise DatasetNotFoundError(
        f"no volumes at {root}: looked for {looked} in {places}; found {contents(root)}. "
        f"{Em3d.how_to_get}"
    )


def _pairs(root: Path) -> tuple[dict[str | None, list[Volume]], list[Problem]]:
    found: dict[str | None, list[Volume]] = {}
    problems: list[Problem] = []
    words = tuple(word for names in SPLIT_WORDS.values() for word in names)
    base = Em3d.files.find(root, words)
    for split, names in SPLIT_WORDS.items() if base is not None else ():
        for word in names:
            records, missing = Em3d.files.survey(base or root, word, root)
            problems += missing
            found.setdefault(split, []).extend(
                Volume(name=record.name, image=record.files["image"], labels=record.files["labels"])
                for record in records
            )
    return {split: volumes for split, volumes in found.items() if volumes}, problems


def _stacks(root: Path, options: Options) -> tuple[dict[str | None, list[Volume]], list[Problem]]:
    """HDF5 files by folder, or else by name; None = to be cut."""
    found: dict[str | None, list[Volume]] = {}
    problems: list[Problem] = []
    for start in HDF_FOLDERS:
        for split, names in SPLIT_WORDS.items():
            for word in names:
                records, twins = Em3d.stacks.survey(root / start, word, root)
                problems += twins
                found.setdefault(split, []).extend(
                    _hdf(record.files["image"], options) for record in records
                )
        folder = root / start
        linked = path_fault(folder, root) is not None  # a problem that the survey has named
        for path in sorted(folder.iterdir()) if folder.is_dir() and not linked else ():
            if path.suffix.lower() not in H5_SUFFIXES:
                continue
            fault = link_fault(path, root) or not_a_file(path)
            if fault is not None:
                problems.append(Problem(where=str(path), what=fault))
            else:
                volume = _hdf(path, options)
                splits = named_split(path.stem)
                for split in splits:
                    found.setdefault(split, []).append(volume)
                if not splits:
                    found.setdefault(None, []).append(volume)
    found = {split: volumes for split, volumes in found.items() if volumes}
    if len(found) > 1:
        what = "no word for a split in its name, though other files have one: rename or remove it"
        problems += [Problem(where=str(v.image), what=what) for v in found.pop(None, [])]
    return found, problems


def _hdf(path: Path, options: Options) -> Volume:
    return Volume(
        name=path.stem,
        image=path,
        labels=path,
        image_key=options.image_key,
        labels_key=options.labels_key,
    )
