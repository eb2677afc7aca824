import json

import pytest

from rlseg.cli import main
from rlseg.data import DATASETS


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


def test_check_of_sound_data(capsys, cremi_root, tmp_path):
    assert (
        main(["data", "check", "cremi", str(cremi_root), "--json", str(tmp_path / "o.json")]) == 0
    )
    captured = capsys.readouterr()
    assert "no problems found" in captured.out
    report = read_json((tmp_path / "o.json").read_text())
    assert report == {"dataset": "cremi", "root": str(cremi_root), "ok": True, "problems": []}
    assert main(["data", "check", "cells"]) == 0


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
