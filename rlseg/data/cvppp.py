"""CVPPP leaf segmentation: plants seen from above, with a number per leaf.

Two forms are read: folders A1 to A4 of PNG files, and the three HDF5 files of the 2017 challenge.
The challenge keeps the truth of its test images to itself, and published no validation images. The
labelled plants of A1 are divided by one of three lists:

* 103/25, as in ACIS, whose authors drew it and published no list: this one is our own;
* 100/28, as in ColorRL's code: the first 100 plants by name train, the last 28 validate;
* 128/0: all train, for the challenge's test.

The other folders have no published division; theirs is drawn with a seed, in the same proportion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from rlseg.data.base import (
    Advance,
    OnError,
    Problem,
    Splits,
    as_problem,
    check_fractions,
    contents,
    digest_of,
    existing_root,
    faults_of,
    image_notes,
    instance_notes,
    listed,
    raise_first,
    stop_at,
    warn,
)
from rlseg.data.cvppp_files import (
    PNG_ROOTS,
    Plant,
    find_plants,
    read_foreground,
    read_plant,
    readers,
)
from rlseg.data.idlists import committed_ids, divide
from rlseg.data.memory import InMemory
from rlseg.data.samples import InstanceSample
from rlseg.errors import ConfigError, DatasetNotFoundError, RlsegError

__all__ = ["DATASET", "Cvppp", "Options", "Plant", "check", "open_splits"]

FIRST_TRAINING = 100  # plants of A1, by name, that ColorRL's code trains on
SHARES = {"103/25": (103.0, 25.0), "100/28": (100.0, 28.0), "128/0": (128.0, 0.0)}

needs_root = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the plants."""

    parts: tuple[str, ...] = ("A1",)
    """Which of the folders A1 to A4 to read; A5, of test images of all kinds, has no truth."""
    form: Literal["auto", "png", "h5"] = "auto"
    """Which form to read; "auto" takes the PNG files where both are there."""
    division: Literal["103/25", "100/28", "128/0"] = "103/25"
    """How the labelled plants of A1 are divided into train and valid; other folders, and plants
    that are not those of A1, are divided in this proportion with `seed`."""
    fractions: tuple[float, float, float] | None = None
    """Shares of train, valid and test of the labelled plants, drawn with `seed`, in place of
    `division`. A share for test makes a test split that can be scored; the challenge's own test
    images, which cannot, are then left out."""
    seed: int = 0
    """Seed of what is drawn."""

    def __post_init__(self) -> None:
        known = [f"A{number}" for number in range(1, 6)]
        if not self.parts or len(set(self.parts)) < len(self.parts) or set(self.parts) - {*known}:
            raise ConfigError(
                f"parts must be one or more different names of {', '.join(known)}, "
                f"got {listed(self.parts) or 'none'}"
            )
        if self.fractions is not None:
            check_fractions(self.fractions)


class Cvppp:
    """Colour images with leaves; nothing is known of an image without truth."""

    layout: ClassVar[str] = (
        "A1/plant<n>_rgb.png with A1/plant<n>_label.png and perhaps A1/plant<n>_fg.png (and A2, "
        f"A3, A4), in the root or {PNG_ROOTS['training'][1]}/; images to test with likewise below "
        f"{PNG_ROOTS['testing'][0]}/, without labels; or the files CVPPP2017_training_images.h5, "
        "CVPPP2017_training_truth.h5 and CVPPP2017_testing_images.h5 in the root"
    )
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test")
    classes: ClassVar[tuple[str, ...]] = ()
    citation: ClassVar[str] = (
        "Minervini, Fischbach, Scharr, Tsaftaris, Finely-grained annotated datasets for image-based"
        " plant phenotyping, Pattern Recognition Letters 2016; Scharr and others, Leaf segmentation"
        " in plant phenotyping: a collation study, Machine Vision and Applications 2016"
    )
    how_to_get: ClassVar[str] = (
        "Ask at plant-phenotyping.org/datasets-download (a form with name and institution) for the "
        "leaf segmentation challenge of CVPPP 2017, and unpack it into one folder."
    )
    terms: ClassVar[str] = "Academic research only, with citation; copies must not be passed on."

    def __init__(self, plants: Sequence[Plant]) -> None:
        self.plants = tuple(plants)

    def __len__(self) -> int:
        """Number of plants."""
        return len(self.plants)

    def __getitem__(self, index: int) -> InstanceSample:
        """Plant `index`; transparency of its image is dropped."""
        return read_plant(self.plants[index])

    def foreground(self, index: int) -> Tensor | None:
        """The supplied foreground of plant `index`, bool [H, W]; None without such a file.

        The challenge gives it for its test images too, and ACIS uses it there.
        """
        return read_foreground(self.plants[index])


DATASET = Cvppp
"""The class that declares the data set."""


