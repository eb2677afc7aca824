"""Recipes over seeds: commands, results, tables and plots."""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from PIL import Image

from rlseg import bench, cli, results
from rlseg.bench import Children, Options
from rlseg.config import dump
from rlseg.errors import ConfigError, WorkerError
from rlseg.results import CurvePoint, Result, curve_of, load_results, markdown, plot, summarize

METHOD = "tests.fake.threshold_method"
SCORES = {
    "sbd": 0.5,
    "arand": None,
    "images": 3,
    "images_empty_pred": 0,
    "instances_true": 9,
    "schema": "rlseg.evaluate/1",
    "conventions": {"sbd": "paper"},
    "per_image": [],
    "undefined": {"arand": 3},
}


def recipe(folder: Path, name: str = "mine", steps: int = 4) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(
        f'title = "Mine"\nsource = "A paper, table 1"\nmethod = "{METHOD}"\ndataset = "cells"\n'
        f"[config]\nsteps = {steps}\n"
        "[data]\nsize = 32\ntrain = 2\nvalid = 1\ntest = 2\ntune = 1\n"
        "[paper]\nsbd = 0.25\narand = 0.1\n[tolerance]\nsbd = 0.3\n"
    )
    return path


def result(**changes: object) -> Result:
    values = {
        "recipe": "a", "method": "m", "dataset": "d", "seed": 0, "split": "test",
        "scores": {"sbd": 0.5}, "steps": 3, "seconds": 60.0, "config_digest": "c",
        "data_digest": "e", "command": ("rlseg train",),
    }  # fmt: skip
    return Result(**{**values, **changes})


@pytest.fixture
def here(monkeypatch):
    """Children run in this process; scores come from a table instead of an evaluation."""
    seen: list[list[str]] = []

    def run(self, command, log):
        words = list(command[3:])
        seen.append(words)
        if words[0] == "train":
            with redirect_stdout(io.StringIO()):
                return cli.main([*words, "--no-report", "--quiet"])
        Path(words[words.index("--json") + 1]).write_text(json.dumps(SCORES))
        return 0

    monkeypatch.setattr(Children, "run", run)
    return seen


# Running


