"""`Volumes`: packed cells and neurites as an electron microscope sees them, in three dimensions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
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
    eight_bits,
    grain,
    number,
    pieces,
    smooth_field,
    soften,
    uniform,
    whole,
)
from rlseg.data.synthetic.scenes import GeneratedInstances
from rlseg.errors import ConfigError

VERSION = "volumes/1"
"""Any change of a drawn number is a new version: published scores name it."""

MIN_VISIBLE = 40  # voxels at 64 x 64 and anisotropy 1; smaller bodies are erased
SEGMENTS = 4  # straight pieces of a neurite
NEURITE_CHANCE = 0.6
FAR = 1e3
MEMBRANE = 0.022  # half width of the membrane as a share of the side
GREY_BODY, GREY_MEMBRANE, GREY_OUTSIDE = 0.66, 0.20, 0.86
ORGANELLES = 3  # per body, at most

SLAB = 32768  # voxels worked on at a time: they fit into the caches of a processor

needs_root = False


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the generated volumes."""

    depth: int = 32
    """Slices."""
    size: int = 64
    """Side of the square slices in pixels; shapes scale with it."""
    anisotropy: float = 2.0
    """Distance of slices over the distance of pixels: 2 = bodies look flat along the first axis."""
    min_bodies: int = 14
    """Fewest cells and neurites placed per volume (some may end up covered)."""
    max_bodies: int = 22
    """Most cells and neurites placed per volume."""
    train: int = 48
    """Volumes to train on."""
    valid: int = 12
    """Volumes for choosing checkpoints and thresholds."""
    tune: int = 12
    """Volumes for tuning baselines, apart from `valid`."""
    test: int = 24
    """Volumes for the final scores."""
    seed: int = 0
    """Seed of all volumes; splits never share one."""

    def __post_init__(self) -> None:
        for name in ("depth", "size"):
            low = 8 if name == "depth" else 32
            if not low <= getattr(self, name) <= 256:
                raise ConfigError(f"{name} must be in {low}..256 voxels, got {getattr(self, name)}")
        if not 1 <= self.anisotropy <= 16:
            raise ConfigError(f"anisotropy must be in 1..16, got {self.anisotropy}")
        if not 2 <= self.min_bodies <= self.max_bodies <= 400:
            raise ConfigError(
                "need 2 <= min_bodies <= max_bodies <= 400, got "
                f"min_bodies = {self.min_bodies}, max_bodies = {self.max_bodies}"
            )
        for name in Volumes.splits:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1 volume, got {getattr(self, name)}")


class Volumes(GeneratedInstances):
    """Volumes of touching bodies with dark membranes, grey, as in electron microscopy."""

    citation: ClassVar[str] = f"rlseg generated scenes, version {VERSION}"
    version: ClassVar[str] = VERSION

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        image, labels = draw_volume(self.options, generator=generator)
        return image[None], labels


DATASET = Volumes


def open_splits(root: Path | None, options: Options) -> Splits:
    """The four splits; `root` is not used, because nothing is read."""
    return Splits(
        dataset="volumes",
        task="instance",
        ndim=3,
        channels=1,
        parts={name: InMemory(Volumes(name, options)) for name in Volumes.splits},
        digest=digest_of(VERSION, asdict(options)),
    )


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Nothing can be wrong with generated volumes: always empty."""
    return []


@dataclass(frozen=True, kw_only=True)
class _Tissue:
    """Which body each voxel is nearest to, in pixels of the slices."""

    nearest: Ints
    """[D, H, W], 1..N, also outside of all bodies; 0 far away."""
    first: Floats
    """[D, H, W], signed distance to the surface of the nearest body, negative inside."""
    second: Floats
    """[D, H, W], the same for the second nearest."""


@dataclass(frozen=True, kw_only=True)
class _Rod:
    """One straight piece of a body."""

    low: tuple[int, ...]
    """First voxel along each axis of the box that it can reach."""
    high: tuple[int, ...]
    """Behind the last voxel."""
    ends: Floats
    """[2, 3], pixels."""
    radius: Floats
    """[2], at both ends."""

    def between(self, start: int, stop: int) -> _Rod:
        """The same rod with its box cut to some slices."""
        low, high = max(self.low[0], start), min(self.high[0], stop)
        return replace(self, low=(low, *self.low[1:]), high=(high, *self.high[1:]))

    def empty(self) -> bool:
        """Whether its box has no voxel."""
        return any(low >= high for low, high in zip(self.low, self.high, strict=True))


def draw_volume(options: Options, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One volume and its truth.

    Bodies are chains of balls (neurites) or single balls (cells) in space warped by a smooth
    field; where two would overlap, the border lies half way. Labels include the membrane, so
    neighbours touch. A body cut in two by others counts as two; specks become membrane.

    Args:
        options: shape, anisotropy and number of bodies.
        generator: all numbers come from here.

    Returns:
        image float32 [D, H, W] in [0, 1] in steps of 1/255; labels int64 [D, H, W], 1..N.
    """
    places = _warped(options, generator)
    tissue = _fill(places, options, generator)
    labels = np.where(tissue.first <= 0, tissue.nearest, 0)
    small = MIN_VISIBLE * (options.size / 64) ** 3 / options.anisotropy
    labels = pieces(labels, round(small))
    return eight_bits(_paint(labels, tissue, options, generator)), compact(torch.from_numpy(labels))


