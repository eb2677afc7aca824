"""Checks of axes at public borders, and padding to what a network needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rlseg.errors import ShapeError


def expect(axes: str, **tensors: Tensor) -> dict[str, int]:
    """Sizes of the named axes, after checking that every tensor has them.

    Args:
        axes: names separated by spaces, for example `"B C H W"`. A number is a fixed size;
            a last name that starts with `*` stands for any further axes (none included).
        **tensors: one or more tensors that all have these axes, with equal sizes by name.

    Returns:
        Size per axis name (without the starred rest).

    Raises:
        ShapeError: wrong number of axes, or two tensors disagree on the size of an axis.
    """
    names = axes.split()
    rest = names[-1].startswith("*")
    fixed = names[:-1] if rest else names
    sizes: dict[str, int] = {}
    owner: dict[str, str] = {}
    rest_shape: tuple[int, ...] | None = None
    for label, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if len(shape) < len(fixed) or (len(shape) > len(fixed) and not rest):
            raise ShapeError(f"{label} has shape {list(shape)}; expected axes [{axes}]")
        for name, size in zip(fixed, shape, strict=False):
            if name.isdigit():
                if size != int(name):
                    raise ShapeError(
                        f"{label} has shape {list(shape)}; expected axes [{axes}] "
                        f"with size {name}, got {size}"
                    )
                continue
            if sizes.setdefault(name, size) != size:
                raise ShapeError(
                    f"axis {name} is {sizes[name]} in {owner[name]} but {size} in {label}; "
                    f"expected axes [{axes}]"
                )
            owner.setdefault(name, label)
        if rest:
            tail = shape[len(fixed) :]
            if rest_shape is None:
                rest_shape, owner[names[-1]] = tail, label
            elif tail != rest_shape:
                raise ShapeError(
                    f"axes {names[-1]} are {list(rest_shape)} in {owner[names[-1]]} but "
                    f"{list(tail)} in {label}; expected axes [{axes}]"
                )
    return sizes


def pad_to_multiple(image: Tensor, multiple: int, minimum: int = 0) -> Tensor:
    """The image, continued at its far ends until every side is a multiple of `multiple`.

    The border is reflected where the image is large enough and repeated where it is not, so
    that normalisation statistics change little. Cut the result back with
    `out[..., :height, :width]`.

    Args:
        image: float [B, C, *S] with two or three axes in S.
        multiple: at least 1; the network's stride.
        minimum: sides are at least this long afterwards (rounded up to `multiple`).

    Returns:
        float [B, C, *S'] with S' >= S.
    """
    sides = image.shape[2:]
    wanted = [-(-max(side, minimum) // multiple) * multiple for side in sides]
    while tuple(image.shape[2:]) != tuple(wanted):
        # Reflection can at most double a side (minus one): repeat until there.
        pad: list[int] = []
        reflect = True
        for side, want in zip(reversed(image.shape[2:]), reversed(wanted), strict=True):
            extra = want - side
            if extra > 0 and side > 1:
                extra = min(extra, side - 1)
            elif extra > 0:
                reflect = False
            pad += [0, extra]
        image = functional.pad(image, pad, mode="reflect" if reflect else "replicate")
    return image


def check_labels(labels: Tensor, what: str, sides: Sequence[int] | None = None) -> None:
    """Nothing, if `labels` is a legal label map.

    Args:
        labels: integer or bool [*S], no negative value.
        what: name for the message.
        sides: expected shape, if it must equal another array's.

    Raises:
        ShapeError: wrong dtype, negative value, or another shape than `sides`.
    """
    if labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise ShapeError(f"{what} has dtype {labels.dtype}; label maps hold integers: convert it")
    if labels.dtype != torch.bool and labels.numel() and int(labels.min()) < 0:
        raise ShapeError(f"{what} holds {int(labels.min())}; label maps have no negative values")
    if sides is not None and tuple(labels.shape) != tuple(sides):
        raise ShapeError(f"{what} has shape {list(labels.shape)}, expected {list(sides)}")
