import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rlseg.data import budget, memory
from rlseg.data.memory import InMemory
from rlseg.data.samples import InstanceSample
from rlseg.errors import ConfigError


class Counting:
    """Samples with grey levels in steps of 1/`steps` (0 = any), and a count of decodings."""

    def __init__(self, steps, largest_id=3):
        self.steps, self.largest_id, self.decoded = steps, largest_id, 0

    def __len__(self):
        return 3

    def __getitem__(self, index):
        self.decoded += 1
        image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(index))
        if self.steps:
            image = (image * self.steps).round() / self.steps
        labels = torch.zeros(8, 8, dtype=torch.int64)
        labels[index] = self.largest_id
        return InstanceSample(image=image, labels=labels, valid=labels == 0, name=f"s{index}")


@pytest.mark.parametrize("steps", [255, 65535, 0])
@pytest.mark.parametrize("largest_id", [3, 300, 2**40])
def test_same_numbers_and_types_decoded_once(steps, largest_id):
    source = Counting(steps, largest_id)
    kept, plain = InMemory(source), Counting(steps, largest_id)
    for _ in range(3):
        for k in range(3):
            a, b = kept[k], plain[k]
            for x, y in ((a.image, b.image), (a.labels, b.labels), (a.valid, b.valid)):
                assert torch.equal(x, y)
                assert x.dtype == y.dtype
            assert a.name == b.name
    assert source.decoded == 3
    assert len(kept) == 3


def test_changing_what_comes_back_changes_nothing_inside():
    kept = InMemory(Counting(0))
    for _ in range(2):
        sample = kept[0]
        sample.image.zero_()
        sample.labels.fill_(9)
        sample.valid.fill_(False)
    assert torch.equal(kept[0].image, Counting(0)[0].image)
    assert torch.equal(kept[0].labels, Counting(0)[0].labels)
    assert torch.equal(kept[0].valid, Counting(0)[0].valid)


def test_bytes_are_bounded():
    source = Counting(255)
    kept = InMemory(source, max_bytes=64 + 64 + 64)  # one sample of 8-bit image, labels, valid
    for _ in range(2):
        for k in range(3):
            kept[k]
    assert source.decoded == 3 + 2


def test_index_beyond_the_end():
    for index in (3, -1):
        with pytest.raises(IndexError):
            InMemory(Counting(255))[index]


def test_data_sets_of_a_process_share_one_budget(monkeypatch, caplog):
    shared = budget.Budget(5 * 3 * 64)  # five samples of 8-bit image, labels and valid
    monkeypatch.setattr(memory, "SHARED", shared)
    sources = [Counting(255), Counting(255)]
    kept = [InMemory(source) for source in sources]
    for _ in range(2):
        for one in kept:
            for k in range(3):
                one[k]
    assert [source.decoded for source in sources] == [3, 3 + 1]
    assert shared.used == shared.max_bytes
    assert len(caplog.records) == 1
    assert "decoded samples fill the" in caplog.text
    del one, kept[0]
    gc.collect()
    assert shared.used == 2 * 3 * 64
    kept[0][2]
    kept[0][2]
    assert sources[1].decoded == 3 + 2


def test_wrapping_twice_keeps_once(monkeypatch):
    shared = budget.Budget(2**20)
    monkeypatch.setattr(memory, "SHARED", shared)
    source = Counting(255)
    inner = InMemory(source)
    outer = InMemory(inner)
    for k in range(3):
        outer[k], inner[k]
    assert source.decoded == 3
    assert shared.used == 3 * 3 * 64
    del inner
    gc.collect()
    assert shared.used == 3 * 3 * 64
    assert torch.equal(outer[1].image, source[1].image)
    del outer
    gc.collect()
    assert shared.used == 0


def test_threads_keep_a_sample_once(monkeypatch):
    shared = budget.Budget(2**20)
    monkeypatch.setattr(memory, "SHARED", shared)
    kept = InMemory(Counting(255))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(kept.__getitem__, [0, 1, 2] * 20))
    assert shared.used == 3 * 3 * 64


@pytest.mark.parametrize(
    ("variable", "part"), [("1", 600), ("3", 200), ("0", 600), ("two", 600), (None, 600)]
)
def test_processes_of_a_machine_share_a_budget(monkeypatch, variable, part):
    monkeypatch.setattr(budget, "SHARED", budget.Budget(0))
    if variable is None:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", variable)
    assert budget.set_budget(600).max_bytes == part
    assert budget.set_budget(600, processes=4).max_bytes == 150


def test_budgets_that_cannot_be():
    with pytest.raises(ConfigError, match="must not be negative, got -1"):
        budget.Budget(-1)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        budget.set_budget(10, processes=0)


@pytest.mark.parametrize("scale", [255, 65535, 0])
def test_a_data_set_that_reads_packed_is_asked_for_that(scale):
    class Files(Counting):
        def packed(self, index):
            self.decoded += 1
            levels = torch.full((1, 8, 8), 1 / 255) if scale == 0 else torch.full((1, 8, 8), scale)
            dtype = {255: torch.uint8, 65535: torch.uint16, 0: torch.float32}[scale]
            labels = torch.full((8, 8), index, dtype=torch.uint8)
            return memory.PackedSample(
                image=levels.to(dtype), scale=scale, labels=labels, valid=None, name="f",
                semantic=False,
            )  # fmt: skip

        def __getitem__(self, index):
            raise AssertionError("decoded twice")

    source = Files(255)
    kept = InMemory(source)
    for _ in range(2):
        sample = kept[1]
        expected = torch.full((1, 8, 8), 1.0 if scale else 1 / 255)
        assert torch.equal(sample.image, expected)
        assert sample.labels.tolist() == [[1] * 8] * 8
        assert sample.valid.all()
        assert kept.packed(1).image.dtype == torch.uint8  # all of these fit into bytes
        sample.image.zero_()
        sample.labels.zero_()
    assert source.decoded == 1
    with pytest.raises(IndexError):
        kept.packed(3)
