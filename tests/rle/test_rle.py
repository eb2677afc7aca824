"""Run lengths against the COCO tools, against dense masks, and under attack."""

import copy
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from rlseg import rle
from rlseg.errors import ConfigError, CorruptDatasetError, RlsegError, ShapeError
from rlseg.rle import masks as mask_rooms
from rlseg.rle import reading
from rlseg.rle import runs as run_rooms

REPOSITORY = Path(__file__).resolve().parent.parent

# Checked by hand from the description of the format.
VECTORS = [
    ([6], "6"),
    ([0, 6], "06"),
    ([1, 2, 3], "123"),
    ([5, 2, 4, 1], "524O"),
    ([0, 15, 16, 31, 32], bytes([48, 63, 96, 48, 96, 48, 96, 48]).decode()),
    ([40, 100, 7, 90, 1000], "X1T37FQo0"),
    ([300000], "PoT9"),
    ([2, 3, 1, 1, 2], "231N1"),
    ([600], "hb0"),
]


def entry(counts, height=None, width=1):
    if height is None:
        height = sum(counts)
    return {"size": [height, width], "counts": counts}


def one(counts, height, width):
    """One mask, whatever its counts are worth."""
    return rle.parse([{"size": [height, width], "counts": counts}])


def random_masks(rng, number=None, height=None, width=None):
    number = int(rng.integers(1, 6)) if number is None else number
    height = int(rng.integers(1, 40)) if height is None else height
    width = int(rng.integers(1, 40)) if width is None else width
    density = rng.choice([0, 0.02, 0.2, 0.5, 0.9, 1], size=(number, 1, 1))
    return rng.random((number, height, width)) < density


def slow_counts(mask):
    """Run lengths pixel by pixel."""
    counts, value = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def split(runs):
    return [
        runs.counts[a:b].tolist() for a, b in zip(runs.starts[:-1], runs.starts[1:], strict=True)
    ]


def in_child(code, megabytes=300, seconds=20):
    """Output of a process that may allocate only so much more than its libraries need."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc and RLIMIT_AS, which only Linux has")
    head = f"""
        import resource, sys, time
        import numpy as np
        from rlseg import rle
        from rlseg.rle import polygons
        from rlseg.errors import RlsegError
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + ({megabytes} << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=REPOSITORY,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(("counts", "string"), VECTORS)
def test_hand_made_strings(counts, string):
    runs, faults = one(counts, sum(counts), 1)
    assert not faults
    assert runs.strings() == [string]
    back, faults = one(string, sum(counts), 1)
    assert not faults
    assert back.counts.tolist() == counts
    assert one(string.encode(), sum(counts), 1)[0].counts.tolist() == counts


def test_hand_made_mask():
    runs = rle.encode(np.array([[0, 1, 1], [0, 1, 0], [1, 0, 0]]))
    assert runs.counts.tolist() == [2, 3, 1, 1, 2]
    assert runs.areas().tolist() == [4]
    assert runs.boxes().tolist() == [[0, 0, 3, 3]]
    assert runs.to_coco() == [{"size": [3, 3], "counts": "231N1"}]


def test_as_the_coco_tools():
    rng = np.random.default_rng(1)
    for _ in range(1000):
        masks = random_masks(rng)
        _, height, width = masks.shape
        runs = rle.encode(masks)
        theirs = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).view(np.uint8)))
        assert runs.strings() == [mask["counts"].decode() for mask in theirs]
        np.testing.assert_array_equal(runs.areas(), coco_mask.area(theirs))
        np.testing.assert_array_equal(runs.boxes(), coco_mask.toBbox(theirs))
        np.testing.assert_array_equal(runs.decode(), masks)
        parsed = rle.from_coco(theirs)  # bytes
        assert parsed.counts.tolist() == runs.counts.tolist()
        crowd = rng.random(len(masks)) < 0.5
        np.testing.assert_array_equal(
            rle.iou(runs, runs, crowd), coco_mask.iou(theirs, theirs, crowd.tolist())
        )
        for intersect in (False, True):
            merged = coco_mask.merge(theirs, intersect=intersect)
            assert rle.merge(runs, intersect=intersect).to_coco() == [
                {"size": [height, width], "counts": merged["counts"].decode()}
            ]


