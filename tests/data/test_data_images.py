import contextlib
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg.data.images import check_same_size, read_image, read_label_array, read_labels
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError, RlsegError

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8)


def save(path: Path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, bits, color, body):
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", head)
        + png_chunk(b"IDAT", body)
        + png_chunk(b"IEND", b"")
    )


# Pictures


def test_grey_and_colour_are_scaled_to_one(tmp_path):
    grey = read_image(save(tmp_path / "g.png", RAMP))
    assert grey.shape == (1, 6, 8)
    assert torch.equal(grey[0], torch.from_numpy(RAMP).float() / 255)
    colour = np.stack([RAMP, RAMP + 1, RAMP + 2], -1)
    read = read_image(save(tmp_path / "c.png", colour))
    assert torch.equal(read, torch.from_numpy(colour).movedim(-1, 0).float() / 255)


def test_fault_i6_modes_become_the_wanted_channels(tmp_path):
    grey = save(tmp_path / "g.png", RAMP)
    assert torch.equal(read_image(grey, channels=3)[2], read_image(grey)[0])
    deep = save(tmp_path / "deep.png", (RAMP.astype(np.uint16) * 1000))
    assert read_image(deep)[0, 0, 3] == pytest.approx(3000 / 65535)
    alpha = np.concatenate([np.stack([RAMP] * 3, -1), np.full((6, 8, 1), 7, np.uint8)], -1)
    assert torch.equal(read_image(save(tmp_path / "a.png", alpha))[0], read_image(grey)[0])
    cmyk = Image.fromarray(np.stack([RAMP] * 3, -1)).convert("CMYK")
    cmyk.save(tmp_path / "k.tif")
    assert read_image(tmp_path / "k.tif").shape == (3, 6, 8)
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    assert read_image(save(tmp_path / "r.png", red), channels=1)[0, 0, 0] == pytest.approx(76 / 255)


def test_several_pages_are_a_volume(tmp_path):
    pages = [Image.fromarray(RAMP + k) for k in range(3)]
    pages[0].save(tmp_path / "v.tif", save_all=True, append_images=pages[1:])
    assert read_image(tmp_path / "v.tif").shape == (1, 3, 6, 8)
    assert read_label_array(tmp_path / "v.tif")[2, 0, 1] == 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_fault_i5_orientation_is_applied_to_images(tmp_path, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RAMP).save(tmp_path / "o.png", exif=exif)
    with Image.open(tmp_path / "o.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal((read_image(tmp_path / "o.png")[0] * 255).round().numpy(), upright)


def test_fault_i5_orientation_on_labels_is_an_error(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP).save(tmp_path / "o.png", exif=exif)
    with pytest.raises(CorruptDatasetError, match=r"o\.png.*EXIF"):
        read_label_array(tmp_path / "o.png")


def test_float_images_must_be_in_range(tmp_path):
    path = save(tmp_path / "f.tif", np.full((3, 3), 0.25, np.float32))
    assert torch.equal(read_image(path), torch.full((1, 3, 3), 0.25))
    path = save(tmp_path / "g.tif", np.full((3, 3), 7.5, np.float32))
    with pytest.raises(CorruptDatasetError, match=r"g\.tif.*7\.5.*rescale"):
        read_image(path)


# Labels


def four_bit_png(path):
    rows = b"".join(b"\0" + bytes([0x01, 0x2F]) for _ in range(2))
    path.write_bytes(png(4, 2, 4, 0, zlib.compress(rows)))
    return path


def test_fault_i3_ids_keep_their_values(tmp_path):
    assert read_label_array(save(tmp_path / "8.png", RAMP))[5, 7] == 47
    wide = RAMP.astype(np.uint16) * 1000
    assert np.array_equal(read_label_array(save(tmp_path / "16.png", wide)), wide)
    assert np.array_equal(read_label_array(save(tmp_path / "16.tif", wide)), wide)
    ids = RAMP.astype(np.int32) * 1_000_003
    assert np.array_equal(read_label_array(save(tmp_path / "32.tif", ids)), ids)
    bits = save(tmp_path / "1.png", RAMP > 9)
    assert np.array_equal(read_label_array(bits).astype(bool), RAMP > 9)
    palette = Image.fromarray(RAMP, mode="L").convert("P")
    palette.putpalette([5 * (i % 50) for i in range(768)])
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_label_array(tmp_path / "p.png"), RAMP)
    assert read_label_array(four_bit_png(tmp_path / "4.png")).tolist() == [[0, 1, 2, 15]] * 2


def test_unsigned_32_bit_labels_do_not_wrap(tmp_path):
    """A minimal little-endian TIFF with one 2x1 strip of unsigned 32-bit samples."""
    entries = [(256, 3, 2), (257, 3, 1), (258, 3, 32), (259, 3, 1), (262, 3, 1)]
    entries += [(273, 4, 8), (277, 3, 1), (278, 3, 1), (279, 4, 8), (339, 3, 1)]
    ifd = struct.pack("<H", len(entries))
    ifd += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    data = struct.pack("<II", 7, 4_000_000_000)
    path = tmp_path / "u.tif"
    path.write_bytes(b"II*\0" + struct.pack("<I", 16) + data + ifd + bytes(4))
    assert read_label_array(path).tolist() == [[7, 4_000_000_000]]
    labels, _ = read_labels(path)
    assert labels.tolist() == [[1, 2]]


