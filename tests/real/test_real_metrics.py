"""Scores on real label maps, from the folder named by RLSEG_DATA, beside scikit-image."""

import os
from pathlib import Path

import numpy as np
import pytest
from skimage.measure import label as skimage_label
from skimage.metrics import adapted_rand_error as skimage_rand
from skimage.metrics import variation_of_information as skimage_voi
from skimage.segmentation import expand_labels as skimage_expand

from rlseg.components import label_components
from rlseg.data.cremi import IGNORE_ID
from rlseg.evaluate import evaluate_folders
from rlseg.labelfiles import LabelFile, read_label_file
from rlseg.metrics import (
    Conventions,
    Settings,
    adapted_rand,
    overlap,
    symmetric_best_dice,
    variation_of_information,
)

DATA = os.environ.get("RLSEG_DATA")
pytestmark = [
    pytest.mark.skipif(DATA is None, reason="RLSEG_DATA names no folder with real images"),
    pytest.mark.filterwarnings("error"),
]


def folder(*parts):
    path = Path(DATA or "").joinpath(*parts)
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    return path


def agrees_with_scikit_image(pred, true):
    table = overlap(pred, true)
    pred, true = pred.astype(np.int64), true.astype(np.int64)
    error, over_true, over_pred = skimage_rand(true, pred)
    assert adapted_rand(table) == pytest.approx((error, over_pred, over_true), abs=1e-9)
    voi = variation_of_information(table)
    assert (voi.split, voi.merge) == pytest.approx(tuple(skimage_voi(true, pred)), abs=1e-9)


def test_cremi_slices_with_joined_and_grown_neurons():
    maps = sorted(folder("cremi_256", "Cremi", "Corrected", "256", "test", "B").glob("*.tif"))
    assert len(maps) == 22
    instances = 0
    for path in maps:
        true = read_label_file(LabelFile(path=path))
        joined = np.where(true == true.max(), np.unique(true)[1], true)
        pred = skimage_expand(np.roll(joined, (2, -1), axis=(0, 1)), 3)
        agrees_with_scikit_image(pred, true)
        table = overlap(true, true)
        assert symmetric_best_dice(table) == 1
        instances += table.true_instances
    assert instances == 559


def test_cremi_volume_equals_its_slices_as_files():
    root = folder("cremi_256")
    slices = root / "Cremi" / "Corrected" / "256" / "test" / "B"
    volume = f"{root}/hdf/cre256_test.hdf:volumes/labels/neuron_ids"
    whole = evaluate_folders(volume, volume, settings=Settings(all_conventions=True))
    for key in ("sbd", "aji", "ap", "pq", "dsb", "ari", "fgbg_dice"):
        assert whole[key] == 1
    for key in ("arand_skimage", "arand_cremi", "voi_skimage", "voi_cremi", "dic"):
        assert whole[key] == 0
    parts = evaluate_folders(slices, slices)
    assert (parts["images"], parts["instances_true"]) == (22, 559)
    volume_map = read_label_file(
        LabelFile(path=root / "hdf" / "cre256_test.hdf", field="volumes/labels/neuron_ids")
    )
    by_number = sorted(slices.glob("*.tif"), key=lambda p: int(p.stem.split("_")[1]))
    stack = np.stack([read_label_file(LabelFile(path=path)) for path in by_number])
    assert (volume_map == stack).all()


def test_fib25_volume_in_three_dimensions():
    path = folder("fib25_em3d", "hdf") / "fib25_sample2_z200-224.hdf"
    true = read_label_file(LabelFile(path=path, field="volumes/labels/neuron_ids"))
    assert true.dtype == np.uint64
    pred = np.roll(true, (1, 2, 2), axis=(0, 1, 2))
    agrees_with_scikit_image(pred, true)
    # The CREMI rule: ignored voxels of id 2^64 - 1 leave the rest as it was; 0 is then a neuron.
    marked = true.copy()
    marked[:, :50] = IGNORE_ID
    whole = overlap(pred, marked)
    cut = overlap(pred[:, 50:], true[:, 50:])
    found = variation_of_information(whole, convention="cremi")
    assert found == pytest.approx(variation_of_information(cut, convention="skimage"), abs=1e-12)
    components = label_components(true[None])[0]
    expected = skimage_label(true.astype(np.int64), background=0, connectivity=3)
    assert (components == expected).all()


def test_poplar_leaves_by_suffix():
    root = folder("poplar_leaf", "A1")
    result = evaluate_folders(
        root,
        root,
        pred_suffix="_fg",
        true_suffix="_label",
        settings=Settings(conventions=Conventions().changed("sbd=paper")),
    )
    assert (result["images"], result["instances_pred"], result["instances_true"]) == (15, 15, 421)
    assert result["fgbg_dice"] == 1  # the foreground is that of the leaves
    assert result["sbd"] < 0.5
