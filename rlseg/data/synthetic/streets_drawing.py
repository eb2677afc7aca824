"""Draws one street scene: layers from the far to the near, classes and colours side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlseg.data.synthetic.drawing import (
    Box,
    Floats,
    Ints,
    Mask,
    coins,
    crown,
    eight_bits,
    fraction,
    grain,
    lattice,
    number,
    smooth_field,
    soften,
    uniform,
    whole,
)

CLASSES = (
    "sky", "building", "road", "pavement", "tree", "fence", "car", "sign", "pedestrian",
    "bicyclist",
)  # fmt: skip
SKY, BUILDING, ROAD, PAVEMENT, TREE, FENCE, CAR, SIGN, PEDESTRIAN, BICYCLIST = range(len(CLASSES))
RARE = (SIGN, PEDESTRIAN, BICYCLIST)
HEDGE = (TREE, FENCE)
"""The two classes between which a coin decides inside hedges."""
IGNORE = 255

BONNET_CHANCE = 0.3  # that the front of one's own car is seen, which has no class
SIGN_CHANCE, PEDESTRIAN_CHANCE, BICYCLIST_CHANCE = 0.60, 0.65, 0.45
GREY = np.array([1.0, 1.0, 1.0])
SIGN_COLOURS = np.array([[0.75, 0.12, 0.12], [0.15, 0.28, 0.70], [0.85, 0.70, 0.12]])
SKIN = np.array([0.72, 0.53, 0.42])

Shade = NDArray[np.floating[Any]] | float


@dataclass(frozen=True, kw_only=True)
class Street:
    """One scene."""

    image: Tensor
    """float32 [3, H, W] in [0, 1] in steps of 1/255."""
    classes: Tensor
    """int64 [H, W]: indices into `CLASSES`, 255 = ignore."""
    hedge: Tensor
    """bool [H, W]: pixels whose class is a coin flip."""


@dataclass(kw_only=True)
class _Scene:
    """What has been drawn so far, and the camera."""

    image: Floats
    """[3, H, W]."""
    classes: Ints
    """[H, W]."""
    hedge: Mask
    """[H, W]."""
    horizon: float
    """Row of the horizon."""
    vanishing: float
    """Column in which the street vanishes."""
    road: float
    """Half width of the road at the lower border, in pixels."""
    walk: float
    """Width of a pavement as a share of the road's half width."""
    rows: Floats
    """[H, 1], centres of the pixels."""
    columns: Floats
    """[1, W]."""

    @property
    def height(self) -> int:
        return int(self.classes.shape[0])

    @property
    def width(self) -> int:
        return int(self.classes.shape[1])

    def nearness(self, row: float) -> float:
        """0 at the horizon, 1 at the lower border."""
        return max(0.0, (row - self.horizon) / (self.height - self.horizon))

    def box(self, top: float, left: float, bottom: float, right: float) -> Box:
        """The pixels whose centres lie in a rectangle, at least one per side where visible."""
        high, low = round(top), max(round(bottom), round(top) + 1)
        start, stop = round(left), max(round(right), round(left) + 1)
        return (
            slice(min(max(high, 0), self.height), min(max(low, 0), self.height)),
            slice(min(max(start, 0), self.width), min(max(stop, 0), self.width)),
        )

    def fill(
        self,
        box: Box,
        kind: int,
        colour: Floats,
        shade: Shade = 1.0,
        where: Mask | bool = True,
    ) -> None:
        """Class and colour of the pixels of a box (where `where`, in the box, is true)."""
        patch = self.image[:, box[0], box[1]]
        if where is True:
            np.multiply(colour[:, None, None], shade, out=patch)
        else:
            np.copyto(patch, colour[:, None, None] * np.asarray(shade), where=where)
        np.copyto(self.classes[box], kind, where=where)
        np.copyto(self.hedge[box], False, where=where)

    def disc(
        self, row: float, column: float, high: float, wide: float, kind: int, colour: Floats
    ) -> None:
        """An ellipse with half axes `high` and `wide`."""
        box = self.box(row - high - 1, column - wide - 1, row + high + 1, column + wide + 1)
        y, x = self.rows[box[0]] - row, self.columns[:, box[1]] - column
        self.fill(box, kind, colour, where=(y / high) ** 2 + (x / wide) ** 2 <= 1)