def test_long_runs_as_the_coco_tools():
    rng = np.random.default_rng(2)
    for _ in range(200):
        lengths = np.exp(rng.uniform(0, 18, int(rng.integers(1, 12)))).astype(int).tolist()
        height = sum(lengths)
        if height > rle.MAX_MASK_PIXELS:
            continue
        theirs = coco_mask.frPyObjects([{"size": [height, 1], "counts": lengths}], height, 1)
        runs, faults = one(lengths, height, 1)
        assert not faults
        assert runs.strings() == [theirs[0]["counts"].decode()]
        assert split(rle.from_coco(theirs)) == [lengths]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=9), max_size=5), st.data())
def test_strings_round_trip(lists, data):
    for counts in lists:
        if data.draw(st.booleans()):
            counts[0] = 0
    lists = [counts for counts in lists if sum(counts) <= rle.MAX_MASK_PIXELS]
    runs = rle.from_coco([entry(counts) for counts in lists])
    assert split(runs) == lists
    assert split(rle.from_coco(runs.to_coco())) == lists
    assert split(rle.from_coco(json.loads(json.dumps(runs.to_coco())))) == lists


def test_runs_of_a_slow_loop():
    rng = np.random.default_rng(3)
    for _ in range(50):
        masks = random_masks(rng)
        assert split(rle.encode(masks)) == [slow_counts(mask) for mask in masks]


@pytest.mark.parametrize(
    "change",
    [
        lambda masks: masks,
        lambda masks: masks.astype(np.uint8),
        lambda masks: masks.astype(np.int64),
        lambda masks: masks.astype(np.uint64),
        np.asfortranarray,
        lambda masks: np.ascontiguousarray(masks.transpose(2, 0, 1)).transpose(1, 2, 0),
        lambda masks: masks[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        lambda masks: np.repeat(masks, 2, axis=2)[:, :, ::2],
        torch.from_numpy,
        lambda masks: torch.from_numpy(masks).long().requires_grad_(False),
        lambda masks: masks.tolist(),
    ],
)
def test_encode_takes_any_memory(change):
    masks = random_masks(np.random.default_rng(4), 7, 11, 13)
    runs = rle.encode(change(masks))
    assert split(runs) == [slow_counts(mask) for mask in masks]
    assert runs.sizes.tolist() == [[11, 13]] * 7


def test_encode_in_pieces(monkeypatch):
    masks = random_masks(np.random.default_rng(5), 20, 9, 10)
    whole = rle.encode(masks)
    monkeypatch.setattr(mask_rooms, "_CHUNK", 30)
    assert split(rle.encode(masks)) == split(whole)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0), (3, 0, 0)])
def test_encode_of_nothing(shape):
    runs = rle.encode(np.zeros(shape, dtype=bool))
    assert len(runs) == shape[0]
    assert split(runs) == [[shape[1] * shape[2]]] * shape[0]
    assert runs.areas().tolist() == [0] * shape[0]
    assert runs.boxes().tolist() == [[0, 0, 0, 0]] * shape[0]
    assert runs.strings() == (["0"] * shape[0])
    if shape[0]:
        assert runs.decode().shape == shape


def test_labels_as_one_mask_per_id():
    rng = np.random.default_rng(6)
    for _ in range(100):
        shape = rng.integers(1, 30, 2)
        labels = rng.integers(0, int(rng.integers(1, 9)), shape)
        labels = np.kron(labels, np.ones((2, 3), dtype=np.int64))
        runs, ids = rle.encode_labels(labels)
        assert ids.dtype == np.uint64
        assert ids.tolist() == sorted(set(labels.reshape(-1).tolist()) - {0})
        expected = [slow_counts(labels == i) for i in ids.astype(np.int64)]
        assert split(runs) == expected


def test_labels_of_any_type():
    labels = np.array([[0, 1, 1], [1, 0, 1]])
    expected = split(rle.encode_labels(labels)[0])
    for kind in (bool, np.uint8, np.int16, np.int32, np.uint64):
        assert split(rle.encode_labels(labels.astype(kind))[0]) == expected
    assert split(rle.encode_labels(torch.from_numpy(labels))[0]) == expected
    huge = labels.astype(np.uint64) * np.uint64(2**64 - 1)
    runs, ids = rle.encode_labels(huge)
    assert ids.tolist() == [2**64 - 1]
    assert split(runs) == expected
    for shape in ((0, 4), (4, 0), (3, 3)):
        runs, ids = rle.encode_labels(np.zeros(shape, dtype=np.uint8))
        assert len(runs) == len(ids) == 0
    with pytest.raises(ShapeError, match="-3"):
        rle.encode_labels(np.array([[1, -3]]))
    with pytest.raises(ShapeError, match="float64"):
        rle.encode_labels(np.zeros((2, 2)))
    with pytest.raises(ShapeError, match="shape"):
        rle.encode_labels(np.zeros((2, 2, 2), dtype=int))


