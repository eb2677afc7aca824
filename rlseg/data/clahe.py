"""Contrast limited adaptive histogram equalisation (CLAHE) on tensors, as OpenCV defines it.

OpenCV is not a dependency, and `skimage.exposure.equalize_adapthist` clips in another unit and bins
otherwise, so that the clip limits of the library the authors used mean nothing to it; it is no
faster. Grey pictures agree with OpenCV's but for single levels where rounding decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 256
TILES = 8  # per axis, the customary grid

# sRGB primaries and D65 white (IEC 61966-2-1), CIE 1976 L*a*b*.
_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.950456, 1.0, 1.088754)
_DARK, _SLOPE = 216 / 24389, 24389 / 27  # below _DARK, L* is linear in Y with _SLOPE


def equalise(image: Tensor, limit: float, tiles: int = TILES) -> Tensor:
    """The picture with even histograms in every neighbourhood.

    Grey values are rounded to 256 levels. Colour is equalised in its lightness L* alone.

    Args:
        image: float32 [C, H, W] in [0, 1], C = 1 or 3 (sRGB).
        limit: a level may hold at most this many times what it would in an even histogram; the
            excess is shared out. At least 1.
        tiles: neighbourhoods per axis.

    Returns:
        float32 [C, H, W] in [0, 1].
    """
    if image.shape[0] == 1:
        return equalise_plane(image[0], limit, tiles)[None]
    lab = _to_lab(image)
    lab[0] = equalise_plane(lab[0] / 100, limit, tiles) * 100
    return _to_rgb(lab).clamp(0, 1)


def equalise_plane(plane: Tensor, limit: float, tiles: int = TILES) -> Tensor:
    """`equalise` for one plane, float32 [H, W]."""
    height, width = plane.shape
    levels = (plane.clamp(0, 1) * (LEVELS - 1)).round().long()
    below, right = -height % tiles, -width % tiles
    if below or right:  # OpenCV pads both axes as soon as one needs it
        below, right = tiles - height % tiles, tiles - width % tiles
    padded = _reflected(levels, below, right)
    tall, wide = padded.shape[0] // tiles, padded.shape[1] // tiles
    tile = (torch.arange(padded.shape[0]) // tall)[:, None] * tiles + (
        torch.arange(padded.shape[1]) // wide
    )
    counts = torch.bincount((tile * LEVELS + padded).flatten(), minlength=tiles**2 * LEVELS)
    tables = _tables(counts.view(tiles**2, LEVELS), limit, tall * wide).flatten()
    upper, lower, down = _between(height, tall, tiles)
    left, farther, across = _between(width, wide, tiles)
    rows = (upper * tiles * LEVELS)[:, None], (lower * tiles * LEVELS)[:, None]
    columns = [levels + side * LEVELS for side in (left, farther)]
    down = down[:, None]
    mixed = [
        torch.lerp(tables.take(row + columns[0]), tables.take(row + columns[1]), across)
        for row in rows
    ]
    return torch.lerp(mixed[0], mixed[1], down).round() / (LEVELS - 1)


def _reflected(levels: Tensor, below: int, right: int) -> Tensor:
    """Padded by mirrored pixels without the edge itself; tiny pictures are mirrored repeatedly."""
    if not below and not right:
        return levels
    rows = _mirror(levels.shape[0], below)
    columns = _mirror(levels.shape[1], right)
    return levels[rows[:, None], columns[None]]


def _mirror(side: int, more: int) -> Tensor:
    if side == 1:
        return torch.zeros(side + more, dtype=torch.int64)
    period = 2 * (side - 1)
    place = torch.arange(side + more) % period
    return torch.minimum(place, period - place)


def _tables(counts: Tensor, limit: float, area: int) -> Tensor:
    """float32 [tiles, levels]: what each level becomes, from int64 counts of the same shape."""
    clip = max(int(limit * area / LEVELS), 1)
    excess = (counts - clip).clamp(min=0).sum(dim=1)  # [tiles]
    counts = counts.clamp(max=clip) + (excess // LEVELS)[:, None]
    rest = excess % LEVELS
    step = (LEVELS // rest.clamp(min=1)).clamp(min=1)
    level = torch.arange(LEVELS)
    # What does not divide evenly goes to every step-th level, from 0 on, until it is used up.
    chosen = (level % step[:, None] == 0) & (level // step[:, None] < rest[:, None])
    total = (counts + chosen).cumsum(dim=1).float()
    return (total * ((LEVELS - 1) / area)).round().clamp(max=LEVELS - 1)


def _between(side: int, length: int, tiles: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two tiles whose centres a pixel lies between, and how far it is from the first."""
    place = torch.arange(side) / length - 0.5
    first = place.floor()
    share = place - first
    low = first.long()
    return low.clamp(min=0), (low + 1).clamp(max=tiles - 1), share


def _to_lab(image: Tensor) -> Tensor:
    linear = torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    x, y, z = (_matrix(_TO_XYZ, linear) / torch.tensor(_WHITE)[:, None, None]).unbind(0)
    fx, fy, fz = (
        torch.where(t > _DARK, t.clamp(min=_DARK) ** (1 / 3), (_SLOPE * t + 16) / 116)
        for t in (x, y, z)
    )
    return torch.stack((116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)))


def _to_rgb(lab: Tensor) -> Tensor:
    fy = (lab[0] + 16) / 116
    parts = torch.stack((fy + lab[1] / 500, fy, fy - lab[2] / 200))
    cubes = parts**3
    ratios = torch.where(cubes > _DARK, cubes, (116 * parts - 16) / _SLOPE)
    inverse = torch.linalg.inv(torch.tensor(_TO_XYZ))
    linear = torch.einsum("ij,jhw->ihw", inverse, ratios * torch.tensor(_WHITE)[:, None, None])
    linear = linear.clamp(0, 1)
    bright = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, bright)


def _matrix(rows: tuple[tuple[float, ...], ...], planes: Tensor) -> Tensor:
    result: Tensor = torch.einsum("ij,jhw->ihw", torch.tensor(rows), planes)
    return result
