"""Samples and batches: what datasets return and learners consume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlseg.errors import ShapeError


@dataclass(frozen=True, kw_only=True)
class InstanceSample:
    """One image with its instances."""

    image: Tensor
    """float32 [C, *S] in [0, 1]."""
    labels: Tensor
    """int64 [*S]: 0 = background, 1..N instances, consecutive."""
    valid: Tensor
    """bool [*S]: False where the truth is unknown."""
    name: str
    """Unique within its split."""


@dataclass(frozen=True, kw_only=True)
class InstanceBatch:
    """Instance samples of equal size, stacked."""

    image: Tensor
    """float32 [B, C, *S] in [0, 1]."""
    labels: Tensor
    """int64 [B, *S]: numbered 1..N within each image."""
    valid: Tensor
    """bool [B, *S]."""
    names: tuple[str, ...]

    def to(self, device: torch.device) -> InstanceBatch:
        """The same batch on another device."""
        return InstanceBatch(
            image=self.image.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            valid=self.valid.to(device, non_blocking=True),
            names=self.names,
        )


@dataclass(frozen=True, kw_only=True)
class SemanticSample:
    """One image with a class per pixel."""

    image: Tensor
    """float32 [C, *S] in [0, 1]."""
    classes: Tensor
    """int64 [*S]: class ids, 255 = ignore."""
    name: str


@dataclass(frozen=True, kw_only=True)
class SemanticBatch:
    """Semantic samples of equal size, stacked."""

    image: Tensor
    """float32 [B, C, *S] in [0, 1]."""
    classes: Tensor
    """int64 [B, *S]."""
    names: tuple[str, ...]

    def to(self, device: torch.device) -> SemanticBatch:
        """The same batch on another device."""
        return SemanticBatch(
            image=self.image.to(device, non_blocking=True),
            classes=self.classes.to(device, non_blocking=True),
            names=self.names,
        )


def _check_sides(shapes: Sequence[tuple[int, ...]], names: Sequence[str]) -> None:
    if not shapes:
        raise ShapeError("cannot make a batch of no samples")
    for shape, name in zip(shapes, names, strict=True):
        if shape != shapes[0]:
            raise ShapeError(
                f"samples of one batch differ in size: {names[0]} is {list(shapes[0])}, {name} is "
                f"{list(shape)}; crop or resize them to one size"
            )


def collate_instances(samples: Sequence[InstanceSample]) -> InstanceBatch:
    """One batch from samples of equal size.

    Raises:
        ShapeError: no samples, or their sizes differ.
    """
    names = tuple(sample.name for sample in samples)
    _check_sides([tuple(sample.image.shape) for sample in samples], names)
    return InstanceBatch(
        image=torch.stack([sample.image for sample in samples]),
        labels=torch.stack([sample.labels for sample in samples]),
        valid=torch.stack([sample.valid for sample in samples]),
        names=names,
    )


def collate_semantic(samples: Sequence[SemanticSample]) -> SemanticBatch:
    """One batch from samples of equal size.

    Raises:
        ShapeError: no samples, or their sizes differ.
    """
    names = tuple(sample.name for sample in samples)
    _check_sides([tuple(sample.image.shape) for sample in samples], names)
    return SemanticBatch(
        image=torch.stack([sample.image for sample in samples]),
        classes=torch.stack([sample.classes for sample in samples]),
        names=names,
    )
