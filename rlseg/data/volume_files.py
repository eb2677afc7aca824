"""Volumes in HDF5, npy and TIFF files: shapes from headers, windows read without the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
import torch

from rlseg.data.arrays import (
    MAX_ARRAY_BYTES,
    Array,
    Window,
    h5_dataset,
    npy_shape,
    opened_h5,
    read_h5,
    read_npy,
    window_shape,
)
from rlseg.data.images import read_label_array, read_levels, stack_shape
from rlseg.data.labels import narrow_from_array
from rlseg.data.levels import scale_to_unit, stored_levels
from rlseg.data.memory import PackedSample
from rlseg.data.samples import InstanceSample
from rlseg.errors import CorruptDatasetError

__all__ = [
    "IDS",
    "IGNORE_ID",
    "RAW",
    "Extent",
    "Sides",
    "Volume",
    "box",
    "measure",
    "read_packed",
    "read_volume",
]

IGNORE_ID = (1 << 64) - 1
"""CREMI's id for voxels without a truth."""
RAW = "volumes/raw"
"""CREMI's name of the image inside HDF5 files."""
IDS = "volumes/labels/neuron_ids"
"""CREMI's name of the ids."""
SAMPLE_BYTES = 13  # per voxel: float32 image, int64 labels, bool valid
SLAB_VOXELS = 1 << 24  # read at once while a volume is made smaller
WHOLE_VOXELS = 1e-3  # an offset may miss a voxel's corner by this share of a voxel

Sides = tuple[int, int, int]
"""Slices, rows, columns."""


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Where the grey values and the ids of one volume are."""

    name: str
    image: Path
    labels: Path
    """The same file as `image`, or another one."""
    image_key: str = RAW
    """Name of the array inside an HDF5 file."""
    labels_key: str = IDS
    """Likewise."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The labelled box of a volume."""

    shape: Sides
    """Slices, rows, columns of the labels."""
    origin: Sides
    """Where they begin in the image, which may be larger."""
    resolution: tuple[float, float, float] | None
    """Sides of a voxel as the file states them (CREMI: nanometres); None = not stated."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One array of a volume, by its header."""

    where: str
    shape: tuple[int, ...]
    resolution: tuple[float, ...] | None = None
    offset: tuple[float, ...] | None = None


def measure(volume: Volume) -> Extent:
    """Shape and place of the labels, from headers alone.

    CREMI's padded volumes have labels smaller than the image; the attributes `offset` and
    `resolution` of both arrays tell where they lie in it. What has no labels is left out.

    Raises:
        DatasetNotFoundError: a file is missing.
        CorruptDatasetError: an array is missing or has other than three axes; shapes differ and
            no offset says how they fit; the labels do not lie inside the image.
    """
    files = [volume.image, volume.labels]
    stamps = tuple((path.stat().st_mtime_ns if path.exists() else 0) for path in files)
    return _measured(volume, stamps)


@lru_cache(maxsize=4096)
def _measured(volume: Volume, stamps: tuple[int, ...]) -> Extent:
    image = _part(volume.image, volume.image_key)
    labels = _part(volume.labels, volume.labels_key)
    shapes = (
        f"{image.where} has shape {list(image.shape)}, {labels.where} {list(labels.shape)}; both "
        "must be [slices, rows, columns]"
    )
    if len(image.shape) != 3 or len(labels.shape) != 3 or 0 in labels.shape:
        raise CorruptDatasetError(f"{volume.labels}: {shapes} and not empty: name another file")
    if image.shape != labels.shape and labels.offset is None:
        raise CorruptDatasetError(
            f"{volume.labels}: {shapes} and equal, or the labels need an attribute offset: name "
            "another file (data set option file), or remove this one"
        )
    origin = _origin(image, labels)
    inside = all(
        first >= 0 and first + side <= whole
        for first, side, whole in zip(origin, labels.shape, image.shape, strict=True)
    )
    if not inside:
        raise CorruptDatasetError(
            f"{labels.where}: the labels of shape {list(labels.shape)} begin at voxel "
            f"{list(origin)} and do not lie inside the image of shape {list(image.shape)}; correct "
            "the attributes offset and resolution"
        )
    resolution = labels.resolution or image.resolution
    return Extent(
        shape=_sides(labels.shape),
        origin=origin,
        resolution=None if resolution is None else (resolution[0], resolution[1], resolution[2]),
    )


