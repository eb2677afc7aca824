"""Tables of results: drawn on a terminal, plain columns elsewhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TextIO


def draw(
    titles: Sequence[str],
    lines: Sequence[Sequence[str]],
    stream: TextIO,
    *,
    words: Collection[str] = (),
    titled: bool = True,
) -> None:
    """Writes a table.

    Args:
        titles: of the columns.
        lines: cells of each row, as many as titles.
        stream: a terminal, or anything else that takes text; elsewhere no width cuts cells off.
        words: titles of columns that begin at the left; the others hold numbers.
        titled: whether plain columns have titles; a drawn table always has.
    """
    if stream.isatty():
        _drawn(titles, lines, stream, words)
    else:
        _plain(titles, lines, stream, words, titled)


def shown(value: object) -> str:
    """A cell: 4 decimals for scores, "undefined" for nan, lists of numbers side by side."""
    if isinstance(value, float):
        return "undefined" if math.isnan(value) else f"{value:.4f}"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(
    titles: Sequence[str],
    lines: Sequence[Sequence[str]],
    stream: TextIO,
    words: Collection[str],
    titled: bool,
) -> None:
    table = [titles, *lines] if titled else lines
    if not table:
        return
    widths = [max(len(line[k]) for line in table) for k in range(len(titles))]
    for line in table:
        cells = (
            cell.ljust(width) if title in words else cell.rjust(width)
            for cell, width, title in zip(line, widths, titles, strict=True)
        )
        stream.write("  ".join(cells).rstrip() + "\n")


def _drawn(
    titles: Sequence[str], lines: Sequence[Sequence[str]], stream: TextIO, words: Collection[str]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for title in titles:
        table.add_column(title, justify="left" if title in words else "right")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))  # as it is: "[x]" in a name is no style
    Console(file=stream).print(table)
