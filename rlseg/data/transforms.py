"""Joint random changes of image and labels, drawn from a generator; crops and resizing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rlseg.data import warps
from rlseg.data.labels import compact
from rlseg.data.samples import InstanceSample
from rlseg.data.warps import uniform
from rlseg.errors import ConfigError, ShapeError

PROBABILITIES = (
    "flip_horizontal",
    "flip_vertical",
    "flip_depth",
    "rotate_90",
    "transpose",
    "warp",
    "shift_scale_rotate",
    "brightness",
    "contrast",
    "noise",
    "blur",
)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of training samples; everything is off by default.

    In the order of application: flips, quarter turns, transpose; shift-scale-rotate and one warp
    (image, labels and valid sampled once, together with the crop); brightness, contrast, noise,
    blur of the image, which is clamped to [0, 1] in the end. Warps and shift-scale-rotate are for
    two space axes.
    """

    flip_horizontal: float = 0.0
    """Probability of mirroring left and right."""
    flip_vertical: float = 0.0
    """Probability of mirroring top and bottom."""
    flip_depth: float = 0.0
    """Probability of reversing the slices of a volume."""
    rotate_90: float = 0.0
    """Probability of a turn by 0, 90, 180 or 270 degrees; in volumes one in each of the three
    planes. Where sides differ and no smaller crop follows, only by 0 or 180 degrees."""
    transpose: float = 0.0
    """Probability of exchanging rows and columns, where that keeps the size."""
    warp: float = 0.0
    """Probability of one of `warps`, chosen evenly."""
    warps: tuple[Literal["elastic", "grid", "optical"], ...] = ("elastic", "grid", "optical")
    """Kinds of warp to choose from."""
    elastic_alpha: float = 1.0
    """Largest displacement before smoothing, in pixels."""
    elastic_sigma: float = 5.0
    """Smoothing of the displacements, in pixels."""
    elastic_affine: float = 5.0
    """Displacement of the three points of the affine part of the elastic warp, in pixels."""
    grid_limit: float = 0.3
    """Grid distortion: cell widths vary by this share."""
    optical_limit: float = 0.2
    """Optical distortion: strength from -limit to limit."""
    shift_scale_rotate: float = 0.0
    """Probability of moving, scaling and turning."""
    shift: float = 0.3
    """Largest shift as a share of the side."""
    scale: tuple[float, float] = (0.8, 1.2)
    """Smallest and largest scale."""
    rotate: float = 180.0
    """Largest turn to either side, in degrees."""
    brightness: float = 0.0
    """Probability of adding a number to the image."""
    brightness_limit: float = 0.1
    """Largest number added or taken away, for images in [0, 1]."""
    contrast: float = 0.0
    """Probability of multiplying the image by a number."""
    contrast_limit: float = 0.1
    """The factor is from 1 - limit to 1 + limit."""
    noise: float = 0.0
    """Probability of Gaussian noise."""
    noise_deviation: tuple[float, float] = (0.0124, 0.0277)
    """Smallest and largest deviation of the noise, for images in [0, 1]; the default is variance 10
    to 50 at 8 bits, the customary setting of the library the authors used."""
    blur: float = 0.0
    """Probability of a box blur."""
    blur_size: int = 3
    """Side of the box, odd; the authors' limit of 4 leaves only 3."""
    interpolation: Literal["nearest", "linear"] = "nearest"
    """How warped and scaled images are sampled; labels are always nearest. The authors' code:
    nearest."""
    border: Literal["background", "unknown"] = "background"
    """What is pulled in from outside the image: black background that counts (the authors' code),
    or pixels that are not valid."""

    def __post_init__(self) -> None:
        for name in PROBABILITIES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is a probability in 0..1, got {getattr(self, name)}")
        for item in fields(self):
            if item.name.endswith("_limit") and not 0.0 <= getattr(self, item.name) < 1.0:
                raise ConfigError(f"{item.name} must be in [0, 1), got {getattr(self, item.name)}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"scale needs 0 < smallest <= largest, got {list(self.scale)}")
        if not 0 <= self.noise_deviation[0] <= self.noise_deviation[1]:
            raise ConfigError(
                f"noise_deviation needs 0 <= low <= high, got {list(self.noise_deviation)}"
            )
        if self.blur_size < 1 or self.blur_size % 2 == 0:
            raise ConfigError(f"blur_size must be odd and positive, got {self.blur_size}")
        if self.warp > 0 and not self.warps:
            raise ConfigError("warp is above 0 but warps names no kind; give at least one")
        for name in ("elastic_alpha", "elastic_affine", "shift", "rotate"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.elastic_sigma <= 0:
            raise ConfigError(f"elastic_sigma must be positive, got {self.elastic_sigma}")


GRAY_2D = Augmentation(
    flip_horizontal=0.5,
    flip_vertical=0.5,
    rotate_90=0.5,
    transpose=0.5,
    warp=0.6,
    shift_scale_rotate=0.5,
    brightness=0.7,
    contrast=0.5,
    noise=0.5,
    blur=0.3,
)
"""What the ColorRL authors' code does to grey microscopy images (CREMI)."""

CUBES_3D = Augmentation(flip_horizontal=0.5, flip_vertical=0.5, flip_depth=0.5, rotate_90=1.0)
"""What the ColorRL authors' code does to volumes: flips and quarter turns, nothing else."""


class TrainingTransform:
    """Augmentation and random crop, in the form that `EpochStream` takes."""

    def __init__(self, augmentation: Augmentation, crop: tuple[int, ...] | None = None) -> None:
        self.augmentation = augmentation
        self.crop = crop

    def __call__(self, sample: InstanceSample, generator: torch.Generator) -> InstanceSample:
        """The changed sample."""
        return augment(sample, self.augmentation, generator, crop=self.crop)


def augment(
    sample: InstanceSample,
    config: Augmentation,
    generator: torch.Generator,
    *,
    crop: tuple[int, ...] | None = None,
) -> InstanceSample:
    """The sample after random changes and a random crop.

    Args:
        sample: image [C, *S], labels and valid [*S], two or three axes in S.
        config: what is changed, and how often.
        generator: of all numbers.
        crop: sides of the result, at most those of the sample; None keeps the sides.

    Returns:
        A new sample with float32 image in [0, 1] and ids 1..N of the instances still there.
        Instances cut into several pieces stay one instance.

    Raises:
        ShapeError: the crop has another number of axes or is larger than the sample.
    """
    sides = tuple(sample.labels.shape)
    crop = _checked_crop(sample, crop)
    free = crop is not None and max(crop) <= min(sides)
    sample = _flip_and_turn(sample, config, generator, free=free)
    sides = tuple(sample.labels.shape)
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
        image = sample.image[(slice(None), *window)]
        labels, valid = sample.labels[window], sample.valid[window]
    else:
        image, labels, valid = _sample(sample, coordinates, config)
    return replace(
        sample,
        image=_change_intensity(image, config, generator).contiguous(),
        labels=compact(labels).contiguous(),
        valid=valid.contiguous(),
    )


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
) -> InstanceSample:
    """The sample mirrored and turned; axes count from the end, so that they fit all three maps."""
    maps = [sample.image, sample.labels, sample.valid]
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
        maps = [m.flip(mirrored) for m in maps]
    if _happens(config.rotate_90, generator):
        for plane in itertools.combinations(range(-space, 0), 2):
            turns = int(torch.randint(4, (), generator=generator))
            if not free and maps[1].shape[plane[0]] != maps[1].shape[plane[1]]:
                turns -= turns % 2
            maps = [torch.rot90(m, turns, plane) for m in maps]
    if _happens(config.transpose, generator) and (free or maps[1].shape[-1] == maps[1].shape[-2]):
        maps = [m.transpose(-1, -2) for m in maps]
    return replace(sample, image=maps[0], labels=maps[1], valid=maps[2])


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
    """Float32 [C, *S] in [0, 1]."""
    if _happens(config.brightness, generator):
        image = image + uniform(generator, -config.brightness_limit, config.brightness_limit)
    if _happens(config.contrast, generator):
        image = image * uniform(generator, 1 - config.contrast_limit, 1 + config.contrast_limit)
    if _happens(config.noise, generator):
        deviation = uniform(generator, *config.noise_deviation)
        image = image + deviation * torch.randn(image.shape, generator=generator)
    if _happens(config.blur, generator):
        image = warps.box_blur(image, config.blur_size)
    return image.clamp(0, 1)
