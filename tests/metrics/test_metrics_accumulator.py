"""Sums over a data set: means, pooled scores, merging, and what `Settings` select."""

import math

import numpy as np
import pytest
import torch

from rlseg.errors import ConfigError, ShapeError
from rlseg.metrics import (
    Conventions,
    InstanceScores,
    MetricSet,
    Settings,
    adapted_rand,
    average_precision,
    overlap,
    panoptic_quality,
    panoptic_row,
    scores_at_thresholds,
    symmetric_best_dice,
)

pytestmark = pytest.mark.filterwarnings("error")

FLAT_KEYS = (
    "sbd best_dice_pred best_dice_true dic abs_dic fgbg_dice mucov mwcov avgfp avgfn "
    "avgfp_fraction avgfn_fraction avgfp_colorrl50 avgfn_colorrl50 ap ap50 ap75 dsb dsb50 dsb75 "
    "dsb90 dsb_pooled pq sq rq aji aji_plus arand arand_precision arand_recall voi voi_split "
    "voi_merge ari"
)


def maps(seed, shape=(9, 12)):
    rng = np.random.default_rng(seed)
    true = np.kron(rng.integers(0, 7, (3, 4)), np.ones((3, 3), dtype=np.int64))
    pred = np.where(rng.random(shape) < 0.8, true, rng.integers(0, 7, shape))
    return pred, true


EMPTY = np.zeros((9, 12), dtype=np.int64)
DATA = {f"image{k}": maps(k) for k in range(6)} | {
    "no_truth": (maps(0)[0], EMPTY),
    "no_pred": (EMPTY, maps(1)[1]),
    "nothing": (EMPTY, EMPTY),
}


def filled(names=tuple(DATA), settings=None):
    scores = InstanceScores(settings)
    for name in names:
        scores.update(*DATA[name], name=name)
    return scores


def test_keys_are_those_of_the_result_file():
    assert set(filled().compute()) == set(FLAT_KEYS.split())


def test_means_are_per_image_and_leave_out_the_undefined():
    scores = filled()
    tables = {name: overlap(*pair) for name, pair in DATA.items()}
    computed = scores.compute()
    assert computed["sbd"] == pytest.approx(
        np.mean([symmetric_best_dice(t) for t in tables.values()])
    )
    errors = [adapted_rand(t).error for t in tables.values()]
    assert computed["arand"] == pytest.approx(np.nanmean(errors))
    assert scores.undefined()["arand"] == np.isnan(errors).sum() == 2
    assert "sbd" not in scores.undefined()
    assert scores.undefined()["aji"] == 1
    dsb = [np.mean([r.scores()["dsb"] for r in scores_at_thresholds(t)]) for t in tables.values()]
    assert computed["dsb"] == pytest.approx(np.mean(dsb))


def test_pooled_scores_come_from_sums():
    tables = [overlap(*DATA[name]) for name in sorted(DATA)]
    computed = filled().compute()
    rows = [panoptic_row(t) for t in tables]
    pooled = panoptic_quality(sum(rows[1:], start=rows[0]))
    assert (computed["pq"], computed["sq"], computed["rq"]) == pytest.approx(pooled)
    ap = average_precision(tables)
    assert (computed["ap"], computed["ap50"], computed["ap75"]) == ap
    columns = zip(*(scores_at_thresholds(t) for t in tables), strict=True)
    summed = [sum(column[1:], start=column[0]).scores()["dsb"] for column in columns]
    assert computed["dsb_pooled"] == pytest.approx(np.mean(summed))


def test_counts():
    counts = filled().counts()
    assert (counts["images"], counts["images_empty_pred"]) == (9, 2)
    assert (counts["images_empty_true"], counts["images_empty_both"]) == (2, 1)
    assert counts["instances_true"] == sum(len(set(t.ravel()) - {0}) for _, t in DATA.values())


