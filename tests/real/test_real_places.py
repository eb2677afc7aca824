"""Real ADE20K images in the challenge's layout, from the folder named by RLSEG_DATA."""

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rlseg import cli
from rlseg.data import open_dataset
from rlseg.data.places import Options, check
from rlseg.data.places_table import CATEGORIES

DATA = os.environ.get("RLSEG_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="RLSEG_DATA names no folder with real images")
INSTANCES = {
    "ADE_train_00000001": (73, 10),
    "ADE_train_00016869": (36, 7),
    "ADE_train_00016900": (18, 7),
    "ADE_train_00016964": (12, 8),
}
"""Image -> instances and categories, counted by those who made the files."""


@pytest.fixture
def root():
    folder = Path(DATA or "") / "ade20k_places_layout"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


def test_images_and_instances(root):
    splits = open_dataset("places", root, {"missing_masks": "leave_out"})
    assert splits.classes == CATEGORIES  # the names that come with the files are the built-in ones
    train, valid = splits.split("train"), splits.split("valid")
    found = {}
    for k in range(len(train)):
        sample, instances = train[k], train.instances(k)
        assert sample.image.shape[1:] == sample.labels.shape
        assert sample.valid.all()
        assert torch.equal(instances.labels, sample.labels)
        kinds = len(set(instances.categories.tolist()))
        found[sample.name] = (int(sample.labels.max()), kinds)
    assert found == INSTANCES
    assert [valid[k].name for k in range(len(valid))] == ["ADE_val_00000001"]
    assert int(valid[0].labels.max()) == 0


def test_only_the_image_without_a_mask_is_reported(root):
    problems = check(root, Options())
    assert [Path(p.where).name for p in problems if not p.note] == ["ADE_val_00000002.jpg"]
    notes = check(root, Options(missing_masks="leave_out"))
    assert all(p.note for p in notes)


def converted(root, split, out):
    words = ["places", "convert", str(root), "--split", split, "--out", str(out), "--quiet"]
    assert cli.main(words) == 0
    return json.loads(out.read_text())


def official_ap(truth_path, results):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_path))
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.params.maxDets = [1, 50, 255]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return precision[precision > -1].mean()


def test_the_truth_scored_against_itself_is_perfect(root, tmp_path):
    truth = converted(root, "training", tmp_path / "truth.json")
    assert [image["id"] for image in truth["images"]] == [0, 16868, 16899, 16963]
    assert len(truth["annotations"]) == sum(count for count, _ in INSTANCES.values())
    keys = ("image_id", "category_id", "segmentation")
    results = [{k: item[k] for k in keys} | {"score": 1.0} for item in truth["annotations"]]
    (tmp_path / "results.json").write_text(json.dumps(results))
    expected = official_ap(tmp_path / "truth.json", results)
    assert expected == pytest.approx(1, abs=1e-12)
    for mode in ("official", "strict"):
        words = ["places", "evaluate", "--dataset-json", str(tmp_path / "truth.json"), "--quiet"]
        words += ["--preds-json", str(tmp_path / "results.json"), "--mode", mode]
        assert cli.main([*words, "--json", str(tmp_path / "scores.json")]) == 0
        scores = json.loads((tmp_path / "scores.json").read_text())
        assert scores["ap"] == pytest.approx(expected, abs=1e-12)
        assert scores["ap50"] == scores["ar255"] == pytest.approx(1, abs=1e-12)


def test_areas_are_those_of_the_files(root, tmp_path):
    truth = converted(root, "training", tmp_path / "truth.json")
    folder = root / "annotations_instance" / "training"
    for image in truth["images"]:
        bands = np.array(Image.open(folder / Path(image["file_name"]).with_suffix(".png")))
        numbers, areas = np.unique(bands[..., 1][bands[..., 1] > 0], return_counts=True)
        mine = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        assert [a["area"] for a in mine] == areas.tolist()
        kinds = [int(bands[..., 0][bands[..., 1] == number][0]) for number in numbers]
        assert [a["category_id"] for a in mine] == kinds


def test_a_split_without_any_instance(root, tmp_path):
    truth = converted(root, "validation", tmp_path / "truth.json")
    assert [image["id"] for image in truth["images"]] == [20210]
    assert truth["annotations"] == []
