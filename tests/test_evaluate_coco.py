"""Files of scored masks against data sets: equal to pycocotools, and the table of error cases."""

from __future__ import annotations

import copy
import json
import math
import random
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rlseg import __version__, cli
from rlseg.data.coco import read_truth
from rlseg.errors import ConfigError, InvalidResultsError, RlsegError
from rlseg.evaluate_coco import evaluate_coco, evaluate_places
from rlseg.metrics import coco_hotcoco
from rlseg.submissions import read_results
from tests.fake.coco import compressed, disc, listed, official, random_problem

COCO_SCORES = "ap ap50 ap75 ap_small ap_medium ap_large ar1 ar10 ar100 ar_small ar_medium ar_large"
PLACES_SCORES = COCO_SCORES.replace("ar10 ar100", "ar50 ar255")
BOOKKEEPING = (
    "schema version max_dets mode compat backend images annotations predictions dropped warnings "
    "per_category"
)
BACKENDS = [
    "own",
    pytest.param(
        "hotcoco",
        marks=pytest.mark.skipif(
            not coco_hotcoco.available(), reason="hotcoco (extra `fast`) is not installed"
        ),
    ),
]


def same(value, other):
    return (math.isnan(value) and math.isnan(other)) or abs(value - other) < 1e-12


def one_truth(first_id=1):
    mask = compressed(disc(40, 50, 20, 20, 10))
    truth = {
        "images": [{"id": 4, "file_name": "4.jpg", "height": 40, "width": 50},
                   {"id": 5, "file_name": "5.jpg", "height": 40, "width": 50}],
        "categories": [{"id": 1, "name": "bed"}, {"id": 2, "name": "flag"}],
        "annotations": [{"id": first_id, "image_id": 4, "category_id": 1, "segmentation": mask,
                         "area": 317, "iscrowd": 0}],
    }  # fmt: skip
    return truth, [{"image_id": 4, "category_id": 1, "segmentation": mask, "score": 0.5}]


# Equal to pycocotools


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(25))
def test_scores_are_those_of_pycocotools(seed, backend):
    truth, results = random_problem(seed, images=1 + seed % 7, lists=seed % 2 == 0)
    limits = [(1, 10, 100), (1, 50, 255), (1, 2, 3)][seed % 3]
    ours = evaluate_coco(truth, results, max_dets=limits, backend=backend)
    theirs, per_category = official(truth, results, limits)
    for name, value in theirs.items():
        assert same(ours[name], value), name
    assert all(
        same(row["ap"], ap) for row, ap in zip(ours["per_category"], per_category, strict=True)
    )
    assert ours["backend"] == backend


def test_places_scores_are_those_of_pycocotools():
    truth, results = random_problem(5, images=9, categories=4, crowds=False)
    ours = evaluate_places(truth, results)
    theirs, _ = official(truth, results, (1, 50, 255))
    assert set(theirs) == set(PLACES_SCORES.split())
    assert all(same(ours[name], value) for name, value in theirs.items())


def test_areas_that_are_given_decide_on_the_range():
    truth, results = one_truth()
    truth["annotations"][0]["area"] = 5000
    ours = evaluate_coco(truth, results)
    assert ours["ap_medium"] == pytest.approx(1)
    assert math.isnan(ours["ap_small"])
    assert same(official(truth, results)[0]["ap_medium"], ours["ap_medium"])


