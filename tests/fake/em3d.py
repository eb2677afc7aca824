"""Tiny volumes with ids: pairs of TIFF stacks or npy arrays, and HDF5 in CREMI's layout."""

import h5py
import numpy as np
from PIL import Image

COUNTS = {"train": 3, "valid": 1, "test": 2}
IDS = np.array([0, 7, 900, 65000])  # as the files hold them: with gaps


def blocks(number, sides=(6, 20, 24)):
    """uint8 image and ids 0..3 [D, H, W]: three boxes, grey by their id, placed by `number`."""
    rng = np.random.default_rng(number)
    ids = np.zeros(sides, np.int64)
    height, width = sides[1:]
    for k in (1, 2, 3):
        left = (k - 1) * width // 3
        top = int(rng.integers(0, height // 4))
        ids[:, top : top + height // 2, left : left + width // 3 - 1] = k
    ids[0, :, : width // 2] = 0
    return (40 + 60 * ids).astype(np.uint8), ids


def write_stack(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = [Image.fromarray(np.ascontiguousarray(plane)) for plane in array]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def write_pairs(root, base="tif", kind="tif"):
    for split, count in COUNTS.items():
        for k in range(count):
            image, ids = blocks(k)
            for part, array in (("A", image), ("B", IDS[ids].astype(np.uint16))):
                path = root / base / split / part / f"{part}_{k}.{kind}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "npy":
                    np.save(path, array)
                else:
                    write_stack(path, array)
    return root


def write_volume(path, sides=(20, 24, 30), number=0, keys=None, **attributes):
    """One volume; ids are 64 bits and unknown (2^64 - 1) in a corner."""
    image, ids = blocks(number, sides)
    ids = IDS[ids].astype(np.uint64)
    ids[:2, :3, :4] = np.uint64(2**64 - 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    raw, labels = keys or ("volumes/raw", "volumes/labels/neuron_ids")
    with h5py.File(path, "w") as file:
        file.create_dataset(raw, data=image, chunks=(5, 8, 8), compression="gzip")
        file.create_dataset(labels, data=ids, chunks=(5, 8, 8), compression="gzip")
        for name, value in attributes.items():
            for key in (raw, labels):
                file[key].attrs[name] = value
    return path


def write_padded(path, image_sides=(9, 30, 31), labels_sides=(5, 20, 20), corner=(2, 6, 7)):
    """CREMI's padded form: labels cover a part of the image, told by `offset` in nm."""
    rng = np.random.default_rng(3)
    raw = rng.integers(0, 255, image_sides).astype(np.uint8)
    ids = np.ones(labels_sides, np.uint64)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["volumes/raw"] = raw
        file["volumes/raw"].attrs["resolution"] = [40.0, 4.0, 4.0]
        file["volumes/labels/neuron_ids"] = ids
        labels = file["volumes/labels/neuron_ids"]
        labels.attrs["resolution"] = [40.0, 4.0, 4.0]
        labels.attrs["offset"] = [40.0 * corner[0], 4.0 * corner[1], 4.0 * corner[2]]
    return raw


def write_sparse(path, sides=(2**12, 2**11, 2**11)):
    """A few kilobytes that declare a volume of 16 GiB: nothing but fill values, id 1 everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        chunks = (64, 64, 64)
        file.create_dataset("volumes/raw", sides, "u1", chunks=chunks, fillvalue=9)
        file.create_dataset("volumes/labels/neuron_ids", sides, "u8", chunks=chunks, fillvalue=1)
    return path
