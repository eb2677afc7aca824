"""The compressed string form of COCO run lengths, for many masks at once.

A number is written in two's complement, five bits per character and the lowest first; character
code = 48 + bits + (32 if more characters follow). From the fourth run of a mask on, the number is
the difference to the run two places before. All masks of a file are read from one buffer with
array operations; nothing here allocates more than a few numbers per character that was given.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_RLE_CHARS = 7
"""Most characters of one number in a compressed run-length string (35 bits)."""

_FIRST, _LAST = 48, 111  # lowest and highest character code of the format
_BITS = 5  # payload of one character
_MORE = 32  # set in every character but the last of a number
_SIGN = 16  # highest payload bit; in the last character it is the sign


def write(counts: Ints, starts: Ints) -> list[str]:
    """Compressed strings of run lengths.

    Args:
        counts: int64 [L], runs of all masks, one mask after the other; each below 2^59.
        starts: int64 [N + 1], mask k owns `counts[starts[k]:starts[k + 1]]`.

    Returns:
        N strings of characters 48..111, the same as the COCO tools write.
    """
    numbers = counts.copy()
    numbers[2:] -= counts[:-2]
    for place in range(3):  # the first three runs of a mask are written as they are
        index = starts[:-1] + place
        index = index[index < starts[1:]]
        numbers[index] = counts[index]
    magnitude = numbers ^ (numbers >> 63)  # bits needed besides the sign
    sizes = np.ones(len(numbers), dtype=np.uint8)  # characters per number
    bound, largest = _SIGN, int(magnitude.max(initial=0))
    while largest >= bound:
        sizes += magnitude >= bound
        bound <<= _BITS
    ends = np.cumsum(sizes, dtype=np.int64)
    text = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
    places, left = ends - sizes, numbers  # where the next character goes, what is left to write
    while len(left):
        more = sizes > 1
        text[places] = (left & (2**_BITS - 1)).astype(np.uint8) + (_FIRST + _MORE * more)
        places, left, sizes = places[more] + 1, left[more] >> _BITS, sizes[more] - np.uint8(1)
    joined = text.tobytes().decode("ascii")
    borders = np.concatenate([[0], ends])[starts].tolist()
    return [joined[a:b] for a, b in pairwise(borders)]


def read(
    text: bytes, lengths: Ints, largest: int, max_characters: int = MAX_RLE_CHARS
) -> tuple[Ints, Ints, Bools]:
    """Run lengths of compressed strings.

    Args:
        text: all strings, one after the other, none empty.
        lengths: int64 [N], characters per string; they sum to `len(text)`.
        largest: a run above this makes its mask faulty; at most 2^34.
        max_characters: so does a number of more characters; at most 12.

    Returns:
        (counts int64 [L], starts int64 [N + 1], faulty bool [N]). Runs of a faulty mask are all
        zero; a mask is faulty if `explain` has something to say about its string. Runs are in
        0..largest; their sum is not checked here.
    """
    if not len(lengths):
        return np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, bool)
    characters = np.frombuffer(text, dtype=np.uint8) - np.uint8(_FIRST)
    string_ends = np.cumsum(lengths)
    faulty = characters[string_ends - 1] >= _MORE  # the last number does not end
    if int(characters.max()) > _LAST - _FIRST:
        outside = np.flatnonzero(characters > _LAST - _FIRST)
        faulty[np.searchsorted(string_ends, outside, side="right")] = True
    if faulty.any():
        characters[np.repeat(faulty, lengths)] = 0
    number_ends = np.flatnonzero(characters < _MORE)
    starts = np.concatenate([[0], np.searchsorted(number_ends, string_ends)])
    numbers, long = _numbers(characters, number_ends, max_characters)
    wrong = [long, np.flatnonzero(np.abs(numbers) > largest)]
    numbers[wrong[1]] = 0  # keeps the sums below from overflowing
    counts = _undo_differences(numbers, starts)
    # As unsigned numbers, negative runs are huge.
    wrong.append(np.flatnonzero(counts.view(np.uint64) > np.uint64(largest)))
    places = np.concatenate(wrong)
    if len(places):
        faulty[np.searchsorted(starts, places, side="right") - 1] = True
    if faulty.any():
        counts[np.repeat(faulty, np.diff(starts))] = 0
    return counts, starts, faulty


def _numbers(characters: NDArray[np.uint8], ends: Ints, max_characters: int) -> tuple[Ints, Ints]:
    """Value of each number by the index of its last character; and which numbers are too long."""
    payload = characters & np.uint8(2**_BITS - 1)
    sizes = np.diff(ends, prepend=-1)  # characters per number
    values = (payload[ends].astype(np.int64) ^ _SIGN) - _SIGN  # sign-extended
    index = np.flatnonzero(sizes > 1)
    for place in range(1, max_characters):
        if not len(index):
            break
        values[index] = (values[index] << _BITS) | payload[ends[index] - place]
        index = index[sizes[index] > place + 1]
    return values, index


def _undo_differences(numbers: Ints, starts: Ints) -> Ints:
    """Runs from the written numbers: sums over every second number, from the second run on."""
    sums = np.empty_like(numbers)
    for parity in range(2):
        np.cumsum(numbers[parity::2], out=sums[parity::2])
    first = starts[:-1]
    before = np.where(first > 0, sums[first - 1], 0)  # sum in front of runs 1, 3, 5, ...
    for parity in range(2):
        # In this half, a mask is one slice; what precedes it is one number per mask.
        per_mask = np.diff((starts + 1 - parity) // 2)
        same = (first & 1) == parity
        sums[parity::2] -= np.repeat(np.where(same, sums[first], before), per_mask)
    sums[first] = numbers[first]
    return sums


def explain(string: str | bytes, largest: int, max_characters: int = MAX_RLE_CHARS) -> str | None:
    """What is wrong with one compressed string, or None.

    Args:
        string: any characters or bytes.
        largest: the most pixels that a run may have; at most 2^34.
        max_characters: the most characters that a number may have; at most 12.
    """
    if not string:
        return "expected run lengths, got an empty string"
    if isinstance(string, str):
        codes = np.frombuffer(string.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    else:
        codes = np.frombuffer(string, dtype=np.uint8)
    outside = np.flatnonzero((codes < _FIRST) | (codes > _LAST))
    if len(outside):
        place = int(outside[0])
        return f"expected characters 48 to 111, got {codes[place]} at position {place}"
    characters = (codes - _FIRST).astype(np.uint8)
    if characters[-1] >= _MORE:
        place = len(characters) - 1
        return f"expected the last number to end, got {codes[-1]} at the last position, {place}"
    ends = np.flatnonzero(characters < _MORE)
    numbers, long = _numbers(characters, ends, max_characters)
    first = int(ends[long[0] - 1] + 1 if len(long) and long[0] else 0)
    if len(long):
        return f"expected at most {max_characters} characters per number, got more from {first} on"
    too_large = np.abs(numbers) > largest
    numbers[too_large] = 0
    counts = _undo_differences(numbers, np.array([0, len(numbers)]))
    wrong = np.flatnonzero(too_large | (counts < 0) | (counts > largest))
    if not len(wrong):
        return None
    run, place = int(wrong[0]), int(ends[wrong[0]])
    what = "a negative run" if counts[run] < 0 and not too_large[run] else "a number beyond it"
    return f"expected runs from 0 to {largest} pixels, got {what} (run {run}, position {place})"
