import math

import pytest
import torch

from rlseg.data.class_statistics import semantic_statistics
from rlseg.data.samples import SemanticSample
from rlseg.errors import ConfigError, CorruptDatasetError


def sample(rows, name="a"):
    classes = torch.tensor(rows)
    return SemanticSample(image=torch.zeros(3, *classes.shape), classes=classes, name=name)


def test_a_small_set_counted_by_hand():
    data = [sample([[0, 0, 1], [255, 1, 1]]), sample([[0, 0], [0, 0]])]
    seen = []
    found = semantic_statistics(data, ("sky", "road", "car"), seen.append)
    assert seen == [1, 2]
    assert (found.samples, found.smallest, found.largest, found.pixels) == (2, (2, 2), (2, 3), 10)
    assert found.unknown == pytest.approx(0.1)
    table = [(c.name, c.pixels, c.share, c.samples) for c in found.classes]
    assert table == [("sky", 6, 6 / 9, 2), ("road", 3, 3 / 9, 1), ("car", 0, 0.0, 0)]
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)) / math.log(3)
    assert found.entropy == pytest.approx(entropy)


def test_limits_of_the_balance():
    assert semantic_statistics([sample([[0, 1]])], "ab").entropy == pytest.approx(1.0)
    one = semantic_statistics([sample([[1, 1]])], "ab").entropy
    assert one == 0.0
    assert math.copysign(1, one) == 1
    assert semantic_statistics([sample([[0]])], "a").entropy is None


def test_nothing_known():
    found = semantic_statistics([sample([[255, 255]])], "ab")
    assert (found.unknown, found.entropy) == (1.0, None)
    assert [c.share for c in found.classes] == [None, None]


def test_what_cannot_be_counted():
    with pytest.raises(ConfigError, match="at least one sample"):
        semantic_statistics([], "ab")
    with pytest.raises(ConfigError, match="one class"):
        semantic_statistics([sample([[0]])], ())
    with pytest.raises(CorruptDatasetError, match="b: class 2 in a map of 2 classes"):
        semantic_statistics([sample([[0]]), sample([[2]], "b")], "ab")
