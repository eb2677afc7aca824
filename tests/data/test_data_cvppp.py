import logging

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from rlseg.data import check_dataset, open_dataset
from rlseg.data.base import digest_of
from rlseg.data.cvppp import Options, check
from rlseg.data.idlists import committed_ids
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from tests.fake.cvppp import FEW, published, scene, write_h5, write_png


def names(splits):
    return {s: [splits.split(s)[k].name for k in range(len(splits.split(s)))] for s in splits.names}


def sizes(splits):
    return {name: len(splits.split(name)) for name in splits.names}


def problems(root, options=None):
    return [p for p in check_dataset("cvppp", root, options) if not p.note]


def assert_scene(sample, number):
    image, ids = scene(number)
    assert torch.equal(sample.image, torch.from_numpy(image[..., :3]).permute(2, 0, 1) / 255)
    assert torch.equal(sample.labels, torch.tensor([0, 0, 1, 1, 1, 1, 1, 2])[ids.astype(int)])
    assert sample.valid.all()


def test_png_trios(tmp_path):
    write_png(tmp_path)
    splits = open_dataset("cvppp", tmp_path)
    assert (splits.task, splits.ndim, splits.channels) == ("instance", 2, 3)
    valid = set(FEW) & set(committed_ids("cvppp", "valid"))
    assert names(splits) == {
        "train": [f"A1_{plant}" for plant in FEW if plant not in valid],
        "valid": [f"A1_{plant}" for plant in FEW if plant in valid],
    }
    whole = open_dataset("cvppp", tmp_path, {"division": "128/0"}).split("train")
    for number in range(len(FEW)):
        assert_scene(whole[number], number)
    assert problems(tmp_path) == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("place", [".", "training", "CVPPP2017_LSC_training/training"])
def test_other_places_and_without_transparency(tmp_path, place, mode):
    write_png(tmp_path / place, mode=mode)
    assert_scene(open_dataset("cvppp", tmp_path, {"division": "128/0"}).split("train")[3], 3)


def test_the_three_divisions_of_the_published_plants(tmp_path, caplog):
    write_png(tmp_path, published())
    with caplog.at_level(logging.WARNING):
        ours, theirs, all_train = (
            open_dataset("cvppp", tmp_path, {"division": division})
            for division in ("103/25", "100/28", "128/0")
        )
    assert not caplog.records
    assert sizes(ours) == {"train": 103, "valid": 25}
    assert names(ours)["valid"] == [f"A1_{plant}" for plant in committed_ids("cvppp", "valid")]
    assert sizes(theirs) == {"train": 100, "valid": 28}
    assert names(theirs)["train"] == [f"A1_{plant}" for plant in published()[:100]]
    assert sizes(all_train) == {"train": 128}
    assert len({ours.digest, theirs.digest, all_train.digest}) == 3


def test_a_subset_keeps_its_sides_of_the_list_and_is_a_warning(tmp_path, caplog):
    write_png(tmp_path, [*published()[:40], *published()[60:]])
    with caplog.at_level(logging.WARNING):
        found = names(open_dataset("cvppp", tmp_path))
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: 108 of the 128 published plants of A1"
    ]
    valid = {f"A1_{plant}" for plant in committed_ids("cvppp", "valid")}
    assert set(found["valid"]) <= valid
    assert not set(found["train"]) & valid
    assert len(found["train"]) + len(found["valid"]) == 108


def test_other_plants_are_drawn_and_the_warning_says_so(tmp_path, caplog):
    plants = [f"plant{number:03d}" for number in (1, 2, 3, 4, 9, 201, 202, 203, 204, 205)]
    write_png(tmp_path, plants)
    with caplog.at_level(logging.WARNING):
        splits = open_dataset("cvppp", tmp_path)
    assert sizes(splits) == {"train": 8, "valid": 2}
    assert "not the published plants of A1 (plant003, plant004" in caplog.text
    assert "drawn with seed 0, in the proportion 103/25" in caplog.text
    drawn = {
        tuple(names(open_dataset("cvppp", tmp_path, {"seed": seed}))["valid"]) for seed in range(5)
    }
    assert len(drawn) > 1
    assert tuple(names(splits)["valid"]) in drawn


def test_plants_from_one_side_of_the_list_are_drawn(tmp_path, caplog):
    write_png(tmp_path, committed_ids("cvppp", "valid")[:6])
    with caplog.at_level(logging.WARNING):
        splits = open_dataset("cvppp", tmp_path)
    assert sizes(splits) == {"train": 5, "valid": 1}
    assert "not the published plants of A1 (only plant" in caplog.text


def test_fractions_make_a_test_split_that_can_be_scored(tmp_path, caplog):
    write_png(tmp_path, published()[:20])
    write_png(tmp_path / "testing", ["plant003"], labels=False)
    with caplog.at_level(logging.WARNING):
        splits = open_dataset("cvppp", tmp_path, {"fractions": [0.6, 0.2, 0.2]})
        unscored = open_dataset("cvppp", tmp_path, {"fractions": [0.8, 0.2, 0.0], "seed": 1})
    assert not caplog.records
    assert sizes(splits) == {"train": 12, "valid": 4, "test": 4}
    assert splits.split("test")[0].valid.all()
    assert names(unscored)["test"] == ["A1_plant003"]


