"""`Cells`: touching and overlapping cells, seeded and versioned."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlseg.data.base import Advance, Problem, Splits, digest_of
from rlseg.data.labels import compact
from rlseg.data.memory import InMemory
from rlseg.data.synthetic.drawing import Box, Ints, Pixels, largest_pieces
from rlseg.data.synthetic.scenes import GeneratedInstances
from rlseg.errors import ConfigError

VERSION = "cells/1"
"""Any change of a drawn number is a new version: published scores name it."""

NEIGHBOUR_CHANCE = 0.6  # that a cell is placed beside an earlier one
MIN_VISIBLE = 16  # pixels; what is left of a nearly covered cell below this is erased
RIM = 0.022  # rim width as a share of the image side: 1.4 px at 64
WOBBLES = (2, 3, 4)  # lobes around the outline
VECTOR = 64  # numbers: a multiple of what processors compute at a time

needs_root = False


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the generated cells."""

    size: int = 64
    """Side of the square image in pixels; shapes scale with it."""
    min_cells: int = 5
    """Fewest cells drawn per scene (some may end up covered)."""
    max_cells: int = 13
    """Most cells drawn per scene."""
    train: int = 256
    """Scenes to train on."""
    valid: int = 64
    """Scenes for choosing checkpoints and thresholds."""
    tune: int = 64
    """Scenes for tuning baselines, apart from `valid`."""
    test: int = 64
    """Scenes for the final scores."""
    seed: int = 0
    """Seed of all scenes; splits never share one."""

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 1024:
            raise ConfigError(f"size must be in 32..1024 pixels, got {self.size}")
        if not 1 <= self.min_cells <= self.max_cells <= 200:
            raise ConfigError(
                "need 1 <= min_cells <= max_cells <= 200, got "
                f"min_cells = {self.min_cells}, max_cells = {self.max_cells}"
            )
        for name in Cells.splits:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1 scene, got {getattr(self, name)}")


class Cells(GeneratedInstances):
    """Scenes of touching and overlapping textured cells, grey, with the visible parts as truth."""

    citation: ClassVar[str] = f"rlseg generated scenes, version {VERSION}"
    version: ClassVar[str] = VERSION

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        options = self.options
        image, labels = draw_cells(
            options.size, options.min_cells, options.max_cells, generator=generator
        )
        return image[None], labels


DATASET = Cells


def open_splits(root: Path | None, options: Options) -> Splits:
    """The four splits; `root` is not used, because nothing is read."""
    return Splits(
        dataset="cells",
        task="instance",
        ndim=2,
        channels=1,
        parts={name: InMemory(Cells(name, options)) for name in Cells.splits},
        digest=digest_of(VERSION, asdict(options)),
    )


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Nothing can be wrong with generated scenes: always empty."""
    return []


@dataclass(frozen=True, kw_only=True)
class _Outlines:
    """All cells of a scene, float32, in the order in which they are drawn."""

    centre: Pixels
    """[N, 2], y and x in pixels."""
    radius: Pixels
    """[N, 2], half axes in pixels."""
    angle: Pixels
    """[N]."""
    wobble: Pixels
    """[N, W], amplitude per number of lobes, as a share of the radius."""
    phase: Pixels
    """[N, W]."""

    def mean_radius(self) -> Pixels:
        """[N], of the circle with the area of the ellipse."""
        return _root(self.radius[:, 0] * self.radius[:, 1])


def draw_cells(
    size: int, min_cells: int, max_cells: int, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One scene and its truth.

    Later cells cover earlier ones. A cell cut in two by the cells above it keeps its largest
    4-connected piece; smaller pieces, and cells with fewer than `MIN_VISIBLE` pixels left, are
    erased from the picture too, so that picture and truth always agree.

    Args:
        size: side in pixels.
        min_cells: fewest cells drawn.
        max_cells: most cells drawn.
        generator: all numbers come from here.

    Returns:
        image float32 [H, W] in [0, 1] in steps of 1/255; labels int64 [H, W], 1..N, each one
        4-connected piece, in the order of drawing.
    """
    count = int(torch.randint(min_cells, max_cells + 1, (), generator=generator))
    outlines = _place(size, count, generator)
    boxes = _boxes(size, outlines)
    top, depth = np.zeros((size, size), dtype=np.int64), np.zeros((size, size), dtype=np.float32)
    depths = _depths(size, boxes, outlines)
    for cell, (box, own) in enumerate(zip(boxes, depths, strict=True), start=1):
        inside = own > 0
        np.copyto(top[box], cell, where=inside)
        np.copyto(depth[box], own, where=inside)
    labels = largest_pieces(top, MIN_VISIBLE)
    image = _paint(labels, depth, boxes, outlines, generator)
    return image.mul_(255).round_().div_(255), compact(torch.from_numpy(labels))


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Pixels:
    return np.asarray(low + (high - low) * torch.rand(shape, generator=generator).numpy())