def test_run_trains_scores_and_keeps_one_file_per_seed(here, tmp_path, capsys):
    path = recipe(tmp_path)
    words = ["bench", "run", str(path), "--seeds", "0", "1", "--device", "cpu"]
    folders = ["--out", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    assert cli.main([*words, *folders]) == 0
    files = sorted(p.name for p in (tmp_path / "results").iterdir())
    assert files == ["mine-0.json", "mine-1.json"]
    kept = load_results(tmp_path / "results")[1]
    assert (kept.recipe, kept.seed, kept.split, kept.steps) == ("mine", 1, "test", 4)
    assert kept.scores == {"sbd": 0.5, "arand": None}
    assert kept.conventions == {"sbd": "paper"}
    assert kept.paper == {"sbd": 0.25, "arand": 0.1}
    assert [point.step for point in kept.curve] == [2, 4]
    assert kept.threads == 1
    assert kept.hardware["device"] == "cpu"
    assert kept.seconds is not None
    assert kept.command[1] == (
        "rlseg evaluate mine-1 --split test --json scores-test.json --all-conventions --quiet"
    )
    assert str(tmp_path) not in (tmp_path / "results" / "mine-1.json").read_text()
    table = capsys.readouterr().out
    assert "| mine | sbd | 0.25 | 0.500 ± 0.000 | 2 | +0.250 (within tolerance) |" in table
    assert "|  | arand | 0.1 |  | 0 |  | 0.0 |" in table


def test_a_stopped_run_goes_on_and_a_finished_one_is_only_scored(here, tmp_path):
    path, options = (
        recipe(tmp_path),
        Options(runs=tmp_path / "runs", results=tmp_path / "results", device="cpu", steps=2),
    )
    notes: list[str] = []
    assert bench.run_recipes([str(path)], [5], options, note=notes.append) == []
    assert load_results(options.results)[0].steps == 2
    assert "--resume" not in here[0]
    assert here[0][-2:] == ["--steps", "2"]
    whole = Options(runs=options.runs, results=options.results, device="cpu")
    for _ in range(2):
        assert bench.run_recipes([str(path)], [5], whole, note=notes.append) == []
        assert load_results(options.results)[0].steps == 4
    assert here[2][-1] == "--resume"
    assert notes[-1] == "mine, seed 5: sbd 0.500"
    digests = {r.config_digest for r in load_results(options.results)}
    other = recipe(tmp_path, "other", steps=3)
    assert bench.run_recipes([str(other)], [5], whole) == []
    assert len(digests | {r.config_digest for r in load_results(options.results)}) == 2


def test_a_failed_run_is_named_and_the_others_go_on(here, tmp_path, capsys):
    bad = recipe(tmp_path, "bad")
    bad.write_text(bad.read_text().replace("[config]", '[config]\nfail = "diverge"'))
    words = ["bench", "run", str(bad), str(recipe(tmp_path, "good")), "--device", "cpu", "--json"]
    folders = ["--out", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    assert cli.main([*words, *folders]) == 2
    out, err = capsys.readouterr()
    assert "bad, seed 0: training ended with exit code 3" in err
    assert [row["recipe"] for row in json.loads(out)] == ["good", "good"]


def test_roots_are_given_per_data_set(tmp_path):
    path = str(recipe(tmp_path))
    options = Options(runs=tmp_path, results=tmp_path, roots={"": Path("a"), "cells": Path("b")})
    words = bench.train_arguments(path, "mine", 0, options)
    assert words[words.index("--root") + 1] == "b"
    options = Options(runs=tmp_path, results=tmp_path, roots={"cremi": Path("b")}, minutes=1.5)
    words = bench.train_arguments(path, "mine", 0, options)
    assert "--root" not in words
    assert words[-2:] == ["--minutes", "1.5"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nothing_like_it"], "unknown recipe"),
        (["run", "r.toml", "--root", "cells=a", "--root", "cells=b"], "each data set once"),
        (["run", "r.toml", "--root", "cells="], "expected DIR or DATASET=DIR"),
        (["run", "r.toml", "./r.toml"], "same name"),
        (["run", "r.toml", "--jobs", "0"], "above 0"),
        (["collect", "--runs", "absent"], "no run folders in absent"),
        (["collect", "absent"], "does not exist"),
        (["table", "--out", "absent"], "no results in absent"),
        (["plot", "--out", "absent"], "no results in absent"),
    ],
)
def test_user_errors(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe(tmp_path, "r")
    assert cli.main(["bench", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_collect_scores_what_lies_in_the_runs_folder(here, tmp_path, capsys, monkeypatch):
    path = recipe(tmp_path)
    runs, out = tmp_path / "runs", tmp_path / "results"
    words = ["train", "--recipe", str(path), "--device", "cpu", "--quiet", "--no-report"]
    assert cli.main([*words, "--seed", "3", "--out", str(runs / "x")]) == 0
    monkeypatch.setattr(bench, "load_recipe", lambda name: results_of(path))
    capsys.readouterr()
    assert cli.main(["bench", "collect", "--runs", str(runs), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out / 'mine-3.json'}\n"
    assert load_results(out)[0].seed == 3


def results_of(path):
    from rlseg.recipes import load_recipe

    return load_recipe(path)


def test_a_run_without_recipe_and_a_failed_scoring_are_refused(here, tmp_path, monkeypatch):
    words = ["train", "--method", METHOD, "--dataset", "cells", "--device", "cpu", "--quiet"]
    data = ["--data", "size=32", "--data", "train=2", "--data", "valid=1", "--no-report"]
    assert cli.main([*words, *data, "--steps", "1", "--out", str(tmp_path / "run")]) == 0
    with pytest.raises(ConfigError, match="not trained from a recipe"):
        bench.collect(tmp_path / "run", tmp_path)

    def failing(self, command, log):
        log.write_text("first\nrlseg: no such split\n")
        return 2

    monkeypatch.setattr(Children, "run", failing)
    with pytest.raises(WorkerError, match=r"exit code 2 \(rlseg: no such split; all of it in"):
        bench.collect(tmp_path / "run", tmp_path, recipe=results_of(recipe(tmp_path)))


def test_commands_are_kept_without_folders_of_this_machine():
    command = ["rlseg", "train", "--root", "/data/my cremi", "--resume", "--out", "runs/x"]
    assert bench.portable(command) == "rlseg train --root 'my cremi' --out runs/x"


@pytest.mark.slow
def test_recipes_run_in_processes_of_their_own(tmp_path, capsys):
    bad = recipe(tmp_path, "bad")
    bad.write_text(bad.read_text().replace("[config]", '[config]\nfail = "diverge"'))
    words = ["bench", "run", str(recipe(tmp_path)), str(bad), "--jobs", "2", "--device", "cpu"]
    folders = ["--out", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    assert cli.main([*words, *folders]) == 2
    out, err = capsys.readouterr()
    (kept,) = load_results(tmp_path / "results")
    assert kept.scores["arand"] == kept.scores["arand_skimage"] != kept.scores["arand_cremi"]
    assert "| mine | sbd | 0.25 |" in out
    assert "bad, seed 0: training ended with exit code 3 (rlseg: stage threshold, step 1" in err
    assert "bad-0.log" in err


# Children


def test_fault_p2_children_are_asked_to_stop_and_none_survives(tmp_path):
    code = (
        "import signal, sys, time, pathlib\n"
        "def leave(*_): pathlib.Path(sys.argv[1]).write_text('saved'); sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "pathlib.Path(sys.argv[2]).write_text('ready')\n"
        "time.sleep(60)\n"
    )
    saved, ready = tmp_path / "saved", tmp_path / "ready"
    children, codes = Children(), []
    command = [sys.executable, "-c", code, str(saved), str(ready)]
    thread = threading.Thread(target=lambda: codes.append(children.run(command, None)))
    thread.start()
    deadline = time.monotonic() + 20
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children.stop()
    thread.join(20)
    assert codes == [130]
    assert saved.read_text() == "saved"
    assert children.run(command, None) == 130  # none is started any more


def test_a_child_that_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "SHUTDOWN_SECONDS", 0.2)
    ready = tmp_path / "ready"
    code = (
        "import signal, sys, time, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pathlib.Path(sys.argv[1]).write_text('ready'); time.sleep(60)"
    )
    children, codes = Children(), []
    command = [sys.executable, "-c", code, str(ready)]
    thread = threading.Thread(target=lambda: codes.append(children.run(command, tmp_path / "log")))
    thread.start()
    deadline = time.monotonic() + 20
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children.stop()
    thread.join(20)
    assert codes == [-signal.SIGKILL]


# Results, tables, plots


def test_scores_leave_out_book_keeping():
    assert results.score_values(SCORES) == {"sbd": 0.5, "arand": None}


def test_a_result_survives_its_file(tmp_path):
    point = CurvePoint(stage="s", step=2, seconds=None, scores={"sbd": None})
    made = result(curve=(point,), paper={"sbd": 0.25}, hardware={"cpu": "x", "cores": 2})
    (tmp_path / "a-0.json").write_text(json.dumps(dump(made)))
    assert load_results(tmp_path) == [made]
    (tmp_path / "b-0.json").write_text('{"recipe": 3}')
    with pytest.raises(ConfigError, match=r"b-0\.json: recipe: expected a text"):
        load_results(tmp_path)


def test_curves_take_their_clock_or_that_of_the_line_before():
    log = [
        {"stage": "a", "step": 1, "loss": 1.0, "seconds": 3.5},
        {"stage": "a", "step": 1, "eval/sbd": 0.5, "eval/x": None},
        {"stage": "b", "step": 2, "eval/sbd": 0.75},
        {"stage": "b", "step": 3, "eval/sbd": 0.5, "seconds": 7.0},
    ]
    assert curve_of(log) == (
        CurvePoint(stage="a", step=1, seconds=3.5, scores={"sbd": 0.5, "x": None}),
        CurvePoint(stage="b", step=2, seconds=3.5, scores={"sbd": 0.75}),
        CurvePoint(stage="b", step=3, seconds=7.0, scores={"sbd": 0.5}),
    )


def test_mean_and_deviation_over_seeds_by_hand():
    seeds = [0.5, 0.7, None, 0.9]
    group = [
        result(seed=i, scores={"sbd": v}, paper={"sbd": 0.6}, tolerance={"sbd": 0.05})
        for i, v in enumerate(seeds)
    ]
    (row,) = summarize(group)
    assert row.mean == pytest.approx(0.7)
    assert row.sd == pytest.approx(0.2)
    assert (row.seeds, row.minutes, row.within) == (3, 1.0, False)
    assert row.difference == pytest.approx(0.1)
    (single,) = summarize([result(scores={"sbd": 0.5, "x": 1.0})], ["x"])
    assert (single.score, single.mean, single.sd, single.paper) == ("x", 1.0, None, None)
    assert summarize([result()], ["unknown"]) == []


def test_the_table_is_markdown_with_equal_columns():
    text = markdown(summarize([result(), result(recipe="b", paper={"sbd": 0.25})]))
    lines = text.splitlines()
    assert lines[2:] == [
        "| a | sbd |  | 0.500 | 1 |  | 1.0 |",
        "| b | sbd | 0.25 | 0.500 | 1 | +0.250 | 1.0 |",
    ]
    assert {line.count("|") for line in lines} == {8}


def point(seconds: float | None, sbd: float) -> CurvePoint:
    return CurvePoint(stage="s", step=1, seconds=seconds, scores={"sbd": sbd, "x": 1.0})


def test_plot_and_table_commands(tmp_path, capsys):
    for seed in (0, 1):
        made = result(seed=seed, curve=(point(1.0, 0.1), point(60.0, 0.2 + seed / 10)))
        (tmp_path / f"a-{seed}.json").write_text(json.dumps(dump(made)))
    out = ["--out", str(tmp_path)]
    assert cli.main(["bench", "plot", *out]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'sbd.png'}\n"
    assert Image.open(tmp_path / "sbd.png").format == "PNG"
    png = tmp_path / "new" / "p.png"
    words = ["--score", "x", "--png", str(png), "--recipes", "a"]
    assert cli.main(["bench", "plot", *out, *words]) == 0
    assert Image.open(io.BytesIO(png.read_bytes())).format == "PNG"
    capsys.readouterr()
    for words in (["plot", "--recipes", "b"], ["plot", "--score", "y"]):
        assert cli.main(["bench", *words, *out]) == 2
    assert "there are a" in capsys.readouterr().err
    assert cli.main(["bench", "table", "--scores", "sbd", "--json", *out]) == 0
    assert json.loads(capsys.readouterr().out)[0]["seeds"] == 2
    assert cli.main(["bench", "table", *out]) == 0
    assert "| a | sbd |" in capsys.readouterr().out


def test_the_steps_are_those_of_the_last_checkpoint(here, tmp_path):
    options = Options(runs=tmp_path / "runs", results=tmp_path / "results", device="cpu", steps=3)
    assert bench.run_recipes([str(recipe(tmp_path))], [0], options) == []
    log = (options.runs / "mine-0" / "scalars.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == 2
    assert load_results(options.results)[0].steps == 3


def test_the_plot_shows_what_the_last_stage_is_for():
    first = CurvePoint(stage="hints", step=1, seconds=1.0, scores={"sbd": 0.1, "likelihood": -1.0})
    last = {"size": 3.0, "arand": 0.2, "voi": 0.3}
    curve = (first, CurvePoint(stage="agent", step=1, seconds=2.0, scores=last))
    assert plot([result(curve=curve)])[1] == "arand"
    assert plot([result(curve=curve, paper={"voi": 0.1})])[1] == "voi"
    assert plot([result(curve=curve)], "likelihood")[1] == "likelihood"
    other = (first, CurvePoint(stage="agent", step=1, seconds=2.0, scores={"size": 3.0}))
    assert plot([result(), result(curve=other)])[1] == "size"


def test_curves_without_a_clock_cannot_be_plotted():
    with pytest.raises(ConfigError, match="have no times"):
        plot([result(curve=(point(None, 0.5),))])
    with pytest.raises(ConfigError, match="they have none"):
        plot([result()])


def test_shipped_recipes_are_listed(capsys, monkeypatch, tmp_path):
    path = recipe(tmp_path)
    monkeypatch.setattr("rlseg.commands.bench.recipe_names", lambda: [str(path)])
    assert cli.main(["bench", "list"]) == 0
    assert capsys.readouterr().out == "mine: Mine\n    A paper, table 1\n"
    assert cli.main(["bench", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["config"] == {"steps": 4}


def test_results_go_to_the_checkout_or_to_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "__file__", str(tmp_path / "rlseg" / "results.py"))
    assert results.results_folder() == Path("results")
    (tmp_path / "benchmarks").mkdir()
    assert results.results_folder() == tmp_path / "benchmarks" / "results"
