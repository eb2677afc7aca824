"""Crops of volumes at places drawn with a seed, each with enough labelled voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from rlseg.data.memory import PackedSample
from rlseg.data.samples import InstanceSample
from rlseg.data.seeds import named_generator
from rlseg.data.slabs import Piece
from rlseg.data.volume_files import Sides, box, labelled_share, read_packed
from rlseg.errors import ConfigError, CorruptDatasetError

__all__ = ["MAX_DRAWS", "Crops", "Slices", "check_draws"]

MAX_DRAWS = 200
"""Places tried for one crop before the volume counts as hardly labelled."""


def check_draws(name: str, counts: tuple[int, int, int], min_labelled: float) -> None:
    """Nothing, if options say how many crops to draw, and how much of one must be labelled.

    Args:
        name: of the option with the numbers.
        counts: crops to train, validate and test with.
        min_labelled: share of a crop.

    Raises:
        ConfigError: none to train with, a negative number, or no share.
    """
    if counts[0] < 1 or min(counts) < 0:
        raise ConfigError(
            f"{name} must be numbers of train, valid and test {name}, from 0 on and at least 1 to "
            f"train, got {list(counts)}"
        )
    if not 0 <= min_labelled <= 1:
        raise ConfigError(f"min_labelled is a share in 0..1, got {min_labelled}")


class Slices:
    """The slices of volumes one by one, as pictures, in the order of the pieces.

    Args:
        pieces: what belongs to a split.
        ignore: id of pixels without a truth.
    """

    def __init__(self, pieces: Sequence[Piece], ignore: int | None) -> None:
        self.slices = [(piece, number) for piece in pieces for number in _numbers(piece)]
        self.ignore = ignore

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.slices)

    def __getitem__(self, index: int) -> InstanceSample:
        """Slice `index`; pixels with the ignore id are not valid."""
        return self.packed(index).whole()

    def packed(self, index: int) -> PackedSample[InstanceSample]:
        """Slice `index` in the types of its file."""
        if not 0 <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        piece, number = self.slices[index]
        window = box((number, 0, 0), (1, *piece.shape[1:]))
        sample = read_packed(piece.volume, window, ignore=self.ignore)
        return flat(replace(sample, name=f"{piece.volume.name}_{number:04d}"))


class Crops:
    """Windows of volumes at random places, read one by one.

    The place of crop k hangs on seed, key and k alone, and on the shapes of the volumes. Every
    place is equally likely, in whichever volume it lies. It is drawn again, up to `MAX_DRAWS`
    times, while less than `min_labelled` of the window belongs to instances. Crops may overlap.

    Args:
        pieces: what the crops are cut from.
        count: number of crops.
        sides: slices, rows, columns of a crop.
        seed: of the places.
        key: part of the seed: data set and split.
        min_labelled: share of a crop, 0 to 1.
        ignore: id of voxels without a truth.
        size: crops are brought to these sides by the nearest voxel; None = they keep theirs.
        picture: crops of one slice become 2-D samples.

    Raises:
        ConfigError: no piece, or one that is smaller than a crop.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        *,
        count: int,
        sides: Sides,
        seed: int,
        key: str,
        min_labelled: float,
        ignore: int | None,
        size: Sides | None = None,
        picture: bool = False,
    ) -> None:
        for piece in pieces:
            if any(side > have for side, have in zip(sides, piece.sides, strict=True)):
                raise ConfigError(
                    f"{piece.volume.labels}: {key} has {list(piece.sides)} voxels of it, less than "
                    f"a crop of {list(sides)}: lower the crop, give this split more slices, or "
                    "no crops"
                )
        self.pieces, self.count, self.sides = tuple(pieces), count, sides
        self.seed, self.key, self.min_labelled = seed, key, min_labelled
        self.ignore, self.size, self.picture = ignore, size, picture

    def __len__(self) -> int:
        """Number of crops."""
        return self.count

    def __getitem__(self, index: int) -> InstanceSample:
        """Crop `index`, ids renumbered 1..N; an instance in several pieces stays one.

        Raises:
            CorruptDatasetError: an unreadable volume, or no place with enough labels was found.
        """
        return self.packed(index).whole()

    def packed(self, index: int) -> PackedSample[InstanceSample]:
        """Crop `index` in the types of its file.

        Raises:
            CorruptDatasetError: as the crop itself.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"crop {index} of {self.count}")
        piece, start = self.place(index)
        sample = read_packed(
            piece.volume, box(start, self.sides), ignore=self.ignore, size=self.size
        )
        sample = replace(sample, name=f"{piece.volume.name}_c{index:04d}")
        return flat(sample) if self.picture else sample

    def place(self, index: int) -> tuple[Piece, Sides]:
        """The piece that crop `index` is cut from, and its first slice, row and column there."""
        generator = named_generator(self.seed, self.key, "crop", index)
        free = [
            [have - side + 1 for side, have in zip(self.sides, piece.sides, strict=True)]
            for piece in self.pieces
        ]
        weights = torch.tensor(free, dtype=torch.float64).prod(dim=1)
        for _ in range(MAX_DRAWS):
            number = int(torch.multinomial(weights, 1, generator=generator))
            piece = self.pieces[number]
            z, y, x = (int(torch.randint(n, (), generator=generator)) for n in free[number])
            start = (piece.start + z, y, x)
            if not self.min_labelled:
                return piece, start
            share = labelled_share(piece.volume, box(start, self.sides), self.ignore)
            if share >= self.min_labelled:
                return piece, start
        raise CorruptDatasetError(
            f"{self.pieces[0].volume.labels}: none of {MAX_DRAWS} places for crop {index} of "
            f"{list(self.sides)} is labelled to {self.min_labelled:.0%}; lower min_labelled or the "
            "crop, or leave hardly labelled volumes out"
        )


def flat(sample: PackedSample[InstanceSample]) -> PackedSample[InstanceSample]:
    """The picture in a volume of one slice."""
    valid = None if sample.valid is None else sample.valid[0]
    return replace(sample, image=sample.image[:, 0], labels=sample.labels[0], valid=valid)


def _numbers(piece: Piece) -> range:
    return range(piece.start, piece.stop)
