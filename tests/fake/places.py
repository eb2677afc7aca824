"""A tiny Places Challenge 2017: JPEG images, masks with category and instance, and the table."""

import json

import numpy as np
from PIL import Image

from rlseg.data.places_table import CATEGORIES
from tests.fake.scenes import rectangles

KINDS = {"training": "train", "validation": "val", "testing": "test"}
NUMBERS = {"training": (1, 2, 10, 20210), "validation": (1, 2, 3, 2000), "testing": (2, 3489)}
FIRST_ID = {"training": 0, "validation": 20210, "testing": 22210}
GREEN = np.array([0, 2, 7, 255], np.uint8)  # numbers of instances as files hold them: with gaps
RED = (4, 4, 98)  # their categories


def file_name(folder, number):
    return f"ADE_{KINDS[folder]}_{number:08d}"


def scene(number, side=48):
    """Colour uint8 image [40, side, 3] and int32 labels [40, side], dark but for three things."""
    image, labels = rectangles(number % 100, side)
    return np.repeat(image[:40, :, None], 3, axis=2), labels[:40]


def mask(labels, red=RED):
    """uint8 [H, W, 3] as the challenge stores labels 0..3; blue is noise that nobody may read."""
    blue = (np.arange(labels.size) % 251).reshape(labels.shape)
    bands = np.array([0, *red])[labels], GREEN[labels], blue
    return np.stack(bands, axis=-1).astype(np.uint8)


def mask_path(root, folder="validation", number=1):
    return root / "annotations_instance" / folder / f"{file_name(folder, number)}.png"


def image_path(root, folder="validation", number=1):
    return root / "images" / folder / f"{file_name(folder, number)}.jpg"


def image_id(folder, number):
    """By the challenge's rule; of its gaps in test numbers, only the first ids are known here."""
    if folder == "testing":
        return FIRST_ID[folder] + NUMBERS[folder].index(number)
    return FIRST_ID[folder] + number - 1


def write_table(path):
    images = [
        {"file_name": f"{file_name(folder, n)}.jpg", "id": image_id(folder, n),
         "width": 48, "height": 40}
        for folder, numbers in NUMBERS.items() for n in numbers
    ]  # fmt: skip
    categories = [{"id": k, "name": name} for k, name in enumerate(CATEGORIES, 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "categories": categories}))
    return path


def write_places(root, *, red=RED, table=False, images="images"):
    for folder, numbers in NUMBERS.items():
        (root / images / folder).mkdir(parents=True)
        if folder != "testing":
            (root / "annotations_instance" / folder).mkdir(parents=True)
        for n in numbers:
            image, labels = scene(n)
            Image.fromarray(image).save(
                root / images / folder / f"{file_name(folder, n)}.jpg", quality=100
            )
            if folder != "testing":
                Image.fromarray(mask(labels, red)).save(mask_path(root, folder, n))
    if table:
        write_table(root / "imgCatIds.json")
    return root
