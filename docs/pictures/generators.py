"""Draws docs/pictures/{cells,leaves,streets,volumes}.png: four scenes of each generator.

python docs/pictures/generators.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

from rlseg.data import open_dataset
from rlseg.figures import color_labels

FOLDER = Path(__file__).parent
SCENES = 5
GAP = 4  # white pixels between panels
CLASS_COLOURS = {
    "sky": (128, 180, 230), "building": (140, 90, 70), "road": (90, 90, 100),
    "pavement": (220, 160, 200), "tree": (60, 160, 60), "fence": (210, 170, 60),
    "car": (60, 60, 220), "sign": (255, 255, 0), "pedestrian": (255, 40, 40),
    "bicyclist": (0, 240, 240),
}  # fmt: skip


def picture(image: np.ndarray, side: int) -> Image.Image:
    """Image [C, H, W] or colours [H, W, 3], enlarged to rows of whole pixels."""
    if image.shape[-1] != 3 or image.dtype != np.uint8:
        grey = (image * 255).round().astype(np.uint8)
        image = np.moveaxis(np.broadcast_to(grey, (3, *grey.shape[1:])), 0, -1)
    times = max(side // image.shape[0], 1)
    return Image.fromarray(np.ascontiguousarray(image)).resize(
        (image.shape[1] * times, image.shape[0] * times), Image.Resampling.NEAREST
    )


def save(name: str, columns: list[tuple[np.ndarray, np.ndarray]], side: int) -> None:
    """Images above their truth."""
    tiles = [[picture(part, side) for part in column] for column in columns]
    wide, high = tiles[0][0].size
    sheet = Image.new("RGB", (len(tiles) * (wide + GAP) - GAP, 2 * high + GAP), (255, 255, 255))
    for x, column in enumerate(tiles):
        for y, tile in enumerate(column):
            sheet.paste(tile, (x * (wide + GAP), y * (high + GAP)))
    reduced = sheet.quantize(128, dither=Image.Dither.NONE)
    reduced.save(FOLDER / f"{name}.png", optimize=True)


def main() -> None:
    """Write the four pictures."""
    for name, size in (("cells", 128), ("leaves", 128)):
        scenes = open_dataset(name, None, {"size": size}).split("train")
        pairs = [(scenes[k].image.numpy(), color_labels(scenes[k].labels)) for k in range(SCENES)]
        save(name, pairs, 128)
    volume = open_dataset("volumes", None).split("train")[0]
    slices = range(4, 4 + 5 * SCENES, 5)
    pairs = [(volume.image[:, k].numpy(), color_labels(volume.labels[k])) for k in slices]
    save("volumes", pairs, 128)
    streets = open_dataset("streets", None)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for number, label in enumerate(streets.classes):
        palette[number] = CLASS_COLOURS[label]
    scenes = [streets.split("train")[k] for k in range(2, 2 + SCENES)]
    save("streets", [(s.image.numpy(), palette[s.classes.numpy()]) for s in scenes], 128)


if __name__ == "__main__":
    main()
