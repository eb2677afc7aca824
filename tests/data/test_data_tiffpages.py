"""Plain TIFF pages: the same numbers as Pillow, or Pillow's own answer."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rlseg.data import images
from rlseg.data.images import read_image, read_label_array, stack_shape
from rlseg.data.tiffpages import plain_pages
from rlseg.errors import CorruptDatasetError

LIMIT = 1 << 20


def write(path, arrays, **settings):
    first, *rest = [Image.fromarray(array) for array in arrays]
    first.save(path, save_all=True, append_images=rest, **settings)
    return path


def numbers(kind, count=3, sides=(11, 7), seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(kind).max + 1, (count, *sides)).astype(kind)


def by_pillow(monkeypatch, read, *args, **settings):
    """What is read, or the error, with the direct reader switched off."""
    with monkeypatch.context() as patch:
        patch.setattr(images, "plain_pages", lambda path, max_pixels: None)
        return outcome(read, *args, **settings)


def outcome(read, *args, **settings):
    try:
        return np.asarray(read(*args, **settings))
    except CorruptDatasetError as error:
        return str(error)


def alike(a, b):
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and a == b
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"compression": "tiff_adobe_deflate"},
        {"compression": "tiff_deflate"},
        {"tiffinfo": {278: 4}},
        {"big_tiff": True},
        {"compression": "tiff_lzw"},
        {"compression": "packbits"},
        {"compression": "tiff_adobe_deflate", "tiffinfo": {317: 2}},
        {"tiffinfo": {274: 6}},
    ],
    ids=str,
)
def test_same_numbers_as_pillow(tmp_path, monkeypatch, kind, count, settings):
    path = write(tmp_path / "a.tif", numbers(kind, count), **settings)
    for read in (read_label_array, read_image):
        assert alike(outcome(read, path), by_pillow(monkeypatch, read, path))
    assert alike(
        outcome(read_image, path, channels=3), by_pillow(monkeypatch, read_image, path, channels=3)
    )
    for frames in (range(1), range(count - 1, count), range(0, count, 2)):
        for read in (read_label_array, read_image):
            a = outcome(read, path, frames=frames)
            assert alike(a, by_pillow(monkeypatch, read, path, frames=frames))
    assert stack_shape(path) == tuple(by_pillow(monkeypatch, stack_shape, path))


@pytest.mark.parametrize("settings", [{}, {"compression": "tiff_adobe_deflate"}], ids=str)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_what_is_plain_is_read_directly(tmp_path, settings, kind):
    made = numbers(kind)
    pages = plain_pages(write(tmp_path / "a.tif", made, **settings), LIMIT)
    assert pages.shape == (3, 11, 7)
    assert np.array_equal(pages.read(), made)
    assert np.array_equal(pages.read(range(1, 2)), made[1:2])
    assert pages.read(range(2, 4)) is None
    assert pages.read(range(0)) is None


def test_what_is_not_plain_is_left_to_pillow(tmp_path):
    def saved(name, picture, **settings):
        picture.save(tmp_path / name, **settings)
        return tmp_path / name

    grey = Image.fromarray(numbers(np.uint8)[0])
    paths = [
        saved("colour.tif", grey.convert("RGB")),
        saved("palette.tif", grey.convert("P")),
        saved("bits.tif", grey.convert("1")),
        saved("alpha.tif", grey.convert("LA")),
        saved("signed.tif", Image.fromarray(numbers(np.uint16)[0]), tiffinfo={339: 2}),
        saved("floats.tif", Image.fromarray(np.ones((3, 4), dtype=np.float32))),
        saved("white.tif", grey, tiffinfo={262: 0}),
        saved("other.png", grey),
        write(tmp_path / "sizes.tif", [np.zeros((4, 4), np.uint8), np.zeros((5, 4), np.uint8)]),
        write(tmp_path / "types.tif", [np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint16)]),
        tmp_path / "absent.tif",
    ]
    (tmp_path / "empty.tif").touch()
    for path in [*paths, tmp_path / "empty.tif"]:
        assert plain_pages(path, LIMIT) is None, path


def test_big_endian(tmp_path, monkeypatch):
    made = numbers(np.uint16, count=1)[0]
    rows, columns = made.shape
    tags = [(256, columns), (257, rows), (258, 16), (259, 1), (262, 1), (273, 8)]
    tags += [(277, 1), (278, rows), (279, made.nbytes)]
    body = made.astype(">u2").tobytes()
    table = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    path = tmp_path / "a.tif"
    offset = 8 + len(body)
    head = b"MM\0*" + struct.pack(">I", offset)
    path.write_bytes(head + body + struct.pack(">H", len(tags)) + table + bytes(4))
    assert np.array_equal(plain_pages(path, LIMIT).read()[0], made)
    assert alike(outcome(read_image, path), by_pillow(monkeypatch, read_image, path))


def test_limits_come_before_reading(tmp_path):
    path = write(tmp_path / "a.tif", numbers(np.uint8))
    assert plain_pages(path, 3 * 77).shape == (3, 11, 7)
    assert plain_pages(path, 3 * 77 - 1) is None
    with pytest.raises(CorruptDatasetError, match=r"pixels|pages"):
        read_image(path, max_pixels=100)


def test_a_strip_that_unpacks_to_more_is_not_taken(tmp_path):
    made = np.zeros((2, 64, 64), dtype=np.uint8)
    path = write(tmp_path / "a.tif", made, compression="tiff_adobe_deflate")
    page = plain_pages(path, LIMIT).pages[0]
    raw = bytearray(path.read_bytes())
    longer = zlib.compress(bytes(64 * 64 + 1), 9)
    assert len(longer) <= page.counts[0]
    raw[page.offsets[0] : page.offsets[0] + len(longer)] = longer
    path.write_bytes(raw)
    assert plain_pages(path, LIMIT).read() is None


@pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate"])
def test_damage_gives_pillows_answer_or_the_same_numbers(tmp_path, monkeypatch, compression):
    """Cut anywhere, any byte changed: what Pillow gives, or the undamaged numbers.

    For a change that the numbers do not depend on Pillow refuses the file, or repeats a page.
    """
    made = numbers(np.uint8, count=2, sides=(5, 6))
    path = write(tmp_path / "a.tif", made, compression=compression)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        a, b = outcome(read_label_array, path), by_pillow(monkeypatch, read_label_array, path)
        assert alike(a, b), (length, a, b)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        direct = plain_pages(path, LIMIT)
        if direct is None or direct.read() is None:
            continue  # Pillow answers
        a, b = outcome(read_label_array, path), by_pillow(monkeypatch, read_label_array, path)
        assert alike(a, b) or np.array_equal(a, made), (place, a, b)


def test_pages_in_a_circle(tmp_path):
    path = write(tmp_path / "a.tif", numbers(np.uint8))
    raw = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", raw, 4)
    (tags,) = struct.unpack_from("<H", raw, first)
    struct.pack_into("<I", raw, first + 2 + 12 * tags, first)
    path.write_bytes(raw)
    assert plain_pages(path, LIMIT) is None
    with pytest.raises(CorruptDatasetError, match="returns to byte"):
        read_image(path)


def table_of(path, page):
    """Offset of the first entry of a page's table, and how many it has."""
    raw = path.read_bytes()
    (place,) = struct.unpack_from("<I", raw, 4)
    for _ in range(page):
        (tags,) = struct.unpack_from("<H", raw, place)
        (place,) = struct.unpack_from("<I", raw, place + 2 + 12 * tags)
    return place + 2, struct.unpack_from("<H", raw, place)[0]


@pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate"])
@pytest.mark.parametrize("page", [1, 2])
def test_every_entry_of_later_pages_counts(tmp_path, monkeypatch, compression, page):
    """Any byte of a table that is like the one before it, changed: Pillow's answer or none."""
    made = numbers(np.uint8, count=3, sides=(5, 6))
    path = write(tmp_path / "a.tif", made, compression=compression)
    whole = path.read_bytes()
    start, tags = table_of(path, page)
    taken = 0
    for place in range(start, start + 12 * tags):
        for change in (0x01, 0x5A, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            direct = plain_pages(path, LIMIT)
            stack = None if direct is None else direct.read()
            if stack is not None:
                taken += 1
                b = by_pillow(monkeypatch, read_label_array, path)
                assert alike(stack, b) or np.array_equal(stack, made), (place, change, b)
    assert taken < 3 * 12 * tags / 2


def test_a_later_page_with_a_tag_more_is_looked_at(tmp_path):
    path = write(tmp_path / "a.tif", numbers(np.uint8))
    start, tags = table_of(path, 1)
    raw = path.read_bytes()
    table, following = (
        raw[start : start + 12 * tags],
        raw[start + 12 * tags : start + 12 * tags + 4],
    )
    for tag, plain in ((65000, True), (322, False)):
        longer = struct.pack("<H", tags + 1) + table + struct.pack("<HHII", tag, 4, 1, 8)
        first, count = table_of(path, 0)
        moved = bytearray(raw + longer + following)
        struct.pack_into("<I", moved, first + 12 * count, len(raw))
        other = tmp_path / "b.tif"
        other.write_bytes(moved)
        found = plain_pages(other, LIMIT)
        assert (found is not None) == plain
