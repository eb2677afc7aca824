"""A user's own data: images/ and labels/, flat or by split, with files of several kinds."""

import h5py
import numpy as np
from PIL import Image

from tests.fake.scenes import rectangles


def write_pair(images, labels, name, number):
    image, ids = rectangles(number)
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(images / f"{name}.png")
    Image.fromarray(ids.astype(np.uint16)).save(labels / f"{name}.png")


def write_flat(root, count=10):
    for n in range(count):
        write_pair(root / "images", root / "labels", f"cell{n}", n)
    return root


def write_divided(root):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for n in range(count):
            write_pair(root / split / "images", root / split / "labels", f"{split}{n}", n)
    return root


def write_nested(root):
    for split, count in (("train", 3), ("test", 1)):
        for n in range(count):
            write_pair(root / "images" / split, root / "labels" / split, f"{split}{n}", n)
    return root


def write_volumes(root):
    """One volume each as pages of a TIFF, as npy, and as HDF5; labels of another kind each."""
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    image = np.stack([rectangles(n)[0] for n in range(4)])
    ids = np.stack([rectangles(0)[1]] * 4)
    pages = [Image.fromarray(plane) for plane in image]
    pages[0].save(root / "images" / "a.tif", save_all=True, append_images=pages[1:])
    np.save(root / "labels" / "a.npy", ids)
    np.save(root / "images" / "b.npy", image)
    with h5py.File(root / "labels" / "b.h5", "w") as file:
        file["volumes/labels"] = ids.astype(np.uint64)
    with h5py.File(root / "images" / "c.h5", "w") as file:
        file["raw"] = image
    planes = [Image.fromarray(plane) for plane in ids]
    planes[0].save(root / "labels" / "c.tif", save_all=True, append_images=planes[1:])
    return root