def test_images_to_test_with_have_no_truth(tmp_path):
    write_png(tmp_path)
    write_png(tmp_path / "testing", ["plant003", "plant004"], labels=False)
    test = open_dataset("cvppp", tmp_path).split("test")
    assert len(test) == 2
    assert not test[1].valid.any()
    assert not test[1].labels.any()
    foreground = test.dataset.foreground(1)
    assert torch.equal(foreground, torch.from_numpy(scene(1)[1] > 0))
    assert problems(tmp_path) == []


def test_several_parts(tmp_path):
    write_png(tmp_path)
    write_png(tmp_path, ["plant001", "plant017"], part="A2")
    write_png(tmp_path, ["plant0001", "plant0857"], part="A4")
    splits = open_dataset("cvppp", tmp_path, {"parts": ["A1", "A2", "A4"]})
    found = names(splits)
    assert len(set(found["train"] + found["valid"])) == 10
    assert sum(name.startswith("A2_") for name in found["valid"]) == 1
    assert splits.digest != open_dataset("cvppp", tmp_path).digest
    with pytest.raises(DatasetNotFoundError, match=r"no plants of A3.*A3/plant<n>_rgb\.png.*A1/"):
        open_dataset("cvppp", tmp_path, {"parts": ["A3"]})


def test_h5_gives_the_same_as_png(tmp_path):
    png = open_dataset("cvppp", write_png(tmp_path / "png"), {"division": "100/28"})
    h5 = open_dataset("cvppp", write_h5(tmp_path / "h5"), {"division": "100/28"})
    for split in ("train", "valid"):
        assert names(h5)[split] == names(png)[split]
        for k in range(len(png.split(split))):
            assert torch.equal(h5.split(split)[k].image, png.split(split)[k].image)
            assert torch.equal(h5.split(split)[k].labels, png.split(split)[k].labels)
            one, other = (part.split(split).dataset.foreground(k) for part in (h5, png))
            assert torch.equal(one, other)
    assert names(h5)["test"] == ["A1_plant003", "A1_plant004"]
    assert not h5.split("test")[0].valid.any()
    assert problems(tmp_path / "h5") == []


def test_the_form_can_be_chosen(tmp_path):
    write_png(write_h5(tmp_path / "both"), FEW[:2])
    assert len(open_dataset("cvppp", tmp_path / "both", {"division": "128/0"}).split("train")) == 2
    chosen = open_dataset("cvppp", tmp_path / "both", {"division": "128/0", "form": "h5"})
    assert len(chosen.split("train")) == len(FEW)
    with pytest.raises(DatasetNotFoundError, match="no plants of A1"):
        open_dataset("cvppp", write_h5(tmp_path / "h5"), {"form": "png"})


@pytest.mark.parametrize(("gone", "lacking"), [("rgb", "image"), ("label", "labels")])
def test_half_a_pair_is_an_error(tmp_path, gone, lacking):
    write_png(tmp_path)
    (tmp_path / "A1" / f"plant005_{gone}.png").unlink()
    with pytest.raises(CorruptDatasetError, match=rf"plant005_.*no {lacking} file for it"):
        open_dataset("cvppp", tmp_path)
    assert len(problems(tmp_path)) == 1


def test_half_a_pair_in_h5_is_an_error(tmp_path):
    write_h5(tmp_path / "h5")
    with h5py.File(tmp_path / "h5/CVPPP2017_training_truth.h5", "a") as file:
        del file["A1/plant005"]
    with h5py.File(tmp_path / "h5/CVPPP2017_training_images.h5", "a") as file:
        del file["A1/plant161"]
    with pytest.raises(CorruptDatasetError, match=r"images\.h5: A1/plant005: no labels"):
        open_dataset("cvppp", tmp_path / "h5")
    assert [p.where.split("/")[-1] for p in problems(tmp_path / "h5")] == ["plant005", "plant161"]


def test_a_missing_truth_file_is_named(tmp_path):
    write_h5(tmp_path / "h5")
    (tmp_path / "h5/CVPPP2017_training_truth.h5").unlink()
    with pytest.raises(CorruptDatasetError, match=r"training_truth\*\.h5 .*5 more like it"):
        open_dataset("cvppp", tmp_path / "h5")
    (tmp_path / "h5/other_testing_images.hdf5").write_bytes(b"")
    with pytest.raises(CorruptDatasetError, match="both look like the testing images"):
        open_dataset("cvppp", tmp_path / "h5")