def test_split_and_order_do_not_matter():
    whole = filled()
    one, other = filled(list(DATA)[::-2]), filled(list(DATA)[-2::-2])
    summed = InstanceScores()
    summed.load(one.state() + other.state())
    expected = whole.compute()
    for key, value in summed.compute().items():
        assert value == pytest.approx(expected[key], abs=1e-12, nan_ok=True)
    assert set(expected) - set(summed.compute()) == {"ap", "ap50", "ap75"}
    one.merge(other)
    assert one.compute() == expected
    assert [i.name for i in one.sorted_images()] == sorted(DATA)


def test_the_order_of_arrival_does_not_matter_without_names():
    square, corner = np.zeros((10, 10), dtype=np.int64), np.zeros((10, 10), dtype=np.int64)
    square[:3, :3] = corner[6:9, :3] = 1
    images = [(square if k % 2 else corner, square) for k in range(12)]  # every second one is right
    images += [DATA[name] for name in DATA]

    def computed(order, names=None):
        scores = InstanceScores()
        for k in order:
            scores.update(*images[k], name=names[k] if names else "")
        return scores.compute()

    first = computed(range(len(images)))
    rng = np.random.default_rng(0)
    orders = [[*range(1, 12, 2), *range(0, 12, 2), *range(12, 21)]]
    orders += [rng.permutation(len(images)) for _ in range(5)]
    for order in orders:
        assert computed(order) == first  # to the last bit
    names = [f"{'ba'[k % 2]}{k:02}" for k in range(len(images))]
    assert computed(orders[0], names)["ap"] > computed(orders[0], [n[::-1] for n in names])["ap"]


def test_records_carry_all_that_states_lose():
    whole, expected = filled(), filled().compute()
    one, other = filled(list(DATA)[::-2]), filled(list(DATA)[-2::-2])
    joined = InstanceScores()
    for part in (other, one, InstanceScores()):
        joined.add_records(part.records())
    assert joined.compute() == expected  # to the last bit, and with ap, ap50, ap75
    assert joined.counts() == whole.counts()
    for image, same in zip(joined.sorted_images(), whole.sorted_images(), strict=True):
        assert repr(image.row()) == repr(same.row())  # nan included
    assert joined.threshold_rows() == whole.threshold_rows()
    given = InstanceScores(Settings(metrics=frozenset({"ap", "pq"})))
    given.update(*DATA["image0"], name="x", scores=np.arange(len(set(DATA["image0"][0].flat)) - 1))
    again = InstanceScores(given.settings)
    again.add_records(given.records())
    assert again.ap_score() == "file"
    assert again.compute() == given.compute()
    assert InstanceScores().records()["values"].shape == (0, len(FLAT_KEYS.split()) - 4)


def test_records_that_are_none_are_refused():
    records = filled(["image0", "image1"]).records()
    with pytest.raises(ShapeError, match="records lack 'rows'"):
        InstanceScores().add_records({k: v for k, v in records.items() if k != "rows"})
    with pytest.raises(ShapeError, match=r"\['values'\] has shape .* other metrics"):
        InstanceScores(Settings(all_conventions=True)).add_records(records)
    with pytest.raises(ShapeError, match=r"\['iou'\] has shape"):
        InstanceScores().add_records(records | {"iou": records["iou"][1:]})
    loaded = InstanceScores()
    loaded.load(filled().state())
    with pytest.raises(ConfigError, match="holds sums, not images"):
        loaded.records()


def test_merging_a_loaded_state_keeps_its_sums():
    one, other = filled(["image0"]), filled(["image1"])
    loaded = InstanceScores()
    loaded.load(other.state())
    one.merge(loaded)
    assert one.counts()["images"] == 2
    assert torch.equal(one.state(), filled(["image0", "image1"]).state())


def test_nothing_added():
    assert all(math.isnan(value) for value in InstanceScores().compute().values())


def test_valid_pixels():
    pred, true = DATA["image0"]
    valid = np.random.default_rng(0).random(true.shape) < 0.7
    scores = InstanceScores()
    scores.update(torch.from_numpy(pred), torch.from_numpy(true), torch.from_numpy(valid))
    assert scores.compute()["sbd"] == symmetric_best_dice(overlap(pred, true, valid))


