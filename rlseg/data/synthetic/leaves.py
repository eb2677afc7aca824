"""`Leaves`: rosettes of overlapping leaves seen from above, seeded and versioned."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rlseg.data.base import Advance, Problem, Splits, digest_of
from rlseg.data.labels import compact
from rlseg.data.memory import InMemory
from rlseg.data.synthetic.drawing import (
    Floats,
    Ints,
    Pixels,
    eight_bits,
    grain,
    largest_pieces,
    number,
    smooth_field,
    soften,
    uniform,
    whole,
)
from rlseg.data.synthetic.leaves_outline import SHADOW, Leaf, Shapes, outline, reach
from rlseg.data.synthetic.scenes import GeneratedInstances
from rlseg.errors import ConfigError

VERSION = "leaves/1"
"""Any change of a drawn number is a new version: published scores name it."""

MIN_VISIBLE = 12  # pixels at 64; what is left of a nearly covered leaf below this is erased
PLANT_CHANCES = (0.45, 0.30, 0.15, 0.10)  # of one, two, three and four plants
LEAVES_PER_PLANT = 2  # fewest
SPANS = ((0.0, 0.0), (0.20, 0.45), (0.34, 0.60), (0.48, 0.75))  # of the row, first to last plant
TURNS = ((math.sqrt(5) - 1) / 2, 0.5, 0.25)
"""From one leaf to the next: a spiral, two rows, four rows. In rows the young lie on the old."""
PARTIAL_CHANCE = 0.80  # that a rosette has leaves on one side only
LENGTHS = (
    (0.42, 0.60),
    (0.34, 0.54),
    (0.28, 0.46),
    (0.24, 0.40),
)  # of the oldest leaf, by number of plants
LEAF_COLOUR = np.array([0.27, 0.50, 0.13])
YOUNG_COLOUR = np.array([0.42, 0.62, 0.22])
RIB_COLOUR = (0.66, 0.74, 0.44)
SOIL_COLOUR = (0.36, 0.27, 0.20)
MOSS_COLOUR = (0.26, 0.38, 0.15)
MIDRIB = 0.012  # half width as a share of the image side

needs_root = False


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the generated rosettes."""

    size: int = 64
    """Side of the square image in pixels; shapes scale with it."""
    min_leaves: int = 4
    """Fewest leaves drawn per scene (some may end up covered)."""
    max_leaves: int = 15
    """Most leaves drawn per scene."""
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
        if not LEAVES_PER_PLANT <= self.min_leaves <= self.max_leaves <= 60:
            raise ConfigError(
                f"need {LEAVES_PER_PLANT} <= min_leaves <= max_leaves <= 60, got "
                f"min_leaves = {self.min_leaves}, max_leaves = {self.max_leaves}"
            )
        for name in Leaves.splits:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1 scene, got {getattr(self, name)}")


class Leaves(GeneratedInstances):
    """Rosettes in colour on soil: younger leaves lie over older ones; visible parts are truth."""

    citation: ClassVar[str] = f"rlseg generated scenes, version {VERSION}"
    version: ClassVar[str] = VERSION

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        options = self.options
        return draw_leaves(
            options.size, options.min_leaves, options.max_leaves, generator=generator
        )


DATASET = Leaves