def test_links_out_of_an_h5_file_are_refused(tmp_path):
    write_h5(tmp_path / "h5")
    with h5py.File(tmp_path / "h5/CVPPP2017_training_images.h5", "a") as file:
        del file["A1/plant005/rgb"]
        file["A1/plant005/rgb"] = h5py.ExternalLink("elsewhere.h5", "rgb")
    assert "link to another file" in problems(tmp_path / "h5")[0].what
    with h5py.File(tmp_path / "h5/CVPPP2017_training_images.h5", "a") as file:
        del file["A1/plant005"]
        file["A1/plant005"] = h5py.ExternalLink("elsewhere.h5", "A1/plant005")
    with pytest.raises(CorruptDatasetError, match=r"plant005.*link to another file"):
        open_dataset("cvppp", tmp_path / "h5")


def test_damage_is_found_in_one_pass(tmp_path):
    folder = write_png(tmp_path) / "A1"
    image = folder / "plant001_rgb.png"
    image.write_bytes(image.read_bytes()[:-20])
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "plant002_label.png")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / "plant005_label.png")
    (folder / "plant006_label.png").unlink()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "plant007_fg.png")
    (folder / "plant161_fg.png").write_bytes(b"text")
    found = [p.where + p.what for p in problems(tmp_path)]
    assert len(found) == 6
    for expected in (
        "plant001_rgb.png",
        "plant002_label.png, size 9x9",
        "plant005_label.pnglabels in colour",
        "no labels file",
        "plant007_fg.pngsize [9, 9]",
        "plant161_fg.pngnot an image",
    ):
        assert sum(expected in text for text in found) == 1, expected


def test_damage_in_h5(tmp_path):
    write_h5(tmp_path / "h5")
    with h5py.File(tmp_path / "h5/CVPPP2017_training_images.h5", "a") as file:
        for plant, values in (
            ("plant001", np.zeros((40, 40), np.uint8)),
            ("plant002", np.zeros((40, 40, 5), np.uint8)),
            ("plant006", np.full((40, 40, 3), 2.0)),
        ):
            del file[f"A1/{plant}/rgb"]
            file[f"A1/{plant}/rgb"] = values
        del file["A1/plant005/rgb"], file["A1/plant007/fg"]
        file["A1/plant007/fg"] = np.zeros((2, 40, 40), np.uint8)
    with h5py.File(tmp_path / "h5/CVPPP2017_training_truth.h5", "a") as file:
        del file["A1/plant161/label"]
        file["A1/plant161/label"] = np.zeros((1, 40, 40), np.uint8)
    found = [p.where + p.what for p in problems(tmp_path / "h5")]
    assert len(found) == 6
    for expected in (
        "rgb: image of shape [40, 40],",
        "rgb: image of shape [40, 40, 5],",
        "no data set 'A1/plant005/rgb'",
        "values from 2 to 2",
        "fg: foreground of shape [2, 40, 40]",
        "labels of shape [1, 40, 40]",
    ):
        assert sum(expected in text for text in found) == 1, expected


def test_a_foreground_that_differs_is_a_note(tmp_path):
    folder = write_png(tmp_path) / "A1"
    ids = scene(0)[1]
    ids[0, :5] = 1
    Image.fromarray(np.where(ids > 0, 255, 0).astype(np.uint8)).save(folder / "plant001_fg.png")
    (folder / "plant002_fg.png").unlink()
    notes = [p for p in check(tmp_path, Options()) if "foreground" in p.what or "_fg" in p.where]
    assert [(p.where, p.note) for p in notes] == [(str(folder / "plant001_fg.png"), True)]
    assert notes[0].what.endswith("at 5 places")
    assert problems(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": []}, "parts must be"),
        ({"parts": ["A1", "A1"]}, "parts must be"),
        ({"parts": ["../A1"]}, "parts must be"),
        ({"fractions": [0.5, 0.2, 0.2]}, "add up to 1"),
        ({"fractions": [0.0, 0.5, 0.5]}, "train above 0"),
        ({"fractions": [float("nan"), 0.5, 0.5]}, "fractions"),
        ({"division": "64/64"}, "division"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        open_dataset("cvppp", write_png(tmp_path), options)


def test_check_tells_how_far_it_is_and_what_is_wrong_with_the_root(tmp_path):
    seen = []
    check(write_png(tmp_path / "a"), Options(division="128/0"), lambda *s: seen.append(s))
    assert seen == [("train", k, 6) for k in range(1, 7)]
    assert len(check(tmp_path, Options())) == 1
    assert len(check(tmp_path / "absent", Options())) == 1
    with pytest.raises(DatasetNotFoundError, match=r"plant-phenotyping\.org"):
        open_dataset("cvppp", tmp_path)


def test_the_digest_follows_the_files(tmp_path):
    write_png(tmp_path)
    before = open_dataset("cvppp", tmp_path).digest
    assert open_dataset("cvppp", tmp_path, {"form": "png"}).digest != digest_of()
    (tmp_path / "A1/plant001_fg.png").unlink()
    assert open_dataset("cvppp", tmp_path).digest != before
