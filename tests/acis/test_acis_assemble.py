"""From soft masks to label maps, against loops over pixels."""

import itertools
import math

import pytest
import torch

from rlseg.acis import assemble as module
from rlseg.acis.assemble import assemble, bilateral, mean_values, prediction_order, to_labels
from rlseg.acis.fit import unfit
from rlseg.errors import ShapeError


def masks(count, height, width, seed=0):
    return torch.rand(count, height, width, generator=torch.Generator().manual_seed(seed))


def mirrored(place, count):
    """Position after reflecting at the first and last pixel as often as needed."""
    while count > 1 and not 0 <= place < count:
        place = -place if place < 0 else 2 * (count - 1) - place
    return place if count > 1 else 0


def slow_bilateral(mask, size, sigma_colour, sigma_space):
    height, width = mask.shape
    found = torch.zeros_like(mask)
    for y, x in itertools.product(range(height), range(width)):
        top = bottom = 0.0
        for dy, dx in itertools.product(range(-(size // 2), size // 2 + 1), repeat=2):
            if math.hypot(dy, dx) > size // 2:
                continue
            value = float(mask[mirrored(y + dy, height), mirrored(x + dx, width)])
            weight = math.exp(-((value - float(mask[y, x])) ** 2) / (2 * sigma_colour**2))
            weight *= math.exp(-(dy**2 + dx**2) / (2 * sigma_space**2))
            top, bottom = top + weight * value, bottom + weight
        found[y, x] = top / bottom
    return found


@pytest.mark.parametrize(
    ("sides", "settings"),
    [
        ((9, 7), (5, 10.0, 10.0)),
        ((9, 7), (5, 0.2, 1.5)),
        ((6, 8), (3, 0.5, 10.0)),
        ((2, 5), (5, 0.3, 2.0)),
        ((1, 1), (5, 10.0, 10.0)),
        ((3, 4), (1, 10.0, 10.0)),
    ],
)
def test_bilateral(sides, settings):
    given = masks(2, *sides)
    found = bilateral(given, *settings)
    for got, mask in zip(found, given, strict=True):
        assert torch.allclose(got, slow_bilateral(mask, *settings), atol=1e-5)


def test_bilateral_keeps_edges_only_for_small_deviations_of_value():
    edge = torch.zeros(1, 12, 12)
    edge[..., 6:] = 1
    assert torch.allclose(bilateral(edge, 5, 0.05, 10.0), edge, atol=1e-6)
    assert float(bilateral(edge)[0, 6, 6]) < 0.8  # the published deviation of 10 smooths all


def test_bilateral_against_opencv():
    cv2 = pytest.importorskip("cv2", reason="OpenCV, the original's filter, is not installed")
    given = masks(2, 30, 25, seed=3)
    for got, mask in zip(bilateral(given), given, strict=True):
        reference = cv2.bilateralFilter(mask.numpy(), 5, 10, 10)
        assert float((got - torch.from_numpy(reference)).abs().max()) < 1e-4


def slow_labels(given, threshold):
    count, height, width = given.shape
    raw = torch.zeros(height, width, dtype=torch.int64)
    for y, x in itertools.product(range(height), range(width)):
        best = threshold
        for m in range(count):
            if given[m, y, x] > best:
                best, raw[y, x] = given[m, y, x], m + 1
    order = [m for m in range(count) if (raw == m + 1).any()]
    labels = torch.zeros_like(raw)
    for number, m in enumerate(order, start=1):
        labels[raw == m + 1] = number
    return labels, order


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.97])
def test_labels(threshold):
    given = masks(5, 12, 9)
    given[2] *= 0.2  # wins nowhere, or in few pixels
    found = to_labels(given, threshold)
    labels, order = slow_labels(given, threshold)
    assert torch.equal(found.labels, labels)
    assert found.order.tolist() == order
    assert torch.equal(found.value, given.amax(dim=0))


def test_ties_go_to_the_earlier_mask_and_the_threshold_itself_is_background():
    given = torch.full((3, 2, 2), 0.5)
    found = to_labels(given, 0.4)
    assert found.labels.tolist() == [[1, 1], [1, 1]]
    assert found.order.tolist() == [0]
    assert not to_labels(given, 0.5).labels.any()


def test_vanished_masks_leave_no_gap():
    given = torch.zeros(3, 2, 3)
    given[0, 0, 0] = given[2, 1, 2] = 0.9
    given[1, 0, 0] = 0.8
    found = to_labels(given, 0.3)
    assert found.labels.tolist() == [[1, 0, 0], [0, 0, 2]]
    assert found.order.tolist() == [0, 2]
    assert prediction_order(found).tolist() == [[1, 0, 0], [0, 0, 3]]


def test_no_masks_and_empty_ones():
    for given in (torch.zeros(0, 4, 5), torch.zeros(2, 4, 5)):
        found = to_labels(given, 0.0)
        assert found.labels.tolist() == torch.zeros(4, 5).tolist()
        assert found.labels.dtype == torch.int64
        assert found.order.tolist() == []
        assert mean_values(found).tolist() == []
        assert not prediction_order(found).any()
        whole = assemble(given, (8, 10), "stretch", threshold=0.0)
        assert whole.labels.shape == (8, 10)
        assert not whole.labels.any()


def test_mean_values():
    given = masks(4, 10, 11)
    found = to_labels(given, 0.6)
    expected = [
        float(given[step][found.labels == number].mean())
        for number, step in enumerate(found.order.tolist(), start=1)
    ]
    assert torch.allclose(mean_values(found), torch.tensor(expected))


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("how", ["crop", "stretch"])
def test_assemble_is_the_same_in_pieces(monkeypatch, how, smooth):
    given = masks(7, 16, 16)
    given[4] = given[1]  # a tie across pieces
    whole = unfit(given, (30, 20), how)
    reference = to_labels(bilateral(whole) if smooth else whole, 0.55)
    for chunk in (1, 2 * 30 * 20, 1 << 24):
        monkeypatch.setattr(module, "CHUNK", chunk)
        found = assemble(given, (30, 20), how, threshold=0.55, smooth=smooth)
        assert torch.equal(found.labels, reference.labels)
        assert torch.equal(found.order, reference.order)
        assert torch.equal(found.value, reference.value)
    assert 4 not in found.order.tolist()
    assert 1 in found.order.tolist()


def test_bad_input():
    with pytest.raises(ShapeError, match="expected axes"):
        to_labels(torch.zeros(4, 4), 0.3)