def draw_street(
    height: int, width: int, max_hedges: int, block: int, *, generator: torch.Generator
) -> Street:
    """One scene and its truth.

    Far things first: sky, ground, buildings, hedges and fences, trees, cars, and the small things
    of the rare classes. What a hedge looks like says nothing about its class: each of its squares
    is `tree` or `fence` by a fair coin that has no other use, so half of its pixels are wrong in
    the best prediction there is.

    Args:
        height: rows.
        width: columns.
        max_hedges: most hedges; the number is drawn from half of it (rounded down) up.
        block: side of a hedge's squares in pixels; the picture does not depend on it.
        generator: all numbers come from here.

    Returns:
        The scene.
    """
    squares = coins(generator, height, width)[: -(-height // block), : -(-width // block)]
    flips = squares
    if block > 1:
        flips = squares.repeat(block, axis=0).repeat(block, axis=1)[:height, :width]
    scene = _ground(height, width, generator)
    _buildings(scene, generator)
    for _ in range(whole(generator, max_hedges // 2, max_hedges)):
        _hedge(scene, flips, generator)
    _fence(scene, generator)
    for _ in range(whole(generator, 0, 3)):
        _tree(scene, generator)
    for _ in range(whole(generator, 0, 2)):
        _car(scene, generator)
    if number(generator, 0, 1) < SIGN_CHANCE:
        _sign(scene, generator)
    if number(generator, 0, 1) < PEDESTRIAN_CHANCE:
        _pedestrian(scene, generator)
    if number(generator, 0, 1) < BICYCLIST_CHANCE:
        _bicyclist(scene, generator)
    if number(generator, 0, 1) < BONNET_CHANCE:
        scene.disc(height, width * number(generator, 0.4, 0.6), 0.12 * height, 0.4 * width,
                   IGNORE, 0.12 * GREY)  # fmt: skip
    light = number(generator, 0.8, 1.15) * uniform(generator, 0.94, 1.06, 3, 1, 1)
    clouds = smooth_field(uniform(generator, -0.12, 0.12, 4, 6), height, width)
    clouds += 1
    scene.image *= light
    scene.image *= clouds
    image = soften(scene.image, max(1, height // 96))
    image += 0.025 * grain(generator, 3, height, width)
    return Street(
        image=eight_bits(image),
        classes=torch.from_numpy(scene.classes),
        hedge=torch.from_numpy(scene.hedge),
    )


def _ground(height: int, width: int, generator: torch.Generator) -> _Scene:
    """Sky above the horizon, road with pavements below; what lies beside them is building."""
    scene = _Scene(
        image=np.empty((3, height, width)),
        classes=np.empty((height, width), dtype=np.int64),
        hedge=np.zeros((height, width), dtype=bool),
        horizon=height * number(generator, 0.36, 0.50),
        vanishing=width * number(generator, 0.35, 0.65),
        road=width * number(generator, 0.36, 0.60),
        walk=number(generator, 0.30, 0.75),
        rows=np.arange(0.5, height)[:, None],
        columns=np.arange(0.5, width)[None, :],
    )
    y = (scene.rows - scene.horizon) / (height - scene.horizon)
    start = int(np.count_nonzero(y <= 0))  # the first row below the horizon
    near = np.minimum(y[start:], 1)
    off = np.abs(scene.columns - scene.vanishing) / (near * scene.road + 0.01 * width)  # 1 = kerb
    road = off < 1
    walk = ~road & (off < 1 + scene.walk)
    scene.classes[:start] = SKY
    scene.classes[start:] = BUILDING
    np.copyto(scene.classes[start:], ROAD, where=road)
    np.copyto(scene.classes[start:], PAVEMENT, where=walk)
    texture = smooth_field(uniform(generator, -0.06, 0.06, 12, 18), height, width)
    dashes = fraction(0.7 / (near + 0.12)) < 0.5
    slabs = 0.06 * (fraction(2.2 / (near + 0.12)) < 0.12)
    asphalt, stone = number(generator, 0.24, 0.38), number(generator, 0.48, 0.64)
    grey = scene.image[1, start:]
    grey[:] = stone - slabs
    np.copyto(grey, asphalt, where=road)
    np.copyto(grey, asphalt + 0.45 * dashes, where=off < 0.04)
    grey += texture[start:]
    for channel, tone in ((0, 1.05), (2, 0.93)):
        scene.image[channel, start:] = grey
        np.multiply(grey, tone, out=scene.image[channel, start:], where=walk)
    blue = np.array([0.58, 0.72, 0.88]) + uniform(generator, -0.08, 0.08, 3)
    clouds = smooth_field(uniform(generator, -1, 1, 6, 6), height, width)[:start]
    clouds = np.float32(0.25) * np.minimum(np.maximum(clouds, 0), 1)
    sky = blue[:, None, None] * (1.1 + 0.25 * np.maximum(y[:start], -1))
    np.add(sky, clouds, out=scene.image[:, :start])
    return scene


def _buildings(scene: _Scene, generator: torch.Generator) -> None:
    """Fronts on both sides up to a stepped skyline, with rows of windows."""
    edges = np.sort(uniform(generator, 0, scene.width, 9))
    owner = np.searchsorted(edges, scene.columns[0])  # [W]
    tall = uniform(generator, 0.25, 1.15, 10) * (uniform(generator, 0, 1, 10) > 0.12)
    away = np.abs(scene.columns[0] - scene.vanishing) / scene.width
    top = scene.horizon - scene.height * tall[owner] * (0.06 + 1.1 * away)  # [W]
    below = slice(int(np.count_nonzero(scene.rows <= top.min())), None)  # the highest roof
    rows, classes = scene.rows[below], scene.classes[below]
    front = (rows > top) & (classes <= BUILDING)  # sky, or beside the pavement
    size = 0.35 + 1.3 * away  # windows grow with nearness
    storey = fraction((rows - top) / (0.11 * scene.height * size))
    bay = fraction(np.abs(scene.columns - scene.vanishing) / (0.085 * scene.width * size))
    window = (storey > 0.35) & (storey < 0.8) & ((bay > 0.3) & (bay < 0.75))
    wall = np.array([0.52, 0.42, 0.36]) * uniform(generator, 0.65, 1.35, 10, 1)
    wall = wall + uniform(generator, -0.08, 0.08, 10, 3)
    glass = uniform(generator, 0.18, 0.55, 10)[owner]
    storey *= 0.1
    shade = np.subtract(1, storey, out=storey)
    for channel, tone in enumerate((0.85, 0.95, 1.1)):
        colour = wall[owner, channel] * shade
        np.copyto(colour, glass * tone, where=window)
        np.copyto(scene.image[channel, below], colour, where=front)
    np.copyto(classes, BUILDING, where=front)


def _stand(
    scene: _Scene, generator: torch.Generator, low: float, high: float
) -> tuple[float, float, float]:
    """Row and column of a foot on a pavement, and the nearness there (between low and high)."""
    near = number(generator, low, high)
    side = 1 if number(generator, 0, 1) < 0.5 else -1
    off = 1 + scene.walk * number(generator, 0.15, 0.85)
    row = scene.horizon + near * (scene.height - scene.horizon)
    return row, scene.vanishing + side * off * near * scene.road, near


def _hedge(scene: _Scene, flips: Mask, generator: torch.Generator) -> None:
    """Trimmed leaves behind a lattice, along the far edge of a pavement."""
    near = number(generator, 0.25, 0.8)
    side = 1 if number(generator, 0, 1) < 0.5 else -1
    row = scene.horizon + near * (scene.height - scene.horizon)
    inner = scene.vanishing + side * (1 + 0.9 * scene.walk) * near * scene.road
    inner = min(max(inner, 0.1 * scene.width), 0.9 * scene.width)
    long = scene.width * number(generator, 0.24, 0.46)
    tall = scene.height * (0.18 + 0.16 * near) * number(generator, 0.8, 1.3)
    left = inner if side > 0 else inner - long
    box = scene.box(row - tall, left, row, left + long)
    high, wide = box[0].stop - box[0].start, box[1].stop - box[1].start
    leaves = 0.75 + 0.30 * grain(generator, high, wide)
    green = np.array([0.20, 0.36, 0.17]) * number(generator, 0.85, 1.15)
    slats = np.array([0.50, 0.44, 0.34]) * number(generator, 0.85, 1.15)
    patch = scene.image[:, box[0], box[1]]
    np.multiply(green[:, None, None], leaves, out=patch)
    if high and wide:
        np.copyto(patch, slats[:, None, None], where=lattice(box, 0.075 * scene.height))
    scene.classes[box] = np.where(flips[box], HEDGE[0], HEDGE[1])
    scene.hedge[box] = True


def _fence(scene: _Scene, generator: torch.Generator) -> None:
    """A plain railing of upright bars, in half of the scenes."""
    row, column, near = _stand(scene, generator, 0.25, 0.8)
    long, tall = number(generator, 0.15, 0.35) * scene.width, (0.08 + 0.10 * near) * scene.height
    tone = number(generator, 0.55, 0.8)
    if number(generator, 0, 1) < 0.5:
        return
    box = scene.box(row - tall, column - long / 2, row, column + long / 2)
    bars = np.modf(scene.columns[:, box[1]] / (0.05 * scene.height))[0]
    scene.fill(box, FENCE, tone * np.array([0.9, 0.95, 1.0]), 1 - 0.55 * (bars > 0.5))


def _tree(scene: _Scene, generator: torch.Generator) -> None:
    """A trunk and a round crown of speckled leaves."""
    row, column, near = _stand(scene, generator, 0.2, 0.75)
    tall = scene.height * (0.16 + 0.42 * near) * number(generator, 0.8, 1.2)
    radius = 0.42 * tall * number(generator, 0.7, 1.0)
    thick = max(0.05 * tall, 0.7)
    trunk = scene.box(row - 0.55 * tall, column - thick, row, column + thick)
    scene.fill(trunk, TREE, np.array([0.30, 0.22, 0.15]))
    middle = row - tall + radius
    box = scene.box(middle - 1.2 * radius, column - 1.2 * radius,
                    middle + 1.2 * radius, column + 1.2 * radius)  # fmt: skip
    y, x = scene.rows[box[0]] - middle, scene.columns[:, box[1]] - column
    inside = crown(y, x, radius, number(generator, 0, 2 * math.pi))
    leaves = 0.9 + 0.22 * grain(generator, *inside.shape) - 0.25 * y / radius
    green = np.array([0.24, 0.42, 0.16]) * number(generator, 0.8, 1.2)
    scene.fill(box, TREE, green, leaves, inside)


def _car(scene: _Scene, generator: torch.Generator) -> None:
    """Seen from behind: body, cabin with window, wheels, lights."""
    near = number(generator, 0.2, 0.75)
    row = scene.horizon + near * (scene.height - scene.horizon)
    column = scene.vanishing + number(generator, -0.75, 0.75) * near * scene.road
    wide = (0.05 + 0.26 * near) * scene.width * number(generator, 0.85, 1.1)
    tall = 0.72 * wide * number(generator, 0.85, 1.1)
    paint = uniform(generator, 0.12, 0.85, 3)
    left, right = column - wide / 2, column + wide / 2
    for wheel in (left + 0.18 * wide, right - 0.18 * wide):
        scene.fill(scene.box(row - 0.2 * tall, wheel - 0.1 * wide, row, wheel + 0.1 * wide),
                   CAR, 0.06 * GREY)  # fmt: skip
    cabin = scene.box(row - tall, left + 0.14 * wide, row - 0.5 * tall, right - 0.14 * wide)
    scene.fill(cabin, CAR, 0.9 * paint)
    glass = scene.box(row - 0.92 * tall, left + 0.2 * wide, row - 0.58 * tall, right - 0.2 * wide)
    scene.fill(glass, CAR, np.array([0.20, 0.26, 0.32]))
    scene.fill(scene.box(row - 0.55 * tall, left, row - 0.12 * tall, right), CAR, paint)
    for light in (left + 0.1 * wide, right - 0.1 * wide):
        scene.disc(row - 0.4 * tall, light, 0.07 * tall, 0.07 * wide, CAR,
                   np.array([0.75, 0.10, 0.08]))  # fmt: skip


def _sign(scene: _Scene, generator: torch.Generator) -> None:
    """A plate on a post: disc, square or triangle."""
    row, column, near = _stand(scene, generator, 0.3, 0.85)
    tall = scene.height * (0.12 + 0.26 * near)
    plate = max(0.17 * tall, 1.6)
    colour = SIGN_COLOURS[whole(generator, 0, 2)] * number(generator, 0.85, 1.15)
    shape = whole(generator, 0, 2)
    scene.fill(scene.box(row - tall, column - 0.02 * tall, row, column + 0.02 * tall),
               SIGN, 0.45 * GREY)  # fmt: skip
    middle = row - tall
    if shape == 0:
        scene.disc(middle, column, plate, plate, SIGN, colour)
        scene.disc(middle, column, 0.45 * plate, 0.45 * plate, SIGN, 0.9 * GREY)
        return
    box = scene.box(middle - plate, column - plate, middle + plate, column + plate)
    y, x = scene.rows[box[0]] - middle, scene.columns[:, box[1]] - column
    inside = np.abs(x) <= (plate if shape == 1 else 0.5 * (y + plate) + 0.5)
    scene.fill(box, SIGN, colour, where=inside & (np.abs(y) <= plate))


def _pedestrian(scene: _Scene, generator: torch.Generator) -> None:
    """Head, coat and legs."""
    row, column, near = _stand(scene, generator, 0.25, 0.85)
    tall = scene.height * (0.10 + 0.20 * near) * number(generator, 0.9, 1.1)
    coat, legs = uniform(generator, 0.1, 0.8, 3), uniform(generator, 0.08, 0.4, 3)
    step = 0.06 * tall * number(generator, 0.6, 1.6)
    for foot in (-step, step):
        scene.fill(scene.box(row - 0.45 * tall, column + foot - 0.06 * tall, row,
                             column + foot + 0.06 * tall), PEDESTRIAN, legs)  # fmt: skip
    scene.disc(row - 0.62 * tall, column, 0.24 * tall, 0.15 * tall, PEDESTRIAN, coat)
    scene.disc(row - 0.92 * tall, column, 0.09 * tall, 0.08 * tall, PEDESTRIAN, SKIN)


def _bicyclist(scene: _Scene, generator: torch.Generator) -> None:
    """Two wheels, frame, and a rider bent forward, on the road."""
    near = number(generator, 0.3, 0.8)
    row = scene.horizon + near * (scene.height - scene.horizon)
    column = scene.vanishing + number(generator, -1.0, 1.0) * near * scene.road
    tall = scene.height * (0.12 + 0.20 * near)
    way = 1 if number(generator, 0, 1) < 0.5 else -1
    shirt = uniform(generator, 0.15, 0.9, 3)
    wheel, apart = 0.20 * tall, 0.30 * tall
    for hub in (column - apart, column + apart):
        box = scene.box(row - 2 * wheel, hub - wheel - 1, row, hub + wheel + 1)
        y, x = scene.rows[box[0]] - (row - wheel), scene.columns[:, box[1]] - hub
        away = np.hypot(y, x)
        tyre = (away <= wheel) & (away > wheel - max(0.06 * tall, 1.0))
        scene.fill(box, BICYCLIST, 0.08 * GREY, where=tyre)
    scene.fill(scene.box(row - 0.42 * tall, column - apart, row - 0.36 * tall, column + apart),
               BICYCLIST, shirt[::-1] * 0.6)  # fmt: skip
    scene.fill(scene.box(row - 0.55 * tall, column - 0.05 * tall, row - 0.15 * tall,
                         column + 0.05 * tall), BICYCLIST, 0.15 * GREY)  # fmt: skip
    scene.disc(row - 0.66 * tall, column + 0.08 * way * tall, 0.19 * tall, 0.13 * tall,
               BICYCLIST, shirt)  # fmt: skip
    scene.disc(row - 0.92 * tall, column + 0.16 * way * tall, 0.08 * tall, 0.08 * tall,
               BICYCLIST, SKIN)  # fmt: skip
