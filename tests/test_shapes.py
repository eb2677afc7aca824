"""Axis checks and padding."""

import pytest
import torch

from rlseg.errors import ShapeError
from rlseg.shapes import check_labels, expect, pad_to_multiple


def test_expect_returns_sizes_and_names_what_is_wrong():
    image, labels = torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 5)
    assert expect("B C H W", image=image) == {"B": 2, "C": 3, "H": 4, "W": 5}
    assert expect("B 3 H W", image=image)["H"] == 4
    assert expect("B *S", labels=labels, other=torch.zeros(2, 4, 5)) == {"B": 2}
    with pytest.raises(ShapeError, match=r"image has shape \[2, 3, 4, 5\].*B H W"):
        expect("B H W", image=image)
    with pytest.raises(ShapeError, match="size 1, got 3"):
        expect("B 1 H W", image=image)
    with pytest.raises(ShapeError, match="axis H is 4 in a but 6 in b"):
        expect("H W", a=torch.zeros(4, 5), b=torch.zeros(6, 5))
    with pytest.raises(ShapeError, match=r"\*S"):
        expect("B *S", a=torch.zeros(2, 4), b=torch.zeros(2, 5))


@pytest.mark.parametrize("sides", [(1, 1), (3, 5), (16, 16), (17, 40), (2, 31)])
def test_padding_reaches_the_multiple_and_keeps_the_image(sides):
    image = torch.rand(1, 2, *sides)
    padded = pad_to_multiple(image, 16)
    assert all(side % 16 == 0 for side in padded.shape[2:])
    assert all(new - old < 16 for new, old in zip(padded.shape[2:], sides, strict=True))
    assert torch.equal(padded[..., : sides[0], : sides[1]], image)
    assert padded.min() >= image.min()
    assert padded.max() <= image.max()
    assert pad_to_multiple(image, 16, minimum=64).shape[2:] == (64, 64)


def test_padding_volumes():
    assert pad_to_multiple(torch.rand(1, 1, 3, 9, 8), 8).shape == (1, 1, 8, 16, 8)


def test_check_labels():
    check_labels(torch.zeros(2, 3, dtype=torch.bool), "labels", (2, 3))
    with pytest.raises(ShapeError, match="integers"):
        check_labels(torch.zeros(2), "labels")
    with pytest.raises(ShapeError, match="-1"):
        check_labels(torch.tensor([-1]), "labels")
    with pytest.raises(ShapeError, match="expected"):
        check_labels(torch.zeros(2, dtype=torch.int64), "labels", (3,))