def test_strings_in_pieces(monkeypatch):
    masks = random_masks(np.random.default_rng(12), 50, 9, 10)
    runs = rle.encode(masks)
    strings = runs.strings()
    entries = [{"size": [9, 10], "counts": string} for string in strings]
    entries[20]["counts"] = "é"
    entries[30]["counts"] = "4X"
    monkeypatch.setattr(run_rooms, "CHUNK", 30)
    monkeypatch.setattr(reading, "CHUNK", 30)
    assert runs.strings() == strings
    parsed, faults = rle.parse(entries)
    assert [fault.index for fault in faults] == [20, 30]
    good = np.setdiff1d(np.arange(50), [20, 30])
    assert split(parsed.take(good)) == split(runs.take(good))


def test_integers_of_numpy_are_integers():
    size = [np.int32(4), np.uint8(2)]
    for counts in ([np.int64(5), 3], (5, 3), np.array([5, 3], dtype=np.uint16), "53"):
        runs, faults = rle.parse([{"size": size, "counts": counts}], sizes=np.array([[4, 2]]))
        assert not faults
        assert runs.sizes.tolist() == [[4, 2]]
        assert split(runs) == [[5, 3]]
    _, faults = rle.parse([{"size": [np.bool_(True), 8], "counts": "53"}])
    assert faults[0].field == "segmentation.size"


def test_take_and_concatenate():
    rng = np.random.default_rng(7)
    masks = random_masks(rng, 12, 8, 9)
    runs = rle.encode(masks)
    for index in (slice(2, 9, 3), [5, 5, 0], masks.any(axis=(1, 2)), np.array([], dtype=int), -1):
        picked = runs.take(index if isinstance(index, slice) else np.atleast_1d(index))
        expected = masks[index if isinstance(index, slice) else np.atleast_1d(index)]
        assert split(picked) == [slow_counts(mask) for mask in expected]
    other = rle.encode(random_masks(rng, 3, 5, 6))
    both = rle.concatenate([runs, other, other.take(slice(0))])
    assert split(both) == split(runs) + split(other)
    assert both.areas().tolist() == runs.areas().tolist() + other.areas().tolist()
    assert both.boxes().tolist() == runs.boxes().tolist() + other.boxes().tolist()
    assert len(rle.concatenate([])) == 0
    boxes = runs.boxes()
    boxes[:] = -1
    assert runs.boxes().min() >= 0


def test_common_pixels_of_pairs(monkeypatch):
    rng = np.random.default_rng(8)
    groups = [random_masks(rng, 8) for _ in range(6)]
    runs = rle.concatenate([rle.encode(masks) for masks in groups])
    dense = [mask for masks in groups for mask in masks]
    group = np.repeat(np.arange(6), 8)
    i, j = np.nonzero(group[:, None] == group)
    expected = [int((dense[a] & dense[b]).sum()) for a, b in zip(i, j, strict=True)]
    shuffled = rng.permutation(len(runs))
    other, back = runs.take(shuffled), np.argsort(shuffled)
    assert rle.intersections(runs, other, i, back[j]).tolist() == expected
    monkeypatch.setattr(mask_rooms, "_CHUNK", 5)
    assert rle.intersections(runs, other, i, back[j]).tolist() == expected
    assert rle.intersections(runs, other, i[:0], j[:0]).tolist() == []


def test_iou_by_hand():
    a = rle.encode(np.array([[[1, 1, 0, 0]], [[0, 0, 0, 0]]]))
    b = rle.encode(np.array([[[0, 1, 1, 1]], [[1, 0, 0, 0]], [[0, 0, 0, 0]]]))
    assert rle.iou(a, b).tolist() == [[1 / 4, 1 / 2, 0], [0, 0, 0]]
    assert rle.iou(a, b, np.array([True, True, True])).tolist() == [[1 / 2, 1 / 2, 0], [0, 0, 0]]
    nothing = a.take(slice(0))
    assert rle.iou(nothing, b).shape == (0, 3)
    assert rle.iou(a, nothing).shape == (2, 0)
    with pytest.raises(ShapeError, match="crowd"):
        rle.iou(a, b, np.array([True]))


