"""The Places Challenge's 100 categories, and the rule that turns file names into image ids.

The names and their numbers are those of the challenge's published table, `imgCatIds.json`.
"""

# Notice for that list, which its owners publish under the BSD 3-Clause License:
#
# Copyright (c) 2017, MIT CSAIL Computer Vision
# All rights reserved.
#
# Redistribution and use in source and binary forms, with or without modification, are permitted
# provided that the following conditions are met:
#
# 1. Redistributions of source code must retain the above copyright notice, this list of conditions
#    and the following disclaimer.
# 2. Redistributions in binary form must reproduce the above copyright notice, this list of
#    conditions and the following disclaimer in the documentation and/or other materials provided
#    with the distribution.
# 3. Neither the name of the copyright holder nor the names of its contributors may be used to
#    endorse or promote products derived from this software without specific prior written
#    permission.
#
# THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR
# IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND
# FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR
# CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
# DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE,
# DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER
# IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
# OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from rlseg.data.image_table import read_image_table
from rlseg.data.links import inside
from rlseg.errors import ConfigError, CorruptDatasetError
from rlseg.files import load_json

__all__ = [
    "CATEGORIES",
    "MAX_INSTANCES",
    "TABLE",
    "category_names",
    "image_id_by_rule",
    "names_of",
]

CATEGORIES: tuple[str, ...] = (
    "bed", "windowpane", "cabinet", "person", "door", "table", "curtain", "chair", "car",
    "painting", "sofa", "shelf", "mirror", "armchair", "seat", "fence", "desk", "wardrobe", "lamp",
    "bathtub", "railing", "cushion", "box", "column", "signboard", "chest of drawers", "counter",
    "sink", "fireplace", "refrigerator", "stairs", "case", "pool table", "pillow", "screen door",
    "bookcase", "coffee table", "toilet", "flower", "book", "bench", "countertop", "stove", "palm",
    "kitchen island", "computer", "swivel chair", "boat", "arcade machine", "bus", "towel", "light",
    "truck", "chandelier", "awning", "streetlight", "booth", "television receiver", "airplane",
    "apparel", "pole", "bannister", "ottoman", "bottle", "van", "ship", "fountain", "washer",
    "plaything", "stool", "barrel", "basket", "bag", "minibike", "oven", "ball", "food", "step",
    "trade name", "microwave", "pot", "animal", "bicycle", "dishwasher", "screen", "sculpture",
    "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "plate", "monitor",
    "bulletin board", "radiator", "glass", "clock", "flag",
)  # fmt: skip
"""Names of categories 1 to 100, in order: category k is `CATEGORIES[k - 1]`."""
MAX_INSTANCES = 255
"""Most instances of one image: their numbers have 8 bits, and 0 is none."""

_NAME = re.compile(r"ADE_(train|val|test)_([0-9]{1,8})")
_OFFSETS = {"train": (-1, 20_210), "val": (20_209, 2_000)}  # image id - file number; largest number
TABLE = "imgCatIds.json"
"""File in the root with all images and categories, as the challenge publishes it."""
NAMES = "instance_categories.json"


def image_id_by_rule(stem: str) -> int:
    """The image id that the challenge's table gives to a training or validation image.

    Ids count the file names in order: number - 1 for training, 20 209 + number for validation. The
    numbers of test images have gaps, so that only the table knows their ids.

    Args:
        stem: file name without its ending, such as "ADE_val_00000001".

    Raises:
        ConfigError: a test image, a number out of range, or another kind of name.
    """
    found = _NAME.fullmatch(stem)
    if found is None:
        raise ConfigError(
            f"{stem}: not a name of the challenge (ADE_train_<n>, ADE_val_<n>); name a table of "
            "image ids with --images-json imgCatIds.json"
        )
    kind, number = found[1], int(found[2])
    if kind == "test":
        raise ConfigError(
            f"{stem}: the numbers of test images have gaps, their ids follow from no rule; name "
            "the table with --images-json imgCatIds.json"
        )
    offset, largest = _OFFSETS[kind]
    if not 1 <= number <= largest:
        raise ConfigError(
            f"{stem}: number {number}; {kind} images are 1 to {largest}: name a table of image ids "
            "with --images-json"
        )
    return number + offset


def category_names(root: Path) -> tuple[str, ...]:
    """Names of categories 1 to 100: from a table in the root folder, else the published ones.

    Args:
        root: may hold `imgCatIds.json`, or `instance_categories.json` (number -> name).

    Raises:
        CorruptDatasetError: a table that is damaged, does not name exactly 1 to 100, or is a link
            out of the root.
    """
    table, names = inside(root / TABLE, root), inside(root / NAMES, root)
    if table.is_file():
        return names_of(read_image_table(table).categories, str(table))
    if names.is_file():
        content = load_json(names, error_type=CorruptDatasetError)
        plain = isinstance(content, dict) and all(isinstance(v, str) for v in content.values())
        if not plain or not all(re.fullmatch("[0-9]{1,9}", key) for key in content):
            raise CorruptDatasetError(f"{names}: expected one object, category number -> name")
        return names_of({int(key): value for key, value in content.items()}, str(names))
    return CATEGORIES


def names_of(found: Mapping[int, str], where: str) -> tuple[str, ...]:
    """The names in order, if they are those of categories 1 to 100.

    Raises:
        CorruptDatasetError: others; names the numbers that are missing or unknown.
    """
    wanted = range(1, len(CATEGORIES) + 1)
    if sorted(found) != list(wanted):
        odd = sorted(set(found) ^ set(wanted))
        raise CorruptDatasetError(
            f"{where}: categories must be 1 to {len(CATEGORIES)}, each once; missing or unknown: "
            f"{', '.join(map(str, odd[:10]))}"
        )
    return tuple(found[number] for number in wanted)
