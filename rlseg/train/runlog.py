"""Scalars of a run: JSON lines, and TensorBoard where it is installed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rlseg.errors import DivergenceError
from rlseg.train.loop import Scalars

SCALARS = "scalars.jsonl"


class ScalarWindow:
    """Scalars of the steps since the last log border; their means are logged there.

    Tensors are kept as they are and read together at the border, so that a GPU is not stopped at
    every step.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[float | Tensor]] = {}

    def add(self, scalars: Scalars) -> None:
        """Takes the scalars of one step; numbers on the CPU are checked at once.

        Raises:
            DivergenceError: a scalar is NaN or infinite. A learner leaves out what is undefined.
        """
        for name, value in scalars.items():
            if isinstance(value, Tensor) and value.device.type != "cpu":
                self._values.setdefault(name, []).append(value.detach())
                continue
            number = float(value)
            if not math.isfinite(number):
                raise DivergenceError(f"scalar {name!r} is {number}")
            self._values.setdefault(name, []).append(number)

    def means(self) -> dict[str, float]:
        """Mean per name over the steps that gave it; the window is empty afterwards.

        Raises:
            DivergenceError: a scalar is NaN or infinite.
        """
        values, self._values = self._read(), {}
        return {name: math.fsum(numbers) / len(numbers) for name, numbers in values.items()}

    def state_dict(self) -> dict[str, list[float]]:
        """All numbers of the window, by name."""
        return self._read()

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Puts a window back."""
        self._values = {name: list(numbers) for name, numbers in state.items()}

    def _read(self) -> dict[str, list[float]]:
        tensors = [v for values in self._values.values() for v in values if isinstance(v, Tensor)]
        numbers: list[float] = []
        if tensors:
            numbers = torch.stack([t.reshape(()).double() for t in tensors]).tolist()
        position = iter(numbers)
        result: dict[str, list[float]] = {}
        for name, values in self._values.items():
            result[name] = [next(position) if isinstance(v, Tensor) else v for v in values]
            if not all(math.isfinite(number) for number in result[name]):
                raise DivergenceError(f"scalar {name!r} is not finite")
        return result


class RunLog:
    """The file `scalars.jsonl` of a run folder, one object per line, in the order of the run."""

    def __init__(self, folder: Path, *, tensorboard: bool = True) -> None:
        self._path = folder / SCALARS
        self._board = _tensorboard() if tensorboard else None
        self._board_folder = folder / "tensorboard"
        self._writers: dict[str, Any] = {}
        self.lines = 0
        """Lines in the file; a checkpoint keeps the number."""

    def cut(self, lines: int) -> int:
        """Lines that were there, after dropping those beyond the first `lines`."""
        content = self._path.read_bytes() if self._path.exists() else b""
        found = content.split(b"\n")
        complete = found[:-1]  # what follows the last line end was cut short by a kill
        kept = b"".join(line + b"\n" for line in complete[:lines])
        if kept != content or not self._path.exists():
            temporary = self._path.with_name(SCALARS + ".tmp")
            temporary.write_bytes(kept)
            temporary.replace(self._path)
        self.lines = min(lines, len(complete))
        return len(complete)

    def write(self, stage: str, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one line; NaN (undefined) becomes null.

        Args:
            stage: name of the stage.
            step: last finished step.
            scalars: wall-clock values only under names with `time`, `seconds` or `per_s`.
        """
        plain = {
            name: float(value) if math.isfinite(value) else None for name, value in scalars.items()
        }
        line = json.dumps({"stage": stage, "step": step, **plain}, allow_nan=False)
        with self._path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(line + "\n")
        self.lines += 1
        if self._board is not None:
            writer = self._writers.get(stage)
            if writer is None:
                # A resumed run overwrites what an earlier one drew beyond its checkpoint.
                writer = self._board.SummaryWriter(str(self._board_folder / stage), purge_step=step)
                self._writers[stage] = writer
            for name, value in plain.items():
                if value is not None:
                    writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes what TensorBoard has open."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def _tensorboard() -> ModuleType | None:
    try:
        from torch.utils import tensorboard
    except ImportError:  # the extra `tensorboard` is not installed; the JSON lines are complete
        return None
    return tensorboard
