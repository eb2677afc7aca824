"""Fixtures shared by all tests: one thread, fake data sets in their real layout, a CPU runtime."""

from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def cpu_runtime() -> Any:
    """A runtime on one CPU thread with seed 0."""
    from rlseg.train.runtime import make_runtime

    return make_runtime(device="cpu")


@pytest.fixture
def cremi_root(tmp_path: Path) -> Path:
    """Four tiny CREMI slices per split as TIFF pairs."""
    from tests.fake.cremi import write_tif

    return write_tif(tmp_path / "cremi")


@pytest.fixture
def cremi_hdf_root(tmp_path: Path) -> Path:
    """The same slices as one HDF5 file per split."""
    from tests.fake.cremi import write_hdf

    return write_hdf(tmp_path / "cremi_hdf")


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    """Ten image and label files in two folders, with a few blobs each."""
    from tests.fake.folder import write_flat

    return write_flat(tmp_path / "folder")
