import random
import time
from fractions import Fraction

import numpy as np
import pytest
import torch

from rlseg.data import aperio
from rlseg.data.aperio import fill, fill_polygon, read_outlines
from rlseg.data.monuseg import MoNuSeg, Options, check, open_splits
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError, RlsegError
from tests.fake.monuseg import TESTING, TRAINING, square, write_monuseg, xml

HEADER = '<?xml version="1.0"?>\n'


def written(tmp_path, text):
    path = tmp_path / "tile.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def slow_inside(vertices, row, column):
    """Even-odd rule with exact fractions, and points on the outline inside."""
    x, y = Fraction(column), Fraction(row)
    crossings = 0
    corners = [(Fraction(a), Fraction(b)) for a, b in vertices]
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        across = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
        between = min(x0, x1) <= x <= max(x0, x1) and min(y0, y1) <= y <= max(y0, y1)
        if across == 0 and between:
            return True
        if (y0 <= y) != (y1 <= y):
            crossings += x0 + (y - y0) * (x1 - x0) / (y1 - y0) < x
    return crossings % 2 == 1


@pytest.mark.parametrize("step", [Fraction(1), Fraction(1, 2), Fraction(1, 8)])
def test_filling_equals_the_rule_pixel_by_pixel(step):
    dice = random.Random(int(1 / step))
    for _ in range(60):
        corners = dice.randint(1, 9)
        vertices = [
            (float(step * dice.randint(-24, 96)), float(step * dice.randint(-24, 96)))
            for _ in range(corners)
        ]
        filled = fill_polygon(vertices, 9, 11)
        slow = [[slow_inside(vertices, row, column) for column in range(11)] for row in range(9)]
        assert filled.tolist() == slow, vertices


def test_filling_in_pieces_equals_filling_at_once(monkeypatch):
    angles = np.linspace(0, 2 * np.pi, 50, endpoint=False)
    star = np.stack([30 + 28 * np.cos(7 * angles), 25 + 28 * np.sin(3 * angles)], axis=1)
    whole = fill_polygon(star, 50, 60)
    monkeypatch.setattr(aperio, "_CROSSINGS", 7)
    assert torch.equal(fill_polygon(star, 50, 60), whole)
    assert 0 < whole.sum() < 3000


def test_outlines_are_read(tmp_path):
    text = xml([[(1, 2), (3.5, 2), (3, -4.25)], square(5, 6, 3)])
    found = read_outlines(written(tmp_path, HEADER + text))
    assert found.vertices[0].tolist() == [[1, 2], [3.5, 2], [3, -4.25]]
    assert [len(vertices) for vertices in found.vertices] == [3, 4]
    assert found.short == 0
    filled = fill(found, 12, 12)
    assert (filled.labels == 2).sum() == 9
    assert (filled.labels == 2)[5:8, 6:9].all()


def test_encodings(tmp_path):
    text = xml([square(0, 0, 4)])
    for encoding in ("utf-8", "utf-16", "iso-8859-1", "cp1252"):
        head = f'<?xml version="1.0" encoding="{encoding}"?>\n'
        assert len(read_outlines(written(tmp_path, (head + text).encode(encoding))).vertices) == 1
    for encoding, message in (("klingon", "unknown encoding"), ("shift_jis", "multi-byte")):
        head = f'<?xml version="1.0" encoding="{encoding}"?>\n'
        with pytest.raises(CorruptDatasetError, match=f"line 1: {message}"):
            read_outlines(written(tmp_path, head + text))
    with pytest.raises(DatasetNotFoundError, match="no such file"):
        read_outlines(tmp_path / "absent.xml")
    with pytest.raises(CorruptDatasetError, match="cannot be read"):
        read_outlines(tmp_path)


LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
DECLARED = {
    "laughs": f'<!DOCTYPE Annotations [<!ENTITY a0 "ha">{LAUGHS}]>\n<Annotations>&a11;',
    "quadratic": f'<!DOCTYPE x [<!ENTITY a "{"a" * 100_000}">]>\n<Annotations>{"&a;" * 50_000}',
    "external": '<!DOCTYPE x [<!ENTITY a SYSTEM "CANARY">]>\n<Annotations>&a;',
    "parameter": '<!DOCTYPE x [<!ENTITY % a SYSTEM "CANARY"> %a;]>\n<Annotations>',
    "subset": '<!DOCTYPE Annotations SYSTEM "CANARY">\n<Annotations>',
    "bare": "<!DOCTYPE Annotations>\n<Annotations>",
}


