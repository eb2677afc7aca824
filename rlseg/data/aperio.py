"""Aperio's XML (ImageScope): outlines of regions, read within limits and filled as label maps.

An outline is filled by the even-odd rule at pixel centres. The centre of the pixel in row r and
column c is the point X = c, Y = r; a centre on the outline itself is inside. (Other tools leave out
some of those, or count whole pixels that the outline touches: with outlines of whole numbers the
foreground of a tile then differs by up to a tenth.) Later regions cover earlier ones.

The file is parsed in pieces by expat. Document types are refused where they begin, so that no
entity is ever declared, expanded or fetched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlseg.errors import CorruptDatasetError, DatasetNotFoundError, show
from rlseg.rle.polygons import MAX_ABS_COORDINATE, MAX_POLYGON_POINTS

MAX_XML_BYTES = 1 << 28
"""Largest file."""
MAX_XML_DEPTH = 32
"""Most elements inside each other."""
MAX_XML_ELEMENTS = 1 << 22
"""Most elements in one file."""
MAX_FILL_STEPS = 1 << 30
"""Largest sum, over the regions of a file, of the pixels of their boxes and of the rows that their
edges cross."""

ROOT, REGION, VERTEX = "Annotations", "Region", "Vertex"
LEAST_VERTICES = 3
_PIECE_BYTES = 1 << 16  # of the file, parsed at once
_CROSSINGS = 1 << 20  # of edges and rows, worked on at once

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """The regions of one file."""

    path: Path
    vertices: tuple[Floats, ...]
    """One float64 [V, 2] per region in the order of the file, V >= 3: X (column), Y (row)."""
    short: int
    """Regions left out because they have fewer than 3 vertices."""


@dataclass(frozen=True, kw_only=True)
class Filled:
    """Regions as labels."""

    labels: Tensor
    """int64 [H, W]: 0 = background, k = region k, from 1 in the order of the file, with gaps."""
    outside: int
    """Regions that lie wholly outside the image."""
    empty: int
    """Regions that reach into the image but hold no pixel centre."""
    hidden: int
    """Regions whose every pixel is covered by later regions."""


def read_outlines(
    path: Path,
    *,
    max_bytes: int = MAX_XML_BYTES,
    max_depth: int = MAX_XML_DEPTH,
    max_elements: int = MAX_XML_ELEMENTS,
) -> Outlines:
    """The outlines of all `Region` elements, whatever layer they belong to.

    Args:
        path: XML file whose root is `Annotations`; a vertex carries its place in the attributes X
            (column) and Y (row).
        max_bytes: largest file.
        max_depth: most elements inside each other.
        max_elements: most elements.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: not well formed, a document type, over a limit, another root, a
            coordinate that is no number or beyond `MAX_ABS_COORDINATE`; names the line.
    """
    reader = _Reader(path, max_depth, max_elements)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise CorruptDatasetError(
                f"{path}: {size} bytes; the limit for XML is {max_bytes}: replace the file"
            )
        with path.open("rb") as stream:
            reader.feed(stream.read, max_bytes)
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"{path}: no such file") from error
    except expat.ExpatError as error:
        raise CorruptDatasetError(
            f"{path}: line {error.lineno}: not well-formed XML "
            f"({expat.ErrorString(error.code)}); replace the file"
        ) from error
    except CorruptDatasetError:
        raise
    except OSError as error:
        raise CorruptDatasetError(f"{path}: cannot be read ({error}); replace the file") from error
    except (LookupError, ValueError) as error:  # of the encoding the file says it has
        raise CorruptDatasetError(
            f"{path}: line {reader.parser.CurrentLineNumber}: {error}; store it as UTF-8"
        ) from error
    return Outlines(path=path, vertices=tuple(reader.regions), short=reader.short)


class _Reader:
    """The handlers of one parser, and what they have found."""

    def __init__(self, path: Path, max_depth: int, max_elements: int) -> None:
        self.path, self.max_depth, self.max_elements = path, max_depth, max_elements
        self.depth = self.elements = self.short = 0
        self.regions: list[Floats] = []
        self.points: list[tuple[float, float]] | None = None
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.StartDoctypeDeclHandler = self.refuse
        self.parser.EntityDeclHandler = self.refuse
        self.parser.ExternalEntityRefHandler = self.refuse

    def feed(self, read: object, max_bytes: int) -> None:
        """Parses what `read` gives, to its end."""
        assert callable(read)
        done = 0
        while True:
            piece: bytes = read(_PIECE_BYTES)
            done += len(piece)
            if done > max_bytes:  # the file has grown since its size was asked
                self.fail(f"more than {max_bytes} bytes: replace the file")
            self.parser.Parse(piece, not piece)
            if not piece:
                return

    def fail(self, what: str) -> None:
        raise CorruptDatasetError(f"{self.path}: line {self.parser.CurrentLineNumber}: {what}")

    def refuse(self, *_: object) -> int:
        self.fail("declares a document type or entities, which are never read; remove them")
        return 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        self.elements += 1
        if self.depth > self.max_depth:
            self.fail(f"more than {self.max_depth} elements inside each other; replace the file")
        if self.elements > self.max_elements:
            self.fail(f"more than {self.max_elements} elements; cut the annotations into tiles")
        if self.depth == 1 and tag != ROOT:
            self.fail(f"the root element is {show(tag)}, expected '{ROOT}': no Aperio annotations")
        if tag == REGION:
            if self.points is not None:
                self.fail("a Region inside a Region; replace the file")
            self.points = []
        elif tag == VERTEX:
            if self.points is None:
                self.fail("a Vertex outside of every Region; replace the file")
                return
            if len(self.points) == MAX_POLYGON_POINTS:
                self.fail(f"a Region of more than {MAX_POLYGON_POINTS} vertices; simplify it")
            self.points.append((self.coordinate(attributes, "X"), self.coordinate(attributes, "Y")))

    def end(self, tag: str) -> None:
        self.depth -= 1
        if tag != REGION or self.points is None:
            return
        if len(self.points) < LEAST_VERTICES:
            self.short += 1
        else:
            self.regions.append(np.array(self.points, dtype=np.float64))
        self.points = None

    def coordinate(self, attributes: dict[str, str], name: str) -> float:
        text = attributes.get(name)
        try:
            # Python alone reads "1_0" as 10.
            value = math.nan if text is None or "_" in text else float(text)
        except ValueError:
            value = math.nan
        if not abs(value) <= MAX_ABS_COORDINATE:  # NaN is not
            self.fail(
                f"Vertex, '{name}': expected a number of at most {MAX_ABS_COORDINATE:.0f}, got "
                f"{show(text)}; correct it"
            )
        return value


def fill(outlines: Outlines, height: int, width: int) -> Filled:
    """The regions as a label map of an image's size.

    Args:
        outlines: from `read_outlines`.
        height: rows of the image, at least 1.
        width: columns of the image, at least 1.

    Raises:
        CorruptDatasetError: the regions would take more than `MAX_FILL_STEPS` to fill.
    """
    labels = np.zeros((height, width), dtype=np.int64)
    outside = empty = steps = drawn = 0
    for number, vertices in enumerate(outlines.vertices, start=1):
        x, y = vertices.T
        if x.max() < 0 or y.max() < 0 or x.min() > width - 1 or y.min() > height - 1:
            outside += 1
            continue
        rows = slice(max(0, math.ceil(y.min())), min(height, math.floor(y.max()) + 1))
        columns = slice(max(0, math.ceil(x.min())), min(width, math.floor(x.max()) + 1))
        first, last = _edge_rows(vertices, rows)
        steps += (rows.stop - rows.start) * (columns.stop - columns.start)
        steps += int((last - first).sum())
        if steps > MAX_FILL_STEPS:
            raise CorruptDatasetError(
                f"{outlines.path}: filling its regions takes more than {MAX_FILL_STEPS} steps by "
                f"region {number} of {len(outlines.vertices)}: too many large outlines"
            )
        inside = _inside(vertices, rows, columns, first, last)
        if inside.any():
            labels[rows, columns][inside] = number
            drawn += 1
        else:
            empty += 1
    present = np.unique(labels)
    return Filled(
        labels=torch.from_numpy(labels),
        outside=outside,
        empty=empty,
        hidden=drawn - int((present > 0).sum()),
    )


def fill_polygon(vertices: Sequence[Sequence[float]], height: int, width: int) -> Tensor:
    """The pixels whose centres one outline encloses.

    Args:
        vertices: V >= 1 pairs of X (column) and Y (row); the last is joined to the first.
        height: rows of the image, at least 1.
        width: columns of the image, at least 1.

    Returns:
        bool [H, W].
    """
    array = np.array(vertices, dtype=np.float64).reshape(-1, 2)
    filled = fill(Outlines(path=Path("outline"), vertices=(array,), short=0), height, width)
    return filled.labels > 0


def _edge_rows(vertices: Floats, rows: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First row that each edge crosses, and the one after the last; int64 [V] each."""
    here, there = vertices[:, 1], np.roll(vertices[:, 1], -1)
    low, high = np.ceil(np.minimum(here, there)), np.ceil(np.maximum(here, there))
    first = np.clip(low, rows.start, rows.stop).astype(np.int64)
    last = np.clip(high, rows.start, rows.stop).astype(np.int64)
    return first, last