def test_scores_of_predictions_are_all_or_none():
    scores = InstanceScores()
    assert scores.ap_score() == "area"
    scores.update(*DATA["image0"], name="b", scores=np.arange(len(set(DATA["image0"][0].flat)) - 1))
    scores.update(*DATA["nothing"], name="c")
    assert scores.ap_score() == "file"
    scores.update(*DATA["image1"], name="a")
    with pytest.raises(ConfigError, match=r"1 of 2 predictions come without scores.*'a'"):
        scores.compute()


@pytest.mark.parametrize(("rule", "given"), [("one", np.ones), ("area", lambda n: None)])
def test_ap_score_rules(rule, given):
    settings = Settings(conventions=Conventions(ap_score=rule))
    tables = [overlap(*DATA[name]) for name in sorted(DATA)]
    expected = average_precision(tables, [given(t.pred_instances) for t in tables])
    scores = filled(settings=settings)
    assert scores.compute()["ap"] == expected.ap
    assert scores.ap_score() == rule


def test_conventions_reach_the_functions():
    family = Conventions().changed("cremi").changed("sbd=paper")
    assert (family.arand, family.voi, family.sbd) == ("cremi", "cremi", "paper")
    computed = filled(settings=Settings(conventions=family)).compute()
    every = filled(settings=Settings(all_conventions=True)).compute()
    for key, other in (("arand", "arand_cremi"), ("voi", "voi_cremi"), ("sbd", "sbd_paper")):
        assert computed[key] == every[other]
    assert every["arand"] == every["arand_skimage"] != every["arand_cremi"]
    assert {"abs_dic_cvppp_2014", "mwcov_colorrl", "voi_split_cremi", "arand_skimage_all"} <= set(
        every
    )


def test_only_the_wanted_metrics():
    settings = Settings(metrics=frozenset({"voi", "pq", "ap50"}))
    scores = filled(settings=settings)
    assert set(scores.compute()) == {"voi", "pq", "ap50"}
    assert set(scores.sorted_images()[0].row()) == {"name", "n_pred", "n_true", "voi", "pq"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Settings(metrics=frozenset({"sdb"})), "'sdb'; did you mean 'sbd'"),
        (lambda: Settings(ignore_id=-1), "-1"),
        (lambda: Settings(metrics=frozenset()), "no score chosen; name some of sbd, "),
        (lambda: Conventions().changed("cremmi"), "did you mean 'cremi'"),
        (lambda: Conventions().changed("all"), "no score knows a convention 'all'"),
        (lambda: Conventions().changed("arnd=cremi"), "did you mean 'arand'"),
        (lambda: Conventions().changed("arand=gala"), "arand knows no convention 'gala'"),
    ],
)
def test_unknown_names_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_state_of_other_settings_is_refused():
    with pytest.raises(ShapeError, match="other metrics"):
        InstanceScores(Settings(all_conventions=True)).load(InstanceScores().state())
    with pytest.raises(ConfigError, match="different settings"):
        InstanceScores(Settings(all_conventions=True)).merge(InstanceScores())


def test_metric_set_prefixes_and_restores():
    paper = Settings(conventions=Conventions(sbd="paper"), metrics=frozenset({"sbd"}))
    make = lambda: MetricSet({"": InstanceScores(), "paper": InstanceScores(paper)})  # noqa: E731
    both, again = make(), make()
    for name, pair in DATA.items():
        both.update(*pair, name=name)
    again.load(both.state())
    assert again.compute()["paper/sbd"] == pytest.approx(both.compute()["paper/sbd"])
    assert again.compute()["sbd"] == pytest.approx(both.compute()["sbd"])
    with pytest.raises(ShapeError, match="another set"):
        again.load(both.state()[1:])
    clash = MetricSet({"": MetricSet({"a": InstanceScores(paper)}), "a": InstanceScores(paper)})
    with pytest.raises(ConfigError, match="different names"):
        clash.compute()
