"""What a semantic data set looks like in numbers: sizes, and how its classes share the pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rlseg.data.base import SemanticDataset
from rlseg.data.semantic_classes import VOID
from rlseg.errors import ConfigError, CorruptDatasetError


@dataclass(frozen=True, kw_only=True)
class ClassShare:
    """One class in numbers."""

    name: str
    pixels: int
    share: float | None
    """Among the pixels that have a class; None where none has."""
    samples: int
    """In how many samples the class occurs."""


@dataclass(frozen=True, kw_only=True)
class SemanticStatistics:
    """One split in numbers; None where there is nothing to divide by."""

    samples: int
    smallest: tuple[int, ...]
    """Smallest side per axis."""
    largest: tuple[int, ...]
    """Largest side per axis."""
    pixels: int
    unknown: float
    """Share of pixels without a class."""
    entropy: float | None
    """Of the class shares, in nats divided by log K: 1 = all classes alike, 0 = a single one."""
    classes: tuple[ClassShare, ...]


def semantic_statistics(
    dataset: SemanticDataset,
    classes: Sequence[str],
    advance: Callable[[int], None] | None = None,
) -> SemanticStatistics:
    """All numbers of one split, each sample read once.

    Args:
        dataset: at least one sample.
        classes: names, in the order of class ids.
        advance: called with the number of samples read, for a progress display.

    Raises:
        ConfigError: an empty dataset or no class.
        CorruptDatasetError: a class id without a name.
    """
    if len(dataset) == 0 or not classes:
        raise ConfigError("statistics need at least one sample and one class")
    total = torch.zeros(VOID + 1, dtype=torch.int64)
    occurs = torch.zeros(VOID + 1, dtype=torch.int64)
    sides: list[tuple[int, ...]] = []
    for index in range(len(dataset)):
        sample = dataset[index]
        counts = torch.bincount(sample.classes.flatten(), minlength=VOID + 1)
        strange = counts.clone()
        strange[: len(classes)] = 0
        strange[VOID] = 0
        if strange.any():
            raise CorruptDatasetError(
                f"{sample.name}: class {int(strange.nonzero()[0])} in a map of {len(classes)} "
                "classes; ids are 0 to K - 1, or 255 for pixels that do not count"
            )
        total += counts
        occurs += counts > 0
        sides.append(tuple(sample.classes.shape))
        if advance is not None:
            advance(index + 1)
    pixels, known = int(total.sum()), int(total[: len(classes)].sum())
    shares = [int(n) / known if known else None for n in total[: len(classes)]]
    nats = -sum(share * math.log(share) for share in shares if share)
    one_class = len(classes) == 1
    return SemanticStatistics(
        samples=len(dataset),
        smallest=tuple(min(axis) for axis in zip(*sides, strict=True)),
        largest=tuple(max(axis) for axis in zip(*sides, strict=True)),
        pixels=pixels,
        unknown=1 - known / pixels if pixels else 0.0,
        entropy=None if not known or one_class else abs(nats) / math.log(len(classes)),
        classes=tuple(
            ClassShare(name=name, pixels=int(total[k]), share=shares[k], samples=int(occurs[k]))
            for k, name in enumerate(classes)
        ),
    )
