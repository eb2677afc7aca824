"""Lists of scored masks: what is read, that every problem is named, and what is written."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
import torch

from rlseg import rle
from rlseg.data.coco import read_truth
from rlseg.errors import ConfigError, CorruptDatasetError, InvalidResultsError, Reason, ShapeError
from rlseg.submissions import Results, read_results, result_entries, write_results
from tests.fake.coco import compressed, disc, listed, random_problem

MASK = disc(6, 8, 2, 3, 2)
TRUTH = read_truth(
    {
        "images": [{"id": 7, "height": 6, "width": 8}, {"id": 8, "height": 6, "width": 8}],
        "categories": [{"id": 2, "name": "root"}, {"id": 9, "name": "leaf"}],
        "annotations": [],
    }
)


def entry(**changes):
    return {
        "image_id": 7,
        "category_id": 9,
        "segmentation": compressed(MASK),
        "score": 0.5,
    } | changes


def without(key):
    return {name: value for name, value in entry().items() if name != key}


def problems(entries, **settings):
    """Reasons for refusing entries, which are left as they are."""
    before = repr(entries)
    with pytest.raises(InvalidResultsError) as caught:
        read_results(entries, TRUTH, **settings)
    assert repr(entries) == before
    return caught.value.reasons


def test_what_is_read_from_a_file(tmp_path):
    path = tmp_path / "preds.json"
    entries = [entry(), entry(image_id=8.0, score=1), entry(category_id=2.0, score=-3.25)]
    entries[1]["segmentation"] = listed(~MASK)
    path.write_text(json.dumps(entries), encoding="utf-8-sig")
    for source in (path, str(path), entries, tuple(entries)):
        results = read_results(source, TRUTH)
        assert results.image.tolist() == [7, 8, 7]
        assert results.category.tolist() == [9, 9, 2]
        assert results.score.tolist() == [0.5, 1, -3.25]
        assert np.array_equal(results.runs.decode(), [MASK, ~MASK, MASK])
        assert results.boxed == 0
        assert len(results) == 3


def test_numbers_of_numpy_are_numbers():
    results = read_results(
        [entry(image_id=np.int32(8), category_id=np.uint8(2), score=np.float32(0.25))], TRUTH
    )
    assert (results.image[0], results.category[0], results.score[0]) == (8, 2, 0.25)


def test_an_empty_list_is_valid():
    assert len(read_results([], TRUTH)) == 0


def test_other_keys_are_left_alone_and_boxes_are_counted():
    results = read_results([entry(bbox=[0, 0, 1, 1]), entry(note="x"), entry(id="?")], TRUTH)
    assert (len(results), results.boxed) == (3, 1)


def test_taking_some():
    results = read_results([entry(), entry(score=0.25), entry(image_id=8)], TRUTH)
    for index in (np.array([2, 1]), np.array([False, True, True])):
        part = results.take(index)
        assert sorted(part.score.tolist()) == [0.25, 0.5]
        assert len(part.runs) == 2


def test_fault_r5_limits_are_those_of_the_caller(tmp_path):
    path = tmp_path / "preds.json"
    path.write_text(json.dumps([entry()]))
    assert len(read_results(path, TRUTH, max_bytes=1000)) == 1
    with pytest.raises(InvalidResultsError, match="larger than 50 bytes"):
        read_results(path, TRUTH, max_bytes=50)
    with pytest.raises(InvalidResultsError, match="at most 47 pixels"):
        read_results(path, TRUTH, limits=rle.Limits(max_pixels=47))
    assert len(read_results(path, TRUTH, limits=rle.Limits(max_pixels=48))) == 1


@pytest.mark.parametrize(
    ("score", "got"),
    [
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (10**400, "an integer of more than 20 digits"),
        ("0.9", "'0.9'"),
        ("9" * 100, "'" + "9" * 40 + "' (100 characters)"),
        (True, "true"),
        (False, "false"),
        (None, "null"),
        ([0.5], "a list of 1"),
        ({}, "an object of 0 keys"),
        (1j, "a value of type complex"),
        (np.bool_(True), "a value of type bool"),
    ],
)
def test_fault_r10_a_score_is_a_finite_number(score, got):
    reasons = problems([entry(), entry(score=score), entry(score=1)])
    assert reasons == (Reason(1, "score", f"expected a finite number, got {got}"),)


@pytest.mark.parametrize("key", ["score", "image_id", "category_id", "segmentation"])
def test_fault_r10_a_missing_key_is_named(key):
    assert problems([entry(), without(key)]) == (Reason(1, key, "missing"),)


@pytest.mark.parametrize("value", [7.5, "7", True, None, [7], 2**63, -(2**70), 1e300, float("nan")])
@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_fault_r10_ids_are_whole_numbers(key, value):
    (reason,) = problems([entry(), entry(**{key: value})], unknown_category="keep")
    assert (reason.index, reason.field) == (1, key)
    assert reason.what.startswith("expected a whole number, got ")


@pytest.mark.parametrize("content", [{}, {"annotations": []}, "x", 4, None, b"[]"])
def test_fault_r11_anything_but_a_list_is_refused(content, tmp_path):
    if not isinstance(content, (str, bytes)):
        path = tmp_path / "preds.json"
        path.write_text(json.dumps(content))
        with pytest.raises(InvalidResultsError, match=re.escape(f"{path}: top level: expected a")):
            read_results(path, TRUTH)
    if not isinstance(content, str):  # a text is a path
        (reason,) = problems(content)
        assert reason.what.startswith("expected a list of scored masks, got ")


@pytest.mark.parametrize("value", [3, [], "x", None])
def test_entries_that_are_no_objects(value):
    (reason,) = problems([entry(), value, entry()])
    assert (reason.index, reason.field) == (1, "")
    assert reason.what.startswith("expected an object, got ")


def test_fault_r11_unknown_images_and_categories():
    reasons = problems([entry(image_id=1), entry(category_id=3)])
    assert reasons == (
        Reason(0, "image_id", "1 is no image of the data set"),
        Reason(1, "category_id", "3 is no category of the data set"),
    )
    kept = read_results([entry(category_id=3)], TRUTH, unknown_category="keep")
    assert kept.category.tolist() == [3]


@pytest.mark.parametrize(
    ("mask", "field"),
    [
        (None, "segmentation"),
        ([[1, 1, 5, 1, 5, 4]], "segmentation"),
        ("231N1", "segmentation"),
        ({"counts": compressed(MASK)["counts"]}, "segmentation.size"),
        ({"size": [6, 8]}, "segmentation.counts"),
        ({"size": [8, 6], "counts": compressed(MASK.T)["counts"]}, "segmentation.size"),
        ({"size": [6, 8], "counts": [47]}, "segmentation.counts"),
        ({"size": [6, 8], "counts": [49]}, "segmentation.counts"),
        ({"size": [6, 8], "counts": [40, -1, 9]}, "segmentation.counts"),
        ({"size": [6, 8], "counts": "a b"}, "segmentation.counts"),
        ({"size": [6, 8], "counts": compressed(MASK)["counts"] + "\u00e9"}, "segmentation.counts"),
        ({"size": [6, 8], "counts": "`"}, "segmentation.counts"),
        ({"size": [6, float("nan")], "counts": [48]}, "segmentation.size"),
    ],
)
def test_masks_that_are_none(mask, field):
    (reason,) = problems([entry(), entry(segmentation=mask)])
    assert (reason.index, reason.field) == (1, field)


def test_a_box_alone_and_a_polygon_are_named_as_such():
    reasons = problems([without("segmentation") | {"bbox": [0, 0, 1, 1]},
                        entry(segmentation=[[1, 1, 5, 1, 5, 4]])])  # fmt: skip
    assert "a 'bbox' alone is not a mask" in reasons[0].what
    assert "polygons belong in a data set" in reasons[1].what


def test_every_problem_of_every_entry_is_found_in_order():
    bad = [
        entry(score="x", image_id="y"),
        entry(),
        entry(segmentation={"size": [6, 8], "counts": [1]}, category_id=77),
        5,
    ]
    found = [(reason.index, reason.field) for reason in problems(bad)]
    assert found == [
        *((0, "image_id"), (0, "score")),
        *((2, "category_id"), (2, "segmentation.counts")),
        (3, ""),
    ]


def test_the_message_names_file_item_field_and_what_to_do(tmp_path):
    path = tmp_path / "preds.json"
    path.write_text(json.dumps([entry()] * 17 + [entry(score=float("nan"))]))
    with pytest.raises(InvalidResultsError) as caught:
        read_results(path, TRUTH)
    assert str(caught.value) == (
        f"{path}: item 17, 'score': expected a finite number, got NaN; remove or fix it"
    )
    assert isinstance(caught.value, CorruptDatasetError)


def test_the_message_lists_ten_and_counts_all():
    with pytest.raises(InvalidResultsError) as caught:
        read_results([without("score")] * 23, TRUTH)
    message = str(caught.value)
    assert message.startswith("the results: 23 problems: item 0, 'score': missing; item 1, ")
    assert message.endswith("item 9, 'score': missing; and 13 more; remove or fix them")
    assert len(caught.value.reasons) == 23


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"[" * 200_000, "nested deeper than 64 levels"),
        (
            json.dumps([entry()]).replace("0.5", "9" * 5000).encode(),
            "a whole number of 5000 digits",
        ),
        (json.dumps([entry()]).replace("0.5", "9" * 4000).encode(), "got an integer of more"),
        (json.dumps([entry()]).replace("0.5", "1e999").encode(), "got Infinity"),
        (json.dumps([entry()]).replace("0.5", "-Infinity").encode(), "got -Infinity"),
        (json.dumps([entry(note=float("nan"))]).encode(), "NaN is not a number that JSON knows"),
        (json.dumps([entry()])[:-3].encode(), "not JSON"),
        (json.dumps([entry()]).encode("utf-16"), "is not UTF-8"),
        (b'[{"score": 1, "score": 2}]', "key 'score' appears twice"),
        (b"", "not JSON"),
    ],
)
def test_fault_r14_files_that_are_no_results(tmp_path, raw, words):
    path = tmp_path / "preds.json"
    path.write_bytes(raw)
    with pytest.raises(InvalidResultsError) as caught:
        read_results(path, TRUTH)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InvalidResultsError, match="cannot be read"):
        read_results(tmp_path / "none.json", TRUTH)


def test_fault_r12_the_list_given_is_left_as_it_is():
    truth, results = random_problem(1, lists=True)
    before = copy.deepcopy(results)
    first = read_results(results, read_truth(truth))
    second = read_results(results, read_truth(truth))
    assert results == before
    assert np.array_equal(first.runs.counts, second.runs.counts)


def test_entries_are_plain_json_and_are_read_back(tmp_path):
    masks = np.stack([MASK, ~MASK])
    categories, scores = torch.tensor([9, 2]), np.array([0.25, 0.75], dtype=np.float32)
    entries = result_entries(rle.encode(masks), 7, categories, scores)
    assert entries[0] == entry(score=0.25)
    assert {type(value) for value in entries[1].values()} == {int, float, dict}
    path = tmp_path / "made" / "preds.json"
    write_results(path, entries)
    again = read_results(path, TRUTH)
    assert np.array_equal(again.runs.decode(), masks)
    assert again.score.tolist() == [0.25, 0.75]
    write_results(path, [])
    assert json.loads(path.read_text()) == []


def test_what_cannot_be_written_is_refused(tmp_path):
    runs = rle.encode(MASK)
    with pytest.raises(ShapeError, match="1 masks with 2 categories and 1 scores"):
        result_entries(runs, 7, [1, 2], [0.5])
    with pytest.raises(ConfigError, match="score 0 of image 7 is nan"):
        result_entries(runs, 7, [1], [float("nan")])
    path = tmp_path / "preds.json"
    for value in (float("inf"), np.float32(1)):
        with pytest.raises(ConfigError, match="cannot be written as JSON"):
            write_results(path, [entry(score=value)])
    assert not path.exists()


def test_results_with_fields_of_different_length_are_refused():
    one = np.zeros(1, dtype=np.int64)
    with pytest.raises(ShapeError, match=re.escape("have lengths (1, 1, 2, 1)")):
        Results(image=one, category=one, score=np.zeros(2), runs=rle.encode(MASK))