def test_strict_mode_keeps_the_best_of_an_image_over_all_categories():
    numbers = np.random.default_rng(0)
    truth, _ = random_problem(2, images=3, crowds=False)
    results = []
    for _ in range(300):  # masks of the truth, mostly in other categories
        entry = truth["annotations"][int(numbers.integers(len(truth["annotations"])))]
        results.append(
            {
                "image_id": entry["image_id"],
                "category_id": int(numbers.integers(3)) * 2 + 1,
                "segmentation": entry["segmentation"],
                "score": round(numbers.random(), 1),
            }
        )
    ours = evaluate_coco(truth, results, max_dets=(1, 5, 20), mode="strict")
    kept = []
    for image in truth["images"]:
        found = [entry for entry in results if entry["image_id"] == image["id"]]
        kept += sorted(found, key=lambda entry: -entry["score"])[:20]  # stable
    theirs, _ = official(truth, kept, (1, 5, 20))
    assert all(same(ours[name], value) for name, value in theirs.items())
    assert ours["dropped"] == 300 - len(kept) > 100
    assert ours["predictions"] == 300
    assert any("beyond the 20 best" in warning for warning in ours["warnings"])
    free = evaluate_coco(truth, results, max_dets=(1, 5, 20))
    assert free["dropped"] == 0
    assert free["ar20"] > ours["ar20"]


# What the result holds


@pytest.mark.parametrize(
    ("evaluate", "scores", "schema", "limits"),
    [
        (evaluate_coco, COCO_SCORES, "rlseg.evaluate/1", [1, 10, 100]),
        (evaluate_places, PLACES_SCORES, "rlseg.places/1", [1, 50, 255]),
    ],
)
def test_the_keys_of_the_result(evaluate, scores, schema, limits):
    truth, results = one_truth()
    result = evaluate(truth, results, backend="own")
    assert set(result) == {*scores.split(), *BOOKKEEPING.split()}
    assert result["schema"] == schema
    assert result["version"] == __version__
    assert result["max_dets"] == limits
    assert (result["images"], result["annotations"], result["predictions"]) == (2, 1, 1)
    assert (result["mode"], result["compat"], result["dropped"]) == ("official", False, 0)
    bed, flag = result["per_category"]
    assert bed == {"id": 1, "name": "bed", "ap": pytest.approx(1), "ap50": pytest.approx(1),
                   "n_true": 1, "n_pred": 1}  # fmt: skip
    assert math.isnan(flag["ap"])
    assert (flag["name"], flag["n_true"], flag["n_pred"]) == ("flag", 0, 0)


def test_fault_r12_what_is_given_stays_and_twice_gives_the_same():
    truth, results = random_problem(7, lists=True)
    before = copy.deepcopy((truth, results))
    first, second = evaluate_coco(truth, results), evaluate_coco(truth, results)
    assert json.dumps(first) == json.dumps(second)
    assert (truth, results) == before


def test_parsed_files_may_be_used_again():
    truth, results = random_problem(7)
    parsed = read_truth(truth)
    found = read_results(results, parsed)
    assert json.dumps(evaluate_coco(parsed, found)) == json.dumps(evaluate_coco(truth, results))


@pytest.mark.parametrize("backend", BACKENDS)
def test_fault_r13_undefined_and_zero_scores(backend):
    truth, results = one_truth()
    nothing = evaluate_coco(truth | {"annotations": []}, results, backend=backend)
    assert all(math.isnan(nothing[name]) for name in COCO_SCORES.split())
    assert nothing["warnings"] == ["the data set has no annotations: no score is defined"]
    missed = evaluate_coco(truth, [], backend=backend)
    assert missed["ap"] == missed["ar100"] == missed["per_category"][0]["ap"] == 0
    limits = evaluate_coco(truth, results, max_dets=(1, 2, 3), backend=backend)
    assert [limits[name] for name in ("ap", "ar1", "ar3", "ar_small")] == pytest.approx([1] * 4)
    truth["annotations"][0]["iscrowd"] = 1
    crowd = evaluate_coco(truth, results, backend=backend)
    assert math.isnan(crowd["ap"])
    assert crowd["warnings"] == ["the data set has crowd regions only: no score is defined"]
    empty = evaluate_coco({"images": [], "categories": [], "annotations": []}, [], backend=backend)
    assert math.isnan(empty["ap"])


