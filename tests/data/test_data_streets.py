import hashlib
import time

import numpy as np
import pytest
import torch

from rlseg.data import open_dataset
from rlseg.data.synthetic.streets import Options, Streets, check
from rlseg.errors import ConfigError

FIRST_SCENES = "8450e5ab2e8818087010cecba6526bd5c421bd408957979f4d8f662a25569bed"
TREE, FENCE = Streets.classes.index("tree"), Streets.classes.index("fence")


@pytest.fixture(scope="module")
def streets():
    return Streets("D_V", Options(d_v=90))


@pytest.fixture(scope="module")
def scenes(streets):
    return [streets[i] for i in range(len(streets))]


@pytest.fixture(scope="module")
def hedges(streets):
    return torch.stack([streets.hedges(i) for i in range(len(streets))])


def digest(samples):
    """Of classes, and of images in whole 1/255."""
    found = hashlib.sha256()
    for sample in samples:
        found.update(sample.classes.numpy().astype("<i8").tobytes())
        found.update((sample.image * 255).round().to(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def test_version_1_is_frozen(scenes):
    """These scenes are part of `streets/1`: if they change, the version must."""
    large = Streets("test", Options(height=128, width=160, block=3, seed=3))
    assert digest([*scenes[:3], large[0]]) == FIRST_SCENES


def test_types_and_ranges(scenes):
    scene = scenes[0]
    assert scene.image.shape == (3, 64, 96)
    assert scene.image.dtype == torch.float32
    assert torch.equal((scene.image * 255).round() / 255, scene.image)
    assert scene.classes.dtype == torch.int64
    assert scene.classes.shape == (64, 96)
    assert set(torch.stack([s.classes for s in scenes]).unique().tolist()) == {*range(10), 255}
    assert len({s.name for s in scenes}) == len(scenes)


def test_three_classes_are_rare(scenes):
    truth = torch.stack([s.classes for s in scenes])
    assert Streets.rare == ("sign", "pedestrian", "bicyclist")
    for number, name in enumerate(Streets.classes):
        share = float((truth == number).float().mean())
        present = float((truth == number).flatten(1).any(dim=1).float().mean())
        if name in Streets.rare:
            assert 0.002 <= share <= 0.01, name
            assert present < 0.8, name
        else:
            assert share > 0.015, name


def test_hedges_are_coin_flips(scenes, hedges):
    truth = torch.stack([s.classes for s in scenes])
    assert 0.05 < float(hedges.float().mean()) < 0.2
    found = truth[hedges]
    assert set(found.unique().tolist()) == {TREE, FENCE}
    count = len(found)
    assert abs(float((found == TREE).float().mean()) - 0.5) < 4 * 0.5 / count**0.5
    # Neighbours do not agree more often than by chance either.
    pairs = hedges[:, :, 1:] & hedges[:, :, :-1]
    same = (truth[:, :, 1:] == truth[:, :, :-1])[pairs].float().mean()
    assert abs(float(same) - 0.5) < 4 * 0.5 / int(pairs.sum()) ** 0.5


def test_the_picture_does_not_tell_the_coin(scenes, hedges):
    """Within hedges, colours of both classes have one and the same distribution."""
    image = torch.stack([s.image for s in scenes]).movedim(1, -1)[hedges]  # [N, 3]
    tree = torch.stack([s.classes for s in scenes])[hedges] == TREE
    for channel in range(3):
        a, b = image[tree, channel], image[~tree, channel]
        error = float((a.var() / len(a) + b.var() / len(b)).sqrt())
        assert abs(float(a.mean() - b.mean())) < 4 * error
        assert float(a.std()) == pytest.approx(float(b.std()), rel=0.03)


def test_the_image_is_the_same_whatever_the_squares():
    fine, coarse = (Streets("test", Options(block=block, test=4)) for block in (1, 4))
    for k in range(4):
        assert torch.equal(fine[k].image, coarse[k].image)
        assert torch.equal(fine.hedges(k), coarse.hedges(k))
    classes, hedge = coarse[0].classes, coarse.hedges(0)
    rows, columns = 64 // 4, 96 // 4
    squares = classes.view(rows, 4, columns, 4).transpose(1, 2).flatten(2)  # [R, C, 16]
    whole = hedge.view(rows, 4, columns, 4).transpose(1, 2).flatten(2).all(dim=2)
    assert whole.any()
    assert (squares[whole] == squares[whole][:, :1]).all()


def test_no_hedges_when_none_are_asked_for():
    plain = Streets("test", Options(max_hedges=0, test=5))
    assert not any(plain.hedges(k).any() for k in range(5))


def test_splits_of_active_learning():
    splits = open_dataset("streets", None, {"d_s": 2, "d_t": 3, "d_r": 4, "d_v": 5, "test": 6})
    assert (splits.task, splits.ndim, splits.channels) == ("semantic", 2, 3)
    assert splits.classes == Streets.classes
    sizes = {name: len(splits.split(name)) for name in splits.names}
    assert sizes == {
        "train": 10, "valid": 4, "test": 6, "D_S": 2, "D_T": 3, "D_R": 4, "D_V": 5,
    }  # fmt: skip
    train = splits.split("train")
    parts = [splits.split(name)[k] for name in ("D_S", "D_T", "D_V") for k in range(sizes[name])]
    for k, sample in enumerate(parts):
        assert train[k].name == sample.name
        assert torch.equal(train[k].image, sample.image)
    assert torch.equal(splits.split("valid")[2].classes, splits.split("D_R")[2].classes)


def test_parts_and_seeds_never_share_a_scene():
    seen = []
    for seed in (0, 1):
        splits = open_dataset("streets", None, {"seed": seed})
        names = ("D_S", "D_T", "D_R", "D_V", "test")
        seen += [splits.split(name)[k].image for name in names for k in range(2)]
    assert not any(torch.equal(a, b) for k, a in enumerate(seen) for b in seen[:k])


def test_digest_tells_options_apart():
    assert open_dataset("streets", None).digest != open_dataset("streets", None, {"seed": 1}).digest
    assert check(None, Options()) == []


def test_a_scene_depends_on_its_number_alone(scenes):
    few = Streets("D_V", Options(d_v=3, test=1))
    last = few[2]
    assert torch.equal(few[1].image, scenes[1].image)
    assert torch.equal(last.classes, scenes[2].classes)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (128, 200), (200, 96)])
def test_other_sizes(height, width):
    scene = Streets("D_T", Options(height=height, width=width))[0]
    assert scene.classes.shape == (height, width)
    assert len(np.unique(scene.classes)) >= 4


def test_a_scene_takes_milliseconds():
    streets = Streets("D_T", Options(height=128, width=128))
    streets[0]
    start = time.process_time()
    for index in range(20):
        streets[index]
    assert (time.process_time() - start) / 20 < 0.03


@pytest.mark.parametrize(
    "wrong", [{"height": 8}, {"width": 4096}, {"max_hedges": 9}, {"block": 0}, {"d_s": 0}]
)
def test_options_out_of_range(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Options(**wrong)


def test_index_beyond_the_end(streets):
    for ask in (streets.__getitem__, streets.hedges):
        with pytest.raises(IndexError):
            ask(len(streets))
