"""A tiny CamVid as released with SegNet: PNG pairs of four frames per split, and their lists."""

import numpy as np
from PIL import Image

FRAMES = {
    "train": ("0001TP_006690", "0001TP_007170", "0016E5_00420", "0006R0_f00930"),
    "val": ("0016E5_07959", "0016E5_07961", "0016E5_07963", "0016E5_07965"),
    "test": ("0001TP_008550", "0001TP_008580", "Seq05VD_f00000", "Seq05VD_f00030"),
}
"""Folder -> frames; the train frames are in D_T, D_S, D_T and D_V, in this order."""
HEIGHT, WIDTH = 36, 48


def ids(number):
    """uint8 [36, 48]: sky, a building, a road, a car, an unlabelled stripe, and a bicyclist."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[8:20, :20] = 1
    found[20:] = 3
    found[24:30, 10 + number : 22 + number] = 8
    found[:, -3:] = 11
    if number == 0:
        found[30, 30] = 10
    return found


def image(number):
    """uint8 [36, 48, 3], a shade per class."""
    shades = ids(number).astype(int) * 20 + number
    return np.stack([shades, 255 - shades, shades // 2], axis=-1).astype(np.uint8)


def write_camvid(root, *, extension="png", lists=True, frames=FRAMES):
    for folder, names in frames.items():
        (root / folder).mkdir(parents=True)
        (root / f"{folder}annot").mkdir()
        lines = []
        for number, name in enumerate(names):
            Image.fromarray(image(number)).save(root / folder / f"{name}.{extension}")
            Image.fromarray(ids(number)).save(root / f"{folder}annot" / f"{name}.png")
            lines.append(
                f"/SegNet/CamVid/{folder}/{name}.{extension} "
                f"/SegNet/CamVid/{folder}annot/{name}.png\n"
            )
        if lists:
            (root / f"{folder}.txt").write_text("".join(lines))
    return root
