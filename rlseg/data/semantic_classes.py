"""Classes of street scenes, and what the ids in label files stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlseg.data.labels import present_ids
from rlseg.errors import CorruptDatasetError

VOID = 255
"""Class of pixels that do not count."""
UNKNOWN_ID = -1  # in a table: no label file should hold this id

ClassTable = NDArray[np.int16]
"""int16 [256]: id in a file -> class, 255 for pixels that do not count, -1 for ids unheard of."""

CAMVID_CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
"""The 11 classes of CamVid as released with SegNet, in the order of their ids."""

CITYSCAPES_CLASSES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
"""The 19 classes that Cityscapes evaluates, in the order of their train ids."""

CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The id in `labelIds` files of each of the 19 classes."""
CITYSCAPES_THINGS = (24, 25, 26, 27, 28, 31, 32, 33)
"""Label ids of the 8 classes with instances: person, rider and six kinds of vehicles."""
CITYSCAPES_IDS = (*range(35), 255)
"""Ids in label files: 0 to 33, and the licence plate, which is 34 in GTAV, 255 (-1) elsewhere."""

GTAV_TO_CAMVID: Mapping[int, int] = {
    7: 3,  # road
    8: 4,  # sidewalk -> pavement
    11: 1,  # building
    13: 7,  # fence
    17: 2,  # pole
    19: 6,  # traffic light -> sign symbol
    20: 6,  # traffic sign -> sign symbol
    21: 5,  # vegetation -> tree
    23: 0,  # sky
    24: 9,  # person -> pedestrian
    26: 8,  # car
    27: 8,  # truck -> car
    28: 8,  # bus -> car
    32: 8,  # motorcycle -> car
    33: 10,  # bicycle -> bicyclist
}
"""GTAV label id -> CamVid class by the RALIS code; rider, terrain, wall and train do not count."""


def class_table(classes: Mapping[int, int], void: tuple[int, ...] = ()) -> ClassTable:
    """The table of all 256 ids.

    Args:
        classes: id in a file -> class.
        void: ids that do not count, unless they have a class.
    """
    table = np.full(256, UNKNOWN_ID, dtype=np.int16)
    table[list(void)] = VOID
    for label_id, number in classes.items():
        table[label_id] = number
    table.setflags(write=False)
    return table


CAMVID_TABLE = class_table({k: k for k in range(len(CAMVID_CLASSES))}, void=(11,))
"""CamVid files hold the classes themselves; 11 = unlabelled."""
CITYSCAPES_TABLE = class_table(
    {label_id: k for k, label_id in enumerate(CITYSCAPES_LABEL_IDS)}, void=CITYSCAPES_IDS
)
"""Cityscapes and GTAV label ids -> the 19 classes of Cityscapes."""
GTAV_CAMVID_TABLE = class_table(GTAV_TO_CAMVID, void=CITYSCAPES_IDS)
"""GTAV label ids -> the 11 classes of CamVid."""


def to_classes(ids: NDArray[Any], table: ClassTable, where: str) -> Tensor:
    """The class map of an id map, int64 [*S]; the rest is as in `narrow_classes`."""
    return narrow_classes(ids, table, where).long()


def narrow_classes(ids: NDArray[Any], table: ClassTable, where: str) -> Tensor:
    """The class map of an id map, a byte per pixel.

    Args:
        ids: integers [*S] as a file holds them.
        table: what they stand for.
        where: file, for the message.

    Returns:
        uint8 [*S], 255 where the pixel does not count.

    Raises:
        CorruptDatasetError: another type than integers, or an id unheard of; names the first one,
            its place, and how many pixels are of that kind.
    """
    if ids.dtype.kind not in "bui":
        raise CorruptDatasetError(
            f"{where}: labels have type {ids.dtype}; class maps hold integer ids: convert them"
        )
    if ids.size == 0:
        return torch.zeros(ids.shape, dtype=torch.uint8)
    narrow = np.array(ids, dtype=np.uint8, order="C")
    met = np.flatnonzero(present_ids(narrow))
    wraps = ids.dtype != np.uint8 and bool((narrow != ids).any())
    if wraps or (table[met] == UNKNOWN_ID).any():
        raise _unheard_of(ids, table, where)
    classes = bytearray(narrow).translate(table.astype(np.uint8).tobytes())
    return torch.from_numpy(np.frombuffer(classes, np.uint8).reshape(ids.shape))


def _unheard_of(ids: NDArray[Any], table: ClassTable, where: str) -> CorruptDatasetError:
    outside = (ids < 0) | (ids > 255)
    strange = (table[np.where(outside, 0, ids).astype(np.uint8)] == UNKNOWN_ID) | outside
    place = tuple(int(i) for i in np.argwhere(strange)[0])
    known = np.flatnonzero(table != UNKNOWN_ID).tolist()
    return CorruptDatasetError(
        f"{where}: id {ids[place]} at {place} stands for no class ({int(strange.sum())} pixels "
        f"of unknown ids); known are {_ranges(known)}: replace the file or map its ids"
    )


def _ranges(numbers: list[int]) -> str:
    """`0 to 33, 255` for ascending numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)