@pytest.mark.parametrize("kind", DECLARED)
def test_fault_x1_document_types_are_refused(tmp_path, kind):
    """A canary that is a pipe would block whoever opens it."""
    import os

    canary = tmp_path / "canary"
    os.mkfifo(canary)
    text = DECLARED[kind].replace("CANARY", canary.as_uri()) + "</Annotations>"
    start = time.perf_counter()
    with pytest.raises(CorruptDatasetError, match=r"tile\.xml: line 1: declares a document type"):
        read_outlines(written(tmp_path, text))
    assert time.perf_counter() - start < 1


def test_fault_x1_an_entity_without_a_document_type_is_not_well_formed(tmp_path):
    with pytest.raises(CorruptDatasetError, match=r"line 2: not well-formed XML .undefined entity"):
        read_outlines(written(tmp_path, "<Annotations>\n&lol;</Annotations>"))


def test_fault_x2_depth(tmp_path):
    deep = "<Annotations>" + "\n<a>" * 31 + "</a>" * 31 + "</Annotations>"
    assert read_outlines(written(tmp_path, deep)).vertices == ()
    with pytest.raises(CorruptDatasetError, match="line 32: more than 31 elements inside"):
        read_outlines(written(tmp_path, deep), max_depth=31)
    bottomless = "<Annotations>" + "<a>" * 200_000
    with pytest.raises(CorruptDatasetError, match="line 1: more than 32 elements inside"):
        read_outlines(written(tmp_path, bottomless))


def test_fault_x2_elements_and_bytes(tmp_path):
    path = written(tmp_path, "<Annotations>" + "\n<a/>" * 50 + "</Annotations>")
    assert read_outlines(path, max_elements=51).vertices == ()
    with pytest.raises(CorruptDatasetError, match="line 51: more than 50 elements"):
        read_outlines(path, max_elements=50)
    size = path.stat().st_size
    assert read_outlines(path, max_bytes=size).vertices == ()
    with pytest.raises(CorruptDatasetError, match=f"{size} bytes; the limit for XML is {size - 1}"):
        read_outlines(path, max_bytes=size - 1)


def test_fault_x2_a_sparse_file_over_the_limit_is_not_read(tmp_path):
    path = tmp_path / "tile.xml"
    with path.open("wb") as stream:
        stream.truncate(aperio.MAX_XML_BYTES + 1)
    start = time.perf_counter()
    with pytest.raises(CorruptDatasetError, match="the limit for XML"):
        read_outlines(path)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: not well-formed XML .no element found"),
        ("not xml", "line 1: not well-formed"),
        ("<Annotations>\n\n<Region>", "line 3: not well-formed"),
        ("<Annotations>\n</Region>", "line 2: not well-formed XML .mismatched tag"),
        (b"<Annotations>\n\xff\xfe</Annotations>", "line 2: not well-formed"),
        ("<Annotations/>\n<Annotations/>", "line 2: not well-formed"),
        ("\n<html><body/></html>", "line 2: the root element is 'html', expected 'Annotations'"),
        ("<Annotations>\n<Region><Region/></Region></Annotations>", "line 2: a Region inside"),
        ('<Annotations>\n<Vertex X="1" Y="1"/></Annotations>', "line 2: a Vertex outside"),
    ],
)
def test_fault_x2_not_well_formed_or_another_root(tmp_path, text, message):
    with pytest.raises(CorruptDatasetError, match=message):
        read_outlines(written(tmp_path, text))


def test_fault_x3_no_regions_and_short_regions(tmp_path):
    empty = read_outlines(written(tmp_path, "<Annotations><Annotation/></Annotations>"))
    assert (empty.vertices, empty.short) == ((), 0)
    assert fill(empty, 4, 5).labels.tolist() == [[0] * 5] * 4
    some = [[], [(1, 1)], [(1, 1), (3, 3)], square(0, 0, 3)]
    found = read_outlines(written(tmp_path, xml(some)))
    assert (len(found.vertices), found.short) == (1, 3)
    assert int(fill(found, 5, 5).labels.max()) == 1


@pytest.mark.parametrize("bad", ["", "x", "nan", "inf", "-inf", "1e7", "1_0", "0x1", "1,5"])
def test_fault_x3_a_vertex_that_is_no_number(tmp_path, bad):
    text = xml([[(1, 1), (2, 2), (3, 1)], [(1, 1), (bad, 2), (3, 1)]])
    line = next(n for n, row in enumerate(text.splitlines(), start=1) if f'X="{bad}"' in row)
    with pytest.raises(CorruptDatasetError, match=f"line {line}: Vertex, 'X': expected a number"):
        read_outlines(written(tmp_path, text))


