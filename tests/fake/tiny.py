"""Settings that make a training run a matter of a second, and helpers to run commands."""

from __future__ import annotations

from rlseg import cli

SCENES = [
    word
    for pair in ("size=32", "train=3", "valid=2", "tune=1", "test=3", "min_cells=2", "max_cells=4")
    for word in ("--data", pair)
]
"""Options of `rlseg train` for a few generated scenes of 32 pixels."""
COLORRL = {
    "bits": "3",
    "features": "[4, 8]",
    "scale": "1.0",
    "crop": "16",
    "batch": "2",
    "hints.features": "[4, 8]",
    "rewards.radii": "[2, 4]",
    "rewards.min_instance": "2",
    "evaluate_every": "2",
    "min_sizes": "[0, 5]",
    "phases": "[{steps = 4, learning_rate = 1e-3}]",
}
"""A ColorRL of four updates."""
UNET = {
    "features": "[4, 8]",
    "crop": "16",
    "batch": "2",
    "steps": "4",
    "evaluate_every": "2",
    "thresholds": "[0.3, 0.5]",
    "min_sizes": "[0, 5]",
}
"""A supervised baseline of four updates."""
METHODS = {"colorrl": COLORRL, "unet": UNET}


def train_words(out, *words, method="colorrl", settings=None):
    """Arguments of `rlseg train`; `settings` change or add to those of the method."""
    chosen = {**METHODS[method], **(settings or {})}
    pairs = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
    return [
        "train", "--method", method, *pairs, "--out", str(out), "--device", "cpu", "--quiet",
        "--no-report", *map(str, words),
    ]  # fmt: skip


def cells_words(out, *words, **kwargs):
    """Likewise, on generated scenes."""
    return train_words(out, "--dataset", "cells", *SCENES, *words, **kwargs)


def contents(folder):
    """Path below a folder -> bytes, of all files; folders are None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def refused(words, capsys, code=2):
    """Runs a command that must fail in one line on stderr; returns that line."""
    capsys.readouterr()
    found = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert found == code, (found, err)
    assert out == ""
    assert err.startswith("rlseg"), err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err
