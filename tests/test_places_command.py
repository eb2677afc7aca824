"""`rlseg places evaluate`: a submission against the challenge's truth, from the command line."""

from __future__ import annotations

import json
import os
import pty
import re
from pathlib import Path

import numpy as np
import pytest

from rlseg import cli
from tests.fake.coco import disc, official, random_problem, result

SCORES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar50", "ar255", "ar_small", "ar_medium", "ar_large"),
)


@pytest.fixture
def files(tmp_path):
    """Truth and submission, as the two options that name them."""
    truth, results = random_problem(11, images=5, largest=90, crowds=False)
    paths = tmp_path / "truth.json", tmp_path / "preds.json"
    for path, content in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(content))
    return ["--dataset-json", str(paths[0]), "--preds-json", str(paths[1])]


def evaluate(*words):
    return cli.main(["places", "evaluate", *words])


def contents(files):
    return [json.loads(Path(path).read_text()) for path in files[1::2]]


def rewrite(files, results):
    Path(files[3]).write_text(json.dumps(results))


def strict_json(path):
    def refuse(name):
        raise AssertionError(f"{name} in {path}")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_scores_in_a_file_are_those_of_the_official_code(files, tmp_path, capsys):
    out = tmp_path / "deep" / "scores.json"
    assert evaluate(*files, "--json", str(out)) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    scores = strict_json(out)
    theirs, per_category = official(*contents(files), (1, 50, 255))
    for name in SCORES:
        assert scores[name] == pytest.approx(theirs[name], abs=1e-12), name
    assert [row["ap"] for row in scores["per_category"]] == pytest.approx(per_category, abs=1e-12)
    assert list(scores) == sorted(scores)
    assert scores["schema"] == "rlseg.places/1"
    assert (scores["pred"], scores["true"]) == (files[3], files[1])
    assert (scores["mode"], scores["max_dets"]) == ("official", [1, 50, 255])


def test_undefined_scores_are_null_in_the_file(files, tmp_path):
    truth, _ = contents(files)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] == 1]
    Path(files[1]).write_text(json.dumps(truth))
    out = tmp_path / "scores.json"
    assert evaluate(*files, "--json", str(out)) == 0
    rows = strict_json(out)["per_category"]
    assert [row["ap"] is None for row in rows] == [False, True, True]
    assert [row["n_true"] > 0 for row in rows] == [True, False, False]


def test_a_table_on_stdout_in_plain_text(files, capsys):
    assert evaluate(*files) == 0
    shown = capsys.readouterr().out
    theirs, _ = official(*contents(files), (1, 50, 255))
    for name in SCORES:
        assert re.search(rf"^{name} +{theirs[name]:.4f}$", shown, re.MULTILINE), name
    assert re.search(r"^mode +official$", shown, re.MULTILINE)
    assert re.search(r"^ *id  name +ap +ap50  n_true  n_pred$", shown, re.MULTILINE)


