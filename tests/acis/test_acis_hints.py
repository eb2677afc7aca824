"""Hints: exact bins, losses against loops, learning, frozen maps, and the cache of maps."""

import copy
import dataclasses
import math

import pytest
import torch

from rlseg.acis.config import Config, HintConfig
from rlseg.acis.hint_networks import Fcn8, HintUNet
from rlseg.acis.hints import CachedMaps, HintLearner, Hints, angle_bins, flip_bins, normalised
from rlseg.data.augmentation import Augmentation
from rlseg.data.budget import Budget, Keeper
from rlseg.data.samples import InstanceBatch, InstanceSample, collate_instances
from rlseg.data.seeds import named_generator
from rlseg.data.stream import EpochStream, unchanged
from rlseg.data.synthetic.leaves import Leaves, Options
from rlseg.data.transforms import TrainingTransform
from rlseg.errors import ConfigError, CorruptDatasetError, ShapeError
from rlseg.train.runtime import make_runtime

MEAN, STD = (0.3, 0.4, 0.2), (0.2, 0.25, 0.3)
UNET = Config(size=(32, 32), mean=MEAN, std=STD, hints=HintConfig(network="unet", features=(4, 8)))
FCN = dataclasses.replace(UNET, hints=HintConfig(width=1 / 64, dropout=True))
FLIPS = TrainingTransform(Augmentation(flip_horizontal=0.5, flip_vertical=0.5))
NOISE = TrainingTransform(Augmentation(flip_horizontal=0.5, flip_vertical=0.5, noise=1.0))


def runtime(seed=0):
    made = make_runtime(device="cpu", seed=seed)
    made.seed_everything("test")
    return made


def learner(config=UNET, seed=0):
    return HintLearner(config, 3, runtime(seed))


def leaves(count=8):
    return Leaves("train", Options(size=32, train=count, max_leaves=6))


def batch(count=8):
    dataset = leaves(count)
    return collate_instances([dataset[index] for index in range(count)])


