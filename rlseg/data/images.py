"""The one place where image files are read: bounds before decoding, ids exact, errors with a path.

Pillow reads every image format; its own guard against decompression bombs counts one frame only, so
width x height x frames are checked here against `MAX_IMAGE_PIXELS`, from the header.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from rlseg.data.filechecks import check_png, check_tiff
from rlseg.data.labels import from_array, narrow_from_array
from rlseg.data.levels import BYTE_LEVELS, scale_to_unit, stored_levels, to_unit
from rlseg.data.orientation import EXIF_ORIENTATION, upright
from rlseg.data.quiet import quiet_pillow
from rlseg.data.tiffpages import plain_pages
from rlseg.data.tiffreasons import unread_tiff
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError, RlsegError

MAX_IMAGE_PIXELS = 1 << 27  # width x height x frames, known from the header
TIFF_SAMPLE_FORMAT = 339
WHITE_IS_ZERO = re.compile(r"\b[1L];[24]?I")  # in Pillow's names of raw modes
GREY_MODES = ("1", "L", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")

Array = NDArray[Any]


def stack_shape(path: Path, *, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[int, int, int]:
    """Frames, rows and columns of an image file, from its headers.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, damaged, or too large.
    """
    plain = plain_pages(path, max_pixels)
    if plain is not None:
        return plain.shape
    with _opened(path, max_pixels) as image:
        return int(getattr(image, "n_frames", 1)), image.size[1], image.size[0]


def read_image(
    path: Path,
    *,
    channels: int | None = None,
    frames: range | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> Tensor:
    """One picture, or a stack of frames as a volume, scaled to [0, 1].

    Integers are divided by the largest value of their type (255 or 65535; 32-bit integers by
    65535 if they fit in it). Alpha is dropped, CMYK and palettes become RGB, EXIF orientation is
    applied.

    Args:
        path: any file Pillow reads.
        channels: wanted channels; grey is repeated for 3, colour becomes luminance for 1; None
            keeps what the file has (1 or 3).
        frames: of a volume, the ones to read; None = all, and a single one makes a picture.
        max_pixels: largest width x height x frames; Pillow itself stops at 179 million per frame.

    Returns:
        float32 [C, H, W], or [C, D, H, W] for several frames.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, damaged, too large, or of an unusable mode.
    """
    levels, scale = read_levels(path, channels=channels, frames=frames, max_pixels=max_pixels)
    return to_unit(levels, scale) if scale else levels


def read_levels(
    path: Path,
    *,
    channels: int | None = None,
    frames: range | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> tuple[Tensor, int]:
    """What `read_image` reads, before it is scaled.

    Returns:
        uint8 and 255, uint16 and 65535, or float32 and 0, see `levels.stored_levels`; [C, H, W], or
        [C, D, H, W] for several frames.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: as `read_image`.
    """
    plain = _plain_stack(path, frames, max_pixels)
    if plain is not None:
        levels, scale = stored_levels(plain, str(path))
        grey = torch.from_numpy(levels)[None]
        grey = grey if channels in (None, 1) else torch.cat([grey] * channels)
        return grey[:, 0] if len(plain) == 1 and frames is None else grey, scale
    with _opened(path, max_pixels) as image:
        planes, orientation = _planes(
            image, lambda frame: _picture_plane(frame, path, channels), frames
        )
    if len({plane.dtype for plane in planes}) > 1:
        planes = [_unit(plane) for plane in planes]
    stack = _stack(planes, path) if len(planes) > 1 else planes[0][None]  # [D, H, W, C]
    if orientation != 1:
        stack = upright(stack, orientation, str(path))
    stack = np.array(np.moveaxis(stack, -1, 0), order="C")  # [C, D, H, W]; Pillow's is read-only
    picture = torch.from_numpy(stack)
    picture = picture[:, 0] if len(planes) == 1 and frames is None else picture
    return picture, BYTE_LEVELS if picture.dtype == torch.uint8 else 0


def read_label_array(
    path: Path,
    *,
    encoding: Literal["ids", "rgb24"] = "ids",
    advice: str = "",
    frames: range | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> Array:
    """The ids of a label image as the file holds them: no scaling, no renumbering.

    Args:
        path: PNG or TIFF with one channel: 1, 8, 16 or 32 bits, or a palette (indices are ids).
        encoding: "rgb24": 8-bit colour is read too, with the id R + 256 G + 65536 B; alpha must be
            constant.
        advice: what the caller has to offer for labels in colour, for the message.
        frames: of a volume, the ones to read; None = all, and a single one makes a picture.
        max_pixels: largest width x height x frames.

    Returns:
        bool, unsigned or signed integers [H, W], or [D, H, W] for several frames.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, damaged, too large, coloured, or rotated by EXIF.
    """
    plain = _plain_stack(path, frames, max_pixels)
    if plain is not None:
        return plain[0] if len(plain) == 1 and frames is None else plain
    with _opened(path, max_pixels) as image:
        convert = _label_plane if encoding == "ids" else _rgb24_plane
        planes, orientation = _planes(image, lambda frame: convert(frame, path, advice), frames)
    if orientation != 1:
        raise CorruptDatasetError(
            f"{path}: a label image with an EXIF orientation; store it upright, without the tag"
        )
    stack = _stack(planes, path)
    return stack[0] if len(planes) == 1 and frames is None else stack


def read_labels(
    path: Path, *, ignore: int | None = None, max_pixels: int = MAX_IMAGE_PIXELS
) -> tuple[Tensor, Tensor]:
    """Consecutive labels int64 [*S] and known pixels bool [*S] of a label image.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: as `read_label_array`, or floats or negative ids.
    """
    return from_array(read_label_array(path, max_pixels=max_pixels), str(path), ignore)


def read_narrow_labels(path: Path) -> tuple[Tensor, Tensor | None]:
    """What `read_labels` reads, in the types of `labels.narrow_from_array`.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: as `read_labels`.
    """
    return narrow_from_array(read_label_array(path), str(path))


def read_colours(path: Path, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Array:
    """The three bands of a colour image of 8 bits per band, as the file holds them.

    Args:
        path: for label files that keep one number in each band.
        max_pixels: largest width x height.

    Returns:
        uint8 [H, W, 3]: red, green, blue.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, damaged, too large, not RGB of 8 bits, several frames, or
            rotated by EXIF.
    """
    with _opened(path, max_pixels) as image:
        planes, orientation = _planes(image, lambda frame: _colour_plane(frame, path))
    if orientation != 1:
        raise CorruptDatasetError(
            f"{path}: a label image with an EXIF orientation; store it upright, without the tag"
        )
    if len(planes) > 1:
        raise CorruptDatasetError(f"{path}: {len(planes)} frames where one is expected")
    return planes[0]


def check_same_size(image: Tensor, labels: Tensor, image_where: str, labels_where: str) -> None:
    """Nothing, if image [C, *S] and labels [*S] have the same sides.

    Raises:
        CorruptDatasetError: they differ; names both files.
    """
    if tuple(image.shape[1:]) != tuple(labels.shape):
        raise CorruptDatasetError(
            f"{image_where}: size {_sides(image.shape[1:])} differs from {labels_where}, size "
            f"{_sides(labels.shape)}; image and labels must have the same size (rows x columns)"
        )


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)


def _plain_stack(path: Path, frames: range | None, max_pixels: int) -> Array | None:
    """Frames of a plain grey TIFF; None = Pillow is to read the file, or to say what is wrong."""
    pages = plain_pages(path, max_pixels)
    return None if pages is None else pages.read(frames)


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """The opened image, header checked; every failure inside becomes an error with the path."""
    try:
        with quiet_pillow(), Image.open(path) as image:
            _check_header(image, path, max_pixels)
            yield image
    except RlsegError:
        raise
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"{path}: no such file") from error
    except UnidentifiedImageError as error:
        why = unread_tiff(path) or f"({path.stat().st_size} bytes)"
        raise CorruptDatasetError(f"{path}: not an image that can be read {why}") from error
    except Image.DecompressionBombError as error:
        why = str(error).rstrip(".")
        raise CorruptDatasetError(f"{path}: {why}; limit {max_pixels} pixels") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        EOFError,
        OverflowError,
        struct.error,
    ) as error:
        raise CorruptDatasetError(
            f"{path}: damaged or unreadable image ({type(error).__name__}: {error}); "
            "replace the file"
        ) from error


def _check_header(image: Image.Image, path: Path, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise CorruptDatasetError(f"{path}: an image of {height}x{width} pixels; replace the file")
    _check_pixels(width * height, path, max_pixels)
    if image.format == "PNG":
        check_png(path)
    elif image.format == "TIFF":
        check_tiff(path, max_pages=max_pixels // (width * height))
    frames = int(getattr(image, "n_frames", 1))
    _check_pixels(width * height * frames, path, max_pixels)


def _check_pixels(pixels: int, path: Path, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise CorruptDatasetError(
            f"{path}: {pixels} pixels; the limit is {max_pixels}: cut the image into tiles"
        )


def _planes(
    image: Image.Image, convert: Callable[[Image.Image], Array], frames: range | None = None
) -> tuple[list[Array], int]:
    """Every wanted frame, converted, and the EXIF orientation of the first one."""
    planes: list[Array] = []
    orientation = 1
    for index in range(int(getattr(image, "n_frames", 1))) if frames is None else frames:
        image.seek(index)
        planes.append(convert(image))
        if len(planes) == 1:
            # After the conversion: asking for EXIF decodes the frame and forgets its bit depth.
            orientation = int(image.getexif().get(EXIF_ORIENTATION, 1))
    return planes, orientation


def _stack(planes: list[Array], path: Path) -> Array:
    shapes = {plane.shape for plane in planes}
    if len(shapes) > 1:
        raise CorruptDatasetError(f"{path}: frames differ in size or bands: {sorted(shapes)}")
    return np.stack(planes)


def _raw_plane(frame: Image.Image) -> Array:
    """The numbers of a frame in the type of the file (TIFF keeps its sign, or lack of one)."""
    plane = np.asarray(frame)
    if frame.mode in ("I", "L") and frame.format == "TIFF":
        tags = getattr(frame, "tag_v2", {})
        formats = tags.get(TIFF_SAMPLE_FORMAT, (1,))
        signed = (formats[0] if isinstance(formats, tuple) else formats) != 1
        if signed != (frame.mode == "I"):
            return plane.view(np.int8 if signed else np.uint32)
    return plane


def _label_plane(frame: Image.Image, path: Path, advice: str = "") -> Array:
    if frame.mode not in (*GREY_MODES, "P"):
        raise CorruptDatasetError(
            f"{path}: labels in colour (mode {frame.mode}); label images have one channel of ids: "
            f"convert them{advice}"
        )
    # Pillow spreads grey levels of 2 and 4 bits over 0..255, and turns them round where white is
    # zero; ids must keep their values.
    tile = getattr(frame, "tile", None)
    raw_mode = str(tile[0][3]) if frame.mode in ("1", "L") and tile else ""
    step = 85 if "L;2" in raw_mode else 17 if "L;4" in raw_mode else 1
    plane = _raw_plane(frame)
    if WHITE_IS_ZERO.search(raw_mode):
        plane = ~plane  # 255 minus the number, or the other one of two
    return plane if step == 1 else plane // step


def _rgb24_plane(frame: Image.Image, path: Path, advice: str = "") -> Array:
    if frame.mode not in ("RGB", "RGBA"):
        return _label_plane(frame, path, advice)
    bands = np.asarray(frame).astype(np.uint32)
    if frame.mode == "RGBA" and (bands[..., 3] != bands[0, 0, 3]).any():
        raise CorruptDatasetError(
            f"{path}: alpha varies from {bands[..., 3].min()} to {bands[..., 3].max()}; ids as "
            "colours need a constant one: save it without alpha"
        )
    ids: Array = bands[..., 0] + (bands[..., 1] << 8) + (bands[..., 2] << 16)
    return ids


def _colour_plane(frame: Image.Image, path: Path) -> Array:
    """uint8 [H, W, 3] of an RGB frame."""
    tile = getattr(frame, "tile", None)
    raw_mode = str(tile[0][3]) if tile else ""
    bits = 16 if "16" in raw_mode else 8  # Pillow would drop the lower half of 16 bits
    if frame.mode != "RGB" or bits != 8:
        raise CorruptDatasetError(
            f"{path}: mode {frame.mode} with {bits} bits per band; expected RGB with 8 bits, one "
            "number in each band: replace the file"
        )
    return np.array(frame)


def _picture_plane(frame: Image.Image, path: Path, channels: int | None) -> Array:
    """float32 [H, W, C] in [0, 1], or uint8 [H, W, C]."""
    mode = frame.mode
    if mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        plane = scale_to_unit(_raw_plane(frame), str(path))[..., None]
    elif mode in ("1", "L", "LA", "La"):
        plane = np.asarray(_in_mode(frame, "L"))[..., None]
    elif mode in ("RGB", "RGBA", "RGBa", "RGBX", "CMYK", "P", "PA", "YCbCr", "LAB", "HSV"):
        wanted = "L" if channels == 1 else "RGB"
        plane = np.asarray(_in_mode(_in_mode(frame, "RGB"), wanted))
        plane = plane.reshape(*plane.shape[:2], -1)
    else:
        raise CorruptDatasetError(
            f"{path}: image mode {mode} is not supported; store grey, RGB, or 16 bit"
        )
    if channels is not None and plane.shape[-1] != channels:
        if plane.shape[-1] != 1:
            raise CorruptDatasetError(
                f"{path}: {plane.shape[-1]} channels where {channels} are expected; convert it"
            )
        plane = np.repeat(plane, channels, axis=-1)
    return plane


def _in_mode(frame: Image.Image, mode: str) -> Image.Image:
    return frame if frame.mode == mode else frame.convert(mode)


def _unit(plane: Array) -> Array:
    """Bytes as float32 in [0, 1]; floats as they are."""
    return plane if plane.dtype != np.uint8 else scale_to_unit(plane, "")
