"""MoNuSeg 2018: stained tissue of several organs with outlined nuclei, whole or in patches.

Tiles are TIFF files of 1000 x 1000 pixels with outlines in Aperio's XML; `aperio` says how these
become labels. The tiles of the training archive are divided into train and valid by a list of our
own (nobody published one); the test archive is the test split.

ColorRL's MNSeg-160 and MNSeg-224 are patches of tiles at half size: 600 to train and 100 to test.
Places of the patches, and whether patches of one tile may be in both, were not published; here they
are drawn with a seed, by default from different tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rlseg.data.aperio import Filled, Outlines, fill, read_outlines
from rlseg.data.base import (
    Advance,
    InstanceDataset,
    Problem,
    Splits,
    as_problem,
    contents,
    digest_of,
    existing_root,
    image_notes,
    listed,
    raise_first,
    warn,
)
from rlseg.data.idlists import committed_ids, divide
from rlseg.data.images import read_image
from rlseg.data.labels import compact
from rlseg.data.layout import Layout, Record
from rlseg.data.memory import InMemory
from rlseg.data.samples import InstanceSample
from rlseg.data.seeds import named_generator
from rlseg.data.whole import Scaled
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError, RlsegError

__all__ = ["DATASET", "MoNuSeg", "Options", "Patches", "check", "open_splits"]

TRAINING, TESTING = "MoNuSeg 2018 Training Data", "MoNuSegTestData"
TEST_TILES = 14  # in the test archive
RECIPES = {"MNSeg-160": 160, "MNSeg-224": 224}
"""Name of a recipe -> side of its patches."""
PATCH_SCALE = 0.5  # 1000 x 1000 becomes 500 x 500 before patches are cut (ColorRL, supplement)
EXTENSIONS = ("tif", "tiff")

needs_root = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the tiles and their patches."""

    recipe: Literal["whole", "MNSeg-160", "MNSeg-224"] = "whole"
    """Whole tiles, or square patches of that side, cut from tiles at half size."""
    division: Literal["tile", "pooled"] = "tile"
    """Where patches come from. "tile": each split has tiles of its own. "pooled": patches of all
    splits come from all tiles of the training archive and may overlap, as the published numbers may
    have been made; a score on such test patches is too high."""
    patches: tuple[int, int, int] = (500, 100, 100)
    """Patches to train, validate and test with; the paper's 600 for training include those to
    validate with."""
    seed: int = 0
    """Seed of the places of the patches."""

    def __post_init__(self) -> None:
        if self.recipe == "whole" and self.division == "pooled":
            raise ConfigError(
                "division 'pooled' is for patches; set recipe to one of "
                f"{', '.join(RECIPES)}, or leave division out"
            )
        if self.patches[0] < 1 or min(self.patches) < 0:
            raise ConfigError(
                f"patches must be numbers of train, valid and test patches, from 0 on and at least "
                f"1 to train, got {list(self.patches)}"
            )


class MoNuSeg:
    """Colour tiles with nuclei, numbered 1..N in the order of the file; later ones lie on top."""

    layout: ClassVar[str] = (
        f"{TRAINING}/Tissue Images/<id>.tif with {TRAINING}/Annotations/<id>.xml, and "
        f"{TESTING}/<id>.tif with {TESTING}/<id>.xml"
    )
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test")
    classes: ClassVar[tuple[str, ...]] = ()
    citation: ClassVar[str] = (
        "Kumar, Verma, Sharma, Bhargava, Vahadane, Sethi, IEEE Transactions on Medical Imaging "
        "2017; Kumar and others, A Multi-Organ Nucleus Segmentation Challenge, the same, 2020"
    )
    how_to_get: ClassVar[str] = (
        "monuseg.grand-challenge.org/Data: unpack MoNuSeg 2018 Training Data.zip and "
        "MoNuSegTestData.zip into one folder."
    )
    terms: ClassVar[str] = "CC BY-NC-SA 4.0: not for commercial use; the slides come from TCGA."
    training: ClassVar[Layout] = Layout(
        patterns={
            "image": f"{TRAINING}/Tissue Images/{{id}}.{{ext}}",
            "labels": f"{TRAINING}/Annotations/{{id}}.xml",
        },
        extensions=EXTENSIONS,
    )
    testing: ClassVar[Layout] = Layout(
        patterns={"image": f"{TESTING}/{{id}}.{{ext}}", "labels": f"{TESTING}/{{id}}.xml"},
        extensions=EXTENSIONS,
        optional=frozenset({"labels"}),
    )

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = tuple(records)

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.records)

    def __getitem__(self, index: int) -> InstanceSample:
        """Tile `index`; nothing is known of a tile without outlines."""
        record = self.records[index]
        image = self._picture(index)
        if "labels" in record.files:
            labels = compact(self.filled(index, image).labels)
            valid = torch.ones_like(labels, dtype=torch.bool)
        else:
            labels = torch.zeros(image.shape[1:], dtype=torch.int64)
            valid = torch.zeros(image.shape[1:], dtype=torch.bool)
        return InstanceSample(image=image, labels=labels, valid=valid, name=record.name)

    def outlines(self, index: int) -> Outlines:
        """The nuclei of tile `index` as polygons.

        Raises:
            ConfigError: a tile without outlines.
            CorruptDatasetError: as `read_outlines`.
        """
        record = self.records[index]
        if "labels" not in record.files:
            raise ConfigError(f"{record.files['image']}: no XML file for it; use another split")
        return read_outlines(record.files["labels"])

    def filled(self, index: int, image: Tensor) -> Filled:
        """The nuclei of tile `index` as labels of the size of its image [C, H, W]."""
        return fill(self.outlines(index), *image.shape[1:])

    def _picture(self, index: int) -> Tensor:
        path = self.records[index].files["image"]
        image = read_image(path, channels=3)
        if image.ndim != 3:
            raise CorruptDatasetError(f"{path}: {image.shape[1]} frames where one is expected")
        return image


