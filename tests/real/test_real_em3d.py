"""Volumes on real electron microscopy, from the folder named by RLSEG_DATA."""

import json
import os
from pathlib import Path

import pytest
import torch

from rlseg.data import dataset_module, open_dataset
from rlseg.data.samples import collate_instances
from rlseg.data.stream import EpochStream
from rlseg.data.transforms import TrainingTransform, resize_nearest

DATA = os.environ.get("RLSEG_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="RLSEG_DATA names no folder with real images")
FILES = {
    "hdf/fib25_sample2_z000-199.hdf": (200, 435, 168),
    "hdf/fib25_sample2_z200-224.hdf": (25, 100, 57),
}


@pytest.fixture(scope="module")
def fib25():
    folder = Path(DATA or "") / "fib25_em3d"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


def test_stacks_have_the_stated_instances(fib25):
    splits = open_dataset("em3d", fib25)
    assert {n: len(splits.split(n)) for n in splits.names} == {"train": 6, "valid": 2}
    stated = json.loads((fib25 / "tif/crops.json").read_text())
    whole = whole_volume(fib25, "hdf/fib25_sample2_z000-199.hdf")
    for crop in stated:
        sample = splits.split(crop["split"])[crop["index"]]
        assert list(sample.labels.shape) == crop["shape"]
        assert int(sample.labels.max()) == crop["instances"]
        if crop["split"] == "train":
            window = tuple(
                slice(a, a + n) for a, n in zip(crop["zyx0"], crop["shape"], strict=True)
            )
            assert torch.equal(sample.image[0], whole.image[0][window])
            assert torch.equal(sample.labels == 0, whole.labels[window] == 0)


def whole_volume(root, file):
    options = {"file": file, "train_slices": [0, FILES[file][0]]}
    return open_dataset("em3d", root, options).split("train")[0]


@pytest.mark.parametrize("file", FILES)
def test_volumes_have_the_stated_bodies(fib25, file):
    slices, bodies, large = FILES[file]
    sample = whole_volume(fib25, file)
    assert sample.image.shape == (1, slices, 250, 250)
    sizes = torch.bincount(sample.labels.flatten())[1:]
    assert len(sizes) == bodies
    assert int((sizes >= 1000).sum()) == large
    assert sample.valid.all()


def test_volumes_are_isotropic_and_cut_in_runs(fib25):
    splits = open_dataset("em3d", fib25, {"form": "hdf"})
    depths = {n: [splits.split(n)[k].labels.shape[0] for k in range(2)] for n in splits.names}
    assert depths == {"train": [160, 20], "valid": [20, 2], "test": [20, 3]}
    volumes = splits.split("train").dataset
    assert [volumes.resolution(k) for k in range(2)] == [(10.0, 10.0, 10.0)] * 2


def test_crops_stream_and_the_zebrafish_size(fib25):
    options = {"file": "hdf/fib25_sample2_z000-199.hdf", "crop": [16, 96, 96], "crops": [6, 2, 2]}
    splits = open_dataset("em3d", fib25, options)
    stream = EpochStream(
        splits.split("train"),
        batch_size=2,
        transform=TrainingTransform("cubes_3d", (16, 64, 64)),
        collate=collate_instances,
        seed=0,
    )
    for _ in range(4):
        batch = next(stream)
        assert batch.image.shape == (2, 1, 16, 64, 64)
        assert int(batch.labels.amax()) > 5
    small = open_dataset("em3d", fib25, {"form": "hdf", "recipe": "zebrafish"}).split("valid")[0]
    assert small.image.shape == (1, 96, 96, 96)
    own = open_dataset("em3d", fib25, {"form": "hdf"}).split("valid")[0]
    assert torch.equal(small.image, resize_nearest(own.image, (96, 96, 96)))


@pytest.mark.parametrize("form", ["pairs", "hdf"])
def test_the_pack_is_sound(fib25, form):
    module = dataset_module("em3d")
    problems = module.check(fib25, module.Options(form=form))
    assert [p for p in problems if not p.note] == []


def test_patches_of_cre_256_slices(fib25):
    root = fib25.parent / "cremi_256"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    splits = open_dataset("cremi", root, {"recipe": "Cre-160"})
    assert {n: len(splits.split(n)) for n in splits.names} == {
        "train": 103,
        "valid": 20,
        "test": 25,
    }
    for k in range(0, 25, 6):
        sample = splits.split("test")[k]
        assert sample.image.shape == (1, 160, 160)
        assert int(sample.labels.max()) > 3
