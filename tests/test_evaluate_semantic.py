"""`rlseg evaluate --task semantic`: results, files, options, and a predictor of classes."""

import csv
import json
import math
import types

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg import cli
from rlseg.data.samples import SemanticSample
from rlseg.errors import ConfigError, CorruptDatasetError, ShapeError
from rlseg.evaluate import result_json
from rlseg.evaluate_semantic import (
    evaluate_semantic_folders,
    evaluate_semantic_predictor,
    score_class_maps,
)
from rlseg.labelfiles import LabelFile, Pair
from rlseg.metrics import SemanticScores, confusion_matrix, mean_iou
from rlseg.prediction import Prediction

pytestmark = pytest.mark.filterwarnings("error")

CLASSES = 5  # class 4 occurs nowhere
SCORES = "miou pixel_accuracy mean_accuracy class_entropy class_entropy_norm"
TABLES = "iou_per_class confusion"
BOOKS = (
    "schema version task classes ignore images pixels classes_absent undefined conventions pred "
    "true per_image"
)


def refuse(constant):
    raise AssertionError(f"{constant} in JSON")


def load(path):
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def maps(seed):
    """A prediction and a truth of classes 0..3; the truth of seed 0 is all void."""
    rng = np.random.default_rng(seed)
    true = np.kron(rng.integers(0, 4, (4, 5)), np.ones((3, 3), dtype=np.uint8)).astype(np.uint8)
    pred = np.where(rng.random(true.shape) < 0.8, true, rng.integers(0, 4, true.shape))
    true[rng.random(true.shape) < (0.1 if seed else 2)] = 255
    return pred.astype(np.uint8), true


def total(seeds=range(4)):
    scores = SemanticScores(CLASSES)
    for seed in seeds:
        scores.update(*maps(seed), name=f"im{seed}")
    return scores


@pytest.fixture
def folders(tmp_path):
    """Four pairs: predictions as png, truths as npy."""
    pred, true = tmp_path / "pred", tmp_path / "true"
    pred.mkdir()
    true.mkdir()
    for k in range(4):
        found, truth = maps(k)
        Image.fromarray(found).save(pred / f"im{k}.png")
        np.save(true / f"im{k}.npy", truth)
    return pred, true


@pytest.fixture
def command(folders, tmp_path):
    """Runs the verb on the folders; the exit code and the JSON file."""

    def call(*words):
        out = tmp_path / "out.json"
        out.unlink(missing_ok=True)
        given = ["evaluate", *map(str, folders), "--json", str(out), "--quiet", *words]
        return cli.main(given), load(out) if out.exists() else None

    return call


# Two folders


def test_keys_and_values(folders):
    result = evaluate_semantic_folders(*folders, CLASSES)
    assert set(result) == {*SCORES.split(), *TABLES.split(), *BOOKS.split()}
    expected = total()
    for key, value in expected.compute().items():
        assert result[key] == value
    assert result["confusion"] == expected.confusion.tolist()
    assert result["miou"] == pytest.approx(np.mean(result["iou_per_class"][:4]))
    assert math.isnan(result["iou_per_class"][4])
    assert (result["task"], result["classes"], result["ignore"]) == ("semantic", CLASSES, 255)
    assert (result["images"], result["classes_absent"]) == (4, [4])
    assert result["pixels"] == sum(int((maps(k)[1] != 255).sum()) for k in range(4))
    assert result["undefined"] == dict.fromkeys(SCORES.split(), 1)  # the image of void
    rows = result["per_image"]
    assert [row["name"] for row in rows] == ["im0", "im1", "im2", "im3"]
    assert set(rows[0]) == {"name", "pixels", *SCORES.split()}
    assert (rows[0]["pixels"], math.isnan(rows[0]["miou"])) == (0, True)
    assert rows[1]["miou"] == mean_iou(confusion_matrix(*maps(1), CLASSES))
    # Over the data set, not the mean over images.
    assert result["miou"] != pytest.approx(np.nanmean([row["miou"] for row in rows]))