def _root(values: Pixels) -> Pixels:
    """Square roots by torch: in float32 they may differ from numpy's in the last bit."""
    return np.asarray(torch.from_numpy(values).sqrt().numpy())


def _place(size: int, count: int, generator: torch.Generator) -> _Outlines:
    mean_radius = size * _uniform(generator, 0.08, 0.165, count)
    stretch = _root(_uniform(generator, 1.0, 1.9, count))
    radius = np.stack((mean_radius / stretch, mean_radius * stretch), axis=1)  # [N, 2]
    centre = size * _uniform(generator, 0.08, 0.92, count, 2)
    beside = torch.rand(count, generator=generator).numpy() < NEIGHBOUR_CHANCE
    direction = torch.from_numpy(_uniform(generator, 0.0, 2 * math.pi, count))
    closeness = _uniform(generator, 0.75, 1.05, count)
    choice = torch.rand(count, generator=generator).numpy()
    way = torch.stack((direction.sin(), direction.cos()), dim=1).numpy()
    for k in range(1, count):
        if beside[k]:
            j = int(choice[k] * k)
            step = closeness[k] * (mean_radius[j] + mean_radius[k]) * way[k]
            inside = centre[j] + step
            # A neighbour that would leave the picture goes to the opposite side.
            out = (inside < 0.05 * size) | (inside > 0.95 * size)
            centre[k] = np.where(out, centre[j] - step, inside)
    return _Outlines(
        centre=centre,
        radius=radius,
        angle=_uniform(generator, 0.0, math.pi, count),
        wobble=_uniform(generator, 0.0, 0.09, count, len(WOBBLES)),
        phase=_uniform(generator, 0.0, 2 * math.pi, count, len(WOBBLES)),
    )


def _boxes(size: int, outlines: _Outlines) -> list[Box]:
    """The part of the image that each cell can reach, with a pixel to spare; it may be empty."""
    cosine, sine = np.cos(outlines.angle), np.sin(outlines.angle)
    short, long = outlines.radius.T
    half = np.hypot((cosine * short, sine * short), (sine * long, cosine * long)).T  # [N, 2]
    half *= 1 + outlines.wobble.sum(axis=1, keepdims=True)
    low = np.clip(np.floor(outlines.centre - half - 1), 0, size).astype(int).tolist()
    high = np.clip(np.ceil(outlines.centre + half + 1), 0, size).astype(int).tolist()
    return [(slice(a, c), slice(b, d)) for (a, b), (c, d) in zip(low, high, strict=True)]


