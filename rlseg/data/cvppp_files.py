"""The files of CVPPP: which plants there are, as PNG or in HDF5, and how one is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rlseg.data.arrays import H5_SUFFIXES, h5_dataset, h5_members, opened_h5, read_h5
from rlseg.data.base import Problem, as_problem
from rlseg.data.images import check_same_size, read_image, read_label_array, read_labels
from rlseg.data.labels import from_array
from rlseg.data.layout import Layout
from rlseg.data.levels import scale_to_unit
from rlseg.data.links import inside, link_fault
from rlseg.data.samples import InstanceSample
from rlseg.errors import CorruptDatasetError, RlsegError

PNG_ROOTS: Mapping[str, tuple[str, ...]] = {
    "training": (".", "training", "CVPPP2017_LSC_training/training"),
    "testing": ("testing", "CVPPP2017_testing/testing", "CVPPP2017_LSC_testing/testing"),
}
"""Where the folders A1 to A5 may lie below the root."""
COLOURS = (3, 4)  # bands of an image, the fourth is transparency


@dataclass(frozen=True, kw_only=True)
class Source:
    """A PNG file, or an array in an HDF5 file."""

    path: Path
    key: str = ""
    """Name of the array; empty = the path is an image file."""

    def __str__(self) -> str:
        return f"{self.path}: {self.key}" if self.key else str(self.path)


@dataclass(frozen=True, kw_only=True)
class Plant:
    """One image and what belongs to it."""

    part: str
    """A1 to A5."""
    id: str
    """As in the files: `plant001`; unique within its part."""
    image: Source
    labels: Source | None
    """None where there is no truth."""
    foreground: Source | None

    @property
    def name(self) -> str:
        """Part and id: `A1_plant001`."""
        return f"{self.part}_{self.id}"

    def sizes(self) -> list[int]:
        """Bytes of the files it is read from."""
        sources = (self.image, self.labels, self.foreground)
        return [source.path.stat().st_size for source in sources if source is not None]


def find_plants(
    root: Path, part: str, form: Literal["auto", "png", "h5"]
) -> tuple[list[Plant], list[Plant], list[Problem]]:
    """The plants with truth, the plants to test with, and what is incomplete, of one part.

    Raises:
        CorruptDatasetError: an HDF5 file that cannot be read, or two for one purpose.
    """
    if form != "h5":
        training, problems = _png_plants(root, part, "training")
        testing, unpaired = _png_plants(root, part, "testing")
        if training or testing or problems or unpaired or form == "png":
            return training, testing, problems + unpaired
    return _h5_plants(root, part)


def read_plant(plant: Plant) -> InstanceSample:
    """The plant as a sample; where it has no truth, no pixel is valid.

    Raises:
        DatasetNotFoundError: a file is gone.
        CorruptDatasetError: a file is damaged, of the wrong type, or contradicts its partner.
    """
    image = _read_colours(plant.image)
    if plant.labels is None:
        labels = torch.zeros(image.shape[1:], dtype=torch.int64)
        valid = torch.zeros(image.shape[1:], dtype=torch.bool)
    else:
        labels, valid = _read_ids(plant.labels)
        check_same_size(image, labels, str(plant.image), str(plant.labels))
    return InstanceSample(image=image, labels=labels, valid=valid, name=plant.name)


def readers(plant: Plant) -> dict[str, Callable[[], object]]:
    """Place of the image and, where there are any, of the labels -> what reads it alone."""
    found: dict[str, Callable[[], object]] = {str(plant.image): lambda: _read_colours(plant.image)}
    labels = plant.labels
    if labels is not None:
        found[str(labels)] = lambda: _read_ids(labels)
    return found


def read_foreground(plant: Plant) -> Tensor | None:
    """Where the supplied foreground is not 0, bool [H, W]; None without one.

    Raises:
        DatasetNotFoundError: the file is gone.
        CorruptDatasetError: the file is damaged or not a mask.
    """
    source = plant.foreground
    if source is None:
        return None
    if source.key:
        with opened_h5(source.path) as file:
            array = read_h5(h5_dataset(file, source.key, source.path), str(source))
    else:
        # Read as colour too: some tools store black and white that way.
        array = read_label_array(source.path, encoding="rgb24")
    if array.ndim != 2:
        raise CorruptDatasetError(
            f"{source}: foreground of shape {list(array.shape)}, expected rows and columns"
        )
    return torch.from_numpy(np.ascontiguousarray(array != 0))


def _read_colours(source: Source) -> Tensor:
    """float32 [3, H, W] in [0, 1], transparency dropped."""
    if not source.key:
        image = read_image(source.path, channels=3)
        if image.ndim != 3:
            raise CorruptDatasetError(f"{source}: {image.shape[1]} frames where one is expected")
        return image
    with opened_h5(source.path) as file:
        array = read_h5(h5_dataset(file, source.key, source.path), str(source))
    if array.ndim != 3 or array.shape[-1] not in COLOURS:
        raise CorruptDatasetError(
            f"{source}: image of shape {list(array.shape)}, expected rows, columns, and 3 or 4 "
            "colours"
        )
    unit = scale_to_unit(array[..., :3], str(source))
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(unit, -1, 0)))


def _read_ids(source: Source) -> tuple[Tensor, Tensor]:
    if source.key:
        with opened_h5(source.path) as file:
            array = read_h5(h5_dataset(file, source.key, source.path), str(source))
        labels, valid = from_array(array, str(source))
    else:
        labels, valid = read_labels(source.path)
    if labels.ndim != 2:
        raise CorruptDatasetError(
            f"{source}: labels of shape {list(labels.shape)}, expected rows and columns"
        )
    return labels, valid


def _png_plants(
    root: Path, part: str, purpose: Literal["training", "testing"]
) -> tuple[list[Plant], list[Problem]]:
    layout = Layout(
        patterns={
            "image": f"{part}/plant{{id}}_rgb.png",
            "labels": f"{part}/plant{{id}}_label.png",
        },
        roots=PNG_ROOTS[purpose],
        optional=frozenset({"labels"} if purpose == "testing" else ()),
    )
    for start in layout.roots:
        records, problems = layout.survey(root / start, "", root)
        if records or problems:
            break
    plants = []
    for record in records:
        image, labels = record.files["image"], record.files.get("labels")
        foreground = image.with_name(f"plant{record.name}_fg.png")
        fault = link_fault(foreground, root)
        if fault is not None:
            problems.append(Problem(where=str(foreground), what=fault))
            continue
        plants.append(
            Plant(
                part=part,
                id=f"plant{record.name}",
                image=Source(path=image),
                labels=None if labels is None else Source(path=labels),
                foreground=Source(path=foreground) if os.path.lexists(foreground) else None,
            )
        )
    return plants, problems


def _h5_plants(root: Path, part: str) -> tuple[list[Plant], list[Plant], list[Problem]]:
    images, truth, testing = (
        _h5_file(root, word) for word in ("training_images", "training_truth", "testing_images")
    )
    problems: list[Problem] = []
    members = {} if images is None else _members(images, part, problems)
    truths = {} if truth is None else _members(truth, part, problems)
    for have, others, path, lacking in (
        (members, truths, images, "labels in *training_truth*.h5"),
        (truths, members, truth, "image in *training_images*.h5"),
    ):
        if have is None or others is None or path is None:
            continue
        for plant in have:
            if plant not in others:
                where = str(Source(path=path, key=f"{part}/{plant}"))
                problems.append(Problem(where=where, what=f"no {lacking} for it; replace the file"))
    labelled = {plant for plant, arrays in (truths or {}).items() if arrays is not None}
    training = [
        _h5_plant(images, truth, part, plant, arrays)
        for plant, arrays in (members or {}).items()
        if images is not None and arrays is not None and plant in labelled
    ]
    tested = {} if testing is None else _members(testing, part, problems)
    unknown = [
        _h5_plant(testing, None, part, plant, arrays)
        for plant, arrays in (tested or {}).items()
        if testing is not None and arrays is not None
    ]
    return training, unknown, problems


def _h5_plant(images: Path, truth: Path | None, part: str, plant: str, arrays: list[str]) -> Plant:
    key = f"{part}/{plant}"
    return Plant(
        part=part,
        id=plant,
        image=Source(path=images, key=f"{key}/rgb"),
        labels=None if truth is None else Source(path=truth, key=f"{key}/label"),
        foreground=Source(path=images, key=f"{key}/fg") if "fg" in arrays else None,
    )


def _members(path: Path, part: str, problems: list[Problem]) -> dict[str, list[str] | None] | None:
    """Plant -> names of its arrays, None for a plant that cannot be read; empty without the part.

    Args:
        path: HDF5 file.
        part: A1 to A5.
        problems: gets one per plant that is no group, or a link to another file.

    Returns:
        None if the file cannot be read.
    """
    found: dict[str, list[str] | None] = {}
    try:
        with opened_h5(path) as file:
            if part not in h5_members(file, "/", path):
                return {}
            for plant in h5_members(file, part, path):
                found[plant] = None
                try:
                    found[plant] = h5_members(file, f"{part}/{plant}", path)
                except CorruptDatasetError as error:
                    problems.append(as_problem(error, path))
    except RlsegError as error:
        problems.append(as_problem(error, path))
        return None
    return found


def _h5_file(root: Path, word: str) -> Path | None:
    """The HDF5 file in the root whose name holds the word.

    Raises:
        CorruptDatasetError: two, or a link out of the root.
    """
    found = sorted(
        path
        for path in root.iterdir()
        if path.suffix.lower() in H5_SUFFIXES and word in path.stem.lower()
    )
    if len(found) > 1:
        raise CorruptDatasetError(
            f"{found[0]} and {found[1]} both look like the {word.replace('_', ' ')}; keep one"
        )
    return inside(found[0], root) if found else None
