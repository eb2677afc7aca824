"""The KITTI car layout on real street images, from the folder named by RLSEG_DATA."""

import os
from pathlib import Path

import pytest

from rlseg.data import check_dataset, open_dataset

DATA = os.environ.get("RLSEG_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="RLSEG_DATA names no folder with real images")


@pytest.fixture
def root():
    folder = Path(DATA or "") / "street_instances" / "kitti_layout"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


def test_street_cars_are_those_of_the_readme(root, caplog):
    splits = open_dataset("kitti", root)
    assert "2 of the 3712 published images" in caplog.text
    cars = {
        name: [int(splits.split(name)[k].labels.max()) for k in range(len(splits.split(name)))]
        for name in splits.names
    }
    assert cars == {"train": [11, 9], "valid": [3]}
    assert splits.split("train")[0].image.shape == (3, 768, 1024)
    assert splits.split("valid")[0].image.shape == (3, 683, 1024)


def test_streets_are_sound(root):
    assert [p for p in check_dataset("kitti", root) if not p.note] == []
