"""Whole images in order, for evaluation, and their sizes before training; other resolutions."""

from __future__ import annotations

from collections.abc import Iterator

from rlseg.data.base import InstanceDataset
from rlseg.data.samples import InstanceBatch, InstanceSample, collate_instances
from rlseg.data.transforms import resize
from rlseg.errors import ConfigError, ShapeError


class WholeImages:
    """Batches of whole samples in the order of the data set; iterable again and again.

    Neighbours of equal size share a batch; a new size starts a new one.

    Args:
        dataset: map-style; an empty one gives no batch.
        batch_size: most samples per batch, at least 1.
    """

    def __init__(self, dataset: InstanceDataset, batch_size: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        self.dataset = dataset
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[InstanceBatch]:
        """The batches, from the first sample on."""
        waiting: list[InstanceSample] = []
        for index in range(len(self.dataset)):
            sample = self.dataset[index]
            full = len(waiting) == self.batch_size
            if waiting and (full or sample.image.shape != waiting[0].image.shape):
                yield collate_instances(waiting)
                waiting = []
            waiting.append(sample)
        if waiting:
            yield collate_instances(waiting)


class Scaled:
    """A data set with images and labels resized by one factor, each side rounded.

    Args:
        dataset: map-style.
        scale: factor above 0; every side stays at least one pixel.
    """

    def __init__(self, dataset: InstanceDataset, scale: float) -> None:
        if scale <= 0:
            raise ConfigError(f"scale must be above 0, got {scale}")
        self.dataset = dataset
        self.scale = scale

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> InstanceSample:
        """Sample `index`, resized by the nearest pixel (as the ColorRL authors do)."""
        sample = self.dataset[index]
        sides = tuple(max(round(side * self.scale), 1) for side in sample.labels.shape)
        return sample if sides == tuple(sample.labels.shape) else resize(sample, sides, "nearest")


def smallest_sides(dataset: InstanceDataset) -> tuple[int, ...]:
    """The smallest side per axis over all samples, each read once; empty without samples."""
    sides = [tuple(dataset[index].labels.shape) for index in range(len(dataset))]
    return tuple(min(axis) for axis in zip(*sides, strict=True))


def check_crop(
    dataset: InstanceDataset, crop: int, scale_hint: str = "", *, multiple: int = 1
) -> None:
    """Nothing, if square crops of side `crop` fit into every sample; each is read once.

    Args:
        dataset: map-style, at the resolution of training.
        crop: side in pixels, along every axis.
        scale_hint: what else would help, for the message: "raise --set scale=...".
        multiple: what a crop's side must be a multiple of.

    Raises:
        ShapeError: names the smallest sample, its size, the crop, and the largest crop that fits.
    """
    least, name, sides, small = crop, "", [], 0
    for index in range(len(dataset)):
        sample = dataset[index]
        side = min(sample.labels.shape)
        small += side < crop
        if side < least:
            least, name, sides = side, sample.name, list(sample.labels.shape)
    if not small:
        return
    fitting = least // multiple * multiple
    ways = [f"use --set crop={fitting}"] if fitting else []
    ways += [scale_hint] if scale_hint else []
    ways.append("leave out such images")
    others = f" ({small} of {len(dataset)} samples are too small)" if small > 1 else ""
    raise ShapeError(
        f"{name} is {sides} at the resolution of training, less than the crop of {crop}{others}: "
        f"{', or '.join(ways)}"
    )
