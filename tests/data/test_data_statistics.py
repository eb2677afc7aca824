import pytest
import torch

from rlseg.data.samples import InstanceSample
from rlseg.data.statistics import split_statistics, suggest_radii
from rlseg.errors import ConfigError


def sample(labels, valid=None):
    labels = torch.tensor(labels)
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else torch.tensor(valid)
    return InstanceSample(image=torch.zeros(1, *labels.shape), labels=labels, valid=valid, name="s")


TWO = [
    sample([[1, 1, 0, 2], [1, 1, 0, 2]]),
    sample([[1, 0, 0], [0, 0, 0], [0, 0, 0]], [[True] * 3, [True] * 3, [False] * 3]),
]


def test_by_hand():
    seen = []
    result = split_statistics(TWO, (1.5, 2.5), seen.append)
    assert seen == [1, 2]
    assert (result.samples, result.smallest, result.largest) == (2, (2, 3), (3, 4))
    assert (result.instances, result.instances_mean) == (3, 1.5)
    assert (result.instances_minimum, result.instances_maximum) == (1, 2)
    assert (result.area_minimum, result.area_median, result.area_maximum) == (1, 2, 4)
    assert result.area_mean == pytest.approx(7 / 3)
    assert result.foreground == pytest.approx(7 / 14)
    assert result.unknown == pytest.approx(3 / 17)
    near, far = result.neighbours
    assert (near.radius, near.mean, near.maximum, near.bits) == (1.5, 0, 0, 1)
    assert (far.maximum, far.bits) == (1, 2)
    assert far.mean == pytest.approx(2 / 3)
    assert (near.pairs, near.histogram) == (0, (3,))
    assert (far.pairs, far.histogram) == (1, (1, 2))
    assert (result.empty, result.area_octaves) == (0, (1, 1, 1))


def test_radii_are_suggested_where_none_are_given():
    result = split_statistics(TWO)
    assert tuple(n.radius for n in result.neighbours) == suggest_radii(2.0, 2) == (3, 4)
    assert suggest_radii(766.0, 2) == (12, 18)  # Cre-256 at 224 pixels, as published
    assert suggest_radii(1000.0, 3) == (4, 6)
    assert suggest_radii(None, 2) == (3, 4)


def test_fault_l4_no_instances_at_all():
    result = split_statistics([sample([[0, 0], [0, 0]])])
    assert result.instances == 0
    assert result.area_median is None
    assert result.foreground == 0
    assert result.neighbours[0].mean is None
    assert (result.empty, result.area_octaves) == (1, ())
    assert (result.neighbours[0].pairs, result.neighbours[0].histogram) == (0, ())
    unknown = split_statistics([sample([[0]], [[False]])])
    assert unknown.foreground is None
    assert unknown.unknown == 1


def test_bad_arguments():
    with pytest.raises(ConfigError, match="radii"):
        split_statistics(TWO, (3, -1))
    with pytest.raises(ConfigError, match="at least one sample"):
        split_statistics([])
