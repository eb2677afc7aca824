"""Semantic samples in RAM and as batches of whole images."""

import pytest
import torch

from rlseg.data.memory import InMemory, Packed
from rlseg.data.samples import InstanceSample, SemanticSample
from rlseg.data.whole import WholeSemanticImages
from rlseg.errors import ConfigError, ShapeError


class Counting:
    """Semantic samples of 8-bit colour, and a count of decodings."""

    def __init__(self):
        self.decoded = 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.decoded += 1
        generator = torch.Generator().manual_seed(index)
        sides = (6, 8) if index < 3 else (4, 8)
        image = torch.randint(256, (3, *sides), generator=generator).float() / 255
        classes = torch.randint(256, sides, generator=generator)
        return SemanticSample(image=image, classes=classes, name=f"s{index}")


def test_same_numbers_and_types_decoded_once():
    source, plain = Counting(), Counting()
    kept = InMemory(source)
    for _ in range(3):
        for k in range(4):
            a, b = kept[k], plain[k]
            assert isinstance(a, SemanticSample)
            assert torch.equal(a.image, b.image)
            assert torch.equal(a.classes, b.classes)
            assert (a.image.dtype, a.classes.dtype) == (torch.float32, torch.int64)
            assert a.name == b.name
            a.image.zero_()
            a.classes.zero_()
    assert source.decoded == 4


def test_a_byte_per_channel_and_class():
    source = Counting()
    kept = InMemory(source, max_bytes=2 * 4 * 6 * 8)
    for _ in range(2):
        for k in range(3):
            kept[k]
    assert source.decoded == 3 + 1


@pytest.mark.parametrize("room", [1 << 20, 0])
def test_windows_of_samples(room):
    kept, plain = InMemory(Counting(), max_bytes=room), Counting()
    for k in range(4):
        whole, packed = plain[k], kept.packed(k)
        assert packed.sides == tuple(whole.classes.shape)
        for start, size in (((0, 0), (1, 1)), ((1, 2), (3, 4)), ((0, 0), packed.sides)):
            rows, columns = (slice(a, a + n) for a, n in zip(start, size, strict=True))
            found = packed.window(start, size)
            assert torch.equal(found.image, whole.image[:, rows, columns])
            assert torch.equal(found.classes, whole.classes[rows, columns])
            assert found.image.is_contiguous()
            found.image.zero_()
            found.classes.zero_()
        assert torch.equal(kept[k].image, whole.image)
        assert torch.equal(kept[k].classes, whole.classes)


@pytest.mark.parametrize(
    ("start", "size"),
    [((0, 0), (7, 1)), ((3, 0), (4, 1)), ((-1, 0), (1, 1)), ((0, 0), (0, 1)), ((0,), (1,)),
     ((0, 0, 0), (1, 1, 1)), ((0, 0), (1,))],
)  # fmt: skip
def test_windows_beyond_the_sample(start, size):
    with pytest.raises(ShapeError, match=r"s0 is \[6, 8\]"):
        InMemory(Counting()).packed(0).window(start, size)


def test_windows_of_instances_are_renumbered():
    labels = torch.tensor([[1, 1, 0, 2], [0, 3, 3, 2], [0, 3, 0, 0]])
    sample = InstanceSample(image=torch.arange(12.0).view(1, 3, 4) / 16, labels=labels,
                            valid=labels != 1, name="a")  # fmt: skip
    kept = InMemory([sample])
    for _ in range(2):
        found = kept.packed(0).window((1, 1), (2, 3))
        assert found.labels.tolist() == [[2, 2, 1], [2, 0, 0]]
        assert torch.equal(found.image, sample.image[:, 1:, 1:])
        assert bool(found.valid.all())
        assert not kept.packed(0).window((0, 0), (1, 2)).valid.any()
        assert torch.equal(Packed(kept)[0].whole().labels, labels)
    assert len(Packed(kept)) == 1
    for index in (1, -1):
        with pytest.raises(IndexError):
            kept.packed(index)


def test_batches_of_whole_images():
    data = Counting()
    whole = WholeSemanticImages(data, 2)
    for _ in range(2):
        assert [batch.names for batch in whole] == [("s0", "s1"), ("s2",), ("s3",)]
    first = next(iter(whole))
    assert torch.equal(first.image[1], data[1].image)
    assert torch.equal(first.classes[1], data[1].classes)
    assert list(WholeSemanticImages([], 2)) == []
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        WholeSemanticImages(data, 0)
