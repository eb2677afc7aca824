"""Whole images in order, for evaluation, and their sizes before training; other resolutions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from rlseg.data.base import InstanceDataset, SemanticDataset
from rlseg.data.damage import MapStyle, OnBadSample, readable
from rlseg.data.samples import (
    InstanceBatch,
    InstanceSample,
    SemanticBatch,
    SemanticSample,
    collate_instances,
    collate_semantic,
)
from rlseg.data.transforms import resize
from rlseg.errors import ConfigError, ShapeError

Sample = TypeVar("Sample", bound=InstanceSample | SemanticSample)


class WholeImages:
    """Batches of whole samples in the order of the data set; iterable again and again.

    Neighbours of equal size share a batch; a new size starts a new one.

    Args:
        dataset: map-style; an empty one gives no batch.
        batch_size: most samples per batch, at least 1.
    """

    def __init__(self, dataset: InstanceDataset, batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = _checked_size(batch_size)

    def __iter__(self) -> Iterator[InstanceBatch]:
        """The batches, from the first sample on."""
        return map(collate_instances, _equal_sized(self.dataset, self.batch_size))


class WholeSemanticImages:
    """`WholeImages` for semantic samples.

    Args:
        dataset: map-style; an empty one gives no batch.
        batch_size: most samples per batch, at least 1.
    """

    def __init__(self, dataset: SemanticDataset, batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = _checked_size(batch_size)

    def __iter__(self) -> Iterator[SemanticBatch]:
        """The batches, from the first sample on."""
        return map(collate_semantic, _equal_sized(self.dataset, self.batch_size))


def _checked_size(batch_size: int) -> int:
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    return batch_size


def _equal_sized(dataset: MapStyle[Sample], most: int) -> Iterator[list[Sample]]:
    """Runs of neighbours of equal image size, at most `most` each."""
    waiting: list[Sample] = []
    for index in range(len(dataset)):
        sample = dataset[index]
        full = len(waiting) == most
        if waiting and (full or sample.image.shape != waiting[0].image.shape):
            yield waiting
            waiting = []
        waiting.append(sample)
    if waiting:
        yield waiting


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
    dataset: InstanceDataset,
    crop: int,
    scale_hint: str = "",
    *,
    multiple: int = 1,
    on_bad_sample: OnBadSample = "fail",
) -> None:
    """Nothing, if square crops of side `crop` fit into every sample; each is read once.

    Args:
        dataset: map-style, at the resolution of training.
        crop: side in pixels, along every axis.
        scale_hint: what else would help, for the message: "raise --set scale=...".
        multiple: what a crop's side must be a multiple of.
        on_bad_sample: "skip" passes over samples that cannot be decoded.

    Raises:
        CorruptDatasetError: a sample cannot be decoded and must not be skipped, or too many.
        ShapeError: names the smallest sample, its size, the crop, and the largest crop that fits.
    """
    least, name, sides, small = crop, "", [], 0
    for sample in readable(dataset, on_bad_sample):
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
