"""Data sets by name: `open_dataset("cells", None).split("train")[0].image`."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rlseg.errors import ConfigError

if TYPE_CHECKING:
    from rlseg.data.base import Advance, DatasetModule, Problem, Splits

__all__ = ["DATASETS", "check_dataset", "dataset_module", "open_dataset"]

DATASETS: dict[str, str] = {
    "camvid": "rlseg.data.camvid",
    "cells": "rlseg.data.synthetic.cells",
    "cityscapes": "rlseg.data.cityscapes",
    "coco": "rlseg.data.coco_dataset",
    "cremi": "rlseg.data.cremi",
    "cvppp": "rlseg.data.cvppp",
    "em3d": "rlseg.data.em3d",
    "folder": "rlseg.data.folder",
    "gtav": "rlseg.data.gtav",
    "kitti": "rlseg.data.kitti",
    "monuseg": "rlseg.data.monuseg",
    "places": "rlseg.data.places",
    "leaves": "rlseg.data.synthetic.leaves",
    "streets": "rlseg.data.synthetic.streets",
    "volumes": "rlseg.data.synthetic.volumes",
}
"""Data set name -> module with `Options`, `open_splits`, `check` and `DATASET`."""


def dataset_module(name: str) -> DatasetModule:
    """The module of a data set, imported now.

    Args:
        name: a key of `DATASETS`, or an import path with a dot in it or importable as it is.

    Raises:
        ConfigError: unknown name (the nearest ones are named), or a module that offers no data set.
    """
    path = DATASETS.get(name, name)
    try:
        module = importlib.import_module(path)
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        if isinstance(error, ModuleNotFoundError) and not _is_parent(error.name, path):
            raise ConfigError(
                f"data set module {path!r} needs {error.name!r}, which is missing"
            ) from error
        near = get_close_matches(name, DATASETS, n=2, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(
            f"unknown data set {name!r}{hint} Known: {', '.join(DATASETS)}, or an import path"
        ) from error
    missing = [n for n in ("Options", "open_splits", "check", "DATASET") if not hasattr(module, n)]
    if missing:
        raise ConfigError(
            f"module {path!r} is no data set: it lacks {', '.join(missing)}; "
            f"known data sets: {', '.join(DATASETS)}"
        )
    return cast("DatasetModule", module)


def open_dataset(
    name: str, root: Path | None, options: Mapping[str, object] | None = None
) -> Splits:
    """The splits of a data set, opened and verified.

    Args:
        name: a key of `DATASETS` or an import path.
        root: folder of the files; None for generated data.
        options: fields of the data set's `Options`; what is absent keeps its default.

    Raises:
        ConfigError: unknown name or option, an option out of range, or a root for generated data.
        DatasetNotFoundError: nothing at `root`; the message says what was looked for.
        CorruptDatasetError: files that contradict each other or the layout.
    """
    from rlseg.config import build

    module = _module_for(name, root)
    return module.open_splits(root, build(module.Options, options or {}, f"data set {name}"))


def check_dataset(
    name: str,
    root: Path | None,
    options: Mapping[str, object] | None = None,
    advance: Advance | None = None,
) -> list[Problem]:
    """Every problem of a data set, after one pass over all files; empty when all is well.

    What is the same in many samples of one file is told once, with their number.

    Args:
        name: as in `open_dataset`.
        root: as in `open_dataset`.
        options: as in `open_dataset`.
        advance: told after each sample.

    Raises:
        ConfigError: unknown name or option, an option out of range, a root for generated data, or
            none for other data.
    """
    from rlseg.config import build
    from rlseg.data.base import existing_root

    module = _module_for(name, root)
    if root is None and module.needs_root:
        existing_root(None, name, module.DATASET.how_to_get)
    found = module.check(root, build(module.Options, options or {}, f"data set {name}"), advance)
    return [
        problem if times == 1 else replace(problem, what=f"{problem.what} ({times} times)")
        for problem, times in Counter(found).items()
    ]


def _module_for(name: str, root: Path | None) -> DatasetModule:
    module = dataset_module(name)
    if root is not None and not module.needs_root:
        raise ConfigError(f"data set {name!r} is generated and reads nothing; leave out {root}")
    return module


def _is_parent(missing: str | None, path: str) -> bool:
    return missing is not None and (path == missing or path.startswith(f"{missing}."))
