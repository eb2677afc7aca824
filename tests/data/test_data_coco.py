"""COCO data set files: what is read, what is refused, and that writing gives back what was read."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
from pycocotools.coco import COCO

from rlseg import rle
from rlseg.data.coco import CocoTruth, coco_dict, read_truth
from rlseg.errors import CorruptDatasetError, ShapeError
from tests.fake.coco import compressed, disc, listed, random_problem


def small():
    """Two images, two categories, three annotations: text, list and polygon."""
    return {
        "images": [
            {"id": 7, "file_name": "b.jpg", "height": 6, "width": 8},
            {"id": 3, "file_name": "a.jpg", "height": 4, "width": 5},
        ],
        "categories": [{"id": 9, "name": "leaf"}, {"id": 2, "name": "root"}],
        "annotations": [
            annotation(11, 7, 9, compressed(disc(6, 8, 2, 3, 2)), area=100.5),
            annotation(5, 3, 2, listed(disc(4, 5, 1, 1, 1)), iscrowd=1),
            annotation(6, 7, 2, [[1, 1, 5, 1, 5, 4, 1, 4]]),
        ],
    }


def annotation(number, image, category, segmentation, **more):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        **more,
    }


def changed(**edits):
    """`small()` with edits such as `annotations__1__id=4`; a value of None removes the key."""
    content = small()
    for path, value in edits.items():
        keys = [int(key) if key.isdigit() else key for key in path.split("__")]
        place = content
        for key in keys[:-1]:
            place = place[key]
        if value is None:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value
    return content


def refused(content):
    with pytest.raises(CorruptDatasetError) as caught:
        read_truth(content)
    return str(caught.value)


def test_what_is_read_from_a_small_file(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(small()), encoding="utf-8-sig")
    truth = read_truth(path)
    assert truth.image_ids.tolist() == [3, 7]
    assert truth.image_names == ("a.jpg", "b.jpg")
    assert truth.image_sizes.tolist() == [[4, 5], [6, 8]]
    assert truth.category_ids.tolist() == [2, 9]
    assert truth.category_names == ("root", "leaf")
    assert truth.annotation_ids.tolist() == [11, 5, 6]
    assert truth.image.tolist() == [7, 3, 7]
    assert truth.category.tolist() == [9, 2, 2]
    assert truth.crowd.tolist() == [False, True, False]
    assert truth.crowd.dtype == np.bool_
    assert truth.area.tolist() == [100.5, 5, 12]
    assert np.array_equal(truth.runs.take([0]).decode()[0], disc(6, 8, 2, 3, 2))
    assert np.array_equal(truth.runs.take([1]).decode()[0], disc(4, 5, 1, 1, 1))
    square = np.zeros((6, 8), dtype=bool)
    square[1:4, 1:5] = True
    assert np.array_equal(truth.runs.take([2]).decode()[0], square)
    assert truth.sizes_of(np.array([7, 3, 3])).tolist() == [[6, 8], [4, 5], [4, 5]]
    assert len(truth) == 3


def test_names_and_crowds_may_be_absent():
    truth = read_truth(
        changed(images__0__file_name=None, categories__1__name=None, annotations__1__iscrowd=None)
    )
    assert truth.image_names == ("a.jpg", "7")
    assert truth.category_names == ("2", "leaf")
    assert not truth.crowd.any()


@pytest.mark.parametrize("crowd", [0, 1, True, False, 1.0])
def test_crowds_as_numbers_and_truth_values(crowd):
    assert read_truth(changed(annotations__0__iscrowd=crowd)).crowd[0] == bool(crowd)


def test_integral_float_ids_are_ids():
    truth = read_truth(changed(annotations__0__image_id=7.0, images__0__id=7.0))
    assert truth.image.tolist() == [7, 3, 7]
    assert truth.image.dtype == np.int64


@pytest.mark.parametrize("seed", range(5))
def test_masks_and_areas_are_those_of_pycocotools(seed):
    content, _ = random_problem(seed, lists=True)
    truth = read_truth(content)
    reference = COCO()
    reference.dataset = content
    reference.createIndex()
    for k, entry in enumerate(content["annotations"]):
        mask = truth.runs.take([k]).decode()[0]
        assert np.array_equal(mask, reference.annToMask(entry))
        assert truth.area[k] == entry["area"] == mask.sum()


def test_data_set_without_annotations_or_images():
    truth = read_truth({"images": [], "categories": [], "annotations": []})
    assert len(truth) == len(truth.image_ids) == len(truth.category_ids) == 0
    assert len(read_truth(small() | {"annotations": []})) == 0


def test_fault_r4_empty_images_hold_empty_masks():
    empty = {"size": [0, 8], "counts": []}
    truth = read_truth(changed(images__0__height=0, annotations__0__segmentation=empty,
                               annotations__0__area=None, annotations__2=None))  # fmt: skip
    assert truth.runs.areas()[0] == truth.area[0] == 0


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"images__1__id": 7}, "images 1, 'id': 7 is also that of images 0"),
        ({"categories__1__id": 9}, "categories 1, 'id': 9 is also that of categories 0"),
        ({"annotations__2__id": 11}, "annotations 2, 'id': 11 is also that of annotations 0"),
        ({"annotations__1__image_id": 4}, "annotations 1, 'image_id': 4 is no image"),
        ({"annotations__1__category_id": 4}, "annotations 1, 'category_id': 4 is no category"),
        ({"annotations__1__category_id": None}, "annotations 1, 'category_id': missing"),
        ({"annotations__1__image_id": None}, "annotations 1, 'image_id': missing"),
        ({"annotations__1__id": None}, "annotations 1, 'id': missing"),
        ({"annotations__1__segmentation": None}, "annotations 1, 'segmentation': missing;"),
        ({"annotations__1__segmentation__size": None}, "annotations 1, 'segmentation.size'"),
        ({"annotations__1__segmentation__counts": None}, "annotations 1, 'segmentation.counts'"),
        ({"annotations__1__segmentation__size": [5, 4]}, "annotations 1, 'segmentation.size'"),
        ({"annotations__1__segmentation": 5}, "annotations 1, 'segmentation"),
        ({"annotations__2__segmentation": []}, "annotations 2, 'segmentation"),
        ({"annotations__2__segmentation": [[1, 1, 2]]}, "annotations 2, 'segmentation"),
        ({"annotations__0__id": 1.5}, "annotations 0, 'id': expected a whole number, got 1.5"),
        ({"annotations__0__id": "1"}, "annotations 0, 'id': expected a whole number, got '1'"),
        ({"annotations__0__id": True}, "annotations 0, 'id': expected a whole number, got true"),
        ({"annotations__0__id": 2**70}, "annotations 0, 'id': expected a whole number"),
        ({"annotations__0__id": 1e300}, "annotations 0, 'id': expected a whole number"),
        ({"annotations__0__image_id": [7]}, "'image_id': expected a whole number, got a list"),
        ({"annotations__0__area": -1}, "annotations 0, 'area': expected a finite number, 0 or"),
        ({"annotations__0__area": "4"}, "annotations 0, 'area': expected a finite number"),
        ({"annotations__0__area": float("nan")}, "annotations 0, 'area': expected a finite"),
        ({"annotations__0__area": 10**400}, "'area': expected a finite number, 0 or more, got a"),
        ({"annotations__0__iscrowd": 2}, "annotations 0, 'iscrowd': expected a whole number from"),
        ({"annotations__0__iscrowd": "no"}, "annotations 0, 'iscrowd': expected a whole number"),
        ({"annotations__0": 3}, "annotations 0: expected an object, got 3"),
        ({"images__0": []}, "images 0: expected an object, got a list of 0"),
        ({"images__0__height": None}, "images 0, 'height': missing"),
        ({"images__0__width": -1}, "images 0, 'width': expected a whole number from 0 to"),
        ({"images__0__width": 8.5}, "images 0, 'width': expected a whole number"),
        ({"images__0__height": 2**20, "images__0__width": 2**9}, "images 0: 1048576x512: more"),
        ({"images__0__height": 2**63, "images__0__width": 2**63}, "images 0, 'height': expected"),
        ({"images__0__file_name": 4}, "images 0, 'file_name': expected a text, got 4"),
        ({"categories__0__name": ["x"]}, "categories 0, 'name': expected a text, got a list of 1"),
        ({"categories__0__id": None}, "categories 0, 'id': missing"),
        ({"annotations": None}, "'annotations': expected a list, got nothing"),
        ({"images": {}}, "'images': expected a list, got an object"),
        ({"categories": "x"}, "'categories': expected a list, got 'x'"),
    ],
)
def test_fault_r8_contradictions_and_gaps_name_their_place(edits, words):
    content = changed(**edits)
    if "annotations__1__segmentation" in edits and edits["annotations__1__segmentation"] is None:
        content["annotations"][1]["bbox"] = [0, 0, 2, 2]
    before = copy.deepcopy(content)
    assert words in refused(content)
    assert str(content) == str(before)


def test_fault_r8_a_missing_mask_beside_a_box_is_said_so():
    content = changed(annotations__1__segmentation=None, annotations__1__bbox=[0, 0, 2, 2])
    assert "a 'bbox' alone is not a mask" in refused(content)


def test_fault_r8_ten_places_are_listed_and_all_are_counted():
    content = small()
    content["annotations"] = [
        annotation(k, 99, 9, compressed(disc(6, 8, 2, 3, 2))) for k in range(37)
    ]
    message = refused(content)
    assert message.count("99 is no image of the data set") == 10
    assert "37 problems" in message
    assert "and 27 more" in message


def test_an_entry_that_is_no_object_is_said_once():
    message = refused(small() | {"annotations": [None]})
    assert message == (
        "the data set: annotations 0: expected an object, got null; remove or fix it"
    )


def test_several_problems_of_one_file_come_together(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(changed(images__0__height=None, annotations__1__id=11,
                                       annotations__2__category_id=77)))  # fmt: skip
    message = refused(path)
    assert message.startswith(f"{path}: ")
    for words in ("images 0, 'height'", "annotations 1, 'id'", "annotations 2, 'category_id'"):
        assert words in message


def test_fault_r9_annotation_id_0_is_an_ordinary_truth():
    assert read_truth(changed(annotations__1__id=0)).annotation_ids.tolist() == [11, 0, 6]


def test_fault_r12_the_content_given_is_left_as_it_is():
    content, _ = random_problem(3, lists=True)
    before = copy.deepcopy(content)
    first, second = read_truth(content), read_truth(content)
    assert content == before
    assert np.array_equal(first.runs.counts, second.runs.counts)
    assert first.annotation_ids.tolist() == second.annotation_ids.tolist()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"[" * 200_000, "nested deeper than 64 levels"),
        (b'{"images": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested deeper than 64 levels"),
        (b'{"images": [{"id": ' + b"7" * 5000 + b"}]}", "line 1: a whole number of 5000 digits"),
        (b'{"images": NaN}', "NaN is not a number that JSON knows"),
        (b'{"images": [-Infinity]}', "-Infinity is not a number that JSON knows"),
        (json.dumps(small()).encode()[:-20], "not JSON"),
        (json.dumps(small()).encode("utf-16"), "is not UTF-8"),
        (b"", "not JSON"),
        (b'{"images": [], "images": []}', "key 'images' appears twice"),
        (b'[{"image_id": 1}]', "expected an object with images, annotations and categories"),
        (b'"images"', "expected an object with images, annotations and categories"),
        (b"{}", "'images': expected a list, got nothing"),
    ],
)
def test_fault_r14_files_that_are_no_data_sets(tmp_path, raw, words):
    path = tmp_path / "bad.json"
    path.write_bytes(raw)
    message = refused(path)
    assert words in message
    assert message.startswith(str(path))


def test_fault_r14_a_byte_order_mark_is_accepted(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(small()), encoding="utf-8-sig")
    assert path.read_bytes()[:3] == b"\xef\xbb\xbf"
    assert len(read_truth(path)) == 3


def test_fault_r14_an_infinite_number_in_digits_is_refused(tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(small()).replace("100.5", "1e999"))
    assert "'area': expected a finite number, 0 or more, got Infinity" in refused(path)


def test_fault_r14_file_over_the_limit_or_absent(tmp_path):
    path = tmp_path / "truth.json"
    assert "cannot be read" in refused(path)
    path.write_text(json.dumps(small()))
    with pytest.raises(CorruptDatasetError, match="larger than 100 bytes"):
        read_truth(path, max_bytes=100)


def test_fault_r5_the_limit_of_pixels_can_be_raised():
    content = small()
    content["images"] = [image | {"height": 3, "width": 1 << 27} for image in content["images"]]
    mask = {"size": [3, 1 << 27], "counts": [3 << 27]}
    content["annotations"] = [
        annotation | {"segmentation": mask} for annotation in content["annotations"]
    ]
    assert "more than 268435456 pixels" in refused(content)
    truth = read_truth(content, limits=rle.Limits(max_pixels=1 << 29))
    assert truth.runs.sizes.tolist() == [[3, 1 << 27]] * len(truth)


@pytest.mark.parametrize("field", ["height", "width"])
@pytest.mark.parametrize("value", [-1, "8", None, 1 << 40])
def test_fault_r8_a_wrong_image_size_is_one_reason(field, value):
    content = small()
    content["images"][0][field] = value
    text = refused(content)
    assert f"images 0, '{field}'" in text
    assert "problems" not in text
    content["images"][0] |= {"height": 1 << 20, "width": 1 << 20}
    assert "images 0: 1048576x1048576: more than" in refused(content)
    assert "problems" not in refused(content)


@pytest.mark.parametrize("seed", range(3))
def test_writing_gives_back_what_was_read(seed, tmp_path):
    truth = read_truth(random_problem(seed, lists=True)[0])
    content = coco_dict(truth)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content, allow_nan=False))
    again = read_truth(path)
    for name in ("image_ids", "image_sizes", "category_ids", "annotation_ids", "image", "category",
                 "area", "crowd"):  # fmt: skip
        assert np.array_equal(getattr(again, name), getattr(truth, name)), name
    assert again.image_names == truth.image_names
    assert again.category_names == truth.category_names
    assert np.array_equal(again.runs.counts, truth.runs.counts)
    reference = COCO(str(path))
    for entry in content["annotations"]:
        mask = reference.annToMask(entry)
        rows, columns = np.nonzero(mask)
        if len(rows):
            x, y, w, h = entry["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + w - 1, y + h - 1) == (columns.max(), rows.max())
        assert entry["area"] == mask.sum()


def test_boxes_can_be_left_out_and_areas_stay_as_given():
    content = coco_dict(read_truth(small()), boxes=False)
    assert "bbox" not in content["annotations"][0]
    assert content["annotations"][0]["area"] == 100.5
    assert json.dumps(content["annotations"][1]["area"]) == "5"


def test_a_truth_with_fields_of_different_length_is_refused():
    truth = read_truth(small())
    fields = {name: getattr(truth, name) for name in truth.__dataclass_fields__}
    with pytest.raises(
        ShapeError, match=re.escape("per annotation have lengths (3, 3, 3, 3, 3, 1)")
    ):
        CocoTruth(**fields | {"runs": rle.encode(np.ones((2, 2), dtype=bool))})
