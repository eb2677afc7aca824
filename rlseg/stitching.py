"""Windows over an image, and one label map from the label maps of overlapping windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlseg.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Equal windows that cover an image of `sides`."""

    sides: tuple[int, int]
    """Height and width of the image."""
    size: tuple[int, int]
    """Height and width of every window."""
    corners: tuple[tuple[int, int], ...]
    """Top left corner of each window, row by row."""

    def cut(self, image: Tensor) -> Tensor:
        """The windows of images [B, C, H, W], as [B * n, C, h, w]: image by image."""
        height, width = self.size
        parts = [image[:, :, y : y + height, x : x + width] for y, x in self.corners]
        return torch.stack(parts, dim=1).flatten(0, 1)


def cover(sides: tuple[int, int], window: int | None, overlap: float) -> Windows:
    """Windows of side `window` that overlap their neighbours by at least a share of themselves.

    Args:
        sides: of the image.
        window: side in pixels; None, or a side of the image that is smaller: the whole side.
        overlap: share of a window, in [0, 1).

    Raises:
        ConfigError: `overlap` out of range or `window` below 1.
    """
    if not 0 <= overlap < 1:
        raise ConfigError(f"windows overlap by a share in [0, 1), got {overlap}")
    if window is not None and window < 1:
        raise ConfigError(f"a window has at least 1 pixel, got {window}")
    size = tuple(side if window is None else min(window, side) for side in sides)
    rows, columns = (
        _starts(side, length, max(round(length * (1 - overlap)), 1))
        for side, length in zip(sides, size, strict=True)
    )
    corners = tuple((y, x) for y in rows for x in columns)
    return Windows(sides=sides, size=(size[0], size[1]), corners=corners)


def assemble(parts: Tensor, windows: Windows) -> Tensor:
    """One map per image: every pixel is taken from the window whose centre is nearest.

    Args:
        parts: [B, n, *any, h, w], what each window says.
        windows: the n windows.

    Returns:
        [B, *any, H, W].
    """
    height, width = windows.size
    y = (torch.arange(height) - (height - 1) / 2).abs().unsqueeze(1) / height
    x = (torch.arange(width) - (width - 1) / 2).abs().unsqueeze(0) / width
    off_centre = torch.maximum(y.expand(height, width), x.expand(height, width))
    nearest = torch.full(windows.sides, torch.inf)
    out = parts.new_zeros(parts.shape[0], *parts.shape[2:-2], *windows.sides)
    for k, (top, left) in enumerate(windows.corners):
        place = (slice(top, top + height), slice(left, left + width))
        better = off_centre < nearest[place]
        nearest[place] = torch.where(better, off_centre, nearest[place])
        out[(..., *place)] = torch.where(better.to(parts.device), parts[:, k], out[(..., *place)])
    return out


def stitch(labels: Tensor, windows: Windows, threshold: float) -> Tensor:
    """One label map from the windows of one image.

    Two instances of different windows become one if, where both windows look, they share more
    than `threshold` of their union.

    Args:
        labels: int64 [n, h, w], numbered 1..M within each window.
        windows: the n windows.
        threshold: IoU in [0, 1).

    Returns:
        int64 [H, W], consecutive numbers in the order of windows.
    """
    count = labels.flatten(1).amax(dim=1)
    first = (count.cumsum(0) - count).view(-1, 1, 1)
    numbered = torch.where(labels > 0, labels + first, 0)
    parent = list(range(int(count.sum()) + 1))
    height, width = windows.size
    for i, (y, x) in enumerate(windows.corners):
        for j in range(i + 1, len(windows.corners)):
            v, u = windows.corners[j]
            if abs(v - y) < height and abs(u - x) < width:
                rows, columns = height - abs(v - y), width - abs(u - x)
                a = numbered[i, max(v - y, 0) :, max(u - x, 0) :][:rows, :columns]
                b = numbered[j, max(y - v, 0) :, max(x - u, 0) :][:rows, :columns]
                for one, other in _same(a, b, threshold):
                    parent[_root(parent, one)] = _root(parent, other)
    roots = torch.tensor([_root(parent, k) for k in range(len(parent))])
    whole = assemble(roots[numbered].unsqueeze(0), windows)[0]
    present = torch.zeros(len(parent), dtype=torch.bool)
    present[whole.flatten()] = True
    present[0] = False
    return torch.where(present, present.cumsum(0), 0)[whole]


def _starts(side: int, length: int, step: int) -> Sequence[int]:
    return [*range(0, side - length, step), side - length]


def _same(a: Tensor, b: Tensor, threshold: float) -> list[tuple[int, int]]:
    """Pairs of numbers whose pixels in two equal views agree to more than the threshold."""
    wide = int(b.max()) + 1
    pairs, both = torch.unique(a.flatten() * wide + b.flatten(), return_counts=True)
    one, other = pairs // wide, pairs % wide
    area_a = torch.zeros(int(a.max()) + 1, dtype=torch.int64).index_add_(0, one, both)
    area_b = torch.zeros(wide, dtype=torch.int64).index_add_(0, other, both)
    agree = both / (area_a[one] + area_b[other] - both) > threshold
    agree &= (one > 0) & (other > 0)
    return list(zip(one[agree].tolist(), other[agree].tolist(), strict=True))


def _root(parent: list[int], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number
