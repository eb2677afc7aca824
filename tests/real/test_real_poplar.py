"""CVPPP's layout on real photographs of poplar leaves, from the folder named by RLSEG_DATA."""

import csv
import os
from pathlib import Path

import pytest

from rlseg.data import check_dataset, open_dataset

DATA = os.environ.get("RLSEG_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="RLSEG_DATA names no folder with real images")


@pytest.fixture
def root():
    folder = Path(DATA or "") / "poplar_leaf"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


def test_poplar_counts_are_those_of_its_table(root, caplog):
    with (root / "split.csv").open(newline="") as stream:
        wanted = {f"A1_{row['plant']}": int(row["leaves"]) for row in csv.DictReader(stream)}
    assert (len(wanted), sum(wanted.values())) == (15, 421)
    splits = open_dataset("cvppp", root)
    assert "not the published plants of A1 (plant003" in caplog.text
    found = {}
    for name in splits.names:
        part = splits.split(name)
        for k in range(len(part)):
            sample = part[k]
            assert sample.image.shape == (3, 530, 500)
            assert 0.02 < float(sample.image.mean()) < 0.98
            found[sample.name] = int(sample.labels.max())
    assert found == wanted
    assert {name: len(splits.split(name)) for name in splits.names} == {"train": 12, "valid": 3}


def test_poplar_has_a_test_split_by_fractions(root):
    splits = open_dataset("cvppp", root, {"fractions": [0.6, 0.2, 0.2]})
    assert {name: len(splits.split(name)) for name in splits.names} == {
        "train": 9,
        "valid": 3,
        "test": 3,
    }


def test_poplar_is_sound(root):
    """One note, on the plants; foregrounds equal labels above 0."""
    found = check_dataset("cvppp", root)
    assert [(p.where, p.note) for p in found] == [(str(root), True)]
