"""Figures of the order of prediction and of scores per step."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg import figures, orderfigures
from rlseg.errors import ShapeError


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return image


def order(side: int = 40) -> torch.Tensor:
    found = torch.zeros(side, side, dtype=torch.int64)
    found[4:14, 4:14], found[20:36, 4:14], found[10:30, 24:36] = 2, 1, 4
    return found


def episode(side: int = 40, steps: int = 5, third: float = 0.4) -> dict[str, torch.Tensor]:
    """Four masks, of which the third wins no pixel, and a step after the end."""
    places = order(side)
    masks = torch.zeros(1, steps, side, side)
    for step in range(4):
        masks[0, step] = 0.9 * (places == step + 1)
    masks[0, 2, 20:36, 4:14] = third
    stop = torch.ones(1, steps)
    stop[0, :4] = torch.tensor([0.1, 0, 0.2, 0.3])
    return {"masks": masks, "order": places[None], "stop": stop}


def test_colours_of_an_order_are_told_apart_and_bright():
    for count in (1, 2, 10, 21):
        colors = orderfigures.order_colors(count).astype(int)
        assert colors.shape == (count, 3)
        assert (colors.max(axis=1) > 100).all()
        assert len(np.unique(colors, axis=0)) == count
        if count > 1:
            assert np.abs(np.diff(colors, axis=0)).sum(axis=1).min() > 20
    assert orderfigures.order_colors(0).shape == (0, 3)
    first, last = orderfigures.order_colors(8).astype(int)[[0, -1]]
    assert first[2] > first[0]  # blue
    assert last[0] > last[2]  # red


def test_every_pixel_has_the_colour_of_its_place():
    image = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    places = order()
    found = orderfigures.order_picture(image, places, numbers=False)
    grey, colors = figures.to_rgb(image).astype(float), orderfigures.order_colors(4).astype(float)
    for y, x in ((0, 0), (5, 5), (30, 10), (15, 30), (39, 39)):
        expected = 0.5 * grey[y, x]
        if places[y, x]:
            expected = 0.25 * grey[y, x] + 0.75 * colors[places[y, x] - 1]
        assert np.abs(found[y, x] - expected).max() <= 0.5 + 1e-6


def test_the_last_colour_can_belong_to_a_later_step():
    image = torch.zeros(1, 40, 40)
    found = orderfigures.order_picture(image, order(), steps=9, numbers=False)
    expected = 0.75 * orderfigures.order_colors(9)[3].astype(float)
    assert np.abs(found[15, 30] - expected).max() <= 0.5


def test_numbers_lie_inside_their_instances():
    image, places = torch.zeros(3, 40, 40), order()
    plain = orderfigures.order_picture(image, places, numbers=False)
    found = orderfigures.order_picture(image, places)
    factor = 12  # 480 / 40
    assert found.shape == (480, 480, 3)
    changed = (found != plain.repeat(factor, axis=0).repeat(factor, axis=1)).any(axis=-1)
    large = places.numpy().repeat(factor, axis=0).repeat(factor, axis=1)
    assert not changed[large == 0].any()
    for number in (1, 2, 4):
        assert changed[large == number].any()
    inside = changed & (large == 4)
    rows, columns = np.nonzero(inside)
    assert abs(rows.mean() - 20 * factor) < factor  # the middle of rows 10..29
    assert abs(columns.mean() - 30 * factor) < factor  # the middle of columns 24..35


def test_numbers_of_a_bent_instance_lie_on_it():
    places = torch.zeros(60, 60, dtype=torch.int64)
    places[5:55, 5:15] = places[45:55, 5:55] = 1  # its centroid is outside
    image = torch.zeros(1, 60, 60)
    plain = orderfigures.order_picture(image, places, numbers=False)
    found = orderfigures.order_picture(image, places)
    changed = (found != plain.repeat(8, axis=0).repeat(8, axis=1)).any(axis=-1)
    assert changed.any()
    assert not changed[places.numpy().repeat(8, axis=0).repeat(8, axis=1) == 0].any()


@pytest.mark.parametrize("sides", [(1, 1), (3, 700), (600, 500)])
def test_any_size_and_no_instances(sides):
    places = torch.zeros(sides, dtype=torch.int64)
    found = orderfigures.order_picture(torch.ones(1, *sides), places)
    assert found.shape[0] % sides[0] == 0
    assert found.shape[0] // sides[0] == found.shape[1] // sides[1]
    assert (found == 128).all()
    places[0, 0] = 3
    assert orderfigures.order_picture(torch.ones(1, *sides), places).shape == found.shape


def test_sides_must_be_equal():
    with pytest.raises(ShapeError, match="equal sides"):
        orderfigures.order_picture(torch.zeros(3, 4, 5), torch.zeros(4, 4, dtype=torch.int64))


def test_pictures_of_the_steps(monkeypatch):
    cells = []
    monkeypatch.setattr(orderfigures, "_grid", lambda given: cells.extend(given) or b"")
    image = torch.zeros(3, 40, 40)
    trace = episode()
    assert orderfigures.step_pictures(image, trace) == b""
    titles = [title for title, _ in cells]
    assert titles == [
        "image", "1   P(stop) 0.10", "2   P(stop) 0.00", "3   P(stop) 0.20", "4   P(stop) 0.30",
        "order",
    ]  # fmt: skip
    colors = orderfigures.order_colors(4).astype(float)
    first, second = cells[1][1].astype(float), cells[2][1].astype(float)
    assert np.abs(first[25, 8] - 0.9 * colors[0]).max() <= 0.5  # newest: full colour
    assert np.abs(second[25, 8] - 0.4 * 0.9 * colors[0]).max() <= 0.5  # earlier: pale
    assert np.abs(second[8, 8] - 0.9 * colors[1]).max() <= 0.5
    assert not first[8, 8].any()


def test_an_empty_mask_between_others_is_a_step(monkeypatch):
    cells = []
    monkeypatch.setattr(orderfigures, "_grid", lambda given: cells.extend(given) or b"")
    orderfigures.step_pictures(torch.zeros(3, 40, 40), episode(third=0.0))
    assert len(cells) == 6


def test_the_figure_of_the_steps():
    image = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    one_row = opened(orderfigures.step_pictures(image, episode()))
    trace = episode(steps=12)
    trace["masks"][:] = 0.5
    two_rows = opened(orderfigures.step_pictures(image, trace))
    assert two_rows.height > 1.7 * one_row.height
    del trace["stop"]
    trace["masks"][:] = 0
    assert opened(orderfigures.step_pictures(image, trace)).width < one_row.width
    assert orderfigures.step_pictures(image, {}) is None
    assert orderfigures.step_pictures(image, {"masks": trace["masks"]}) is None


def test_step_by_step_shows_what_the_trace_holds():
    image = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    bits = {"bits": torch.zeros(1, 3, 40, 40, dtype=torch.uint8)}
    for trace, names in (
        ({}, []),
        ({"probability": torch.zeros(1, 40, 40)}, []),
        (bits, ["bits"]),
        (episode(), ["order"]),
        (bits | episode(), ["bits", "order"]),
    ):
        shown = orderfigures.step_by_step("leaf7", image, trace)
        assert [one.name for one in shown] == names
        for one in shown:
            assert "leaf7" in one.text
            opened(one.png)


def record(step, **scalars):
    return {"stage": "sequence", "step": step, **scalars}


def test_dice_per_step_draws_the_last_evaluation(monkeypatch):
    drawn = {}

    def lines(groups, across, up):
        drawn.update(groups)
        assert (across, up) == ("step of the episode", "Dice of the mask")
        return b"chart"

    monkeypatch.setattr(figures, "lines", lines)
    old = {"eval/dice_step_1": 0.1, "eval/dice_step_2": 0.1, "eval/dice_step_3": 0.1}
    new = {"eval/dice_step_10": 0.5, "eval/dice_step_2": 0.8, "eval/dice_step_1": 0.9}
    extra = {"eval/dice": 0.7, "eval/iou_step_1": 0.2, "eval/dice_step_3": float("nan")}
    runs = {
        "one": [record(1, **old), record(2, **new, **extra), record(3, **{"train/loss": 1.0})],
        "none": [record(1, **{"eval/sbd": 0.5})],
    }
    assert orderfigures.dice_per_step(runs) == b"chart"
    assert drawn == {"one": [([1, 2, 10], [0.9, 0.8, 0.5])]}
    monkeypatch.undo()
    opened(orderfigures.dice_per_step(runs))
    assert orderfigures.dice_per_step({"none": runs["none"]}) is None
    assert orderfigures.dice_per_step({}) is None


def test_charts_keep_scores_per_step_out_of_the_curves(monkeypatch):
    titles = []
    inner = figures.series
    per_step = {f"eval/dice_step_{t}": 1 / t for t in range(1, 31)}
    runs = {"one": [record(1, **{"eval/sbd": 0.5}), record(2, **per_step, **{"train/loss": 0.1})]}
    monkeypatch.setattr(
        figures, "_line", lambda chart, *points, **style: titles.append(chart.get_title("left"))
    )
    assert len(inner(runs["one"])) == 32
    assert [shown.name for shown, _ in orderfigures.charts(runs)] == ["curves", "dice-per-step"]
    assert titles == ["eval/sbd", "train/loss"]
    assert orderfigures.charts({"one": []}) == []
