"""Fields of many JSON objects as arrays, checked all at once; every problem becomes a `Reason`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlseg.errors import Reason, show

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LISTED_REASONS = 10
"""Problems named in one message; the rest is counted."""
MAX_EXACT_FLOAT = 2.0**53
"""Above it a float no longer stands for one whole number."""


class _Missing:
    """Stands for a key that an object does not have."""


MISSING = _Missing()


def column(entries: Sequence[dict[str, Any]], field: str) -> list[Any]:
    """One field of all objects; `MISSING` where an object lacks it."""
    return [entry.get(field, MISSING) for entry in entries]


def shown(value: object) -> str:
    """A wrong value in a few characters."""
    return "nothing" if value is MISSING else "null" if value is None else show(value)


def objects(entries: Sequence[Any], part: str) -> tuple[list[dict[str, Any]], list[Reason]]:
    """The entries as JSON objects; one that is something else counts as empty, with a reason."""
    if set(map(type, entries)) <= {dict}:
        return list(entries), []
    reasons = [
        Reason(index, "", f"expected an object, got {shown(entry)}", part)
        for index, entry in enumerate(entries)
        if not isinstance(entry, dict)
    ]
    return [entry if isinstance(entry, dict) else {} for entry in entries], reasons


def whole_numbers(
    values: Sequence[Any], field: str, part: str, *, low: int | None = None, high: int | None = None
) -> tuple[Ints, Bools, list[Reason]]:
    """Whole numbers of 64 bits; integral floats count as such, truth values do not.

    Args:
        values: of any kind.
        field: named in the reasons.
        part: named in the reasons.
        low: smallest allowed.
        high: largest allowed.

    Returns:
        int64 [N] (0 where wrong), which are right bool [N], and a reason for each wrong one.
    """
    found = _plain_integers(values)
    right = np.ones(len(values), dtype=np.bool_)
    if found is None:
        given = [_whole(value) for value in values]
        right = np.array([number is not None for number in given], dtype=np.bool_)
        found = np.array([number or 0 for number in given], dtype=np.int64)
    if low is not None:
        right &= found >= low
    if high is not None:
        right &= found <= high
    wanted = "a whole number"
    if low is not None or high is not None:
        wanted += f" {low} or more" if high is None else f" from {low} to {high}"
    reasons = _reasons(values, right, field, part, wanted)
    return np.where(right, found, 0), right, reasons


def _plain_integers(values: Sequence[Any]) -> Ints | None:
    """The quick way, for lists as they normally are; None = look at each value."""
    if not set(map(type, values)) <= {int}:
        return None
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        return None


def _whole(value: object) -> int | None:
    if isinstance(value, (bool, np.bool_)):
        return None
    if isinstance(value, numbers.Integral):
        number = int(value)
        return number if -(2**63) <= number < 2**63 else None
    if isinstance(value, numbers.Real):
        real = float(value)
        return int(real) if real.is_integer() and abs(real) <= MAX_EXACT_FLOAT else None
    return None


def finite_numbers(
    values: Sequence[Any], field: str, part: str, *, low: float | None = None
) -> tuple[Floats, Bools, list[Reason]]:
    """Finite numbers; truth values and texts are none.

    Args:
        values: of any kind.
        field: named in the reasons.
        part: named in the reasons.
        low: smallest allowed.

    Returns:
        float64 [N] (0 where wrong), which are right bool [N], and a reason for each wrong one.
    """
    found: Floats | None = None
    if set(map(type, values)) <= {float, int}:
        try:
            found = np.array(values, dtype=np.float64)
        except OverflowError:
            found = None
    if found is None:
        found = np.array([_real(value) for value in values], dtype=np.float64)
    right = np.isfinite(found)
    if low is not None:
        right &= found >= low
    wanted = "a finite number" + ("" if low is None else f", {low:g} or more")
    reasons = _reasons(values, right, field, part, wanted)
    return np.where(right, found, 0.0), right, reasons


def _real(value: object) -> float:
    if isinstance(value, (bool, np.bool_)):
        return math.nan
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return math.nan


def _reasons(
    values: Sequence[Any], right: Bools, field: str, part: str, wanted: str
) -> list[Reason]:
    return [
        Reason(
            index,
            field,
            "missing"
            if values[index] is MISSING
            else f"expected {wanted}, got {shown(values[index])}",
            part,
        )
        for index in np.flatnonzero(~right).tolist()
    ]


def repeated(ids: Ints, right: Bools, field: str, part: str) -> list[Reason]:
    """A reason for every id that stands in the list a second time."""
    where = np.flatnonzero(right)
    _, first, number = np.unique(ids[where], return_index=True, return_inverse=True)
    earlier = first[number]  # [..] position of the first one with the same id
    return [
        Reason(
            int(where[k]),
            field,
            f"{ids[where[k]]} is also that of {part} {where[earlier[k]]}",
            part,
        )
        for k in np.flatnonzero(earlier != np.arange(len(where))).tolist()
    ]


def unknown(
    ids: Ints, right: Bools, known: Ints, field: str, part: str, kind: str
) -> tuple[Bools, list[Reason]]:
    """Which ids are among the known ones, and a reason for each that is not."""
    among = np.isin(ids, known)
    return right & among, [
        Reason(k, field, f"{ids[k]} is no {kind} of the data set", part)
        for k in np.flatnonzero(right & ~among).tolist()
    ]


def in_order(broken: Sequence[Reason], others: Sequence[Reason]) -> list[Reason]:
    """All reasons in the order of the entries.

    Args:
        broken: entries that are no objects; nothing else is said about these.
        others: all else that was found.
    """
    said = {reason.index for reason in broken}
    kept = [*broken, *(reason for reason in others if reason.index not in said)]
    return sorted(kept, key=lambda reason: -1 if reason.index is None else reason.index)


def complaint(where: str, reasons: Iterable[Reason]) -> str:
    """One message: the first problems, how many more there are, and what to do."""
    found = list(reasons)
    texts = [str(reason) for reason in found[:LISTED_REASONS]]
    more = len(found) - len(texts)
    if more:
        texts.append(f"and {more} more")
    if len(found) == 1:
        return f"{where}: {texts[0]}; remove or fix it"
    return f"{where}: {len(found)} problems: {'; '.join(texts)}; remove or fix them"
