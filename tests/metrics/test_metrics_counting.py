"""The parts of counting: runs, sums of cells, ranks of ids, and their memory."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from rlseg.metrics import counting

pytestmark = pytest.mark.filterwarnings("error")


def as_counter(cells):
    first, second, count = (column.tolist() for column in cells)
    assert len(set(zip(first, second, strict=True))) == len(count)
    assert list(zip(first, second, strict=True)) == sorted(zip(first, second, strict=True))
    return dict(zip(zip(first, second, strict=True), count, strict=True))


NAMES = {
    "small": np.arange(40, dtype=np.uint64),
    "gaps": np.arange(40, dtype=np.uint64) * 10**7,
    "huge": np.random.default_rng(0).integers(0, 2**64 - 1, 40, dtype=np.uint64),
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("run", [1, 2, 5, 60])
@pytest.mark.parametrize("pending", [0, 10, 1 << 17])
def test_cells_equal_a_counter(monkeypatch, names, run, pending):
    monkeypatch.setattr(counting, "MAX_PENDING", pending)
    monkeypatch.setattr(counting, "SMALL", 50)
    rng = np.random.default_rng(run)
    for size in (1, 7, 8, 9, 500):
        pred, true = (np.repeat(NAMES[names][rng.integers(0, 40, size)], run) for _ in range(2))
        true = np.roll(true, 1)
        expected = Counter(zip(pred.tolist(), true.tolist(), strict=True))
        for chunk in (1, 13, 64, 10**6):
            assert as_counter(counting.count_cells(pred, true, chunk)) == expected


@pytest.mark.parametrize("cells", [1, 100, 1 << 23])
def test_histogram_and_ranks_agree(monkeypatch, cells):
    monkeypatch.setattr(counting, "MAX_CELLS", cells)
    rng = np.random.default_rng(0)
    pred, true = (np.repeat(rng.integers(0, 30, 90).astype(np.uint8), 3) for _ in range(2))
    expected = Counter(zip(pred.tolist(), true.tolist(), strict=True))
    assert as_counter(counting.count_cells(pred, true, 50)) == expected


@pytest.mark.parametrize("bits", [1, 4, 21])
@pytest.mark.parametrize("number", [1, 5, 3000])
def test_ranks_equal_numpy_whatever_collides(monkeypatch, bits, number):
    monkeypatch.setattr(counting, "SMALL", 10)
    monkeypatch.setattr(counting, "SLOT_BITS", bits)
    rng = np.random.default_rng(bits)
    ids = rng.integers(0, 2**64 - 1, number, dtype=np.uint64)
    values = ids[rng.integers(0, number, 5000)]
    for array in (values, values % np.uint64(50)):
        expected = np.unique(array, return_inverse=True)
        found = counting.distinct(array)
        assert (found[0] == expected[0]).all()
        assert (found[1] == expected[1]).all()


@pytest.mark.parametrize("largest", [3, 2**40])
@pytest.mark.parametrize("background", [True, False])
def test_numbers_leave_0_for_the_background(largest, background):
    values = np.array([largest, 0 if background else 2, 2, largest], dtype=np.uint64)
    ids, index = counting.numbered(values)
    assert ids.tolist() == [2, largest]
    assert index.tolist() == [2, 0 if background else 1, 1, 2]


def test_sum_of_no_cells():
    empty = np.zeros(0, dtype=np.uint64)
    assert [len(c) for c in counting.sum_cells([(empty, empty, np.zeros(0, np.int64))] * 2)] == [
        0,
        0,
        0,
    ]


MEMORY = """
import resource, sys
import numpy as np
from rlseg.metrics import overlap
voxels, ids = int(sys.argv[1]), int(sys.argv[2])
true = np.empty(voxels, dtype=np.int32)
for start in range(0, voxels, 1 << 20):
    place = np.arange(start, min(start + (1 << 20), voxels))
    true[start : start + (1 << 20)] = place * ids // voxels * 7919 % ids + 1
pred = np.empty_like(true)
pred[13:], pred[:13] = true[:-13], true[-13:]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
table = overlap(pred.reshape(-1, 1 << 10), true.reshape(-1, 1 << 10))
assert table.pred_instances == ids and len(table.count) == 2 * ids, table.pred_instances
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("voxels", "ids"),
    [(1 << 23, 125_000), pytest.param(1 << 26, 1_000_000, marks=pytest.mark.slow)],
)
def test_fault_l5_many_ids_take_little_memory_beside_the_maps(voxels, ids):
    call = [sys.executable, "-c", MEMORY, str(voxels), str(ids)]
    rise = int(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
    assert rise * 1024 < 8 * voxels  # one key per voxel would be above it
