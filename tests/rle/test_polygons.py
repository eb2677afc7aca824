"""Polygons against the COCO tools, by hand, and under attack."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from test_rle import check_runs, in_child

from rlseg import rle
from rlseg.errors import CorruptDatasetError
from rlseg.rle import polygons

KINDS = {
    "around the image": lambda rng, points, size: rng.uniform(-0.5, 1.5, (points, 2)) * size,
    "integers": lambda rng, points, size: np.round(rng.uniform(-0.3, 1.3, (points, 2)) * size),
    "halves": lambda rng, points, size: np.round(rng.uniform(-1, 2, (points, 2)) * size * 2) / 2,
    "fine steps": lambda rng, points, size: np.round(rng.uniform(0, 1, (points, 2)) * size * 5) / 5,
    "between fine steps": lambda rng, points, size: (
        np.round(rng.uniform(-0.2, 1, (points, 2)) * size * 5) / 5 + 0.1
    ),
    "tiny": lambda rng, points, size: rng.uniform(0, 1, 2) * size + rng.uniform(0, 2, (points, 2)),
    "far outside": lambda rng, points, size: rng.uniform(-5, 5, (points, 2)) * size,
    "beside the image": lambda rng, points, size: rng.uniform(1.1, 3, (points, 2)) * size,
    "left of the image": lambda rng, points, size: rng.uniform(-3, -0.1, (points, 2)) * size,
    "thin": lambda rng, points, size: (
        rng.uniform(0, 1, (points, 1)) * size + rng.uniform(-0.4, 0.4, (points, 2))
    ),
    "repeated points": lambda rng, points, size: np.repeat(
        np.round(rng.uniform(-0.2, 1.2, (points, 2)) * size), 2, axis=0
    ),
    "star": lambda rng, points, size: np.stack(
        [
            size[0] * (0.5 + 0.6 * np.cos(4 * np.pi * np.arange(points) / points + rng.uniform())),
            size[1] * (0.5 + 0.6 * np.sin(4 * np.pi * np.arange(points) / points + rng.uniform())),
        ],
        axis=1,
    ),
}


def theirs(entry, height, width):
    """Counts of the COCO tools; for one polygon of more than four numbers only."""
    return coco_mask.merge(coco_mask.frPyObjects(entry, height, width))["counts"].decode()


def make(rng, kind, parts, height, width):
    size = np.array([width, height])
    return [
        KINDS[kind](rng, int(rng.integers(3, 12)), size).reshape(-1).tolist() for _ in range(parts)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_as_the_coco_tools(kind):
    rng = np.random.default_rng(sum(map(ord, kind)))
    entries, sizes, expected = [], [], []
    for _ in range(500):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        entries.append(make(rng, kind, int(rng.integers(1, 4)), height, width))
        sizes.append([height, width])
        expected.append(theirs(entries[-1], height, width))
    assert polygons.rasterize(entries, np.array(sizes)).strings() == expected
    runs, faults = rle.parse(entries, sizes=np.array(sizes))
    assert not faults
    assert runs.strings() == expected


def test_large_images_as_the_coco_tools():
    rng = np.random.default_rng(1)
    for kind in KINDS:
        for _ in range(8):
            height, width = (int(side) for side in rng.integers(500, 5000, 2))
            entry = make(rng, kind, 1, height, width)
            runs = polygons.rasterize([entry], np.array([[height, width]]))
            assert runs.strings() == [theirs(entry, height, width)]


def test_coordinates_up_to_the_limit_as_the_coco_tools():
    rng = np.random.default_rng(2)
    for _ in range(10):
        entry = [rng.uniform(-1e6, 1e6, 6).tolist()]
        runs = polygons.rasterize([entry], np.array([[300, 400]]))
        assert runs.strings() == [theirs(entry, 300, 400)]


def test_rectangle_by_hand():
    runs = polygons.rasterize([[[1, 1, 4, 1, 4, 3, 1, 3]]], np.array([[5, 6]]))
    expected = np.zeros((5, 6), dtype=bool)
    expected[1:3, 1:4] = True
    np.testing.assert_array_equal(runs.decode()[0], expected)


def test_parts_are_united():
    parts = [[0, 0, 3, 0, 3, 3, 0, 3], [2, 2, 5, 2, 5, 5, 2, 5], [0, 0, 3, 0, 3, 3, 0, 3]]
    runs = polygons.rasterize([parts, parts[:1], parts[1:2]], np.array([[6, 6]] * 3))
    masks = runs.decode()
    np.testing.assert_array_equal(masks[0], masks[1] | masks[2])
    assert runs.areas().tolist() == [17, 9, 9]


def test_in_pieces(monkeypatch):
    rng = np.random.default_rng(3)
    entries = [make(rng, "around the image", k % 3 + 1, 30, 40) for k in range(60)]
    sizes = np.array([[30, 40]] * 60)
    whole = polygons.rasterize(entries, sizes).strings()
    monkeypatch.setattr(polygons, "_CHUNK", 7)
    assert polygons.rasterize(entries, sizes).strings() == whole
    alone = [
        polygons.rasterize([entry], sizes[k : k + 1]).strings() for k, entry in enumerate(entries)
    ]
    assert alone == [[string] for string in whole]


@pytest.mark.parametrize("size", [[0, 0], [0, 5], [5, 0]])
def test_no_pixels(size):
    runs, faults = rle.parse([[[0, 0, 4, 0, 4, 4]]], sizes=np.array([size]))
    assert not faults
    assert runs.counts.tolist() == [0]
    assert runs.sizes.tolist() == [size]


def test_no_polygons():
    runs = polygons.rasterize([], np.zeros((0, 2), dtype=np.int64))
    assert len(runs) == 0


TRIANGLE = [0, 0, 4, 0, 4, 4]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ([[0, 0, 4, 0, math.nan, 4]], "got NaN at 4 of polygon 0"),
        ([[0, 0, 4, 0, math.inf, 4]], "got Infinity at 4 of polygon 0"),
        ([TRIANGLE, [0, 0, 4, 0, 4, -math.inf]], "got -Infinity at 5 of polygon 1"),
        ([[0, 0, 4, 0, 1000000.5, 4]], "within 1000000, got 1000000.5 at 4"),
        ([[0, 0, -1000001, 0, 4, 4]], "got -1000001 at 2"),
        ([[0, 0, 10**400, 0, 4, 4]], "an integer of more than 20 digits at 2"),
        ([[0, 0, 10**5000, 0, 4, 4]], "an integer of more than 20 digits at 2"),
        ([[0, 0, 4, 0, "4", 4]], "expected a number, got '4' at 4"),
        ([[0, 0, 4, 0, True, 4]], "expected a number, got true at 4"),
        ([[0, 0, 4, 0, None, 4]], "expected a number, got nothing at 4"),
        ([[0, 0, 4, 0, [4], 4]], "expected a number, got a list of 1 at 4"),
        ([[0, 0, 4, 0, 4]], "expected pairs x, y, got 5 numbers in polygon 0"),
        ([[0, 0, 4, 0]], "at least 3 points, got 2 in polygon 0"),
        ([TRIANGLE, []], "at least 3 points, got 0 in polygon 1"),
        ([], "expected at least one polygon, got an empty list"),
        (TRIANGLE, "expected a list of numbers, got 0 as polygon 0"),
        ([TRIANGLE, "abcdef"], "expected a list of numbers, got 'abcdef' as polygon 1"),
        ([{}], "expected a list of numbers, got an object of 0 keys as polygon 0"),
        ([[0.0] * (2**21 + 2)], "at most 1048576 points, got 1048577 in polygon 0"),
    ],
)
def test_fault_r7_polygons_that_are_none(entry, words):
    sizes = np.array([[6, 6]] * 3)
    runs, faults = rle.parse([[TRIANGLE], entry, [TRIANGLE]], sizes=sizes)
    assert [(fault.index, fault.field) for fault in faults] == [(1, "segmentation")]
    assert words in faults[0].what
    area = polygons.rasterize([[TRIANGLE]], sizes[:1]).areas()[0]
    assert area > 0
    assert runs.areas().tolist() == [area, 0, area]
    assert runs.sizes.tolist() == [[6, 6], [0, 0], [6, 6]]
    with pytest.raises(CorruptDatasetError, match="entry 0: expected"):
        polygons.rasterize([entry], sizes[:1])


def test_fault_r7_partly_and_wholly_outside():
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    for dx, dy, area in ((-15, 0, 50), (-15, -15, 25), (-30, 0, 0), (0, 100, 0), (1e5, 1e5, 0)):
        moved = [[x + (dx, dy)[k % 2] for k, x in enumerate(square[0])]]
        runs, faults = rle.parse([moved], sizes=np.array([[30, 30]]))
        assert not faults
        assert runs.areas().tolist() == [area]


def test_fault_r7_work_is_bounded():
    code = """
        zigzag = [float(x) for k in range(2**20) for x in ((-1e6, 1e6)[k % 2], k / 100)]
        begin = time.perf_counter()
        runs, faults = rle.parse([[zigzag]], sizes=np.array([[2000, 9000]]))
        assert time.perf_counter() - begin < 10
        print([f.what[:87] for f in faults])
        legal = [float(x) for k in range(400) for x in ((-1e6, 1e6)[k % 2], k)]
        runs, faults = rle.parse([[legal]] * 2, sizes=np.array([[2000, 9000]] * 2))
        print(len(faults), runs.areas().min() > 0)
    """
    words = "expected outlines that cross pixel columns at most 4194304 times (one mask), got"
    out = in_child(code, megabytes=1500, seconds=60).splitlines()
    assert words in out[0]
    assert out[1] == "0 True"


def test_fault_r7_the_work_of_all_polygons_together_is_bounded():
    code = """
        flat = [[0, 0, 1000000, 0, 1000000, 1, 0, 1]]
        begin = time.perf_counter()
        runs, faults = rle.parse([flat] * 150, sizes=np.array([[2, 1000000]] * 150))
        assert time.perf_counter() - begin < 15
        print([f.index for f in faults] == list(range(4, 150)), runs.areas().tolist()[:5])
        print(faults[0].what)
    """
    first, second = in_child(code, megabytes=800, seconds=60).splitlines()
    assert first == f"True {[1000000] * 4 + [0]}"
    assert "8465408 times (all masks together), got more, 2000000 of them here" in second


def test_fault_r7_limits_can_be_raised_and_lowered():
    sizes = np.array([[6, 6]] * 3)
    entries = [[TRIANGLE], [TRIANGLE, TRIANGLE], [TRIANGLE]]
    whole, faults = rle.parse(entries, sizes=sizes)
    assert not faults
    cost = 2 * sum(1 for _ in range(5))  # an upper and a lower edge over at most 5 columns
    low = rle.Limits(max_crossings=1)
    runs, faults = rle.parse(entries * 200, sizes=np.tile(sizes, (200, 1)), limits=low)
    assert [f.index for f in faults] == list(range(600))  # one mask may have a part of them only
    assert not runs.areas().any()
    enough = rle.Limits(max_crossings=4 * 2 * cost)
    same, faults = rle.parse(entries, sizes=sizes, limits=enough)
    assert (faults, same.strings()) == ([], whole.strings())
    far = [[0, 0, 2e6, 0, 2e6, 4, 0, 4]]
    assert "within 1000000" in rle.parse([far], sizes=sizes[:1])[1][0].what
    beyond = rle.Limits(max_coordinate=1e7)
    assert rle.parse([far], sizes=sizes[:1], limits=beyond)[0].areas().tolist() == [24]
    few = rle.Limits(max_points=2)
    assert "at most 2 points" in rle.parse([[TRIANGLE]], sizes=sizes[:1], limits=few)[1][0].what


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.lists(
            st.floats(-30, 60) | st.integers(-30, 60) | st.sampled_from([-0.1, 2.5, 0.4999999, 7]),
            min_size=6,
            max_size=20,
        ).map(lambda numbers: numbers[: len(numbers) // 2 * 2]),
        min_size=1,
        max_size=3,
    )
)
def test_fuzzed_numbers_as_the_coco_tools(entry):
    runs = polygons.rasterize([entry], np.array([[21, 34]]))
    check_runs(runs)
    assert runs.strings() == [theirs(entry, 21, 34)]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.lists(st.floats() | st.integers() | st.text(max_size=2) | st.none(), max_size=9)
        | st.integers(),
        max_size=3,
    )
)
def test_fuzzed_entries(entry):
    runs, faults = rle.parse([entry, [TRIANGLE]], sizes=np.array([[21, 34]] * 2))
    check_runs(runs)
    assert [fault.index for fault in faults] in ([], [0])
    assert runs.areas()[1] > 0
