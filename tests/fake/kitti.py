"""A tiny KITTI of cars: images, labels with a grey value or a colour per car, lists of ids."""

import numpy as np
from PIL import Image

from tests.fake.scenes import rectangles

SPLITS = {"train": (0, 3, 12), "valid": (5,), "test": (7, 1)}
GREYS = np.array([0, 40, 3, 255], np.uint8)  # of background and cars, in no order


def scene(number):
    """uint8 image [H, W, 3] wider than high, and labels 0..3."""
    grey, labels = rectangles(number)
    image = np.stack([grey, grey, 255 - grey], axis=-1)
    return np.concatenate([image, image], axis=1), np.concatenate([labels, 0 * labels], axis=1)


def write_kitti(root, lists=("train", "valid", "test")):
    for folder in ("images", "gt"):
        (root / folder).mkdir(parents=True)
    for split, numbers in SPLITS.items():
        for number in numbers:
            image, labels = scene(number)
            Image.fromarray(image).save(root / "images" / f"{number:06d}.png")
            Image.fromarray(GREYS[labels]).save(root / "gt" / f"{number:06d}.png")
        if split in lists:
            text = "".join(f"{number}\n" for number in numbers)
            (root / f"{split}.txt").write_text(text)
    return root


def write_by_hand(root):
    """Labels in colour for the images to validate and test with, and for one to train with."""
    (root / "gt_man").mkdir()
    for split in ("valid", "test"):
        (root / f"{split}.txt").rename(root / f"{split}_man.txt")
    for number in (*SPLITS["valid"], *SPLITS["test"], SPLITS["train"][1]):
        labels = scene(number)[1]
        colours = np.array([[0, 0, 0], [0, 0, 9], [0, 9, 0], [9, 0, 0]], np.uint8)
        keep = np.where(labels == 3, 0, labels)  # one car less than in gt
        Image.fromarray(colours[keep]).save(root / "gt_man" / f"{number:06d}.png")
    return root
