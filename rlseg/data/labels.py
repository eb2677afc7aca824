"""Label maps as they come from files -> consecutive int64 ids with a mask of what is known."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlseg.errors import CorruptDatasetError

DENSE_IDS = 1 << 22  # ids up to here are renumbered by a table, larger ones by sorting


def compact(labels: Tensor) -> Tensor:
    """The same label map with ids renumbered 1..N in ascending order of the old ids.

    Args:
        labels: integer [*S], no negative value; 0 = background and stays 0.

    Returns:
        int64 [*S].
    """
    labels = labels.long()
    if labels.numel() == 0:
        return labels
    largest = int(labels.max())
    if largest <= DENSE_IDS and labels.device.type == "cpu":
        array = labels.numpy()
        found = np.bincount(array.ravel()) > 0  # several times as fast as torch on one thread
        found[0] = False
        return torch.from_numpy((found.cumsum() * found).take(array))
    if largest > DENSE_IDS:
        ids, index = torch.unique(labels, return_inverse=True)
        renumbered: Tensor = index if int(ids[0]) == 0 else index + 1
        return renumbered
    present = torch.zeros(largest + 1, dtype=torch.bool, device=labels.device)
    present[labels.flatten()] = True
    present[0] = False
    numbers: Tensor = present.long().cumsum(0) * present
    return numbers[labels]


def from_array(
    array: NDArray[np.generic], where: str, ignore: int | None = None
) -> tuple[Tensor, Tensor]:
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
    kind = array.dtype.kind
    if kind not in "bui":
        raise CorruptDatasetError(
            f"{where}: labels have type {array.dtype}; label maps hold integer ids: "
            "convert them (a float map has lost which numbers are ids)"
        )
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    known = np.ones(native.shape, dtype=bool)
    if ignore is not None and kind != "b" and ignore <= int(np.iinfo(native.dtype).max):
        known = native != ignore
        native = np.where(known, native, np.zeros((), dtype=native.dtype))
    if kind == "i" and native.size and int(native.min()) < 0:
        position = tuple(int(i) for i in np.unravel_index(int(native.argmin()), native.shape))
        raise CorruptDatasetError(
            f"{where}: label {int(native.min())} at {position}; ids are 0 (background) or positive"
        )
    if kind == "u" and native.size and int(native.max()) > np.iinfo(np.int64).max:
        ids, index = np.unique(native, return_inverse=True)
        index = index.reshape(native.shape)
        return torch.from_numpy(index + (0 if int(ids[0]) == 0 else 1)), torch.from_numpy(known)
    return compact(torch.from_numpy(native.astype(np.int64))), torch.from_numpy(known)
