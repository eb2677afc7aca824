"""Which samples belong to which split: committed lists of ids, and a seeded order of names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources

import torch

from rlseg.data.seeds import named_generator


def committed_ids(dataset: str, split: str) -> tuple[str, ...]:
    """The ids in the list that ships as `splits/<dataset>_<split>.txt`, in the file's order."""
    path = resources.files("rlseg.data").joinpath("splits", f"{dataset}_{split}.txt")
    return tuple(path.read_text(encoding="utf-8").split())


def ranked(names: Iterable[str], dataset: str, seed: int) -> list[str]:
    """The names in an order drawn by chance, the same for any selection of them.

    Each name gets a number that hangs on (seed, data set, name) alone, and names are sorted by it:
    where files are added or missing, the others keep their order.
    """

    def number(name: str) -> tuple[int, str]:
        generator = named_generator(seed, dataset, "split", name)
        return int(torch.randint(1 << 62, (1,), generator=generator)), name

    return sorted(names, key=number)


def divide(
    names: Sequence[str], shares: Sequence[float], dataset: str, seed: int
) -> list[set[str]]:
    """The names shared out by their seeded order, one set per share.

    Later shares take the first names of that order, the first share takes what is left. Sizes are
    rounded; a share above 0 gets at least one name while the first share keeps one.

    Args:
        names: different from each other.
        shares: at least one, not negative; only their proportions matter.
        dataset: part of the seed.
        seed: of the order.
    """
    order = ranked(names, dataset, seed)
    total = sum(shares)
    parts: list[set[str]] = []
    for share in shares[1:]:
        wanted = max(1, round(len(names) * share / total)) if share > 0 else 0
        taken = order[: min(wanted, len(order) - 1)] if order else []
        parts.append(set(taken))
        order = order[len(taken) :]
    return [set(order), *parts]
