"""Packed instance samples through the training transform: the same numbers as unpacked ones."""

import pytest
import torch

from rlseg.data.augmentation import Augmentation
from rlseg.data.memory import InMemory, Packed, pack
from rlseg.data.samples import InstanceSample, collate_instances
from rlseg.data.stream import EpochStream
from rlseg.data.transforms import TrainingTransform, augment

MOVES = Augmentation(flip_horizontal=0.5, flip_vertical=0.5, flip_depth=0.5, rotate_90=0.7)


def sample(sides, steps, seed=0, known=0.9, largest=9):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, *sides, generator=generator)
    if steps:
        image = (image * steps).round() / steps
    return InstanceSample(
        image=image,
        labels=torch.randint(largest + 1, sides, generator=generator),
        valid=torch.rand(sides, generator=generator) < known,
        name=f"s{seed}",
    )


def same(a, b):
    for x, y in ((a.image, b.image), (a.labels, b.labels), (a.valid, b.valid)):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)
        assert x.is_contiguous()
    assert a.name == b.name


@pytest.mark.parametrize("steps", [255, 65535, 0])
@pytest.mark.parametrize("known", [0.9, 2.0])
@pytest.mark.parametrize(
    ("sides", "crop", "config"),
    [
        ((12, 15), (8, 6), MOVES),
        ((12, 12), None, Augmentation()),
        ((12, 15), (12, 15), Augmentation(warp=1.0, brightness=1.0, noise=1.0, blur=1.0)),
        ((20, 20), (16, 16), Augmentation(flip_vertical=0.5, shift_scale_rotate=0.5, warp=0.3)),
        ((6, 9, 9), (4, 8, 5), MOVES),
    ],
)
def test_same_numbers(sides, crop, config, steps, known):
    for seed in range(6):
        plain = sample(sides, steps, seed, known)
        a, b = (
            augment(one, config, torch.Generator().manual_seed(seed), crop=crop)
            for one in (plain, pack(plain))
        )
        same(a, b)


@pytest.mark.parametrize("steps", [255, 0])
@pytest.mark.parametrize("largest", [9, 300, 2**40])
def test_what_is_kept_is_never_handed_out(steps, largest):
    kept = InMemory([sample((6, 6), steps, largest=largest)])
    for _ in range(2):
        out = augment(kept.packed(0), Augmentation(), torch.Generator().manual_seed(0))
        out.image.zero_()
        out.labels.zero_()
        out.valid.zero_()
    same(kept[0], sample((6, 6), steps, largest=largest))


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_batches_are_the_same_packed_or_not_for_any_number_of_threads(prefetch):
    data = [sample((10, 10), 255, seed) for seed in range(5)]

    def stream(source, threads):
        return EpochStream(
            source,
            batch_size=2,
            transform=TrainingTransform(MOVES, (6, 6)),
            collate=collate_instances,
            seed=3,
            prefetch=threads,
        )

    plain, packed = stream(data, 0), stream(Packed(InMemory(data)), prefetch)
    for _ in range(7):
        a, b = next(plain), next(packed)
        assert a.names == b.names
        for field in ("image", "labels", "valid"):
            assert torch.equal(getattr(a, field), getattr(b, field))
    packed.close()