def open_splits(root: Path | None, options: Options) -> Splits:
    """The splits of the chosen folders; what differs from the published set is logged as a warning.

    Raises:
        DatasetNotFoundError: no plants; says what was looked for and found.
        CorruptDatasetError: an image without labels or the reverse.
    """
    root = existing_root(root, "cvppp", Cvppp.how_to_get)
    found, problems, notes = _survey(root, options, stop_at)
    raise_first(problems)
    warn(notes)
    return Splits(
        dataset="cvppp",
        task="instance",
        ndim=2,
        channels=3,
        parts={split: InMemory(Cvppp(plants)) for split, plants in found.items()},
        digest=digest_of(
            "cvppp",
            asdict(options),
            {
                split: [(plant.name, plant.sizes()) for plant in plants]
                for split, plants in found.items()
            },
        ),
    )


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Every problem of every plant: missing partners, unreadable or contradicting files.

    Notes: plants of the published set that are not there, and foregrounds that differ from the
    labelled pixels (labels are what is learnt and scored).
    """
    faults: list[Problem] = []
    try:
        root = existing_root(root, "cvppp", Cvppp.how_to_get)
    except RlsegError as error:
        return [as_problem(error, str(root))]
    found, problems, notes = _survey(
        root, options, lambda error: faults.append(as_problem(error, str(root)))
    )
    problems = [*faults, *problems, *notes]
    for split, plants in found.items():
        for index, plant in enumerate(plants):
            problems += _plant_problems(plant)
            if advance is not None:
                advance(split, index + 1, len(plants))
    return problems


def _plant_problems(plant: Plant) -> list[Problem]:
    problems: list[Problem] = []
    sample: InstanceSample | None = None
    foreground: Tensor | None = None
    try:
        sample = read_plant(plant)
        if plant.labels is not None:
            problems += instance_notes(sample, str(plant.labels))
            problems += image_notes(plant.image.path)
    except RlsegError as error:
        problems += faults_of(error, readers(plant).values(), plant.name)
    try:
        foreground = read_foreground(plant)
    except RlsegError as error:
        problems.append(as_problem(error))
    if sample is None or foreground is None:
        return problems
    where = str(plant.foreground)
    sides = list(sample.image.shape[1:])
    if list(foreground.shape) != sides:
        what = f"size {list(foreground.shape)} differs from {plant.image}, size {sides}"
        problems.append(Problem(where=where, what=f"{what}; replace the file"))
    elif plant.labels is not None:
        differing = int((foreground != (sample.labels > 0)).sum())
        if differing:
            what = f"differs from the labelled pixels of {plant.labels} at {differing} places"
            problems.append(Problem(where=where, what=what, note=True))
    return problems


def _survey(
    root: Path, options: Options, on_error: OnError
) -> tuple[dict[str, list[Plant]], list[Problem], list[Problem]]:
    """Split -> plants; what is incomplete; what differs from the published set.

    Args:
        root: of the data set.
        options: its settings.
        on_error: told of each chosen folder that has no plant or cannot be read.
    """
    splits: dict[str, list[Plant]] = {name: [] for name in Cvppp.splits}
    problems: list[Problem] = []
    notes: list[Problem] = []
    for part in options.parts:
        try:
            training, testing, incomplete = _plants(root, part, options)
        except RlsegError as error:
            on_error(error)
            continue
        problems += incomplete
        sets, differences = _divided(part, training, options)
        notes += [Problem(where=str(root), what=what, note=True) for what in differences]
        for split, ids in zip(Cvppp.splits, sets, strict=True):
            splits[split] += [plant for plant in training if plant.id in ids]
        if options.fractions is None or not options.fractions[2]:
            splits["test"] += testing
    return {split: plants for split, plants in splits.items() if plants}, problems, notes


def _plants(
    root: Path, part: str, options: Options
) -> tuple[list[Plant], list[Plant], list[Problem]]:
    """As `find_plants`.

    Raises:
        DatasetNotFoundError: no plant in the folder.
    """
    found = find_plants(root, part, options.form)
    if not any(found):
        raise DatasetNotFoundError(
            f"no plants of {part} at {root}: looked for {part}/plant<n>_rgb.png in "
            f"{listed(root / start for starts in PNG_ROOTS.values() for start in starts)} and "
            f"for CVPPP2017_training_images.h5; found {contents(root)}. {Cvppp.how_to_get}"
        )
    return found


def _divided(
    part: str, plants: Sequence[Plant], options: Options
) -> tuple[list[set[str]], list[str]]:
    """Ids of train, valid and test among the labelled plants, and what there is to say."""
    ids = sorted(plant.id for plant in plants)
    if options.fractions is not None:
        return divide(ids, options.fractions, "cvppp", options.seed), []
    drawn = [*divide(ids, SHARES[options.division], "cvppp", options.seed), set()]
    if part != "A1" or not ids:
        return drawn, []
    published = sorted(committed_ids("cvppp", "train") + committed_ids("cvppp", "valid"))
    last = {
        "103/25": set(committed_ids("cvppp", "valid")),
        "100/28": set(published[FIRST_TRAINING:]),
        "128/0": set(),
    }[options.division] & {*ids}
    strange = sorted({*ids} - {*published})
    one_sided = last == {*ids} or (not last and options.division != "128/0")
    if strange or one_sided:
        how = f"{listed(strange)} besides" if strange else f"only {listed(ids)}"
        return drawn, [
            f"not the published plants of A1 ({how}): train and valid are drawn with seed "
            f"{options.seed}, in the proportion {options.division}"
        ]
    differences = []
    if len(ids) < len(published):
        differences.append(f"{len(ids)} of the {len(published)} published plants of A1")
    return [{*ids} - last, last, set()], differences
