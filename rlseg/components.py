"""Connected components of equal value, and their clean-up, on batches of label maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.measure import label as connected
from skimage.segmentation import expand_labels as expand_one
from torch import Tensor

from rlseg.errors import ConfigError, ShapeError

Maps = TypeVar("Maps", Tensor, NDArray[Any])


def label_components(colors: Maps, min_size: int = 1) -> Maps:
    """Components of equal non-zero value, numbered per image.

    Two pixels belong together if they have the same value and touch by side or corner (8
    neighbours in 2-D, 26 in 3-D).

    Args:
        colors: integer or bool [B, *S] with two or three axes in S; 0 = background.
        min_size: components with fewer pixels become background.

    Returns:
        int64 [B, *S], 0 = background, 1..M in each image in order of their first pixel; on
        the device of `colors`.

    Raises:
        ShapeError: other axes, or not integers.
        ConfigError: negative `min_size`.
    """
    labels = _each(colors, _components, "colors")
    return remove_small(labels, min_size) if min_size > 1 else labels


def remove_small(labels: Maps, min_size: int) -> Maps:
    """The label maps without instances of fewer than `min_size` pixels.

    Args:
        labels: integer [B, *S], 0 = background, no negative value; ids about as many as
            pixels, or fewer (as `label_components` returns them).
        min_size: pixels; 0 and 1 remove nothing.

    Returns:
        int64 [B, *S], renumbered 1..M per image in order of the old ids.

    Raises:
        ShapeError: other axes, or not integers.
        ConfigError: negative `min_size`.
    """
    if min_size < 0:
        raise ConfigError(f"minimum size must be 0 or more pixels, got {min_size}")
    return _each(labels, lambda image: _large(image, min_size), "labels")


def expand_labels(labels: Maps, distance: float) -> Maps:
    """Instances grown into the background by up to `distance` pixels, without overlap.

    Args:
        labels: integer [B, *S], 0 = background.
        distance: Euclidean, in pixels; 0 = unchanged.

    Returns:
        int64 [B, *S]; a background pixel takes the label of the nearest instance in reach.

    Raises:
        ShapeError: other axes, or not integers.
        ConfigError: negative or non-finite `distance`.
    """
    if not 0 <= distance < float("inf"):
        raise ConfigError(f"distance must be a finite number of pixels, 0 or more, got {distance}")

    def grow(image: NDArray[Any]) -> NDArray[np.int64]:
        image = image.astype(np.int64)
        if distance == 0 or not image.any():
            return image
        return np.asarray(expand_one(image, distance), dtype=np.int64)

    return _each(labels, grow, "labels")


def _components(image: NDArray[Any]) -> NDArray[np.int64]:
    if image.size == 0:
        return image.astype(np.int64)
    if image.dtype == np.bool_:
        image = image.astype(np.uint8)
    if image.dtype.kind == "u" and image.dtype.itemsize == 8:
        # scikit-image counts in int64; distinct values are all that matters here.
        image = np.unique(image, return_inverse=True)[1].reshape(image.shape) + (image.min() > 0)
    found = connected(image, background=0, connectivity=image.ndim)
    return np.asarray(found, dtype=np.int64)


def _large(image: NDArray[Any], min_size: int) -> NDArray[np.int64]:
    if image.size == 0:
        return image.astype(np.int64)
    if int(image.min()) < 0:
        raise ShapeError(f"labels hold {int(image.min())}; label maps have no negative values")
    keep = np.bincount(image.ravel()) >= max(min_size, 1)
    keep[0] = False
    number = np.where(keep, np.cumsum(keep), 0)
    return np.asarray(number[image], dtype=np.int64)


def _each(maps: Maps, function: Callable[[NDArray[Any]], NDArray[np.int64]], what: str) -> Maps:
    """`function` of every image of the batch, in the kind of the input."""
    array = maps.detach().cpu().numpy() if isinstance(maps, Tensor) else np.asarray(maps)
    if array.dtype.kind not in "iub":
        raise ShapeError(f"{what} have dtype {array.dtype}; expected integers")
    if array.ndim not in (3, 4):
        raise ShapeError(
            f"{what} have shape {list(array.shape)}; expected a batch [B, H, W] or [B, D, H, W]: "
            "add the first axis for a single image"
        )
    result = np.empty(array.shape, dtype=np.int64)
    for index, image in enumerate(array):
        result[index] = function(image)
    if isinstance(maps, Tensor):
        return torch.from_numpy(result).to(maps.device)
    return result
