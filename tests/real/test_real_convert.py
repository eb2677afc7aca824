"""Conversion of real packs, from the folder named by RLSEG_DATA: labels stay, pixel by pixel."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from rlseg.data import check_dataset, open_dataset
from rlseg.data.convert import convert
from rlseg.data.images import read_label_array
from rlseg.data.places_convert import convert_annotations

DATA = os.environ.get("RLSEG_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="RLSEG_DATA names no folder with real images")


def root(name):
    folder = Path(DATA or "") / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


def test_poplar_leaves_go_around_all_formats(tmp_path):
    source = root("poplar_leaf")
    steps = [("cvppp", "coco"), ("coco", "folder"), ("folder", "cvppp")]
    place = source
    for number, (form, other) in enumerate(steps):
        target = tmp_path / str(number)
        done = convert(place, target, source_format=form, target_format=other)
        assert (done.images, done.instances, done.notes) == (15, 421, ())
        assert all(problem.note for problem in check_dataset(other, target))
        place = target
    for path in sorted((source / "A1").glob("*.png")):
        again = place / "A1" / path.name
        if path.name.endswith("_rgb.png"):
            assert again.read_bytes() == path.read_bytes()
        else:  # ids, and foregrounds made from them
            assert np.array_equal(read_label_array(again), read_label_array(path))


def test_membranes_as_coco(tmp_path):
    source = root("isbi2012_membrane") / "train"
    (tmp_path / "src").mkdir()
    shutil.copytree(source / "image", tmp_path / "src/images")
    shutil.copytree(source / "label", tmp_path / "src/labels")
    settings = {"components": "sides"}
    done = convert(tmp_path / "src", tmp_path / "c", source_format="folder", target_format="coco",
                   settings=settings)  # fmt: skip
    assert done.images == 27
    whole = {"fractions": [1, 0, 0]}
    first = open_dataset("folder", tmp_path / "src", settings | whole).split("train")
    again = open_dataset("coco", tmp_path / "c", whole).split("train")
    assert sum(int(first[k].labels.max()) for k in range(27)) == done.instances
    for k in range(27):
        assert first[k].name == again[k].name
        assert first[k].labels.equal(again[k].labels)
        assert first[k].image.equal(again[k].image)


def test_places_truth_is_a_coco_data_set(tmp_path):
    source = root("ade20k_places_layout")
    shutil.copytree(source / "images", tmp_path / "images")
    splits = open_dataset("places", source, {"missing_masks": "leave_out"})
    for word in ("training", "validation"):
        content = convert_annotations(source, word)
        (tmp_path / f"instances_{word}.json").write_text(json.dumps(content))
    found = open_dataset("coco", tmp_path, {"channels": 3})
    for split in ("train", "valid"):
        by_name = {sample.name: sample for sample in splits.split(split)}
        assert len(found.split(split)) == len(by_name)
        for sample in found.split(split):
            assert sample.labels.equal(by_name[sample.name].labels)
