"""Locks of single cache entries, which end with the process that holds them."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path

_POLL_SECONDS = 0.02


def lock_descriptor(path: Path, wait_seconds: float) -> int:
    """Open file of a lock that this process holds; a dead holder's is taken over.

    The operating system drops the lock with its process. The text inside says who holds it.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == os.lstat(path).st_ino:
                os.ftruncate(descriptor, 0)
                holder = {"pid": os.getpid(), "host": socket.gethostname()}
                os.write(descriptor, json.dumps(holder).encode())
                return descriptor
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                holder_text = os.pread(descriptor, 200, 0).decode(errors="replace")
                os.close(descriptor)
                raise TimeoutError(f"{path.name} is held by {holder_text}") from error
            time.sleep(_POLL_SECONDS)
        except FileNotFoundError:
            pass  # the holder has just removed the file: take a new one
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def in_use(path: Path) -> bool:
    """Whether a process holds the lock that belongs to an unfinished file."""
    lock = path.with_suffix(".lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
