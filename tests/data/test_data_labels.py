import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlseg.data.labels import compact, from_array, narrow_from_array, present_ids, renumbered
from rlseg.errors import CorruptDatasetError


def slowly(values):
    ids = sorted({v for v in values if v > 0})
    return [0 if v == 0 else 1 + ids.index(v) for v in values]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2, 5, 9, 300, 70_000, 5_000_000, 2**40]), min_size=1))
def test_compact_is_the_rank_of_the_id(values):
    result = compact(torch.tensor(values))
    assert result.dtype == torch.int64
    assert result.tolist() == slowly(values)


def test_compact_of_nothing():
    assert compact(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3)


def test_fault_l6_ignore_id_is_recognised_before_any_cast():
    ids = np.array([[0, 2**64 - 1], [7, 2**64 - 1]], np.uint64)
    labels, valid = from_array(ids, "x", 2**64 - 1)
    assert labels.tolist() == [[0, 0], [1, 0]]
    assert valid.tolist() == [[True, False], [True, False]]
    labels, valid = from_array(ids[:, 1:], "x", 2**64 - 1)
    assert not labels.any()
    assert not valid.any()


def test_fault_l2_ids_above_2_63_are_exact():
    ids = np.array([2**63 + 5, 2**63 + 6, 0, 2**63 + 5], np.uint64)
    assert from_array(ids, "x")[0].tolist() == [1, 2, 0, 1]
    assert from_array(ids[:2], "x")[0].tolist() == [1, 2]


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "<u2", ">u2", ">i4", "i8", "u8"])
def test_every_integer_type(dtype):
    labels, valid = from_array(np.array([[0, 1], [1, 0]]).astype(dtype), "x")
    assert labels.tolist() == [[0, 1], [1, 0]]
    assert labels.dtype == torch.int64
    assert valid.all()


@pytest.mark.parametrize("array", [np.ones(2), np.ones(2, complex), np.array([None])])
def test_fault_l2_other_types_are_errors(array):
    with pytest.raises(CorruptDatasetError, match=r"file\.tif: labels have type"):
        from_array(array, "file.tif")


def test_ignore_id_outside_the_type_ignores_nothing():
    labels, valid = from_array(np.array([0, 255], np.uint8), "x", 2**64 - 1)
    assert labels.tolist() == [0, 1]
    assert valid.all()
    assert from_array(np.array([0, 3, -1]), "x", -1)[1].tolist() == [True, True, False]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.sampled_from([1, 3, 255, 256, 70_000, 5_000_000]),
    st.integers(0, 2**31),
)
def test_renumbered_in_any_number_of_axes(sides, largest, seed):
    rng = np.random.default_rng(seed)
    array = rng.choice(rng.integers(0, largest + 1, 5), sides)
    kept = array.copy()
    found = renumbered(array)
    assert found.ravel().tolist() == slowly(array.ravel().tolist())
    assert found.dtype == np.uint8
    assert not np.shares_memory(found, array)
    assert renumbered(np.asfortranarray(array)[::-1]).tolist() == found[::-1].tolist()
    assert np.array_equal(array, kept)


def test_renumbered_beyond_a_byte():
    array = np.arange(0, 1200, 2).reshape(20, 30)
    assert renumbered(array).tolist() == (array // 2).tolist()
    assert renumbered(array).dtype == np.int32
    assert renumbered(np.arange(256)).dtype == np.uint8
    assert renumbered(np.arange(257)).dtype == np.int32
    with pytest.raises(ValueError, match="from 0 on, got -1"):
        renumbered(np.array([3, -1]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 2**31))
def test_present_ids(sides, seed):
    array = np.random.default_rng(seed).choice([0, 1, 4, 6], sides).astype(np.uint8)
    assert np.flatnonzero(present_ids(array)).tolist() == sorted(set(array.ravel().tolist()))


def test_narrow_from_array():
    labels, valid = narrow_from_array(np.array([[0, 9], [4, 9]], np.uint16), "x", 7)
    assert labels.tolist() == [[0, 2], [1, 2]]
    assert labels.dtype == torch.uint8
    assert valid is None
    labels, valid = narrow_from_array(np.array([[0, 9], [4, 9]], np.uint16), "x", 4)
    assert labels.tolist() == [[0, 1], [0, 1]]
    assert valid.tolist() == [[True, True], [False, True]]
