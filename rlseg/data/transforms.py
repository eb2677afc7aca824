"""Joint random changes of image and labels, drawn from a generator; crops and resizing.

The changes are written here and not taken from torchvision.transforms.v2, which draws from torch's
global state: numbers would hang on the order of samples and on the number of threads. One sampling
of image, labels and valid by common coordinates also does what would be three there.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rlseg.data import clahe, warps
from rlseg.data.augmentation import (
    CUBES_3D,
    GRAY_2D,
    KITTI_2D,
    PRESETS,
    PROBABILITIES,
    RGB_2D,
    Augmentation,
    PresetName,
    named,
)
from rlseg.data.labels import compact
from rlseg.data.levels import to_unit
from rlseg.data.memory import PackedSample
from rlseg.data.samples import InstanceSample
from rlseg.data.warps import uniform
from rlseg.errors import ShapeError

__all__ = [
    "CUBES_3D",
    "GRAY_2D",
    "KITTI_2D",
    "PRESETS",
    "PROBABILITIES",
    "RGB_2D",
    "Augmentation",
    "PresetName",
    "TrainingTransform",
    "augment",
    "named",
    "random_crop",
    "resize",
    "resize_nearest",
]

Array = NDArray[Any]


class TrainingTransform:
    """Augmentation, or a preset by its name, and random crop, in the form `EpochStream` takes.

    With packed samples, `EpochStream(Packed(kept), transform=...)`, flips and crops handle bytes,
    and only the crop is unpacked; the numbers are the same.
    """

    def __init__(
        self, augmentation: Augmentation | PresetName, crop: tuple[int, ...] | None = None
    ) -> None:
        self.augmentation = named(augmentation)
        self.crop = crop

    def __call__(
        self, sample: InstanceSample | PackedSample[InstanceSample], generator: torch.Generator
    ) -> InstanceSample:
        """The changed sample."""
        return augment(sample, self.augmentation, generator, crop=self.crop)


def augment(
    sample: InstanceSample | PackedSample[InstanceSample],
    config: Augmentation,
    generator: torch.Generator,
    *,
    crop: tuple[int, ...] | None = None,
) -> InstanceSample:
    """The sample after random changes and a random crop.

    Args:
        sample: image [C, *S], labels and valid [*S], two or three axes in S; packed or not.
        config: what is changed, and how often.
        generator: of all numbers.
        crop: sides of the result, at most those of the sample; None keeps the sides.

    Returns:
        A new sample with float32 image in [0, 1] and ids 1..N of the instances still there.
        Instances cut into several pieces stay one instance.

    Raises:
        ShapeError: the crop has another number of axes or is larger than the sample.
    """
    kept, scale = isinstance(sample, PackedSample), 0
    if isinstance(sample, PackedSample):
        sample, scale = _narrow(sample)
    crop = _checked_crop(sample, crop)
    free = crop is not None and max(crop) <= min(sample.labels.shape)
    maps = _flip_and_turn(sample, config, generator, free=free)
    sides = maps[1].shape
    size = sides if crop is None else crop
    start = tuple(
        int(torch.randint(side - want + 1, (), generator=generator))
        for side, want in zip(sides, size, strict=True)
    )
    coordinates = None
    if len(sides) == 2:
        coordinates = _coordinates(
            (start[0], start[1]), (size[0], size[1]), sides, config, generator
        )
    if coordinates is None:
        window = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        # Cut out first: turning, and the numbers of four and eight times the size, come after.
        places = [(slice(None), *window), window, window]
        image, labels, valid = (_tensor(m[p]) for m, p in zip(maps, places, strict=True))
    else:
        image, labels, valid = map(_tensor, maps)
    image = to_unit(image, scale) if scale else image
    if coordinates is not None:
        whole = replace(sample, image=image, labels=labels.long(), valid=valid)
        image, labels, valid = _sample(whole, coordinates, config)
    changed = _change_intensity(image, config, generator)
    if changed is not image or coordinates is not None or not scale:
        changed = changed.clamp(0, 1)  # bytes divided by 255 need it not
    return replace(
        sample,
        image=changed.contiguous(),
        labels=compact(labels),
        valid=valid.clone(memory_format=torch.contiguous_format) if kept else valid.contiguous(),
    )


def _narrow(packed: PackedSample[InstanceSample]) -> tuple[InstanceSample, int]:
    """The sample with the integers that are kept, and what its image is to be divided by."""
    if packed.image.dtype != torch.uint8:  # torch does little with 16 bits, and floats stay
        return packed.whole(), 0
    valid = packed.valid
    if valid is None:
        valid = torch.ones((), dtype=torch.bool).expand(packed.sides)
    return InstanceSample(
        image=packed.image, labels=packed.labels, valid=valid, name=packed.name
    ), packed.scale


def _tensor(view: Array) -> Tensor:
    """The numbers of a turned and mirrored view; may be its memory."""
    backward = tuple(axis for axis, stride in enumerate(view.strides) if stride < 0)
    if not backward:
        return torch.from_numpy(view)
    return torch.from_numpy(np.flip(view, backward)).flip(backward)  # faster than a copy by numpy


def random_crop(
    sample: InstanceSample, size: tuple[int, ...], generator: torch.Generator
) -> InstanceSample:
    """A window of the sample at a random place, ids renumbered; `augment` without changes."""
    return augment(sample, Augmentation(), generator, crop=size)


def resize(
    sample: InstanceSample,
    size: tuple[int, ...],
    image_mode: Literal["nearest", "linear"] = "linear",
) -> InstanceSample:
    """The sample at another size.

    Args:
        sample: any size, two or three space axes.
        size: sides of the result.
        image_mode: "nearest" picks pixels (the ColorRL authors' code), "linear" mixes them and
            averages over what is merged when the image shrinks. Labels and valid: always nearest.

    Returns:
        A new sample; instances that vanish are removed and the rest renumbered.

    Raises:
        ShapeError: another number of axes, or a side below 1.
    """
    if len(size) != sample.labels.ndim or min(size) < 1:
        raise ShapeError(
            f"cannot resize {sample.name} of {list(sample.labels.shape)} to {list(size)}: "
            "give one positive side per axis"
        )
    if image_mode == "nearest":
        image = resize_nearest(sample.image, size)
    else:
        image = _resize_linear(sample.image, size)
    return replace(
        sample,
        image=image,
        labels=compact(resize_nearest(sample.labels, size)),
        valid=resize_nearest(sample.valid, size),
    )


def resize_nearest(array: Tensor, size: tuple[int, ...]) -> Tensor:
    """The array with its last axes at other sizes: the value at the nearest pixel centre.

    Args:
        array: any dtype, [..., *S].
        size: new sides of the last axes; source index = floor((i + 1/2) old / new), in integers.
    """
    for axis, new in zip(range(-len(size), 0), size, strict=True):
        old = array.shape[axis]
        if old != new:
            index = ((2 * torch.arange(new, device=array.device) + 1) * old) // (2 * new)
            array = array.index_select(axis, index)
    return array


def _resize_linear(image: Tensor, size: tuple[int, ...]) -> Tensor:
    if len(size) == 2:
        return functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(
            0, 1
        )
    shrinks = all(new <= old for new, old in zip(size, image.shape[1:], strict=True))
    mode = "area" if shrinks else "trilinear"
    return functional.interpolate(image[None], size, mode=mode)[0].clamp(0, 1)


def _checked_crop(sample: InstanceSample, crop: tuple[int, ...] | None) -> tuple[int, ...] | None:
    sides = tuple(sample.labels.shape)
    if crop is not None and (
        len(crop) != len(sides)
        or min(crop) < 1
        or any(c > s for c, s in zip(crop, sides, strict=True))
    ):
        raise ShapeError(
            f"cannot crop {list(crop)} out of {sample.name}, which is {list(sides)}: "
            "lower the crop or resize the images"
        )
    return crop


def _happens(probability: float, generator: torch.Generator) -> bool:
    """One draw, made even if the outcome is certain: settings do not shift later numbers."""
    return float(torch.rand((), generator=generator)) < probability


def _flip_and_turn(
    sample: InstanceSample, config: Augmentation, generator: torch.Generator, *, free: bool
) -> list[Array]:
    """Views of image, labels and valid, mirrored and turned; axes count from the end, for all."""
    maps: list[Array] = [m.numpy() for m in (sample.image, sample.labels, sample.valid)]
    space = sample.labels.ndim
    mirrored = [
        axis
        for axis, probability in (
            (-1, config.flip_horizontal),
            (-2, config.flip_vertical),
            (-3, config.flip_depth if space == 3 else 0.0),
        )
        if _happens(probability, generator)
    ]
    if mirrored:
        maps = [np.flip(m, tuple(mirrored)) for m in maps]
    if _happens(config.rotate_90, generator):
        for plane in itertools.combinations(range(-space, 0), 2):
            turns = int(torch.randint(4, (), generator=generator))
            if not free and maps[1].shape[plane[0]] != maps[1].shape[plane[1]]:
                turns -= turns % 2
            maps = [np.rot90(m, turns, plane) for m in maps]
    if _happens(config.transpose, generator) and (free or maps[1].shape[-1] == maps[1].shape[-2]):
        maps = [m.swapaxes(-1, -2) for m in maps]
    return maps


def _coordinates(
    start: tuple[int, int],
    size: tuple[int, int],
    sides: tuple[int, ...],
    config: Augmentation,
    generator: torch.Generator,
) -> Tensor | None:
    """Source coordinates float [2, h, w] of the crop's pixels; None if nothing is warped."""
    move = _happens(config.shift_scale_rotate, generator)
    warp = _happens(config.warp, generator)
    if not move and not warp:
        return None
    full = (sides[0], sides[1])
    at = warps.window_coordinates(start, size)
    if warp:
        kind = config.warps[int(torch.randint(len(config.warps), (), generator=generator))]
        if kind == "elastic":
            at = warps.elastic(
                at,
                full,
                alpha=config.elastic_alpha,
                sigma=config.elastic_sigma,
                affine=config.elastic_affine,
                generator=generator,
            )
        elif kind == "grid":
            at = warps.grid_distortion(at, full, config.grid_limit, generator)
        else:
            strength = uniform(generator, -config.optical_limit, config.optical_limit)
            at = warps.optical_distortion(at, full, strength)
    if move:
        shift = (
            uniform(generator, -config.shift, config.shift),
            uniform(generator, -config.shift, config.shift),
        )
        scale = uniform(generator, *config.scale)
        degrees = uniform(generator, -config.rotate, config.rotate)
        at = warps.shift_scale_rotate(at, full, shift, scale, degrees)
    return at


def _sample(
    sample: InstanceSample, at: Tensor, config: Augmentation
) -> tuple[Tensor, Tensor, Tensor]:
    labels, inside = warps.sample_nearest(sample.labels, at)
    valid, _ = warps.sample_nearest(sample.valid, at)
    if config.interpolation == "nearest":
        image = warps.sample_nearest(sample.image, at)[0] * inside
    else:
        image = warps.sample_linear(sample.image, at)
    labels = labels * inside
    return image, labels, valid | ~inside if config.border == "background" else valid & inside


def _change_intensity(image: Tensor, config: Augmentation, generator: torch.Generator) -> Tensor:
    """float32 [C, *S], to be clamped; the image itself if nothing was changed."""
    # Nothing is drawn while this is off, so that the numbers of older settings stay as they were.
    if config.clahe and image.ndim == 3 and _happens(config.clahe, generator):
        image = clahe.equalise(image, uniform(generator, *config.clahe_clip))
    if _happens(config.brightness, generator):
        image = image + uniform(generator, -config.brightness_limit, config.brightness_limit)
    if _happens(config.contrast, generator):
        image = image * uniform(generator, 1 - config.contrast_limit, 1 + config.contrast_limit)
    if _happens(config.noise, generator):
        deviation = uniform(generator, *config.noise_deviation)
        image = image + deviation * torch.randn(image.shape, generator=generator)
    if _happens(config.blur, generator):
        image = warps.box_blur(image, config.blur_size)
    return image
