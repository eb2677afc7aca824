import pytest
import torch

from rlseg.data.memory import InMemory
from rlseg.data.samples import InstanceSample


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
