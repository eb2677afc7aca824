"""Connected components of equal value, and their clean-up, on batches of label maps."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.measure import label as connected
from skimage.segmentation import expand_labels as expand_one
from torch import Tensor

from rlseg.errors import ConfigError, ShapeError

Maps = TypeVar("Maps", Tensor, NDArray[Any])
Backend = Literal["auto", "skimage", "cc3d"]

CHECKED_PIXELS = 128  # pixels of a block that is looked through as a whole for new ids


def label_components(
    colors: Maps,
    min_size: int = 1,
    *,
    backend: Backend = "auto",
    dtype: Literal["int64", "int32"] = "int64",
) -> Maps:
    """Components of equal non-zero value, numbered per image.

    Two pixels belong together if they have the same value and touch by side or corner (8
    neighbours in 2-D, 26 in 3-D).

    Args:
        colors: integer or bool [B, *S] with two or three axes in S; 0 = background.
        min_size: components with fewer pixels become background.
        backend: who finds them: "skimage", "cc3d" (the optional package
            connected-components-3d, extra `fast`), or "auto" (default): cc3d where it is
            installed. The result is the same, number by number.
        dtype: of the result; "int32" takes half the memory, and is a little faster.

    Returns:
        `dtype` [B, *S], 0 = background, 1..M in each image in order of their first pixel; on
        the device of `colors`.

    Raises:
        ShapeError: other axes, or not integers.
        ConfigError: negative `min_size`, another `dtype`, an unknown backend, or one that is not
            installed.
    """
    if dtype not in ("int64", "int32"):
        raise ConfigError(f"dtype must be int64 or int32, got {dtype!r}")
    if min_size < 0:
        raise ConfigError(f"minimum size must be 0 or more pixels, got {min_size}")
    find = _finder(backend)
    if min_size > 1:
        return _each(colors, lambda image: _large(find(image), min_size), "colors", dtype)
    return _each(colors, find, "colors", dtype)


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


def _finder(backend: str) -> Callable[[NDArray[Any]], NDArray[np.integer[Any]]]:
    """The function that labels one image."""
    if backend not in ("auto", "skimage", "cc3d"):
        raise ConfigError(f"backend must be auto, skimage or cc3d, got {backend!r}")
    installed = find_spec("cc3d") is not None
    if backend == "cc3d" and not installed:
        raise ConfigError(
            "backend cc3d is not installed: pip install 'rlseg[fast]', or use backend skimage"
        )
    return _by_skimage if backend == "skimage" or not installed else _by_cc3d


def _by_skimage(image: NDArray[Any]) -> NDArray[np.integer[Any]]:
    if image.size == 0:
        return np.zeros(image.shape, dtype=np.int64)
    if image.dtype == np.bool_:
        image = image.astype(np.uint8)
    if image.dtype.kind == "u" and image.dtype.itemsize == 8:
        # scikit-image counts in int64; distinct values are all that matters here.
        image = np.unique(image, return_inverse=True)[1].reshape(image.shape) + (image.min() > 0)
    # Without axes of length 1, for which scikit-image numbers in another order.
    found = connected(np.atleast_1d(image.squeeze()), background=0)
    return np.asarray(found).reshape(image.shape)


def _by_cc3d(image: NDArray[Any]) -> NDArray[np.integer[Any]]:
    import cc3d

    if image.size == 0:
        return np.zeros(image.shape, dtype=np.int64)
    if image.dtype == np.bool_:
        image = image.view(np.uint8)  # version 4.1 is wrong on some small bool images
    # Native numbers in row order, with strides that say so for axes of length 1, too: 4.1 is
    # also wrong on some reversed views.
    native = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("="))
    native = native.reshape(-1).reshape(image.shape)
    if native.dtype == np.uint64:
        native = native.view(np.int64)  # ids above 2^63 overflow in it; which is which matters
    found = cc3d.connected_components(native, connectivity=8 if image.ndim == 2 else 26)
    return in_raster_order(np.asarray(found))


def in_raster_order(labels: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """The labels renumbered in order of their first pixel.

    Args:
        labels: [*S] with a pixel at least, 0 = background, ids 1..M without gaps.

    Returns:
        [*S], the same array if it is in order already.
    """
    flat = labels.reshape(-1)
    # Only blocks that raise the largest id so far can bring one that is new; where all are in
    # order, these are few. In them each new id must be the next one.
    blocks = np.arange(0, len(flat), CHECKED_PIXELS)
    highest = np.maximum.accumulate(np.maximum.reduceat(flat, blocks))
    before = np.concatenate((highest[:1] * 0, highest[:-1]))
    raising = np.flatnonzero(highest > before)
    if 4 * len(raising) > len(blocks):  # noise, or an image of few pixels
        so_far = np.concatenate((before[:1], flat))[None]
    else:
        inside = np.minimum(blocks[raising, None] + np.arange(CHECKED_PIXELS), len(flat) - 1)
        so_far = np.column_stack((before[raising], flat[inside]))
    if np.diff(np.maximum.accumulate(so_far, axis=1), axis=1).max(initial=0) <= 1:
        return labels
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    ids, first = np.unique(flat[starts], return_index=True)
    number = np.zeros(int(ids[-1]) + 1, dtype=np.int64)
    foreground = ids > 0
    in_order = ids[foreground][np.argsort(first[foreground])]
    number[in_order] = np.arange(1, len(in_order) + 1)
    renumbered: NDArray[np.int64] = number[labels]
    return renumbered


def _large(image: NDArray[Any], min_size: int) -> NDArray[np.int64]:
    if image.size == 0:
        return image.astype(np.int64)
    if int(image.min()) < 0:
        raise ShapeError(f"labels hold {int(image.min())}; label maps have no negative values")
    keep = np.bincount(image.ravel()) >= max(min_size, 1)
    keep[0] = False
    number = np.where(keep, np.cumsum(keep), 0)
    return np.asarray(number[image], dtype=np.int64)


def _each(
    maps: Maps,
    function: Callable[[NDArray[Any]], NDArray[np.integer[Any]]],
    what: str,
    dtype: str = "int64",
) -> Maps:
    """`function` of every image of the batch, in the kind of the input."""
    array = maps.detach().cpu().numpy() if isinstance(maps, Tensor) else np.asarray(maps)
    if array.dtype.kind not in "iub":
        raise ShapeError(f"{what} have dtype {array.dtype}; expected integers")
    if array.ndim not in (3, 4):
        raise ShapeError(
            f"{what} have shape {list(array.shape)}; expected a batch [B, H, W] or [B, D, H, W]: "
            "add the first axis for a single image"
        )
    if dtype == "int32" and array[:1].size >= 2**31:
        raise ConfigError(f"{what} of {array[0].size} pixels may need larger ids; use dtype int64")
    if len(array) == 1:  # a volume by itself: not copied once more
        found = function(array[0])
        if found.dtype == np.uint32 and dtype == "int32":
            found = found.view(np.int32)  # ids are below the number of pixels
        result = np.asarray(found, dtype=dtype)[None]
    else:
        result = np.empty(array.shape, dtype=dtype)
        for index, image in enumerate(array):
            result[index] = function(image)
    if isinstance(maps, Tensor):
        return torch.from_numpy(result).to(maps.device)
    return result
