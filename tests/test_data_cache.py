"""`rlseg data cache`, and the flags that fill a cache or bound the memory."""

import json

import pytest

from rlseg.cli import main
from rlseg.data import budget
from rlseg.data.store import Store

STATS = ["data", "stats", "cells", "--split", "valid", "--data", "valid=3", "--quiet"]


def test_stats_are_the_same_with_a_cache_and_it_is_listed_and_cleared(tmp_path, capsys):
    cache, out = tmp_path / "cache", tmp_path / "stats.json"
    assert main([*STATS, "--json", str(out)]) == 0
    plain, printed = json.loads(out.read_text()), capsys.readouterr().out
    for _ in range(2):
        assert main([*STATS, "--json", str(out), "--cache", str(cache)]) == 0
        assert json.loads(out.read_text()) == plain
        assert capsys.readouterr().out == printed
    assert main(["data", "cache", str(cache)]) == 0
    size = sum(path.stat().st_size for path in cache.iterdir())
    shown = f"3 entries, {size / 1024:.1f} KiB"
    assert capsys.readouterr().out.splitlines() == [f"neighbours    {shown}", f"{cache}: {shown}"]
    assert main(["data", "cache", str(cache), "--clear"]) == 0
    assert capsys.readouterr().out == f"{cache}: removed {shown}\n"
    assert not cache.exists()


def test_second_time_reads(tmp_path, monkeypatch):
    assert main([*STATS, "--cache", str(tmp_path)]) == 0
    monkeypatch.setattr("rlseg.data.neighbours._pairs", None)
    assert main([*STATS, "--cache", str(tmp_path)]) == 0


def test_a_damaged_entry_is_made_again_with_a_note(tmp_path, capsys, caplog):
    assert main([*STATS, "--cache", str(tmp_path)]) == 0
    first = capsys.readouterr().out
    path = min(tmp_path.iterdir())
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    words = [word for word in STATS if word != "--quiet"]
    assert main([*words, "--cache", str(tmp_path)]) == 0
    assert capsys.readouterr().out == first
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]


def test_folder_of_a_run(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert main(["data", "cache", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'cache'}: 0 entries, 0 bytes\n"
    import numpy as np

    Store(tmp_path / "cache").get_or_make("maps", {"n": 1}, lambda: {"x": np.zeros(1)})
    (tmp_path / "maps").write_text("not ours")
    assert main(["data", "cache", str(tmp_path), "--clear"]) == 0
    assert "removed 1 entry" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "maps"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "cache", "{0}/absent"], "does not exist"),
        (["data", "cache", "{0}/file"], "is a file"),
        (["data", "cache", "{0}/link", "--clear"], "is a link"),
        (["data", "cache"], "DIR"),
        ([*STATS, "--cache", "{0}/file"], "is a file"),
        (["data", "stats", "streets", "--cache", "{0}/new"], "leave out --cache"),
        (["train", "--recipe", "quickstart", "--memory", "0"], "--memory"),
        (
            ["train", "--recipe", "quickstart", "--out", "{0}/run", "--cache", "{0}/file"],
            "is a file",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, capsys, words, message):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    before = sorted(tmp_path.iterdir())
    assert main([word.format(tmp_path) for word in words]) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_train_keeps_neighbours_for_the_next_run_and_bounds_memory(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(budget, "SHARED", budget.Budget(0))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    words = ["train", "--recipe", "quickstart", "--data", "train=8", "--data", "valid=2"]
    words += ["--set", "bits=auto", "--set", "batch=2", "--steps", "0", "--no-report", "--quiet"]
    words += ["--cache", str(tmp_path / "cache"), "--memory", "0.5"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    assert budget.SHARED.max_bytes == 2**29
    assert len(Store(tmp_path / "cache").entries()) == 8
    monkeypatch.setattr("rlseg.data.neighbours._pairs", None)
    assert main([*words, "--out", str(tmp_path / "b"), "--seed", "1"]) == 0
    bits = [
        json.loads((tmp_path / run / "config.json").read_text())["config"]["bits"] for run in "ab"
    ]
    assert bits[0] == bits[1]
    assert isinstance(bits[0], int)
