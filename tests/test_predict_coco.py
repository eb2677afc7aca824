"""Predictions as lists of scored masks, from the command to the score."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as official_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rlseg import cli
from rlseg.data.coco import read_truth
from rlseg.errors import ConfigError, CorruptDatasetError, DivergenceError, ShapeError
from rlseg.predict import Output, predict_file
from rlseg.predict_coco import Target, find_targets, image_entries
from rlseg.prediction import Prediction
from rlseg.submissions import read_results
from tests.fake.places import NUMBERS, image_id, image_path, write_places, write_table
from tests.fake.threshold_method import ThresholdPredictor

METHOD = "tests.fake.threshold_method"
THINGS = 3  # in every fake image
CATEGORY = 4


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run whose threshold lies between the dark ground and the things of the fake images."""
    folder = tmp_path_factory.mktemp("lists") / "run"
    words = ["train", "--method", METHOD, "--dataset", "cells", "--device", "cpu", "--no-report"]
    for pair in ("size=32", "train=1", "valid=1", "tune=1", "test=1"):
        words += ["--data", pair]
    words += ["--set", "start=0.3", "--set", "inner.rate=0", "--set", "steps=2"]
    assert cli.main([*words, "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture
def root(tmp_path):
    return write_places(tmp_path / "places", red=(CATEGORY,) * THINGS)


def predict(run, out, *words):
    return cli.main(["predict", str(run), *map(str, words), "--out", str(out), "--device", "cpu"])


def refused(capsys, run, out, *words):
    capsys.readouterr()
    assert predict(run, out, *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert not (out / "predictions.json").exists()
    return captured.err


def target(**changes):
    plain = {"image_id": 7, "sides": None, "category": 4, "categories": None, "limit": None}
    return Target(**(plain | changes))


# Entries of one image


def labelled():
    """A label map with a gap: instances 1 and 3, the latter in two pieces."""
    labels = torch.zeros(1, 5, 8, dtype=torch.int64)
    labels[0, 1:3, 2:5] = 1
    labels[0, 4, 0] = labels[0, 0, 7] = 3
    return labels


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_entries_hold_the_masks_and_say_where_the_score_is_from():
    labels = labelled()
    entries = image_entries(Path("a.png"), Prediction(labels=labels), target())
    assert [(e["image_id"], e["category_id"], e["score"], e["score_from"]) for e in entries] == [
        (7, 4, 6 / 40, "relative area"), (7, 4, 2 / 40, "relative area")
    ]  # fmt: skip
    for entry, number in zip(entries, (1, 3), strict=True):
        assert entry["segmentation"]["size"] == [5, 8]
        decoded = official_masks.decode(entry["segmentation"])
        assert np.array_equal(decoded.astype(bool), labels[0].numpy() == number)


def test_scores_and_categories_of_the_predictor_belong_to_ids():
    scores, categories = torch.tensor([0.5, 0.125, 0.25]), torch.tensor([11, 12, 13])
    prediction = Prediction(labels=labelled(), scores=(scores,), categories=(categories,))
    entries = image_entries(Path("a.png"), prediction, target(category=None))
    assert [(e["category_id"], e["score"], e["score_from"]) for e in entries] == [
        (11, 0.5, "predictor"), (13, 0.25, "predictor")
    ]  # fmt: skip
    assert image_entries(Path("a"), Prediction(labels=0 * labelled()), target()) == []


@pytest.mark.parametrize(
    ("changes", "of_target", "error", "message"),
    [
        ({}, {"category": None}, ConfigError, r"a\.png: .*--category ID"),
        ({"categories": (torch.tensor([1, 1, 1]),)}, {}, ConfigError, "leave the option out"),
        (
            {"categories": (torch.tensor([1, 1, 101]),)},
            {"category": None, "categories": frozenset(range(1, 101))},
            ConfigError,
            r"a\.png: no category 101; there are 100, from 1 to 100",
        ),
        ({"categories": (torch.tensor([1, 1]),)}, {"category": None}, ShapeError, "2 categories"),
        ({"scores": (torch.tensor([0.5, 0.5]),)}, {}, ShapeError, "2 scores, but .* up to 3"),
        (
            {"scores": (torch.tensor([0.5, 0.5, float("nan")]),)},
            {},
            DivergenceError,
            "score of instance 3 is no finite number",
        ),
        ({}, {"sides": (8, 5)}, ConfigError, r"5x8 pixels, but the table of images has 8x5"),
        ({"labels": labelled()[None]}, {}, ShapeError, "3 space axes"),
    ],
)
def test_what_cannot_become_entries(changes, of_target, error, message):
    prediction = replace(Prediction(labels=labelled()), **changes)
    with pytest.raises(error, match=message):
        image_entries(Path("a.png"), prediction, target(**of_target))


def test_fault_l1_more_than_255_instances_fit_into_coco_only():
    labels = torch.arange(16 * 16 + 1).reshape(1, 1, -1)  # 0 to 256
    full = labels.clamp(max=255)
    assert len(image_entries(Path("a"), Prediction(labels=full), target(limit=255))) == 255
    with pytest.raises(ConfigError, match="256 instances; the challenge takes 255 per image"):
        image_entries(Path("a.png"), Prediction(labels=labels), target(limit=255))
    many = torch.arange(70_001).reshape(1, 1, -1)
    entries = image_entries(Path("a"), Prediction(labels=many), target())
    assert len({entry["segmentation"]["counts"] for entry in entries}) == 70_000


# Ids of images


def test_targets_by_rule_and_by_table(tmp_path):
    images = [Path("x/ADE_val_00000002.png"), Path("ADE_train_00000002.jpg")]
    found = find_targets(images, "places", 4, None)
    assert found == [
        target(image_id=number, categories=frozenset(range(1, 101)), limit=255)
        for number in (20211, 1)
    ]
    table = write_table(tmp_path / "t.json")
    found = find_targets([Path("ADE_test_00003489.tif")], "coco", None, table)
    assert found == [
        target(
            image_id=22211, sides=(40, 48), category=None, categories=frozenset(range(1, 101))
        )
    ]  # fmt: skip
    content = json.loads(table.read_text())
    del content["categories"]
    table.write_text(json.dumps(content))
    found = find_targets([Path("ADE_test_00003489.tif")], "coco", 1234, table)
    assert found == [target(image_id=22211, sides=(40, 48), category=1234)]


def test_images_without_an_id_or_with_that_of_another(tmp_path):
    with pytest.raises(ConfigError, match="scene7: not a name of the challenge"):
        find_targets([Path("scene7.png")], "places", 4, None)
    with pytest.raises(ConfigError, match=r"--images-json"):
        find_targets([Path("scene7.png")], "coco", 4, None)
    table = write_table(tmp_path / "t.json")
    with pytest.raises(ConfigError, match=r"scene7\.png: .*lists no image of this name"):
        find_targets([Path("scene7.png")], "coco", 4, table)
    same = [Path("a/ADE_val_00000001.png"), Path("ADE_val_1.png")]
    with pytest.raises(ConfigError, match="are both image 20210"):
        find_targets(same, "places", 4, None)
    for form, json_file in (("places", None), ("coco", table)):
        with pytest.raises(ConfigError, match="--category: no category 101; there are 100"):
            find_targets([], form, 101, json_file)
    with pytest.raises(ConfigError, match="no such file"):
        find_targets([], "coco", 4, tmp_path / "absent.json")
    table.write_text('{"images": [3]}')
    with pytest.raises(CorruptDatasetError, match="expected an object"):
        find_targets([], "coco", 4, table)


# The command


def test_settings_that_contradict_each_other(run_folder, root, tmp_path, capsys):
    image, out, table = image_path(root), tmp_path / "out", write_table(tmp_path / "t.json")
    lists = ("--format", "places")
    for words, message in (
        (("--category", 4), "--category belongs to --format coco and places; --format tif"),
        (("--format", "npz", "--images-json", table), "--images-json belongs to --format coco"),
        (("--format", "coco", "--category", 4), "needs the ids of the images"),
        (lists, "--category ID"),
        ((*lists, "--category", 0), "no category 0; there are 100, from 1 to 100"),
        ((*lists, "--category", 4, "--images-json", tmp_path / "no.json"), "no such file"),
    ):
        assert message in refused(capsys, run_folder, out, image, *words)
    capsys.readouterr()
    assert predict(run_folder, out, image, *lists, "--category", "-1") == 2
    assert "expected a whole number" in capsys.readouterr().err
    other = image_path(root, "testing", 2)
    assert "gaps" in refused(capsys, run_folder, out, image, other, *lists, "--category", 4)
    assert not list(out.glob("*"))


def test_fault_l1_more_than_255_instances_leave_no_list_of_places(run_folder, tmp_path, capsys):
    image, table = tmp_path / "ADE_val_00000001.png", write_table(tmp_path / "t.json")
    dots = np.zeros((40, 48), np.uint8)
    dots[::2, ::3] = 255
    Image.fromarray(dots).save(image)
    out = tmp_path / "out"
    error = refused(capsys, run_folder, out, image, "--format", "places", "--category", 4)
    assert f"{image}: 320 instances; the challenge takes 255 per image" in error
    assert "use --format coco with --images-json" in error
    assert not list(out.glob("*"))
    words = ("--format", "coco", "--category", 4, "--images-json", table)
    assert predict(run_folder, out, image, *words) == 0, "as the message says"
    entries = json.loads((out / "predictions.json").read_text())
    assert len({entry["segmentation"]["counts"] for entry in entries}) == 320


def test_a_table_is_not_overwritten(run_folder, root, tmp_path, capsys):
    table = write_table(tmp_path / "predictions.json")
    words = ("--format", "coco", "--category", 4, "--images-json", table)
    assert predict(run_folder, tmp_path, image_path(root), *words) == 2
    assert "is an input and would be overwritten" in capsys.readouterr().err
    assert "images" in json.loads(table.read_text())


def test_two_images_of_one_name_are_refused(run_folder, root, tmp_path, capsys):
    twin = tmp_path / "twin" / f"{image_path(root).stem}.png"
    twin.parent.mkdir()
    Image.open(image_path(root)).save(twin)
    words = (image_path(root), twin, "--format", "places", "--category", 4)
    error = refused(capsys, run_folder, tmp_path / "out", *words)
    assert "would both be written to predictions.json; predict them into two folders" in error


def test_an_image_of_another_size_than_in_the_table(run_folder, root, tmp_path, capsys):
    Image.open(image_path(root)).resize((24, 20)).save(image_path(root))
    table = write_table(tmp_path / "t.json")
    words = ("--format", "places", "--category", 4, "--images-json", table)
    error = refused(capsys, run_folder, tmp_path / "out", image_path(root), *words)
    assert "20x24 pixels, but the table of images has 40x48" in error


def test_class_maps_are_no_lists(tmp_path, root):
    predictor = ThresholdPredictor(torch.tensor(0.5), 1)
    predictor.task = "semantic"
    output = Output(folder=tmp_path / "out", format="places", category=4)
    with pytest.raises(ConfigError, match="is for instances"):
        predict_file(predictor, image_path(root), output, target())


def official_ap(truth_path, results_path):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_path))
        evaluation = COCOeval(truth, truth.loadRes(str(results_path)), "segm")
        evaluation.params.maxDets = [1, 50, 255]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return precision[precision > -1].mean()


@pytest.mark.parametrize("by_table", [False, True])
def test_from_images_to_the_challenges_score(run_folder, root, tmp_path, capsys, by_table):
    """Convert, predict, evaluate: a method that finds all of one kind of thing scores 1."""
    truth, out = tmp_path / "truth.json", tmp_path / "out"
    convert = ["places", "convert", str(root), "--split", "validation", "--out", str(truth)]
    assert cli.main([*convert, "--quiet"]) == 0
    words = [root / "images" / "validation", "--category", CATEGORY, "--overlay"]
    words += ["--format", "coco", "--images-json", truth] if by_table else ["--format", "places"]
    capsys.readouterr()
    assert predict(run_folder, out, *words) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out / 'predictions.json'}\n{out / 'instances.csv'}\n"
    assert "4 images, 12 instances" in captured.err
    names = sorted(path.name for path in out.iterdir())
    overlays = [f"ADE_val_{n:08d}.overlay.png" for n in NUMBERS["validation"]]
    assert names == [*overlays, "instances.csv", "predictions.json"]
    assert (out / "instances.csv").read_text().count("\n") == 13
    entries = json.loads((out / "predictions.json").read_text())
    ids = [image_id("validation", n) for n in NUMBERS["validation"]]
    assert [e["image_id"] for e in entries] == [number for number in ids for _ in range(THINGS)]
    assert {e["score_from"] for e in entries} == {"relative area"}

    assert len(read_results(out / "predictions.json", read_truth(truth))) == 12
    assert official_ap(truth, out / "predictions.json") == pytest.approx(1.0, abs=1e-12)
    scores = tmp_path / "scores.json"
    evaluate = ["places", "evaluate", "--dataset-json", str(truth), "--mode", "strict"]
    evaluate += ["--preds-json", str(out / "predictions.json"), "--json", str(scores)]
    assert cli.main([*evaluate, "--quiet"]) == 0
    found = json.loads(scores.read_text())
    assert found["ap"] == pytest.approx(1.0, abs=1e-12)


