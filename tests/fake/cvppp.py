"""A tiny CVPPP: PNG trios in the folders of the challenge, or its three HDF5 files."""

import h5py
import numpy as np
from PIL import Image

from rlseg.data.idlists import committed_ids
from tests.fake.scenes import rectangles

FEW = ("plant001", "plant002", "plant005", "plant006", "plant007", "plant161")


def published():
    """Names of the labelled plants of A1."""
    return sorted(committed_ids("cvppp", "train") + committed_ids("cvppp", "valid"))


def scene(number, side=40):
    """uint8 image [H, W, 4] with transparency, and uint8 labels: 1..N on 0, with a gap."""
    grey, labels = rectangles(number, side=side, count=2)
    image = np.stack([grey, grey // 2, 255 - grey, np.full_like(grey, 200 - number % 7)], axis=-1)
    return image, np.array([0, 2, 7], np.uint8)[labels]


def write_png(root, plants=FEW, part="A1", labels=True, mode="RGBA"):
    folder = root / part
    folder.mkdir(parents=True)
    for number, plant in enumerate(plants):
        image, ids = scene(number)
        Image.fromarray(image).convert(mode).save(folder / f"{plant}_rgb.png")
        foreground = Image.fromarray(np.where(ids > 0, 255, 0).astype(np.uint8)).convert("1")
        foreground.save(folder / f"{plant}_fg.png")
        if labels:
            picture = Image.fromarray(ids)
            if number % 2:  # CVPPP stores some as palettes
                picture = Image.fromarray(ids)
                picture.putpalette([(k * 37) % 256 for k in range(768)])
            picture.save(folder / f"{plant}_label.png")
    return root


def write_h5(root, plants=FEW, tested=("plant003", "plant004"), part="A1"):
    root.mkdir(parents=True)
    with (
        h5py.File(root / "CVPPP2017_training_images.h5", "w") as images,
        h5py.File(root / "CVPPP2017_training_truth.h5", "w") as truth,
        h5py.File(root / "CVPPP2017_testing_images.h5", "w") as testing,
    ):
        for number, plant in enumerate((*plants, *tested)):
            image, ids = scene(number)
            group = (testing if plant in tested else images).create_group(f"{part}/{plant}")
            group["rgb"], group["rgb_filename"] = image, f"{plant}_rgb.png"
            group["fg"], group["fg_filename"] = (ids > 0).astype(np.uint8), f"{plant}_fg.png"
            if plant not in tested:
                group = truth.create_group(f"{part}/{plant}")
                group["label"], group["label_filename"] = ids, f"{plant}_label.png"
                group["count"] = 2
    return root
