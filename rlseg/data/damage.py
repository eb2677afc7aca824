"""Samples that cannot be decoded: an error by default, or skipped, counted, and never many."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal, Protocol, TypeVar

from rlseg.errors import CorruptDatasetError

__all__ = ["MAX_BAD_SHARE", "OnBadSample", "bad_sample", "readable"]

MAX_BAD_SHARE = 0.01
"""Of the samples of a data set that may be skipped."""

OnBadSample = Literal["fail", "skip"]
"""What happens at a sample that cannot be decoded."""

SampleOut = TypeVar("SampleOut", covariant=True)

_LOG = logging.getLogger(__name__)


class MapStyle(Protocol[SampleOut]):
    """Map-style data set of any samples."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> SampleOut:
        """Sample `index`."""


def readable(dataset: MapStyle[SampleOut], on_bad_sample: OnBadSample) -> Iterator[SampleOut]:
    """The samples in order; with "skip" without those that are damaged.

    Raises:
        CorruptDatasetError: "fail" and a damaged sample, or more than `MAX_BAD_SHARE` of them.
    """
    bad: set[int] = set()
    for index in range(len(dataset)):
        try:
            sample = dataset[index]
        except CorruptDatasetError as error:
            bad_sample(error, bad | {index}, len(dataset), on_bad_sample)
            bad.add(index)
            continue
        yield sample


def bad_sample(
    error: CorruptDatasetError,
    bad: set[int],
    count: int,
    on_bad_sample: OnBadSample,
    *,
    known: bool = False,
) -> None:
    """Nothing but a line in the log, if a damaged sample may be skipped.

    Args:
        error: what reading it said.
        bad: indices of all damaged samples so far, this one included.
        count: samples of the data set.
        on_bad_sample: what is wanted.
        known: it was reported before and is not logged again.

    Raises:
        CorruptDatasetError: it may not.
    """
    if on_bad_sample == "fail":
        raise error
    if len(bad) > MAX_BAD_SHARE * count:
        raise CorruptDatasetError(
            f"{error} ({len(bad)} of {count} samples are damaged; on_bad_sample=skip leaves out "
            f"{MAX_BAD_SHARE:.0%} at most; `rlseg data check` lists them)"
        ) from error
    if not known:
        _LOG.warning("skipped, %d of %d samples so far: %s", len(bad), count, error)
