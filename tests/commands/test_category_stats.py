"""`rlseg data stats` on instances with categories: how many there are, and of how many pixels."""

import json

import numpy as np
import pytest
import torch

from rlseg.cli import main
from rlseg.data import open_dataset
from rlseg.data.base import Categorised
from rlseg.data.category_statistics import CategoryCounter, categorised
from rlseg.data.samples import InstanceSample
from rlseg.data.statistics import split_statistics
from rlseg.errors import CorruptDatasetError
from tests.fake.cityscapes import FRAMES, instance_ids, write_cityscapes
from tests.fake.coco_root import SPLITS, write_by_split, write_json
from tests.fake.kitti import write_kitti
from tests.fake.places import NUMBERS, scene, write_places
from tests.fake.scenes import rectangles


def refuse(constant):
    raise AssertionError(constant)


def stats(tmp_path, *words):
    out = tmp_path / "stats.json"
    assert main(["data", "stats", *map(str, words), "--json", str(out), "--quiet"]) == 0
    return json.loads(out.read_text(), parse_constant=refuse)


def expected(maps):
    """Category -> instances, pixels, samples, from (labels, category of each id) per image."""
    found = {}
    for labels, kinds in maps:
        for number, kind in kinds.items():
            instances, pixels, samples = found.get(kind, (0, 0, set()))
            area = int((labels == number).sum())
            found[kind] = instances + 1, pixels + area, samples | {id(labels)}
    return {kind: (n, pixels, len(samples)) for kind, (n, pixels, samples) in found.items()}


def counted(split):
    total = sum(entry["pixels"] for entry in split["categories"])
    for entry in split["categories"]:
        share = pytest.approx(entry["pixels"] / total) if total else None
        assert entry["share"] == share
    return {
        entry["name"]: (entry["instances"], entry["pixels"], entry["samples"])
        for entry in split["categories"]
        if entry["instances"]
    }


def test_categories_of_coco(tmp_path, capsys):
    root = write_by_split(tmp_path / "coco")
    report = stats(tmp_path, "coco", root)
    kinds = {1: "round", 2: "long", 3: "round"}
    for split, word in (("train", "train"), ("valid", "val"), ("test", "test")):
        maps = [(rectangles(number)[1], kinds) for number in SPLITS[word]]
        assert counted(report["splits"][split]) == expected(maps)
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("category  instances    pixels   samples")
    assert [line.split() for line in lines[place + 1 : place + 3]] == [
        ["round", "6", "66.67", "%", "3"], ["long", "3", "33.33", "%", "3"]
    ]  # fmt: skip
    only = stats(tmp_path, "coco", root, "--data", 'categories=["long"]')
    assert counted(only["splits"]["test"]) == {"long": (1, 11 * 14, 1)}
    assert [entry["name"] for entry in only["splits"]["test"]["categories"]] == ["long"]


def test_categories_of_places(tmp_path, capsys):
    report = stats(tmp_path, "places", write_places(tmp_path / "places"))
    kinds = {1: "person", 2: "person", 3: "glass"}
    for split, folder in (("train", "training"), ("valid", "validation")):
        maps = [(scene(number)[1], kinds) for number in NUMBERS[folder]]
        assert counted(report["splits"][split]) == expected(maps)
        assert len(report["splits"][split]["categories"]) == 100
    assert counted(report["splits"]["test"]) == {}
    assert report["splits"]["test"]["categories"][0]["share"] is None
    text = capsys.readouterr().out
    assert text.count("98 categories without an instance") == 2
    assert "100 categories without an instance" in text


def test_categories_of_cityscapes(tmp_path):
    root = write_cityscapes(tmp_path / "cityscapes")
    report = stats(tmp_path, "cityscapes", root, "--data", "task=instance")
    kinds = {26001: "car", 26000: "car", 24000: "person"}
    for split, folder in (("train", "train"), ("valid", "val")):
        maps = [(instance_ids(number), kinds) for number in range(len(FRAMES[folder]))]
        assert counted(report["splits"][split]) == expected(maps)


def test_sets_of_one_kind_have_no_categories(tmp_path, capsys):
    root = write_kitti(tmp_path / "kitti")
    report = stats(tmp_path, "kitti", root or tmp_path / "kitti")
    assert all(split["categories"] == [] for split in report["splits"].values())
    assert "category" not in capsys.readouterr().out
    assert categorised(open_dataset("kitti", tmp_path / "kitti").split("train")) is None


class Things:
    """Two images, the second without a truth; unknown pixels hide an instance of the first."""

    def __init__(self, categories=(1, 0, 1)):
        self.kinds = categories

    def __len__(self):
        return 2

    def __getitem__(self, index):
        labels = torch.tensor([[1, 1, 2, 0, 3]]) * (1 - index)
        valid = torch.tensor([[True, True, True, True, False]]) & (index == 0)
        return InstanceSample(
            image=torch.zeros(1, 1, 5), labels=labels, valid=valid, name=f"thing{index}"
        )

    def categories(self, index):
        return torch.tensor([] if index else self.kinds, dtype=torch.int64)


def test_what_is_not_known_is_not_counted():
    assert isinstance(Things(), Categorised)
    found = split_statistics(Things(), (3,), classes=("a", "b", "c")).categories
    assert [(c.name, c.instances, c.pixels, c.samples) for c in found] == [
        ("a", 1, 1, 1), ("b", 1, 2, 1), ("c", 0, 0, 0)
    ]  # fmt: skip
    assert np.allclose([c.share for c in found], [1 / 3, 2 / 3, 0])
    assert split_statistics(Things(), (3,)).categories == ()
    assert CategoryCounter(Things(), "ab").shares()[0].share is None


@pytest.mark.parametrize("categories", [(1,), (1, 2, 0)])
def test_instances_without_a_known_category_are_refused(categories):
    with pytest.raises(CorruptDatasetError, match="thing0: 2 instances with the categories"):
        split_statistics(Things(categories), (3,), classes=("a", "b"))


def test_an_overlapped_instance_is_not_counted(tmp_path):
    root = write_by_split(tmp_path / "coco")
    path = next((root / "annotations").glob("*test*.json"))
    data = json.loads(path.read_text())
    hidden = dict(data["annotations"][0], id=99, category_id=4)
    data["annotations"].insert(0, hidden)  # under the first one, of the same place
    write_json(path, data)
    report = stats(tmp_path, "coco", root, "--split", "test")
    assert counted(report["splits"]["test"]) == {"round": (2, 308, 1), "long": (1, 154, 1)}
