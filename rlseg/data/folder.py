"""A user's own data: folders `images` and `labels` with files of the same names, or pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import measure
from torch import Tensor

from rlseg.data.arrays import H5_SUFFIXES, h5_dataset, lone_h5_name, opened_h5, read_h5, read_npy
from rlseg.data.base import (
    Advance,
    Problem,
    Splits,
    as_problem,
    check_fractions,
    digest_of,
    existing_root,
    raise_first,
    try_samples,
    warn,
)
from rlseg.data.folder_layout import survey_folder
from rlseg.data.images import check_same_size, read_image, read_label_array
from rlseg.data.labels import from_array
from rlseg.data.layout import Record
from rlseg.data.levels import scale_to_unit
from rlseg.data.memory import InMemory
from rlseg.data.samples import InstanceSample
from rlseg.errors import ConfigError, CorruptDatasetError, RlsegError

LOSSY_SUFFIXES = (".jpg", ".jpeg")
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts colour to grey

needs_root = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of a folder of images and labels."""

    ndim: Literal["auto", 2, 3] = "auto"
    """Space axes; "auto" takes those of the first label file."""
    channels: Literal["auto", 1, 3] = "auto"
    """Image channels; "auto" takes those of the first image and refuses others, a number converts:
    grey is repeated, colour becomes luminance."""
    image_folder: str = "images"
    """Name of the folders of images."""
    label_folder: str = "labels"
    """Name of the folders of label maps."""
    image_suffix: str = ""
    """What follows the common name in image file names, for example "_rgb"."""
    label_suffix: str = ""
    """What follows the common name in label file names, for example "_mask"; where they lie beside
    their images and nothing is given: "_label"."""
    image_key: str = ""
    """Name of the image array in HDF5 files; empty = the only array in the file."""
    label_key: str = ""
    """Name of the label array in HDF5 files; empty = the only array in the file."""
    ignore_id: int | None = None
    """Label id of pixels without a truth."""
    components: Literal["no", "sides", "corners"] = "no"
    """For labels that only tell what is inside: every connected piece of one value becomes an
    instance. "sides": pixels are joined by their sides (4 neighbours, 6 in volumes), "corners": by
    their corners too (8 and 26)."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of train, valid and test where the data have no such folders."""
    seed: int = 0
    """Seed of that split."""

    def __post_init__(self) -> None:
        for name in ("image_folder", "label_folder"):
            value = getattr(self, name)
            if not value or set(value) & set("/\\{}") or value in (".", ".."):
                raise ConfigError(f"{name} must be the name of one folder, got {value!r}")
        if self.image_folder == self.label_folder:
            raise ConfigError(
                f"image_folder and label_folder are both {self.image_folder!r}; files of one folder"
                " cannot be both"
            )
        check_fractions(self.fractions)


class Folder:
    """Pairs of an image and a label map, 2-D or 3-D, read from files of the user's own."""

    layout: ClassVar[str] = (
        "images/<name>.<ext> and labels/<name>.<ext>, in the root, below <split>/, or with "
        "images/<split>/ and labels/<split>/; <split> = train, val (or valid), test; <ext> = png, "
        "tif, bmp, npy, h5, and jpg for images; several TIFF pages are a volume; other names of "
        "the two folders are options; or <name>.<ext> and <name>_label.<ext> beside each other, in "
        "the root or in <split>/"
    )
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test")
    classes: ClassVar[tuple[str, ...]] = ()
    citation: ClassVar[str] = "your own data"
    how_to_get: ClassVar[str] = (
        "Put images into a folder `images` and label maps (0 = background, one number per "
        "instance) of the same file names into a folder `labels` beside it."
    )
    terms: ClassVar[str] = "Those of the owner of the images."

    def __init__(self, records: list[Record], ndim: int, channels: int, options: Options) -> None:
        self.records, self.ndim, self.channels, self.options = records, ndim, channels, options

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.records)

    def __getitem__(self, index: int) -> InstanceSample:
        """Pair `index`, read from its two files."""
        record, options = self.records[index], self.options
        image_path, labels_path = record.files["image"], record.files["labels"]
        labels, valid = self._labels(labels_path)
        image = read_picture(image_path, self.ndim, options)
        check_same_size(image, labels, str(image_path), str(labels_path))
        if image.shape[0] != self.channels:
            raise CorruptDatasetError(
                f"{image_path}: {image.shape[0]} channels, the first image has {self.channels}; "
                "set the data set option channels to 1 or 3 to convert"
            )
        return InstanceSample(image=image, labels=labels, valid=valid, name=record.name)

    def readers(self, index: int) -> dict[str, Callable[[], object]]:
        """Path of image `index` and of its labels -> what reads it alone."""
        image_path, labels_path = (self.records[index].files[role] for role in ("image", "labels"))
        return {
            str(image_path): lambda: read_picture(image_path, self.ndim, self.options),
            str(labels_path): lambda: self._labels(labels_path),
        }

    def _labels(self, path: Path) -> tuple[Tensor, Tensor]:
        """Labels int64 [*S] and known pixels bool [*S] of a label file."""
        ids = read_ids(path, self.options)
        if ids.ndim != self.ndim:
            raise CorruptDatasetError(
                f"{path}: labels have {ids.ndim} axes, expected {self.ndim}; one data set "
                "holds pictures or volumes, not both"
            )
        labels, valid = from_array(ids, str(path), self.options.ignore_id)
        if self.options.components != "no":
            reach = 1 if self.options.components == "sides" else labels.ndim
            pieces = measure.label(labels.numpy(), background=0, connectivity=reach)
            labels = torch.from_numpy(pieces.astype(np.int64))
        return labels, valid


