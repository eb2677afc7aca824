"""Semantic scores on real class maps, from the folder named by RLSEG_DATA."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlseg.evaluate_semantic import evaluate_semantic_folders
from rlseg.labelfiles import LabelFile, read_label_file
from rlseg.metrics import SemanticScores, absent_classes

DATA = os.environ.get("RLSEG_DATA")
pytestmark = [
    pytest.mark.skipif(DATA is None, reason="RLSEG_DATA names no folder with real images"),
    pytest.mark.filterwarnings("error"),
]

CLASSES, VOID = 11, 11  # the release marks unlabelled pixels by 11
IMAGES = 24


@pytest.fixture(scope="module")
def truths():
    folder = Path(DATA or "") / "camvid" / "testannot"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    paths = sorted(folder.glob("*.png"))
    assert len(paths) == 210
    return paths[:: len(paths) // IMAGES][:IMAGES]


def read(path):
    labels = read_label_file(LabelFile(path=path))
    assert labels.dtype == np.uint8
    return np.where(labels == VOID, 255, labels).astype(np.uint8)


def shifted(true):
    """The map moved by a few pixels; void is predicted as the road."""
    moved = np.roll(true, (2, 3), axis=(0, 1))
    return np.where(moved == 255, 3, moved).astype(np.uint8)


def slow_table(pairs):
    """Joint counts class by class, by masks."""
    table = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    for pred, true in pairs:
        for t in range(CLASSES):
            for p in range(CLASSES):
                table[t, p] += np.count_nonzero((true == t) & (pred == p))
    return table


def test_camvid_against_itself_shifted(truths):
    pairs = [(shifted(true), true) for true in map(read, truths)]
    scores = SemanticScores(CLASSES)
    for pred, true in pairs:
        scores.update(pred, true)
    table = slow_table(pairs)
    assert (scores.confusion == table).all()
    assert absent_classes(table) == []
    found = scores.compute()
    union = table.sum(axis=0) + table.sum(axis=1) - np.diag(table)
    assert found["miou"] == pytest.approx(float((np.diag(table) / union).mean()), abs=1e-12)
    assert 0.5 < found["miou"] < found["mean_accuracy"] < found["pixel_accuracy"] < 1
    assert 1 < found["class_entropy"] < np.log(CLASSES)


def test_camvid_equals_itself(truths):
    scores = SemanticScores(CLASSES)
    for true in map(read, truths):
        scores.update(np.where(true == 255, 0, true), true)
    assert scores.compute()["miou"] == scores.compute()["pixel_accuracy"] == 1


def test_camvid_files_with_their_own_void_id(truths, tmp_path):
    expected = SemanticScores(CLASSES)
    for name in ("pred", "true"):
        (tmp_path / name).mkdir()
    for path in truths[:4]:
        true = read(path)
        expected.update(shifted(true), true)
        Image.fromarray(shifted(true)).save(tmp_path / "pred" / path.name)
        (tmp_path / "true" / path.name).write_bytes(path.read_bytes())
    result = evaluate_semantic_folders(tmp_path / "pred", tmp_path / "true", CLASSES, ignore=VOID)
    assert result["confusion"] == expected.confusion.tolist()
    assert (result["images"], result["ignore"]) == (4, 11)
