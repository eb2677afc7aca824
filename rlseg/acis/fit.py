"""From images of any size to the one size of the networks, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rlseg.data.base import InstanceDataset
from rlseg.data.labels import compact
from rlseg.data.samples import InstanceSample
from rlseg.data.transforms import resize_nearest
from rlseg.errors import ShapeError
from rlseg.shapes import expect

Fit = Literal["crop", "stretch"]
"""Resize until the picture covers the window and cut out its middle, or resize both sides."""
LEVELS = 255
"""Images that training keeps in RAM are multiples of 1 / this, so that a byte holds each."""
Sides = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How an image is brought to the size of the networks."""

    original: Sides
    """Of the image."""
    resized: Sides
    """After resizing, before the cut; no side is shorter than the window's."""
    offset: Sides
    """First row and column of the window."""
    window: Sides
    """What the networks see."""


def fit_geometry(original: Sides, sides: Sides, how: Fit) -> Geometry:
    """The resizing and the cut for images of one size.

    For "crop" the axis that is relatively shorter gets the length of the window's side, the other
    one follows, rounded; the window starts at ceil(surplus / 2). CVPPP: 530 x 500 to 237 x 224,
    from row 7 on.

    Args:
        original: height and width of the image.
        sides: of the networks' input.
        how: see `Fit`.

    Raises:
        ShapeError: a side below 1.
    """
    if min(*original, *sides) < 1:
        raise ShapeError(
            f"cannot fit an image of {list(original)} to {list(sides)}: every side needs a pixel"
        )
    resized = sides
    if how == "crop" and original != sides:
        (height, width), (rows, columns) = original, sides
        if height * columns >= width * rows:  # tall, compared with the window
            resized = (max(rows, _rounded(height * columns, width)), columns)
        else:
            resized = (rows, max(columns, _rounded(width * rows, height)))
    offset = ((resized[0] - sides[0] + 1) // 2, (resized[1] - sides[1] + 1) // 2)
    return Geometry(original=original, resized=resized, offset=offset, window=sides)


def fit_image(image: Tensor, sides: Sides, how: Fit) -> Tensor:
    """Images at the size of the networks: bicubic, averaging where they shrink (C: bicubic).

    Args:
        image: float [B, C, H, W] in [0, 1].
        sides: height and width of the result.
        how: see `Fit`.

    Returns:
        float [B, C, *sides] in [0, 1]; the very same tensor where nothing has to be done.
    """
    expect("B C H W", image=image)
    geometry = fit_geometry((image.shape[2], image.shape[3]), sides, how)
    if geometry.resized != geometry.original:
        image = functional.interpolate(
            image, geometry.resized, mode="bicubic", antialias=True
        ).clamp(0, 1)
    return _cut(image, geometry)


def fit_sample(sample: InstanceSample, sides: Sides, how: Fit) -> InstanceSample:
    """The sample at the size of the networks; labels and valid take the nearest pixel.

    A resized image is rounded to multiples of 1/255, which memory keeps in a quarter of the room.

    Args:
        sample: two space axes.
        sides: height and width of the result.
        how: see `Fit`.

    Returns:
        A sample whose instances are numbered 1..N by what is left of them: those cut away, or
        without a valid pixel, are no longer counted (the original keeps them as instances without
        a pixel).
    """
    expect("H W", labels=sample.labels, valid=sample.valid)
    geometry = fit_geometry((sample.labels.shape[0], sample.labels.shape[1]), sides, how)
    if geometry.original == sides:
        known = torch.where(sample.valid, sample.labels, 0)
        return (
            sample if torch.equal(known, sample.labels) else replace(sample, labels=compact(known))
        )
    labels = _cut(resize_nearest(sample.labels, geometry.resized), geometry)
    valid = _cut(resize_nearest(sample.valid, geometry.resized), geometry).contiguous()
    return replace(
        sample,
        image=to_levels(fit_image(sample.image[None], sides, how)[0].contiguous()),
        labels=compact(torch.where(valid, labels, 0)),
        valid=valid,
    )


class FittedDataset:
    """A data set whose samples have the size of the networks.

    Args:
        dataset: map-style, two space axes.
        sides: height and width of the samples handed out.
        how: see `Fit`.
    """

    def __init__(self, dataset: InstanceDataset, sides: Sides, how: Fit) -> None:
        self.dataset = dataset
        self.sides = sides
        self.how = how

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> InstanceSample:
        """Sample `index`, fitted."""
        return fit_sample(self.dataset[index], self.sides, self.how)


def unfit(masks: Tensor, original: Sides, how: Fit) -> Tensor:
    """Masks at the size of the image: pasted into zeros where a part was cut off, then resized.

    Args:
        masks: float [M, h, w] at the size of the networks.
        original: height and width of the image.
        how: as in fitting.

    Returns:
        float [M, *original], bilinear; averaging where masks shrink.
    """
    expect("M h w", masks=masks)
    geometry = fit_geometry(original, (masks.shape[1], masks.shape[2]), how)
    if geometry.resized != geometry.window:
        (top, left), (height, width) = geometry.offset, geometry.window
        canvas = masks.new_zeros(len(masks), *geometry.resized)
        canvas[:, top : top + height, left : left + width] = masks
        masks = canvas
    if geometry.resized == geometry.original or not len(masks):
        return masks if len(masks) else masks.new_zeros(0, *original)
    return functional.interpolate(
        masks.unsqueeze(1), geometry.original, mode="bilinear", antialias=True
    ).squeeze(1)


def to_levels(image: Tensor) -> Tensor:
    """A float image in [0, 1], as multiples of 1 / `LEVELS`."""
    return (image * LEVELS).round_().div_(LEVELS)


def _cut(array: Tensor, geometry: Geometry) -> Tensor:
    (top, left), (height, width) = geometry.offset, geometry.window
    return array[..., top : top + height, left : left + width]


def _rounded(numerator: int, denominator: int) -> int:
    """The quotient rounded to the nearest integer, halves up, without floating point."""
    return (2 * numerator + denominator) // (2 * denominator)
