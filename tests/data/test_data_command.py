import json
import time

import pytest

from rlseg.cli import main
from rlseg.data import DATASETS
from tests.fake.cremi import write_challenge_hdf


def refuse(constant):
    raise AssertionError(constant)


def read_json(text):
    return json.loads(text, parse_constant=refuse)


def test_list(capsys):
    assert main(["data", "list"]) == 0
    text = capsys.readouterr().out
    for name in DATASETS:
        assert f"\n{name}" in f"\n{text}"
    assert main(["data", "list", "--json"]) == 0
    entries = {e["name"]: e for e in read_json(capsys.readouterr().out)}
    assert list(entries) == list(DATASETS)
    assert entries["cells"]["generated"]
    assert entries["cremi"]["splits"] == ["train", "valid", "test"]
    assert "cremi.org" in entries["cremi"]["how_to_get"]
    assert entries["cremi"]["terms"] == "Academic use with citation."
    assert "terms       Academic use" in text


def test_check_of_sound_data(capsys, cremi_root, tmp_path):
    assert (
        main(["data", "check", "cremi", str(cremi_root), "--json", str(tmp_path / "o.json")]) == 0
    )
    captured = capsys.readouterr()
    assert "no problems found" in captured.out
    report = read_json((tmp_path / "o.json").read_text())
    assert report == {
        "schema": "rlseg.data-check/1", "dataset": "cremi", "root": str(cremi_root), "data": {},
        "ok": True, "problems": [], "notes": [],
    }  # fmt: skip
    assert main(["data", "check", "cells"]) == 0


def test_one_volume_alone_is_sound_with_a_note(capsys, tmp_path):
    write_challenge_hdf(tmp_path, 4, "train.hdf")
    out = tmp_path / "o.json"
    assert main(["data", "check", "cremi", str(tmp_path), "--json", str(out)]) == 0
    captured = capsys.readouterr()
    assert "no problems found" in captured.out
    assert "note     split valid  nothing for it" in captured.out
    report = read_json(out.read_text())
    assert (report["ok"], report["problems"]) == (True, [])
    assert [note["where"] for note in report["notes"]] == ["split valid", "split test"]


class Clock:
    """A clock that is a minute later at every look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 60.0
        return self.now


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["check"], ["check train: 1 of 4", "check valid: 4 of 4", "check test: 4 of 4"]),
        (["stats", "--split", "train"], ["train: 4/8", "train: 8/8"]),
        (
            ["stats", "--split", "train", "--radius", "5", "8", "9"],
            ["train: 4/4", "train, suggested radii: 4/4"],
        ),
    ],
)
def test_long_work_says_how_far_it_is(capsys, cremi_root, monkeypatch, words, expected):
    monkeypatch.setattr(time, "monotonic", Clock())
    assert main(["data", words[0], "cremi", str(cremi_root), *words[1:]]) == 0
    err = capsys.readouterr().err
    for text in expected:
        assert text in err
    assert main(["data", words[0], "cremi", str(cremi_root), *words[1:], "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_check_of_damaged_data_shows_everything_and_exits_2(capsys, folder_root, tmp_path):
    (folder_root / "labels/cell3.png").unlink()
    (folder_root / "images/cell5.png").write_bytes(b"nothing")
    out = tmp_path / "new/o.json"
    assert main(["data", "check", "folder", str(folder_root), "--json", str(out)]) == 2
    captured = capsys.readouterr()
    assert "cell3.png" in captured.out
    assert "cell5.png" in captured.out
    assert captured.err.strip().endswith("2 problems found")
    report = read_json(out.read_text())
    assert not report["ok"]
    assert len(report["problems"]) == 2


def test_stats(capsys, cremi_root, tmp_path):
    out, picture = tmp_path / "o.json", tmp_path / "o.png"
    arguments = ["data", "stats", "cremi", str(cremi_root), "--split", "train", "--quiet"]
    arguments += ["--radius", "5", "8", "--json", str(out), "--out", str(picture)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "48x48" in text
    assert "within 8" in text
    report = read_json(out.read_text())
    train = report["splits"]["train"]
    assert list(report["splits"]) == ["train"]
    assert (train["samples"], train["instances"]) == (4, 12)
    assert train["area_median"] == 11 * 14
    assert [n["radius"] for n in train["neighbours"]] == [5, 8]
    assert train["neighbours"][0]["maximum"] == 0
    assert (report["schema"], report["task"]) == ("rlseg.data-stats/1", "instance")
    assert train["area_octaves"] == [0] * 7 + [12]  # 154 pixels each
    assert set(report["suggested"]) == {"split", "radii", "max_neighbours", "bits"}
    assert report["suggested"]["radii"] == [5, 8]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_stats_of_volumes(tmp_path, capsys):
    from tests.fake.folder import write_volumes

    root = write_volumes(tmp_path / "v")
    assert main(["data", "stats", "folder", str(root), "--out", str(tmp_path / "o.png")]) == 0
    assert "4x48x48" in capsys.readouterr().out
    assert (tmp_path / "o.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data"], "ACTION"),
        (["data", "chek"], "check"),
        (["data", "check"], "NAME"),
        (["data", "check", "cells", "."], "generated and reads nothing; leave out"),
        (["data", "check", "folder"], "data set 'folder' needs a root folder"),
        (["data", "stats", "crem"], "did you mean cremi"),
        (["data", "stats", "cremi"], "--root"),
        (["data", "stats", "cells", "--split", "val"], "no split 'val'"),
        (["data", "stats", "cells", "--split", "test", "--radius", "-1"], "radii"),
        (["data", "stats", "folder", "/nowhere/at/all"], "does not exist"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(capsys, arguments, message):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("action", [[], ["list"], ["check"], ["stats"]])
def test_help_has_two_examples(capsys, action):
    assert main(["data", *action, "--help"]) == 0
    assert capsys.readouterr().out.count("\n  rlseg data ") >= 2