def test_json_is_strict_sorted_and_complete(folders, command, capsys):
    code, result = command("--task", "semantic", "--classes", "5")
    assert code == 0
    assert capsys.readouterr() == ("", "")
    assert list(result) == sorted(result)
    assert result == json.loads(result_json(evaluate_semantic_folders(*folders, CLASSES)))
    assert result["iou_per_class"][4] is None
    assert result["per_image"][0]["miou"] is None
    assert result["schema"] == "rlseg.evaluate/1"
    assert result["conventions"] == {
        "miou": "pooled",
        "confusion": "true-pred",
        "class_entropy": "true-nats",
        "ignore_id": "255",
    }


def test_jobs_do_not_change_a_byte(folders):
    one = result_json(evaluate_semantic_folders(*folders, CLASSES))
    assert result_json(evaluate_semantic_folders(*folders, CLASSES, jobs=2)) == one


def test_table_and_csv(folders, tmp_path, capsys):
    out = tmp_path / "out.csv"
    words = ["evaluate", *map(str, folders), "--task", "semantic", "--classes", "5"]
    assert cli.main([*words, "--csv", str(out)]) == 0
    shown = capsys.readouterr()
    expected = total()
    values = dict(line.split() for line in shown.out.split("\n\n")[0].splitlines())
    assert values["miou"] == f"{expected.compute()['miou']:.4f}"
    assert values["images"] == "4"
    table = [line.split() for line in shown.out.split("\n\n")[1].splitlines()]
    assert table[0] == ["class", "iou", "true_pixels", "pred_pixels"]
    assert table[5] == ["4", "undefined", "0", "0"]
    assert [int(row[2]) for row in table[1:]] == expected.confusion.sum(axis=1).tolist()
    assert [int(row[3]) for row in table[1:]] == expected.confusion.sum(axis=0).tolist()
    assert "class 4; miou leaves it out" in shown.err
    assert "miou is undefined on 1 of 4 images" in shown.err
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["im0", "im1", "im2", "im3"]
    assert rows[0]["miou"] == ""
    assert float(rows[2]["pixel_accuracy"]) == expected.images[2].pixel_accuracy


def test_chosen_metrics(command, capsys):
    code, result = command("--task", "semantic", "--classes", "5", "--metrics", "miou, confusion")
    assert code == 0
    assert set(result) == {"miou", "confusion", *BOOKS.split()}
    assert set(result["per_image"][0]) == {"name", "pixels", "miou"}
    assert result["undefined"] == {"miou": 1}
    words = ["--task", "semantic", "--classes", "5", "--metrics"]
    assert command(*words, "miuo")[0] == 2
    assert "did you mean 'miou'" in capsys.readouterr().err
    assert command(*words, "sbd")[0] == 2
    assert "no semantic score 'sbd'" in capsys.readouterr().err
    assert command(*words, ",")[0] == 2
    assert "no score chosen" in capsys.readouterr().err


def test_a_table_of_chosen_metrics(folders, capsys):
    words = ["evaluate", *map(str, folders), "--task", "semantic", "--classes", "5", "--quiet"]
    assert cli.main([*words, "--metrics", "pixel_accuracy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["score", "images", "pixels", "pixel_accuracy"]
    assert cli.main([*words, "--metrics", "iou_per_class"]) == 0
    assert "iou" in capsys.readouterr().out
    assert cli.main([*words, "--metrics", "confusion"]) == 0
    assert "class  true_pixels  pred_pixels" in capsys.readouterr().out


def test_another_ignore_id(folders, command):
    pred, true = folders
    for k in range(4):
        truth = np.load(true / f"im{k}.npy").astype(np.int16)
        truth[truth == 255] = 11
        np.save(true / f"im{k}.npy", truth)
    code, result = command("--task", "semantic", "--classes", "5", "--ignore", "11")
    assert code == 0
    assert result["confusion"] == total().confusion.tolist()
    assert (result["ignore"], result["conventions"]["ignore_id"]) == (11, "11")
    free = evaluate_semantic_folders(pred, true, 12, ignore=None)
    assert free["confusion"][11] != [0] * 12
    assert (free["ignore"], free["conventions"]["ignore_id"]) == (None, "none")
    assert json.loads(result_json(free))["ignore"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "semantic"], "needs --classes K"),
        (["--task", "semantic", "--classes", "0"], "above 0"),
        (["--task", "semantic", "--classes", "5000"], "1..4096"),
        (["--task", "semantic", "--classes", "5", "--ignore", "4"], "one of the classes 0..4"),
        (["--task", "semantic", "--classes", "5", "--ignore", "0"], "one of the classes 0..4"),
        (["--task", "semantic", "--classes", "5", "--convention", "cremi"], "--convention"),
        (["--task", "semantic", "--classes", "5", "--all-conventions"], "--all-conventions"),
        (["--task", "semantic", "--classes", "5", "--ap-score", "area"], "--ap-score"),
        (["--task", "semantic", "--classes", "5", "--ignore-id", "0"], "take --ignore"),
        (["--task", "semantic", "--classes", "5", "--missing", "empty"], "--missing empty"),
        (["--task", "panoptic"], "known: instance, semantic"),
        (["--classes", "5"], "--classes belongs to --task semantic"),
        (["--ignore", "0"], "--ignore belongs to --task semantic"),
        (["--task", "instance", "--classes", "5"], "--classes belongs to --task semantic"),
    ],
)
def test_options_that_do_not_fit_are_one_line(command, capsys, words, message):
    assert command(*words) == (2, None)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err


