"""Pillow without its side remarks: what is wrong with a file is said once, in our own message.

Pillow warns of tags that it does not understand, and the libtiff inside of it writes straight to
stderr whatever it dislikes. Both name places inside of libraries and no file. What makes a file
unreadable reaches the caller as an exception all the same.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from PIL import Image, _imaging

__all__ = ["quiet_pillow"]


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """No warnings of Pillow and no lines of its libtiff while a file is opened and decoded."""
    _silence_libtiff()
    with warnings.catch_warnings():
        # Its limit on pixels is replaced by ours, which also counts frames.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        yield


@cache
def _silence_libtiff() -> None:
    """Takes away, once per process, what libtiff calls to print errors and warnings.

    Pillow has no setting for it. Where its libtiff cannot be reached (linked in without names), the
    lines stay.
    """
    try:
        library = ctypes.CDLL(_imaging.__file__)
        setters = library.TIFFSetErrorHandler, library.TIFFSetWarningHandler
    except (OSError, AttributeError, TypeError):
        return
    for setter in setters:
        setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
        setter(None)
