import itertools

import numpy as np
import pytest
import torch

from rlseg.data.neighbours import neighbour_counts, neighbour_pairs, suggest_bits
from rlseg.errors import ConfigError, ShapeError


def slowly(labels, radius):
    """All pairs by the distances between all pixels."""
    points = {int(k): (labels == k).nonzero().double() for k in labels.unique().tolist() if k > 0}
    found = {}
    for a, b in itertools.permutations(points, 2):
        distance = float(torch.cdist(points[a], points[b]).min())
        if distance < radius:
            found[a, b] = distance
    return found


@pytest.mark.parametrize("sides", [(24, 30), (8, 9, 10)])
@pytest.mark.parametrize("radius", [1.0, 1.5, 4, 9.7])
def test_against_all_pixel_distances(sides, radius):
    generator = torch.Generator().manual_seed(len(sides))
    labels = torch.zeros(sides, dtype=torch.int64)
    for k in range(1, 12):
        corner = [int(torch.randint(n - 2, (), generator=generator)) for n in sides]
        labels[tuple(slice(c, c + 1 + k % 3) for c in corner)] = k
    pairs, distance = neighbour_pairs(labels, radius)
    expected = slowly(labels, radius)
    assert [tuple(p) for p in pairs.tolist()] == sorted(expected)
    assert np.allclose(distance.numpy(), [expected[k] for k in sorted(expected)])
    counts = [sum(a == k for a, _ in expected) for k in range(1, int(labels.max()) + 1)]
    assert neighbour_counts(labels, radius).tolist() == counts


def test_by_hand():
    labels = torch.tensor([[1, 1, 2, 0, 0, 3], [0, 0, 0, 0, 0, 0], [0, 4, 0, 0, 0, 0]])
    assert neighbour_counts(labels, 1).tolist() == [0, 0, 0, 0]
    assert neighbour_counts(labels, 1.01).tolist() == [1, 1, 0, 0]
    assert neighbour_counts(labels, 2.01).tolist() == [2, 1, 0, 1]
    assert neighbour_counts(labels, 3).tolist() == [2, 2, 0, 2]
    assert neighbour_counts(labels, 3.01).tolist() == [2, 3, 1, 2]


def test_pieces_of_one_instance_and_missing_ids():
    labels = torch.tensor([[2, 0, 0, 0, 0, 0, 5, 2]])
    assert neighbour_counts(labels, 1.5).tolist() == [0, 1, 0, 0, 1]


@pytest.mark.parametrize("labels", [torch.zeros(5, 5).long(), torch.zeros(0, 4).long()])
def test_nothing_there(labels):
    assert neighbour_counts(labels, 3).tolist() == []
    pairs, distance = neighbour_pairs(labels, 3)
    assert pairs.shape == (0, 2)
    assert distance.shape == (0,)


def test_ids_can_be_permuted():
    labels = torch.randint(5, (16, 16), generator=torch.Generator().manual_seed(0))
    order = torch.tensor([0, 3, 1, 4, 2])
    moved = neighbour_counts(order[labels], 2)
    assert moved[order[1:] - 1].tolist() == neighbour_counts(labels, 2).tolist()


@pytest.mark.parametrize("radius", [0, -1, float("nan"), float("inf")])
def test_radius_out_of_range(radius):
    with pytest.raises(ConfigError, match="radius"):
        neighbour_pairs(torch.ones(3, 3).long(), radius)


def test_what_is_no_label_map():
    for labels in (torch.ones(3, 3), torch.ones(3).long(), -torch.ones(3, 3).long()):
        with pytest.raises(ShapeError):
            neighbour_pairs(labels, 2)


def test_bits_follow_the_rule():
    assert suggest_bits(18) == 6  # the published T of Cre-256: 2^4 + 1 = 17 < 18
    assert suggest_bits(17) == 5
    assert [suggest_bits(n) for n in (0, 1, 2, 3, 4, 5, 6, 9, 10)] == [1, 2, 2, 2, 3, 3, 4, 4, 5]
    for neighbours in range(3, 300):
        bits = suggest_bits(neighbours)
        assert 2 ** (bits - 1) + 1 >= neighbours > 2 ** (bits - 2) + 1 or bits == 2
    with pytest.raises(ConfigError):
        suggest_bits(-1)
