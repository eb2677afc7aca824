"""What all generated instance scenes share: splits, length, and a generator per scene."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlseg.data.samples import InstanceSample
from rlseg.data.seeds import named_generator


class GeneratedInstances(ABC):
    """A split of scenes that are drawn when asked for, each from a seed of its own.

    Args:
        split: one of `splits`.
        options: of the data set, with `seed` and a number of scenes per split.
    """

    layout: ClassVar[str] = "generated, no files"
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "tune", "test")
    classes: ClassVar[tuple[str, ...]] = ()
    how_to_get: ClassVar[str] = "Nothing to get: scenes are drawn from a seed when asked for."
    terms: ClassVar[str] = "None: nobody else's work is in the scenes."
    version: ClassVar[str]
    """`name/number`; part of every seed."""

    def __init__(self, split: str, options: Any) -> None:
        self.split = split
        self.options = options
        self._count = int(getattr(options, split))

    def __len__(self) -> int:
        """Number of scenes."""
        return self._count

    def __getitem__(self, index: int) -> InstanceSample:
        """Scene `index`: image float32 [C, *S] in steps of 1/255; IndexError beyond."""
        if not 0 <= index < self._count:
            raise IndexError(f"scene {index} of {self._count}")
        generator = named_generator(self.options.seed, self.version, self.split, index)
        image, labels = self._draw(generator)
        return InstanceSample(
            image=image,
            labels=labels,
            valid=torch.ones_like(labels, dtype=torch.bool),
            name=f"{self.version.partition('/')[0]}_{self.split}_{index:04d}",
        )

    @abstractmethod
    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Image float32 [C, *S] and labels int64 [*S]."""
