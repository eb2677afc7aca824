"""Reading HDF5 and npy: links and declared sizes are checked before anything is read."""

from __future__ import annotations

import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rlseg.data.base import listed
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError, RlsegError

MAX_ARRAY_BYTES = 1 << 33  # shape x itemsize, as declared in the header
H5_SUFFIXES = (".h5", ".hdf5", ".hdf")
"""Of HDF5 files, in lower case."""
MAX_SOFT_LINKS = 8  # soft links followed inside one file before it counts as a loop

Array = NDArray[Any]
Window = tuple[slice, ...]
"""A box in an array: one slice per axis, with borders inside the array and without a step."""


@contextmanager
def opened_h5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file, read-only.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: not HDF5, truncated, or damaged where it is read.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except RlsegError:
        raise
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"{path}: no such file") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise CorruptDatasetError(
            f"{path}: damaged or not an HDF5 file ({error}); replace the file"
        ) from error


def h5_dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """The data set `name`, reached by links that stay inside the file.

    External links and virtual data sets are refused without opening what they point to.

    Raises:
        CorruptDatasetError: missing (lists what exists), a group, or a link that leaves the file.
    """
    target = _follow(file, name, path, MAX_SOFT_LINKS)
    found = file.get(target)
    if not isinstance(found, h5py.Dataset):
        what = "a group" if isinstance(found, h5py.Group) else "not an array"
        raise CorruptDatasetError(
            f"{path}: {name!r} is {what}, expected a data set; {_existing(file)}"
        )
    if found.is_virtual or found.external:
        raise CorruptDatasetError(
            f"{path}: {name!r} takes its values from other files; copy them into one file"
        )
    return found


def h5_members(file: h5py.File, name: str, path: Path) -> list[str]:
    """The names directly inside a group, sorted; the group is reached as in `h5_dataset`.

    Raises:
        CorruptDatasetError: missing (lists what exists), not a group, or a link that leaves the
            file.
    """
    found = file.get(_follow(file, name, path, MAX_SOFT_LINKS))
    if not isinstance(found, h5py.Group):
        raise CorruptDatasetError(f"{path}: {name!r} is not a group; {_existing(file)}")
    return sorted(found)


def lone_h5_name(file: h5py.File, path: Path) -> str:
    """The name of the only data set in the file.

    Raises:
        CorruptDatasetError: none or several; lists them.
    """
    names = _names(file)
    if len(names) != 1:
        raise CorruptDatasetError(
            f"{path}: {len(names)} data sets where one is expected; {_existing(file)}: "
            "name the one to read (data set options image_key, label_key)"
        )
    return names[0]


def read_h5(
    dataset: h5py.Dataset,
    where: str,
    index: int | Window | None = None,
    max_bytes: int = MAX_ARRAY_BYTES,
) -> Array:
    """The values of a data set, of one slice along its first axis, or of a window.

    Args:
        dataset: from `h5_dataset`.
        where: file and name for the message.
        index: slice or window to read; None = all.
        max_bytes: largest declared size of what is read.

    Raises:
        CorruptDatasetError: declared size above `max_bytes`.
    """
    shape = dataset.shape
    if isinstance(index, tuple):
        shape = window_shape(index, shape)
    elif index is not None:
        shape = shape[1:]
    _check_bytes(shape, dataset.dtype.itemsize, where, max_bytes)
    check_not_empty(shape, where)
    return np.asarray(dataset[...] if index is None else dataset[index])


def window_shape(window: Window, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sides of a window of an array of that shape."""
    return tuple(len(range(*part.indices(n))) for part, n in zip(window, shape, strict=True))


def npy_shape(path: Path) -> tuple[int, ...]:
    """The shape that the header of a .npy file states; the file has as many bytes as it needs.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: as `read_npy`, but for the limit.
    """
    with _opened_npy(path) as (shape, _):
        return shape


def read_npy(path: Path, max_bytes: int = MAX_ARRAY_BYTES, window: Window | None = None) -> Array:
    """The array of a .npy file, or a window of it, never unpickling anything.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: objects, a header that does not fit the file, or too large.
    """
    with _opened_npy(path) as (shape, dtype):
        wanted = shape if window is None else window_shape(window, shape)
        _check_bytes(wanted, dtype.itemsize, str(path), max_bytes)
        check_not_empty(wanted, str(path))
        if window is None:
            return np.asarray(np.load(path, allow_pickle=False))
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[window])


@contextmanager
def _opened_npy(path: Path) -> Iterator[tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type by the header, checked against the size of the file."""
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            if version not in readers:
                raise CorruptDatasetError(f"{path}: npy format {version} is not supported")
            shape, _, dtype = readers[version](stream)
            if dtype.hasobject:
                raise CorruptDatasetError(f"{path}: holds pickled objects, which are never loaded")
            left = path.stat().st_size - stream.tell()
            wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if left != wanted:
                raise CorruptDatasetError(
                    f"{path}: header promises {wanted} bytes, the file holds {left}; replace it"
                )
        yield shape, dtype
    except RlsegError:
        raise
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"{path}: no such file") from error
    except (
        OSError,
        ValueError,
        TypeError,
        EOFError,
        SyntaxError,
        OverflowError,
        MemoryError,
        RecursionError,
        tokenize.TokenError,
    ) as error:  # numpy reads the header as Python text
        raise CorruptDatasetError(f"{path}: not a readable npy file ({error})") from error


def check_not_empty(shape: tuple[int, ...], where: str) -> None:
    """Nothing, unless a side is 0.

    Raises:
        CorruptDatasetError: one is.
    """
    if 0 in shape:
        raise CorruptDatasetError(
            f"{where}: an array of shape {list(shape)}, without a single number; replace it, or "
            "remove the sample"
        )


def _check_bytes(shape: tuple[int, ...], itemsize: int, where: str, max_bytes: int) -> None:
    size = int(np.prod(shape, dtype=object)) * itemsize
    if size > max_bytes:
        raise CorruptDatasetError(
            f"{where}: declares {size} bytes (shape {list(shape)}); the limit is {max_bytes}: "
            "cut it into smaller volumes"
        )


def _follow(file: h5py.File, name: str, path: Path, links_left: int) -> str:
    """The absolute name without soft links, walked link by link."""
    done, rest = "", [part for part in name.split("/") if part]
    while rest:
        step, rest = f"{done}/{rest[0]}", rest[1:]
        link = file.get(step, getlink=True)
        if isinstance(link, h5py.SoftLink):
            if links_left == 0:
                raise CorruptDatasetError(f"{path}: {name!r} is a chain or loop of soft links")
            target = link.path if link.path.startswith("/") else f"{done}/{link.path}"
            return _follow(file, "/".join([target, *rest]), path, links_left - 1)
        if isinstance(link, h5py.ExternalLink):
            raise CorruptDatasetError(
                f"{path}: {name!r} is a link to another file ({link.filename}); "
                "copy the data into this file"
            )
        if link is None:
            raise CorruptDatasetError(f"{path}: no data set {name!r}; {_existing(file)}")
        done = step
    return done or "/"


def _names(file: h5py.File) -> list[str]:
    """Names of all data sets that hard links lead to."""
    names: list[str] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(name)

    file.visititems(visit)
    return names


def _existing(file: h5py.File) -> str:
    names = _names(file)
    return f"the file holds {listed(names)}" if names else "the file holds no data sets"