def test_a_drawn_table_on_a_terminal(files, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    outer, inner = pty.openpty()
    with open(inner, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        assert evaluate(*files) == 0
        monkeypatch.undo()
        terminal.flush()
        shown = os.read(outer, 1 << 16).decode()
    os.close(outer)
    assert "┃" in shown
    assert re.search(r"│ ar255 +│ +0\.\d{4} │", shown)


def test_unknown_categories_are_dropped_or_refused(files, tmp_path, capsys):
    results = contents(files)[1]
    results[4]["category_id"] = 77
    rewrite(files, results)
    out = tmp_path / "scores.json"
    assert evaluate(*files, "--json", str(out)) == 0
    assert "note: 1 prediction of unknown categories dropped: 77" in capsys.readouterr().err
    assert strict_json(out)["dropped"] == 1
    assert evaluate(*files, "--quiet", "--json", str(out)) == 0
    assert capsys.readouterr().err == ""
    out.unlink()
    assert evaluate(*files, "--mode", "strict", "--json", str(out)) == 2
    assert "item 4, 'category_id': 77 is no category of the data set" in capsys.readouterr().err
    assert not out.exists()


def test_strict_mode_is_on_record(files, tmp_path):
    truth, results = contents(files)
    numbers = np.random.default_rng(0)
    image = truth["images"][0]
    spare = disc(image["height"], image["width"], 5, 5, 3)
    results += [result(spare, image["id"], 1, numbers) | {"score": 2.0} for _ in range(255)]
    rewrite(files, results)
    out = tmp_path / "scores.json"
    assert evaluate(*files, "--mode", "strict", "--json", str(out)) == 0
    scores = strict_json(out)
    own = sum(entry["image_id"] == image["id"] for entry in results)
    assert (scores["mode"], scores["dropped"]) == ("strict", own - 255)
    assert "beyond the 255 best" in scores["warnings"][0]


def test_compat_loses_the_first_truth(files, tmp_path):
    truth, results = random_problem(11, images=5, crowds=False, first_id=0)
    Path(files[1]).write_text(json.dumps(truth))
    rewrite(files, results)
    found = {}
    for name, words in {"fair": (), "compat": ("--compat",)}.items():
        out = tmp_path / f"{name}.json"
        assert evaluate(*files, *words, "--json", str(out)) == 0
        found[name] = strict_json(out)
    theirs, _ = official(truth, results, (1, 50, 255))
    assert found["compat"]["ar255"] == pytest.approx(theirs["ar255"], abs=1e-12)
    assert found["fair"]["ar255"] != found["compat"]["ar255"]
    assert (found["compat"]["backend"], found["compat"]["compat"]) == ("own", True)


def test_a_malformed_submission_gets_reasons_and_no_score(files, tmp_path, capsys):
    results = contents(files)[1]
    results[2]["score"] = None
    results[5]["segmentation"]["counts"] += "0"
    del results[9]["image_id"]
    rewrite(files, results)
    out = tmp_path / "scores.json"
    assert evaluate(*files, "--json", str(out)) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"rlseg: {files[3]}: 3 problems: item 2, 'score': expected a finite")
    assert "item 5, 'segmentation.counts': " in message
    assert "item 9, 'image_id': missing; remove or fix them" in message
    assert message.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required"),
        (["--dataset-json", "none.json", "--preds-json", "p.json"], "none.json: cannot be read"),
        (["--mode", "lenient"], "unknown word 'lenient'"),
        (["--backend", "hotcoco", "--compat"], "compat is computed by our own code only"),
        (["--json", "."], ". is a folder; name a file to write"),
    ],
)
def test_wrong_arguments(files, words, message, capsys):
    start = [] if not words or words[0] == "--dataset-json" else files
    assert evaluate(*start, *words) == 2
    assert message in capsys.readouterr().err


def test_swapped_files_are_told_apart(files, capsys):
    assert evaluate("--dataset-json", files[3], "--preds-json", files[1]) == 2
    assert "is it a list of results?" in capsys.readouterr().err


def test_other_ranks_do_nothing(files, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert evaluate(*files) == 0
    assert capsys.readouterr().out == ""


def test_names_of_categories_cannot_steer_the_terminal(files, capsys):
    truth, _ = contents(files)
    for entry, name in zip(truth["categories"], ("a\x1b[2Jb", "c\nd", "[bold]\ud800"), strict=True):
        entry["name"] = name
    Path(files[1]).write_text(json.dumps(truth))
    assert evaluate(*files) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    for words in (r"'a\x1b[2Jb'", r"'c\nd'", r"'[bold]\ud800'"):
        assert words in shown


def test_steps_are_told_when_they_take_long(files, monkeypatch, capsys):
    clock = iter(range(0, 1000, 40))
    monkeypatch.setattr("rlseg.commands.time.monotonic", lambda: next(clock))
    assert evaluate(*files) == 0
    assert "evaluate, step: 2 of 3, 40 s left" in capsys.readouterr().err
