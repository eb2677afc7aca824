"""Writing for conversion: images and ids in the layout of each format, or why they do not fit."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rlseg import rle
from rlseg.data.coco import CocoTruth, coco_dict
from rlseg.data.convert_sources import LABEL_ID, Item
from rlseg.data.quiet import quiet_pillow
from rlseg.errors import ConfigError

__all__ = ["CocoTarget", "CvpppTarget", "FolderTarget", "Target", "Wanted"]

LARGEST_8, LARGEST_16, LARGEST_32 = 255, 65535, 2**31 - 1
"""Largest ids of 8-bit PNG, 16-bit PNG, and TIFF with 32 bits (signed, as Pillow writes it)."""
SPLIT_WORDS = {None: "", "train": "train", "valid": "val", "test": "test"}
PLANT = re.compile(r"plant[0-9]{3,}")
PART = "A1"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How the target is written."""

    ignore_id: int | None = None
    """Id of pixels without a truth, in label maps of a folder."""
    category: str = "instance"
    """Name of the only category of a COCO file."""


class Target(Protocol):
    """A data set that is being written."""

    def add(self, item: Item) -> None:
        """Writes one item.

        Raises:
            ConfigError: the format cannot hold it.
        """

    def finish(self) -> None:
        """Writes what comes once, after all items."""


class FolderTarget:
    """`images/` and `labels/`, below a folder per split where there are splits."""

    def __init__(self, root: Path, names: Sequence[tuple[str | None, str]], wanted: Wanted) -> None:
        _refuse_twice(names)
        hidden = [name for _, name in names if name.startswith(".")]
        if hidden:
            raise ConfigError(f"{hidden[0]}: names that begin with a dot are not read; rename it")
        self._root, self._wanted = root, wanted
        self._rows: list[tuple[object, ...]] = []

    def add(self, item: Item) -> None:
        """The image as it is, or as PNG; the ids as PNG of 16 bits, or wider where they need it."""
        base = self._root / SPLIT_WORDS[item.split]
        _write_image(item, base / "images", item.name)
        ids = self._filled(item)
        largest = int(ids.max(initial=0))
        folder = base / "labels"
        folder.mkdir(parents=True, exist_ok=True)
        if largest <= LARGEST_16:
            Image.fromarray(ids.astype(np.uint16)).save(folder / f"{item.name}.png")
        elif largest <= LARGEST_32:
            picture = Image.fromarray(ids.astype(np.int32))
            picture.save(folder / f"{item.name}.tif", compression="tiff_adobe_deflate")
        else:
            np.save(folder / f"{item.name}.npy", ids)
        self._rows += _origin_rows(item, item.name)

    def finish(self) -> None:
        """`instances.csv`, where the instances were annotations with ids and categories."""
        _write_origins(self._root, self._rows)

    def _filled(self, item: Item) -> NDArray[np.uint64]:
        """Ids with the wanted one where the truth is unknown."""
        ignore = self._wanted.ignore_id
        if not item.unknown.any():
            if ignore is not None and (item.ids == ignore).any():
                raise _taken(item, ignore)
            return item.ids
        if ignore is None:
            raise ConfigError(
                f"{item.where}: {int(item.unknown.sum())} pixels without a truth (crowd regions); "
                "name an id for them in the label maps (--ignore-id 65535)"
            )
        if (item.ids == ignore).any():
            raise _taken(item, ignore)
        return np.where(item.unknown, np.uint64(ignore), item.ids)


def _taken(item: Item, ignore: int) -> ConfigError:
    return ConfigError(
        f"{item.where}: {ignore} is the id of an instance; choose another --ignore-id, or number "
        "the instances anew (--renumber)"
    )


@dataclass(kw_only=True)
class _CocoPart:
    """What goes into one JSON file."""

    names: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    runs: list[rle.Runs] = field(default_factory=list)
    image: list[int] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    """Ids in the label map; None = a region without truth."""


