"""TIFF of kinds that few programs write: read exactly, or refused with what they are."""

import struct

import numpy as np
import pytest
from PIL import Image

from rlseg.data import open_dataset
from rlseg.data.images import read_image, read_label_array, read_labels
from rlseg.data.tiffreasons import unread_tiff
from rlseg.errors import CorruptDatasetError

FORMATS = {"u": 1, "i": 2, "f": 3}


def tiff(array, order="<", *, photometric=1, big=False, more=()):
    """The bytes of a TIFF file with one strip, by hand."""
    array = np.asarray(array)
    height, width = array.shape
    body = array.astype(array.dtype.newbyteorder(order)).tobytes()
    start = 16 if big else 8
    tags = {256: width, 257: height, 258: 8 * array.itemsize, 259: 1, 262: photometric,
            273: start, 277: 1, 278: height, 279: len(body), 339: FORMATS[array.dtype.kind],
            **dict(more)}  # fmt: skip
    mark = b"II" if order == "<" else b"MM"
    if big:
        out = mark + struct.pack(f"{order}HHHQ", 43, 8, 0, start + len(body)) + body
        out += struct.pack(f"{order}Q", len(tags))
        entry = f"{order}HHQQ"
    else:
        out = mark + struct.pack(f"{order}HI", 42, start + len(body)) + body
        out += struct.pack(f"{order}H", len(tags))
        entry = f"{order}HHII"
    for tag, value in sorted(tags.items()):
        out += struct.pack(entry, tag, 16 if big else 4, 1, value)
    return out + bytes(8)


def write(tmp_path, *args, **settings):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(*args, **settings))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"])
def test_fault_l2_ids_of_every_width_and_byte_order_are_exact(tmp_path, kind, order):
    info = np.iinfo(kind)
    ids = np.array([[0, 1, info.max], [info.max - 1, 7, 0]], dtype=kind)
    found = read_label_array(write(tmp_path, ids, order))
    assert np.array_equal(found.astype(object), ids.astype(object))
    assert found.dtype.byteorder in "=|"
    labels, valid = read_labels(tmp_path / "a.tif")
    assert labels.tolist() == [[0, 1, 4], [3, 2, 0]]
    assert bool(valid.all())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8"])
def test_fault_l2_negative_ids_are_refused_whatever_the_width(tmp_path, kind, order):
    path = write(tmp_path, np.array([[0, -3]], dtype=kind), order)
    with pytest.raises(CorruptDatasetError, match=r"a\.tif: label -3 at \(0, 1\)"):
        read_labels(path)


def test_signed_bytes_that_pillow_unpacks_keep_their_sign(tmp_path):
    picture = Image.fromarray(np.array([[0, 253]], dtype=np.uint8))
    picture.save(tmp_path / "a.tif", compression="tiff_lzw", tiffinfo={339: 2})
    assert read_label_array(tmp_path / "a.tif").tolist() == [[0, -3]]


def test_uint64_labels_of_a_folder(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        ids = np.full((6, 7), 2**64 - 1, dtype=np.uint64)
        ids[:3] = number
        Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "images" / f"{number}.png")
        (tmp_path / "labels" / f"{number}.tif").write_bytes(tiff(ids, ">"))
    splits = open_dataset("folder", tmp_path, {"fractions": [1, 0, 0]})
    train = splits.split("train")
    found = {train[k].name: train[k].labels.unique().tolist() for k in range(3)}
    assert found == {"0": [0, 1], "1": [1, 2], "2": [1, 2]}
    splits = open_dataset("folder", tmp_path, {"fractions": [1, 0, 0], "ignore_id": 2**64 - 1})
    assert not any(bool(splits.split("train")[k].valid[3:].any()) for k in range(3))


@pytest.mark.parametrize("order", ["<", ">"])
def test_floats_of_64_bits_are_pictures_and_no_labels(tmp_path, order):
    path = write(tmp_path, np.array([[0.25, 1.0]]), order)
    assert read_image(path).tolist() == [[[0.25, 1.0]]]
    with pytest.raises(CorruptDatasetError, match="type float64; label maps hold integer ids"):
        read_labels(path)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_labels_where_white_is_zero_are_those_of_the_file(tmp_path, compression):
    ids = np.array([[0, 1, 2, 9]], dtype=np.uint8)
    picture = Image.fromarray(255 - ids)  # Pillow turns them round in writing and reading
    settings = {} if compression is None else {"compression": compression}
    picture.save(tmp_path / "a.tif", tiffinfo={262: 0}, **settings)
    assert read_label_array(tmp_path / "a.tif").tolist() == ids.tolist()
    (tmp_path / "b.tif").write_bytes(tiff(ids, photometric=0))
    assert read_label_array(tmp_path / "b.tif").tolist() == ids.tolist()


def test_bits_where_white_is_zero_are_those_of_the_file(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 0, 1]], dtype=bool))
    picture.save(tmp_path / "a.tif", tiffinfo={262: 0})
    assert (tmp_path / "a.tif").read_bytes().endswith(b"\xa0"), "Pillow has turned them round"
    assert read_label_array(tmp_path / "a.tif").tolist() == [[True, False, True, False]]


@pytest.mark.parametrize(
    ("array", "settings", "traits"),
    [
        (np.zeros((2, 2), np.uint64), {"big": True}, "64-bit unsigned integers, little-endian"),
        (np.zeros((2, 2), np.int64), {"order": ">", "big": True}, "64-bit signed integers, big"),
        (np.zeros((2, 2), np.uint64), {"more": {259: 5}}, r"little-endian, compressed \(LZW\)"),
        (np.zeros((2, 2), np.uint32), {"order": ">", "photometric": 0}, "big.*, white is zero"),
        (np.zeros((2, 2), np.uint64), {"more": {322: 16, 323: 16}}, "in tiles"),
        (np.zeros((2, 2), np.uint64), {"more": {277: 2}}, "2 channels"),
        (np.zeros((2, 2), np.uint64), {"more": {259: 60_000}}, "method 60000"),
        (np.zeros((2, 2), np.uint64), {"more": {339: 6}}, "numbers of an unknown kind"),
    ],
)
def test_what_is_refused_says_what_it_is_and_what_to_do(tmp_path, array, settings, traits):
    path = write(tmp_path, array, **settings)
    for read in (read_label_array, read_image):
        with pytest.raises(
            CorruptDatasetError, match=rf"a\.tif: not an image .*{traits}"
        ) as caught:
            read(path)
        assert " (TIFF of " in str(caught.value)
        assert str(caught.value).endswith("8, 16 or 32 bits per number, or as npy")


def test_files_that_are_no_tiff_have_no_reason(tmp_path):
    for content in (b"", b"II", b"II*\0", b"MM*\0\0\0\0\0", b"\x89PNG\r\n\x1a\n", b"II+\0"):
        (tmp_path / "a.tif").write_bytes(content)
        assert unread_tiff(tmp_path / "a.tif") is None
    assert unread_tiff(tmp_path / "absent.tif") is None
    whole = tiff(np.zeros((2, 2), np.uint64))
    for place in range(len(whole)):
        for data in (whole[:place], whole[:place] + b"\xff" + whole[place + 1 :]):
            (tmp_path / "a.tif").write_bytes(data)
            reason = unread_tiff(tmp_path / "a.tif")
            assert reason is None or reason.startswith("(TIFF of ")
