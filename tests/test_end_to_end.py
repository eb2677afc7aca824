"""From data to scores, as a user goes: train, evaluate, predict, evaluate files, report, resume."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from rlseg import cli
from rlseg.runs import open_run
from rlseg.train.checkpoint import load_checkpoint
from tests.fake.cremi import write_hdf, write_tif
from tests.fake.folder import write_divided, write_flat, write_nested
from tests.fake.tiny import cells_words, contents, train_words


def names_in(text):
    return set(text.replace("\n", " ").split(" ")) - {""}


SCORES = names_in("""
sbd best_dice_pred best_dice_true dic abs_dic fgbg_dice mucov mwcov avgfp avgfn avgfp_fraction
avgfn_fraction avgfp_colorrl50 avgfn_colorrl50 ap ap50 ap75 dsb dsb50 dsb75 dsb90 dsb_pooled pq sq
rq aji aji_plus arand arand_precision arand_recall voi voi_split voi_merge ari
""")
RECORDS = names_in("""
schema version images images_empty_pred images_empty_true images_empty_both instances_pred
instances_true undefined conventions pred true per_image thresholds
""")
CONVENTIONS = names_in("sbd count coverage avgfp dsb pq ap ap_score arand voi ari ignore_id")
ROW = names_in("iou tp fp fn precision recall dsb f1 mean_matched_iou mean_true_iou pq")
NOT_PER_IMAGE = {"ap", "ap50", "ap75", "dsb_pooled"}
HINTS = {"hints.steps": "2"}
SIZES = {"odd": (37, 53), "tall": (61, 20), "tiny": (5, 9), "even": (32, 32)}


def run_command(*words):
    assert cli.main([str(word) for word in words]) == 0


def strict(path):
    """JSON without NaN or Infinity, keys sorted."""

    def refuse(token):
        raise AssertionError(f"{path} holds {token}")

    text = path.read_text()
    pairs = []
    result = json.loads(text, parse_constant=refuse, object_pairs_hook=lambda p: pairs.append(p))
    assert result is None
    for keys in ([key for key, _ in found] for found in pairs):
        assert keys == sorted(keys)
    return json.loads(text)


def check_scores(path, images):
    """The file of `rlseg evaluate`, with all keys of its stable form."""
    found = strict(path)
    assert set(found) >= SCORES | RECORDS
    assert found["schema"] == "rlseg.evaluate/1"
    assert found["images"] == images == len(found["per_image"])
    assert set(found["conventions"]) >= CONVENTIONS
    assert all(set(row) == ROW for row in found["thresholds"])
    names = [row["name"] for row in found["per_image"]]
    assert names == sorted(names)
    for row in found["per_image"]:
        assert SCORES - NOT_PER_IMAGE | {"name", "n_pred", "n_true"} <= set(row)
    for name in ("sbd", "aji", "fgbg_dice", "arand", "ap50", "pq"):
        assert found[name] is None or 0 <= found[name] <= 1
    assert found["instances_true"] == sum(row["n_true"] for row in found["per_image"])
    return found


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Pictures of sizes that no network likes, one of them in colour."""
    folder = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for name, (height, width) in SIZES.items():
        grey = torch.zeros(height, width)
        grey[1 : height // 2, 1 : width // 2] = 0.8
        grey[height // 2 + 1 :, width // 2 + 1 :] = 0.6
        grey = (grey + 0.1 * torch.rand(grey.shape, generator=generator)).clamp(0, 1)
        picture = Image.fromarray((grey * 255).to(torch.uint8).numpy())
        (picture.convert("RGB") if name == "odd" else picture).save(folder / f"{name}.png")
    return folder


DATA = {
    "cremi-tif": ("cremi", write_tif, 4),
    "cremi-hdf": ("cremi", write_hdf, 4),
    "folder-flat": ("folder", write_flat, None),
    "folder-divided": ("folder", write_divided, 1),
    "folder-nested": ("folder", write_nested, 1),
}


@pytest.mark.parametrize("kind", DATA)
def test_train_and_evaluate_on_files(kind, tmp_path):
    dataset, write, images = DATA[kind]
    root = write(tmp_path / "data")
    before = contents(tmp_path)
    run = tmp_path / "run"
    run_command(*train_words(run, "--dataset", dataset, "--root", root, settings=HINTS))
    assert {k: v for k, v in contents(tmp_path).items() if not k.startswith("run")} == before
    assert (run / "scalars.jsonl").is_file()
    out = tmp_path / "scores.json"
    run_command("evaluate", run, "--json", out, "--csv", tmp_path / "s.csv", "--device", "cpu")
    found = strict(out)
    check_scores(out, found["images"] if images is None else images)
    assert (found["dataset"], found["split"], found["method"]) == (dataset, "test", "colorrl")
    expected = "cremi" if dataset == "cremi" else "skimage"
    assert found["conventions"]["arand"] == expected
    assert len(rows_of(tmp_path / "s.csv")) == found["images"]


@pytest.fixture(scope="module", params=["colorrl", "unet"])
def whole(request, tmp_path_factory):
    """A run of each method on scenes, trained without a stop."""
    run = tmp_path_factory.mktemp(request.param) / "run"
    settings = HINTS if request.param == "colorrl" else None
    run_command(*cells_words(run, method=request.param, settings=settings))
    return request.param, run


def test_a_run_folder_holds_what_it_should(whole):
    method, run = whole
    names = {path.name for path in run.iterdir()}
    stages = {"colorrl": {"hints", "colorrl"}, "unet": {"unet"}}[method]
    assert {"config.json", "environment.json", "scalars.jsonl", "scores.json"} | stages <= names
    assert not {"lock", "crash.txt"} & names
    scores = json.loads((run / "scores.json").read_text())
    assert (scores["stage"], scores["step"]) == (method, 4)
    lines = [json.loads(line) for line in (run / "scalars.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == stages
    assert all(
        math.isfinite(value)
        for line in lines
        for value in line.values()
        if isinstance(value, float)
    )
    for stage in stages:
        assert (run / stage / "manifest.json").is_file()


def test_evaluate_a_run(whole, tmp_path):
    method, run = whole
    out = tmp_path / "new" / "scores.json"
    line = ["evaluate", run, "--json", out, "--csv", tmp_path / "s.csv", "--device", "cpu"]
    run_command(*line, "--out", tmp_path / "pictures", "--all-conventions")
    found = check_scores(out, 3)
    assert found["method"] == method
    assert {"sbd_paper", "arand_cremi", "arand_skimage", "abs_dic_cvppp_2014"} <= set(found)
    rows = rows_of(tmp_path / "s.csv")
    assert [row["name"] for row in rows] == [f"cells_test_{k:04d}" for k in range(3)]
    for row, image in zip(rows, found["per_image"], strict=True):
        for key, value in image.items():
            if isinstance(value, float):
                assert float(row[key]) == value
            elif value is None:
                assert row[key] == ""
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == sorted(
        f"cells_test_{k:04d}.{ending}" for k in range(3) for ending in ("tif", "overlay.png")
    )
    run_command(*line[:3], tmp_path / "v.json", "--split", "valid", "--checkpoint", "latest")
    assert check_scores(tmp_path / "v.json", 2)["checkpoint"] == "latest"


def labels_of(path):
    with Image.open(path) as file:
        return np.asarray(file).astype(np.int64)


def test_predict_files_then_evaluate_them(whole, images, tmp_path):
    _, run = whole
    out = tmp_path / "predictions"
    run_command("predict", run, images, "--out", out, "--overlay", "--device", "cpu", "--quiet")
    rows = rows_of(out / "instances.csv")
    for name, size in SIZES.items():
        labels = labels_of(out / f"{name}.tif")
        assert labels.shape == size
        with Image.open(out / f"{name}.overlay.png") as overlay:
            assert overlay.size == size[::-1]
        mine = {int(row["id"]): row for row in rows if row["file"] == f"{name}.png"}
        assert set(mine) == set(np.unique(labels)) - {0}
        for label, row in mine.items():
            ys, xs = np.nonzero(labels == label)
            assert int(row["area"]) == len(ys)
            assert float(row["centroid_y"]) == pytest.approx(ys.mean(), abs=1e-3)
            assert float(row["centroid_x"]) == pytest.approx(xs.mean(), abs=1e-3)
            box = [int(row[key]) for key in ("min_y", "min_x", "max_y", "max_x")]
            assert box == [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1]
    true = tmp_path / "true"
    true.mkdir()
    for name in SIZES:
        Image.fromarray(labels_of(out / f"{name}.tif").astype(np.uint16)).save(true / f"{name}.png")
    for path in out.glob("*.overlay.png"):
        path.unlink()
    run_command("evaluate", out, true, "--json", tmp_path / "s.json", "--csv", tmp_path / "s.csv")
    found = check_scores(tmp_path / "s.json", len(SIZES))
    assert found["instances_pred"] == found["instances_true"] == len(rows)
    assert found["arand"] in (0, None)
    for image in found["per_image"]:
        assert image["sbd"] == 1, "a map scored against itself"
        assert image["dic"] == 0


def test_the_predictions_of_a_run_score_the_same_as_the_run(whole, tmp_path):
    _, run = whole
    run_command(
        "evaluate",
        run,
        "--json",
        tmp_path / "a.json",
        "--out",
        tmp_path / "pred",
        "--device",
        "cpu",
    )
    true = tmp_path / "true"
    true.mkdir()
    test = open_run(run).open_data().split("test")
    for k in range(len(test)):
        Image.fromarray(test[k].labels.numpy().astype(np.uint16)).save(true / f"{test[k].name}.png")
    for path in (tmp_path / "pred").glob("*.png"):
        path.unlink()
    run_command("evaluate", tmp_path / "pred", true, "--json", tmp_path / "b.json")
    first, second = check_scores(tmp_path / "a.json", 3), check_scores(tmp_path / "b.json", 3)
    assert {name: first[name] for name in SCORES} == {name: second[name] for name in SCORES}


def test_overlays_beside_label_maps_are_not_scored(whole, tmp_path):
    """`--out` puts both into one folder; that folder is what `evaluate PRED TRUE` is given."""
    _, run = whole
    out = tmp_path / "pred"
    run_command("evaluate", run, "--json", tmp_path / "a.json", "--out", out, "--device", "cpu")
    true = tmp_path / "true"
    true.mkdir()
    for path in out.glob("*.tif"):
        (true / path.name).write_bytes(path.read_bytes())
    run_command("evaluate", out, true, "--json", tmp_path / "b.json")
    assert check_scores(tmp_path / "b.json", 3)["abs_dic"] == 0


def test_report(whole, tmp_path, capsys):
    method, run = whole
    page = tmp_path / "page.html"
    run_command("report", run, "--out", page, "--examples", "1", "--device", "cpu")
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text()
    assert method in text
    assert "data:image/png;base64," in text
    for loader in ('src="http', "src='http", "<link", "@import", "url(http", "<script src"):
        assert loader not in text


def test_stop_and_resume_equals_no_stop(whole, tmp_path):
    method, run = whole
    settings = HINTS if method == "colorrl" else None
    out = tmp_path / "run"
    for steps in (1, 3):
        flags = ["--resume"] if out.exists() else []
        run_command(*cells_words(out, *flags, "--steps", steps, method=method, settings=settings))
    run_command("train", "--resume", "--out", out, "--device", "cpu", "--quiet", "--no-report")

    def lines(folder):
        found = map(json.loads, (folder / "scalars.jsonl").read_text().splitlines())
        clock = ("time", "seconds", "per_s")
        return [{k: v for k, v in r.items() if not any(c in k for c in clock)} for r in found]

    assert lines(out) == lines(run)
    first, second = (load_checkpoint(f, "latest").state["network"] for f in (run, out))
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())


def squares(root):
    """A grid of 4 x 4 squares, two pixels apart: 3 in rows and columns, 4.2 over the corners."""
    labels = np.zeros((48, 48), np.uint16)
    for k in range(16):
        y, x = 4 + 10 * (k // 4), 4 + 10 * (k % 4)
        labels[y : y + 8, x : x + 8] = k + 1
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
        for n in range(3):
            picture = labels if part == "labels" else (labels * 10).astype(np.uint8)
            Image.fromarray(picture).save(root / part / f"{n}.png")
    return root


@pytest.mark.parametrize(("radius", "bits"), [(2, 1), (4, 3), (5, 4)])
def test_bits_auto_is_resolved_from_the_labels(radius, bits, tmp_path):
    """No, 4 and 8 neighbours: the smallest T with 2^(T-1) + 1 >= N_b is 1, 3 and 4."""
    run = tmp_path / "run"
    settings = {"bits": "auto", "rewards.radii": f"[1, {radius}]"}
    root = squares(tmp_path / "data")
    line = train_words(run, "--dataset", "folder", "--root", root, settings=settings)
    run_command(*line, "--steps", "1")
    assert json.loads((run / "config.json").read_text())["config"]["bits"] == bits
    run_command("evaluate", run, "--json", tmp_path / "s.json", "--device", "cpu")
    check_scores(tmp_path / "s.json", 1)
    run_command(*line, "--resume", "--steps", "2")


def test_minutes_stop_a_run_that_can_be_scored(tmp_path, capsys):
    run = tmp_path / "run"
    settings = {"phases": "[{steps = 100000, learning_rate = 1e-3}]", "evaluate_every": "50000"}
    run_command(*cells_words(run, "--minutes", "0.01", settings=settings))
    assert capsys.readouterr().out.startswith("stopped: stage colorrl, step")
    run_command("evaluate", run, "--json", tmp_path / "s.json", "--device", "cpu")
    check_scores(tmp_path / "s.json", 3)


def test_evaluate_a_run_on_other_data(whole, tmp_path):
    _, run = whole
    root = write_flat(tmp_path / "data")
    flags = ["--dataset", "folder", "--root", root, "--json", tmp_path / "s.json"]
    run_command("evaluate", run, *flags, "--device", "cpu")
    assert strict(tmp_path / "s.json")["dataset"] == "folder"
