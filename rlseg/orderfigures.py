"""Figures of methods that work step by step: the order of instances, masks so far, scores per step.

Colours run from blue for the first instance to red for the last one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor

from rlseg import figures
from rlseg.errors import ShapeError

Array = NDArray[Any]

COLUMNS = 7
"""Pictures per row of `step_pictures`."""
LEGIBLE = 480
"""Numbers are drawn on pictures with a side of at least this many pixels."""
TEXT = 18
"""The larger side of a picture, in heights of its numbers."""
LARGEST_FACTOR = 16
"""Small pictures are enlarged by this at most."""
HUES = (0.08, 0.92)
"""Part of the colour map in use: its ends are nearly black."""


class Shown(NamedTuple):
    """A picture for a page."""

    name: str
    """Of its file."""
    text: str
    """Heading of a chart, caption of a picture."""
    png: bytes


# Order


def order_colors(count: int) -> Array:
    """Colours uint8 [count, 3] of the steps 1, 2, ... of an episode with `count` steps."""
    place = np.linspace(*HUES, count) if count > 1 else np.full(count, HUES[0])
    rgba = mpl.colormaps["turbo"](place)
    colors: Array = (rgba[:, :3] * 255 + 0.5).astype(np.uint8)
    return colors


def order_picture(
    image: Tensor | Array, order: Tensor | Array, *, steps: int | None = None, numbers: bool = True
) -> Array:
    """The image, darkened, with instances coloured and numbered in the order of prediction.

    A small picture is enlarged by a whole factor so that the numbers can be read.

    Args:
        image: float [C, H, W] in [0, 1].
        order: integer [H, W]: 0 = background, else the number of the instance in the order.
        steps: the number that has the last colour; None = the highest one there is.
        numbers: write them.

    Returns:
        uint8 [k H, k W, 3] for a whole number k; 1 without numbers.
    """
    places = np.asarray(order.cpu() if isinstance(order, Tensor) else order).astype(np.int64)
    picture = figures.to_rgb(image).astype(np.float32)
    if places.shape != picture.shape[:2]:
        raise ShapeError(
            f"image is {list(picture.shape[:2])} and order is {list(places.shape)}; "
            "a picture of the order needs equal sides"
        )
    count = max(int(places.max(initial=0)), steps or 0)
    colors = np.concatenate([np.zeros((1, 3), np.uint8), order_colors(count)])[places]
    mixed = np.where((places > 0)[..., None], 0.25 * picture + 0.75 * colors, 0.5 * picture)
    found: Array = mixed.round().astype(np.uint8)
    return _numbered(found, places) if numbers else found


def _numbered(picture: Array, places: Array) -> Array:
    factor = min(max(1, math.ceil(LEGIBLE / max(places.shape))), LARGEST_FACTOR)
    enlarged = Image.fromarray(picture.repeat(factor, axis=0).repeat(factor, axis=1))
    draw = ImageDraw.Draw(enlarged)
    font = ImageFont.load_default(max(11, max(enlarged.size) // TEXT))
    for number, box in enumerate(ndimage.find_objects(places), start=1):
        if box is None:
            continue
        # The pixel farthest from the outside: a centroid may lie beside a bent instance.
        inside: Array = np.pad(places[box] == number, 1)
        depth: Array = ndimage.distance_transform_edt(inside)
        rows, columns = np.mgrid[: inside.shape[0], : inside.shape[1]]
        center = rows[inside].mean(), columns[inside].mean()
        depth -= 1e-3 * np.hypot(rows - center[0], columns - center[1])  # of equals, the middle
        row, column = divmod(int(depth.argmax()), depth.shape[1])
        y = (box[0].start + row - 0.5) * factor
        x = (box[1].start + column - 0.5) * factor
        draw.text(
            (x, y), str(number), fill="white", font=font, anchor="mm",
            stroke_width=2, stroke_fill="black",
        )  # fmt: skip
    return np.asarray(enlarged)


def step_pictures(image: Tensor | Array, trace: Mapping[str, Tensor]) -> bytes | None:
    """One image mask by mask: the newest in full colour, earlier ones pale; last, the order.

    Args:
        image: float [C, H, W] in [0, 1].
        trace: `masks`, float [B, T, H, W] in [0, 1], zero after the last one; `order`, integer
            [B, H, W]; where there is one, `stop`, float [B, T], written above each picture. The
            first image of the batch is shown.

    Returns:
        A PNG file; None where the trace holds no masks in order.
    """
    if "masks" not in trace or "order" not in trace:
        return None
    masks = np.asarray(trace["masks"][0].cpu(), dtype=np.float32)  # [T, H, W]
    drawn = np.flatnonzero(masks.reshape(len(masks), -1).any(axis=1))
    count = int(drawn.max(initial=-1)) + 1  # an empty mask may lie between others
    colors = order_colors(count).astype(np.float32)
    cells: list[tuple[str, Array]] = [("image", figures.to_rgb(image))]
    pale = 0.5 * cells[0][1].astype(np.float32)
    for step in range(count):
        opacity = masks[step, ..., None]
        newest = pale * (1 - opacity) + opacity * colors[step]
        title = f"{step + 1}"
        if "stop" in trace:
            title += f"   P(stop) {float(trace['stop'][0, step]):.2f}"
        cells.append((title, newest.clip(0, 255).round().astype(np.uint8)))
        pale = pale * (1 - 0.4 * opacity) + 0.4 * opacity * colors[step]
    cells.append(("order", order_picture(image, trace["order"][0], steps=count)))
    return _grid(cells)


def _grid(cells: Sequence[tuple[str, Array]], side: float = 1.7) -> bytes:
    columns = min(COLUMNS, len(cells))
    rows = math.ceil(len(cells) / columns)
    with rc_context({**figures.STYLE, "axes.grid": False, "axes.titlesize": 8}):
        layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.01)
        size = (side * columns, (side + 0.3) * rows)
        figure = Figure(figsize=size, dpi=140, layout=layout)
        charts = figure.subplots(rows, columns, squeeze=False)
        for chart in charts.flat:
            chart.axis("off")
        for chart, (title, picture) in zip(charts.flat, cells, strict=False):
            chart.set_title(title)
            chart.imshow(picture, interpolation="nearest")
        return figures.figure_png(figure)


def step_by_step(name: str, image: Tensor | Array, trace: Mapping[str, Tensor]) -> list[Shown]:
    """Pictures of how one image was segmented, of whatever steps the trace holds; maybe none.

    Args:
        name: of the image.
        image: float [C, H, W] in [0, 1].
        trace: of the predictor; see `rlseg.figures.bit_maps` and `step_pictures`.
    """
    found = []
    bits = figures.bit_maps(image, trace)
    if bits is not None:
        caption = f"How {name} was coloured, bit by bit; below, the colours so far."
        found.append(Shown("bits", caption, bits))
    masks = step_pictures(image, trace)
    if masks is not None:
        caption = f"How {name} was drawn, mask by mask: the newest in full colour; last, the order."
        found.append(Shown("order", caption, masks))
    return found


# Scores per step


def dice_per_step(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes | None:
    """The Dice of the first, second, ... mask of the episodes, a line per run.

    Args:
        runs: name of the run -> records of its `scalars.jsonl` with `eval/dice_step_1` and so on;
            the last record that has them is drawn.

    Returns:
        A PNG file; None where no run logged them.
    """
    return per_step(runs, "eval/dice", "Dice of the mask")


def per_step(runs: Mapping[str, Sequence[Mapping[str, Any]]], scalar: str, up: str) -> bytes | None:
    """As `dice_per_step`, for the scalars `<scalar>_step_<number>`.

    Args:
        runs: name of the run -> records of its `scalars.jsonl`.
        scalar: what comes before `_step_`.
        up: label of the axis.
    """
    pattern = re.compile(re.escape(scalar) + r"_step_(\d+)")
    groups: dict[str, list[tuple[list[float], list[float]]]] = {}
    for name, records in runs.items():
        for record in reversed(records):
            points = sorted(
                (int(match[1]), float(value))
                for key, value in record.items()
                if (match := pattern.fullmatch(key))
                and isinstance(value, (int, float))
                and math.isfinite(value)
            )
            if points:
                across, values = zip(*points, strict=True)
                groups[name] = [(list(across), list(values))]
                break
    return figures.lines(groups, "step of the episode", up) if groups else None


def charts(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[Shown, str]]:
    """The charts of what runs logged, each with a note: curves, and Dice per step.

    Args:
        runs: name of the run -> records of its `scalars.jsonl`.
    """
    found = []
    curves = figures.curves(runs)
    if curves is not None:
        note = "Thin lines are logged values, thick lines their running mean."
        found.append((Shown("curves", "Learning curves", curves), note))
    dice = dice_per_step(runs)
    if dice is not None:
        note = "Of the last evaluation: the first mask of every image, the second one, and so on."
        found.append((Shown("dice-per-step", "Dice per step of the episode", dice), note))
    return found
