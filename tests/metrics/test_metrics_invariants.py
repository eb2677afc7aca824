"""What holds for every key of the result file: slow references, empty maps, names, swaps, types."""

import math

import numpy as np
import pytest
import slow_scores as slow
from scipy.optimize import linear_sum_assignment

from rlseg.metrics import InstanceScores, Settings, aji_plus, merge_overlaps, overlap, score_image

pytestmark = pytest.mark.filterwarnings("error")

EVERY = Settings(all_conventions=True)
NAN = math.nan


def all_scores(pred, true):
    """Every key, the pooled ones and average precision included, of a data set of one image."""
    scores = InstanceScores(EVERY)
    scores.update(pred, true)
    return scores.compute()


def close(values):
    return pytest.approx(values, abs=1e-12, nan_ok=True)


def regions(seed, shape=(40, 50), ids=9):
    """A map of rectangles, and one with its borders moved, ids joined, lost and added."""
    rng = np.random.default_rng(seed)
    true = np.zeros(shape, dtype=np.int64)
    for number in range(1, ids):
        corner = [int(rng.integers(0, side)) for side in shape]
        true[tuple(slice(c, c + int(rng.integers(2, 15))) for c in corner)] = number
    pred = np.roll(true, (1, -1), (0, 1))
    pred[pred == 3] = 2
    pred[pred == 4] = 0
    pred[-4:, -3:] = ids + 1
    pred[rng.random(shape) < 0.02] = 0
    return pred, true


MAPS = [regions(seed) for seed in range(4)] + [regions(4, (9, 10, 11)), regions(5, (3, 40), 5)]


def matched(iou, threshold, strict=False):
    """TP and sum of IoU at a threshold of 1/2 or above."""
    passes = (lambda s: s > threshold) if strict else (lambda s: s >= threshold)
    values = [value for row in iou for value in row if passes(value)]
    if 0.5 not in values:
        return len(values), sum(values)  # above 1/2 they are unique
    enough = np.array([[passes(value) * (1 + value / 1e3) for value in row] for row in iou])
    rows, columns = linear_sum_assignment(enough, maximize=True)
    pairs = [iou[i][j] for i, j in zip(rows, columns, strict=True) if passes(iou[i][j])]
    return len(pairs), sum(pairs)


def slow_values(pred, true):
    """Every key of the default conventions but `aji_plus`."""
    m, n = len(slow.masks(pred)), len(slow.masks(true))
    iou = slow.iou_table(pred, true)
    lonely, missed = slow.lonely(pred, true), slow.lonely(true, pred)
    mucov, mwcov = slow.coverage(pred, true)
    ratios = []
    for threshold in np.arange(10, 20) / 20:
        tp, _ = matched(iou, threshold)
        ratios.append(tp / (m + n - tp) if tp else 0.0)
    tp, total = matched(iou, 0.5, strict=True)
    rq = 2 * tp / (m + n) if m + n else NAN
    arand = slow.arand(pred, true, "skimage")
    split, merge = slow.voi(pred, true, "skimage")
    area = [float(mask.sum()) for mask in slow.masks(pred)]
    ap = slow.coco_ap([(pred, true, area)]) if n < 100 else ()  # too slow for many
    return {
        "sbd": min(slow.best_dice_2017(pred, true), slow.best_dice_2017(true, pred)),
        "best_dice_pred": slow.best_dice(pred, true),
        "best_dice_true": slow.best_dice(true, pred),
        "dic": m - n,
        "abs_dic": abs(m - n),
        "fgbg_dice": slow.fgbg(pred, true),
        "mucov": mucov,
        "mwcov": mwcov,
        "avgfp": lonely,
        "avgfn": missed,
        "avgfp_fraction": lonely / max(m, 1),
        "avgfn_fraction": missed / max(n, 1),
        **dict(
            zip(("avgfp_colorrl50", "avgfn_colorrl50"), slow.colorrl50(pred, true), strict=True)
        ),
        **dict(zip(("ap", "ap50", "ap75"), ap, strict=False)),
        "dsb": sum(ratios) / 10,
        "dsb50": ratios[0],
        "dsb75": ratios[5],
        "dsb90": ratios[8],
        "dsb_pooled": sum(ratios) / 10,
        "pq": total / tp * rq if tp else rq,
        "sq": total / tp if tp else NAN,
        "rq": rq,
        "aji": slow.aji(pred, true),
        **dict(zip(("arand", "arand_precision", "arand_recall"), arand, strict=True)),
        "voi": split + merge,
        "voi_split": split,
        "voi_merge": merge,
        "ari": slow.ari(pred, true),
    }


