"""Label maps as they come from files -> consecutive int64 ids with a mask of what is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlseg.errors import CorruptDatasetError

DENSE_IDS = 1 << 22  # ids up to here are renumbered by a table, larger ones by sorting
BYTE = 256

Array = NDArray[Any]


def compact(labels: Tensor) -> Tensor:
    """The same label map with ids renumbered 1..N in ascending order of the old ids.

    Args:
        labels: integer [*S], no negative value; 0 = background and stays 0.

    Returns:
        int64 [*S], contiguous.
    """
    if labels.numel() == 0:
        return labels.long()
    if labels.device.type == "cpu":  # several times as fast as torch on one thread
        return torch.from_numpy(renumbered(labels.numpy())).long()
    labels = labels.long().contiguous()
    largest = int(labels.max())
    if largest > DENSE_IDS:
        ids, index = torch.unique(labels, return_inverse=True)
        ranks: Tensor = index if int(ids[0]) == 0 else index + 1
        return ranks
    present = torch.zeros(largest + 1, dtype=torch.bool, device=labels.device)
    present[labels.flatten()] = True
    present[0] = False
    numbers: Tensor = present.long().cumsum(0) * present
    return numbers[labels]


def renumbered(array: Array) -> Array:
    """Ids 1..N in ascending order of the old ids, in the narrowest type for N.

    Args:
        array: bool or integers [*S], no negative value; 0 = background and stays 0.

    Returns:
        uint8 for N < 256, else int32 [*S], contiguous and of its own memory.

    Raises:
        ValueError: a negative id.
    """
    if array.size == 0:
        return np.zeros(array.shape, dtype=np.uint8)
    if array.dtype.kind == "i" and int(array.min()) < 0:
        raise ValueError(f"label maps hold ids from 0 on, got {int(array.min())}")
    largest = int(array.max())
    if largest > DENSE_IDS:
        ids, ranks = np.unique(array, return_inverse=True)
        ranks = ranks.reshape(array.shape) + (0 if int(ids[0]) == 0 else 1)
        return ranks.astype(narrow_type(len(ids)))
    # Bytes, wherever ids fit into them, move about several times as fast as whole numbers.
    array = np.array(array, dtype=np.uint8 if largest < BYTE else np.int32, order="C")
    found = present_ids(array)
    found[0] = False
    count = int(np.count_nonzero(found))
    if count == largest:
        return array
    ranks = (found.cumsum() * found).astype(narrow_type(count))
    if largest < BYTE:
        table = ranks.tobytes().ljust(BYTE, b"\0")
        return np.frombuffer(bytearray(array).translate(table), np.uint8).reshape(array.shape)
    return ranks.take(array, mode="clip")  # nothing is clipped; the default makes a copy first


def present_ids(array: Array) -> NDArray[np.bool_]:
    """Which ids occur: bool [largest id + 1].

    A pixel with the id of its neighbour before, above or in the slice before tells nothing new, so
    that only the others are counted.

    Args:
        array: integers [*S], not empty, contiguous, small and not negative.
    """
    flat = array.ravel()
    new = np.ones(flat.size, dtype=bool)
    step = 1
    for side in reversed(array.shape):
        if step < flat.size:
            new[step:] &= flat[step:] != flat[:-step]
        step *= side
    return np.bincount(flat[np.flatnonzero(new)]) > 0


def narrow_type(largest: int) -> type[np.uint8] | type[np.int32] | type[np.int64]:
    """The type in which label maps up to this id are kept."""
    return np.uint8 if largest < BYTE else np.int32 if largest < 1 << 31 else np.int64


def from_array(array: Array, where: str, ignore: int | None = None) -> tuple[Tensor, Tensor]:
    """Consecutive labels and the mask of known pixels, from ids as a file holds them.

    The ignore id is compared in the file's own type: 2^64 - 1 would turn into -1 when cast first.

    Args:
        array: bool, signed or unsigned integers [*S] of any width; bool = one instance.
        where: file (and data set in it) for the message.
        ignore: id of pixels without a truth.

    Returns:
        labels int64 [*S] (0 where ignored), valid bool [*S].

    Raises:
        CorruptDatasetError: floats, complex numbers, objects, or negative ids.
    """
    labels, valid = narrow_from_array(array, where, ignore)
    known = torch.ones(labels.shape, dtype=torch.bool) if valid is None else valid
    return labels.long(), known


def narrow_from_array(
    array: Array, where: str, ignore: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """What `from_array` returns, in the types in which samples are kept.

    Returns:
        labels uint8 or int32 [*S], valid bool [*S] or None where all pixels are known.

    Raises:
        CorruptDatasetError: as `from_array`.
    """
    kind = array.dtype.kind
    if kind not in "bui":
        raise CorruptDatasetError(
            f"{where}: labels have type {array.dtype}; label maps hold integer ids: "
            "convert them (a float map has lost which numbers are ids)"
        )
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    known: Array | None = None
    if ignore is not None and kind != "b" and ignore <= int(np.iinfo(native.dtype).max):
        known = native != ignore
        if known.all():
            known = None
        else:
            native = np.where(known, native, np.zeros((), dtype=native.dtype))
    if kind == "i" and native.size and int(native.min()) < 0:
        position = tuple(int(i) for i in np.unravel_index(int(native.argmin()), native.shape))
        raise CorruptDatasetError(
            f"{where}: label {int(native.min())} at {position}; ids are 0 (background) or positive"
        )
    return torch.from_numpy(renumbered(native)), None if known is None else torch.from_numpy(known)