DATASET = MoNuSeg
"""The class that declares the data set."""


class Patches:
    """Windows of samples: patch k is cut from sample k mod N at a place drawn for it.

    The place hangs on the seed, the name of the sample and k alone.

    Args:
        dataset: map-style, 2-D; N >= 1 samples.
        count: number of patches.
        side: of the square windows, in pixels.
        seed: any integer.
        first: number of the first patch: other numbers give other patches.
    """

    def __init__(
        self, dataset: InstanceDataset, *, count: int, side: int, seed: int, first: int = 0
    ) -> None:
        self.dataset, self.count, self.side = dataset, count, side
        self.seed, self.first = seed, first

    def __len__(self) -> int:
        """Number of patches."""
        return self.count

    def __getitem__(self, index: int) -> InstanceSample:
        """Patch `index`, ids renumbered 1..N."""
        if not 0 <= index < self.count:
            raise IndexError(f"patch {index} of {self.count}")
        number = self.first + index
        sample = self.dataset[number % len(self.dataset)]
        height, width = sample.labels.shape
        if min(height, width) < self.side:
            raise CorruptDatasetError(
                f"{sample.name}: {height}x{width} pixels at the scale of the patches, less than "
                f"their side of {self.side}; leave the image out"
            )
        generator = named_generator(self.seed, "patch", sample.name, number)
        top = int(torch.randint(height - self.side + 1, (1,), generator=generator))
        left = int(torch.randint(width - self.side + 1, (1,), generator=generator))
        window = slice(top, top + self.side), slice(left, left + self.side)
        return replace(
            sample,
            image=sample.image[(..., *window)].clone(),
            labels=compact(sample.labels[window]),
            valid=sample.valid[window].clone(),
            name=f"{sample.name}_p{number:04d}",
        )


