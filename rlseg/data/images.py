"""The one place where image files are read: bounds before decoding, ids exact, errors with a path.

Pillow reads every image format; its own guard against decompression bombs counts one frame only, so
width x height x frames are checked here against `MAX_IMAGE_PIXELS`, from the header.
"""

from __future__ import annotations

import struct
import warnings
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
from rlseg.data.labels import from_array
from rlseg.data.tiffpages import plain_pages
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError, RlsegError

MAX_IMAGE_PIXELS = 1 << 27  # width x height x frames, known from the header
EXIF_ORIENTATION = 0x0112
TIFF_SAMPLE_FORMAT = 339
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
    plain = _plain_stack(path, frames, max_pixels)
    if plain is not None:
        grey = torch.from_numpy(scale_to_unit(plain, str(path)))[None]
        grey = grey if channels in (None, 1) else grey.repeat(channels, 1, 1, 1)
        return grey[:, 0] if len(plain) == 1 and frames is None else grey
    with _opened(path, max_pixels) as image:
        planes, orientation = _planes(
            image, lambda frame: _picture_plane(frame, path, channels), frames
        )
    if len({plane.dtype for plane in planes}) > 1:
        planes = [_unit(plane) for plane in planes]
    stack = _stack(planes, path)  # [D, H, W, C]
    if orientation != 1:
        stack = _oriented(stack, orientation, path)
    # Bytes are moved about before they become numbers of four times their size.
    stack = _unit(np.ascontiguousarray(np.moveaxis(stack, -1, 0)))  # [C, D, H, W]
    picture = torch.from_numpy(stack)
    return picture[:, 0] if len(planes) == 1 and frames is None else picture


def read_label_array(
    path: Path,
    *,
    encoding: Literal["ids", "rgb24"] = "ids",
    frames: range | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> Array:
    """The ids of a label image as the file holds them: no scaling, no renumbering.

    Args:
        path: PNG or TIFF with one channel: 1, 8, 16 or 32 bits, or a palette (indices are ids).
        encoding: "rgb24": 8-bit colour is read too, with the id R + 256 G + 65536 B; alpha must be
            constant.
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
        planes, orientation = _planes(image, lambda frame: convert(frame, path), frames)
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
        with warnings.catch_warnings():
            # The limit here replaces Pillow's, which warns or raises at other sizes.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _check_header(image, path, max_pixels)
                yield image
    except RlsegError:
        raise
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"{path}: no such file") from error
    except UnidentifiedImageError as error:
        raise CorruptDatasetError(
            f"{path}: not an image that can be read ({path.stat().st_size} bytes)"
        ) from error
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
    """The numbers of a frame in the type of the file (unsigned TIFF stays unsigned)."""
    plane = np.asarray(frame)
    if frame.mode == "I" and frame.format == "TIFF":
        tags = getattr(frame, "tag_v2", {})
        formats = tags.get(TIFF_SAMPLE_FORMAT, (1,))
        if (formats[0] if isinstance(formats, tuple) else formats) == 1:
            return plane.view(np.uint32)
    return plane


def _label_plane(frame: Image.Image, path: Path) -> Array:
    if frame.mode not in (*GREY_MODES, "P"):
        raise CorruptDatasetError(
            f"{path}: labels in colour (mode {frame.mode}); label images have one channel of ids: "
            "convert them, or, if colours are ids of 24 bits, use --label-encoding rgb24"
        )
    # Pillow spreads grey levels of 2 and 4 bits over 0..255; ids must keep their values.
    tile = getattr(frame, "tile", None)
    raw_mode = str(tile[0][3]) if frame.mode == "L" and tile else ""
    step = 85 if "L;2" in raw_mode else 17 if "L;4" in raw_mode else 1
    plane = _raw_plane(frame)
    return plane if step == 1 else plane // step


def _rgb24_plane(frame: Image.Image, path: Path) -> Array:
    if frame.mode not in ("RGB", "RGBA"):
        return _label_plane(frame, path)
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
    """float32 [H, W, C] in [0, 1], or uint8 [H, W, C] for `_unit`."""
    mode = frame.mode
    if mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        plane = _scaled(_raw_plane(frame), path)[..., None]
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
    if plane.dtype != np.uint8:
        return plane
    scaled = plane.astype(np.float32)
    scaled /= np.float32(255)
    return scaled


def scale_to_unit(array: Array, where: str) -> Array:
    """float32 array of the same shape in [0, 1].

    8-bit integers are divided by 255, wider ones by 65535, floats are kept.

    Raises:
        CorruptDatasetError: another type, or values outside the range.
    """
    kind, width = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.astype(np.float32)
    if kind not in "uif":
        raise CorruptDatasetError(f"{where}: image of type {array.dtype}; use integers or floats")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    limit = 1.0 if kind == "f" else 255.0 if width == 1 else 65535.0
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > limit:
        raise CorruptDatasetError(
            f"{where}: image values from {low:g} to {high:g} in type {array.dtype}; "
            f"expected 0 to {limit:g}: rescale it"
        )
    return array.astype(np.float32) / np.float32(limit)


def _scaled(plane: Array, path: Path) -> Array:
    return scale_to_unit(plane, str(path))


def _oriented(stack: Array, orientation: int, path: Path) -> Array:
    """[D, H, W, C] upright, by the eight values of the EXIF tag."""
    if orientation not in range(1, 9):
        raise CorruptDatasetError(f"{path}: EXIF orientation {orientation} is not one of 1 to 8")
    if orientation in (5, 6, 7, 8):
        stack = stack.swapaxes(1, 2)
    if orientation in (2, 3, 6, 7):
        stack = stack[:, :, ::-1]
    if orientation in (3, 4, 7, 8):
        stack = stack[:, ::-1]
    return stack
