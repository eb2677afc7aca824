"""Where a leaf of the generated rosettes lies: its box, and how deep each pixel is inside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlseg.data.synthetic.drawing import Box, Floats, Pixels

SHADOW = 0.035  # reach of the shadow below a leaf, share of the image side
STEPS = 24  # along a midrib, to find out which pixels a leaf can cover


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """All leaves of a scene, in the order in which they are drawn."""

    base: Floats
    """[N, 2], centre of the plant, y and x in pixels."""
    angle: Floats
    """[N], direction of growth."""
    length: Floats
    """[N], pixels from the centre of the plant to the tip."""
    half_width: Floats
    """[N], largest, as a share of the length."""
    petiole: Floats
    """[N], share of the length that is stalk."""
    bend: Floats
    """[N], how far the tip lies beside the straight line, as a share of the length."""
    skew: Floats
    """[N], positive: widest near the stalk."""
    colour: Floats
    """[N, 3]."""
    veins: Floats
    """[N, 2], number and strength of the side veins."""


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One leaf on its box."""

    box: Box
    depth: Pixels
    """Float32 on the box: about the distance to the outline in pixels, positive inside."""
    along: Pixels
    """0 at the start of the blade, 1 at the tip."""
    across: Pixels
    """Signed distance to the midrib in pixels."""


def outline(size: int, shapes: Shapes, k: int, box: Box) -> Leaf:
    """Leaf `k` on a box."""
    length, bend = float(shapes.length[k]), float(shapes.bend[k])
    petiole, widest, skew = (float(v[k]) for v in (shapes.petiole, shapes.half_width, shapes.skew))
    row, column = shapes.base[k].tolist()
    down, right = math.sin(shapes.angle[k]), math.cos(shapes.angle[k])  # towards the tip
    rows, columns = box
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + (0.5 - row)
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] + (0.5 - column)
    forward = y * (down / length) + x * (right / length)  # 0 at the plant, 1 at the tip
    sideways = y * (right / length) - x * (down / length)
    sideways -= bend * forward * forward
    along = (forward - petiole) * (1 / (1 - petiole))
    t = np.maximum(along, 0)
    np.minimum(t, 1, out=t)
    half = 1 - t
    half *= t
    np.sqrt(half, out=half)
    t *= -2 * widest * skew
    t += 2 * widest * (1 + 0.5 * skew)
    half *= t
    stalk = max(0.016 * size, 0.9) / length
    np.maximum(half, (along < 0.3) * np.float32(stalk), out=half)
    half -= np.abs(sideways)
    forward -= 0.5  # from here on: how far beyond either end
    np.abs(forward, out=forward)
    forward -= 0.5
    np.maximum(forward, 0, out=forward)
    half -= forward
    half *= length
    sideways *= length
    return Leaf(box=box, depth=half, along=along, across=sideways)


def reach(size: int, shapes: Shapes) -> list[Box]:
    """The pixels that each leaf or its shadow can cover, with a little to spare.

    The midrib is followed in short steps; the width beside it is the widest of three steps.
    """
    length, skew, widest = (v[:, None] for v in (shapes.length, shapes.skew, shapes.half_width))
    petiole = shapes.petiole[:, None]
    shadow, stalk = SHADOW * size / length, max(0.016 * size, 0.9) / length
    steps = np.linspace(0, 1, STEPS + 1) + np.zeros_like(length)
    forward = np.concatenate((-stalk - shadow, steps, 1 + shadow), axis=1)  # [N, STEPS + 3]
    along = (forward - petiole) / (1 - petiole)
    t = np.minimum(np.maximum(along, 0), 1)
    half = 2 * widest * np.sqrt(t * (1 - t)) * (1 + 0.5 * skew - skew * t)
    half = np.maximum(half, np.where(along < 0.45, stalk, 0))
    half[:, 1:] = np.maximum(half[:, 1:], half[:, :-1])
    half[:, :-1] = np.maximum(half[:, :-1], half[:, 1:])
    half = length * (half + shadow) + 0.004 * size
    sideways = shapes.bend[:, None] * forward * forward
    down, right = np.sin(shapes.angle)[:, None], np.cos(shapes.angle)[:, None]
    rows = shapes.base[:, :1] + length * (forward * down + sideways * right)
    columns = shapes.base[:, 1:] + length * (forward * right - sideways * down)
    spans = []
    for place, beside in ((rows, half * np.abs(right)), (columns, half * np.abs(down))):
        low = np.clip(np.floor((place - beside).min(axis=1) - 1), 0, size - 1).astype(int)
        high = np.ceil((place + beside).max(axis=1) + 1).astype(int)
        high = np.minimum(np.maximum(high, low + 1), size)
        spans.append([slice(i, j) for i, j in zip(low.tolist(), high.tolist(), strict=True)])
    return list(zip(*spans, strict=True))