class CocoTarget:
    """`annotations.json` and `images/`, or a JSON file and a folder per split."""

    def __init__(self, root: Path, names: Sequence[tuple[str | None, str]], wanted: Wanted) -> None:
        _refuse_twice(names)
        self._root, self._wanted = root, wanted
        self._parts: dict[str, _CocoPart] = {}

    def add(self, item: Item) -> None:
        """The image as it is, or as PNG, and its instances as run lengths."""
        word = SPLIT_WORDS[item.split]
        part = self._parts.setdefault(word, _CocoPart())
        try:
            item.name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ConfigError(f"{item.where}: its name is not UTF-8; rename it") from error
        part.names.append(_write_image(item, self._root / "images" / word, item.name))
        height, width = item.ids.shape
        part.sizes.append((height, width))
        runs, ids = rle.encode_labels(item.ids)
        labels: list[int | None] = list(ids.tolist())
        part.runs.append(runs)
        if item.unknown.any():
            part.runs.append(rle.encode(item.unknown))
            labels.append(None)
        part.labels += labels
        part.image += [len(part.names)] * len(labels)

    def finish(self) -> None:
        """The JSON files."""
        for word, part in self._parts.items():
            name = f"instances_{word}.json" if word else "annotations.json"
            text = json.dumps(self._content(part), allow_nan=False, ensure_ascii=False)
            (self._root / name).write_text(text + "\n", encoding="utf-8")

    def _content(self, part: _CocoPart) -> dict[str, Any]:
        number = len(part.labels)
        runs = rle.concatenate(part.runs)
        truth = CocoTruth(
            image_ids=np.arange(1, len(part.names) + 1, dtype=np.int64),
            image_names=tuple(part.names),
            image_sizes=np.array(part.sizes, dtype=np.int64),
            category_ids=np.ones(1, dtype=np.int64),
            category_names=(self._wanted.category,),
            annotation_ids=np.arange(1, number + 1, dtype=np.int64),
            image=np.array(part.image, dtype=np.int64),
            category=np.ones(number, dtype=np.int64),
            area=runs.areas().astype(np.float64),
            crowd=np.array([label is None for label in part.labels], dtype=np.bool_),
            runs=runs,
        )
        content = coco_dict(truth)
        for entry, label in zip(content["annotations"], part.labels, strict=True):
            if label is not None:
                entry[LABEL_ID] = label
        return content


class CvpppTarget:
    """`A1/` with three PNG files per image and `A1.csv`; `names.csv` says which plant was what."""

    def __init__(self, root: Path, names: Sequence[tuple[str | None, str]]) -> None:
        self._root = root
        kept = [name for _, name in names]
        if len(set(kept)) < len(kept) or not all(PLANT.fullmatch(name) for name in kept):
            kept = [f"plant{number:03d}" for number in range(1, len(names) + 1)]
        self._plants = dict(zip(names, kept, strict=True))
        self._counts: list[tuple[object, ...]] = []
        self._names: list[tuple[object, ...]] = []
        self._rows: list[tuple[object, ...]] = []

    def add(self, item: Item) -> None:
        """Image, ids and foreground as PNG with 8, 8 and 1 bits."""
        plant = self._plants[item.split, item.name]
        present = np.unique(item.ids)
        present = present[present > 0]
        if len(present) > LARGEST_8:
            raise ConfigError(
                f"{item.where}: {len(present)} instances; labels of CVPPP have 8 bits, for up to "
                f"{LARGEST_8}: convert to folder or coco, or cut the image into tiles"
            )
        if len(present) and int(present[-1]) > LARGEST_8:
            raise ConfigError(
                f"{item.where}: id {int(present[-1])}; labels of CVPPP have 8 bits, for ids up to "
                f"{LARGEST_8}: number the instances anew (--renumber), or convert to folder or coco"
            )
        if item.unknown.any():
            raise ConfigError(
                f"{item.where}: {int(item.unknown.sum())} pixels without a truth, which CVPPP "
                "cannot say: remove them, or convert to folder (--ignore-id N) or coco"
            )
        folder = self._root / PART
        folder.mkdir(parents=True, exist_ok=True)
        _write_colours(item, folder / f"{plant}_rgb.png")
        Image.fromarray(item.ids.astype(np.uint8)).save(folder / f"{plant}_label.png")
        Image.fromarray(item.ids > 0).save(folder / f"{plant}_fg.png")
        self._counts.append((f"{plant}_rgb.png", len(present)))
        self._names.append((plant, item.name, item.split or "", item.where))
        self._rows += _origin_rows(item, plant)

    def finish(self) -> None:
        """`A1.csv` with leaf counts as CVPPP has it, `names.csv`, and perhaps `instances.csv`."""
        _write_csv(self._root / PART / f"{PART}.csv", self._counts)
        _write_csv(
            self._root / "names.csv", [("plant", "name", "split", "image"), *sorted(self._names)]
        )
        _write_origins(self._root, self._rows)