def test_decode_needs_one_size():
    runs = rle.concatenate([rle.encode(np.eye(2, dtype=int)), rle.encode(np.eye(3, dtype=int))])
    with pytest.raises(ShapeError, match=r"mask 1 has size \[3, 3\]"):
        runs.decode()
    assert rle.concatenate([]).decode().shape == (0, 0, 0)


def test_all_kinds_in_one_list_keep_their_places():
    square = [[1, 1, 4, 1, 4, 4, 1, 4]]
    given_entries = [
        {"size": [6, 6], "counts": [36]},
        square,
        {"size": [6, 6], "counts": "06"},
        {"size": [6, 6], "counts": [0, 36]},
        None,
        {"size": [6, 6], "counts": rle.encode(np.eye(6, dtype=int)).strings()[0]},
        [],
        {"size": [6, 6], "counts": [35]},
        {"size": [5, 6], "counts": [30]},
    ]
    before = copy.deepcopy(given_entries)
    runs, faults = rle.parse(given_entries, sizes=np.full((9, 2), 6))
    assert given_entries == before
    assert [(fault.index, fault.field) for fault in faults] == [
        (2, "segmentation.counts"),
        (4, "segmentation"),
        (6, "segmentation"),
        (7, "segmentation.counts"),
        (8, "segmentation.size"),
    ]
    assert runs.areas().tolist() == [0, 9, 0, 36, 0, 6, 0, 0, 0]
    assert runs.sizes.tolist() == [[6, 6] if k not in (2, 4, 6, 7, 8) else [0, 0] for k in range(9)]
    assert runs.boxes()[1].tolist() == [1, 1, 3, 3]
    np.testing.assert_array_equal(runs.take([5]).decode()[0], np.eye(6, dtype=bool))
    _, faults = rle.parse([square])
    assert faults[0].what.endswith("they need the size of the image")


def test_from_coco_lists_ten_faults():
    good = entry([3, 2])
    assert len(rle.from_coco([])) == 0
    with pytest.raises(CorruptDatasetError) as caught:
        rle.from_coco([good, *[entry([1], 2)] * 12])
    text = str(caught.value)
    assert "entry 1, 'segmentation.counts': expected runs that sum to 2 (size 2 x 1), got 1" in text
    assert "entry 10," in text
    assert "entry 11," not in text
    assert "and 2 more" in text


def test_settings_of_parse_are_checked():
    with pytest.raises(ShapeError, match=r"expected \[1, 2\]"):
        rle.parse([entry([1])], sizes=np.zeros((2, 2), dtype=np.int64))
    with pytest.raises(ConfigError, match="max_pixels"):
        rle.Limits(max_pixels=-1)
    assert (
        rle.parse([entry([5])], limits=rle.Limits(max_pixels=4))[1][0].field == "segmentation.size"
    )
    assert not rle.parse([entry([1 << 29])], limits=rle.Limits(max_pixels=1 << 29))[1]


BAD_SUMS = [
    ([4, 3], 4, 2),
    ([4, 5], 4, 2),
    ([], 4, 2),
    ([0], 4, 2),
    ([4, 4, 1], 4, 2),
    ("44", 4, 4),
    ("47", 4, 2),
    ("441", 4, 2),
    ("8", 0, 4),
    ("8", 4, 0),
]


@pytest.mark.parametrize(("counts", "height", "width"), BAD_SUMS)
def test_fault_r1_sum_is_not_the_size(counts, height, width):
    runs, faults = one(counts, height, width)
    assert [(fault.index, fault.field) for fault in faults] == [(0, "segmentation.counts")]
    assert f"sum to {height * width}" in faults[0].what
    assert runs.sizes.tolist() == [[0, 0]]
    assert runs.areas().tolist() == [0]