@pytest.mark.parametrize("channels", [3, 4])
def test_fault_i3_coloured_labels_are_an_error(tmp_path, channels):
    path = save(tmp_path / "rgb.png", np.zeros((4, 4, channels), np.uint8))
    with pytest.raises(CorruptDatasetError, match=r"rgb\.png.*colour.*convert"):
        read_labels(path)


def test_fault_l2_float_and_negative_labels_are_errors(tmp_path):
    path = save(tmp_path / "f.tif", np.ones((3, 3), np.float32))
    with pytest.raises(CorruptDatasetError, match=r"f\.tif.*float32"):
        read_labels(path)
    ids = np.zeros((3, 3), np.int32)
    ids[1, 2] = -4
    with pytest.raises(CorruptDatasetError, match=r"n\.tif.*-4 at \(1, 2\)"):
        read_labels(save(tmp_path / "n.tif", ids))


def test_sizes_that_differ_name_both_files():
    with pytest.raises(CorruptDatasetError, match=r"a\.png: size 4x5 .* b\.png, size 4x6"):
        check_same_size(torch.zeros(3, 4, 5), torch.zeros(4, 6), "a.png", "b.png")


# Damage


@pytest.mark.parametrize("side", [20_000, 60_000])
def test_fault_i1_huge_headers_are_refused_before_decoding(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, 8, 0, zlib.compress(bytes(1000))))
    start = time.perf_counter()
    for read in (read_image, read_labels):
        with pytest.raises(CorruptDatasetError, match=r"bomb\.png: [^.]*\d pixels") as caught:
            read(path)
        assert ".;" not in str(caught.value)  # Pillow's own sentence ends in a full stop
    assert time.perf_counter() - start < 1


def test_fault_i1_the_limit_can_be_set(tmp_path):
    path = save(tmp_path / "g.png", RAMP)
    with pytest.raises(CorruptDatasetError, match="48 pixels; the limit is 47"):
        read_image(path, max_pixels=47)
    assert read_image(path, max_pixels=48).shape == (1, 6, 8)


def test_fault_i1_many_pages_are_counted(tmp_path):
    pages = [Image.fromarray(RAMP)] * 10
    pages[0].save(tmp_path / "v.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(CorruptDatasetError, match=r"v\.tif"):
        read_image(tmp_path / "v.tif", max_pixels=300)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "bmp"])
def test_fault_i2_truncated(tmp_path, suffix):
    noise = torch.randint(256, (40, 40), generator=torch.Generator().manual_seed(0))
    whole = save(tmp_path / f"a.{suffix}", noise.numpy().astype(np.uint8)).read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9):
        path = tmp_path / f"cut{share}.{suffix}"
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CorruptDatasetError, match=f"cut{share}"):
            read_image(path)


def test_fault_i2_text_and_flipped_checksum(tmp_path):
    (tmp_path / "t.png").write_text("this is no picture")
    with pytest.raises(CorruptDatasetError, match=r"t\.png"):
        read_image(tmp_path / "t.png")
    raw = bytearray(save(tmp_path / "a.png", RAMP).read_bytes())
    raw[raw.index(b"IEND") - 5] ^= 1  # last byte of the CRC of the pixel data
    (tmp_path / "crc.png").write_bytes(raw)
    with pytest.raises(CorruptDatasetError, match=r"crc\.png.*checksum"):
        read_image(tmp_path / "crc.png")


def test_fault_i2_tiff_pages_in_a_circle(tmp_path):
    raw = bytearray(save(tmp_path / "a.tif", RAMP).read_bytes())
    first = struct.unpack_from("<I", raw, 4)[0]
    count = struct.unpack_from("<H", raw, first)[0]
    struct.pack_into("<I", raw, first + 2 + 12 * count, first)
    (tmp_path / "loop.tif").write_bytes(raw)
    with pytest.raises(CorruptDatasetError, match=r"loop\.tif.*returns"):
        read_image(tmp_path / "loop.tif")


def test_fault_i8_missing_and_folder(tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"none\.png"):
        read_image(tmp_path / "none.png")
    with pytest.raises(CorruptDatasetError, match=str(tmp_path)):
        read_image(tmp_path)


def with_fitting_checksums(raw):
    """The PNG with every checksum recomputed, as far as the chunk lengths lead."""
    place = 8
    while place + 12 <= len(raw):
        end = place + 8 + struct.unpack_from(">I", raw, place)[0]
        if end + 4 > len(raw):
            break
        struct.pack_into(">I", raw, end, zlib.crc32(raw[place + 4 : end]))
        place = end + 4
    return raw


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fuzz_only_success_or_a_typed_error(tmp_path, suffix):
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(9, (20, 20), generator=generator).numpy().astype(np.uint8)
    whole = save(tmp_path / f"a.{suffix}", ids).read_bytes()
    path = tmp_path / f"fuzz.{suffix}"
    accepted = 0
    for _ in range(300):
        raw = bytearray(whole)
        count = int(torch.randint(1, 6, (), generator=generator))
        places = torch.randint(len(raw), (count,), generator=generator).tolist()
        values = torch.randint(256, (count,), generator=generator).tolist()
        for place, value in zip(places, values, strict=True):
            raw[place] = value
        path.write_bytes(with_fitting_checksums(raw) if suffix == "png" else raw)
        for read in (read_image, read_labels):
            with contextlib.suppress(RlsegError):  # any other exception fails the test
                read(path, max_pixels=1 << 20)
                accepted += 1
    assert 0 < accepted < 600