def _inside(
    vertices: Floats,
    rows: slice,
    columns: slice,
    first: NDArray[np.int64],
    last: NDArray[np.int64],
) -> Bools:
    """Pixels with an odd number of edges to their left, and those on an edge: [rows, columns]."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if height <= 0 or width <= 0:
        return np.zeros((max(height, 0), max(width, 0)), dtype=np.bool_)
    following = np.roll(vertices, -1, axis=0)
    ends = np.cumsum(last - first)
    changes = np.zeros(height * (width + 1), dtype=np.bool_)
    touched = _on_outline(vertices, following, rows, columns)
    for start in range(0, int(ends[-1]), _CROSSINGS):
        place = np.arange(start, min(start + _CROSSINGS, int(ends[-1])))
        edge = np.searchsorted(ends, place, side="right")
        row = last[edge] - (ends[edge] - place)
        (x, y), (next_x, next_y) = vertices[edge].T, following[edge].T
        # Always from the upper end, so that an edge walked in either direction gives one number.
        down = y < next_y
        top_x, top_y = np.where(down, x, next_x), np.where(down, y, next_y)
        low_x, low_y = np.where(down, next_x, x), np.where(down, next_y, y)
        crossing = top_x + (row - top_y) * (low_x - top_x) / (low_y - top_y)
        column = np.ceil(crossing)
        within = (column == crossing) & (column >= columns.start) & (column < columns.stop)
        cell = row - rows.start
        touched[cell[within], column[within].astype(np.int64) - columns.start] = True
        column = np.clip(column, columns.start, columns.stop).astype(np.int64) - columns.start
        np.logical_xor.at(changes, cell * (width + 1) + column, True)
    parity = np.logical_xor.accumulate(changes.reshape(height, width + 1), axis=1)
    return np.asarray(parity[:, :width] | touched, dtype=np.bool_)


def _on_outline(vertices: Floats, following: Floats, rows: slice, columns: slice) -> Bools:
    """Pixels whose centre is a vertex or lies on a level edge: bool [rows, columns]."""
    x, y = vertices.T
    # A vertex is a level edge of one point; both are runs of pixels in one row.
    to_x = np.concatenate([x, np.where(following[:, 1] == y, following[:, 0], x)])
    from_x, at_y = np.concatenate([x, x]), np.concatenate([y, y])
    left = np.clip(np.ceil(np.minimum(from_x, to_x)), columns.start, columns.stop)
    right = np.clip(np.floor(np.maximum(from_x, to_x)) + 1, columns.start, columns.stop)
    kept = (at_y == np.floor(at_y)) & (at_y >= rows.start) & (at_y < rows.stop) & (left < right)
    row = at_y[kept].astype(np.int64) - rows.start
    depth = np.zeros((rows.stop - rows.start, columns.stop - columns.start + 1), dtype=np.int32)
    np.add.at(depth, (row, left[kept].astype(np.int64) - columns.start), 1)
    np.add.at(depth, (row, right[kept].astype(np.int64) - columns.start), -1)
    return np.asarray(depth.cumsum(axis=1)[:, :-1] > 0, dtype=np.bool_)
