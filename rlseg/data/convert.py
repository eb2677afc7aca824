"""Label maps, COCO files and the layout of CVPPP, made from one another without loss of ids."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rlseg.data.convert_sources import Item, Overlaps, Source, open_source
from rlseg.data.convert_targets import CocoTarget, CvpppTarget, FolderTarget, Target, Wanted
from rlseg.errors import ConfigError, RlsegError

__all__ = ["FORMATS", "Conversion", "convert"]

FORMATS = ("folder", "coco", "cvppp")
"""What can be read and written."""

DIVIDING = ("fractions", "seed", "division")
"""Options of data sets that mean nothing here."""

Progress = Callable[[int, int], None]
"""Told how many images are done, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was converted."""

    images: int
    instances: int
    notes: tuple[str, ...]
    """What was left behind or decided, in sentences."""


def convert(
    source: Path,
    target: Path,
    *,
    source_format: str,
    target_format: str,
    settings: Mapping[str, object] | None = None,
    overlaps: Overlaps = "refuse",
    ignore_id: int | None = None,
    renumber: bool = False,
    category: str | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Writes a data set anew in another format.

    Ids of instances stay as they are; COCO keeps them under a key of ours, `label_id`, and files
    of other programs, which lack it, get 1..N in their order. Image files are copied where the
    target takes their kind and become PNG elsewhere, without loss. Everything is written beside the
    target first and moved there when it is complete.

    Args:
        source: folder of the data set to read.
        target: folder to write; absent or empty.
        source_format: folder, coco or cvppp.
        target_format: another one of these.
        settings: options of the data set that is read.
        overlaps: what happens to COCO masks that overlap: "refuse" them, or the "later" one of the
            file takes the pixels.
        ignore_id: id of pixels without a truth in the label maps of a folder (crowd regions of
            COCO); one of the two formats must be folder.
        renumber: number the instances of each image 1..N in ascending order of their ids.
        category: name of the category in a COCO file that is written; None = "instance".
        progress: told after each image.

    Raises:
        ConfigError: options that do not fit, a target that is not empty or lies in the source,
            volumes, or ids, images or unknown pixels that the target cannot hold.
        DatasetNotFoundError: no data at the source.
        CorruptDatasetError: damaged or contradicting files.
    """
    _check_formats(source_format, target_format)
    if ignore_id is not None and "folder" not in (source_format, target_format):
        raise ConfigError("ignore_id is for label maps of a folder; leave it out")
    if ignore_id is not None and not 0 < ignore_id < 2**64:
        raise ConfigError(f"ignore_id must be an id from 1 to 2^64 - 1, got {ignore_id}")
    if overlaps == "later" and source_format != "coco":
        raise ConfigError(f"label maps of {source_format} have no overlaps; leave that option out")
    if category is not None and (target_format != "coco" or not category):
        raise ConfigError("category is the name of the category in a COCO file; leave it out")
    _check_target(target, source)
    options = _options(settings or {}, source_format, ignore_id)
    opened = open_source(source, source_format, options, overlaps)
    wanted = Wanted(ignore_id=ignore_id, category=category or "instance")

    def write(root: Path) -> int:
        return _written(opened, root, target_format, wanted, renumber, progress)

    instances = _placed(write, Path(os.path.abspath(target)))
    return Conversion(images=len(opened.names), instances=instances, notes=tuple(opened.notes))


def _options(
    settings: Mapping[str, object], source_format: str, ignore_id: int | None
) -> dict[str, object]:
    """Options of the data set that is read."""
    dividing = [name for name in DIVIDING if name in settings]
    if dividing:
        raise ConfigError(f"{dividing[0]} divides a data set, conversion does not; leave it out")
    if ignore_id is None or source_format != "folder":
        return dict(settings)
    if "ignore_id" in settings:
        raise ConfigError("ignore_id is given twice; leave one of them out")
    return {**settings, "ignore_id": ignore_id}


def _placed(write: Callable[[Path], int], target: Path) -> int:
    """What `write` returns, after it has filled a new folder, which then becomes the target."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        number = write(temporary)
        if target.is_dir():
            target.rmdir()
        temporary.rename(target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, RlsegError):
            place = error.filename or target
            raise ConfigError(f"{place}: cannot be written: {error.strerror}") from error
        raise
    return number


def _check_formats(source: str, target: str) -> None:
    for name in (source, target):
        if name not in FORMATS:
            raise ConfigError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")
    if source == target:
        raise ConfigError(f"both formats are {source}; copy the folder, or name another format")


def _check_target(target: Path, source: Path) -> None:
    if target.is_dir():
        if any(target.iterdir()):
            raise ConfigError(f"{target} is not empty; name a new folder")
    elif target.exists() or target.is_symlink():
        raise ConfigError(f"{target} is not a folder; name a new one")
    if target.resolve().is_relative_to(source.resolve()):
        raise ConfigError(
            f"{target} lies inside {source}, which is only read; name a folder outside of it"
        )


def _written(
    source: Source,
    root: Path,
    form: str,
    wanted: Wanted,
    renumber: bool,
    progress: Progress | None,
) -> int:
    """Writes all items; the number of instances."""
    names = source.names
    target: Target
    if form == "folder":
        target = FolderTarget(root, names, wanted)
    elif form == "coco":
        target = CocoTarget(root, names, wanted)
    else:
        target = CvpppTarget(root, names)
    instances = 0
    for done, found in enumerate(source.items, start=1):
        item = _renumbered(found) if renumber else found
        target.add(item)
        present = np.unique(item.ids)
        instances += int((present > 0).sum())
        if progress is not None:
            progress(done, len(names))
    target.finish()
    return instances


def _renumbered(item: Item) -> Item:
    present, index = np.unique(item.ids, return_inverse=True)
    shift = 0 if len(present) and int(present[0]) == 0 else 1
    number = {int(old): new for new, old in enumerate(present.tolist(), start=shift)}
    return replace(
        item,
        ids=(index.reshape(item.ids.shape) + shift).astype(np.uint64),
        origins={number[old]: origin for old, origin in item.origins.items()},
    )
