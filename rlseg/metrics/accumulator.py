"""What adds up scores over a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from rlseg.errors import ConfigError, ShapeError
from rlseg.metrics.overlap import LabelMap


class Accumulator(Protocol):
    """Sums over images; merging two is adding their states."""

    def update(
        self, pred: LabelMap, true: LabelMap, valid: LabelMap | None = None, *, name: str = ""
    ) -> None:
        """Adds one image: integer maps [*S], bool mask [*S] of the pixels that count."""

    def state(self) -> Tensor:
        """Sums only, float64 [K]: states of several ranks may be added."""

    def load(self, state: Tensor) -> None:
        """Continues from a state, forgetting what was added before."""

    def compute(self) -> dict[str, float]:
        """The scores; nan where undefined."""


class MetricSet:
    """Several accumulators fed and merged as one; their scores are prefixed with their names.

    Args:
        parts: name -> accumulator; an empty name adds no prefix.
    """

    def __init__(self, parts: Mapping[str, Accumulator]) -> None:
        self.parts = dict(parts)

    def update(
        self, pred: LabelMap, true: LabelMap, valid: LabelMap | None = None, *, name: str = ""
    ) -> None:
        """Adds one image to every part."""
        for part in self.parts.values():
            part.update(pred, true, valid, name=name)

    def state(self) -> Tensor:
        """The states of all parts, one after the other, float64 [K]."""
        states = [part.state() for part in self.parts.values()]
        return torch.cat(states) if states else torch.zeros(0, dtype=torch.float64)

    def load(self, state: Tensor) -> None:
        """Continues from what `state` returned.

        Raises:
            ShapeError: another length than the parts have together.
        """
        sizes = [len(part.state()) for part in self.parts.values()]
        if state.shape != (sum(sizes),):
            raise ShapeError(
                f"state has shape {list(state.shape)}, expected [{sum(sizes)}]; it belongs to "
                "another set of metrics"
            )
        for part, piece in zip(self.parts.values(), torch.split(state, sizes), strict=True):
            part.load(piece)

    def compute(self) -> dict[str, float]:
        """The scores of all parts.

        Raises:
            ConfigError: two parts give a score of the same name.
        """
        scores: dict[str, float] = {}
        for name, part in self.parts.items():
            for key, value in part.compute().items():
                full = f"{name}/{key}" if name else key
                if full in scores:
                    raise ConfigError(
                        f"two accumulators give a score {full!r}; give them different names"
                    )
                scores[full] = value
        return scores
