"""What the generators draw with: numbers, smooth fields, softening, clean-up of label maps.

A scene is the same on any machine. Noise is made of whole random bytes. Per-pixel work in float32
uses only operations that the floating-point standard fixes (no sines, no sums in any order); what
needs others is computed in float64, where a difference in the last bit is far below the 1/255 that
images are rounded to.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.measure import label as connected
from torch import Tensor

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]
Ints = NDArray[np.int64]

Image = TypeVar("Image", Floats, Pixels)

BYTES_PER_NUMBER = 4  # random bytes summed to one number of the grain
BYTE_MEAN, BYTE_VARIANCE = 127.5, (256**2 - 1) / 12


def uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Floats:
    """Float64 of the given shape, evenly spread in [low, high)."""
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
    return np.asarray(low + (high - low) * drawn)


def number(generator: torch.Generator, low: float, high: float) -> float:
    """One number, evenly spread in [low, high)."""
    return float(uniform(generator, low, high))


def whole(generator: torch.Generator, low: int, high: int) -> int:
    """One whole number in low..high, both possible."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def coins(generator: torch.Generator, *shape: int) -> NDArray[np.bool_]:
    """Fair coin flips of the given shape."""
    return np.asarray(torch.randint(0, 2, shape, generator=generator).numpy() == 1)


def grain(generator: torch.Generator, *shape: int) -> Pixels:
    """Float32 of the given shape: mean 0, variance 1, nearly normal, within +-3.5.

    Each number is a sum of four random bytes: exact on every machine, and faster than a normal.
    """
    count = int(np.prod(shape))
    words = torch.empty((count * BYTES_PER_NUMBER + 7) // 8, dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    parts = words.numpy().astype("<i8", copy=False).view(np.uint8)
    parts = parts[: count * BYTES_PER_NUMBER].reshape(BYTES_PER_NUMBER, count)
    total = parts[0].astype(np.float32)
    for part in parts[1:]:
        total += part
    total -= BYTES_PER_NUMBER * BYTE_MEAN
    total *= (BYTES_PER_NUMBER * BYTE_VARIANCE) ** -0.5
    return np.asarray(total.reshape(shape))


@lru_cache(maxsize=64)
def _spline(size: int, knots: int) -> Floats:
    """Float [size, knots]: weights of a cubic B-spline, rows of sum 1; borders repeated."""
    place = (np.arange(size) + 0.5) / size * knots - 0.5
    weights = np.zeros((size, knots))
    first = np.floor(place).astype(int)
    rest = place - first
    cubic = (
        (1 - rest) ** 3,
        3 * rest**3 - 6 * rest**2 + 4,
        -3 * rest**3 + 3 * rest**2 + 3 * rest + 1,
        rest**3,
    )
    for offset, weight in enumerate(cubic, start=-1):
        np.add.at(weights, (np.arange(size), np.clip(first + offset, 0, knots - 1)), weight / 6)
    weights.flags.writeable = False
    return weights


def smooth_field(coarse: Floats, *sides: int) -> Pixels:
    """A coarse grid of numbers as a smooth field over the last axes.

    Args:
        coarse: float64 [..., *knots], one number of knots per side.
        *sides: sides of the field, two or three.

    Returns:
        float32 [..., *sides], nowhere beyond the range of `coarse`.
    """
    field = coarse
    for axis, side in enumerate(sides, start=-len(sides)):
        weights = _spline(side, coarse.shape[axis])
        if axis == -1:
            field = field @ weights.T
        elif axis == -2:
            field = weights @ field
        else:
            field = np.moveaxis(np.tensordot(weights, field, axes=(1, axis)), 0, axis)
    return field.astype(np.float32)


def soften(image: Image, times: int = 1, axes: tuple[int, ...] = (-2, -1)) -> Image:
    """The image with each pixel replaced by (1, 2, 1)/4 of its neighbours along the axes.

    Args:
        image: float [..., *S].
        times: how often; each adds 0.5 to the variance of the blur, in pixels squared.
        axes: blurred axes.

    Returns:
        Of the same shape and type, borders repeated.
    """
    result = image
    for _ in range(times):
        for axis in axes:
            moved = np.moveaxis(result, axis, 0)
            out = 2.0 * moved
            out[1:] += moved[:-1]
            out[:1] += moved[:1]
            out[:-1] += moved[1:]
            out[-1:] += moved[-1:]
            out *= 0.25
            result = np.moveaxis(out, 0, axis)
    return np.ascontiguousarray(result)


def pieces(labels: Ints, min_size: int) -> Ints:
    """Every piece of an instance as an instance of its own.

    Args:
        labels: int64 [*S], two or three axes, 0 = background.
        min_size: pixels; smaller pieces become background.

    Returns:
        int64 [*S], numbered 1.. with gaps; pieces touch by sides.
    """
    found = np.asarray(connected(labels, background=0, connectivity=1), dtype=np.int64)
    keep = np.bincount(found.ravel()) >= max(min_size, 1)
    keep[0] = False
    return np.where(keep[found], found, 0)


def largest_pieces(labels: Ints, min_size: int) -> Ints:
    """Every instance cut down to its largest piece; small ones gone.

    Args:
        labels: int64 [*S], two or three axes, 0 = background.
        min_size: pixels; instances whose largest piece is smaller become background.

    Returns:
        int64 [*S] with the old ids; pieces touch by sides. Of equal pieces the first one stays.
    """
    found = np.asarray(connected(labels, background=0, connectivity=1))
    areas = np.bincount(found.ravel())
    owner = np.zeros(len(areas), dtype=np.int64)
    owner[found.ravel()] = labels.ravel()
    areas[0] = 0
    keep = np.zeros(len(areas), dtype=bool)
    taken = np.zeros(int(labels.max(initial=0)) + 1, dtype=bool)
    for piece in np.argsort(-areas, kind="stable"):
        if areas[piece] >= max(min_size, 1) and not taken[owner[piece]]:
            keep[piece] = taken[owner[piece]] = True
    return np.asarray(np.where(keep, owner, 0)[found], dtype=np.int64)


def eight_bits(image: Floats | Pixels) -> Tensor:
    """Float32 of the same shape in [0, 1] in steps of 1/255."""
    rounded = torch.from_numpy(np.ascontiguousarray(image))
    return ((rounded.clamp(0, 1) * 255).round() / 255).float()
