"""Training on a folder with a damaged image: an error by default, counted where it is skipped."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg import cli
from rlseg.data.damage import readable
from rlseg.data.seeds import named_generator
from rlseg.errors import CorruptDatasetError
from tests.fake.folder import write_pair
from tests.fake.tiny import contents, refused, train_words

TRAIN = 101


def first_of(method):
    """The image that the second update of a run with seed 0 begins with, at two per update."""
    return torch.randperm(TRAIN, generator=named_generator(0, method, "order", 0))[2].item()


@pytest.fixture(params=["colorrl", "unet"])
def method(request):
    return request.param


@pytest.fixture
def damaged_root(tmp_path, method):
    """101 pictures to train with, of which one is cut off, and two to validate with."""
    root = tmp_path / "data"
    for split, count in (("train", TRAIN), ("val", 2)):
        for n in range(count):
            write_pair(root / split / "images", root / split / "labels", f"p{n}", n)
    path = root / f"train/images/p{first_of(method)}.png"
    path.write_bytes(path.read_bytes()[:-20])
    return root


def words(out, root, *more, method, **settings):
    chosen = {"augmentation": "rgb_2d", "on_bad_sample": "skip"} | settings
    given = ("--dataset", "folder", "--root", root, *more)
    return train_words(out, *given, method=method, settings=chosen)


def plain(run):
    """The log without what the clock says."""
    lines = [json.loads(line) for line in (run / "scalars.jsonl").read_text().splitlines()]
    timed = ("time", "seconds", "per_s")
    return [{k: v for k, v in e.items() if not any(t in k for t in timed)} for e in lines]


def test_fault_i2_training_skips_and_logs(damaged_root, tmp_path, method):
    run = tmp_path / "run"
    assert cli.main(words(run, damaged_root, method=method)) == 0
    log = plain(run)
    assert [line["data/skipped"] for line in log if "data/skipped" in line][-1] == 1.0
    again = tmp_path / "again"
    assert cli.main(words(again, damaged_root, "--steps", "3", method=method)) == 0
    assert cli.main(words(again, damaged_root, "--resume", method=method)) == 0
    assert plain(again)[-1] == log[-1]
    config = json.loads((run / "config.json").read_text())["config"]
    if method == "colorrl":  # it writes what the name of the preset stands for
        assert config["augmentation"]["clahe"] == 0.3
    else:
        assert config["augmentation"] == "rgb_2d"


def test_fault_i2_training_fails_by_default(damaged_root, tmp_path, capsys, method):
    run = tmp_path / "run"
    said = refused(words(run, damaged_root, method=method, on_bad_sample="fail"), capsys)
    assert f"p{first_of(method)}.png" in said
    assert "cut off" in said
    assert not any("step-" in name for name in contents(tmp_path))


def test_an_unknown_preset_is_refused(tmp_path, capsys, method):
    told = words(tmp_path / "run", tmp_path, method=method, augmentation="rgb")
    assert "gray_2d" in refused(told, capsys)


class Some:
    def __init__(self, count, bad):
        self.count, self.bad = count, bad

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise CorruptDatasetError(f"{index}.png: damaged")
        return index


def test_fault_i2_reading_in_order():
    assert list(readable(Some(200, {3, 9}), "skip")) == [k for k in range(200) if k not in (3, 9)]
    assert list(readable(Some(3, set()), "fail")) == [0, 1, 2]
    with pytest.raises(CorruptDatasetError, match=r"^3\.png: damaged$"):
        list(readable(Some(200, {3}), "fail"))
    with pytest.raises(CorruptDatasetError, match="3 of 200 samples"):
        list(readable(Some(200, {3, 9, 11}), "skip"))
    assert list(readable(Some(0, set()), "skip")) == []


def test_fault_m3_one_image_one_instance_and_nothing_to_validate_with(tmp_path):
    """More ranks than images and an empty split are covered by the stream's own tests."""
    root = tmp_path / "data"
    write_pair(root / "images", root / "labels", "only", 0)
    ids = np.zeros((48, 48), np.uint8)
    ids[8:30, 8:30] = 9
    Image.fromarray(ids).save(root / "labels/only.png")
    run = tmp_path / "run"
    options = ("--data", "fractions=[1, 0, 0]")
    settings = {"augmentation": "gray_2d", "on_bad_sample": "fail", "batch": "3"}
    assert cli.main(words(run, root, *options, method="unet", **settings)) == 0
    assert "data/skipped" not in (run / "scalars.jsonl").read_text()


def test_fault_m3_no_image_at_all(tmp_path, capsys):
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
    told = words(tmp_path / "run", tmp_path / "data", method="unet")
    assert "no files of 'folder'" in refused(told, capsys)
