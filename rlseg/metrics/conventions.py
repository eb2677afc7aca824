"""Which convention each score follows: one record, checked, and written into every result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from rlseg.config import nearest
from rlseg.errors import ConfigError

CHOICES: dict[str, tuple[str, ...]] = {
    "sbd": ("cvppp-2017", "cvppp-2014", "paper"),
    "count": ("present", "cvppp-2014"),
    "coverage": ("rec-attend", "colorrl"),
    "avgfp": ("count",),
    "dsb": ("stardist", "strict"),
    "pq": ("strict",),
    "ap": ("coco-labelmap",),
    "ap_score": ("auto", "area", "one", "file"),
    "arand": ("skimage", "skimage-all", "cremi"),
    "voi": ("skimage", "cremi"),
    "ari": ("all", "foreground"),
}
"""Score -> names it knows, the default first; the functions' docstrings define them."""

PLAIN_WORDS = frozenset({"present", "count", "auto", "area", "one", "file", "all", "foreground"})
"""Names that mean something only beside a score; every other one stands for a tool or a study."""


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """The convention of every score that has one."""

    sbd: str = "cvppp-2017"
    """Of `symmetric_best_dice`."""
    count: str = "present"
    """Of `count_difference` and `fgbg_dice`."""
    coverage: str = "rec-attend"
    """Of `coverage`."""
    avgfp: str = "count"
    """Of `avgfp` and `avgfn`; the other conventions of `false_instances` have keys of their own."""
    dsb: str = "stardist"
    """Of `scores_at_thresholds`."""
    pq: str = "strict"
    """Of `panoptic`: IoU above 1/2."""
    ap: str = "coco-labelmap"
    """Of `average_precision`."""
    ap_score: str = "auto"
    """Score of a prediction: "area" in pixels, "one" for all, "file" as given, or "auto": as given
    if every image has scores, else area."""
    arand: str = "skimage"
    """Of `adapted_rand`."""
    voi: str = "skimage"
    """Of `variation_of_information`."""
    ari: str = "all"
    """Of `adjusted_rand_index`."""

    def __post_init__(self) -> None:
        for score, name in asdict(self).items():
            if name not in CHOICES[score]:
                raise ConfigError(
                    f"{score} knows no convention {name!r}"
                    f"{nearest(name, CHOICES[score]) or ';'} it knows {', '.join(CHOICES[score])}"
                )

    def changed(self, text: str) -> Conventions:
        """The same with one setting changed.

        Args:
            text: "SCORE=NAME", or a family "NAME": set for every score that knows it
                (`cremi`, `cvppp-2014`).

        Raises:
            ConfigError: no such score or name.
        """
        score, equals, name = text.partition("=")
        if equals:
            if score not in CHOICES:
                raise ConfigError(
                    f"no convention for {score!r}{nearest(score, CHOICES) or ';'} scores with "
                    f"conventions: {', '.join(CHOICES)}"
                )
            return replace(self, **{score: name})
        knowing = {key: text for key, names in CHOICES.items() if text in names}
        if not knowing or text in PLAIN_WORDS:
            names = sorted({name for known in CHOICES.values() for name in known} - PLAIN_WORDS)
            raise ConfigError(
                f"no score knows a convention {text!r}{nearest(text, names) or ';'} write "
                f"SCORE=NAME or one of {', '.join(names)}"
            )
        return replace(self, **knowing)
