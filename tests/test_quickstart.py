"""The quickstart: with a smaller recipe its whole way, and the commands that it ends with."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
import re
import shlex
import shutil
import signal

import pytest

from rlseg import cli, quickstart
from rlseg.colorrl.a3c import ColorLearner
from rlseg.config import merge
from rlseg.data import open_dataset
from rlseg.recipes import load_recipe
from rlseg.train.stage_run import Session
from tests.fake.tiny import contents, refused

ROWS = {"colorrl", "components", "watershed"}
METRICS = {"sbd", "abs_dic", "ap50", "arand"}
SMALL = {
    "features": [4, 8],
    "crop": 32,
    "evaluate_every": 5,
    "hints": {"steps": 2, "features": [4, 8]},
    "phases": [{"steps": 10, "learning_rate": 1e-3}],
}
FEW = {"size": 40, "train": 8, "valid": 2, "tune": 2, "test": 5}


def smaller(name):
    recipe = load_recipe(name)
    return dataclasses.replace(
        recipe, config=merge(recipe.config, SMALL), data=merge(recipe.data, FEW)
    )


@pytest.fixture
def small_recipe(monkeypatch):
    """The shipped recipe with fewer updates and scenes; everything after it is the real thing."""
    monkeypatch.setattr(quickstart, "load_recipe", smaller)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The run folder, and what was printed on stdout and stderr."""
    out = tmp_path_factory.mktemp("quickstart") / "run"
    capture = pytest.MonkeyPatch()
    printed, messages = io.StringIO(), io.StringIO()
    capture.setattr(quickstart, "load_recipe", smaller)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(messages):
            code = cli.main(["quickstart", "--minutes", "1", "--out", str(out), "--device", "cpu"])
    finally:
        capture.undo()
    assert code == 0, messages.getvalue()
    return out, printed.getvalue(), messages.getvalue()


def test_the_table_has_the_rows_and_scores_that_scripts_read(done):
    table = json.loads((done[0] / "table.json").read_text())
    assert set(table) >= ROWS
    for row in table.values():
        assert set(row) >= METRICS
        assert all(math.isfinite(value) for value in row.values())
        assert all(0 <= row[name] <= 1 for name in ("sbd", "ap50", "arand"))
        assert row["abs_dic"] >= 0


def test_the_run_folder_is_a_run(done, tmp_path):
    out = done[0]
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "environment.json", "scalars.jsonl", "scores.json", "colorrl"} <= names
    assert not {"lock", "crash.txt"} & names
    scores = tmp_path / "scores.json"
    assert cli.main(["evaluate", str(out), "--json", str(scores), "--device", "cpu"]) == 0
    table = json.loads((out / "table.json").read_text())
    found = json.loads(scores.read_text())
    assert found["images"] == FEW["test"]
    for name in METRICS:
        assert found[name] == pytest.approx(table["colorrl"][name], abs=1e-9)