def test_fault_r1_every_mask_one_off_is_refused_in_time():
    code = """
        rng = np.random.default_rng(0)
        masks = rle.encode(rng.random((300, 20, 30)) < 0.3)
        counts = masks.counts.copy()
        counts[masks.starts[1:] - 1] += np.where(np.arange(300) % 2, 1, -1)
        strings = rle.Runs(masks.sizes, counts, masks.starts).strings()
        runs, faults = rle.parse([{"size": [20, 30], "counts": s} for s in strings])
        rle.iou(runs, runs), rle.merge(runs), runs.decode()
        print(len(faults), runs.sizes.any())
    """
    assert in_child(code) == "300 False"


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([10, -2], "runs of 0 or more, got -2 (run 1)"),
        ([-1, 9], "runs of 0 or more, got -1 (run 0)"),
        ([6.0, 2], "integers, got 6.0 (run 0)"),
        ([6, True, 1], "integers, got true (run 1)"),
        ([6, "2"], "integers, got '2' (run 1)"),
        ([6, None], "integers, got nothing (run 1)"),
        ([6, [2]], "integers, got a list of 1 (run 1)"),
        ([2**35], "sum to 8"),
        ([2**63, -(2**63) + 8], "runs of 0 or more"),
        ([2**63, 2**63, 8], "sum to 8"),
        ([10**5000], "an integer of more than 20 digits"),
        (np.array([4.0, 4.0]), "integers, got 4.0"),
        (np.array(8), "expected a list"),
        (np.array([[4, 4]]), "integers, got a list of 2"),
        (8, "a string or a list"),
        (None, "a string or a list"),
        ({}, "a string or a list"),
    ],
)
def test_fault_r2_runs_that_are_none(counts, words):
    runs, faults = one(counts, 4, 2)
    assert [fault.index for fault in faults] == [0]
    assert words in faults[0].what
    assert faults[0].field == "segmentation.counts"
    assert runs.counts.tolist() == [0]