def test_the_task_of_instances_is_what_is_done_without_it(command):
    assert command("--task", "instance", "--metrics", "sbd") == command("--metrics", "sbd")


def test_a_run_takes_no_task(tmp_path, capsys):
    assert cli.main(["evaluate", str(tmp_path), "--task", "semantic", "--classes", "3"]) == 2
    assert "--task belongs to `rlseg evaluate PRED TRUE`" in capsys.readouterr().err


def test_pairing(folders, command, capsys):
    pred, true = folders
    (pred / "im2.png").rename(pred / "other.png")
    words = ["--task", "semantic", "--classes", "5"]
    assert command(*words)[0] == 2
    assert "1 of 4 predictions have no truth" in capsys.readouterr().err
    assert command(*words, "--extra", "ignore")[0] == 2
    err = capsys.readouterr().err
    assert "1 of 4 truths have no prediction" in err
    assert "im2" in err
    assert "--missing" not in err
    (true / "im2.npy").unlink()
    code, result = command(*words, "--extra", "ignore", "--missing", "error")
    assert (code, result["images"]) == (0, 3)
    assert result["confusion"] == total((0, 1, 3)).confusion.tolist()


def test_suffixes_colours_and_volumes(tmp_path):
    pred, true = maps(1)
    rgb = np.stack([pred, np.zeros_like(pred), np.zeros_like(pred)], axis=-1)
    Image.fromarray(rgb).save(tmp_path / "a_pred.png")
    np.savez(tmp_path / "a_gt.npz", labels=np.stack([true, true]))
    words = {"pred_suffix": "_pred", "true_suffix": "_gt"}
    with pytest.raises(CorruptDatasetError, match="rgb24"):
        evaluate_semantic_folders(tmp_path, tmp_path, CLASSES, **words)
    words["label_encoding"] = "rgb24"
    with pytest.raises(ShapeError, match=r"a_pred\.png and .*a_gt\.npz: .*\[2, 12, 15\]"):
        evaluate_semantic_folders(tmp_path, tmp_path, CLASSES, **words)
    np.savez(tmp_path / "a_gt.npz", labels=true)
    result = evaluate_semantic_folders(tmp_path, tmp_path, CLASSES, **words)
    assert result["confusion"] == total((1,)).confusion.tolist()
    np.save(tmp_path / "p.npy", np.stack([pred, pred]))
    np.save(tmp_path / "t.npy", np.stack([true, true]))
    twice = evaluate_semantic_folders(tmp_path / "p.npy", tmp_path / "t.npy", CLASSES)
    assert twice["confusion"] == (2 * total((1,)).confusion).tolist()