def _warped(options: Options, generator: torch.Generator) -> Floats:
    """Float [3, D, H, W]: where each voxel looks in unwarped space, in pixels of the slices."""
    shape = (options.depth, options.size, options.size)
    bend = 0.05 * options.size * smooth_field(uniform(generator, -1.8, 1.8, 3, 4, 6, 6), *shape)
    z, y, x = np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij", sparse=True)
    bend[0] += z * options.anisotropy
    bend[1] += y
    bend[2] += x
    return np.asarray(bend)


def _chains(options: Options, generator: torch.Generator) -> tuple[Floats, Floats]:
    """Knots [N, SEGMENTS + 1, 3] of all bodies in pixels and their radii [N, SEGMENTS + 1]."""
    count = whole(generator, options.min_bodies, options.max_bodies)
    high = options.depth * options.anisotropy
    extent = np.array([high, options.size, options.size])
    # A new body takes, of several places, the one farthest from the bodies before it.
    offered = extent * uniform(generator, 0, 1, count, 5, 3)
    middle = offered[:, 0].copy()
    for k in range(1, count):
        apart = np.linalg.norm(offered[k][:, None] - middle[None, :k], axis=2).min(axis=1)
        middle[k] = offered[k, int(apart.argmax())]
    long = uniform(generator, 0, 1, count) < NEURITE_CHANCE
    way = 2 * uniform(generator, 0, 1, count, 3) - 1
    way /= np.linalg.norm(way, axis=1, keepdims=True) + 1e-9
    turns = np.cumsum(uniform(generator, -0.45, 0.45, count, SEGMENTS + 1, 3), axis=1)
    place = np.linspace(-1, 1, SEGMENTS + 1)[None, :, None]
    reach = options.size * uniform(generator, 0.30, 0.75, count) * long
    knots = middle[:, None] + reach[:, None, None] * (place * way[:, None] + 0.35 * turns)
    space = (float(extent.prod()) / count) ** (1 / 3)
    radius = space * np.where(
        long, uniform(generator, 0.34, 0.50, count), uniform(generator, 0.60, 0.88, count)
    )
    radii = radius[:, None] * uniform(generator, 0.75, 1.25, count, SEGMENTS + 1)
    return knots, radii


