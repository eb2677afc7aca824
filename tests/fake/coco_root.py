"""A user's own data in the form of COCO: images and JSON files, in the places they may lie."""

import json

import numpy as np
from PIL import Image

from tests.fake.coco import compressed, listed
from tests.fake.scenes import rectangles


def polygon(mask):
    """The outline of a filled rectangle, as COCO writes it."""
    rows, columns = np.nonzero(mask)
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    return [[left, top, right, top, right, bottom, left, bottom]]


def content(numbers, name="cell{}.png", first_id=1):
    """JSON for scenes of rectangles: instance 1 as polygon, 2 as text, 3 as list of counts."""
    data = {
        "images": [],
        "categories": [{"id": 1, "name": "round"}, {"id": 4, "name": "long"}],
        "annotations": [],
    }
    for number in numbers:
        labels = rectangles(number)[1]
        data["images"].append(
            {"id": 10 + number, "file_name": name.format(number), "height": 48, "width": 48}
        )
        for k, write in ((1, polygon), (2, compressed), (3, listed)):
            data["annotations"].append(
                {
                    "id": first_id + len(data["annotations"]),
                    "image_id": 10 + number,
                    "category_id": 4 if k == 2 else 1,
                    "segmentation": write(labels == k),
                    "area": int((labels == k).sum()),
                    "iscrowd": 0,
                }
            )
    return data


def write_images(folder, numbers, name="cell{}.png"):
    for number in numbers:
        path = folder / name.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rectangles(number)[0]).save(path)


def write_json(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def write_single(root, count=10):
    """One file for all, images in a folder beside it."""
    write_images(root / "images", range(count))
    write_json(root / "annotations.json", content(range(count)))
    return root


SPLITS = {"train": (0, 1, 2), "val": (3, 4), "test": (5,)}


def write_by_split(root, year="2017"):
    """As COCO itself: a folder of images per split, JSON files in `annotations`."""
    for split, numbers in SPLITS.items():
        write_images(root / f"{split}{year}", numbers)
        write_json(root / "annotations" / f"instances_{split}{year}.json", content(numbers))
    return root


def write_exported(root):
    """As an annotation service exports it: JSON and images in one folder per split."""
    for split, numbers in SPLITS.items():
        folder = root / {"val": "valid"}.get(split, split)
        write_images(folder, numbers)
        write_json(folder / "_annotations.coco.json", content(numbers))
    return root
