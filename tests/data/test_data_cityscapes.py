import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg.data import check_dataset, open_dataset
from rlseg.data.idlists import committed_ids
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from tests.fake import cityscapes as fake

TRAIN_IDS = {23: 10, 7: 0, 26: 13, 24: 11}


@pytest.fixture
def root(tmp_path):
    return fake.write_cityscapes(tmp_path / "cityscapes")


def problems(root, **options):
    return [p for p in check_dataset("cityscapes", root, options) if not p.note]


def test_classes(root, caplog):
    with caplog.at_level(logging.WARNING):
        splits = open_dataset("cityscapes", root)
    assert (splits.task, splits.names, len(splits.classes)) == ("semantic", ("train", "valid"), 19)
    assert "split train: 4 of the 2975 published images" in caplog.text
    train = splits.split("train")
    assert [train[k].name for k in range(4)] == list(fake.FRAMES["train"])
    for k in range(4):
        ids = fake.label_ids(k)
        expected = np.full_like(ids, 255)
        for label_id, number in TRAIN_IDS.items():
            expected[ids == label_id] = number
        assert (train[k].classes.numpy() == expected).all()
        assert torch.equal(
            train[k].image, torch.from_numpy(fake.image(k)).movedim(-1, 0).float() / 255
        )
    assert problems(root) == []


def test_instances(root):
    splits = open_dataset("cityscapes", root, {"task": "instance"})
    assert splits.task == "instance"
    valid_split = splits.split("valid")
    for k in range(2):
        ids, sample = fake.instance_ids(k), valid_split[k]
        labels = np.zeros(ids.shape, int)
        for number, instance in enumerate((24000, 26000, 26001), 1):
            labels[ids == instance] = number
        assert (sample.labels.numpy() == labels).all()
        unknown = (ids == 24) | (ids == 1) | (ids == 4)
        assert (sample.valid.numpy() == ~unknown).all()
        assert valid_split.dataset.categories(k).tolist() == [11, 13, 13]
    assert problems(root, task="instance") == []


def test_an_image_without_things(root):
    path = fake.paths(root, "val", fake.FRAMES["val"][0])[2]
    Image.fromarray(np.full((fake.HEIGHT, fake.WIDTH), 7, np.uint16)).save(path)
    part = open_dataset("cityscapes", root, {"task": "instance"}).split("valid")
    assert int(part[0].labels.max()) == 0
    assert bool(part[0].valid.all())
    assert part.dataset.categories(0).tolist() == []


@pytest.mark.parametrize("value", [35, 200, 35000, 65535])
def test_fault_l10_an_instance_id_unheard_of(root, value):
    path = fake.paths(root, "val", fake.FRAMES["val"][0])[2]
    ids = fake.instance_ids(0)
    ids[3, 9] = value
    Image.fromarray(ids).save(path)
    part = open_dataset("cityscapes", root, {"task": "instance"}).split("valid")
    with pytest.raises(CorruptDatasetError, match=rf"id {value} at \(3, 9\).*1 such pixels"):
        part[0]
    assert len(problems(root, task="instance")) == 1
    assert problems(root) == []


@pytest.mark.parametrize("which", [0, 1])
def test_fault_i4_one_of_a_pair_is_missing(root, which):
    path = fake.paths(root, "train", "bremen_000000_000019")[which]
    path.unlink()
    with pytest.raises(CorruptDatasetError, match="bremen_000000_000019"):
        open_dataset("cityscapes", root)
    assert len(problems(root)) == 1


def test_fault_i2_l10_damaged_labels(root):
    first, second, third = (fake.paths(root, "train", n)[1] for n in fake.FRAMES["train"][:3])
    first.write_bytes(first.read_bytes()[:40])
    Image.open(second).convert("RGB").save(second)
    ids = fake.label_ids(2)
    ids[0, 1] = 77
    Image.fromarray(ids).save(third)
    found = problems(root)
    assert [p.where for p in found] == [str(first), str(second), str(third)]
    assert "labels in colour" in found[1].what
    assert "id 77 at (0, 1)" in found[2].what


def test_nothing_there(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="Register at cityscapes-dataset"):
        open_dataset("cityscapes", tmp_path)


def many(root, count, state=0):
    """Names of a train folder, the first `state` of them out of RALIS's D_S; tiny files."""
    names = list(committed_ids("cityscapes", "D_S"))[:state]
    names += [f"aachen_{k:06d}_000019" for k in range(count - state)]
    pixel = Image.fromarray(np.full((1, 1), 7, np.uint8))
    for name in names:
        for path in fake.paths(root, "train", name)[:2]:
            path.parent.mkdir(parents=True, exist_ok=True)
            pixel.save(path)
    return names


def active(root, **options):
    splits = open_dataset("cityscapes", root, {"splits": "active"} | options)
    return {k: {r.name for r in splits.split(k).dataset.records} for k in splits.names}