def open_splits(root: Path | None, options: Options) -> Splits:
    """The four splits; `root` is not used, because nothing is read."""
    return Splits(
        dataset="leaves",
        task="instance",
        ndim=2,
        channels=3,
        parts={name: InMemory(Leaves(name, options)) for name in Leaves.splits},
        digest=digest_of(VERSION, asdict(options)),
    )


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Nothing can be wrong with generated scenes: always empty."""
    return []


def draw_leaves(
    size: int, min_leaves: int, max_leaves: int, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One scene and its truth.

    One to four plants in a row, each with at least two leaves; a plant's younger (smaller, paler)
    leaves cover its older ones, and plants cover each other. A leaf cut in pieces by the leaves
    above it keeps its largest 4-connected piece; the others, and leaves of which hardly anything
    is left, are erased from the picture too, so that picture and truth always agree.

    Args:
        size: side in pixels.
        min_leaves: fewest leaves drawn.
        max_leaves: most leaves drawn.
        generator: all numbers come from here.

    Returns:
        image float32 [3, H, W] in [0, 1] in steps of 1/255; labels int64 [H, W], 1..N, each one
        4-connected piece, in the order of drawing.
    """
    count = max(whole(generator, min_leaves, max_leaves) for _ in range(2))
    shapes = _grow(size, count, generator)
    leaves = [outline(size, shapes, k, box) for k, box in enumerate(reach(size, shapes))]
    top = np.zeros((size, size), dtype=np.int64)
    for k, leaf in enumerate(leaves, start=1):
        np.copyto(top[leaf.box], k, where=leaf.depth > 0)
    labels = _visible(top, leaves, round(MIN_VISIBLE * (size / 64) ** 2))
    canvas = _soil(size, generator)
    for seen in np.flatnonzero(np.bincount(labels.ravel())[1:]):
        _paint(canvas, labels, leaves[seen], shapes, int(seen))
    canvas = soften(canvas, size // 96)
    dust = grain(generator, size, size)
    dust *= 0.022
    canvas += dust
    return eight_bits(canvas), compact(torch.from_numpy(labels))


def _grow(size: int, count: int, generator: torch.Generator) -> Shapes:
    """The leaves of all plants, oldest first within each plant."""
    wanted = 1 + int(np.searchsorted(np.cumsum(PLANT_CHANCES)[:-1], number(generator, 0, 1)))
    plants = min(wanted, count // LEAVES_PER_PLANT)
    owner = _share_out(count, plants, generator)
    rank = np.concatenate([np.arange(n) for n in np.bincount(owner, minlength=plants)])
    age = rank / np.bincount(owner)[owner]  # 0 = oldest of its plant
    centre = size * _row(plants, generator)
    far = uniform(generator, *LENGTHS[plants - 1], plants)[owner]
    uneven = np.exp(uniform(generator, math.log(0.35), math.log(1.40), count))
    partial = uniform(generator, 0, 1, plants) < PARTIAL_CHANCE
    arc = np.where(partial, uniform(generator, 0.10, 0.40, plants), 1.0)[owner]
    start = uniform(generator, 0, 2 * math.pi, plants)[owner]
    step = np.array(TURNS)[uniform(generator, 0, len(TURNS), plants).astype(int)][owner]
    turn = (rank * step + uniform(generator, -0.07, 0.07, count)) % 1.0
    paleness = np.clip(0.75 * age + uniform(generator, -0.15, 0.15, count), 0, 1)[:, None]
    tint = uniform(generator, 0.88, 1.12, plants, 3)[owner]
    brightness = uniform(generator, 0.80, 1.18, count)[:, None]
    shapes = Shapes(
        base=centre[owner],
        angle=start + 2 * math.pi * arc * turn,
        length=np.maximum(size * far * (1 - 0.60 * age) * uneven, 0.10 * size),
        half_width=uniform(generator, 0.18, 0.40, count),
        petiole=uniform(generator, 0.10, 0.36, count),
        bend=uniform(generator, -0.28, 0.28, count),
        skew=uniform(generator, -0.5, 0.7, count),
        colour=(LEAF_COLOUR + paleness * (YOUNG_COLOUR - LEAF_COLOUR)) * tint * brightness,
        veins=np.stack(
            (uniform(generator, 5, 9, count), uniform(generator, 0.02, 0.07, count)), axis=1
        ),
    )
    height = age + uniform(generator, 0, 0.8, plants)[owner]
    order = np.argsort(height, kind="stable")
    return Shapes(**{name: values[order] for name, values in vars(shapes).items()})


def _share_out(count: int, plants: int, generator: torch.Generator) -> Ints:
    """int64 [count]: plant of each leaf, ascending, at least `LEAVES_PER_PLANT` for each."""
    given = np.repeat(np.arange(plants), LEAVES_PER_PLANT)
    weight = np.cumsum(uniform(generator, 0, 1, plants) ** 2 + 0.05)
    free = np.searchsorted(weight, weight[-1] * uniform(generator, 0, 1, count - len(given)))
    return np.sort(np.concatenate((given, free)))


def _row(plants: int, generator: torch.Generator) -> Floats:
    """Float [plants, 2] in [0, 1]: centres along a sown row, never quite on its line."""
    way = number(generator, 0, 2 * math.pi)
    place = np.linspace(-0.5, 0.5, plants) if plants > 1 else np.zeros(1)
    along = place * number(generator, *SPANS[plants - 1]) + uniform(generator, -0.05, 0.05, plants)
    beside = uniform(generator, -0.06, 0.06, plants)
    middle = uniform(generator, 0.36, 0.64, 2)
    offset = along[:, None] * [math.sin(way), math.cos(way)]
    offset += beside[:, None] * [math.cos(way), -math.sin(way)]
    return np.clip(middle + offset, 0.10, 0.90)


def _visible(top: Ints, leaves: list[Leaf], min_size: int) -> Ints:
    """int64 [H, W]: what stays of the leaves, given the topmost one per pixel (1..N)."""
    labels = largest_pieces(top, min_size)
    gone = (top > 0) & (labels == 0)
    if not gone.any():
        return labels
    for k in np.flatnonzero(np.bincount(labels.ravel())[1:]):  # what lay below comes to light
        leaf = leaves[k]
        np.copyto(labels[leaf.box], k + 1, where=gone[leaf.box] & (leaf.depth > 0))
    return largest_pieces(labels, min_size)


def _paint(canvas: Pixels, labels: Ints, leaf: Leaf, shapes: Shapes, k: int) -> None:
    """Leaf `k` and the shadow around it onto the canvas, float [3, H, W]."""
    size = len(labels)
    depth, along, across = leaf.depth, leaf.along, leaf.across
    beside = np.abs(across)
    lit = math.copysign(0.10, math.sin(float(shapes.angle[k]) - 0.8))  # light from one side
    shade = _between(depth * (4 / size), 0, 0.20)  # darker towards the edge
    shade += 0.80
    shade += _between(across * (lit / (0.05 * size)), -0.10, 0.10)
    count, strength = shapes.veins[k].tolist()
    slope = beside * (1 / (0.6 * float(shapes.length[k])))
    slope -= along
    slope *= count  # one wave per vein
    slope -= np.rint(slope)
    slope *= slope
    slope *= 8 * strength
    np.subtract(strength, slope, out=slope)
    shade += slope
    beside *= 0.45 / (MIDRIB * size)
    rib = np.subtract(0.45, beside, out=beside)
    np.maximum(rib, 0, out=rib)
    np.copyto(rib, 0.45, where=along < 0)  # the stalk is as pale as the midrib
    cover = _between(depth + 0.5, 0, 1)
    np.copyto(cover, 0, where=(depth > 0) & (labels[leaf.box] < k + 1))  # a piece that was erased
    shadow = depth * (0.45 / (SHADOW * size))
    shadow += 0.45
    _between(shadow, 0, 0.45)
    shade *= cover
    rib *= shade
    shade -= rib
    patch = canvas[:, leaf.box[0], leaf.box[1]]
    np.subtract(1, shadow, out=shadow)
    shadow *= np.subtract(1, cover, out=cover)
    patch *= shadow
    patch += shapes.colour[k].astype(np.float32)[:, None, None] * shade
    patch += np.array(RIB_COLOUR, dtype=np.float32)[:, None, None] * rib


def _between(values: Pixels, low: float, high: float) -> Pixels:
    """The same array, clipped in place: half the time of `np.clip` on small arrays."""
    np.maximum(values, low, out=values)
    return np.asarray(np.minimum(values, high, out=values))


def _soil(size: int, generator: torch.Generator) -> Pixels:
    """Float32 [3, H, W]: crumbs, damp patches, and moss that is nearly as green as a leaf."""
    level = number(generator, 0.75, 1.15)
    damp = smooth_field(uniform(generator, -1, 1, 5, 5), size, size)
    moss = smooth_field(uniform(generator, -1, 1, 9, 9), size, size)
    crumbs = smooth_field(uniform(generator, -1, 1, 28, 28), size, size)
    fine = grain(generator, size, size)
    fine *= 0.35
    crumbs += fine
    moss *= 6
    moss -= 6 * number(generator, 0.1, 0.4)
    damp *= 0.25
    damp += 1
    crumbs *= 0.30
    damp += crumbs
    damp *= level
    light, green = damp, _between(moss, 0, 1)
    green *= light
    light -= green
    canvas = np.array(SOIL_COLOUR, dtype=np.float32)[:, None, None] * light
    canvas += np.array(MOSS_COLOUR, dtype=np.float32)[:, None, None] * green
    return canvas
