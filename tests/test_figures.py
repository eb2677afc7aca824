"""Figures: colours that tell neighbours apart, overlays, curves and panels."""

from __future__ import annotations

import io
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg import figures
from rlseg.errors import CorruptDatasetError, ShapeError


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return image


def squares(side: int = 6, count: int = 8) -> torch.Tensor:
    """A chess board of touching squares with ids 1..count^2."""
    ids = torch.arange(1, count * count + 1).reshape(count, count)
    return ids.repeat_interleave(side, 0).repeat_interleave(side, 1)


def test_neighbours_have_different_colours_and_background_is_black():
    labels = squares()
    labels[:, :2] = 0
    picture = figures.color_labels(labels).astype(int)
    assert (picture[:, :2] == 0).all()
    assert (picture[:, 2:].sum(axis=-1) > 0).all()
    for axis in (0, 1):
        edge = np.diff(labels.numpy(), axis=axis) != 0
        assert (np.abs(np.diff(picture, axis=axis)).sum(axis=-1)[edge] > 60).all()


def test_instances_a_few_pixels_apart_have_different_colours():
    labels = torch.zeros(5, 200, dtype=torch.int64)
    for k in range(40):
        labels[:, 5 * k : 5 * k + 2] = 1 + k * 1000  # a gap of three pixels
    picture = figures.color_labels(labels)
    colors = [tuple(picture[0, 5 * k]) for k in range(40)]
    assert all(one != other for one, other in itertools.pairwise(colors))
    assert all((picture[:, 5 * k] == picture[0, 5 * k]).all() for k in range(40))


def test_the_palette_is_told_apart():
    palette = figures.PALETTE.astype(int)
    distance = np.abs(palette[:, None] - palette[None]).sum(axis=-1)
    assert distance[~np.eye(len(palette), dtype=bool)].min() > 60


@pytest.mark.parametrize("labels", [torch.zeros(3, 4, dtype=torch.int64), torch.ones(3, 4).long()])
def test_maps_without_instances_and_without_background(labels):
    picture = figures.color_labels(labels)
    assert picture.shape == (3, 4, 3)
    assert (picture == picture[0, 0]).all()
    assert bool(picture.any()) == bool(labels.any())


def test_labels_must_be_integers_in_two_axes():
    with pytest.raises(ShapeError, match="float32"):
        figures.color_labels(torch.zeros(3, 4))
    with pytest.raises(ShapeError, match=r"\[1, 3, 4\]"):
        figures.color_labels(torch.zeros(1, 3, 4, dtype=torch.int64))


def test_images_of_one_two_and_many_channels():
    grey = figures.to_rgb(torch.tensor([[[0.0, 0.5, 2.0]]]))
    assert grey.tolist() == [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]]
    assert figures.to_rgb(torch.ones(2, 1, 1)).tolist() == [[[255, 255, 0]]]
    assert figures.to_rgb(torch.ones(5, 1, 1)).tolist() == [[[255, 255, 255]]]
    with pytest.raises(ShapeError):
        figures.to_rgb(torch.ones(4, 4))


def test_overlay_outlines_instances_and_leaves_the_rest_alone():
    labels = torch.zeros(7, 8, dtype=torch.int64)
    labels[1:6, 1:6] = 4
    image = torch.full((1, 7, 8), 0.5)
    picture = figures.overlay(image, labels, opacity=0.25)
    color = figures.PALETTE[0].astype(float)
    assert (picture[labels.numpy() == 0] == 128).all()
    assert (picture[1, 1:6] == color).all()
    assert np.abs(picture[3, 3] - (0.75 * 128 + 0.25 * color)).max() <= 0.5
    with pytest.raises(ShapeError, match="equal sides"):
        figures.overlay(image, labels[1:])


def test_png_keeps_every_value():
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert np.array_equal(np.asarray(opened(figures.png(picture))), picture)


