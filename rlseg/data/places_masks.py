"""The masks of the Places Challenge 2017: PNG files with one number per band.

Red is the category (1 to 100), green the number of the instance (1 to 255, unique in the image), 0
in either is none. Blue means nothing and is not read. Pixels with a category and no instance are of
unknown truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlseg.data.base import Problem, listed
from rlseg.data.image_table import ImageEntry, ImageTable
from rlseg.data.images import read_colours
from rlseg.data.labels import compact
from rlseg.data.layout import Layout, Record
from rlseg.data.places_table import CATEGORIES
from rlseg.errors import ConfigError, CorruptDatasetError

__all__ = [
    "MASKS",
    "Instances",
    "check_table_size",
    "joint_counts",
    "mask_faults",
    "mask_records",
    "read_instances",
    "read_mask",
]

MASKS = "annotations_instance"
"""Folder of the masks, with a folder per split in it."""
_LAYOUT = Layout(patterns={"labels": MASKS + "/{split}/{id}.{ext}"}, extensions=("png",))
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Instances:
    """What one mask file says."""

    labels: Tensor
    """int64 [H, W]: 0 = background, 1..N instances in ascending order of their numbers."""
    valid: Tensor
    """bool [H, W]: False where there is a category but no instance."""
    ids: Tensor
    """int64 [N], number of instance 1..N in the file, ascending, 1 to 255."""
    categories: Tensor
    """int64 [N], category of instance 1..N, 1 to 100."""


def read_instances(path: Path) -> Instances:
    """Labels, known pixels, numbers and categories of one mask file.

    Args:
        path: PNG, RGB with 8 bits per band.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, not RGB, a category outside 1..100, or an instance with
            several categories.
    """
    category, instance = read_mask(path)
    table = joint_counts(category, instance)
    faults = mask_faults(table)
    if faults:
        raise CorruptDatasetError(f"{path}: {'; '.join(faults)}; replace the file")
    ids = np.flatnonzero(table[1:].any(axis=1)) + 1
    return Instances(
        labels=compact(torch.from_numpy(instance.astype(np.int64))),
        valid=torch.from_numpy((instance > 0) | (category == 0)),
        ids=torch.from_numpy(ids),
        categories=torch.from_numpy(table[ids].argmax(axis=1)),
    )


def read_mask(path: Path) -> tuple[Bytes, Bytes]:
    """The category and the number of the instance of every pixel, uint8 [H, W] each.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, or not RGB with 8 bits per band.
    """
    bands = read_colours(path)
    return np.ascontiguousarray(bands[..., 0]), np.ascontiguousarray(bands[..., 1])


def joint_counts(category: Bytes, instance: Bytes) -> NDArray[np.int64]:
    """Number of pixels int64 [256, 256] by number of the instance and category."""
    joint = (instance.astype(np.uint16) << 8) | category
    return np.bincount(joint.reshape(-1), minlength=1 << 16).reshape(256, 256)


def mask_faults(table: NDArray[np.int64]) -> list[str]:
    """What is wrong in a mask, in words; empty if it follows the challenge's encoding.

    Args:
        table: int64 [256, 256] of `joint_counts`.
    """
    faults: list[str] = []
    out_of_range = table[:, len(CATEGORIES) + 1 :].sum(axis=0)
    if out_of_range.any():
        values = np.flatnonzero(out_of_range) + len(CATEGORIES) + 1
        faults.append(
            f"category {listed(values.tolist())} (red) on {int(out_of_range.sum())} pixels; "
            f"categories are 1 to {len(CATEGORIES)}"
        )
    without = np.flatnonzero(table[1:, 0]) + 1
    if len(without):
        faults.append(
            f"instance {listed(without.tolist())} (green) has no category (red is 0) on "
            f"{int(table[1:, 0].sum())} pixels"
        )
    kinds = (table[1:, 1:] > 0).sum(axis=1)
    mixed = [
        f"{number} ({', '.join(map(str, np.flatnonzero(table[number, 1:]) + 1))})"
        for number in (np.flatnonzero(kinds > 1) + 1).tolist()
    ]
    if mixed:
        faults.append(f"more than one category in instance {listed(mixed)}")
    return faults


def mask_records(base: Path, folder: str, root: Path) -> tuple[list[Record], list[Problem]]:
    """The mask files below `base` of one of the challenge's folders, and links out of `root`."""
    return _LAYOUT.survey(base, folder, root)


def check_table_size(table: ImageTable, mask: Path, shape: tuple[int, ...]) -> ImageEntry:
    """The table's entry for a mask file, if its size is that of the mask.

    Args:
        table: images by name.
        mask: its name without ending is that of the image.
        shape: height and width of the mask.

    Raises:
        CorruptDatasetError: not in the table, or of another size.
    """
    try:
        entry = table.find(mask.name)
    except ConfigError as error:
        why = str(error).partition(": ")[2]  # after the name, which the path holds
        raise CorruptDatasetError(f"{mask}: {why}") from error
    if tuple(shape) != (entry.height, entry.width):
        raise CorruptDatasetError(
            f"{mask}: size {shape[0]}x{shape[1]} differs from {table.where}, which has "
            f"{entry.height}x{entry.width} for {entry.file_name} (rows x columns)"
        )
    return entry