def test_fault_r2_numbers_in_strings():
    for counts in ([12, -4], [-1, 9], [2, 3, 1, -6, 8], [2**34 - 1, 0, -(2**34) + 9]):
        broken = rle.Runs(
            np.array([[4, 2]]), np.array(counts, dtype=np.int64), np.array([0, len(counts)])
        )
        _, faults = one(broken.strings()[0], 4, 2)
        assert len(faults) == 1
        assert "expected runs from 0 to" in faults[0].what
    # Every run is 2^28 more than the one two before: their 64-bit sum would wrap around.
    many = 2**28 * (1 + np.arange(1 << 19) // 2)
    broken = rle.Runs(np.array([[4, 2]]), many, np.array([0, len(many)]))
    _, faults = one(broken.strings()[0], 4, 2)
    assert "a number beyond it (run 2," in faults[0].what or "(run 3," in faults[0].what


def test_fault_r2_inner_zero_runs_are_joined():
    rng = np.random.default_rng(9)
    for _ in range(300):
        counts = rng.integers(0, 3, int(rng.integers(1, 12))).tolist()
        height = sum(counts)
        mask = np.repeat(np.arange(len(counts)) % 2 == 1, counts)[:, None]
        raw = rle.Runs(np.array([[height, 1]]), np.array(counts), np.array([0, len(counts)]))
        for form in (counts, raw.strings()[0]):
            runs, faults = rle.parse([entry([3, 2]), entry(form, height), entry([0, 4])])
            assert not faults
            assert split(runs) == [[3, 2], slow_counts(mask), [0, 4]]
    zeros = [0] * 1001
    assert split(rle.from_coco([entry([*zeros, 5, 0]), entry([0, 0], 0)])) == [[0, 5], [0]]


@pytest.mark.parametrize(
    ("string", "words"),
    [
        ("4X", "number to end, got 88 at the last position, 1"),
        ("o", "number to end, got 111 at the last position, 0"),
        ("4/", "got 47 at position 1"),
        ("p4", "got 112 at position 0"),
        ("4\x00", "got 0 at position 1"),
        ("44é", "got 233 at position 2"),
        ("4\u20ac", "got 8364 at position 1"),
        ("4\ud800", "got 55296 at position 1"),
        (b"4\xff", "got 255 at position 1"),
        ("4 4", "got 32 at position 1"),
        ("4PPPPPPP0", "at most 7 characters per number, got more from 1 on"),
        ("PPPPPPP0", "at most 7 characters per number, got more from 0 on"),
        ("ooooooo?4", "at most 7 characters per number, got more from 0 on"),
        ("", "empty string"),
        (b"", "empty string"),
    ],
)
def test_fault_r3_strings(string, words):
    good = {"size": [4, 2], "counts": "44"}
    entries = [good, {"size": [4, 2], "counts": string}, good]
    runs, faults = rle.parse(entries)
    assert [(fault.index, fault.field) for fault in faults] == [(1, "segmentation.counts")]
    assert words in faults[0].what
    assert split(runs) == [[4, 4], [0], [4, 4]]


def test_fault_r3_seven_characters_are_read():
    # 8 in seven characters: the format does not ask for the shortest form.
    runs, faults = one("XPPPPP04", 12, 1)
    assert not faults
    assert split(runs) == [[8, 4]]


def test_fault_r3_longer_numbers_are_read_where_the_caller_allows_them():
    string = [{"size": [12, 1], "counts": "XPPPPPP04"}]  # 8 in eight characters
    assert "at most 7 characters" in rle.parse(string)[1][0].what
    runs, faults = rle.parse(string, limits=rle.Limits(max_characters=8))
    assert not faults
    assert split(runs) == [[8, 4]]
    with pytest.raises(ConfigError, match=r"max_characters must be in 1\.\.12, got 13"):
        rle.Limits(max_characters=13)


def test_fault_r3_endless_number_is_refused_in_time():
    code = """
        for string in ("o" * 2_000_000, "o" * 2_000_000 + "0", "P" * 2_000_000 + "0"):
            runs, faults = rle.parse([{"size": [4, 2], "counts": string}])
            print(len(faults), end=" ")
    """
    assert in_child(code) == "1 1 1"


@pytest.mark.parametrize("size", [[0, 0], [0, 7], [7, 0]])
def test_fault_r4_no_pixels(size):
    for counts in ("0", "", [], [0], b"", "00"):
        runs = rle.from_coco([{"size": size, "counts": counts}])
        assert runs.areas().tolist() == [0]
        assert runs.boxes().tolist() == [[0, 0, 0, 0]]
        assert rle.iou(runs, runs).tolist() == [[0]]
        assert rle.merge(runs).counts.tolist() == [0]
        assert runs.decode().shape == (1, *size)


@pytest.mark.parametrize(
    "size",
    [
        [-1, 4],
        [4, -2],
        [-4, -2],
        [4.0, 2],
        [4, float("nan")],
        [True, 8],
        ["4", 2],
        [8],
        [4, 2, 1],
        [],
        8,
        "42",
        None,
        {"height": 4},
        [10**5000, 1],
    ],
)
def test_fault_r4_sizes_that_are_none(size):
    _, faults = rle.parse([{"size": size, "counts": "44"}])
    assert [(fault.index, fault.field) for fault in faults] == [(0, "segmentation.size")]
    assert "expected" in faults[0].what
    _, faults = rle.parse([{"counts": "44"}])
    assert faults[0].what == "expected [height, width], got nothing"


@pytest.mark.parametrize("segmentation", [None, 5, "44", b"44", True, 1.5])
def test_fault_r4_segmentations_that_are_none(segmentation):
    _, faults = rle.parse([segmentation], sizes=np.array([[4, 2]]))
    assert [(fault.index, fault.field) for fault in faults] == [(0, "segmentation")]


def test_fault_r5_huge_masks_are_refused_without_memory():
    code = """
        sides = [(100_000, 100_000), (65_536, 65_537), (2**33, 2**33), (2**63, 1), (0, 2**70)]
        for height, width in sides:
            for counts in ([height * width], "PPPPPP1", "0"):
                begin = time.perf_counter()
                runs, faults = rle.parse([{"size": [height, width], "counts": counts}])
                assert time.perf_counter() - begin < 0.5
                assert [f.field for f in faults] == ["segmentation.size"], faults
            if width < 2**63:
                begin = time.perf_counter()
                box = [0, 0, 9, 0, 9, 9]
                sizes = np.array([[height % 2**63, width]])
                runs, faults = rle.parse([[box]], sizes=sizes)
                assert time.perf_counter() - begin < 0.5
                assert height % 2**63 * width == 0 or [f.field for f in faults] == ["image size"]
        big = rle.parse([{"size": [2**14, 2**14], "counts": [2**28]}])[0]
        print(big.boxes().tolist(), big.areas().tolist(), big.strings())
    """
    assert in_child(code, megabytes=100) == "[[0, 0, 0, 0]] [0] ['PPPPP8']"


def test_fault_r6_different_sizes():
    a, b = rle.encode(np.ones((2, 3), dtype=bool)), rle.encode(np.ones((3, 2), dtype=bool))
    zero = np.array([0])
    for call in (
        lambda: rle.intersections(a, b, zero, zero),
        lambda: rle.iou(a, b),
        lambda: rle.merge(rle.concatenate([a, b])),
        lambda: rle.merge(rle.concatenate([a, b]), intersect=True),
    ):
        with pytest.raises(ShapeError, match="size"):
            call()
    with pytest.raises(ShapeError, match="no mask"):
        rle.merge(a.take(slice(0)))


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (np.ones((2, 2)), "float64"),
        (torch.ones(2, 2), "float32"),
        (np.full((2, 2), 2, dtype=np.uint8), "masks hold 2"),
        (np.full((2, 2), -1, dtype=np.int32), "masks hold -1"),
        (np.full((2, 2), 255, dtype=np.uint8), "masks hold 255"),
        (np.full((2, 2), 2**40), "masks hold 1099511627776"),
        (np.ones(4, dtype=bool), "shape"),
        (np.ones((1, 1, 2, 2), dtype=bool), "shape"),
        (np.array([["a"]]), "dtype"),
        (np.array([[None]]), "dtype"),
        (np.ones((2, 2), dtype=complex), "dtype"),
    ],
)
def test_fault_r6_encode_of_other_things(masks, words):
    with pytest.raises(ShapeError, match=words):
        rle.encode(masks)