def test_flat_takes_the_middle_plane():
    volume = torch.arange(5 * 2 * 2).reshape(5, 2, 2)
    assert np.array_equal(figures.flat(volume), volume[2].numpy())
    assert np.array_equal(figures.flat(volume[None]), volume[None, 2].numpy())


# Curves


def test_scalars_are_read_and_a_cut_last_line_is_left_out(tmp_path):
    path = tmp_path / "scalars.jsonl"
    assert figures.read_scalars(path) == []
    records = [{"stage": "a", "step": 1, "loss": 2.0}, {"stage": "a", "step": 2, "loss": None}]
    path.write_text("\n".join(map(json.dumps, records)) + '\n{"stage": "a", "st')
    assert figures.read_scalars(path) == records
    path.write_text('{"step": 1}\nx\n{"step": 2}\n')
    with pytest.raises(CorruptDatasetError, match="line 2"):
        figures.read_scalars(path)


def test_series_leave_out_clocks_and_what_is_no_number():
    records = [
        {"stage": "a", "step": 1, "loss": 2, "seconds": 1.0, "steps_per_s": 3.0, "note": "x"},
        {"stage": "a", "step": 2, "loss": None, "ok": True},
        {"stage": "b", "step": 1, "loss": 4.0, "bad": float("nan")},
    ]
    found = figures.series(records)
    assert list(found) == [("a", "loss"), ("b", "loss")]
    assert [v.tolist() for v in found["a", "loss"]] == [[1.0], [2.0]]


def record(step: int, **scalars: float) -> dict[str, object]:
    return {"stage": "s", "step": step, **scalars}


def test_curves_grow_with_the_number_of_charts():
    one = opened(figures.curves({"a": [record(i, loss=i) for i in range(100)]}))
    two = opened(
        figures.curves(
            {
                "a": [record(i, loss=i, eval=i) for i in range(100)],
                "b": [record(i, loss=1 - i) for i in range(3)],
            }
        )
    )
    assert two.width > one.width
    assert figures.curves({"a": [record(1, seconds=3.0)]}) is None
    assert figures.curves({"a": []}) is None


def test_equal_curves_are_equal_files():
    records = {"a": [record(i, loss=i * i) for i in range(5)]}
    assert figures.curves(records) == figures.curves(records)


def test_lines_of_several_groups():
    groups = {"a": [([0, 1], [0.1, 0.2]), ([0, 2], [0.1, 0.3])], "b": [([1], [0.5])]}
    assert opened(figures.lines(groups, "minutes", "sbd")).width > 400


# Panels


def test_panels_take_images_labels_pictures_and_gaps():
    image, labels = torch.rand(1, 8, 9), squares(2, 4)
    rows = [
        (
            "first",
            {"image": image, "truth": labels, "overlay": figures.overlay(image[..., :8], labels)},
        ),
        ("second", {"image": image, "flags": labels > 3}),
    ]
    wide = opened(figures.panels(rows))
    assert wide.width > 1.5 * wide.height
    with pytest.raises(ShapeError, match="rows are empty"):
        figures.panels([])


def test_bit_maps_show_each_step():
    image = torch.zeros(1, 6, 6)
    bits = torch.zeros(2, 3, 6, 6, dtype=torch.int8)
    bits[0, 1, :3] = 1
    picture = np.asarray(opened(figures.bit_maps(image, {"bits": bits})).convert("RGBA"))
    white = (picture[..., :3] == 255).all(axis=-1) & (picture[..., 3] == 255)
    columns = np.flatnonzero(white.sum(axis=0) > 20)
    # Four columns: image, bit 0, bit 1, bit 2; only bit 1 has white pixels, in its upper half.
    assert columns.min() / picture.shape[1] > 0.5
    assert columns.max() / picture.shape[1] < 0.78
    assert np.flatnonzero(white.any(axis=1)).max() < picture.shape[0] / 2
    assert figures.bit_maps(image, {"masks": bits}) is None
    with pytest.raises(ShapeError, match=r"\[T, H, W\]"):
        figures.bit_maps(image, {"bits": bits[0]})
