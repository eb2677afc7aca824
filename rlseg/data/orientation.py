"""EXIF orientation: how a picture is turned upright, and what sizes cannot tell about labels."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from rlseg.data.filechecks import PNG_SIGNATURE
from rlseg.data.quiet import quiet_pillow
from rlseg.errors import CorruptDatasetError

__all__ = ["EXIF_ORIENTATION", "orientation_note", "upright"]

EXIF_ORIENTATION = 0x0112
"""EXIF tag: 1 = upright, 2 to 4 = mirrored or upside down, 5 to 8 = with rows for columns."""
SIDEWAYS = (5, 6, 7, 8)
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
"""Endings of image files that may state an orientation."""
_PNG_TEXTS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks of PNG from which Pillow takes it."""

Array = NDArray[Any]


def upright(stack: Array, orientation: int, where: str) -> Array:
    """[D, H, W, C] turned by the eight values of the EXIF tag.

    Raises:
        CorruptDatasetError: another value.
    """
    if orientation not in range(1, 9):
        raise CorruptDatasetError(f"{where}: EXIF orientation {orientation} is not one of 1 to 8")
    if orientation in SIDEWAYS:
        stack = stack.swapaxes(1, 2)
    if orientation in (2, 3, 6, 7):
        stack = stack[:, :, ::-1]
    if orientation in (3, 4, 7, 8):
        stack = stack[:, ::-1]
    return stack


def orientation_note(path: Path) -> str | None:
    """What to say of an image that is turned by its EXIF tag while its size is the same either way.

    Nothing shows whether its labels were drawn on the upright picture. Where the size does
    change, it was compared with that of the labels.

    Args:
        path: an image that has labels and was read without an error; None for other files.
    """
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return None
    try:
        if path.suffix.lower() == ".png" and not _has_texts(path):
            return None  # asking Pillow would decode it a second time
        with quiet_pillow(), Image.open(path) as image:
            width, height = image.size
            orientation = int(image.getexif().get(EXIF_ORIENTATION, 1))
    except (OSError, ValueError, SyntaxError, TypeError, struct.error):
        return None
    if orientation == 1 or (orientation in SIDEWAYS and height != width):
        return None
    return (
        f"EXIF orientation {orientation} is applied; its size, {height}x{width} either way, does "
        "not show whether the labels were drawn on the upright picture: look at an overlay "
        "(`rlseg data stats --out`), or store the image upright, without the tag"
    )


def _has_texts(path: Path) -> bool:
    """Whether a PNG file has a chunk that may state an orientation."""
    with path.open("rb") as stream:
        stream.seek(len(PNG_SIGNATURE))
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind in _PNG_TEXTS:
                return True
            stream.seek(length + 4, 1)
    return False