def test_fault_r9_annotation_id_0_counts_unless_the_original_is_repeated():
    truth, results = one_truth(first_id=0)
    assert evaluate_places(truth, results)["ap"] == pytest.approx(1)
    compat = evaluate_places(truth, results, compat=True)
    assert compat["ap"] == official(truth, results, (1, 50, 255))[0]["ap"] == 0
    assert (compat["compat"], compat["backend"]) == (True, "own")
    truth["annotations"][0]["id"] = 3
    assert evaluate_places(truth, results, compat=True)["ap"] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_compat_is_pycocotools_on_ids_from_0(seed):
    truth, results = random_problem(seed, first_id=0, crowds=False)
    ours, (theirs, _) = evaluate_coco(truth, results, compat=True), official(truth, results)
    assert all(same(ours[name], value) for name, value in theirs.items())


# Settings


@pytest.mark.parametrize("limits", [(1, 10), (1, 10, 100, 200), (0, 1, 2), (10, 1, 100), (1, 1, 2)])
def test_limits_that_make_no_sense(limits):
    with pytest.raises(ConfigError, match="max_dets must be three ascending whole numbers"):
        evaluate_coco(*one_truth(), max_dets=limits)


def test_backends(monkeypatch):
    truth, results = one_truth()
    with pytest.raises(ConfigError, match="compat is computed by our own code only"):
        evaluate_coco(truth, results, compat=True, backend="hotcoco")
    assert evaluate_coco(truth, results)["backend"] == "own"
    monkeypatch.setattr("rlseg.evaluate_coco.available", lambda: False)
    with pytest.raises(ConfigError, match=re.escape("pip install 'rlseg[fast]'")):
        evaluate_coco(truth, results, backend="hotcoco")


def test_many_equal_masks_of_one_category_stay_small():
    mask = compressed(np.ones((100, 100), dtype=bool))
    truth = {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": 1, "segmentation": mask} for k in range(1, 4001)
        ],
    }
    entry = {"image_id": 1, "category_id": 1, "segmentation": mask, "score": 0.5}
    parsed = read_truth(truth)
    found = read_results([entry] * 4000, parsed)
    tracemalloc.start()
    try:
        result = evaluate_coco(parsed, found)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200e6
    assert result["ar100"] == 100 / 4000
    assert result["per_category"][0]["n_pred"] == 4000


# Error cases of the challenge: what pycocotools does with each is in the comment


def bad(**changes):
    truth, (entry,) = one_truth()
    return truth, [entry, entry | changes]


def refused(truth, results, mode="official"):
    with pytest.raises(InvalidResultsError) as caught:
        evaluate_places(truth, results, mode=mode)
    return [(reason.index, reason.field) for reason in caught.value.reasons]


def test_fault_r11_places_top_level_not_a_list():  # assertion
    assert refused(one_truth()[0], {"results": []}) == [(None, "")]


def test_fault_r11_places_empty_list():  # IndexError
    assert evaluate_places(one_truth()[0], [])["ap"] == 0


@pytest.mark.parametrize("image", [99, "4"])  # assertion
def test_fault_r11_places_unknown_image(image):
    assert refused(*bad(image_id=image)) == [(1, "image_id")]


def test_fault_r10_places_integral_float_ids():  # 7.0 equals 7
    truth, (entry,) = one_truth()
    result = evaluate_places(truth, [entry | {"image_id": 4.0, "category_id": 1.0}])
    assert result["ap"] == pytest.approx(1)


def test_fault_r11_places_unknown_category():  # ignored without a word
    truth, results = bad(category_id=101)
    result = evaluate_places(truth, results)
    assert (result["ap"], result["dropped"], result["predictions"]) == (pytest.approx(1), 1, 2)
    assert result["warnings"] == ["1 prediction of unknown categories dropped: 101"]
    assert same(official(truth, results, (1, 50, 255))[0]["ap"], result["ap"])
    assert refused(truth, results, mode="strict") == [(1, "category_id")]
    with pytest.raises(InvalidResultsError, match="101 is no category"):
        evaluate_coco(truth, results)  # only the challenge drops them


