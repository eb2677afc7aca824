import json
from pathlib import Path

import pytest
import torch

from rlseg.errors import DivergenceError
from rlseg.train import runlog
from rlseg.train.runlog import RunLog, ScalarWindow


def test_window_gives_means_over_the_steps_that_have_the_scalar() -> None:
    window = ScalarWindow()
    window.add({"loss": 1.0, "rare": 4.0})
    window.add({"loss": torch.tensor(2.0)})
    window.add({"loss": torch.tensor([6.0])})
    assert window.means() == {"loss": 3.0, "rare": 4.0}
    assert window.means() == {}


def test_window_survives_a_round_trip_in_the_middle() -> None:
    numbers = torch.rand(7, dtype=torch.float64).tolist()
    whole, cut = ScalarWindow(), ScalarWindow()
    for i, number in enumerate(numbers):
        whole.add({"x": number})
        cut.add({"x": torch.tensor(number, dtype=torch.float64)})
        state = json.loads(json.dumps(cut.state_dict()))
        if i % 2:
            cut = ScalarWindow()
        cut.load_state_dict(state)
    assert whole.means() == cut.means()


@pytest.mark.parametrize("value", [float("nan"), torch.tensor(float("inf"))])
def test_fault_t1_scalar_that_is_not_finite(value: float | torch.Tensor) -> None:
    with pytest.raises(DivergenceError, match="'critic/loss'"):
        ScalarWindow().add({"critic/loss": value})


def test_lines_are_strict_json_and_undefined_is_null(tmp_path: Path) -> None:
    log = RunLog(tmp_path, tensorboard=False)
    log.cut(0)
    log.write("first", 3, {"eval/dice": float("nan"), "loss": 0.1})
    log.write("first", 6, {"loss": 1e-300})
    lines = (tmp_path / "scalars.jsonl").read_text().splitlines()
    assert json.loads(lines[0], parse_constant=pytest.fail) == {
        "stage": "first",
        "step": 3,
        "eval/dice": None,
        "loss": 0.1,
    }
    assert log.lines == 2


def test_cut_drops_later_and_half_written_lines(tmp_path: Path) -> None:
    log = RunLog(tmp_path, tensorboard=False)
    log.cut(0)
    for step in range(4):
        log.write("a", step, {})
    with (tmp_path / "scalars.jsonl").open("a") as stream:
        stream.write('{"stage": "a", "st')
    assert RunLog(tmp_path, tensorboard=False).cut(9) == 4
    again = RunLog(tmp_path, tensorboard=False)
    assert again.cut(2) == 4
    again.write("a", 2, {})
    steps = [json.loads(x)["step"] for x in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2]
    assert again.lines == 3


def test_tensorboard_gets_the_same_scalars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Writer:
        made: list["Writer"] = []  # noqa: RUF012

        def __init__(self, folder: str, purge_step: int) -> None:
            self.folder, self.purge_step, self.seen = folder, purge_step, []
            self.closed = False
            Writer.made.append(self)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.seen.append((name, value, step))

        def close(self) -> None:
            self.closed = True

    class Board:
        SummaryWriter = Writer

    monkeypatch.setattr(runlog, "_tensorboard", lambda: Board)
    log = RunLog(tmp_path)
    log.cut(0)
    log.write("a", 5, {"loss": 1.0, "eval/x": float("nan")})
    log.write("b", 1, {"loss": 2.0})
    log.close()
    first, second = Writer.made
    assert (first.folder, first.purge_step, first.seen) == (
        str(tmp_path / "tensorboard" / "a"),
        5,
        [("loss", 1.0, 5)],
    )
    assert second.seen == [("loss", 2.0, 1)]
    assert first.closed
    assert second.closed