def check_runs(runs):
    """The invariants of `Runs`."""
    assert runs.counts.dtype == runs.starts.dtype == runs.sizes.dtype == np.int64
    assert runs.starts[0] == 0
    assert runs.starts[-1] == len(runs.counts)
    assert (np.diff(runs.starts) >= 1).all()
    assert (runs.counts >= 0).all()
    inner = np.ones(len(runs.counts), dtype=bool)
    inner[runs.starts[:-1]] = False
    assert (runs.counts[inner] > 0).all()
    if len(runs):
        total = np.add.reduceat(runs.counts, runs.starts[:-1])
        assert (total == runs.sizes.prod(axis=1)).all()


def test_fuzzed_strings_alone_and_together():
    rng = np.random.default_rng(10)
    entries, accepted = [], 0
    for _ in range(4000):
        mask = random_masks(rng, 1)
        string = bytearray(rle.encode(mask).strings()[0].encode())
        kind = rng.integers(4)
        if kind == 0:
            string = bytearray(rng.integers(0, 256, int(rng.integers(0, 20)), dtype=np.uint8))
        elif kind == 1:
            string = bytearray(rng.integers(48, 112, int(rng.integers(0, 9)), dtype=np.uint8))
        else:
            for _ in range(int(rng.integers(0, 3))):
                place = int(rng.integers(0, len(string)))
                string[place] = int(rng.integers(40, 120))
            if kind == 3:
                del string[int(rng.integers(0, len(string)))]
        counts = bytes(string) if rng.random() < 0.5 else string.decode("latin-1")
        entries.append({"size": list(mask.shape[1:]), "counts": counts})
    runs, faults = rle.parse(entries)
    check_runs(runs)
    bad = {fault.index: fault.what for fault in faults}
    for index in range(0, len(entries), 7):  # the neighbours of a string do not matter
        alone, own = rle.parse([entries[index]])
        assert [fault.what for fault in own] == ([bad[index]] if index in bad else [])
        assert split(alone) == split(runs.take([index]))
    for index in range(len(entries)):
        if index in bad:
            continue
        accepted += 1
        assert runs.sizes[index].tolist() == entries[index]["size"]
        again = rle.from_coco(runs.take([index]).to_coco())
        assert split(again) == split(runs.take([index]))
    assert 200 < accepted < 3500
    assert set(runs.areas()[list(bad)].tolist()) == {0}


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=8)
            | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_fuzzed_objects(thing):
    for sizes in (None, np.array([[5, 7]])):
        runs, faults = rle.parse([thing], sizes=sizes)
        check_runs(runs)
        assert len(faults) <= 1
        if faults:
            with pytest.raises(RlsegError, match="entry 0"):
                rle.from_coco([thing], sizes=sizes)


def test_zero_runs_do_not_hide_in_groups():
    rng = np.random.default_rng(11)
    masks = random_masks(rng, 30, 6, 5)
    groups = np.array([0, 1, 4, 9, 10, 30])
    for intersect in (False, True):
        merged = run_rooms.merge_groups(rle.encode(masks), groups, intersect=intersect)
        check_runs(merged)
        fold = np.logical_and if intersect else np.logical_or
        expected = fold.reduceat(masks, groups[:-1], axis=0)
        np.testing.assert_array_equal(merged.decode(), expected)