def test_fault_r10_places_missing_or_text_score():  # KeyError, TypeError
    truth, results = bad(score="0.5")
    assert refused(truth, results) == [(1, "score")]
    del results[1]["score"]
    assert refused(truth, results) == [(1, "score")]


def test_fault_r10_places_nan_score():  # sorted last
    assert refused(*bad(score=float("nan"))) == [(1, "score")]


def test_fault_r6_places_wrong_size():  # IoU -1, a false positive
    swapped = compressed(disc(50, 40, 20, 20, 10))
    assert refused(*bad(segmentation=swapped)) == [(1, "segmentation.size")]


def test_places_counts_as_a_list():  # TypeError; ours takes them
    truth, (entry,) = one_truth()
    counts = listed(disc(40, 50, 20, 20, 10))
    result = evaluate_places(truth, [entry | {"segmentation": counts}])
    assert result["ap"] == pytest.approx(1)


def test_places_polygon():  # TypeError
    assert refused(*bad(segmentation=[[1, 1, 9, 1, 9, 9]])) == [(1, "segmentation")]


@pytest.mark.parametrize("last", [-1, 1, 500])  # endless loop
def test_fault_r1_places_counts_of_a_wrong_sum(last):
    counts = listed(disc(40, 50, 20, 20, 10))
    counts["counts"][-1] += last
    assert refused(*bad(segmentation=counts)) == [(1, "segmentation.counts")]


@pytest.mark.parametrize("text", ["\x00", "zz", "X1T", "O4", "P" * 9 + "0"])  # undefined
def test_fault_r3_places_counts_of_wrong_characters(text):
    assert refused(*bad(segmentation={"size": [40, 50], "counts": text})) == [
        (1, "segmentation.counts")
    ]


def test_places_empty_mask():  # a false positive
    truth, results = bad(segmentation=compressed(np.zeros((40, 50), dtype=bool)), score=0.9)
    result = evaluate_places(truth, results)
    assert result["warnings"] == ["1 prediction with an empty mask: counted as false positives"]
    assert result["ap"] == pytest.approx(0.5)
    assert same(official(truth, results, (1, 50, 255))[0]["ap"], result["ap"])


def test_fault_r11_places_duplicate():  # the second one is a false positive
    truth, (entry,) = one_truth()
    other = entry | {"image_id": 5}
    truth["annotations"].append(truth["annotations"][0] | {"id": 2, "image_id": 5})
    other["score"] = 0.1
    results = [entry, entry, other]
    result = evaluate_places(truth, results)
    assert result["ap"] < 0.9
    assert same(official(truth, results, (1, 50, 255))[0]["ap"], result["ap"])


def test_places_more_than_255_in_an_image():  # up to 255 per category
    truth, (entry,) = one_truth()
    spare = compressed(disc(40, 50, 3, 3, 2))
    many = [entry | {"category_id": 2, "segmentation": spare, "score": 0.9}] * 255
    results = [*many, entry]
    result = evaluate_places(truth, results)
    assert (result["ap"], result["dropped"]) == (pytest.approx(1), 0)
    strict = evaluate_places(truth, results, mode="strict")
    assert (strict["ap"], strict["dropped"]) == (0, 1)
    assert strict["warnings"] == [
        "1 prediction dropped: beyond the 255 best of an image over all categories"
    ]


def test_places_images_without_results():  # fine
    truth, results = one_truth()
    truth["annotations"].append(truth["annotations"][0] | {"id": 2, "image_id": 5})
    assert 0.4 < evaluate_places(truth, results)["ap"] < 0.6


def test_places_boxes_do_not_change_areas():  # area of the box
    truth, (entry,) = one_truth()
    result = evaluate_places(truth, [entry | {"bbox": [0, 0, 50, 40]}])
    assert result["ap_small"] == pytest.approx(1)
    assert result["warnings"][0].startswith("1 prediction with a bbox: not read;")


