"""Street images in the Cityscapes layout: counts, instances, agreement of the two kinds of ids."""

import os
from pathlib import Path

import numpy as np
import pytest

from rlseg.data import check_dataset, open_dataset

DATA = os.environ.get("RLSEG_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="RLSEG_DATA names no folder with real images")
INSTANCES = {"train": [23, 17, *[0] * 8], "valid": [3, *[0] * 4]}
THINGS = range(11, 19)  # train ids


@pytest.fixture(scope="module")
def root():
    path = Path(DATA or "") / "street_instances" / "cityscapes_layout"
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    return path


def test_counts(root):
    splits = open_dataset("cityscapes", root, {"task": "instance"})
    assert splits.names == ("train", "valid")
    for name, expected in INSTANCES.items():
        part = splits.split(name)
        assert [int(part[k].labels.max()) for k in range(len(part))] == expected
        for k in range(len(part)):
            categories = part.dataset.categories(k)
            assert len(categories) == expected[k]
            assert set(categories.tolist()) <= set(THINGS)
    for options in ({}, {"task": "instance"}, {"splits": "active"}):
        assert [p for p in check_dataset("cityscapes", root, options) if not p.note] == []


def test_classes_and_instances_agree(root):
    kinds = (open_dataset("cityscapes", root, {"task": t}) for t in ("semantic", "instance"))
    classes, things = kinds
    for name in classes.names:
        for k in range(len(classes.split(name))):
            semantic, sample = classes.split(name)[k], things.split(name)[k]
            assert semantic.name == sample.name
            kind = np.concatenate([[-1], things.split(name).dataset.categories(k).numpy()])
            inside = sample.labels.numpy() > 0
            ids = semantic.classes.numpy()
            assert (ids[inside] == kind[sample.labels.numpy()][inside]).all()
            unknown = (ids == 255) | (np.isin(ids, THINGS) & ~inside)
            assert (sample.valid.numpy() == ~unknown).all()