def read_volume(
    volume: Volume,
    window: Window | None = None,
    *,
    ignore: int | None = IGNORE_ID,
    size: Sides | None = None,
) -> InstanceSample:
    """A volume or a window of it, perhaps at another size, as `read_packed` keeps it.

    Returns:
        image float32 [1, D, H, W] in [0, 1], labels int64 [D, H, W] numbered 1..N, valid bool.
    """
    return read_packed(volume, window, ignore=ignore, size=size).whole()


def read_packed(
    volume: Volume,
    window: Window | None = None,
    *,
    ignore: int | None = IGNORE_ID,
    size: Sides | None = None,
) -> PackedSample[InstanceSample]:
    """A volume or a window of it, perhaps at another size, in the types of its files.

    Only the window is read. For another size it is read in slabs and picked from as it goes, so
    that the large array never lies in memory: the voxel at the nearest centre, as
    `transforms.resize_nearest`, for image and labels alike (the ColorRL authors' code).

    Args:
        volume: its files.
        window: slices, rows, columns of the labels; None = all.
        ignore: id of voxels without a truth.
        size: sides of the result; None = those of the window.

    Returns:
        image [1, D, H, W], labels [D, H, W] numbered 1..N, valid bool or None.

    Raises:
        DatasetNotFoundError: a file is missing.
        CorruptDatasetError: as `measure`; unusable values; a result of more than
            `MAX_ARRAY_BYTES`.
    """
    extent = measure(volume)
    whole = box((0, 0, 0), extent.shape) if window is None else window
    sides = _sides(window_shape(whole, extent.shape))
    wanted = sides if size is None else size
    if math.prod(wanted) * SAMPLE_BYTES > MAX_ARRAY_BYTES:
        raise CorruptDatasetError(
            f"{volume.labels}: a sample of shape {list(wanted)} takes "
            f"{math.prod(wanted) * SAMPLE_BYTES} bytes, the limit is {MAX_ARRAY_BYTES}: cut crops "
            "or lower the size (data set options crop and size)"
        )
    if sides == wanted:
        image, scale, ids = _arrays(volume, extent, whole)
    else:
        image, scale, ids = _thinned(volume, extent, whole, wanted)
    labels, valid = narrow_from_array(ids, f"{volume.labels}: ids", ignore)
    return PackedSample(
        image=torch.from_numpy(np.ascontiguousarray(image))[None],
        scale=scale,
        labels=labels,
        valid=valid,
        name=volume.name,
        semantic=False,
    )


def labelled_share(volume: Volume, window: Window, ignore: int | None = IGNORE_ID) -> float:
    """Share of voxels of a window that belong to an instance."""
    ids = _ids(volume.labels, volume.labels_key, window)
    named = ids != 0
    if ignore is not None and ids.dtype.kind in "ui" and ignore <= int(np.iinfo(ids.dtype).max):
        named &= ids != ignore
    return float(named.mean())


def box(start: Sides, sides: Sides) -> Window:
    """The window that begins somewhere and has these sides."""
    return tuple(slice(a, a + n) for a, n in zip(start, sides, strict=True))


def _arrays(volume: Volume, extent: Extent, window: Window) -> tuple[Array, int, Array]:
    """Levels, what they are divided by, and ids as the file holds them, [d, h, w]."""
    moved = tuple(
        slice(part.start + first, part.stop + first)
        for part, first in zip(window, extent.origin, strict=True)
    )
    image, scale = _image(volume.image, volume.image_key, moved)
    return image, scale, _ids(volume.labels, volume.labels_key, window)