def test_fault_x3_a_vertex_without_a_coordinate(tmp_path):
    text = xml([square(1, 1, 3)]).replace('Y="1"', "", 1)
    with pytest.raises(CorruptDatasetError, match=r"line 4: Vertex, 'Y': .* got nothing"):
        read_outlines(written(tmp_path, text))


def test_fault_x4_self_crossing_is_even_odd():
    tie = [(0, 0), (8, 8), (8, 0), (0, 8)]  # a bow tie: two triangles that meet in the middle
    filled = fill_polygon(tie, 9, 9)
    assert filled[4].all()
    assert filled[:, 4].tolist() == [row == 4 for row in range(9)]
    around_twice = [*square(0, 0, 9), (0, 0), *square(2, 2, 5), (2, 2)]
    ring = fill_polygon(around_twice, 9, 9)
    expected = torch.ones(9, 9, dtype=torch.bool)
    expected[3:6, 3:6] = False  # inside both squares, and on neither outline
    assert torch.equal(ring, expected)


def test_fault_x4_partly_outside_is_clipped_and_wholly_outside_is_counted(tmp_path):
    regions = [
        [(-5, -5), (2, -5), (2, 2), (-5, 2)],
        [(20, 1), (25, 1), (25, 5)],
        [(-9, -9), (-0.5, -9), (-0.5, 9)],
        [(1002, 3), (1002.5, 3), (1002, 4)],
        [(7, 7), (1e6, 7), (1e6, 1e6), (7, 1e6)],
    ]
    filled = fill(read_outlines(written(tmp_path, xml(regions))), 10, 10)
    assert (filled.outside, filled.empty, filled.hidden) == (3, 0, 0)
    expected = torch.zeros(10, 10, dtype=torch.int64)
    expected[:3, :3], expected[7:, 7:] = 1, 5
    assert torch.equal(filled.labels, expected)


def test_fault_x4_later_regions_win_and_hidden_ones_are_counted(tmp_path):
    regions = [
        square(0, 0, 4),
        square(2, 2, 4),
        square(7, 7, 2),
        square(6, 6, 4),
        [(0.2, 8.2), (0.8, 8.2), (0.5, 8.8)],
    ]
    filled = fill(read_outlines(written(tmp_path, xml(regions))), 10, 10)
    assert (filled.labels[2, 2], filled.labels[1, 1], filled.labels[8, 8]) == (2, 1, 4)
    assert (filled.outside, filled.empty, filled.hidden) == (0, 1, 1)


def test_fault_x4_xml_without_image_or_the_reverse(tmp_path):
    write_monuseg(tmp_path)
    (next((tmp_path / TRAINING / "Tissue Images").iterdir())).unlink()
    (next((tmp_path / TESTING).glob("*.xml"))).unlink()
    with pytest.raises(CorruptDatasetError, match=r"no image file.*1 more like it"):
        open_splits(tmp_path, Options())
    assert len([p for p in check(tmp_path, Options()) if not p.note]) == 2


def test_fault_x4_a_split_without_any_xml_is_unlabelled(tmp_path):
    write_monuseg(tmp_path)
    for path in (tmp_path / TESTING).glob("*.xml"):
        path.unlink()
    test = open_splits(tmp_path, Options()).split("test")
    assert len(test) == 2
    assert not test[0].valid.any()
    assert not [p for p in check(tmp_path, Options()) if not p.note]
    with pytest.raises(RlsegError, match="no XML file"):
        MoNuSeg(test.dataset.records).outlines(0)


def test_too_much_to_fill_is_refused_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(aperio, "MAX_FILL_STEPS", 1000)
    found = read_outlines(written(tmp_path, xml([square(0, 0, 20)] * 5)))
    with pytest.raises(CorruptDatasetError, match="more than 1000 steps by region 3 of 5"):
        fill(found, 30, 30)


def test_random_edits_give_a_result_or_an_error_of_ours(tmp_path):
    dice = random.Random(0)
    good = (HEADER + xml([square(3, 4, 9), square(20, 18, 12)])).encode()
    outcomes = set()
    for _ in range(1500):
        damaged = bytearray(good)
        for _ in range(dice.randint(1, 6)):
            place = dice.randrange(len(damaged))
            how = dice.randrange(3)
            if how == 0:
                damaged[place] = dice.randrange(256)
            elif how == 1:
                del damaged[place : place + dice.randint(1, 30)]
            else:
                damaged[place:place] = damaged[:place][-dice.randint(1, 40) :]
        path = written(tmp_path, bytes(damaged))
        try:
            fill(read_outlines(path), 30, 30)
            outcomes.add("read")
        except RlsegError as error:
            outcomes.add(str(error)[: len(str(path))])
    assert outcomes == {"read", str(path)}