def _refuse_twice(names: Sequence[tuple[str | None, str]]) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ConfigError(f"several images are called {twice[0][1]}; rename one of them")


# Files


def _write_image(item: Item, folder: Path, stem: str) -> str:
    """Copies the image, or writes it as PNG; the name of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    if item.file is not None:
        name = f"{stem}{item.file.suffix.lower()}"
        shutil.copyfile(item.file, folder / name)
        return name
    (folder / f"{stem}.png").write_bytes(_png(item.image, item.where))
    return f"{stem}.png"


def _write_colours(item: Item, path: Path) -> None:
    """RGB with 8 bits: a PNG that is one already is copied."""
    if item.file is not None and item.file.suffix.lower() == ".png":
        with quiet_pillow(), Image.open(item.file) as image:
            colours = image.mode in ("RGB", "RGBA")
        if colours:
            shutil.copyfile(item.file, path)
            return
    bands = _whole(item.image, 255)
    if bands is None:
        raise ConfigError(
            f"{item.where}: more than 8 bits per colour, and images of CVPPP have 8: scale the "
            "image first, or convert to folder or coco"
        )
    if len(bands) == 1:
        bands = np.repeat(bands, 3, axis=0)
    Image.fromarray(np.ascontiguousarray(np.moveaxis(bands, 0, -1)).astype(np.uint8)).save(path)


def _png(image: Tensor, where: str) -> bytes:
    """The image as PNG, without loss.

    Raises:
        ConfigError: it has more than 8 bits in colour, or 16 in grey.
    """
    buffer = io.BytesIO()
    bands = _whole(image, 255)
    wide = _whole(image, 65535) if bands is None and len(image) == 1 else None
    if bands is not None:
        plane = np.moveaxis(bands, 0, -1) if len(bands) == 3 else bands[0]
        Image.fromarray(np.ascontiguousarray(plane).astype(np.uint8)).save(buffer, format="PNG")
    elif wide is not None:
        Image.fromarray(wide[0].astype(np.uint16)).save(buffer, format="PNG")
    else:
        raise ConfigError(
            f"{where}: PNG holds 8 bits per colour or 16 bits of grey, and this image has finer "
            "values: save it as whole numbers of 8 or 16 bits first"
        )
    return buffer.getvalue()


def _whole(image: Tensor, scale: int) -> NDArray[np.int64] | None:
    """The image as whole numbers 0..scale, if nothing is lost by that."""
    whole = (image * scale).round()
    return whole.numpy().astype(np.int64) if bool((whole / scale == image).all()) else None


def _origin_rows(item: Item, name: str) -> list[tuple[object, ...]]:
    return [
        (item.split or "", name, label, o.annotation, o.category_id, o.category)
        for label, o in sorted(item.origins.items())
    ]


def _write_origins(root: Path, rows: Sequence[tuple[object, ...]]) -> None:
    if rows:
        head = ("split", "name", "id", "annotation_id", "category_id", "category")
        _write_csv(root / "instances.csv", [head, *rows])


def _write_csv(path: Path, rows: Sequence[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
