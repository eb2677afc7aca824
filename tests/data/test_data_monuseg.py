import logging

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg.data import check_dataset, open_dataset
from rlseg.data.monuseg import MoNuSeg, Options, Patches, check
from rlseg.data.samples import InstanceSample
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from tests.fake.monuseg import (
    SQUARES,
    TESTING,
    TRAIN,
    TRAINING,
    VALID,
    write_monuseg,
    write_tile,
    xml,
)


def names(splits):
    return {s: [splits.split(s)[k].name for k in range(len(splits.split(s)))] for s in splits.names}


def test_tiles(tmp_path):
    splits = open_dataset("monuseg", write_monuseg(tmp_path))
    assert (splits.task, splits.ndim, splits.channels, splits.classes) == ("instance", 2, 3, ())
    assert names(splits) == {
        "train": sorted(TRAIN[:3]),
        "valid": [VALID[0]],
        "test": ["TCGA-TEST-1", "TCGA-TEST-2"],
    }
    sample = splits.split("test")[1]
    labels = torch.zeros(70, 80, dtype=torch.int64)
    for number, (top, left, side) in enumerate(SQUARES, start=1):
        labels[top : top + side, left + 11 : left + 11 + side] = number
    assert torch.equal(sample.labels, labels)
    assert sample.valid.all()
    colours = torch.where(labels > 0, torch.tensor(90 / 255), torch.tensor(200 / 255))
    assert torch.equal(sample.image[0], colours)
    assert [p for p in check(tmp_path, Options()) if not p.note] == []


def test_a_subset_of_the_published_tiles_is_a_warning(tmp_path, caplog):
    write_monuseg(tmp_path)
    with caplog.at_level(logging.WARNING):
        before = open_dataset("monuseg", tmp_path).digest
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / TRAINING}: 4 of the 30 published tiles",
        f"{tmp_path / TESTING}: 2 of the 14 published tiles",
    ]
    for name in ("tif", "xml"):
        (tmp_path / TESTING / f"TCGA-TEST-1.{name}").unlink()
    assert open_dataset("monuseg", tmp_path).digest != before
    assert len(open_dataset("monuseg", tmp_path).split("test")) == 1


def test_the_whole_published_set_is_no_warning(tmp_path, caplog):
    write_monuseg(tmp_path, TRAIN, VALID, [f"test{n}" for n in range(14)])
    with caplog.at_level(logging.WARNING):
        splits = open_dataset("monuseg", tmp_path)
    assert not caplog.records
    assert {name: len(splits.split(name)) for name in splits.names} == {
        "train": 25,
        "valid": 5,
        "test": 14,
    }


def test_tiles_that_the_list_does_not_divide_are_drawn(tmp_path, caplog):
    write_monuseg(tmp_path, train=TRAIN[:6], valid=())
    with caplog.at_level(logging.WARNING):
        splits = open_dataset("monuseg", tmp_path)
    assert "does not divide these tiles" in caplog.text
    found = names(splits)
    assert len(found["valid"]) == 1
    assert sorted(found["train"] + found["valid"]) == sorted(TRAIN[:6])
    assert names(open_dataset("monuseg", tmp_path)) == found


def test_only_a_test_folder(tmp_path):
    write_tile(tmp_path / TESTING, tmp_path / TESTING, "a")
    assert open_dataset("monuseg", tmp_path).names == ("test",)
    assert open_dataset("monuseg", tmp_path, {"recipe": "MNSeg-160"}).names == ("test",)


@pytest.fixture
def wide(tmp_path):
    """Tiles wide enough for patches of half size."""
    for index, name in enumerate((*TRAIN[:2], VALID[0])):
        folder = tmp_path / TRAINING
        write_tile(folder / "Tissue Images", folder / "Annotations", name, index, (460, 500))
    write_tile(tmp_path / TESTING, tmp_path / TESTING, "test0", 9, (448, 470))
    return tmp_path


def test_patches_are_seeded_and_keep_to_their_tiles(wide):
    options = {"recipe": "MNSeg-224", "patches": [6, 2, 3]}
    splits = open_dataset("monuseg", wide, options)
    assert names(splits) == {
        "train": [f"{sorted(TRAIN[:2])[k % 2]}_p{k:04d}" for k in range(6)],
        "valid": [f"{VALID[0]}_p{k:04d}" for k in range(2)],
        "test": [f"test0_p{k:04d}" for k in range(3)],
    }
    again = open_dataset("monuseg", wide, options)
    other = open_dataset("monuseg", wide, {**options, "seed": 1})
    assert (splits.digest == again.digest, splits.digest == other.digest) == (True, False)
    pairs = [(splits.split("train")[k], again.split("train")[k]) for k in range(6)]
    assert all(torch.equal(a.image, b.image) and torch.equal(a.labels, b.labels) for a, b in pairs)
    assert all(a.image.shape == (3, 224, 224) and a.labels.shape == (224, 224) for a, _ in pairs)
    changed = [(splits.split("train")[k], other.split("train")[k]) for k in range(6)]
    assert any(not torch.equal(a.labels, b.labels) for a, b in changed)
    with pytest.raises(IndexError):
        splits.split("train")[6]


