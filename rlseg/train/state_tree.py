"""Nested state <-> a plain JSON skeleton and a table of tensors; the bytes of a safetensors file.

Tensors are replaced by their key in the table. What JSON cannot hold exactly is wrapped in an
object with one key: `$tensor`, `$tuple`, `$items` (a dict whose keys are not all plain strings)
and `$float` (a float that is not finite).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rlseg.errors import CheckpointError

DTYPES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of the safetensors format."""
ALIGNMENT = 8
"""Bytes to a multiple of which the header is filled up."""


def flatten(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """The skeleton of a state, and its tensors under dotted keys.

    Args:
        state: nested dicts, lists and tuples of tensors, None, bool, int, float and str.

    Raises:
        CheckpointError: something else is in it; the message names the place.
    """
    tensors: dict[str, Tensor] = {}
    return _flatten(state, "", tensors), tensors


def _flatten(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return {"$tensor": _add(value, place, tensors)}
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        number = float(value)
        finite = number - number == 0.0
        return number if finite else {"$float": repr(number)}
    if isinstance(value, list | tuple):
        items = [_flatten(v, f"{place}.{i}", tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _flatten(v, f"{place}.{key}", tensors) for key, v in value.items()}
        pairs = [
            [_flatten(key, f"{place}.key", tensors), _flatten(v, f"{place}.{key}", tensors)]
            for key, v in value.items()
        ]
        return {"$items": pairs}
    raise CheckpointError(
        f"state{place} is a {type(value).__name__}; state_dict may hold tensors, None, bool, int, "
        "float, str, and dicts, lists and tuples of them"
    )


def _add(tensor: Tensor, place: str, tensors: dict[str, Tensor]) -> str:
    if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
        raise CheckpointError(
            f"state{place} is a {tensor.layout} tensor of {tensor.dtype}, which a checkpoint "
            "cannot hold"
        )
    key = place.lstrip(".") or "value"
    name, number = key, 2
    while name in tensors:  # {"a.b": ..., "a": {"b": ...}} has two of the same place
        name, number = f"{key}#{number}", number + 1
    tensors[name] = tensor.detach()
    return name


def unflatten(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The state that `flatten` took apart.

    Raises:
        CheckpointError: a tensor is missing or left over, or the skeleton is malformed.
    """
    used: set[str] = set()
    state = _unflatten(skeleton, tensors, used)
    if left := sorted(set(tensors) - used):
        raise CheckpointError(f"{len(left)} tensors belong to nothing, for example {left[0]!r}")
    return state


def _unflatten(value: Any, tensors: Mapping[str, Tensor], used: set[str]) -> Any:
    if isinstance(value, list):
        return [_unflatten(v, tensors, used) for v in value]
    if not isinstance(value, dict):
        return value
    kind = next(iter(value), "")
    if not kind.startswith("$"):
        return {key: _unflatten(v, tensors, used) for key, v in value.items()}
    content = value[kind]
    if kind == "$tensor" and isinstance(content, str) and content in tensors:
        used.add(content)
        return tensors[content]
    if kind == "$float" and content in ("nan", "inf", "-inf"):
        return float(content)
    if kind == "$tuple" and isinstance(content, list):
        return tuple(_unflatten(v, tensors, used) for v in content)
    if kind == "$items" and isinstance(content, list):
        try:
            return {
                _unflatten(key, tensors, used): _unflatten(v, tensors, used) for key, v in content
            }
        except (TypeError, ValueError) as error:
            raise CheckpointError("the keys of a dict are malformed") from error
    raise CheckpointError(f"{kind} {content!r:.60} refers to nothing")


def safetensors_chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, piece by piece, without a second copy of the whole.

    Args:
        tensors: strided, of the dtypes in `DTYPES`, on any device.
    """
    header: dict[str, Any] = {}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        if tensor.numel():
            plain = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
            yield plain.numpy().data


def non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The key of the first floating tensor with a NaN or an infinity; None if all are finite."""
    floats = {k: t for k, t in tensors.items() if t.is_floating_point() and t.numel()}
    devices = {tensor.device for tensor in floats.values()}
    for device in devices:
        group = [(k, t) for k, t in floats.items() if t.device == device]
        # One read per device, not one per tensor.
        bad = torch.stack([~torch.isfinite(tensor).all() for _, tensor in group])
        for (key, _), flag in zip(group, bad.tolist(), strict=True):
            if flag:
                return key
    return None
