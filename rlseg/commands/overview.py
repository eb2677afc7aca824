"""The overview picture of `rlseg data stats`: samples with their truth, and what was counted."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from rlseg.data.base import InstanceDataset, SemanticDataset
from rlseg.data.class_statistics import SemanticStatistics
from rlseg.data.semantic_classes import VOID
from rlseg.data.statistics import SplitStatistics
from rlseg.figures import LINES, STYLE, overlay, to_rgb

Array = NDArray[Any]
Shown = tuple[str, Array, Array]
"""Words beneath a sample; its image and its image with the truth over it, uint8 [H, W, 3]."""

PICTURED = 4  # samples per split
WIDTH = 2.6  # of a picture, in inches
CHARTS = 2.0  # height of the charts, in inches
MOST_TICKS = 16  # words beneath the bars
DOTS = 130  # per inch
OPACITY = 0.55  # of instances and classes over the image
UNKNOWN = 128  # grey where there is no truth


def instance_overview(
    parts: Mapping[str, InstanceDataset], statistics: Mapping[str, SplitStatistics]
) -> bytes:
    """PNG: samples of every split, their instances over them, and charts of areas and neighbours.

    Samples are spread evenly over the split. Of volumes the middle plane is shown. Pixels without a
    truth are grey.

    Args:
        parts: split -> its samples.
        statistics: split -> what was counted.
    """
    rows = {
        split: [_instances(part[i]) for i in spread(len(part))] for split, part in parts.items()
    }

    def areas(chart: Axes) -> None:
        counted = {split: s.area_octaves for split, s in statistics.items()}
        _bars(chart, counted, lambda k: str(2**k) if k < 10 else f"{2 ** (k - 10)}k")
        chart.set(xlabel="pixels of an instance, from", ylabel="share of instances")

    def neighbours(chart: Axes) -> None:
        counted = {split: s.neighbours[-1].histogram for split, s in statistics.items()}
        radius = max(s.neighbours[-1].radius for s in statistics.values())
        _bars(chart, counted, str)
        chart.set(xlabel=f"neighbours within {radius:g} pixels", ylabel="share of instances")

    return _figure(rows, (areas, neighbours))


def class_overview(
    parts: Mapping[str, SemanticDataset],
    statistics: Mapping[str, SemanticStatistics],
    colors: NDArray[np.uint8],
) -> bytes:
    """PNG: samples of every split, their classes over them, and a chart of the class balance.

    Args:
        parts: split -> its samples.
        statistics: split -> what was counted.
        colors: uint8 [256, 3], a colour per class id.
    """

    def shown(sample: Any) -> Shown:
        image, ids = _plane(sample.image, sample.classes)
        picture = to_rgb(image)
        mixed = picture * (1 - OPACITY) + colors[ids] * OPACITY
        mixed[ids == VOID] = UNKNOWN
        return sample.name, picture, mixed.round().astype(np.uint8)

    rows = {split: [shown(part[i]) for i in spread(len(part))] for split, part in parts.items()}
    names = [entry.name for entry in next(iter(statistics.values())).classes]

    def balance(chart: Axes) -> None:
        counted = {
            split: [entry.pixels for entry in numbers.classes]
            for split, numbers in statistics.items()
        }
        _bars(chart, counted, lambda k: names[k], last=len(names) - 1)
        chart.set(ylabel="share of pixels", yscale="log")
        chart.tick_params(axis="x", labelrotation=40)
        for label in chart.get_xticklabels():
            label.set_horizontalalignment("right")

    legend = {name: colors[k] / 255 for k, name in enumerate(names)}
    legend["unknown"] = np.full(3, UNKNOWN / 255)
    return _figure(rows, (balance,), legend)


def spread(count: int, wanted: int = PICTURED) -> list[int]:
    """Indices of a few samples out of `count`, evenly spread from the first to the last."""
    if count <= wanted:
        return list(range(count))
    return [round(k * (count - 1) / (wanted - 1)) for k in range(wanted)]


def _instances(sample: Any) -> Shown:
    image, labels = _plane(sample.image, sample.labels)
    _, known = _plane(sample.image, sample.valid)
    truth = overlay(image, labels, opacity=OPACITY)
    truth[~known] = UNKNOWN
    count = int(sample.labels.max()) if sample.labels.numel() else 0
    words = f"{count} instances" if bool(sample.valid.any()) else "no truth"
    return f"{sample.name}: {words}", to_rgb(image), truth


def _plane(image: Any, truth: Any) -> tuple[Array, Array]:
    """Image [C, H, W] and truth [H, W]; of volumes the middle plane."""
    image, truth = np.asarray(image), np.asarray(truth)
    if truth.ndim == 3:
        image, truth = image[:, len(truth) // 2], truth[len(truth) // 2]
    return image, truth


def _bars(
    chart: Axes,
    counted: Mapping[str, Sequence[int]],
    name: Callable[[int], str],
    last: int | None = None,
) -> None:
    """Shares of every split side by side, from the first to the last entry that any of them has."""
    kept = {split: np.array(counts, float) for split, counts in counted.items() if sum(counts)}
    present = [k for counts in kept.values() for k in np.flatnonzero(counts)]
    first = 0 if last is not None else min(present, default=0)
    stop = 1 + (max(present, default=0) if last is None else last)
    places = np.arange(first, stop)
    wide = 0.8 / max(1, len(kept))
    for number, (split, counts) in enumerate(kept.items()):
        values = np.zeros(stop)
        values[: len(counts)] = counts / counts.sum()
        left = places + wide * (number - (len(kept) - 1) / 2)
        chart.bar(left, values[first:], width=wide, color=LINES[number % len(LINES)], label=split)
    step = -(-len(places) // MOST_TICKS) if last is None else 1
    chart.set_xticks(places[::step], [name(int(k)) for k in places[::step]])
    chart.yaxis.set_major_locator(MaxNLocator(4))
    if len(kept) > 1:
        chart.legend(fontsize=7)


def _drawable(text: str) -> str:
    """The text with escapes for bytes of file names that are no UTF-8: no font can draw them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _figure(
    rows: Mapping[str, Sequence[Shown]],
    charts: Sequence[Callable[[Axes], None]],
    legend: Mapping[str, Array] | None = None,
) -> bytes:
    columns = max(2, *(len(row) for row in rows.values()))
    tall = [
        WIDTH * max((p.shape[0] / p.shape[1] for _, p, _ in row), default=0)
        for row in rows.values()
    ]
    heights = [height for row in tall for height in (row + 0.24, row + 0.06)]
    with rc_context({**STYLE, "axes.grid": False}):
        total = sum(heights) + CHARTS + 0.4 + (0.5 if legend else 0)
        figure = Figure(figsize=(WIDTH * columns, total), dpi=DOTS, layout="constrained")
        halves: Any = figure.subfigures(2, 1, height_ratios=[sum(heights), total - sum(heights)])
        upper, lower = halves
        grid = upper.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
        for chart in grid.flat:
            chart.axis("off")
        for r, (split, row) in enumerate(rows.items()):
            for c, (words, picture, truth) in enumerate(row):
                grid[2 * r, c].imshow(picture)
                grid[2 * r + 1, c].imshow(truth)
                text = f"{split}\n{words}" if c == 0 else f"\n{words}"
                grid[2 * r, c].set_title(_drawable(text), fontsize=7, loc="left", parse_math=False)
        for chart, draw in zip(
            lower.subplots(1, len(charts), squeeze=False)[0], charts, strict=True
        ):
            draw(chart)
        if legend:
            patches = [Patch(color=tuple(color), label=name) for name, color in legend.items()]
            lower.legend(handles=patches, loc="outside lower center", ncols=8, fontsize=7)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()
