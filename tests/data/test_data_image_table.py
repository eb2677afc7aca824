import json

import pytest

from rlseg.data.image_table import ImageEntry, read_image_table
from rlseg.errors import ConfigError, CorruptDatasetError


def entry(number, name, **changes):
    return {"id": number, "file_name": name, "height": 4, "width": 6, **changes}


def write(path, images, **more):
    path.write_text(json.dumps({"images": images, **more}))
    return path


def test_images_are_found_by_name_or_by_name_without_ending(tmp_path):
    path = write(
        tmp_path / "t.json",
        [entry(7, "val/a.jpg"), entry(8.0, "b.png"), entry(9, "c.jpg"), entry(10, "c.png")],
        categories=[{"id": 3, "name": "cat", "supercategory": "animal"}],
        annotations="of no interest here",
    )
    table = read_image_table(path)
    assert table.find("a.jpg") == ImageEntry(id=7, file_name="val/a.jpg", height=4, width=6)
    assert table.find("a.tif").id == 7
    assert table.find("b.jpg").id == 8
    assert table.find("c.png").id == 10
    assert table.categories == {3: "cat"}
    with pytest.raises(ConfigError, match=r"c\.tif: .*lists 2 images of this name: c\.jpg, c\.png"):
        table.find("c.tif")
    with pytest.raises(ConfigError, match=r"d\.jpg: .*t\.json lists no image of this name"):
        table.find("d.jpg")


def test_one_name_in_two_folders_is_ambiguous(tmp_path):
    table = read_image_table(write(tmp_path / "t.json", [entry(1, "x/a.jpg"), entry(2, "y/a.jpg")]))
    with pytest.raises(ConfigError, match=r"2 images of this name: x/a\.jpg, y/a\.jpg"):
        table.find("a.jpg")


def test_categories_may_be_absent(tmp_path):
    assert read_image_table(write(tmp_path / "t.json", [])).categories == {}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([entry("7", "a.jpg")], "images 0, 'id': expected a whole number 0 or more, got '7'"),
        ([entry(7.5, "a.jpg")], "'id': expected a whole number 0 or more, got 7.5"),
        ([entry(True, "a.jpg")], "'id': expected a whole number 0 or more, got true"),
        ([entry(-1, "a.jpg")], "'id': expected a whole number 0 or more, got -1"),
        ([entry(2**63, "a.jpg")], "'id': expected a whole number 0 or more"),
        ([{"file_name": "a.jpg", "height": 1, "width": 1}], "images 0, 'id': missing"),
        ([entry(1, "a.jpg", height=0)], "'height': expected a whole number 1 or more, got 0"),
        ([entry(1, "a.jpg", width=None)], "'width': expected a whole number 1 or more, got null"),
        ([entry(1, "")], "'file_name': expected a text that is not empty, got ''"),
        (["a.jpg"], "images 0: expected an object, got 'a.jpg'"),
        ([entry(1, "a.jpg"), entry(1, "b.jpg")], "images 1, 'id': 1 is also that of images 0"),
    ],
)
def test_fault_r8_entries_that_are_not_sound(tmp_path, images, message):
    with pytest.raises(CorruptDatasetError, match=message):
        read_image_table(write(tmp_path / "t.json", images))


def test_infinite_ids_are_refused(tmp_path):
    path = tmp_path / "t.json"
    path.write_text('{"images": [{"id": 1e999, "file_name": "a", "height": 1, "width": 1}]}')
    with pytest.raises(CorruptDatasetError, match="'id': expected a whole number 0 or more, got I"):
        read_image_table(path)


def test_up_to_ten_places_are_listed(tmp_path):
    path = write(tmp_path / "t.json", [entry(k, "a", height=-1) for k in range(13)])
    with pytest.raises(
        CorruptDatasetError, match=r"13 problems: .*images 9, .*; and 3 more; remove"
    ):
        read_image_table(path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"images": {}}', '{"images": 3}'])
def test_what_is_no_table(tmp_path, content):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(CorruptDatasetError, match="expected an object with a list `images`"):
        read_image_table(tmp_path / "t.json")


def test_categories_are_checked_too(tmp_path):
    for categories, message in (
        (3, "categories: expected a list, got 3"),
        ([{"id": 1}], "categories 0, 'name': expected a text that is not empty, got nothing"),
        (
            [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}],
            "categories 1, 'id': 1 is also that of categories 0",
        ),
    ):
        path = write(tmp_path / "t.json", [], categories=categories)
        with pytest.raises(CorruptDatasetError, match=message):
            read_image_table(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_image_table(tmp_path / "absent.json")
    (tmp_path / "t.json").write_text('{"images": [')
    with pytest.raises(CorruptDatasetError, match="not JSON"):
        read_image_table(tmp_path / "t.json")
