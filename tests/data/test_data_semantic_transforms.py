import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg.data.memory import InMemory, Packed
from rlseg.data.samples import SemanticSample, collate_semantic
from rlseg.data.semantic_transforms import (
    LongSide,
    SemanticAugmentation,
    SemanticTransform,
    augment_semantic,
    crop_start,
    resize_semantic,
)
from rlseg.data.stream import EpochStream
from rlseg.errors import ConfigError, ShapeError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scene(height=10, width=14, name="a"):
    """Every pixel says in the image and in the class map where it is from."""
    place = torch.arange(height * width).view(height, width)
    image = torch.stack([place // 256, place % 256, place * 0]).float() / 255
    return SemanticSample(image=image, classes=place % 251, name=name)


def places(sample):
    whole = (sample.image * 255).round().long()
    return whole[0] * 256 + whole[1]


def test_image_and_classes_move_together():
    source, config = scene(), SemanticAugmentation(crop=(4, 6))
    starts, flips = set(), set()
    for seed in range(300):
        found = augment_semantic(source, config, generator(seed))
        place = places(found)
        assert found.image.shape == (3, 4, 6)
        assert torch.equal(found.classes, place % 251)
        assert found.image.is_contiguous()
        assert found.classes.is_contiguous()
        flipped = bool(place[0, 0] > place[0, 1])
        upright = place.flip(-1) if flipped else place
        row, column = divmod(int(upright[0, 0]), 14)
        assert torch.equal(upright, places(source)[row : row + 4, column : column + 6])
        starts.add((row, column))
        flips.add(flipped)
    assert starts == {(r, c) for r in range(7) for c in range(9)}
    assert flips == {False, True}
    assert torch.equal(places(source), torch.arange(140).view(10, 14)), "the source is unchanged"


def test_the_same_generator_gives_the_same_crop_with_any_flip():
    source = scene()
    plain = augment_semantic(source, SemanticAugmentation(crop=(4, 6), flip_horizontal=0.0),
                             generator(3))  # fmt: skip
    mirrored = augment_semantic(source, SemanticAugmentation(crop=(4, 6), flip_horizontal=1.0),
                                generator(3))  # fmt: skip
    assert torch.equal(plain.image.flip(-1), mirrored.image)
    assert torch.equal(plain.classes.flip(-1), mirrored.classes)


def test_without_a_crop_the_sides_stay():
    source = scene()
    found = augment_semantic(source, SemanticAugmentation(flip_horizontal=0.0), generator())
    assert torch.equal(found.image, source.image)
    assert torch.equal(found.classes, source.classes)


@pytest.mark.parametrize(
    ("centre", "rows"), [((0, 0), {0}), ((9, 13), {5, 6}), ((5, 7), {1, 2, 3, 4, 5}), (None, None)]
)
def test_a_window_around_a_place(centre, rows):
    found = {crop_start((10, 14), (4, 6), generator(seed), centre) for seed in range(300)}
    if centre is None:
        assert found == {(r, c) for r in range(7) for c in range(9)}
        return
    assert {row for row, _ in found} == rows
    for row, column in found:
        assert row <= centre[0] <= row + 4
        assert column <= centre[1] <= column + 6
        assert 0 <= row <= 6
        assert 0 <= column <= 8


def test_a_crop_larger_than_the_image():
    with pytest.raises(ShapeError, match="cannot crop 11 x 6 out of a, which is 10 x 14"):
        augment_semantic(scene(), SemanticAugmentation(crop=(11, 6)), generator())


@pytest.mark.parametrize(
    "settings", [{"flip_horizontal": 1.5}, {"flip_horizontal": -0.1}, {"crop": (0, 4)}]
)
def test_settings_out_of_range(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        SemanticAugmentation(**settings)


def test_resizing_as_pillow_does():
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    sample = SemanticSample(
        image=torch.from_numpy(picture).movedim(-1, 0).float() / 255,
        classes=torch.from_numpy(picture[..., 0] % 7).long(),
        name="a",
    )
    for size in ((30, 40), (45, 53), (90, 100)):
        found = resize_semantic(sample, size)
        expected = np.asarray(
            Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR)
        )
        difference = np.abs((found.image * 255).round().movedim(0, -1).numpy() - expected)
        assert difference.max() <= 1
        rows = [math.floor(Fraction(2 * i + 1, 2) * 60 / size[0]) for i in range(size[0])]
        columns = [math.floor(Fraction(2 * i + 1, 2) * 80 / size[1]) for i in range(size[1])]
        assert (found.classes.numpy() == picture[..., 0][rows][:, columns] % 7).all()
    nearest = resize_semantic(scene(), (5, 7), "nearest")
    assert torch.equal(places(nearest) % 251, nearest.classes)
    with pytest.raises(ShapeError, match="sides must be positive"):
        resize_semantic(sample, (0, 4))


@pytest.mark.parametrize(
    ("sides", "expected"), [((1052, 1914), (263, 480)), ((100, 50), (480, 240)), ((48, 480), None)]
)
def test_the_longer_side(sides, expected):
    sample = SemanticSample(
        image=torch.zeros(3, *sides), classes=torch.zeros(sides, dtype=torch.int64), name="a"
    )
    data = LongSide([sample], 480)
    assert len(data) == 1
    if expected is None:
        assert data[0] is sample
    else:
        assert tuple(data[0].classes.shape) == expected == tuple(data[0].image.shape[1:])
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        LongSide([sample], 0)


def test_resized_images_are_kept_as_bytes():
    data = InMemory(LongSide([scene(20, 30)], 15), max_bytes=4 * 10 * 15)
    first = data[0]
    assert torch.equal(data[0].image, first.image)
    assert data._kept[0].nbytes == 4 * 10 * 15


@pytest.mark.parametrize("crop", [None, (4, 6), (10, 14)])
@pytest.mark.parametrize("centre", [None, (9, 2)])
def test_crops_of_packed_samples_are_the_same(crop, centre):
    config = SemanticAugmentation(crop=crop)
    kept = InMemory([scene(name="a"), scene(12, 16, "b")])
    for seed in range(20):
        one = augment_semantic(kept[seed % 2], config, generator(seed), centre=centre)
        other = augment_semantic(kept.packed(seed % 2), config, generator(seed), centre=centre)
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.classes, other.classes)
        assert one.name == other.name
        assert other.image.is_contiguous()
        assert other.classes.is_contiguous()
    with pytest.raises(ShapeError, match="cannot crop 11 x 6 out of a, which is 10 x 14"):
        augment_semantic(kept.packed(0), SemanticAugmentation(crop=(11, 6)), generator())


class Scenes:
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return replace(scene(), name=str(index))


@pytest.mark.parametrize("prefetch", [0, 3])
def test_fault_p6_a_stream_gives_the_same_batches_with_any_threads(prefetch):
    def batches(threads, packed=False):
        kept = InMemory(Scenes())
        stream = EpochStream(
            Packed(kept) if packed else kept, batch_size=2, collate=collate_semantic, seed=4,
            prefetch=threads, transform=SemanticTransform(SemanticAugmentation(crop=(4, 6))),
        )  # fmt: skip
        found = [next(stream) for _ in range(5)]
        stream.close()
        return found

    for one, other in zip(
        batches(0) * 2, [*batches(prefetch), *batches(prefetch, packed=True)], strict=True
    ):
        assert one.names == other.names
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.classes, other.classes)
        assert one.image.shape == (2, 3, 4, 6)
