"""The HTML page: self-contained, complete, safe, and honest about what is missing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlseg import cli, figures
from rlseg.errors import CheckpointError, ConfigError
from rlseg.report import Section, leaves, shown, table_html, write_report

METHOD = "tests.fake.threshold_method"
VOID = {"meta", "img", "br"}


def trained(folder: Path, *words: str) -> Path:
    sizes = ("size=32", "train=2", "valid=2", "tune=1", "test=3")
    data = [word for pair in sizes for word in ("--data", pair)]
    fixed = ["train", "--method", METHOD, "--dataset", "cells", *data, "--device", "cpu"]
    code = cli.main([*fixed, "--no-report", "--quiet", "--out", str(folder), *words])
    assert code == 0
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return (
        trained(folder / "one", "--set", "steps=4"),
        trained(folder / "two", "--set", "steps=6", "--seed", "1"),
    )


class Page(HTMLParser):
    """What a browser would load, and whether all elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        assert not any(k.startswith("on") for k, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def read(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "url(" not in text
    assert "<script" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    return page


def test_a_page_about_one_run(runs, tmp_path):
    run = shutil.copytree(runs[0], tmp_path / "run")
    page = read(write_report([run], run / "report.html"))
    assert page.headings == [
        f"{METHOD} on cells",
        "Scores in training",
        "Learning curves",
        "Examples",
        "Config",
        "Environment",
        "Commands",
    ]
    assert len(page.links) == 3
    score = json.loads((run / "scores.json").read_text())["scores"]["dice"]
    assert f"{score:.4g}dice" in page.text
    assert "inner.rate" in page.text
    assert "rlseg predict" in page.text
    found = sorted(p.name for p in (run / "figures").iterdir())
    assert found == ["bits.png", "curves.png", "examples.png"]


def test_a_page_comparing_runs_marks_what_differs(runs, tmp_path):
    path = write_report(list(runs), tmp_path / "new" / "both.html", title="A & B", examples=1)
    page = read(path)
    assert page.headings[0] == "A & B"
    text = path.read_text()
    differing = re.findall(r'<tr class="differs"><th scope="row">([^<]*)', text)
    assert differing == ["steps"]
    assert page.text.count("one") > 2
    assert not (runs[0] / "figures").exists()


def test_runs_of_one_name_are_told_apart(runs, tmp_path):
    again = shutil.copytree(runs[0], tmp_path / "one")
    page = read(write_report([runs[0], again], tmp_path / "x.html", examples=0))
    assert f"one · {again}" in page.text


def test_sections_of_the_caller_come_first_and_are_escaped(runs, tmp_path):
    picture = figures.png(figures.to_rgb(figures.np.zeros((1, 2, 2))))
    section = Section(
        title="<Mine>",
        text="a < b\n\nsecond <script>alert(1)</script>",
        table={"<row>": {"x": 0.123456, "y": None}, "other": {"z": "text"}},
        pictures=[('a "caption"', picture)],
    )
    path = write_report([runs[0]], tmp_path / "x.html", sections=[section], examples=0)
    page = read(path)
    assert page.headings[1] == "<Mine>"
    assert "second <script>alert(1)</script>" in page.text
    assert "0.1235" in page.text
    assert len(page.links) == 2


def test_a_page_without_examples_needs_no_data_and_no_checkpoint(runs, tmp_path):
    run = shutil.copytree(runs[0], tmp_path / "run")
    shutil.rmtree(run / "threshold")
    for name in ("scores.json", "environment.json", "scalars.jsonl"):
        (run / name).unlink()
    page = read(write_report([run], tmp_path / "x.html", examples=0))
    assert page.headings[1:] == ["Scores in training", "Config", "Environment", "Commands"]
    assert "not been evaluated yet" in page.text
    page = read(write_report([run], tmp_path / "x.html"))
    assert "No pictures: no checkpoint in" in page.text


def test_where_the_data_are_gone_the_page_says_so(runs, tmp_path):
    run = shutil.copytree(runs[0], tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    gone = {**config, "dataset": "folder", "root": str(tmp_path / "gone"), "data": {}}
    (run / "config.json").write_text(json.dumps(gone))
    page = read(write_report([run], tmp_path / "x.html"))
    assert "No pictures: " in page.text
    assert str(tmp_path / "gone") in page.text


def test_what_cannot_be_reported_is_refused(runs, tmp_path):
    with pytest.raises(ConfigError, match="at least one run"):
        write_report([], tmp_path / "x.html")
    with pytest.raises(CheckpointError, match="no run folder"):
        write_report([tmp_path], tmp_path / "x.html")
    with pytest.raises(ConfigError, match="no split 'tset'"):
        write_report([runs[0]], tmp_path / "x.html", split="tset")
    assert not (tmp_path / "x.html").exists()


def test_values_for_people():
    assert [shown(v) for v in (None, 0.123456, 12, 1234567.0, True, [1, 0.5], "x")] == [
        "-", "0.1235", "12", "1.235e+06", "True", "1, 0.5", "x"
    ]  # fmt: skip
    assert dict(leaves({"a": {"b": 1, "c": [1]}, "d": {}})) == {"a.b": 1, "a.c": [1]}
    assert "<td>-</td>" in table_html({"r": {"x": 1}, "s": {}})


def test_the_command(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["report", *map(str, runs), "--split", "valid", "--examples", "2", "--title", "T"]
    assert cli.main([*words, "--device", "cpu"]) == 0
    assert capsys.readouterr().out == "report.html\n"
    page = read(tmp_path / "report.html")
    assert page.headings[0] == "T"
    assert "split 'valid'" in page.text
    out = tmp_path / "deep" / "er.html"
    assert cli.main(["report", str(runs[0]), "--examples", "0", "--out", str(out)]) == 0
    assert out.is_file()
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
