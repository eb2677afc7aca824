"""rlseg: segmentation with reinforcement learning.

Importing this package loads no torch; the public names below are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlseg.config import build as build
    from rlseg.config import dump as dump
    from rlseg.data import open_dataset as open_dataset
    from rlseg.predict import open_run as open_run
    from rlseg.predict import predict_files as predict_files
    from rlseg.prediction import Prediction as Prediction
    from rlseg.prediction import Predictor as Predictor
    from rlseg.recipes import load_recipe as load_recipe
    from rlseg.report import write_report as write_report

__version__ = "0.1.0"

_LAZY = {
    "Prediction": "rlseg.prediction",
    "Predictor": "rlseg.prediction",
    "build": "rlseg.config",
    "dump": "rlseg.config",
    "load_recipe": "rlseg.recipes",
    "open_dataset": "rlseg.data",
    "open_run": "rlseg.predict",
    "predict_files": "rlseg.predict",
    "write_report": "rlseg.report",
}

__all__ = [
    "Prediction",
    "Predictor",
    "__version__",
    "build",
    "dump",
    "load_recipe",
    "open_dataset",
    "open_run",
    "predict_files",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """A public name, imported now."""
    if name not in _LAZY:
        raise AttributeError(f"module 'rlseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """Public names, the ones not imported yet included."""
    return sorted({*globals(), *_LAZY})