def test_fault_l10_files_with_ids_that_are_no_class(folders, command, capsys):
    pred, true = folders
    found, truth = maps(2)
    place = tuple(np.argwhere(truth != 255)[0].tolist())
    found[place] = 9
    Image.fromarray(found).save(pred / "im2.png")
    assert command("--task", "semantic", "--classes", "5") == (2, None)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for part in ("im2.png", "im2.npy", f"pred holds 9 at [{place[0]}, {place[1]}]", "1 counted"):
        assert part in err
    np.save(true / "im1.npy", np.where(truth == 255, 12, truth))
    with pytest.raises(CorruptDatasetError, match=r"im1\.npy: true holds 12"):
        evaluate_semantic_folders(pred, true, CLASSES)


def test_a_pair_without_prediction_has_no_scores(tmp_path):
    np.save(tmp_path / "t.npy", maps(1)[1])
    pair = Pair(name="t", pred=None, true=LabelFile(path=tmp_path / "t.npy"))
    with pytest.raises(CorruptDatasetError, match=r"t\.npy has no prediction"):
        score_class_maps(pair, CLASSES)


def test_a_single_class_and_nothing_but_void(tmp_path):
    np.save(tmp_path / "t.npy", np.full((3, 4), 255, dtype=np.uint8))
    np.save(tmp_path / "p.npy", np.zeros((3, 4), dtype=np.uint8))
    result = evaluate_semantic_folders(tmp_path / "p.npy", tmp_path / "t.npy", 1)
    text = json.loads(result_json(result), parse_constant=refuse)
    assert [text[key] for key in SCORES.split()] == [None] * 5
    assert (text["pixels"], text["confusion"], text["iou_per_class"]) == (0, [[0]], [None])


# A predictor on a data set


def samples(count=3):
    return [
        SemanticSample(
            image=torch.zeros(3, 12, 15),
            classes=torch.from_numpy(maps(k)[1].astype(np.int64)),
            name=f"im{k}",
        )
        for k in range(count)
    ]


def predictor(task="semantic", cut=0):
    """Gives out the noisy maps one after the other."""
    state = types.SimpleNamespace(calls=0)

    def predict(image, *, trace=False):
        assert image.shape == (1, 3, 12, 15)
        assert not torch.is_grad_enabled()
        labels = torch.from_numpy(maps(state.calls)[0].astype(np.int64))[None]
        state.calls += 1
        return Prediction(labels=labels[..., cut:])

    predict.task = task
    return predict


def test_predictor_scores_are_those_of_the_maps(tmp_path):
    seen, steps = [], []
    result = evaluate_semantic_predictor(
        predictor(),
        samples(),
        CLASSES,
        pred="run",
        true="streets/test",
        on_prediction=lambda sample, prediction: seen.append(sample.name),
        progress=lambda done, count: steps.append((done, count)),
    )
    for k in range(3):
        for side, labels in zip(("p", "t"), maps(k), strict=True):
            (tmp_path / side).mkdir(exist_ok=True)
            np.save(tmp_path / side / f"im{k}.npy", labels)
    files = evaluate_semantic_folders(tmp_path / "p", tmp_path / "t", CLASSES)
    same = {"pred": "run", "true": "streets/test"}
    assert result_json(result) == result_json(files | same)
    assert seen == ["im0", "im1", "im2"]
    assert steps == [(1, 3), (2, 3), (3, 3)]
    chosen = evaluate_semantic_predictor(predictor(), samples(), CLASSES, metrics=["miou"])
    assert set(chosen) == {"miou", *BOOKS.split()}


def test_predictors_that_cannot_be_scored():
    with pytest.raises(ConfigError, match="predicts instance maps"):
        evaluate_semantic_predictor(predictor(task="instance"), samples(), CLASSES)
    with pytest.raises(ConfigError, match="no images"):
        evaluate_semantic_predictor(predictor(), [], CLASSES)
    with pytest.raises(ShapeError, match=r"im0: .*\[12, 14\]"):
        evaluate_semantic_predictor(predictor(cut=1), samples(), CLASSES)
    with pytest.raises(ShapeError, match=r"im1: true holds 3 at .* classes are 0\.\.2"):
        evaluate_semantic_predictor(predictor(), samples(), 3)
    with pytest.raises(ConfigError, match="no semantic score 'ap'"):
        evaluate_semantic_predictor(predictor(), samples(), CLASSES, metrics=["ap"])