def test_the_page_stands_alone_and_shows_the_pictures(done):
    page = (done[0] / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    sources = re.findall(r'\bsrc\s*=\s*["\']?([^"\'\s>]+)', page)
    assert len(sources) >= 4, "scores of learning, panels, and two scenes bit by bit"
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    for loader in ("<link", "<script", "<iframe", "<object", "@import", "srcset"):
        assert loader not in page
    assert not re.search(r"url\(\s*['\"]?(?!data:)", page)
    assert not re.search(r'href\s*=\s*["\']?(?!#|https?:)', page)
    for word in ("Scores", "Pictures", "Bit by bit", "Learning curves", "Otsu + watershed"):
        assert word in page
    assert (done[0] / "figures").is_dir()
    for path in (done[0] / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_it_prints_one_table_and_where_the_page_is(done):
    out, printed, messages = done
    for heading in ("SBD", "|DiC|", "AP50", "ARAND", "ColorRL", "Otsu + components"):
        assert heading in printed
    table = json.loads((out / "table.json").read_text())
    assert f"{table['colorrl']['sbd']:.3f}" in printed
    assert f"report: {out / 'report.html'}" in printed
    assert "\x1b" not in printed + messages


def test_the_three_next_commands_are_ones_that_parse(done):
    printed = done[1].partition("next:\n")[2].replace("\\\n", " ")
    commands = [shlex.split(line) for line in printed.splitlines() if line.strip()]
    assert len(commands) == 3
    assert {command[1] for command in commands} == {"evaluate", "train", "predict"}
    for command in commands:
        assert command[0] == "rlseg"
        args, _ = cli._parse(command[1:])
        assert args.verb == command[1]
    assert str(done[0]) in {word for command in commands for word in command}


def test_a_second_quickstart_into_the_same_folder_scores_it_again(done, small_recipe, capsys):
    out = done[0]
    kept = ["table.json", "config.json", "scalars.jsonl", "colorrl/manifest.json"]
    before = [(out / name).read_bytes() for name in kept]
    (out / "report.html").unlink()
    for minutes, why in (("1", "training is finished"), ("0.00001", "minutes are used up")):
        (out / "table.json").unlink()
        words = ["quickstart", "--minutes", minutes, "--out", str(out), "--device", "cpu"]
        assert cli.main(words) == 0
        assert [(out / name).read_bytes() for name in kept] == before
        assert (out / "report.html").is_file()
        told = [line for line in capsys.readouterr().err.splitlines() if why in line]
        assert len(told) == 1
        assert f"nothing left to train in {out}" in told[0]


@pytest.mark.parametrize("change", ["seed", "not a quickstart"])
def test_a_folder_with_another_run_is_refused_and_kept(
    change, done, small_recipe, capsys, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(done[0], out)
    words = ["quickstart", "--minutes", "1", "--out", out, "--device", "cpu"]
    if change == "seed":
        words += ["--seed", "1"]
    else:
        config = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps({**config, "recipe": None}))
    before = contents(out)
    err = refused(words, capsys)
    assert f"{out} already holds another run" in err
    assert "choose another --out" in err
    assert "--resume" not in err
    assert contents(out) == before


def test_after_an_interruption_it_goes_on_to_the_same_end(
    done, small_recipe, capsys, tmp_path, monkeypatch
):
    out, step = tmp_path / "run", ColorLearner.step
    words = ["quickstart", "--minutes", "1", "--out", str(out), "--device", "cpu"]
    calls = []

    def interrupted(self, item):
        calls.append(item)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(ColorLearner, "step", interrupted)
        assert cli.main(words) == 130
    err = capsys.readouterr().err
    assert "stage colorrl, saved at step 3; run rlseg quickstart again to go on" in err
    assert "--resume" not in err
    assert not (out / "table.json").exists()
    assert cli.main(words) == 0
    assert "nothing left" not in capsys.readouterr().err
    assert (out / "table.json").read_bytes() == (done[0] / "table.json").read_bytes()


def test_more_minutes_go_on_where_too_few_ended(small_recipe, capsys, tmp_path, monkeypatch):
    out = tmp_path / "run"
    words = ["quickstart", "--out", out, "--device", "cpu", "--quiet", "--minutes"]
    with monkeypatch.context() as patch:  # minutes that end within the hints
        patch.setattr(Session, "spent", lambda self, step: self.steps_before + step >= 1)
        assert f"give more --minutes to go on with {out}" in refused([*words, "1"], capsys)
    assert cli.main([str(word) for word in [*words, "1"]]) == 0
    assert (out / "table.json").is_file()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--minutes", "0"], "expected a number above 0"),
        (["--minutes", "soon"], "expected a number, got 'soon'"),
        (["--seed", "-1"], "expected a whole number"),
        (["--device", "gpu"], "device"),
        (["--minute", "1"], "did you mean '--minutes'"),
    ],
)
def test_wrong_arguments(words, part, small_recipe, capsys, tmp_path):
    assert part in refused(["quickstart", "--out", tmp_path / "run", *words], capsys)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file(small_recipe, capsys, tmp_path):
    (tmp_path / "file").write_text("x")
    err = refused(["quickstart", "--out", tmp_path / "file", "--device", "cpu"], capsys)
    assert "run folder" in err
    assert (tmp_path / "file").read_text() == "x"


def test_stopped_before_the_game_began_is_one_line_and_no_half_table(
    small_recipe, capsys, tmp_path
):
    out = tmp_path / "run"
    words = ["quickstart", "--minutes", "0.00001", "--out", out, "--device", "cpu", "--quiet"]
    refused(words, capsys)
    assert not (out / "table.json").exists()
    assert not (out / "report.html").exists()


def test_the_shipped_recipe_has_as_many_scenes_as_the_page_says():
    recipe = load_recipe(quickstart.RECIPE)
    data = open_dataset(recipe.dataset, None, recipe.data)
    assert {name: len(data.split(name)) for name in ("valid", "tune", "test")} == {
        "valid": 32,
        "tune": 64,
        "test": 64,
    }


@pytest.mark.slow
def test_the_shipped_quickstart_beats_otsu_and_components(tmp_path, capsys):
    assert cli.main(["quickstart", "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    table = json.loads((tmp_path / "run" / "table.json").read_text())
    assert table["colorrl"]["sbd"] >= table["components"]["sbd"] + 0.10
