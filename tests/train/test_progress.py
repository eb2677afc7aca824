import io

import pytest

from rlseg.train import progress as module
from rlseg.train.progress import RunProgress, format_seconds, is_clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def show(stream: io.StringIO, *, quiet: bool = False) -> str:
    progress = RunProgress(quiet=quiet, stream=stream)
    progress.stage("train", 100, 10)
    progress.scalars({"loss": 0.25, "seconds": 9.0, "eval/best_dice": 0.5})
    progress.advance(40)
    progress.note("a [note] that stays")
    progress.close()
    return stream.getvalue()


def test_plain_lines_with_time_left_and_scalars(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 60.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    lines = show(io.StringIO()).splitlines()
    # 30 steps took 60 s, 60 are left.
    assert lines == [
        "train: 90 steps to go",
        "train: 40/100  2 min 00 s left  eval/best_dice 0.5  loss 0.25",
        "a [note] that stays",
    ]


def test_plain_lines_come_every_30_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = RunProgress(stream=stream)
    progress.stage("train", 1000, 0)
    for step in range(1, 101):
        now[0] = step
        progress.advance(step, seconds_left=12.0)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[1] == "train: 30/1000  12 s left"


def test_fault_p8_no_escape_codes_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" not in show(io.StringIO())
    assert "\x1b" in show(Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in show(Terminal())
    assert show(Terminal(), quiet=True) == ""


def test_fault_p8_closed_pipe_does_not_end_the_run() -> None:
    progress = RunProgress(stream=Gone())
    progress.stage("train", 10, 0)
    progress.note("nobody reads this")


def test_words() -> None:
    assert [format_seconds(s) for s in (3.4, 65, 7500)] == ["3 s", "1 min 05 s", "2 h 05 min"]
    assert [n for n in ("loss", "seconds", "wall_time", "steps_per_s") if not is_clock(n)] == [
        "loss"
    ]