def blobs(seed, shape=(3, 17, 23), most=6):
    """Random label maps with ragged instances, some ids missing, and background."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(most + 1, (shape[0], 5, 6), generator=generator)
    labels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : shape[1], : shape[2]]
    return torch.where(torch.rand(shape, generator=generator) < 0.2, 0, labels)


def naive_bins(labels):
    """Pixel by pixel, from the definition."""
    bins = torch.zeros_like(labels)
    for image, picture in enumerate(labels):
        for label in set(picture.flatten().tolist()) - {0}:
            pixels = [(y, x) for y, x in (picture == label).nonzero().tolist()]
            total_y, total_x = sum(y for y, _ in pixels), sum(x for _, x in pixels)
            for y, x in pixels:
                dy, dx = y - total_y / len(pixels), x - total_x / len(pixels)
                if y * len(pixels) == total_y and x * len(pixels) == total_x:
                    bins[image, y, x] = 6
                else:
                    theta = math.degrees(math.atan2(dy, dx))
                    bins[image, y, x] = (math.floor((theta + 22.5) / 45) + 4) % 8
    return bins


def test_bins_of_a_square_by_hand():
    labels = torch.zeros(1, 5, 6, dtype=torch.int64)
    labels[0, 1:4, 2:5] = 7
    expected = torch.tensor([[1, 2, 3], [0, 6, 4], [7, 6, 5]])
    assert torch.equal(angle_bins(labels)[0, 1:4, 2:5], expected)
    assert int(angle_bins(labels).sum()) == int(expected.sum())


@pytest.mark.parametrize("seed", range(4))
def test_bins_against_a_loop(seed):
    labels = blobs(seed)
    bins = angle_bins(labels)
    assert bins.dtype == torch.int64
    assert torch.equal(bins, naive_bins(labels))


def test_bins_of_lone_pixels_and_of_nothing():
    labels = torch.zeros(2, 4, 4, dtype=torch.int64)
    assert torch.equal(angle_bins(labels), labels)
    labels[1, 2, 3] = 1
    assert int(angle_bins(labels)[1, 2, 3]) == 6
    assert angle_bins(torch.zeros(0, 4, 4, dtype=torch.int64)).shape == (0, 4, 4)


def test_bins_of_an_image_do_not_hang_on_its_neighbours_nor_on_ids():
    labels = blobs(7)
    for image in range(len(labels)):
        assert torch.equal(angle_bins(labels[image : image + 1])[0], angle_bins(labels)[image])
    assert torch.equal(angle_bins(torch.where(labels > 0, 50 - labels, 0)), angle_bins(labels))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("axis", "side"), [("horizontal", 2), ("vertical", 1)])
def test_flipped_bins_are_those_of_the_flipped_labels(axis, side, seed):
    labels = blobs(seed)
    labels[0, :3, :3], labels[0, 0, :3] = 9, 0  # a 2 x 3 block: no pixel on its centroid
    flipped = flip_bins(angle_bins(labels), labels > 0, axis)
    expected = angle_bins(labels.flip(side))
    centre = (flipped != expected) & (expected == 6) & (flipped == 2)
    assert torch.equal(torch.where(centre, expected, flipped), expected)
    if axis == "horizontal":
        assert not centre.any()


def test_flip_of_a_centroid_is_the_one_exception():
    labels = torch.zeros(1, 3, 3, dtype=torch.int64)
    labels[0, 1, 1] = 1
    assert int(flip_bins(angle_bins(labels), labels > 0, "vertical")[0, 1, 1]) == 2
    assert int(flip_bins(angle_bins(labels), labels > 0, "horizontal")[0, 1, 1]) == 6


def test_normalised_wants_a_number_per_channel():
    image = torch.rand(2, 3, 4, 4)
    expected = (image[:, 1] - 0.4) / 0.25
    torch.testing.assert_close(normalised(image, MEAN, STD)[:, 1], expected)
    with pytest.raises(ConfigError, match="mean has 3 and std 3 numbers, the images have 1"):
        normalised(image[:, :1], MEAN, STD)
    with pytest.raises(ConfigError, match="resolve them"):
        HintLearner(dataclasses.replace(UNET, mean="auto", std="auto"), 3, runtime())


def with_unknown(item):
    valid = torch.rand(item.valid.shape, generator=torch.Generator().manual_seed(3)) < 0.7
    return dataclasses.replace(item, valid=valid)


def naive_scores(logits, item, angles_on):
    """Losses and scores over the valid pixels, one pixel at a time."""
    bins, angles, binary, right = naive_bins(item.labels), [], [], []
    both = either = 0
    for place in item.valid.nonzero().tolist():
        image, y, x = place
        scores = logits[image, :, y, x].double().tolist()
        true, inside = int(bins[image, y, x]), int(item.labels[image, y, x]) > 0
        if inside or angles_on == "all":
            angles.append(math.log(sum(math.exp(s) for s in scores[:8])) - scores[true])
        if inside:
            right.append(max(range(8), key=scores.__getitem__) == true)
        binary.append(math.log1p(math.exp(-scores[8] if inside else scores[8])))
        both += inside and scores[8] > 0
        either += inside or scores[8] > 0
    loss = sum(angles) / len(angles) + sum(binary) / len(binary)
    return loss, sum(right) / len(right), both / either


@pytest.mark.parametrize("angles_on", ["all", "foreground"])
def test_loss_and_scores_against_a_loop(angles_on):
    hints = dataclasses.replace(UNET.hints, angles_on=angles_on)
    made = learner(dataclasses.replace(UNET, hints=hints))
    item = with_unknown(batch(3))
    with torch.no_grad():
        logits = made.network(normalised(item.image, MEAN, STD))
    loss, accuracy, overlap = naive_scores(logits, item, angles_on)
    halves = [
        InstanceBatch(
            image=item.image[part],
            labels=item.labels[part],
            valid=item.valid[part],
            names=item.names[part],
        )
        for part in (slice(0, 1), slice(1, 3))
    ]
    found = made.evaluate(halves)
    assert found["eval/log_likelihood"] == pytest.approx(-loss, rel=1e-4)
    assert found["eval/angle_accuracy"] == pytest.approx(accuracy)
    assert found["eval/foreground_iou"] == pytest.approx(overlap)
    assert float(made.step(item)["train/loss"]) == pytest.approx(loss, rel=1e-4)


def test_evaluation_of_nothing_and_of_background():
    made = learner()
    assert made.evaluate([]) == {}
    item = batch(2)
    empty = dataclasses.replace(item, labels=torch.zeros_like(item.labels))
    assert math.isnan(made.evaluate([empty])["eval/angle_accuracy"])
    assert math.isfinite(made.evaluate([empty])["eval/log_likelihood"])


def test_learning_rate_falls_with_the_updates():
    hints = dataclasses.replace(UNET.hints, learning_rate=0.01, decay=0.5)
    made = learner(dataclasses.replace(UNET, hints=hints))
    rates = [made.step(batch(1))["train/learning_rate"] for _ in range(3)]
    assert rates == pytest.approx([0.01, 0.01 / 1.5, 0.01 / 2])


def test_learns_angles_and_foreground():
    hints = HintConfig(
        network="unet", features=(8, 16, 24, 32), learning_rate=5e-3, angles_on="foreground"
    )
    made = learner(dataclasses.replace(UNET, hints=hints))
    item = batch()
    before = made.evaluate([item])
    for _ in range(30):
        made.step(item)
    after = made.evaluate([item])
    assert before["eval/angle_accuracy"] < 0.3
    assert after["eval/angle_accuracy"] > 0.7
    assert after["eval/foreground_iou"] > 0.5
    assert after["eval/log_likelihood"] > before["eval/log_likelihood"] + 1


def test_half_precision_gives_full_precision_maps_that_are_near():
    hints, image = frozen(FCN), batch(1).image
    full = hints.maps(image)
    hints.runtime = make_runtime(device="cpu", precision="bf16")
    half = hints.maps(image)
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, atol=0.05, rtol=0)
    made = HintLearner(FCN, 3, hints.runtime)
    assert math.isfinite(float(made.step(batch(1))["train/loss"]))


@pytest.mark.parametrize("config", [UNET, FCN], ids=["unet", "fcn8"])
def test_state_round_trip_is_exact(config):
    first, item = learner(config), batch(2)
    first.step(item)
    second = learner(config, seed=0)
    second.step(item)  # moments of its own, to be replaced
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    third = learner(config, seed=0)
    with torch.no_grad():
        for weight in third.network.parameters():
            weight.add_(1)
    third.load_state_dict(copy.deepcopy(second.state_dict()))
    torch.manual_seed(99)  # the dropout of a step hangs on its number, not on the global state
    assert float(first.step(item)["train/loss"]) == float(third.step(item)["train/loss"])
    for a, b in zip(first.network.parameters(), third.network.parameters(), strict=True):
        assert torch.equal(a, b)


def frozen(config=UNET):
    kind = runtime()
    network = (
        HintUNet(3, config.hints.features, config.sides)
        if config.hints.network == "unet"
        else Fcn8(3, config.hints.width, config.sides)
    )
    return Hints(network, config, kind)


def test_maps_hold_image_angles_and_foreground():
    hints, image = frozen(), batch(2).image
    maps = hints.maps(image)
    logits = hints.network(normalised(image, MEAN, STD))
    torch.testing.assert_close(maps[:, :3], normalised(image, MEAN, STD))
    torch.testing.assert_close(maps[:, 3:11], logits[:, :8].softmax(1))
    torch.testing.assert_close(maps[:, 11], logits[:, 8].sigmoid())
    assert not maps.requires_grad
    assert not any(weight.requires_grad for weight in hints.network.parameters())


def test_maps_take_hints_that_are_there_already():
    hints, image = frozen(), batch(2).image
    extra = torch.rand(2, 9, 32, 32)
    maps = hints.maps(torch.cat([image, extra], dim=1))
    assert torch.equal(maps[:, 3:], extra)
    assert torch.equal(maps[:, :3], hints.maps(image)[:, :3])
    for channels in (2, 4, 13):
        with pytest.raises(ShapeError, match=f"has {channels} channels; expected 3, or 12"):
            hints.maps(torch.rand(1, channels, 32, 32))
    with pytest.raises(ShapeError, match="with size 32, got 64"):
        hints.maps(torch.rand(1, 3, 64, 32))


def test_weights_of_frozen_hints_come_back_from_their_state():
    image, source, target = batch(1).image, frozen(), frozen()
    with torch.no_grad():
        for weight in target.network.parameters():
            weight.add_(0.1)
    assert not torch.equal(source.maps(image), target.maps(image))
    target.load_state_dict(source.state_dict())
    assert torch.equal(source.maps(image), target.maps(image))


def test_dropout_of_maps_is_a_switch_for_training_only():
    image = batch(1).image
    on = frozen(FCN)
    assert torch.equal(on.maps(image), on.maps(image))
    assert not torch.equal(on.maps(image, train=True), on.maps(image, train=True))
    off = frozen(dataclasses.replace(FCN, hints=HintConfig(width=1 / 64)))
    assert torch.equal(off.maps(image, train=True), off.maps(image))


def cache(config=UNET, copies=3, dataset=None, transform=NOISE):
    dataset = leaves(4) if dataset is None else dataset
    return CachedMaps(dataset, frozen(config), transform, copies, 5, runtime())


@pytest.mark.parametrize(
    ("transform", "tolerance"), [(FLIPS, 0.5 / 255 + 1e-6), (NOISE, 0.05)], ids=["flips", "noise"]
)
def test_cached_maps_are_the_live_maps_of_the_same_augmentation(transform, tolerance):
    """Up to the rounding: of the maps for images of 8 bits, of the image as well for others."""
    cached, dataset = cache(transform=transform), leaves(4)
    assert len(cached) == 12
    for index in (0, 5, 11):
        sample = cached[index]
        number, place = divmod(index, 4)
        plain = transform(dataset[place], named_generator(5, "hints", number, place))
        live = cached.hints.maps(plain.image[None])
        maps = cached.hints.maps(sample.image[None])
        torch.testing.assert_close(maps[:, 3:], live[:, 3:], atol=tolerance, rtol=0)
        assert sample.image.dtype == torch.float32
        torch.testing.assert_close(sample.image[:3], plain.image, atol=0.5 / 255 + 1e-6, rtol=0)
        if transform is FLIPS:
            assert torch.equal(sample.image[:3], plain.image)
        own = cached.hints.predict(sample.image[None, :3])[0]  # hints belong to the rounded image
        torch.testing.assert_close(sample.image[3:], own, atol=0.5 / 255 + 1e-6, rtol=0)
        assert torch.equal(sample.labels, plain.labels)
        assert sample.labels.dtype == torch.int64
        assert torch.equal(sample.valid, plain.valid)
        assert sample.name == f"{plain.name}+{number}"


def test_cache_does_not_hang_on_order_nor_on_room(monkeypatch):
    forwards, backwards, cramped = cache(), cache(), cache()
    cramped._keeper = Keeper(Budget(0))
    found = [forwards[index] for index in range(len(forwards))]
    for index in reversed(range(len(backwards))):
        assert torch.equal(backwards[index].image, found[index].image)
        assert torch.equal(cramped[index].image, found[index].image)
    assert not cramped._keeper.items
    monkeypatch.setattr(forwards.hints, "predict", None)  # nothing is computed twice
    assert torch.equal(forwards[7].image, found[7].image)


def test_a_full_memory_is_told_once_with_what_to_do(caplog):
    cached = cache()
    one = cached[0]
    assert not caplog.records
    cached._keeper = Keeper(Budget(2 * (one.image.numel() + one.labels.numel()) + 1))
    for index in range(len(cached)):
        cached[index]
    (told,) = [text for text in caplog.messages if "hints.maps=live" in text]
    assert told.startswith("memory holds 2 of 12 copies")
    assert "--memory" in told


def test_a_stream_with_threads_reads_the_same_maps():
    def stream(threads):
        return EpochStream(
            cache(),
            batch_size=3,
            transform=unchanged,
            collate=collate_instances,
            seed=1,
            prefetch=threads,
        )

    alone, threaded = stream(0), stream(2)
    for _ in range(5):
        assert torch.equal(next(alone).image, next(threaded).image)
    threaded.close()


def test_many_copies_cost_nothing_before_they_are_used():
    cached = cache(copies=300)
    assert len(cached) == 1200
    assert not cached._keeper.items
    cached[1199]
    assert set(cached._keeper.items) == {1199}
    packed = cached._keeper.items[1199]
    assert (packed.image.dtype, packed.labels.dtype) == (torch.uint8, torch.uint8)
    with pytest.raises(IndexError):
        cached[1200]
    with pytest.raises(ConfigError, match="copies must be at least 1"):
        cache(copies=0)


def test_copies_differ_and_so_does_their_dropout():
    cached = cache(FCN)
    cached.transform = lambda sample, generator: sample
    first, second = cached[1], cached[5]
    assert torch.equal(first.image[:3], second.image[:3])
    assert not torch.equal(first.image[3:], second.image[3:])
    again = cache(FCN)
    again.transform = cached.transform
    assert torch.equal(again[5].image, second.image)
    augmented = cache()
    assert not torch.equal(augmented[1].image, augmented[5].image)


class Damaged:
    """Four samples of which one cannot be read."""

    def __len__(self):
        return 4

    def __getitem__(self, index) -> InstanceSample:
        if index == 2:
            raise CorruptDatasetError("third.png: cut short")
        return leaves(4)[index]


def test_blocks_of_neighbours_give_the_same_and_pass_over_damaged_ones():
    alone, blocks = cache(dataset=Damaged()), cache(dataset=Damaged())
    blocks._block = 8  # as on a GPU
    assert torch.equal(blocks[1].labels, alone[1].labels)
    assert set(blocks._keeper.items) == {0, 1, 3, 4, 5, 7}
    for index in (0, 3, 5):
        torch.testing.assert_close(blocks[index].image, alone[index].image, atol=1.01 / 255, rtol=0)
    with pytest.raises(CorruptDatasetError, match="third"):
        blocks[2]
