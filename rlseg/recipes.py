"""Recipes: TOML files that reproduce one published number each."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from rlseg.config import build, nearest
from rlseg.errors import ConfigError
from rlseg.files import load_toml


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A TOML file that reproduces one number: what differs from the defaults, and what is known."""

    name: str
    """File name without `.toml`; not a key of the file."""
    method: str
    """Name or import path of the method."""
    dataset: str
    """Name or import path of the data set."""
    preset: str | None = None
    """Preset of the method's config that `config` changes further."""
    config: Mapping[str, object] = field(default_factory=dict)
    """Settings of the method, nested."""
    data: Mapping[str, object] = field(default_factory=dict)
    """Settings of the data set."""
    split: str = "test"
    """Split that `rlseg bench run` scores."""
    minutes: float | None = None
    """Training stops after this many minutes unless `--minutes` says otherwise."""
    precision: Literal["fp32", "bf16"] | None = None
    """Precision unless `--precision` says otherwise."""
    title: str = ""
    """One line for tables and reports."""
    source: str = ""
    """Where the number was published: paper, table, row."""
    note: str = ""
    """What a reader should know: departures, size, width."""
    hours: float | None = None
    """Expected duration of one seed."""
    hardware: str = ""
    """Machine that the hours refer to."""
    paper: Mapping[str, float] = field(default_factory=dict)
    """Score name -> published value."""
    tolerance: Mapping[str, float] = field(default_factory=dict)
    """Score name -> difference to the published value that still counts as reproduced."""

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ConfigError: a duration that is not positive.
        """
        for name in ("minutes", "hours"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} must be above 0, got {value}")


def _shipped() -> Traversable | None:
    checkout = Path(__file__).resolve().parent.parent / "benchmarks" / "recipes"
    if checkout.is_dir():
        return checkout
    try:
        return importlib.resources.files("rlseg._recipes")
    except ModuleNotFoundError:
        return None


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    folder = _shipped()
    if folder is None:
        return []
    return sorted(
        p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")
    )


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A recipe by the name of a shipped one, or from a TOML file.

    Raises:
        ConfigError: no such recipe (the nearest names are given), or a wrong key in it.
    """
    text = str(name_or_path)
    path, folder = Path(text), _shipped()
    if not (path.is_file() or text.endswith(".toml") or len(path.parts) > 1):
        known = recipe_names()
        if folder is None or text not in known:
            listing = ", ".join(known) or "none"
            raise ConfigError(
                f"unknown recipe {text!r}{nearest(text, known) or ';'} shipped: {listing}; "
                "or give the path of a .toml file"
            )
        with importlib.resources.as_file(folder / f"{text}.toml") as found:
            values = load_toml(found)
    else:
        values = load_toml(path)
    if "name" in values:
        raise ConfigError(f"{text}: name: is not a setting; the file name is the recipe's name")
    return build(Recipe, {**values, "name": path.name.removesuffix(".toml")}, f"recipe {text}")
