"""Grey levels and colours as files hold them, and as numbers from 0 to 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlseg.errors import CorruptDatasetError

__all__ = ["BYTE_LEVELS", "WORD_LEVELS", "narrowest", "scale_to_unit", "stored_levels", "to_unit"]

BYTE_LEVELS = 255
"""What numbers of 8 bits are divided by."""
WORD_LEVELS = 65535
"""What wider whole numbers are divided by."""

Array = NDArray[Any]


def stored_levels(array: Array, where: str) -> tuple[Array, int]:
    """The levels in the narrowest type of their kind, and what they are to be divided by.

    Args:
        array: integers or floats of any width, any shape.
        where: file (and data set in it) for the message.

    Returns:
        uint8 and 255 for 8-bit integers, uint16 and 65535 for wider ones, float32 and 0 for floats
        and bool, which are not divided; of the same shape, and perhaps the array itself.

    Raises:
        CorruptDatasetError: another type, or values that do not lie between 0 and 255, 65535 or 1.
    """
    kind, width = array.dtype.kind, array.dtype.itemsize
    if array.dtype == np.uint8:
        return array, BYTE_LEVELS
    if kind == "b":
        return array.astype(np.float32), 0
    if kind not in "uif":
        raise CorruptDatasetError(f"{where}: image of type {array.dtype}; use integers or floats")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    limit = 1.0 if kind == "f" else float(BYTE_LEVELS if width == 1 else WORD_LEVELS)
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > limit:
        raise CorruptDatasetError(
            f"{where}: image values from {low:g} to {high:g} in type {array.dtype}; "
            f"expected 0 to {limit:g}: rescale it"
        )
    if kind == "f":
        return array.astype(np.float32), 0
    return array.astype(np.uint8 if width == 1 else np.uint16), int(limit)


def scale_to_unit(array: Array, where: str) -> Array:
    """float32 array of the same shape in [0, 1].

    8-bit integers are divided by 255, wider ones by 65535, floats are kept.

    Raises:
        CorruptDatasetError: another type, or values outside the range.
    """
    levels, scale = stored_levels(array, where)
    return levels.astype(np.float32) / np.float32(scale) if scale else levels


def to_unit(levels: Tensor, scale: int) -> Tensor:
    """A fresh float32 tensor in [0, 1] of levels from `stored_levels`."""
    return levels.float().div_(scale) if scale else levels.clone()


def narrowest(image: Tensor) -> tuple[Tensor, int]:
    """Levels and divisor that give exactly these numbers, in the narrowest type that can.

    Args:
        image: float32, any shape.

    Returns:
        uint8 and 255, uint16 and 65535, or a copy and 0.
    """
    for scale, dtype in ((BYTE_LEVELS, torch.uint8), (WORD_LEVELS, torch.uint16)):
        whole = (image * scale).round_()
        narrow = whole.to(dtype) if dtype == torch.uint8 else whole.to(torch.int32).to(dtype)
        if torch.equal(whole.div_(scale), image):
            return narrow, scale
    return image.clone(), 0
