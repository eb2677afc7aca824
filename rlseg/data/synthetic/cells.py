"""`Cells`: touching and overlapping cells, seeded and versioned."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlseg.data.base import Advance, Problem, Splits, digest_of
from rlseg.data.labels import compact
from rlseg.data.memory import InMemory
from rlseg.data.samples import InstanceSample
from rlseg.data.seeds import named_generator
from rlseg.data.synthetic.drawing import largest_pieces
from rlseg.errors import ConfigError

VERSION = "cells/1"
"""Any change of a drawn number is a new version: published scores name it."""

NEIGHBOUR_CHANCE = 0.6  # that a cell is placed beside an earlier one
MIN_VISIBLE = 16  # pixels; what is left of a nearly covered cell below this is erased
RIM = 0.022  # rim width as a share of the image side: 1.4 px at 64
WOBBLES = (2, 3, 4)  # lobes around the outline

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


class Cells:
    """Scenes of touching and overlapping textured cells, grey, with the visible parts as truth."""

    layout: ClassVar[str] = "generated, no files"
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "tune", "test")
    classes: ClassVar[tuple[str, ...]] = ()
    citation: ClassVar[str] = f"rlseg generated scenes, version {VERSION}"
    how_to_get: ClassVar[str] = "Nothing to get: scenes are drawn from a seed when asked for."
    terms: ClassVar[str] = "None: nobody else's work is in the scenes."

    def __init__(self, split: str, options: Options) -> None:
        self.split = split
        self.options = options
        self._count = int(getattr(options, split))

    def __len__(self) -> int:
        """Number of scenes."""
        return self._count

    def __getitem__(self, index: int) -> InstanceSample:
        """Scene `index`: image float32 [1, H, W] in steps of 1/255."""
        if not 0 <= index < self._count:
            raise IndexError(f"scene {index} of {self._count}")
        options = self.options
        generator = named_generator(options.seed, VERSION, self.split, index)
        image, labels = draw_cells(
            options.size, options.min_cells, options.max_cells, generator=generator
        )
        return InstanceSample(
            image=image[None],
            labels=labels,
            valid=torch.ones_like(labels, dtype=torch.bool),
            name=f"cells_{self.split}_{index:04d}",
        )


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
    centre: Tensor
    """Float [N, 2], y and x in pixels."""
    radius: Tensor
    """Float [N, 2], half axes in pixels."""
    angle: Tensor
    """Float [N]."""
    wobble: Tensor
    """Float [N, W], amplitude per number of lobes, as a share of the radius."""
    phase: Tensor
    """Float [N, W]."""


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
    depth = _depth(size, outlines)
    labels = _visible(depth)
    image = _paint(labels, depth, outlines, generator)
    return (image * 255).round() / 255, compact(labels)


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _place(size: int, count: int, generator: torch.Generator) -> _Outlines:
    mean_radius = size * _uniform(generator, 0.08, 0.165, count)
    stretch = _uniform(generator, 1.0, 1.9, count).sqrt()
    radius = torch.stack((mean_radius / stretch, mean_radius * stretch), dim=1)  # [N, 2]
    centre = size * _uniform(generator, 0.08, 0.92, count, 2)
    beside = torch.rand(count, generator=generator) < NEIGHBOUR_CHANCE
    direction = _uniform(generator, 0.0, 2 * math.pi, count)
    closeness = _uniform(generator, 0.75, 1.05, count)
    choice = torch.rand(count, generator=generator)
    for k in range(1, count):
        if beside[k]:
            j = int(choice[k] * k)
            step = closeness[k] * (mean_radius[j] + mean_radius[k])
            way = torch.stack((direction[k].sin(), direction[k].cos()))
            inside = centre[j] + step * way
            # A neighbour that would leave the picture goes to the opposite side.
            out = (inside < 0.05 * size) | (inside > 0.95 * size)
            centre[k] = centre[j] + step * way * torch.where(out, -1.0, 1.0)
    return _Outlines(
        centre=centre,
        radius=radius,
        angle=_uniform(generator, 0.0, math.pi, count),
        wobble=_uniform(generator, 0.0, 0.09, count, len(WOBBLES)),
        phase=_uniform(generator, 0.0, 2 * math.pi, count, len(WOBBLES)),
    )


def _depth(size: int, outlines: _Outlines) -> Tensor:
    """Float [N, H, W]: about the distance to the outline in pixels, positive inside the cell."""
    axis = torch.arange(size) + 0.5
    y = axis[None, :, None] - outlines.centre[:, 0, None, None]
    x = axis[None, None, :] - outlines.centre[:, 1, None, None]
    cosine = outlines.angle.cos()[:, None, None]
    sine = outlines.angle.sin()[:, None, None]
    v = (cosine * y - sine * x) / outlines.radius[:, 0, None, None]
    u = (sine * y + cosine * x) / outlines.radius[:, 1, None, None]
    theta = torch.atan2(v, u)  # [N, H, W]
    outline = torch.ones_like(theta)
    for k, lobes in enumerate(WOBBLES):
        shift = outlines.phase[:, k, None, None]
        outline += outlines.wobble[:, k, None, None] * torch.cos(lobes * theta + shift)
    mean_radius = outlines.radius.prod(dim=1).sqrt()[:, None, None]
    return (outline - torch.hypot(u, v)) * mean_radius


def _visible(depth: Tensor) -> Tensor:
    """int64 [H, W]: the topmost cell per pixel (1..N, gaps where a cell is gone)."""
    inside = (depth > 0).numpy()
    top = np.zeros(inside.shape[1:], dtype=np.int64)
    for cell, mask in enumerate(inside, start=1):
        top[mask] = cell
    return torch.from_numpy(largest_pieces(top, MIN_VISIBLE))


def _paint(
    labels: Tensor, depth: Tensor, outlines: _Outlines, generator: torch.Generator
) -> Tensor:
    """Float [H, W] in [0, 1]: background, then each cell with grey level, texture and rim."""
    count, size = len(depth), labels.shape[0]
    coarse = _uniform(generator, -1.0, 1.0, 1, 1, 4, 4)
    background = _uniform(generator, 0.10, 0.18) + 0.04 * _enlarge(coarse, size)
    level = _uniform(generator, 0.55, 0.95, count)
    grain = _enlarge(_uniform(generator, -1.0, 1.0, 1, count, size // 4, size // 4), size)
    strength = _uniform(generator, 0.02, 0.09, count)
    mean_radius = outlines.radius.prod(dim=1).sqrt()
    own = (labels - 1).clamp(min=0)  # [H, W]; what is computed of the background is not used
    depth = depth.gather(0, own[None])[0]
    grain = grain.reshape(count, size, size).gather(0, own[None])[0]
    dome = 0.88 + 0.12 * (depth / mean_radius[own]).clamp(0, 1).sqrt()
    rim = 1 - 0.4 * (1 - depth / (RIM * size)).clamp(0, 1)
    cells = (level[own] * dome + strength[own] * grain) * rim
    image = torch.where(labels > 0, cells, background)
    image = _blur(image, sigma=0.008 * size)
    return (image + 0.025 * torch.randn(size, size, generator=generator)).clamp(0, 1)


def _enlarge(coarse: Tensor, size: int) -> Tensor:
    """Float [..., H, W] without its batch axis, smoothly interpolated from a coarse grid."""
    fine = functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return fine[0, 0] if fine.shape[1] == 1 else fine[0]


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Float [H, W]: Gaussian blur with repeated borders."""
    reach = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-reach, reach + 1).float()
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(image[None, None], (reach,) * 4, mode="replicate")
    rows = functional.conv2d(padded, kernel[None, None, :, None])
    return functional.conv2d(rows, kernel[None, None, None, :])[0, 0]