def many():
    """More instances than 8 bits hold, of one to four pixels."""
    rng = np.random.default_rng(0)
    true = np.cumsum(rng.random((20, 30)) < 0.5).reshape(20, 30)
    pred = np.where(rng.random(true.shape) < 0.1, 0, true)
    return np.roll(pred, 1), true


SLOW_MAPS = {
    "flat": tuple(labels[:20, :24] for labels in MAPS[0]),
    "volume": tuple(labels[:5, :7, :8] for labels in MAPS[4]),
    "pixel": (np.array([[1]]), np.array([[2]])),
    "row": (np.array([[1, 1, 2, 0]]), np.array([[1, 2, 2, 2]])),
    "no background": (np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 2]])),
    "noise": tuple(np.random.default_rng(1).integers(0, 3, (2, 4, 5))),
    "many": many(),
}


@pytest.mark.parametrize("name", SLOW_MAPS)
def test_every_key_equals_the_slow_one(name):
    pred, true = SLOW_MAPS[name]
    found = all_scores(pred, true)
    expected = slow_values(pred, true)
    assert {key: found[key] for key in expected} == close(expected)
    plain = InstanceScores()
    plain.update(pred, true)
    if name == "many":
        assert overlap(pred, true).true_instances > 255
    else:
        assert set(plain.compute()) == {*expected, "aji_plus"}


ZERO = np.zeros((3, 4), dtype=np.int64)
ONE = ZERO.copy()
ONE[0, :2] = 5
FULL = np.full((3, 4), 3)
H = -(2 / 12) * math.log2(2 / 12) - (10 / 12) * math.log2(10 / 12)

# Every key by hand; those not named are 0.
NOTHING = {
    **dict.fromkeys(("ap", "ap50", "ap75", "pq", "sq", "rq", "aji", "aji_plus"), NAN),
    **dict.fromkeys(("arand", "arand_precision", "arand_recall"), NAN),
    "ari": 1,
}
NO_PRED = {
    "dic": -1,
    **dict.fromkeys(("abs_dic", "avgfn", "avgfn_fraction"), 1),
    **dict.fromkeys(("avgfp_colorrl50", "avgfn_colorrl50"), 1),
    "sq": NAN,
    **dict.fromkeys(("arand_precision", "arand_recall"), 1),
    **dict.fromkeys(("voi", "voi_merge"), H),
}
NO_TRUE = {
    **dict.fromkeys(("dic", "abs_dic", "avgfp", "avgfp_fraction"), 1),
    **dict.fromkeys(("avgfp_colorrl50", "avgfn_colorrl50"), 1),
    **dict.fromkeys(("ap", "ap50", "ap75", "sq"), NAN),
    **dict.fromkeys(("arand", "arand_precision", "arand_recall"), NAN),
    **dict.fromkeys(("voi", "voi_split"), H),
}
PERFECT = {
    **dict.fromkeys(("sbd", "best_dice_pred", "best_dice_true", "fgbg_dice", "mucov", "mwcov"), 1),
    **dict.fromkeys(("ap", "ap50", "ap75", "dsb", "dsb50", "dsb75", "dsb90", "dsb_pooled"), 1),
    **dict.fromkeys(("pq", "sq", "rq", "aji", "aji_plus", "ari"), 1),
    **dict.fromkeys(("arand_precision", "arand_recall"), 1),
}
CASES = {
    "nothing": (ZERO, ZERO, NOTHING),
    "no prediction": (ZERO, ONE, NO_PRED),
    "no truth": (ONE, ZERO, NO_TRUE),
    "constant": (FULL, FULL + 1, PERFECT | {"sbd": 0}),
    "identical": (ONE, ONE, PERFECT),
}


@pytest.mark.parametrize("name", CASES)
def test_fault_l4_every_key_of_empty_constant_and_identical_maps(name):
    pred, true, expected = CASES[name]
    scores = InstanceScores()
    scores.update(pred, true)
    found = scores.compute()
    assert found == close(dict.fromkeys(found, 0.0) | expected)
    undefined = {key for key, value in expected.items() if value != value}
    assert set(scores.undefined()) == undefined & set(scores.settings.mean_keys)
    row = score_image(overlap(pred, true), Settings()).values
    assert row == close({key: found[key] for key in row})


def is_perfect(key):
    """Whether a key, or the part before the name of its convention, is 1 for identical maps."""
    return any(key == name or key.startswith(f"{name}_") for name in PERFECT)