def open_splits(root: Path | None, options: Options) -> Splits:
    """The splits found below `root`; fewer tiles than published are logged as a warning.

    Raises:
        DatasetNotFoundError: no tiles; says what was looked for and found.
        CorruptDatasetError: a tile without XML or the reverse.
    """
    root = existing_root(root, "monuseg", MoNuSeg.how_to_get)
    found, problems, notes = _survey(root)
    raise_first(problems)
    warn(notes)
    return Splits(
        dataset="monuseg",
        task="instance",
        ndim=2,
        channels=3,
        parts=_parts(found, options),
        digest=digest_of(
            "monuseg",
            asdict(options),
            {
                split: [(r.name, [p.stat().st_size for p in r.files.values()]) for r in records]
                for split, records in found.items()
            },
        ),
    )


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Every problem of every tile, whatever the recipe.

    Notes: tiles that are not there, and regions that are left out, hidden or empty.
    """
    try:
        root = existing_root(root, "monuseg", MoNuSeg.how_to_get)
        found, problems, notes = _survey(root)
    except RlsegError as error:
        return [as_problem(error, str(root))]
    problems += notes
    side = RECIPES.get(options.recipe, 1)
    for split, records in found.items():
        tiles = MoNuSeg(records)
        for index in range(len(tiles)):
            problems += _tile_problems(tiles, index, side)
            if advance is not None:
                advance(split, index + 1, len(tiles))
    return problems


def _tile_problems(tiles: MoNuSeg, index: int, side: int) -> list[Problem]:
    """What is wrong with a tile and its outlines; notes on outlines that give no instance."""
    record = tiles.records[index]
    problems: list[Problem] = []
    image: Tensor | None = None
    try:
        image = tiles._picture(index)
        least = min(round(length * PATCH_SCALE) for length in image.shape[1:])
        if least < side:
            raise CorruptDatasetError(
                f"{record.files['image']}: {image.shape[1]}x{image.shape[2]} pixels, half of which "
                f"is less than a patch of {side}; leave the tile out"
            )
    except RlsegError as error:
        problems.append(as_problem(error))
    if "labels" not in record.files:
        return problems
    try:
        outlines = tiles.outlines(index)
        filled = None if image is None else fill(outlines, *image.shape[1:])
    except RlsegError as error:
        return [*problems, as_problem(error)]
    if image is not None:
        problems += image_notes(record.files["image"])
    counts = {"regions with fewer than 3 vertices, skipped": outlines.short}
    if filled is not None:
        counts["regions wholly outside the image, skipped"] = filled.outside
        counts["regions without a pixel centre, skipped"] = filled.empty
        counts["regions wholly covered by later ones"] = filled.hidden
    where = str(record.files["labels"])
    if not outlines.vertices and not outlines.short:
        what = "no region; all of the tile is background"
        problems.append(Problem(where=where, what=what, note=True))
    problems += [
        Problem(where=where, what=f"{text}: {count}", note=True)
        for text, count in counts.items()
        if count
    ]
    return problems


def _survey(root: Path) -> tuple[dict[str, list[Record]], list[Problem], list[Problem]]:
    """Split -> complete tiles; files without partners; what the published set has besides.

    Raises:
        DatasetNotFoundError: neither folder has a tile.
    """
    training, problems = MoNuSeg.training.survey(root, "")
    testing, unpaired = MoNuSeg.testing.survey(root, "")
    if not training and not testing and not problems and not unpaired:
        raise DatasetNotFoundError(
            f"no tiles of MoNuSeg at {root}: looked for {TRAINING}/Tissue Images/*.tif and "
            f"{TESTING}/*.tif; found {contents(root)}. {MoNuSeg.how_to_get}"
        )
    divided, notes = _divided(training, root)
    if testing:
        divided["test"] = testing
    published = {"train": len(committed_ids("monuseg", "train")) + _valid_count()}
    published["test"] = TEST_TILES
    for split, count, folder in (
        ("train", len(training), TRAINING),
        ("test", len(testing), TESTING),
    ):
        if count < published[split]:
            what = f"{count} of the {published[split]} published tiles"
            notes.append(Problem(where=str(root / folder), what=what, note=True))
    return divided, problems + unpaired, notes


def _valid_count() -> int:
    return len(committed_ids("monuseg", "valid"))


def _divided(records: list[Record], root: Path) -> tuple[dict[str, list[Record]], list[Problem]]:
    """Train and valid by the committed list, or by seed 0 where none of its tiles is there."""
    names = {record.name for record in records}
    valid = names & set(committed_ids("monuseg", "valid"))
    notes: list[Problem] = []
    if names and (not valid or valid == names):
        shares = (len(committed_ids("monuseg", "train")), _valid_count())
        _, valid = divide(sorted(names), shares, "monuseg", seed=0)
        what = (
            "the committed validation list does not divide these tiles; "
            f"{listed(sorted(valid)) or 'none'} drawn with seed 0 to validate with"
        )
        notes.append(Problem(where=str(root / TRAINING), what=what, note=True))
    parts = {
        "train": [record for record in records if record.name not in valid],
        "valid": [record for record in records if record.name in valid],
    }
    return {split: found for split, found in parts.items() if found}, notes


def _parts(found: Mapping[str, list[Record]], options: Options) -> dict[str, InstanceDataset]:
    if options.recipe == "whole":
        return {split: InMemory(MoNuSeg(records)) for split, records in found.items()}
    side = RECIPES[options.recipe]
    counts = dict(zip(MoNuSeg.splits, options.patches, strict=True))
    if options.division == "tile":
        half = {split: _half(records) for split, records in found.items()}
        return {
            split: InMemory(Patches(tiles, count=counts[split], side=side, seed=options.seed))
            for split, tiles in half.items()
            if counts[split]
        }
    pool = _half([*found.get("train", []), *found.get("valid", [])])
    parts: dict[str, InstanceDataset] = {}
    first = 0
    for split, count in counts.items():
        if count and len(pool):
            patches = Patches(pool, count=count, side=side, seed=options.seed, first=first)
            parts[split] = InMemory(patches)
        first += count
    return parts


def _half(records: Sequence[Record]) -> InstanceDataset:
    """Tiles at half size by the nearest pixel, as ColorRL's loader resizes."""
    return InMemory(Scaled(MoNuSeg(records), PATCH_SCALE))
