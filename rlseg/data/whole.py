"""Whole images in order, for evaluation, and a data set at another resolution."""

from __future__ import annotations

from collections.abc import Iterator

from rlseg.data.base import InstanceDataset
from rlseg.data.samples import InstanceBatch, InstanceSample, collate_instances
from rlseg.data.transforms import resize
from rlseg.errors import ConfigError


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
