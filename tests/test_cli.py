"""The command line: exit codes, one-line errors, nearest names, and `rlseg train`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rlseg import cli, methods
from rlseg.commands.train import make_plan
from rlseg.config import build, dump
from rlseg.errors import ConfigError
from rlseg.recipes import load_recipe
from rlseg.runs import open_run, read_record
from rlseg.train import random_state, runtime
from tests.fake import threshold_method
from tests.fake.camvid import write_camvid
from tests.fake.tiny import cells_words
from tests.train.children import same_state

CHECKOUT = Path(__file__).resolve().parent.parent
METHOD = "tests.fake.threshold_method"
SMALL = [
    word
    for pair in ("size=32", "train=3", "valid=2", "tune=1", "test=3", "min_cells=2", "max_cells=4")
    for word in ("--data", pair)
]
TRAIN = ["train", "--method", METHOD, "--dataset", "cells", *SMALL, "--device", "cpu", "--quiet"]


def child(
    *words: str, timeout: float = 60, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), **environment},
    )


def train(out: Path, *words: str) -> int:
    return cli.main([*TRAIN, "--out", str(out), "--no-report", *words])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert train(folder, "--preset", "fast", "--set", "inner.rate=0.5") == 0
    return folder


# Start-up and help


def test_importing_rlseg_and_asking_for_help_loads_no_torch_and_is_quick():
    code = (
        "import sys, time; start = time.perf_counter(); import rlseg, rlseg.cli\n"
        "try: rlseg.cli.main(['--help'])\n"
        "finally: assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert time.perf_counter() - start < 1"
    )
    done = child("-c", code)
    assert done.returncode == 0, done.stderr.decode()
    for verb in cli.VERBS:
        assert f"\n    {verb}" in done.stdout.decode()


@pytest.mark.parametrize(
    "words",
    [
        *([verb] for verb in cli.VERBS),
        ["bench", "list"],
        ["bench", "run"],
        ["bench", "collect"],
        ["bench", "table"],
        ["bench", "plot"],
        ["places", "convert"],
        ["places", "evaluate"],
    ],
)
def test_fault_p4_every_verb_has_help_with_two_examples_and_loads_no_torch(words):
    code = f"import sys; from rlseg.cli import main; code = main({[*words, '--help']!r})\n"
    done = child("-c", code + "assert 'torch' not in sys.modules; sys.exit(code)")
    text = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert text.partition("examples:")[2].count("\n  rlseg ") >= 2
    assert all(flag in text for flag in ("--quiet", "--verbose", "--debug"))


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rlseg 0.")


def test_lazy_names_are_all_there():
    import rlseg

    for name in rlseg.__all__:
        assert getattr(rlseg, name) is not None
    assert set(rlseg.__all__) <= set(dir(rlseg))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rlseg.nothing


# Bad arguments


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage: rlseg"),
        (["--quiet"], "which verb?"),
        (["trian"], "unknown verb 'trian'; did you mean 'train'?"),
        ([*TRAIN, "--metod=x"], "did you mean '--method'"),
        ([*TRAIN, "--step", "3"], "unknown argument '--step'; did you mean '--steps'"),
        (["bench", "tabel"], "did you mean 'table'"),
        ([*TRAIN, "--steps", "-1"], "expected a whole number above -1, got -1"),
        ([*TRAIN, "--minutes", "nan"], "expected a number above 0"),
        ([*TRAIN, "--threads", "x"], "expected a whole number, got 'x'"),
        ([*TRAIN, "--precision", "fp61"], "unknown word 'fp61'; did you mean"),
        (["train", "--dataset", "cells"], "--method missing"),
        (["train"], "--method and --dataset missing"),
        (["train", "--method", "colorl", "--dataset", "cells"], "did you mean 'colorrl'"),
        (["train", "--method", "json", "--dataset", "cells"], "it lacks Config, stages"),
        (["train", "--method", METHOD, "--dataset", "clels"], "did you mean cells"),
        (["train", "--recipe", "nothing_like_it"], "unknown recipe"),
        ([*TRAIN, "--set", "stepps=3"], "did you mean 'steps'"),
        ([*TRAIN, "--set", "steps=-3"], "steps must not be negative, got -3"),
        ([*TRAIN, "--set", "steps"], "expected key.path=value"),
        ([*TRAIN, "--data", "siez=3"], "did you mean 'size'"),
        ([*TRAIN, "--data", "size"], "--data 'size': expected key.path=value"),
        ([*TRAIN, "--preset", "fats"], "unknown preset 'fats'; did you mean 'fast'"),
        ([*TRAIN, "--device", "gpu"], "device"),
        (["train", "--resume"], "--resume needs --out"),
        (["train", "--resume", "--out", "absent"], "absent does not exist"),
    ],
)
def test_fault_p4_a_user_error_is_one_line_and_exit_2(
    words, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
    assert "Traceback" not in err
    assert words == [] or err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback_of_a_user_error(capsys):
    assert cli.main([*TRAIN, "--set", "stepps=3", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_output_folder_that_is_a_file_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert train(tmp_path / "file") == 2
    assert "file" in capsys.readouterr().err


def test_verbose_says_what_it_cost(monkeypatch, capsys):
    monkeypatch.setattr("rlseg.commands.report.run", lambda args: 0)
    assert cli.main(["report", "x", "--verbose"]) == 0
    assert re.fullmatch(
        r"rlseg report: \d+\.\d s, at most \d+ MiB of memory\n", capsys.readouterr().err
    )
    assert cli.main(["report", "x"]) == 0
    assert capsys.readouterr().err == ""


def test_message_flags_are_read_before_and_after_the_verb(monkeypatch):
    seen = []
    monkeypatch.setattr("rlseg.commands.report.run", lambda args: seen.append(args) or 0)
    assert cli.main(["--quiet", "report", "x", "--verbose"]) == 0
    assert (seen[0].quiet, seen[0].verbose, seen[0].debug) == (True, True, False)


def test_quiet_silences_warnings_about_a_part_of_a_published_set(tmp_path, caplog, capsys):
    root = write_camvid(tmp_path / "camvid")
    words = ["data", "stats", "camvid", str(root)]
    assert cli.main(words) == 0
    assert "4 of the 367 published images" in caplog.text
    shown = capsys.readouterr().out
    caplog.clear()
    assert cli.main([*words, "--quiet"]) == 0
    assert caplog.text == ""
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (shown, "")
    assert cli.main([*words, "--quiet", "--split", "nowhere"]) == 2, "errors are said"
    assert "no split 'nowhere'" in capsys.readouterr().err
    assert cli.main(words) == 0
    assert "published images" in caplog.text, "--quiet is for one command"


# Methods and their config


def test_settings_come_from_defaults_preset_recipe_and_flags_in_this_order():
    def made(**kwargs):
        return methods.make_config(methods.method_module(METHOD), **kwargs)

    assert made() == threshold_method.Config()
    assert made(preset="fast").steps == 4
    assert made(preset="fast").inner == threshold_method.Inner(rate=1.0)
    assert made(preset="slow").inner.names == ("a", "b")
    both = made(preset="fast", recipe={"steps": 5, "inner": {"names": ["c"]}})
    assert (both.steps, both.inner) == (5, threshold_method.Inner(rate=1.0, names=("c",)))
    assert made(preset="fast", recipe={"steps": 5}, overrides=["steps=6"]).steps == 6


def test_every_method_of_the_table_is_one_and_its_presets_are_valid():
    for name in methods.METHODS:
        module = methods.method_module(name)
        for preset in [None, *methods.presets(module)]:
            config = methods.make_config(module, preset=preset)
            assert build(module.Config, dump(config), name) == config


def test_a_method_that_lacks_a_package_says_so(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import absent_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="needs 'absent_package'"):
        methods.method_module("needy")


# rlseg train


def test_train_writes_what_a_later_command_needs(trained):
    record = read_record(trained)
    assert record.method == METHOD
    assert record.preset == "fast"
    assert record.dataset == "cells"
    assert record.data["size"] == 32
    assert record.config["steps"] == 4
    assert record.config["inner"] == {"rate": 0.5, "names": ["a", "b"]}
    assert isinstance(record.config["bits"], int)  # "auto" is resolved
    assert (trained / "scalars.jsonl").read_text().count("eval/dice") == 2
    assert json.loads((trained / "scores.json").read_text())["step"] == 4


def test_train_says_what_came_out_on_stdout(tmp_path, capsys):
    assert train(tmp_path / "run", "--steps", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "stopped: stage threshold, step 2"
    assert lines[-1] == f"run folder: {tmp_path / 'run'}"


def test_out_defaults_to_method_data_set_and_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*TRAIN, "--no-report", "--steps", "1", "--seed", "3"]) == 0
    assert read_record(tmp_path / "runs" / "threshold_method-cells-3").runtime.seed == 3


def test_a_second_run_on_a_folder_is_refused_and_resume_goes_on(tmp_path, capsys):
    out = tmp_path / "run"
    assert train(out, "--steps", "5") == 0
    assert train(out) == 2
    assert "--resume" in capsys.readouterr().err
    assert train(out, "--resume", "--set", "steps=30") == 2
    assert "steps" in capsys.readouterr().err
    assert train(out, "--resume") == 0
    whole = tmp_path / "whole"
    assert train(whole) == 0

    def scalars(folder):
        records = map(json.loads, (folder / "scalars.jsonl").read_text().splitlines())
        return [
            {k: v for k, v in r.items() if "seconds" not in k and "per_s" not in k} for r in records
        ]

    assert scalars(out) == scalars(whole)
    assert train(out, "--resume") == 0  # nothing left to do


def test_resume_takes_the_recorded_settings_and_permits_named_changes(tmp_path, capsys):
    out = tmp_path / "run"
    assert train(out, "--steps", "2", "--seed", "5", "--set", "start=0.25") == 0
    resume = ["train", "--resume", "--out", str(out), "--device", "cpu", "--quiet", "--no-report"]
    assert cli.main([*resume, "--set", "steps=6"]) == 2
    assert cli.main([*resume, "--set", "steps=6", "--allow-change", "steps"]) == 0
    record = read_record(out)
    assert (record.config["steps"], record.config["start"], record.runtime.seed) == (6, 0.25, 5)
    assert cli.main([*resume, "--preset", "fast"]) == 2
    assert "--preset has no effect" in capsys.readouterr().err


def test_recipe_gives_method_data_and_budget_and_flags_win(tmp_path, capsys):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f'method = "{METHOD}"\ndataset = "cells"\npreset = "fast"\n'
        "[config]\nstart = 0.125\n[data]\nsize = 32\ntrain = 2\nvalid = 1\ntest = 1\ntune = 1\n"
    )
    words = ["train", "--recipe", str(recipe), "--device", "cpu", "--quiet", "--no-report"]
    out = tmp_path / "run"
    assert cli.main([*words, "--out", str(out), "--set", "steps=2", "--data", "train=3"]) == 0
    record = read_record(out)
    assert (record.recipe, record.preset) == ("mine", "fast")
    assert (record.config["steps"], record.config["start"]) == (2, 0.125)
    assert (record.data["train"], record.data["size"]) == (3, 32)
    assert cli.main([*words, "--method", "colorrl"]) == 2
    assert "leave one of the two out" in capsys.readouterr().err


def test_precision_comes_from_the_recipe_unless_the_flag_says_otherwise(tmp_path, capsys):
    recipe = tmp_path / "mine.toml"
    text = f'method = "{METHOD}"\ndataset = "cells"\npreset = "fast"\n'
    words = ["train", "--recipe", str(recipe), *SMALL, "--device", "cpu", "--quiet", "--no-report"]

    def precision(first_line, *flags):
        recipe.write_text(first_line + text)
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        assert cli.main([*words, "--steps", "1", "--out", str(out), *flags]) == 0
        return read_record(out).runtime.precision

    assert precision("") == "fp32"
    assert precision('precision = "bf16"\n') == "bf16"
    assert precision('precision = "bf16"\n', "--precision", "fp32") == "fp32"
    recipe.write_text('precision = "fp16"\n' + text)
    assert cli.main([*words, "--out", str(tmp_path / "bad")]) == 2
    assert "precision: expected 'fp32' or 'bf16'" in capsys.readouterr().err


def test_bf16_on_a_cpu_without_it_is_remarked(tmp_path, capsys, monkeypatch):
    said = "this CPU computes bf16 slowly; --precision fp32 may be faster\n"
    words = [word for word in TRAIN if word != "--quiet"]
    words += ["--steps", "1", "--no-report", "--preset", "fast"]
    for k, (native, precision) in enumerate(((False, "bf16"), (True, "bf16"), (False, "fp32"))):
        monkeypatch.setattr(runtime, "native_bf16", lambda device, native=native: native)
        out = str(tmp_path / str(k))
        assert cli.main([*words, "--out", out, "--precision", precision]) == 0
        assert capsys.readouterr().err.count(said) == (k == 0)


def test_resume_without_flags_keeps_to_the_minutes_of_the_recipe(tmp_path, capsys, monkeypatch):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'method = "{METHOD}"\ndataset = "cells"\npreset = "fast"\nminutes = 60\n')
    out = str(tmp_path / "run")
    words = ["--device", "cpu", "--out", out, "--no-report"]
    assert cli.main(["train", "--recipe", str(recipe), *SMALL, *words, "--steps", "1"]) == 0
    resume = ["train", "--resume", *words]
    capsys.readouterr()
    assert plan_of(resume).minutes is None
    assert "recipe mine is not a shipped one: no time limit" in capsys.readouterr().err
    monkeypatch.setattr("rlseg.commands.train.load_recipe", lambda name: load_recipe(recipe))
    assert plan_of(resume).minutes == 60
    assert plan_of([*resume, "--minutes", "5"]).minutes == 5
    assert capsys.readouterr().err == ""
    # Longer ago than the recipe allows: nothing is trained any more.
    recipe.write_text(recipe.read_text().replace("minutes = 60", "minutes = 1e-6"))
    assert cli.main(resume) == 0
    assert "stopped" in capsys.readouterr().out
    assert cli.main([*resume, "--minutes", "5"]) == 0
    assert "finished: stage threshold, step 4" in capsys.readouterr().out


def plan_of(words):
    return make_plan(cli._parse(words)[0])


def test_opening_a_run_leaves_the_process_as_it_is(tmp_path):
    out = tmp_path / "run"
    assert cli.main(cells_words(out, "--steps", "1", method="unet")) == 0  # it draws new weights
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        state = random_state.capture(torch.device("cpu"))
        open_run(out)
        assert same_state(random_state.capture(torch.device("cpu")), state)
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(before)


def test_train_ends_with_a_report_unless_told_otherwise(tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main([*TRAIN, "--out", str(out), "--preset", "fast"]) == 0
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert (out / "figures" / "examples.png").is_file()


def test_divergence_is_exit_3(tmp_path, capsys):
    out = tmp_path / "run"
    assert train(out, "--set", "fail=diverge") == 3
    err = capsys.readouterr().err
    assert "last good checkpoint" in err
    assert "Traceback" not in err
    assert (out / "threshold" / "divergence.json").is_file()


def test_a_crash_is_exit_1_with_its_traceback_in_the_run_folder(tmp_path, capsys):
    out = tmp_path / "run"
    assert train(out, "--set", "fail=crash") == 1
    err = capsys.readouterr().err
    assert str(out / "crash.txt") in err
    assert "Traceback" not in err
    assert "made to crash" in (out / "crash.txt").read_text()


def test_a_crash_without_a_run_folder_is_written_to_the_working_folder(
    tmp_path, monkeypatch, capsys
):
    def broken(args):
        raise LookupError("made to crash")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlseg.commands.report.run", broken)
    assert cli.main(["report", "x"]) == 1
    assert "made to crash" in (tmp_path / "rlseg-crash.txt").read_text()
    assert "rlseg-crash.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "a/b"), "rlseg: a/b: Permission denied"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory\nmore"), "batch"),
    ],
)
def test_trouble_with_the_machine_is_no_bug(error, message, monkeypatch, capsys):
    def broken(args):
        raise error

    monkeypatch.setattr("rlseg.commands.report.run", broken)
    assert cli.main(["report", "x"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_fault_p2_a_signal_saves_and_ends_with_130(tmp_path):
    out = tmp_path / "run"
    words = [*TRAIN, "--out", str(out), "--no-report", "--set", "steps=100000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlseg", *words],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    log = out / "scalars.jsonl"
    deadline = time.monotonic() + 60
    while not (log.is_file() and log.read_text().count("\n") > 2):
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr.decode()
    assert stdout.startswith(b"interrupted: stage threshold, step")
    assert b"Traceback" not in stderr


# Terminal


def test_fault_p8_a_closed_pipe_is_no_error():
    code = (
        "import sys; from rlseg import cli; from rlseg.commands import report\n"
        "report.run = lambda args: [print('line' * 100) for _ in range(10000)] and 0\n"
        "sys.exit(cli.main(['report', 'x']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 0


def test_fault_p8_no_escape_codes_where_stdout_is_no_terminal(tmp_path):
    out = tmp_path / "run"
    words = [word for word in TRAIN if word != "--quiet"]
    done = child(
        "-m", "rlseg", *words, "--out", str(out), "--no-report", "--preset", "fast",
        NO_COLOR="1", TERM="dumb", COLUMNS="20",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert b"\x1b" not in done.stdout + done.stderr
    assert done.stdout.startswith(b"finished")


def test_file_names_that_are_not_utf_8_are_printed(tmp_path):
    folder = os.fsencode(tmp_path) + b"/r\xff"
    done = subprocess.run(
        [sys.executable, "-m", "rlseg", "report", folder],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUTF8": "0", "LC_ALL": "C"},
    )
    assert done.returncode == 2
    assert b"does not exist" in done.stderr


def test_the_run_folder_may_be_moved(trained, tmp_path):
    moved = shutil.copytree(trained, tmp_path / "ein Ort" / "übrig")
    assert cli.main(["report", str(moved), "--examples", "0"]) == 0
    assert (moved / "report.html").is_file()
