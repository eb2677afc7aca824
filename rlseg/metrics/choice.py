"""Mean scores of several options on held-out images: how thresholds and sizes are chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from rlseg.metrics.instance import count_difference, symmetric_best_dice
from rlseg.metrics.overlap import overlap
from rlseg.metrics.partition import adapted_rand_error

Option = TypeVar("Option", bound=Hashable)

NAMES = ("sbd", "abs_dic", "arand", "instances")


class OptionScores(Generic[Option]):
    """Adds up the scores of every option, image by image."""

    def __init__(self) -> None:
        self._rows: dict[Option, list[tuple[float, float, float, float]]] = {}

    def add(self, option: Option, labels: Tensor, true: Tensor, valid: Tensor) -> None:
        """Adds a batch of images that an option was tried on.

        Args:
            option: what was tried.
            labels: int64 [B, *S], 1..M in each image.
            true: int64 [B, *S].
            valid: bool [B, *S].
        """
        rows = self._rows.setdefault(option, [])
        for found, truth, known in zip(labels, true, valid, strict=True):
            table = overlap(found, truth, known)
            rows.append(
                (
                    symmetric_best_dice(table),
                    abs(count_difference(table)),
                    adapted_rand_error(table),
                    float(found.max()),
                )
            )

    def means(self) -> dict[Option, dict[str, float]]:
        """Mean `sbd`, `abs_dic`, `arand` and `instances` per option, in the order of adding.

        ARAND follows the convention "skimage"; `instances` is the number found. Images on which
        a score is undefined are left out of its mean.
        """
        return {
            option: dict(
                zip(
                    NAMES,
                    torch.tensor(rows, dtype=torch.float64).nanmean(dim=0).tolist(),
                    strict=True,
                )
            )
            for option, rows in self._rows.items()
        }


def best_option(
    means: dict[Option, dict[str, float]], score: Callable[[dict[str, float]], float]
) -> Option:
    """The option with the highest score: the first of equals; an undefined score is the lowest.

    Args:
        means: at least one option, as `OptionScores.means` returns them.
        score: of an option's means; NaN where undefined.
    """

    def rank(option: Option) -> float:
        value = score(means[option])
        return -math.inf if math.isnan(value) else value

    return max(means, key=rank)