def test_fault_r7_an_empty_truth_is_warned_of():
    truth, results = one_truth()
    empty = compressed(np.zeros((40, 50), dtype=bool))
    truth["annotations"].append({"id": 2, "image_id": 5, "category_id": 1, "segmentation": empty})
    result = evaluate_coco(truth, results)
    assert result["warnings"] == ["1 annotation with an empty mask: can never be found"]
    assert result["ap"] < 0.6


# rlseg evaluate PRED.json TRUE.json


@pytest.fixture
def files(tmp_path):
    truth, results = random_problem(3)
    (tmp_path / "true.json").write_text(json.dumps(truth))
    (tmp_path / "pred.json").write_text(json.dumps(results))
    return str(tmp_path / "pred.json"), str(tmp_path / "true.json")


def test_command_writes_the_scores(files, tmp_path, capsys):
    out = tmp_path / "new" / "scores.json"
    assert cli.main(["evaluate", *files, "--json", str(out), "--max-dets", "1", "2", "30"]) == 0
    assert capsys.readouterr().out == ""
    result = json.loads(out.read_text())
    truth, results = (json.loads(Path(path).read_text()) for path in reversed(files))
    theirs, _ = official(truth, results, (1, 2, 30))
    for name, value in theirs.items():
        assert same(math.nan if result[name] is None else result[name], value)
    assert (result["pred"], result["true"]) == files
    assert result["max_dets"] == [1, 2, 30]


def test_command_shows_a_table_without_a_file(files, capsys):
    assert cli.main(["evaluate", *files]) == 0
    shown = capsys.readouterr().out
    result = evaluate_coco(files[1], files[0])
    for name in COCO_SCORES.split():
        value = "undefined" if math.isnan(result[name]) else f"{result[name]:.4f}"
        assert re.search(rf"^{name} +{value}$", shown, re.MULTILINE), name
    for row in result["per_category"]:
        line = rf"^ *{row['id']}  {row['name']} +{row['ap']:.4f} +{row['ap50']:.4f} "
        assert re.search(line, shown, re.MULTILINE)
    assert "\x1b" not in shown


def test_command_says_why_there_is_no_score(files, tmp_path, capsys):
    results = json.loads(Path(files[0]).read_text())
    for k in range(12):
        results[k]["score"] = "high"
    bad, out = tmp_path / "bad.json", tmp_path / "scores.json"
    bad.write_text(json.dumps(results))
    assert cli.main(["evaluate", str(bad), files[1], "--json", str(out)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"rlseg: {bad}: 12 problems: item 0, 'score': expected a finite")
    assert shown.count("\n") == 1
    assert "and 2 more" in shown
    assert not out.exists()
    assert cli.main(["evaluate", str(bad), files[1], "--verbose"]) == 2
    assert "\nitem 11, 'score': expected a finite number, got 'high'\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--ignore-id", "0"],
        ["--missing", "empty"],
        ["--metrics", "ap"],
        ["--convention", "cremi"],
        ["--all-conventions"],
        ["--ap-score", "area"],
        ["--csv", "x.csv"],
        ["--jobs", "2"],
        ["--split", "test"],
        ["--dataset", "cells"],
        ["--device", "cpu"],
        ["--task", "instance"],
        ["--classes", "3"],
    ],
)
def test_command_refuses_options_of_other_forms(files, words, capsys):
    assert cli.main(["evaluate", *files, *words]) == 2
    shown = capsys.readouterr().err
    assert f"{words[0]} does not apply to COCO files: " in shown
    assert ("one convention" in shown) == ("convention" in words[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pred", "true", "--max-dets", "1", "2", "3"], "--max-dets belongs to"),
        (["run", "--max-dets", "1", "2", "3"], "--max-dets belongs to"),
        (["pred.json", "true"], "one is a JSON file and the other is not"),
        (["pred", "true.json"], "one is a JSON file and the other is not"),
        (["p.json", "t.json", "--max-dets", "3", "2", "1"], "three ascending whole numbers"),
        (["p.json", "t.json", "--max-dets", "0", "2", "1"], "a whole number above 0"),
        (["p.json", "t.json"], "t.json: cannot be read"),
    ],
)
def test_command_refuses_what_does_not_fit(words, message, capsys):
    assert cli.main(["evaluate", *words]) == 2
    assert message in capsys.readouterr().err


