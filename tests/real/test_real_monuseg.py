"""MoNuSeg tiles, from the folder named by RLSEG_DATA."""

import os
from pathlib import Path

import pytest
import torch
from skimage.draw import polygon

from rlseg.data import check_dataset, open_dataset
from rlseg.data.aperio import fill, read_outlines
from rlseg.data.monuseg import TESTING, TRAINING

DATA = os.environ.get("RLSEG_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="RLSEG_DATA names no folder with real images")
NUCLEI = {
    "TCGA-A7-A13E-01Z-00-DX1": 314,
    "TCGA-AR-A1AK-01Z-00-DX1": 433,
    "TCGA-B0-5698-01Z-00-DX1": 357,
    "TCGA-B0-5710-01Z-00-DX1": 359,
    "TCGA-CH-5767-01Z-00-DX1": 294,
    "TCGA-AO-A0J2-01A-01-BSA": 356,
    "TCGA-EJ-A46H-01A-03-TSC": 466,
    "TCGA-HC-7209-01A-01-TS1": 325,
    "TCGA-HT-8564-01Z-00-DX1": 249,
    "TCGA-ZF-A9R5-01A-01-TS1": 475,
}


@pytest.fixture
def root():
    folder = Path(DATA or "") / "monuseg"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


def test_nuclei_are_those_of_the_readme(root, caplog):
    splits = open_dataset("monuseg", root)
    assert "5 of the 30 published tiles" in caplog.text
    assert {name: len(splits.split(name)) for name in splits.names} == {
        "train": 4,
        "valid": 1,
        "test": 5,
    }
    found = {}
    for name in splits.names:
        for k in range(len(splits.split(name))):
            sample = splits.split(name)[k]
            assert sample.image.shape == (3, 1000, 1000)
            assert sample.labels.unique().numel() == int(sample.labels.max()) + 1
            found[sample.name] = int(sample.labels.max())
    assert found == NUCLEI


@pytest.mark.parametrize(
    "path",
    [f"{TRAINING}/Annotations/TCGA-B0-5710-01Z-00-DX1", f"{TESTING}/TCGA-EJ-A46H-01A-03-TSC"],
)
def test_filled_outlines_equal_those_of_scikit_image(root, path):
    """But for few points on outlines, which skimage tests in rounded numbers."""
    outlines = read_outlines(root / f"{path}.xml")
    filled = fill(outlines, 1000, 1000)
    assert (outlines.short, filled.outside, filled.empty, filled.hidden) == (0, 0, 0, 0)
    slow = torch.zeros(1000, 1000, dtype=torch.int64)
    for number, vertices in enumerate(outlines.vertices, start=1):
        rows, columns = polygon(vertices[:, 1], vertices[:, 0], (1000, 1000))
        slow[torch.from_numpy(rows), torch.from_numpy(columns)] = number
    assert int((slow != filled.labels).sum()) <= 10


def test_patches_of_the_recipes(root):
    for recipe, side in (("MNSeg-160", 160), ("MNSeg-224", 224)):
        splits = open_dataset("monuseg", root, {"recipe": recipe})
        assert {name: len(splits.split(name)) for name in splits.names} == {
            "train": 500,
            "valid": 100,
            "test": 100,
        }
        counts = []
        for k in range(0, 500, 25):
            sample = splits.split("train")[k]
            assert sample.image.shape == (3, side, side)
            counts.append(int(sample.labels.max()))
        assert min(counts) >= 5


def test_tiles_are_sound(root):
    assert [p for p in check_dataset("monuseg", root) if not p.note] == []