def _thinned(
    volume: Volume, extent: Extent, window: Window, size: Sides
) -> tuple[Array, int, Array]:
    """What `_arrays` gives, picked to another size slab by slab."""
    sides = window_shape(window, extent.shape)
    picks = [
        ((2 * np.arange(new) + 1) * old) // (2 * new) for new, old in zip(size, sides, strict=True)
    ]
    deep = max(1, SLAB_VOXELS // (sides[1] * sides[2]))
    images: list[Array] = []
    scales: list[int] = []
    ids: list[Array] = []
    first = window[0].start
    for top in range(0, sides[0], deep):
        planes = picks[0][(picks[0] >= top) & (picks[0] < top + deep)]
        if not len(planes):
            continue
        slab = slice(first + int(planes[0]), first + int(planes[-1]) + 1)
        image, scale, names = _arrays(volume, extent, (slab, *window[1:]))
        chosen = np.ix_(planes - planes[0], picks[1], picks[2])
        images.append(image[chosen])
        scales.append(scale)
        ids.append(names[chosen])
    if len(set(scales)) > 1:  # pages of several types
        where = str(volume.image)
        images = [scale_to_unit(image, where) for image in images]
        scales = [0]
    return np.concatenate(images), scales[0], np.concatenate(ids)


def _image(path: Path, key: str, window: Window) -> tuple[Array, int]:
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        frames = range(window[0].start, window[0].stop)
        planes, scale = read_levels(path, channels=1, frames=frames)
        return np.ascontiguousarray(planes[0].numpy()[(slice(None), *window[1:])]), scale
    return stored_levels(_values(path, key, window), f"{path}: image")


def _ids(path: Path, key: str, window: Window) -> Array:
    if path.suffix.lower() in (".tif", ".tiff"):
        frames = range(window[0].start, window[0].stop)
        return np.asarray(read_label_array(path, frames=frames)[(slice(None), *window[1:])])
    return _values(path, key, window)


def _values(path: Path, key: str, window: Window) -> Array:
    if path.suffix.lower() == ".npy":
        return read_npy(path, window=window)
    with opened_h5(path) as file:
        return read_h5(h5_dataset(file, key, path), f"{path}: {key}", window)


def _part(path: Path, key: str) -> _Part:
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        return _Part(where=str(path), shape=stack_shape(path))
    if suffix == ".npy":
        return _Part(where=str(path), shape=npy_shape(path))
    with opened_h5(path) as file:
        found = h5_dataset(file, key, path)
        resolution = _attribute(found, "resolution", f"{path}: {key}")
        if resolution is not None and min(resolution) <= 0:
            raise CorruptDatasetError(
                f"{path}: {key}: attribute resolution is {list(resolution)}; expected three "
                "numbers above 0: correct it"
            )
        return _Part(
            where=key,
            shape=tuple(found.shape),
            resolution=resolution,
            offset=_attribute(found, "offset", f"{path}: {key}"),
        )


def _attribute(found: h5py.Dataset, name: str, where: str) -> tuple[float, ...] | None:
    if name not in found.attrs:
        return None
    try:
        values = np.asarray(found.attrs[name], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CorruptDatasetError(
            f"{where}: attribute {name} holds no numbers ({error}); correct it"
        ) from error
    if values.shape != (3,) or not np.isfinite(values).all():
        raise CorruptDatasetError(
            f"{where}: attribute {name} is {values.tolist()}; expected three finite numbers (z, y, "
            "x): correct it"
        )
    return tuple(float(value) for value in values)


def _origin(image: _Part, labels: _Part) -> Sides:
    """First voxel of the labels in the image, by the offsets of both."""
    zero = (0.0, 0.0, 0.0)
    pairs = zip(labels.offset or zero, image.offset or zero, strict=True)
    moved = [theirs - ours for theirs, ours in pairs]
    if not any(moved):
        return (0, 0, 0)
    resolution = labels.resolution or image.resolution
    if resolution is None:
        raise CorruptDatasetError(
            f"{labels.where}: an attribute offset but no resolution, so that it cannot be told in "
            "voxels; add it"
        )
    voxels = [way / side for way, side in zip(moved, resolution, strict=True)]
    if any(abs(v - round(v)) > WHOLE_VOXELS for v in voxels):
        raise CorruptDatasetError(
            f"{labels.where}: offset {moved} is no whole number of voxels of {list(resolution)}; "
            "correct the attributes"
        )
    return _sides(tuple(round(v) for v in voxels))


def _sides(shape: tuple[int, ...]) -> Sides:
    return shape[0], shape[1], shape[2]