def _depths(size: int, boxes: list[Box], outlines: _Outlines) -> list[Pixels]:
    """Float32 on each box: about the distance to the outline in pixels, positive inside the cell.

    All boxes are computed in one go, end to end.
    """
    sides = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in boxes]
    areas = [height * width for height, width in sides]
    ends = list(accumulate(areas))
    # The tail of an array that is no whole number of vectors may get other last bits from atan2.
    places = torch.ones((2, -(-ends[-1] // VECTOR) * VECTOR))
    across, along = places.numpy()
    axis = np.arange(size, dtype=np.float32) + 0.5
    angle = torch.from_numpy(outlines.angle)
    turns = zip(angle.cos().numpy(), angle.sin().numpy(), strict=True)
    for k, (cosine, sine) in enumerate(turns):
        rows, columns = boxes[k]
        y = (axis[rows] - outlines.centre[k, 0])[:, None]
        x = axis[columns] - outlines.centre[k, 1]
        own = slice(ends[k] - areas[k], ends[k])
        v, u = across[own].reshape(sides[k]), along[own].reshape(sides[k])
        np.subtract(cosine * y, sine * x, out=v)
        v /= outlines.radius[k, 0]
        np.add(sine * y, cosine * x, out=u)
        u /= outlines.radius[k, 1]
    theta = torch.atan2(places[0], places[1])[: ends[-1]]
    outline = torch.ones_like(theta).numpy()
    for k, lobes in enumerate(WOBBLES):
        wave = lobes * theta
        wave += torch.from_numpy(np.repeat(outlines.phase[:, k], areas))
        wave.cos_()
        outline += np.repeat(outlines.wobble[:, k], areas) * wave.numpy()
    outline -= torch.hypot(places[1], places[0]).numpy()[: ends[-1]]
    outline *= np.repeat(outlines.mean_radius(), areas)
    parts = np.split(outline, ends[:-1])
    return [part.reshape(side) for part, side in zip(parts, sides, strict=True)]


def _paint(
    labels: Ints, depth: Pixels, boxes: list[Box], outlines: _Outlines, generator: torch.Generator
) -> Tensor:
    """Float [H, W] in [0, 1]: background, then each cell with grey level, texture and rim."""
    count, size = len(boxes), len(labels)
    coarse = _uniform(generator, -1.0, 1.0, 4, 4)
    image = _uniform(generator, 0.10, 0.18) + np.float32(0.04) * _enlarge(coarse, size)
    level = _uniform(generator, 0.55, 0.95, count)
    grain = _uniform(generator, -1.0, 1.0, count, size // 4, size // 4)
    strength = _uniform(generator, 0.02, 0.09, count)
    seen = labels > 0
    own = labels[seen] - 1  # [P], of the pixels in any cell
    depth = depth[seen]
    dome = depth / outlines.mean_radius()[own]
    dome = 0.88 + 0.12 * _root(np.minimum(np.maximum(dome, 0), 1))
    rim = 1 - depth / np.float32(RIM * size)
    rim = 1 - np.float32(0.4) * np.minimum(np.maximum(rim, 0), 1)
    texture = np.empty((size, size), dtype=np.float32)
    for k in np.flatnonzero(np.bincount(own)).tolist():
        fine = _texture(grain[k], boxes[k], size)
        np.copyto(texture[boxes[k]], fine, where=labels[boxes[k]] == k + 1)
    image[seen] = (level[own] * dome + strength[own] * texture[seen]) * rim
    noise = torch.randn(size, size, generator=generator)
    return noise.mul_(0.025).add_(_blur(torch.from_numpy(image), 0.008 * size)).clamp_(0, 1)


def _texture(coarse: Pixels, box: Box, size: int) -> Pixels:
    """What `_enlarge` gives on a box, computed on little more than the box where that is equal."""
    if size % 4:  # where knots lie between pixels differs from place to place
        return _enlarge(coarse, size)[box]
    # Each pixel depends on the two knots to either side of it.
    first = [max(part.start // 4 - 2, 0) for part in box]
    last = [min((part.stop - 1) // 4 + 3, size // 4) for part in box]
    sides = [4 * (b - a) for a, b in zip(first, last, strict=True)]
    fine = _enlarge(coarse[first[0] : last[0], first[1] : last[1]], *sides)
    rows, columns = (
        slice(p.start - 4 * a, p.stop - 4 * a) for p, a in zip(box, first, strict=True)
    )
    return fine[rows, columns]


def _enlarge(coarse: Pixels, *sides: int) -> Pixels:
    """Float [*sides], smoothly interpolated from a coarse grid [h, w]; one side = a square."""
    fine = functional.interpolate(
        torch.from_numpy(coarse)[None, None],
        size=(sides[0], sides[-1]),
        mode="bicubic",
        align_corners=False,
    )
    return np.asarray(fine[0, 0].numpy())


@lru_cache(maxsize=16)
def _gaussian(reach: int, sigma: float) -> Tensor:
    """Float [2 * reach + 1] of sum 1."""
    offsets = torch.arange(-reach, reach + 1).float()
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return kernel / kernel.sum()


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Float [H, W]: Gaussian blur with repeated borders."""
    reach = max(1, math.ceil(3 * sigma))
    kernel = _gaussian(reach, sigma)
    padded = functional.pad(image[None, None], (reach,) * 4, mode="replicate")
    rows = functional.conv2d(padded, kernel[None, None, :, None])
    return functional.conv2d(rows, kernel[None, None, None, :])[0, 0]