@pytest.mark.parametrize(("pred", "true"), MAPS)
def test_identical_maps_score_1_and_errors_0(pred, true):
    for labels in (pred, true):
        found = all_scores(labels, labels)
        for key, value in found.items():
            if key in ("sbd_cvppp_2014", "mwcov_colorrl"):  # gaps of the ids; one pixel added
                assert 0 < value <= 1
            else:
                assert value == pytest.approx(float(is_perfect(key)), abs=1e-12), key


@pytest.mark.parametrize(("pred", "true"), MAPS)
def test_names_do_not_matter(pred, true):
    rng = np.random.default_rng(0)
    expected = all_scores(pred, true)
    size = int(max(pred.max(), true.max())) + 1
    for kind in ("permuted", "gaps", "uint64"):
        names = [np.concatenate(([0], rng.permutation(np.arange(1, size)))) for _ in range(2)]
        if kind == "gaps":
            names = [name * 70_001 for name in names]
        if kind == "uint64":
            names = [np.where(n > 0, 2**63 + n.astype(np.uint64), 0) for n in names]
        found = all_scores(names[0].astype(np.uint64)[pred], names[1].astype(np.uint64)[true])
        for key, value in found.items():
            if "cvppp_2014" not in key:  # scores gaps on purpose
                assert value == close(expected[key]), key


SWAPPED = {
    "best_dice_pred": "best_dice_true",
    "avgfp": "avgfn",
    "avgfp_fraction": "avgfn_fraction",
    "voi_split": "voi_merge",
    "arand_precision_skimage_all": "arand_recall_skimage_all",
    "voi_split_skimage": "voi_merge_skimage",
}
SYMMETRIC = (
    *("sbd", "abs_dic", "fgbg_dice", "dsb", "dsb50", "dsb75", "dsb90", "dsb_pooled"),
    *("pq", "sq", "rq", "aji_plus", "voi", "ari", "arand_skimage_all", "ari_all", "voi_skimage"),
    *("sbd_cvppp_2017", "sbd_cvppp_2014", "sbd_paper", "dsb_stardist", "dsb_strict"),
    *("abs_dic_present", "abs_dic_cvppp_2014", "fgbg_dice_present", "fgbg_dice_cvppp_2014"),
)


@pytest.mark.parametrize(("pred", "true"), MAPS)
def test_swapping_prediction_and_truth(pred, true):
    one, other = all_scores(pred, true), all_scores(true, pred)
    for key, partner in SWAPPED.items():
        assert (one[key], one[partner]) == close((other[partner], other[key])), key
    for key in SYMMETRIC:
        assert one[key] == close(other[key]), key
    for key in ("dic", "dic_present", "dic_cvppp_2014"):
        assert one[key] == -other[key]


@pytest.mark.parametrize(("pred", "true"), MAPS)
def test_types_do_not_matter(pred, true):
    expected = all_scores(pred, true)
    for dtype in (np.uint8, np.int16, np.uint32, np.int64, np.uint64, ">i4"):
        assert all_scores(pred.astype(dtype), true.astype(dtype)) == close(expected)
    mixed = all_scores(pred.astype(np.uint8), np.asfortranarray(true.astype(np.uint64)))
    assert mixed == close(expected)


@pytest.mark.parametrize(("pred", "true"), MAPS)
def test_scores_of_a_concatenation_come_from_the_summed_tables(pred, true):
    middle = len(pred) // 2
    parts = [overlap(pred[:middle], true[:middle]), overlap(pred[middle:], true[middle:])]
    merged = score_image(merge_overlaps(parts), EVERY)
    assert merged.values == close(score_image(overlap(pred, true), EVERY).values)


def test_more_instances_than_16_bits_hold_by_every_key():
    place = np.arange(300 * 700).reshape(300, 700)
    pred, true = place // 3 + 1, place // 2 + 1
    table = overlap(pred, true)
    assert (table.pred_instances, table.true_instances) == (70_000, 105_000)
    found = score_image(table, EVERY).values
    # Six pixels: two predictions of 3, three truths of 2; IoU 2/3, 1/4, 1/4, 2/3.
    assert found["dsb50"] == found["dsb"] / 0.4 == pytest.approx(2 / 3)
    assert found["aji_plus"] == pytest.approx(4 / 8)
    assert found["mucov"] == pytest.approx((2 / 3 + 1 / 4 + 2 / 3) / 3)
    assert found["voi_split"] == pytest.approx(1 / 3)
    assert found["avgfp"] == found["avgfn"] == 0
    assert not any(math.isnan(value) for value in found.values())
    assert aji_plus(table) == found["aji_plus"]
