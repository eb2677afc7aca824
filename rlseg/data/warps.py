"""Where each pixel of a warped picture comes from: smooth maps of coordinates, 2-D.

Coordinates are float [2, H, W], rows and columns in pixels of the source, pixel centres at whole
numbers. Every function maps the coordinates it gets to others, so that warps can be chained and the
picture is sampled once, at the end.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GRID_STEPS = 5  # cells per axis of a grid distortion


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def window_coordinates(start: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Coordinates of the pixels of a window: float [2, h, w]."""
    rows = torch.arange(start[0], start[0] + size[0], dtype=torch.float32)
    columns = torch.arange(start[1], start[1] + size[1], dtype=torch.float32)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


def shift_scale_rotate(
    at: Tensor, sides: tuple[int, int], shift: tuple[float, float], scale: float, degrees: float
) -> Tensor:
    """Coordinates after enlarging by `scale`, turning, and moving by `shift` shares of the sides.

    Args:
        at: float [2, H, W].
        sides: of the source picture; its centre stays in place but for the shift.
        shift: shares of height and width by which the content moves.
        scale: above 1 enlarges the content.
        degrees: turns the content counter-clockwise as seen on a screen.
    """
    middle = _middle(sides)
    moved = (
        at
        - middle
        - torch.tensor([s * side for s, side in zip(shift, sides, strict=True)])[:, None, None]
    )
    angle = math.radians(degrees)
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    row = cosine * moved[0] + sine * moved[1]
    column = -sine * moved[0] + cosine * moved[1]
    return torch.stack((row, column)) + middle


def elastic(
    at: Tensor,
    sides: tuple[int, int],
    *,
    alpha: float,
    sigma: float,
    affine: float,
    generator: torch.Generator,
) -> Tensor:
    """Coordinates moved by smoothed noise and by a random affine map.

    Args:
        at: float [2, H, W].
        sides: of the source picture.
        alpha: factor on uniform noise from [-1, 1], smoothed by a Gaussian; in pixels.
        sigma: of the Gaussian, in pixels.
        affine: three points around the centre each move by up to this many pixels.
        generator: of all numbers.
    """
    middle, reach = _middle(sides), min(sides) / 3
    corners = torch.tensor([[reach, reach], [reach, -reach], [-reach, -reach]])
    moved = corners + affine * (2 * torch.rand(3, 2, generator=generator) - 1)
    ones = torch.ones(3, 1)
    matrix = torch.linalg.solve(torch.cat((corners, ones), 1), moved)  # [3, 2]
    centred = (at - middle).movedim(0, -1)  # [H, W, 2]
    mapped = (centred @ matrix[:2] + matrix[2]).movedim(-1, 0) + middle
    noise = 2 * torch.rand(at.shape, generator=generator) - 1
    result: Tensor = mapped + alpha * gaussian_blur(noise, sigma)
    return result


def grid_distortion(
    at: Tensor, sides: tuple[int, int], limit: float, generator: torch.Generator
) -> Tensor:
    """Coordinates on a grid whose columns and rows have random widths; the border stays in place.

    Args:
        at: float [2, H, W].
        sides: of the source picture.
        limit: cell widths vary by this share.
        generator: of all numbers.
    """
    axes = []
    for axis, side in enumerate(sides):
        widths = 1 + limit * (2 * torch.rand(GRID_STEPS, generator=generator) - 1)
        knots = torch.cat((torch.zeros(1), widths.cumsum(0))) / widths.sum()  # [G + 1]
        place = (at[axis] + 0.5) / side * GRID_STEPS
        cell = place.floor().clamp(0, GRID_STEPS - 1).long()
        along = knots[cell] + (place - cell) * (knots[cell + 1] - knots[cell])
        axes.append(along * side - 0.5)
    return torch.stack(axes)


def optical_distortion(at: Tensor, sides: tuple[int, int], strength: float) -> Tensor:
    """Coordinates seen through a lens: pincushion or barrel by the sign of `strength`.

    With x the offset from the centre in shares of the sides, x' = x (1 + k |x|^2 + k |x|^4).
    """
    middle = _middle(sides)
    scale = torch.tensor([float(side) for side in sides])[:, None, None]
    offset = (at - middle) / scale
    squared = offset.square().sum(0)
    return offset * (1 + strength * (squared + squared.square())) * scale + middle


def sample_nearest(picture: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest pixel of `picture` [*C, H, W] at every place, and whether there is one."""
    height, width = picture.shape[-2:]
    rows, columns = (at + 0.5).floor().long().unbind(0)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    return picture.flatten(-2)[..., index], inside


def sample_linear(picture: Tensor, at: Tensor) -> Tensor:
    """Float [C, h, w]: bilinear mixture of the four pixels around every place, 0 outside."""
    height, width = picture.shape[-2:]
    scale = torch.tensor([2.0 / height, 2.0 / width])[:, None, None]
    grid = ((at + 0.5) * scale - 1).flip(0).movedim(0, -1)[None]  # x before y
    return torch.nn.functional.grid_sample(picture[None], grid, align_corners=False)[0]


def gaussian_blur(planes: Tensor, sigma: float) -> Tensor:
    """Float [C, H, W]: every plane blurred on its own, borders repeated."""
    reach = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=planes.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = torch.nn.functional.pad(planes[:, None], (reach,) * 4, mode="replicate")
    rows = torch.nn.functional.conv2d(padded, kernel[None, None, :, None])
    return torch.nn.functional.conv2d(rows, kernel[None, None, None, :])[:, 0]


def box_blur(planes: Tensor, size: int) -> Tensor:
    """Float [C, *S]: mean over a window of odd `size`, borders repeated; two or three axes."""
    reach = size // 2
    space = planes.ndim - 1
    padded = torch.nn.functional.pad(planes[None], (reach,) * (2 * space), mode="replicate")
    pool = torch.nn.functional.avg_pool2d if space == 2 else torch.nn.functional.avg_pool3d
    return pool(padded, size, stride=1)[0]


def _middle(sides: tuple[int, int]) -> Tensor:
    return torch.tensor([(side - 1) / 2 for side in sides])[:, None, None]