def _fill(places: Floats, options: Options, generator: torch.Generator) -> _Tissue:
    """Distances to the bodies, each computed on the box that it can reach, slab by slab."""
    shape = places.shape[1:]
    bodies = _bodies(shape, options, generator)
    tissue = _Tissue(
        nearest=np.zeros(shape, dtype=np.int64),
        first=np.full(shape, FAR),
        second=np.full(shape, FAR),
    )
    buffer = np.empty(shape)
    slices = max(SLAB // (shape[1] * shape[2]), 1)
    for start in range(0, shape[0], slices):
        for k, rods in enumerate(bodies, start=1):
            cut = [rod.between(start, start + slices) for rod in rods]
            _add(k, [rod for rod in cut if not rod.empty()], places, buffer, tissue)
    return tissue


def _bodies(
    shape: tuple[int, ...], options: Options, generator: torch.Generator
) -> list[list[_Rod]]:
    """The straight pieces of each body, with the boxes that they can reach."""
    # How far the warp takes a surface, and the membrane beside it.
    slack = 0.10 * options.size + 4 * MEMBRANE * options.size
    scale = np.array([options.anisotropy, 1.0, 1.0])
    bodies = []
    for chain, radius in zip(*_chains(options, generator), strict=True):
        margin = radius.max() + slack
        count = SEGMENTS if np.ptp(chain, axis=0).max() > 0 else 1
        ends = np.stack((chain[:-1], chain[1:]), axis=1)[:count]  # [R, 2, 3]
        low = np.clip(np.floor((ends.min(axis=1) - margin) / scale), 0, shape).astype(int).tolist()
        high = np.clip(np.ceil((ends.max(axis=1) + margin) / scale), 0, shape).astype(int).tolist()
        bodies.append(
            [
                _Rod(low=tuple(low[a]), high=tuple(high[a]), ends=ends[a], radius=radius[a : a + 2])
                for a in range(count)
            ]
        )
    return bodies


def _add(k: int, rods: list[_Rod], places: Floats, buffer: Floats, tissue: _Tissue) -> None:
    """Body `k` into the tissue, in place; `buffer` [D, H, W] holds anything."""
    if not rods:
        return
    around = tuple(
        slice(min(rod.low[axis] for rod in rods), max(rod.high[axis] for rod in rods))
        for axis in range(3)
    )
    distance = buffer[around]
    distance[...] = FAR
    for rod in rods:
        box = tuple(map(slice, rod.low, rod.high))
        found = _capsule(places[(slice(None), *box)], rod.ends, rod.radius)
        np.minimum(buffer[box], found, out=buffer[box])
    first, second = tissue.first[around], tissue.second[around]
    np.copyto(tissue.nearest[around], k, where=distance < first)
    np.minimum(second, np.maximum(first, distance), out=second)
    np.minimum(first, distance, out=first)


def _capsule(places: Floats, ends: Floats, radius: Floats) -> Floats:
    """Distance [*S] from places [3, *S] to a rod between two balls, negative inside."""
    way = ends[1] - ends[0]
    square = float(way @ way)
    z, y, x = (places[axis] - ends[0][axis] for axis in range(3))
    if square < 1e-9:
        away = _norm(z, y, x)
        away -= radius[0]
        return away
    share, part = z * way[0], y * way[1]
    share += part
    share += np.multiply(x, way[2], out=part)
    share /= square
    np.maximum(share, 0, out=share)
    np.minimum(share, 1, out=share)
    z -= np.multiply(share, way[0], out=part)
    y -= np.multiply(share, way[1], out=part)
    x -= np.multiply(share, way[2], out=part)
    away = _norm(z, y, x)
    away -= radius[0]
    share *= radius[1] - radius[0]
    away -= share
    return away


def _norm(z: Floats, y: Floats, x: Floats) -> Floats:
    """Length of vectors; all three arrays are used up."""
    for part in (z, y, x):
        part *= part
    z += y
    z += x
    return np.asarray(np.sqrt(z, out=z))


def _paint(labels: Ints, tissue: _Tissue, options: Options, generator: torch.Generator) -> Floats:
    """Float [D, H, W]: cytoplasm, organelles, membranes that fade in places, slice by slice."""
    shape = labels.shape
    width = MEMBRANE * options.size
    count = int(labels.max(initial=0))
    level = GREY_BODY + uniform(generator, -0.08, 0.08, count + 1)
    inside = np.where(labels > 0, level[labels], GREY_OUTSIDE)
    inside += 0.05 * smooth_field(uniform(generator, -1, 1, 8, 20, 20), *shape)
    depth = np.minimum(-tissue.first, 0.5 * (tissue.second - tissue.first))
    depth = np.where(labels > 0, depth, np.maximum(tissue.first, 0))
    _organelles(inside, labels, depth, options, generator)
    # Membranes cut at a flat angle blur over the slice: here they fade where a smooth field is low.
    fade = smooth_field(uniform(generator, -1, 1, 6, 9, 9), *shape)
    strength = np.clip(0.95 + 4.0 * np.minimum(fade + 0.12, 0), 0.05, 1)
    dark = strength * np.exp(-((depth / width) ** 2))
    image = inside + dark * (GREY_MEMBRANE - inside)
    image = soften(image, max(1, round(options.size / 64)))
    gain = uniform(generator, 0.90, 1.10, options.depth, 1, 1)
    image = image * gain + uniform(generator, -0.03, 0.03, options.depth, 1, 1)
    return np.asarray(image + 0.07 * grain(generator, *shape))


def _organelles(
    inside: Floats, labels: Ints, depth: Floats, options: Options, generator: torch.Generator
) -> None:
    """Ellipsoids within the bodies, as dark as membranes: no threshold tells them apart."""
    deep = np.flatnonzero((labels > 0).ravel() & (depth.ravel() > 0.05 * options.size))
    wanted = round(ORGANELLES * int(labels.max(initial=0)) * number(generator, 0.3, 0.8))
    if len(deep) == 0 or wanted == 0:
        return
    chosen = deep[(uniform(generator, 0, 1, wanted) * len(deep)).astype(int)]
    centres = np.stack(np.unravel_index(chosen, labels.shape), axis=1)
    half = options.size * uniform(generator, 0.03, 0.065, wanted, 3)
    half[:, 0] /= options.anisotropy
    tone = uniform(generator, 0.24, 0.48, wanted)
    for centre, axes, grey in zip(centres, half, tone, strict=True):
        low = np.maximum(np.floor(centre - axes), 0).astype(int)
        high = np.minimum(np.ceil(centre + axes) + 1, labels.shape).astype(int)
        box = tuple(slice(i, j) for i, j in zip(low, high, strict=True))
        offset = np.ogrid[box]
        away = sum(((o - c) / a) ** 2 for o, c, a in zip(offset, centre, axes, strict=True))
        own = labels[box] == labels[tuple(centre)]
        inside[box][own & (away <= 1)] = grey
