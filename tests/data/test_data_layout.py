import pytest

from rlseg.data.layout import Layout
from rlseg.errors import ConfigError, CorruptDatasetError

CITIES = Layout(
    patterns={
        "image": "left/{split}/{city}/{id}_left.{ext}",
        "labels": "gt/{split}/{city}/{id}_ids.png",
    },
    extensions=("png", "jpg"),
    optional=frozenset({"labels"}),
)


@pytest.fixture
def cities(tmp_path):
    for name in ("a/a_2", "a/a_10", "b/a_2"):
        for pattern in ("left/train/{}_left.PNG", "gt/train/{}_ids.png"):
            path = tmp_path / pattern.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "left/test/a").mkdir(parents=True)
    (tmp_path / "left/test/a/x_left.png").touch()
    return tmp_path


def test_records_in_natural_order(cities):
    records = CITIES.records(cities, "train")
    assert [r.name for r in records] == ["a_a_2", "a_a_10", "b_a_2"]
    assert records[1].files["image"].name == "a_10_left.PNG"
    assert records[1].files["labels"].name == "a_10_ids.png"
    assert CITIES.records(cities, "val") == []


def test_optional_role_may_be_absent_for_a_whole_split_only(cities):
    assert list(CITIES.records(cities, "test")[0].files) == ["image"]
    (cities / "gt/train/b/a_2_ids.png").unlink()
    with pytest.raises(CorruptDatasetError, match=r"a_2_left\.PNG: no labels.*gt.train.b.a_2_ids"):
        CITIES.records(cities, "train")


def test_all_problems_at_once(cities):
    (cities / "gt/train/b/a_2_ids.png").unlink()
    (cities / "left/train/a/a_2_left.PNG").unlink()
    (cities / "left/train/a/a_10_left.jpg").touch()
    records, problems = CITIES.survey(cities, "train")
    assert [r.name for r in records] == ["a_a_10"]
    assert sorted(p.what.split(";")[0].split(" file")[0].split(" as")[0] for p in problems) == [
        "no image",
        "no labels",
        "stands for the same sample",
    ]


def test_root_is_searched_in_the_stated_places(tmp_path):
    layout = Layout(patterns={"image": "{id}.png"}, roots=(".", "deep/er"))
    assert layout.find(tmp_path, ("",)) is None
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/1.png").touch()
    assert layout.find(tmp_path, ("",)) == tmp_path / "deep/er"
    error = layout.not_found(tmp_path, "toy", "Ask somebody.")
    assert "deep/er" in str(error)
    assert "Ask somebody" in str(error)


def test_names_are_not_read_as_expressions(tmp_path):
    layout = Layout(patterns={"image": "img (1)/{id}.x.png"})
    (tmp_path / "img (1)").mkdir()
    for name in ("a b.x.png", "ü.x.png", "a.y.png"):
        (tmp_path / "img (1)" / name).touch()
    assert [r.name for r in layout.records(tmp_path, "")] == ["a b", "ü"]


def test_patterns_must_agree():
    with pytest.raises(ConfigError, match="same placeholders"):
        Layout(patterns={"image": "{id}.png", "labels": "{name}.png"})