def test_active_splits_by_the_seed(tmp_path):
    names = many(tmp_path, 297, state=10)
    found = active(tmp_path)
    counts = {k: len(v) for k, v in found.items()}
    assert counts == {"D_S": 10, "D_T": 15, "D_R": 19, "D_V": 253}
    assert set().union(*found.values()) == set(names)
    assert found["D_S"] == set(names[:10])
    assert active(tmp_path) == found
    other = active(tmp_path, seed=1)
    assert other["D_S"] == found["D_S"]
    assert other["D_T"] != found["D_T"]
    moved = many(tmp_path, 299, state=10)[-2:]
    larger = active(tmp_path)
    assert found["D_T"] - larger["D_T"] <= larger["D_V"] | larger["D_R"]
    assert set(moved) <= set().union(*larger.values())


def test_published_sizes_of_the_whole_set():
    from rlseg.data.cityscapes import Options, _active_names

    names = [*committed_ids("cityscapes", "D_S"), *(f"x_{k:06d}_000019" for k in range(2965))]
    found = _active_names(None, sorted(names), Options(splits="active"))
    counts = {k: len(v) for k, v in found.items()}
    assert counts == {"D_S": 10, "D_T": 150, "D_R": 200, "D_V": 2615}
    assert len(set().union(*found.values())) == 2975


def test_active_splits_without_the_images_of_the_sheet(tmp_path):
    many(tmp_path, 40)
    found = active(tmp_path)
    assert {k: len(v) for k, v in found.items()} == {"D_S": 1, "D_T": 2, "D_R": 3, "D_V": 34}
    assert len(set().union(*found.values())) == 40


LISTS = {
    "d_s": ["aachen_000000_000019"],
    "d_t": ["train/aachen/aachen_000001_000019_leftImg8bit.png"],
    "d_r": ["aachen_000002_000019", "absent_000000_000019"],
    "d_v": ["aachen_000000_000019", "aachen_000003_000019"],
}


def test_active_splits_by_lists(tmp_path, caplog):
    many(tmp_path, 5)
    expected = {
        "D_S": {"aachen_000000_000019"},
        "D_T": {"aachen_000001_000019"},
        "D_R": {"aachen_000002_000019"},
        "D_V": {"aachen_000000_000019", "aachen_000003_000019"},
    }
    (tmp_path / "lists.json").write_text(json.dumps(LISTS))
    with caplog.at_level(logging.WARNING):
        assert active(tmp_path, lists="lists.json") == expected
    assert "split D_R: 1 of the 2" in caplog.text
    (tmp_path / "lists").mkdir()
    for split, names in LISTS.items():
        (tmp_path / "lists" / f"{split.upper()}.txt").write_text("\n".join(names) + "\n")
    assert active(tmp_path, lists="lists") == expected
    assert active(tmp_path, lists=str(tmp_path / "lists")) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_t": ["aachen_000003_000019"]}, "D_T and D_V share aachen_000003_000019"),
        ({"d_t": ["a", "a"]}, "a is listed twice"),
        ({"d_t": [1]}, "expected a list of names"),
        ({"d_t": "a"}, "expected a list of names"),
        ({"d_x": ["a"]}, "unknown: d_x"),
        ({k: [f"{k}_0"] for k in LISTS}, "none of its names"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, change, message):
    many(tmp_path, 5)
    (tmp_path / "lists.json").write_text(json.dumps(LISTS | change))
    with pytest.raises((ConfigError, CorruptDatasetError), match=message):
        active(tmp_path, lists="lists.json")
    assert len(problems(tmp_path, splits="active", lists="lists.json")) == 1


def test_lists_that_are_not_there_or_pickled(tmp_path):
    many(tmp_path, 3)
    (tmp_path / "lists.json").write_text(json.dumps({"d_s": []}))
    with pytest.raises(ConfigError, match="missing: D_T, D_R, D_V"):
        active(tmp_path, lists="lists.json")
    (tmp_path / "lists.json").write_text("[]")
    with pytest.raises(ConfigError, match="expected an object"):
        active(tmp_path, lists="lists.json")
    np.save(tmp_path / "lists.npy", np.array(LISTS), allow_pickle=True)
    with pytest.raises(ConfigError, match="pickled files can run code"):
        active(tmp_path, lists="lists.npy")
    with pytest.raises(DatasetNotFoundError, match=r"absent\.json"):
        active(tmp_path, lists="absent.json")


@pytest.mark.parametrize(
    "options", [{"lists": "x"}, {"seed": 1}, {"splits": "active", "task": "instance"}]
)
def test_options_that_contradict_each_other(root, options):
    with pytest.raises(ConfigError, match="active"):
        open_dataset("cityscapes", root, options)
