"""A tiny CREMI: TIFF pairs in the folders of the ColorRL packaging, or HDF5 in CREMI's layout."""

import h5py
import numpy as np
from PIL import Image

from tests.fake.scenes import rectangles

SPLITS = {"train": range(4), "valid": range(10, 14), "test": range(20, 24)}
GAPS = np.array([0, 5, 9, 700])  # ids as the files hold them: with gaps


def write_tif(root, base="Cremi/Corrected/256"):
    for split, numbers in SPLITS.items():
        for part in "AB":
            (root / base / split / part).mkdir(parents=True)
        for n in numbers:
            image, labels = rectangles(n)
            Image.fromarray(image).save(root / base / split / "A" / f"A_{n}.tif")
            ids = GAPS[labels].astype(np.int32)
            Image.fromarray(ids).save(
                root / base / split / "B" / f"B_{n}.tif", compression="tiff_deflate"
            )
    return root


def write_challenge_hdf(root, slices=20, name="sample_A_20160501.hdf"):
    """One volume as the challenge hands it out; slice n shows scene n."""
    root.mkdir(parents=True, exist_ok=True)
    pairs = [rectangles(n) for n in range(slices)]
    with h5py.File(root / name, "w") as file:
        file["volumes/raw"] = np.stack([image for image, _ in pairs])
        ids = np.stack([labels for _, labels in pairs]).astype(np.uint64)
        file["volumes/labels/neuron_ids"] = ids
    return root / name


def write_hdf(root):
    root.mkdir(parents=True)
    for split, numbers in SPLITS.items():
        pairs = [rectangles(n) for n in numbers]
        ids = GAPS[np.stack([labels for _, labels in pairs])].astype(np.uint64)
        ids[:, :2, :3] = np.uint64(2**64 - 1)
        with h5py.File(root / f"cre256_{split}.hdf", "w") as file:
            raw = np.stack([image for image, _ in pairs])
            file.create_dataset("volumes/raw", data=raw, compression="gzip")
            file.create_dataset("volumes/labels/neuron_ids", data=ids, compression="gzip")
    return root
