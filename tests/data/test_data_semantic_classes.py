import numpy as np
import pytest
import torch

from rlseg.data.semantic_classes import (
    CAMVID_CLASSES,
    CAMVID_TABLE,
    CITYSCAPES_CLASSES,
    CITYSCAPES_TABLE,
    CITYSCAPES_THINGS,
    GTAV_CAMVID_TABLE,
    class_table,
    to_classes,
)
from rlseg.errors import CorruptDatasetError

# The maps as the RALIS code gives them, written down a second time: ids left out do not count.
CITYSCAPES = {7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole",
              19: "traffic light", 20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky",
              24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train",
              32: "motorcycle", 33: "bicycle"}  # fmt: skip
CAMVID = {7: "road", 8: "pavement", 11: "building", 13: "fence", 17: "pole", 19: "sign symbol",
          20: "sign symbol", 21: "tree", 23: "sky", 24: "pedestrian", 26: "car", 27: "car",
          28: "car", 32: "car", 33: "bicyclist"}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "names", "expected"),
    [
        (CITYSCAPES_TABLE, CITYSCAPES_CLASSES, CITYSCAPES),
        (GTAV_CAMVID_TABLE, CAMVID_CLASSES, CAMVID),
    ],
)
def test_every_id_of_cityscapes(table, names, expected):
    for label_id in range(256):
        if label_id in expected:
            assert names[table[label_id]] == expected[label_id]
        else:
            assert table[label_id] == (255 if label_id < 35 or label_id == 255 else -1)
    assert [CITYSCAPES[i] for i in CITYSCAPES_THINGS] == list(CITYSCAPES_CLASSES[11:])


def test_camvid_ids_are_its_classes():
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = to_classes(ids, CAMVID_TABLE, "x")
    assert found.dtype == torch.int64
    assert found.flatten().tolist() == [*range(11), 255]


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "<i4", ">u4", "i8", "u8"])
def test_any_whole_numbers(dtype):
    ids = np.array([[0, 3], [11, 10]], dtype=dtype)
    assert to_classes(ids, CAMVID_TABLE, "x").tolist() == [[0, 3], [255, 10]]
    assert to_classes(np.array([[True, False]]), CAMVID_TABLE, "x").tolist() == [[1, 0]]
    assert to_classes(np.zeros((0, 4), dtype), CAMVID_TABLE, "x").shape == (0, 4)


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "O"])
def test_fault_l2_other_than_whole_numbers(dtype):
    with pytest.raises(CorruptDatasetError, match=r"x\.png: labels have type"):
        to_classes(np.zeros((2, 2), dtype), CAMVID_TABLE, "x.png")


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("u1", 12), ("u1", 255), ("i2", -1), ("u2", 256), ("i8", -(2**62)), ("u8", 2**64 - 1)],
)
def test_fault_l10_an_unknown_id_is_named_with_count_and_place(dtype, value):
    ids = np.full((4, 5), 3, dtype)
    ids[2, 1] = ids[3, 0] = ids[3, 4] = value
    with pytest.raises(CorruptDatasetError) as caught:
        to_classes(ids, CAMVID_TABLE, "a.png")
    message = str(caught.value)
    assert f"a.png: id {value} at (2, 1) " in message
    assert "(3 pixels of unknown ids)" in message
    assert "known are 0 to 11" in message


def test_known_ids_are_shown_as_ranges():
    table = class_table({1: 0, 7: 1}, void=(2, 3))
    with pytest.raises(CorruptDatasetError, match="known are 1 to 3, 7:"):
        to_classes(np.zeros((1, 1), np.uint8), table, "x")
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 3
