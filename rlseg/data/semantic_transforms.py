"""Joint random changes of image and class map: sizes, crops, mirroring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.nn import functional

from rlseg.data.base import SemanticDataset
from rlseg.data.memory import PackedSample
from rlseg.data.samples import SemanticSample
from rlseg.data.transforms import resize_nearest
from rlseg.errors import ConfigError, ShapeError

LEVELS = 255  # of an 8-bit image


@dataclass(frozen=True, kw_only=True)
class SemanticAugmentation:
    """Random changes of semantic training samples; the defaults are RALIS's."""

    flip_horizontal: float = 0.5
    """Probability of mirroring left and right."""
    crop: tuple[int, int] | None = None
    """Rows and columns of a window at a random place; None = the whole image. RALIS: 224 x 224 of
    CamVid, 256 x 512 of Cityscapes."""

    def __post_init__(self) -> None:
        if not 0 <= self.flip_horizontal <= 1:
            raise ConfigError(
                f"flip_horizontal is a probability in 0..1, got {self.flip_horizontal}"
            )
        if self.crop is not None and min(self.crop) < 1:
            raise ConfigError(f"crop needs sides of at least 1, got {list(self.crop)}")


class SemanticTransform:
    """Random crop and mirroring, in the form that `EpochStream` takes.

    With packed samples, `EpochStream(Packed(kept), transform=...)`, only the window is unpacked;
    the numbers are the same.
    """

    def __init__(self, augmentation: SemanticAugmentation) -> None:
        self.augmentation = augmentation

    def __call__(
        self, sample: SemanticSample | PackedSample[SemanticSample], generator: torch.Generator
    ) -> SemanticSample:
        """The changed sample."""
        return augment_semantic(sample, self.augmentation, generator)


def augment_semantic(
    sample: SemanticSample | PackedSample[SemanticSample],
    config: SemanticAugmentation,
    generator: torch.Generator,
    *,
    centre: tuple[int, int] | None = None,
) -> SemanticSample:
    """A window of the sample at a random place, perhaps mirrored.

    Three numbers are drawn whatever the settings: row, column, mirroring.

    Args:
        sample: image [C, H, W] and classes [H, W], packed or not.
        config: what is changed.
        generator: of all numbers.
        centre: a place (row, column) that the window is to hold, see `crop_start`; None = anywhere.

    Returns:
        A new sample with sides `config.crop`.

    Raises:
        ShapeError: the crop is larger than the sample.
    """
    height, width = sample.sides if isinstance(sample, PackedSample) else sample.classes.shape
    size = config.crop or (height, width)
    if size[0] > height or size[1] > width:
        raise ShapeError(
            f"cannot crop {size[0]} x {size[1]} out of {sample.name}, which is {height} x "
            f"{width}: lower the crop or enlarge the images"
        )
    row, column = crop_start((height, width), size, generator, centre)
    mirror = float(torch.rand((), generator=generator)) < config.flip_horizontal
    if isinstance(sample, PackedSample):
        return sample.window((row, column), size, mirror=mirror)
    rows, columns = slice(row, row + size[0]), slice(column, column + size[1])
    window = replace(
        sample,
        image=sample.image[:, rows, columns].contiguous(),
        classes=sample.classes[rows, columns].contiguous(),
    )
    if not mirror:
        return window
    return replace(window, image=window.image.flip(-1), classes=window.classes.flip(-1))


def crop_start(
    sides: tuple[int, int],
    size: tuple[int, int],
    generator: torch.Generator,
    centre: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """First row and column of a window, evenly drawn among those that are possible.

    Args:
        sides: rows and columns of the image, at least `size`.
        size: rows and columns of the window.
        generator: of both numbers.
        centre: a place in the image; per axis the window starts at `max(0, centre - size)` at the
            earliest and at `centre` at the latest, as in RALIS, so that the place lies in the
            window or touches it.
    """
    start = []
    for axis, (side, want) in enumerate(zip(sides, size, strict=True)):
        low, high = 0, side - want
        if centre is not None:
            low = min(max(0, centre[axis] - want), high)
            high = min(centre[axis], high)
        start.append(low + int(torch.randint(high - low + 1, (), generator=generator)))
    return start[0], start[1]


def resize_semantic(
    sample: SemanticSample,
    size: tuple[int, int],
    image_mode: Literal["nearest", "linear"] = "linear",
) -> SemanticSample:
    """The sample at another size.

    Args:
        sample: image [C, H, W] and classes [H, W].
        size: rows and columns of the result.
        image_mode: "nearest" picks pixels, "linear" mixes them (and averages over what is merged
            when the image shrinks), rounded to 8 bits as image libraries do. Classes: nearest.

    Raises:
        ShapeError: a side below 1.
    """
    if min(size) < 1:
        raise ShapeError(f"cannot resize {sample.name} to {list(size)}: sides must be positive")
    if image_mode == "nearest":
        image = resize_nearest(sample.image, size)
    else:
        image = functional.interpolate(sample.image[None], size, mode="bilinear", antialias=True)[0]
        image = (image.clamp(0, 1) * LEVELS).round() / LEVELS
    return replace(sample, image=image, classes=resize_nearest(sample.classes, size))


class LongSide:
    """A data set whose images have a given longer side, as RALIS scales GTAV frames to 480.

    Wrap it into `InMemory`, which then keeps the small images.

    Args:
        dataset: map-style.
        pixels: the longer side; the other one keeps the proportion, rounded down.
    """

    def __init__(self, dataset: SemanticDataset, pixels: int) -> None:
        if pixels < 1:
            raise ConfigError(f"the longer side must be at least 1 pixel, got {pixels}")
        self.dataset = dataset
        self.pixels = pixels

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> SemanticSample:
        """Sample `index`, resized; the sample itself if it has that size."""
        sample = self.dataset[index]
        height, width = sample.classes.shape
        longer = max(height, width)
        if longer == self.pixels:
            return sample
        size = max(1, self.pixels * height // longer), max(1, self.pixels * width // longer)
        return resize_semantic(sample, size)