def test_nothing_found_is_an_empty_list(run_folder, tmp_path):
    path = tmp_path / "ADE_val_00000001.png"
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(path)
    out = tmp_path / "out"
    assert predict(run_folder, out, path, "--format", "places", "--category", 4, "--quiet") == 0
    assert json.loads((out / "predictions.json").read_text()) == []


def test_several_processes_write_the_same(run_folder, root, tmp_path):
    words = [root / "images" / "validation", "--format", "places", "--category", 4, "--quiet"]
    for jobs in (1, 2):
        assert predict(run_folder, tmp_path / str(jobs), *words, "--jobs", jobs) == 0
    for name in ("instances.csv", "predictions.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_the_first_process_of_torchrun_writes_for_all(run_folder, root, tmp_path):
    words = [root / "images" / "validation", "--format", "places", "--category", 4]
    assert predict(run_folder, tmp_path / "one", *words, "--quiet") == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    checkout = Path(__file__).parents[1]
    command = ["predict", run_folder, *words, "--out", tmp_path / "two", "--device", "cpu"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "rlseg", *map(str, command)],
            env={**os.environ, **ranks, "RANK": str(rank), "PYTHONPATH": str(checkout)},
            cwd=checkout,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    shown = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], shown
    assert shown[1] == ("", "")
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two")
    )
    assert one == two
    assert sorted(one) == ["instances.csv", "predictions.json"]