DATASET = Folder


def open_splits(root: Path | None, options: Options) -> Splits:
    """The splits below `root`: by folders, or drawn by `fractions` and `seed` where there are none.

    Raises:
        DatasetNotFoundError: no images; says what was looked for and found.
        CorruptDatasetError: an image without labels or the reverse, an unreadable first pair.
    """
    root = existing_root(root, "folder", Folder.how_to_get)
    found, problems = survey_folder(root, options, Folder.how_to_get)
    raise_first(problems)
    warn(problems, "folder")
    ndim, channels = _kind(next(iter(found.values()))[0], options)
    return Splits(
        dataset="folder",
        task="instance",
        ndim=ndim,
        channels=channels,
        parts={
            split: InMemory(Folder(records, ndim, channels, options))
            for split, records in found.items()
        },
        digest=digest_of(
            "folder",
            asdict(options),
            {
                split: [(r.name, [p.stat().st_size for p in r.files.values()]) for r in records]
                for split, records in found.items()
            },
        ),
    )


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Every problem of every pair: missing partners, unreadable or contradicting files."""
    try:
        root = existing_root(root, "folder", Folder.how_to_get)
        found, problems = survey_folder(root, options, Folder.how_to_get)
    except RlsegError as error:
        return [as_problem(error, str(root))]
    kind: tuple[int, int] | None = None
    for split, records in found.items():
        for record in records if kind is None else ():
            try:
                kind = _kind(record, options)
                break
            except RlsegError:
                continue  # reported below, when the pair is read again as a sample
        ndim, channels = kind or (2, 1)
        problems += try_samples(Folder(records, ndim, channels, options), split, advance)
    return problems


def _kind(record: Record, options: Options) -> tuple[int, int]:
    """Space axes and channels, by the options or by one pair."""
    ndim: int = (
        options.ndim if options.ndim != "auto" else (read_ids(record.files["labels"], options).ndim)
    )
    if ndim not in (2, 3):
        raise CorruptDatasetError(
            f"{record.files['labels']}: labels with {ndim} axes; expected 2 (picture) or 3 (volume)"
        )
    if options.channels != "auto":
        return ndim, options.channels
    return ndim, read_picture(record.files["image"], ndim, options).shape[0]


def read_ids(path: Path, options: Options) -> NDArray[Any]:
    """The ids of a label file as it holds them; any axes, any type.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, damaged, too large, or JPEG.
    """
    suffix = path.suffix.lower()
    if suffix in LOSSY_SUFFIXES:
        raise CorruptDatasetError(f"{path}: JPEG alters label ids; store labels as PNG or TIFF")
    if suffix == ".npy":
        return read_npy(path)
    if suffix in H5_SUFFIXES:
        return _read_h5(path, options.label_key)
    return np.asarray(read_label_array(path))


def read_picture(path: Path, ndim: int, options: Options) -> Tensor:
    """float32 [C, *S] in [0, 1] of an image file; arrays carry channels last.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, damaged, too large, or of other axes than `ndim`.
    """
    wanted = None if options.channels == "auto" else options.channels
    suffix = path.suffix.lower()
    if suffix != ".npy" and suffix not in H5_SUFFIXES:
        image = read_image(path, channels=wanted)
    else:
        array = read_npy(path) if suffix == ".npy" else _read_h5(path, options.image_key)
        if array.ndim == ndim:
            array = array[..., None]
        if array.ndim != ndim + 1 or array.shape[-1] not in (1, 3):
            raise CorruptDatasetError(
                f"{path}: array of shape {list(array.shape)}; expected {ndim} axes, or {ndim + 1} "
                "with 1 or 3 channels last"
            )
        array = scale_to_unit(array, str(path))
        image = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 0)))
        image = _to_channels(image, wanted)
    if image.ndim != ndim + 1:
        raise CorruptDatasetError(
            f"{path}: {image.ndim - 1} space axes where {ndim} are expected; several TIFF pages "
            "are a volume, and its labels need as many pages"
        )
    return image


def _to_channels(image: Tensor, wanted: int | None) -> Tensor:
    if wanted is None or image.shape[0] == wanted:
        return image
    if image.shape[0] == 1:
        return image.expand(wanted, *image.shape[1:]).clone()
    weights = torch.tensor(LUMINANCE).view(-1, *(1,) * (image.ndim - 1))
    return (image * weights).sum(dim=0, keepdim=True)


def _read_h5(path: Path, key: str) -> NDArray[Any]:
    with opened_h5(path) as file:
        name = key or lone_h5_name(file, path)
        return read_h5(h5_dataset(file, name, path), f"{path}: {name}")
