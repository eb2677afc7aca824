"""Strict JSON: no NaN, no duplicate keys, no deep nesting; damage is a `CheckpointError`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlseg.errors import CheckpointError


def to_json(value: Any) -> bytes:
    """UTF-8 JSON, indented; a NaN or infinity in it is a ValueError."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def parse_json(data: bytes, path: Path, limit: int) -> Any:
    """The content of a JSON file.

    Args:
        data: the bytes of the file.
        path: for the message.
        limit: most bytes that are parsed.

    Raises:
        CheckpointError: not JSON, too large, a key given twice, NaN, or nested too deep.
    """

    def refuse_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key is given twice")
        return result

    if len(data) > limit:
        raise CheckpointError(f"{path} has more than {limit} bytes, the limit for such a file")
    try:
        return json.loads(data, parse_constant=refuse_constant, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); it is damaged") from error
