"""Endless, resumable sources of batches and of mere step numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from rlseg.data.damage import MapStyle, OnBadSample, bad_sample
from rlseg.data.seeds import named_generator
from rlseg.errors import CheckpointError, ConfigError, CorruptDatasetError, DatasetNotFoundError

Raw = TypeVar("Raw")
Sample = TypeVar("Sample")
Batch = TypeVar("Batch")


class _Made(NamedTuple, Generic[Batch]):
    """A batch, and the damaged samples that others stand for in it."""

    batch: Batch
    damaged: frozenset[int]


class EpochStream(Generic[Sample, Batch]):
    """Batches of transformed samples, reshuffled every epoch, without end.

    Every epoch has its own order, drawn from `(seed, name, "order", epoch)`; all ranks draw the
    same one and each takes its slice of every global batch. The transform of a sample draws from
    `(seed, name, "augment", epoch, index)`: its numbers depend neither on ranks nor on threads.

    The samples left over when an epoch cannot fill another global batch (`batch_size *
    world_size`) are dropped until the next shuffle. If one global batch is larger than the data,
    epochs are strung together instead: a batch then holds samples of several epochs, nothing is
    dropped, and a sample may occur in it more than once, each time augmented anew.

    The state is the epoch and the position in it of the next batch, whatever was prepared ahead.

    A sample that cannot be decoded is an error, or is skipped: the next one by number that can be
    takes its place, with the numbers that augmentation would have drawn for it. At most
    `damage.MAX_BAD_SHARE` of the data set may be skipped; `scalars` tells how many were.
    """

    def __init__(
        self,
        dataset: MapStyle[Raw],
        *,
        batch_size: int,
        transform: Callable[[Raw, torch.Generator], Sample],
        collate: Callable[[Sequence[Sample]], Batch],
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        name: str = "stream",
        prefetch: int = 0,
        on_bad_sample: OnBadSample = "fail",
    ) -> None:
        """Starts at epoch 0.

        Args:
            dataset: map-style, at least one sample; keep decoded samples in RAM with `InMemory`.
            batch_size: samples per batch and rank, at least 1.
            transform: joint augmentation of one sample, drawing from the generator only.
            collate: samples -> batch.
            seed: seed of order and augmentation.
            rank: this process, 0 .. world_size - 1.
            world_size: number of processes.
            name: streams of one seed with different names draw differently.
            prefetch: batches prepared ahead in threads; 0 = when asked for. Same batches.
            on_bad_sample: what happens at a sample that cannot be decoded.

        Raises:
            ConfigError: a size out of range.
            DatasetNotFoundError: an empty dataset.
        """
        if batch_size < 1 or world_size < 1 or not 0 <= rank < world_size or prefetch < 0:
            raise ConfigError(
                "need batch_size >= 1, 0 <= rank < world_size, prefetch >= 0; got "
                f"{batch_size}, rank {rank} of {world_size}, prefetch {prefetch}"
            )
        if len(dataset) == 0:
            raise DatasetNotFoundError(f"stream {name!r}: the data set has no samples")
        self._dataset: MapStyle[Any] = dataset
        self._transform: Callable[[Any, torch.Generator], Sample] = transform
        self._collate = collate
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._seed, self._name = seed, name
        self._epoch, self._position = 0, 0
        self._orders: dict[int, list[int]] = {}
        self._prefetch = prefetch
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: deque[tuple[tuple[int, int], Future[_Made[Batch]]]] = deque()
        self._on_bad_sample: OnBadSample = on_bad_sample
        self._damaged: set[int] = set()

    def __iter__(self) -> EpochStream[Sample, Batch]:
        """The stream itself."""
        return self

    def __next__(self) -> Batch:
        """The next batch of this rank.

        Raises:
            CorruptDatasetError: a sample cannot be decoded and must not be skipped, or too many.
        """
        if self._prefetch:
            return self._next_prefetched()
        places, after = self._plan(self._epoch, self._position)
        return self._hand_out(self._made(places), after)

    def scalars(self) -> dict[str, float]:
        """What there is to log: with "skip", the samples that this rank skipped so far."""
        if self._on_bad_sample == "fail":
            return {}
        return {"data/skipped": float(len(self._damaged))}

    def state_dict(self) -> dict[str, Any]:
        """Epoch and position of the next batch; with "skip" also the samples skipped so far."""
        state: dict[str, Any] = {"epoch": self._epoch, "position": self._position}
        if self._on_bad_sample == "skip":
            state["damaged"] = sorted(self._damaged)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to a position; the next batch is the one that would have followed.

        Raises:
            CheckpointError: other keys, or a position outside the data.
        """
        if set(state) - {"damaged"} != {"epoch", "position"}:
            raise CheckpointError(
                f"state of stream {self._name!r} has keys {sorted(state)}, "
                "expected epoch and position"
            )
        epoch, position = int(state["epoch"]), int(state["position"])
        if epoch < 0 or not 0 <= position <= len(self._dataset):
            raise CheckpointError(
                f"stream {self._name!r}: epoch {epoch}, position {position} does not fit "
                f"{len(self._dataset)} samples; was the data set changed?"
            )
        self._cancel_ahead()
        self._epoch, self._position = epoch, position
        self._damaged = {int(index) for index in state.get("damaged", ())}

    def close(self) -> None:
        """Ends the threads; the stream can be used again afterwards."""
        self._cancel_ahead()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _next_prefetched(self) -> Batch:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._prefetch, thread_name_prefix=self._name)
        start = self._ahead[-1][0] if self._ahead else (self._epoch, self._position)
        while len(self._ahead) <= self._prefetch:
            places, start = self._plan(*start)
            # A batch is one piece of work: handing over every sample costs more than it spreads.
            self._ahead.append((start, self._pool.submit(self._made, places)))
        after, future = self._ahead.popleft()
        return self._hand_out(future.result(), after)

    def _hand_out(self, made: _Made[Batch], after: tuple[int, int]) -> Batch:
        """The batch; counts what was skipped now that it is used, not when it was prepared."""
        self._damaged |= made.damaged
        self._epoch, self._position = after
        return made.batch

    def _cancel_ahead(self) -> None:
        for _, future in self._ahead:
            future.cancel()
        self._ahead.clear()

    def _plan(self, epoch: int, position: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
        """(epoch, index) of each sample of this rank's batch, and where the next batch starts."""
        count, whole = len(self._dataset), self._batch_size * self._world_size
        if whole <= count and position + whole > count:
            epoch, position = epoch + 1, 0
        places = []
        for k in range(self._batch_size):
            step, offset = divmod(position + self._rank * self._batch_size + k, count)
            places.append((epoch + step, self._order(epoch + step)[offset]))
        steps, position = divmod(position + whole, count)
        # The end of an epoch is the start of the next one; both name the same place.
        return places, (epoch + steps, position)

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            generator = named_generator(self._seed, self._name, "order", epoch)
            self._orders[epoch] = torch.randperm(len(self._dataset), generator=generator).tolist()
            for old in [e for e in self._orders if e < epoch - self._batch_size - 1]:
                del self._orders[old]
        return self._orders[epoch]

    def _made(self, places: Sequence[tuple[int, int]]) -> _Made[Batch]:
        made = [self._make(epoch, index) for epoch, index in places]
        damaged = frozenset(index for _, skipped in made for index in skipped)
        return _Made(self._collate([sample for sample, _ in made]), damaged)

    def _make(self, epoch: int, index: int) -> tuple[Sample, list[int]]:
        """The transformed sample of a place, and the damaged ones that it stands for."""
        generator = named_generator(self._seed, self._name, "augment", epoch, index)
        damaged: list[int] = []
        count = len(self._dataset)
        while True:
            number = (index + len(damaged)) % count
            try:
                sample = self._dataset[number]
                break
            except CorruptDatasetError as error:
                damaged.append(number)
                met = self._damaged | set(damaged)
                bad_sample(error, met, count, self._on_bad_sample, known=number in self._damaged)
        return self._transform(sample, generator), damaged


class CountStream:
    """The numbers 0, 1, 2, ...: for learners that fetch their own data."""

    def __init__(self) -> None:
        self._count = 0

    def __iter__(self) -> CountStream:
        """The stream itself."""
        return self

    def __next__(self) -> int:
        """The next number."""
        self._count += 1
        return self._count - 1

    def state_dict(self) -> dict[str, int]:
        """The next number."""
        return {"count": self._count}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continues at a number.

        Raises:
            CheckpointError: other keys or a negative number.
        """
        if set(state) != {"count"} or int(state["count"]) < 0:
            raise CheckpointError(f"state of a count stream is {dict(state)}, expected count >= 0")
        self._count = int(state["count"])


def unchanged(sample: Sample, generator: torch.Generator) -> Sample:
    """The sample as it is: the transform of streams without augmentation."""
    return sample
