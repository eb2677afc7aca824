"""Random generators by name: the same seed and name give the same numbers everywhere."""

from __future__ import annotations

import hashlib

import torch


def named_generator(seed: int, *name: str | int) -> torch.Generator:
    """A CPU generator that belongs to `(seed, *name)` alone.

    Independent of processes, threads and the order of calls, so that sample 7 of epoch 3 is drawn
    alike however the work is shared out.

    Args:
        seed: any integer.
        *name: strings and integers; `("a", 1)` and `("a1",)` are different names.

    Returns:
        A generator seeded with 63 bits of the SHA-256 of seed and name.
    """
    key = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *name))
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1
    return torch.Generator().manual_seed(number)
