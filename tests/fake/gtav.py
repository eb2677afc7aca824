"""A tiny GTAV: frames with palette labels, and the authors' split.mat."""

import numpy as np
from PIL import Image
from scipy import io

FRAMES = {"trainIds": (1, 2, 3, 15188), "valIds": (4, 5), "testIds": (6, 20801)}
"""Variable of split.mat -> numbers; 15188 and 20801 have labels of another size."""
MISMATCHED = (15188, 20801)
HEIGHT, WIDTH = 21, 38
PALETTE = [value for k in range(256) for value in (k, 255 - k, 3 * k % 256)]


def ids(number):
    """uint8 [21, 38]: sky, road, car, person, rider, licence plate."""
    found = np.full((HEIGHT, WIDTH), 23, np.uint8)
    found[10:] = 7
    found[12:18, 3 + number : 12 + number] = 26
    found[17, 5 + number] = 34
    found[5:15, 24:27] = 24
    found[5:15, 30:33] = 25
    return found


def image(number):
    shades = ids(number).astype(int) * 7 + number
    return np.stack([shades, 255 - shades, shades // 2], axis=-1).astype(np.uint8)


def write_split(path, frames=FRAMES):
    columns = {name: np.array(numbers, np.float64)[:, None] for name, numbers in frames.items()}
    io.savemat(path, columns, do_compression=True)
    return path


def write_gtav(root, frames=FRAMES, split=True):
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    numbers = [number for group in frames.values() for number in group]
    for place, number in enumerate(numbers):
        shift = place % 20
        labels = Image.fromarray(ids(shift)[: 20 if number in MISMATCHED else HEIGHT])
        labels.putpalette(PALETTE)
        labels.save(root / "labels" / f"{number:05d}.png")
        Image.fromarray(image(shift)).save(root / "images" / f"{number:05d}.png")
    if split:
        write_split(root / "split.mat", frames)
    return root