def test_pooled_patches_come_from_all_training_tiles(wide):
    options = {"recipe": "MNSeg-160", "patches": [4, 0, 3], "division": "pooled"}
    splits = open_dataset("monuseg", wide, options)
    assert splits.names == ("train", "test")
    tiles = [*sorted(TRAIN[:2]), VALID[0]]
    assert names(splits)["test"] == [f"{tiles[k % 3]}_p{k:04d}" for k in (4, 5, 6)]


def test_a_patch_is_a_window_of_its_sample():
    class Ramp:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            labels = torch.arange(300).reshape(15, 20)
            valid = labels % 3 > 0
            return InstanceSample(image=labels[None] / 300, labels=labels, valid=valid, name="r")

    patches = Patches(Ramp(), count=40, side=4, seed=0)
    corners = set()
    for k in range(40):
        patch = patches[k]
        ids = (patch.image[0] * 300).round().long()
        top, left = divmod(int(ids[0, 0]), 20)
        corners.add((top, left))
        assert torch.equal(ids, Ramp()[0].labels[top : top + 4, left : left + 4])
        assert torch.equal(patch.valid, ids % 3 > 0)
        assert int(patch.labels.max()) == 16 - int((ids == 0).any())  # ids renumbered
    tops, lefts = {top for top, _ in corners}, {left for _, left in corners}
    assert (min(tops), max(tops), min(lefts), max(lefts)) == (0, 11, 0, 16)
    with pytest.raises(CorruptDatasetError, match=r"15x20 pixels.*side of 16"):
        Patches(Ramp(), count=1, side=16, seed=0)[0]


def test_options_that_contradict():
    with pytest.raises(ConfigError, match="pooled"):
        Options(division="pooled")
    with pytest.raises(ConfigError, match=r"patches.*\[0, 1, 1\]"):
        Options(patches=(0, 1, 1))
    with pytest.raises(ConfigError, match="recipe"):
        open_dataset("monuseg", None, {"recipe": "MNSeg-99"})


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_damage_is_found_in_one_pass(tmp_path):
    write_monuseg(tmp_path)
    images, annotations = tmp_path / TRAINING / "Tissue Images", tmp_path / TRAINING / "Annotations"
    (images / f"{TRAIN[0]}.tif").write_bytes(b"II*\0 damaged")
    (annotations / f"{TRAIN[1]}.xml").write_text("<Annotations><Region>")
    (annotations / f"{TRAIN[2]}.xml").unlink()
    stack = [Image.fromarray(np.zeros((9, 9, 3), np.uint8))] * 2
    stack[0].save(tmp_path / TESTING / "TCGA-TEST-1.tif", save_all=True, append_images=stack[1:])
    found = [p for p in check_dataset("monuseg", tmp_path) if not p.note]
    texts = sorted(p.where + p.what for p in found)
    assert len(texts) == 4
    for expected in (f"{TRAIN[0]}.tif", f"{TRAIN[1]}.xmlline 1", f"{TRAIN[2]}.tif", "2 frames"):
        assert sum(expected in text for text in texts) == 1, expected
    with pytest.raises(CorruptDatasetError, match=rf"{TRAIN[2]}\.tif: no labels"):
        open_dataset("monuseg", tmp_path)


def test_check_counts_regions_that_give_no_instance(tmp_path):
    write_monuseg(tmp_path)
    path = tmp_path / TESTING / "TCGA-TEST-1.xml"
    square = [(2, 2), (6, 2), (6, 6), (2, 6)]
    gone = [(-9, -9), (-5, -9), (-5, -5)]
    path.write_text(xml([square, gone, [(1, 1)], [(0.2, 0.2), (0.4, 0.2), (0.4, 0.4)], square]))
    notes = {p.what for p in check(tmp_path, Options()) if p.where == str(path)}
    assert notes == {
        "regions with fewer than 3 vertices, skipped: 1",
        "regions wholly outside the image, skipped: 1",
        "regions without a pixel centre, skipped: 1",
        "regions wholly covered by later ones: 1",
    }
    assert int(open_dataset("monuseg", tmp_path).split("test")[0].labels.max()) == 1


def test_check_says_which_tiles_are_too_small_for_a_recipe(tmp_path):
    write_monuseg(tmp_path)
    found = [p.what for p in check(tmp_path, Options(recipe="MNSeg-160")) if not p.note]
    assert len(found) == 6
    assert "70x80 pixels, half of which is less than a patch of 160" in found[0]


def test_check_tells_how_far_it_is(tmp_path):
    write_monuseg(tmp_path)
    seen = []
    check(tmp_path, Options(), lambda *state: seen.append(state))
    assert seen == [("train", k, 3) for k in (1, 2, 3)] + [("valid", 1, 1), *TESTED]


TESTED = [("test", 1, 2), ("test", 2, 2)]


def test_wrong_root_says_what_was_looked_for_and_found(tmp_path):
    (tmp_path / "holiday").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"MoNuSegTestData/\*\.tif; found holiday/"):
        open_dataset("monuseg", tmp_path)
    assert len(check(tmp_path, Options())) == 1
    assert "CC BY-NC-SA" in MoNuSeg.terms
