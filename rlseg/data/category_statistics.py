"""How the categories of an instance data set share its instances and pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlseg.data.base import Categorised, InstanceDataset
from rlseg.data.memory import InMemory
from rlseg.data.samples import InstanceSample
from rlseg.errors import CorruptDatasetError

__all__ = ["CategoryCounter", "CategoryShare", "categorised"]


@dataclass(frozen=True, kw_only=True)
class CategoryShare:
    """One category in numbers."""

    name: str
    instances: int
    pixels: int
    """Or voxels, known ones."""
    share: float | None
    """Among the pixels of all instances; None where there is none."""
    samples: int
    """In how many samples the category occurs."""


def categorised(dataset: InstanceDataset) -> Categorised | None:
    """What knows the categories of a data set's instances; None where nothing does."""
    inner = dataset.dataset if isinstance(dataset, InMemory) else dataset
    return inner if isinstance(inner, Categorised) else None


class CategoryCounter:
    """Adds up instances and pixels per category, sample by sample.

    Args:
        source: knows the categories.
        names: of the categories, in the order of their numbers.
    """

    def __init__(self, source: Categorised, names: Sequence[str]) -> None:
        self.source, self.names = source, tuple(names)
        self._instances, self._pixels, self._samples = torch.zeros(3, len(names), dtype=torch.int64)

    def add(self, index: int, sample: InstanceSample, areas: Tensor) -> None:
        """Counts a sample.

        Args:
            index: of the sample.
            sample: for its name.
            areas: int64 [N], known pixels of instance 1..N; those without one do not count.

        Raises:
            CorruptDatasetError: instances without a category, or with an unknown one.
        """
        categories = self.source.categories(index)
        if len(categories) < len(areas) or bool((categories >= len(self.names)).any()):
            raise CorruptDatasetError(
                f"{sample.name}: {len(areas)} instances with the categories "
                f"{categories.tolist()[:10]}; each needs one of 0 to {len(self.names) - 1}"
            )
        seen = areas > 0
        categories, areas = categories[: len(areas)][seen], areas[seen]
        self._instances.index_add_(0, categories, torch.ones_like(areas))
        self._pixels.index_add_(0, categories, areas)
        self._samples += torch.bincount(categories, minlength=len(self.names)) > 0

    def shares(self) -> tuple[CategoryShare, ...]:
        """The categories in their order, those that do not occur among them."""
        total = int(self._pixels.sum())
        return tuple(
            CategoryShare(
                name=name,
                instances=int(self._instances[k]),
                pixels=int(self._pixels[k]),
                share=int(self._pixels[k]) / total if total else None,
                samples=int(self._samples[k]),
            )
            for k, name in enumerate(self.names)
        )
