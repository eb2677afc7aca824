"""Strict JSON: no NaN, no duplicate keys, no deep nesting; damage is a `CheckpointError`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlseg import files
from rlseg.errors import CheckpointError

MAX_DEPTH = 256
"""Deepest nesting: states of learners go deeper than settings, far from where a parser gives up."""


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
    if len(data) > limit:
        raise CheckpointError(f"{path} has more than {limit} bytes, the limit for such a file")
    try:
        return files.parse_json(data.decode("utf-8-sig"), max_depth=MAX_DEPTH)
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); it is damaged") from error
