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
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from skimage.measure import label as connected
from torch import Tensor

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Box = tuple[slice, slice]

Image = TypeVar("Image", Floats, Pixels)

BYTES_PER_NUMBER = 4  # random bytes summed to one number of the grain
BYTE_MEAN, BYTE_VARIANCE = 127.5, (256**2 - 1) / 12


def uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Floats:
    """Float64 of the given shape, evenly spread in [low, high)."""
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
    return np.asarray(low + (high - low) * drawn)


def number(generator: torch.Generator, low: float, high: float) -> float:
    """One number, evenly spread in [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


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
    summed = parts[0].astype(np.uint16)
    for part in parts[1:]:
        summed += part
    total = summed.astype(np.float32)
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
            out = moved + moved
            out[1:] += moved[:-1]
            out[:1] += moved[:1]
            out[:-1] += moved[1:]
            out[-1:] += moved[-1:]
            result = np.moveaxis(out, 0, axis)
        result *= 0.25 ** len(axes)  # a power of two: exact, so once for all axes
    return np.ascontiguousarray(result)


def fraction(values: Floats) -> Floats:
    """What lies behind the point, with the sign of the value; exact, as `np.modf`, but faster."""
    return np.asarray(values - np.trunc(values))


def lattice(box: Box, pitch: float) -> Mask:
    """Bool on the box: slats in both diagonal directions.

    What a slat covers depends on row + column alone, or on row - column alone: it is computed once
    for each and laid out by windows that move on by one pixel from row to row.
    """
    rows, columns = box
    wide = columns.stop - columns.start
    # Centres of the pixels: half a pixel in each of row and column, so a whole one in their sum.
    falling = np.arange(rows.start + columns.start + 1.0, rows.stop + columns.stop)
    rising = np.arange(rows.start - columns.stop + 1.0, rows.stop - columns.start) + 9e3
    one, other = (np.abs(fraction(v / pitch) - 0.5) < 0.13 for v in (falling, rising))
    return np.asarray(sliding_window_view(one, wide) | sliding_window_view(other, wide)[:, ::-1])


def crown(y: Floats, x: Floats, radius: float, turn: float) -> Mask:
    """Bool [h, w]: within a disc with five lobes. Only near the outline are angles needed."""
    square = y * y + x * x
    inside = square < (0.87 * radius) ** 2
    unsure = np.flatnonzero((square < (1.13 * radius) ** 2) & ~inside)
    row, column = np.divmod(unsure, x.shape[1])
    y, x = y[row, 0], x[0, column]
    lobes = 1 + 0.12 * np.cos(5 * np.arctan2(y, x) + turn)
    inside.ravel()[unsure] = np.hypot(y, x) < radius * lobes
    return inside


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
    return np.asarray(np.where(keep, np.arange(len(keep)), 0).take(found))


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
    return np.asarray(np.where(keep, owner, 0).take(found))


def eight_bits(image: Floats | Pixels) -> Tensor:
    """Float32 of the same shape in [0, 1] in steps of 1/255."""
    clamped = torch.from_numpy(np.ascontiguousarray(image)).clamp(0, 1)
    return clamped.mul_(255).round_().div_(255).float()
