"""What may be changed in training samples, how often and how much; presets by data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from rlseg.errors import ConfigError

PROBABILITIES = (
    "flip_horizontal",
    "flip_vertical",
    "flip_depth",
    "rotate_90",
    "transpose",
    "warp",
    "shift_scale_rotate",
    "clahe",
    "brightness",
    "contrast",
    "noise",
    "blur",
)
"""The settings that say how often something happens."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of training samples; everything is off by default.

    In the order of application: flips, quarter turns, transpose; shift-scale-rotate and one warp
    (image, labels and valid sampled once, together with the crop); CLAHE, brightness, contrast,
    noise, blur of the image, which is clamped to [0, 1] in the end. Warps, shift-scale-rotate and
    CLAHE are for two space axes.
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
    clahe: float = 0.0
    """Probability of evening out the histogram of every neighbourhood."""
    clahe_clip: tuple[float, float] = (1.0, 4.0)
    """Smallest and largest clip limit (see `clahe.equalise`); the default is that of the library
    the authors used."""
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
        if not 1 <= self.clahe_clip[0] <= self.clahe_clip[1]:
            raise ConfigError(
                f"clahe_clip needs 1 <= smallest <= largest, got {list(self.clahe_clip)}"
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

RGB_2D = replace(
    GRAY_2D,
    warp=0.7,
    shift_scale_rotate=0.7,
    scale=(0.7, 1.5),
    clahe=0.3,
    brightness_limit=0.5,
    contrast_limit=0.2,
    blur=0.5,
)
"""What it does to colour images (CVPPP, MoNuSeg)."""

KITTI_2D = Augmentation(
    flip_horizontal=0.5,
    warp=0.7,
    warps=("elastic", "optical"),
    shift_scale_rotate=0.7,
    shift=0.2,
    scale=(0.6, 1.4),
    rotate=10.0,
    brightness=0.7,
    brightness_limit=0.5,
    contrast=0.5,
    contrast_limit=0.2,
    noise=0.5,
    blur=0.5,
)
"""What it does to street scenes (KITTI). The limit of the contrast is not stated; this is the
customary one, as for colour images."""

CUBES_3D = Augmentation(flip_horizontal=0.5, flip_vertical=0.5, flip_depth=0.5, rotate_90=1.0)
"""What the ColorRL authors' code does to volumes: flips and quarter turns, nothing else."""

PresetName = Literal["none", "gray_2d", "rgb_2d", "kitti_2d", "cubes_3d"]
"""A key of `PRESETS`."""

PRESETS: Mapping[PresetName, Augmentation] = {
    "none": Augmentation(),
    "gray_2d": GRAY_2D,
    "rgb_2d": RGB_2D,
    "kitti_2d": KITTI_2D,
    "cubes_3d": CUBES_3D,
}
"""Names for recipes and `--set augmentation=...`."""


def named(augmentation: Augmentation | PresetName) -> Augmentation:
    """The augmentation itself, or the preset of that name.

    Raises:
        ConfigError: no such preset.
    """
    if isinstance(augmentation, Augmentation):
        return augmentation
    if augmentation not in PRESETS:
        raise ConfigError(
            f"augmentation {augmentation!r} is no preset; known: {', '.join(PRESETS)}, or a table "
            "of settings"
        )
    return PRESETS[augmentation]
