"""CamVid as it is: counts of the release, every pair, shares of the classes."""

import logging
import os
from pathlib import Path

import pytest
import torch

from rlseg.data import check_dataset, open_dataset
from rlseg.data.class_statistics import semantic_statistics

DATA = os.environ.get("RLSEG_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="RLSEG_DATA names no folder with real images")
SHARES = (0.158, 0.241, 0.010, 0.295, 0.067, 0.111, 0.011, 0.013, 0.047, 0.007, 0.005)
UNLABELLED = 0.035


def folder(name):
    path = Path(DATA or "") / name
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    return path


def test_all_pairs_of_the_jpeg_copy(caplog):
    with caplog.at_level(logging.WARNING):
        splits = open_dataset("camvid", folder("camvid"))
    assert {k: len(splits.split(k)) for k in splits.names} == {
        "train": 367, "valid": 91, "test": 210
    }  # fmt: skip
    assert "91 of the 101" in caplog.text
    assert "210 of the 233" in caplog.text
    counts = torch.zeros(len(splits.classes), dtype=torch.float64)
    pixels = 0
    for name in splits.names:
        found = semantic_statistics(splits.split(name), splits.classes)
        assert found.smallest == found.largest == (360, 480)
        assert all(entry.samples for entry in found.classes)
        counts += torch.tensor([entry.pixels for entry in found.classes])
        pixels += found.pixels
    assert pixels == 668 * 360 * 480
    for share, expected in zip((counts / pixels).tolist(), SHARES, strict=True):
        assert share == pytest.approx(expected, abs=0.0006)
    assert 1 - float(counts.sum()) / pixels == pytest.approx(UNLABELLED, abs=0.0006)


def test_the_lists_of_active_learning_fit():
    splits = open_dataset("camvid", folder("camvid"), {"splits": "active"})
    parts = {k: {r.name for r in splits.split(k).dataset.records} for k in splits.names}
    assert {k: len(v) for k, v in parts.items()} == {
        "D_S": 10, "D_T": 100, "D_R": 91, "D_V": 257, "test": 210
    }  # fmt: skip
    plain = open_dataset("camvid", folder("camvid"))
    train = {r.name for r in plain.split("train").dataset.records}
    assert parts["D_S"] | parts["D_T"] | parts["D_V"] == train


def test_the_original_files_are_the_same_labels():
    small, large = (open_dataset("camvid", folder(name)) for name in ("camvid_png", "camvid"))
    assert {k: len(small.split(k)) for k in small.names} == {"train": 16, "valid": 4, "test": 4}
    for name in small.names:
        place = {r.name: k for k, r in enumerate(large.split(name).dataset.records)}
        for k in range(len(small.split(name))):
            original = small.split(name)[k]
            copy = large.split(name)[place[original.name]]
            assert torch.equal(original.classes, copy.classes)
            assert float((original.image - copy.image).abs().mean()) < 0.03
    assert [p for p in check_dataset("camvid", folder("camvid_png")) if not p.note] == []
