"""Grey levels as files hold them and from 0 to 1."""

import numpy as np
import pytest
import torch

from rlseg.data.levels import narrowest, scale_to_unit, stored_levels, to_unit
from rlseg.errors import CorruptDatasetError


@pytest.mark.parametrize(
    ("kind", "stored", "scale"),
    [("u1", "u1", 255), ("i1", "u1", 255), ("u2", "u2", 65535), (">u2", "u2", 65535),
     ("i4", "u2", 65535), ("u8", "u2", 65535), ("?", "f4", 0), ("f8", "f4", 0)],
)  # fmt: skip
def test_types_of_files(kind, stored, scale):
    array = np.array([[0, 1], [1, 0]]).astype(kind)
    levels, found = stored_levels(array, "x")
    assert (levels.dtype, found) == (np.dtype(stored), scale)
    expected = np.float32([[0, 1], [1, 0]]) / np.float32(scale or 1)
    assert np.array_equal(scale_to_unit(array, "x"), expected)
    unit = to_unit(torch.from_numpy(levels), scale)
    assert torch.equal(unit, torch.from_numpy(expected))
    assert unit.data_ptr() != levels.ctypes.data


@pytest.mark.parametrize(
    "array",
    [np.array([1.5]), np.array([np.nan]), np.array([-1], "i1"), np.array([65536]), np.array([1j])],
)
def test_other_types_and_values(array):
    with pytest.raises(CorruptDatasetError, match=r"^a\.tif: image (values|of type)"):
        stored_levels(array, "a.tif")


@pytest.mark.parametrize(
    ("scale", "dtype"), [(255, torch.uint8), (65535, torch.uint16), (0, torch.float32)]
)
def test_the_narrowest_type_gives_the_same_numbers(scale, dtype):
    image = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(1))
    image = (image * scale).round() / scale if scale else image
    levels, found = narrowest(image)
    assert (levels.dtype, found) == (dtype, scale)
    assert torch.equal(to_unit(levels, found), image)
    assert levels.data_ptr() != image.data_ptr()
