"""`Streets`: street scenes with rare classes and hedges of noisy truth, seeded and versioned."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from rlseg.data.base import Advance, Problem, Splits, digest_of
from rlseg.data.memory import InMemory
from rlseg.data.samples import SemanticSample
from rlseg.data.seeds import named_generator
from rlseg.data.synthetic.streets_drawing import CLASSES, RARE, Street, draw_street
from rlseg.errors import ConfigError

VERSION = "streets/1"
"""Any change of a drawn number is a new version: published scores name it."""

PARTS = {"D_S": "d_s", "D_T": "d_t", "D_R": "d_r", "D_V": "d_v", "test": "test"}
"""Split -> the option that holds its number of scenes."""
JOINED = {"train": ("D_S", "D_T", "D_V"), "valid": ("D_R",)}
"""Split for plain training -> the parts it is made of, as in CamVid."""

needs_root = False


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the generated streets."""

    height: int = 64
    """Rows of the image; shapes scale with it."""
    width: int = 96
    """Columns of the image."""
    max_hedges: int = 5
    """Most hedges per scene; at least half of them (rounded down) are drawn. 0 = none."""
    block: int = 1
    """Side of the squares for which a hedge's class is flipped, pixels."""
    d_s: int = 10
    """Scenes that stand for the state in active learning."""
    d_t: int = 60
    """Scenes that the policy is trained on."""
    d_r: int = 60
    """Scenes of the reward; also the plain `valid`."""
    d_v: int = 180
    """Scenes that the policy is evaluated on; `train` is D_S, D_T and D_V."""
    test: int = 120
    """Scenes for the final scores."""
    seed: int = 0
    """Seed of all scenes; D_S, D_T, D_R, D_V and test never share one."""

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if not 32 <= getattr(self, name) <= 1024:
                raise ConfigError(f"{name} must be in 32..1024 pixels, got {getattr(self, name)}")
        if not 0 <= self.max_hedges <= 8:
            raise ConfigError(f"max_hedges must be in 0..8, got {self.max_hedges}")
        if not 1 <= self.block <= 16:
            raise ConfigError(f"block must be in 1..16 pixels, got {self.block}")
        for name in PARTS.values():
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1 scene, got {getattr(self, name)}")


class Streets:
    """Streets in colour, ten classes of which three are rare, and hedges whose truth is a coin."""

    layout: ClassVar[str] = "generated, no files"
    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test", "D_S", "D_T", "D_R", "D_V")
    classes: ClassVar[tuple[str, ...]] = CLASSES
    rare: ClassVar[tuple[str, ...]] = tuple(CLASSES[k] for k in RARE)
    """Classes of at most 1 % of the pixels each."""
    citation: ClassVar[str] = f"rlseg generated scenes, version {VERSION}"
    how_to_get: ClassVar[str] = "Nothing to get: scenes are drawn from a seed when asked for."
    terms: ClassVar[str] = "None: nobody else's work is in the scenes."

    def __init__(self, split: str, options: Options) -> None:
        self.split = split
        self.options = options
        self._scenes = [
            (part, index)
            for part in JOINED.get(split, (split,))
            for index in range(int(getattr(options, PARTS[part])))
        ]

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self._scenes)

    def __getitem__(self, index: int) -> SemanticSample:
        """Scene `index`: image float32 [3, H, W] in steps of 1/255; classes with 255 = ignore."""
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        part, number = self._scenes[index]
        scene = self._draw(part, number)
        return SemanticSample(
            image=scene.image, classes=scene.classes, name=f"streets_{part}_{number:04d}"
        )

    def hedges(self, index: int) -> Tensor:
        """Bool [H, W]: the pixels of scene `index` whose class was flipped with a coin."""
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        return self._draw(*self._scenes[index]).hedge

    def _draw(self, part: str, number: int) -> Street:
        options = self.options
        return draw_street(
            options.height,
            options.width,
            options.max_hedges,
            options.block,
            generator=named_generator(options.seed, VERSION, part, number),
        )


DATASET = Streets


def open_splits(root: Path | None, options: Options) -> Splits:
    """The five parts, and `train` and `valid` made of them; `root` is not used."""
    return Splits(
        dataset="streets",
        task="semantic",
        ndim=2,
        channels=3,
        classes=CLASSES,
        parts={name: InMemory(Streets(name, options)) for name in Streets.splits},
        digest=digest_of(VERSION, asdict(options)),
    )


def check(root: Path | None, options: Options, advance: Advance | None = None) -> list[Problem]:
    """Nothing can be wrong with generated scenes: always empty."""
    return []