# Fuzz


JUNK = [None, True, 0, -1, 1.5, 2**40, 2**64, 10**30, float("nan"), float("inf"), 1e300, "", "0",
        "PoT9", [], [[]], [0], {}, {"size": [40, 50]}]  # fmt: skip


def mutated(value, chance):
    """The value with one random place changed, removed or repeated."""
    kind = chance.random()
    if isinstance(value, dict) and value and kind < 0.9:
        key = chance.choice(sorted(value))
        if chance.random() < 0.15:
            return {name: inner for name, inner in value.items() if name != key}
        return value | {key: mutated(value[key], chance)}
    if isinstance(value, list) and value and kind < 0.9:
        k = chance.randrange(len(value))
        if chance.random() < 0.15:
            return [*value[:k], *value[k + 1 :]]
        if chance.random() < 0.15:
            return [*value, value[k]]
        return [*value[:k], mutated(value[k], chance), *value[k + 1 :]]
    if isinstance(value, str) and value and kind < 0.7:
        k = chance.randrange(len(value))
        return value[:k] + chr(chance.choice([0, 32, 47, 48, 80, 111, 112, 233, 8364])) + value[k:]
    if isinstance(value, int) and not isinstance(value, bool) and kind < 0.7:
        return value + chance.choice([-1, 1, 1000, -(2**33)])
    return chance.choice(JUNK)


def outcome(truth, results):
    """The scores, or the message of the error; anything else that is raised fails the test."""
    try:
        return evaluate_places(truth, results, backend="own")
    except RlsegError as error:
        return str(error)


def test_random_edits_end_in_a_score_or_an_error_that_says_why(tmp_path):
    chance = random.Random(0)
    problems = [random_problem(seed, images=2, lists=True) for seed in range(4)]
    path = tmp_path / "edited.json"
    done = {True: 0, False: 0}
    for k in range(3000):
        truth, results = chance.choice(problems)
        for _ in range(chance.randint(1, 2)):
            if chance.random() < 0.5:
                truth = mutated(truth, chance)
            else:
                results = mutated(results, chance)
        source = results
        if k % 10 == 0:
            path.write_text(json.dumps(results))
            source = path
        elif isinstance(results, str):
            continue  # a path
        result = outcome(truth, source)
        done[isinstance(result, dict)] += 1
        if isinstance(result, dict):
            scores = [result[name] for name in PLACES_SCORES.split()]
            assert all(math.isnan(score) or 0 <= score <= 1 for score in scores)
    assert min(done.values()) > 300


def test_random_bytes_in_files_end_in_a_score_or_an_error(tmp_path):
    chance = random.Random(1)
    truth, results = random_problem(0, images=2)
    raw = [json.dumps(truth).encode(), json.dumps(results).encode()]
    paths = [tmp_path / "true.json", tmp_path / "pred.json"]
    refusals = 0
    for _ in range(600):
        which = chance.randrange(2)
        edited = bytearray(raw[which])
        for _ in range(chance.randint(1, 3)):
            k = chance.randrange(len(edited))
            edited[k : k + chance.randint(0, 2)] = bytes([chance.randrange(256)])
        for path, content in zip(paths, raw, strict=True):
            path.write_bytes(content)
        paths[which].write_bytes(bytes(edited))
        result = outcome(*paths)
        if isinstance(result, str):
            refusals += 1
            assert str(paths[which]) in result
    assert refusals > 300
