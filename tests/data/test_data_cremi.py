import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from rlseg.data import open_dataset
from rlseg.data.cremi import Options, check
from rlseg.data.slabs import borders
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from tests.fake.cremi import write_challenge_hdf, write_tif
from tests.fake.em3d import write_padded
from tests.fake.scenes import rectangles


def test_tif_pairs(cremi_root):
    splits = open_dataset("cremi", cremi_root)
    assert (splits.task, splits.ndim, splits.channels) == ("instance", 2, 1)
    assert splits.names == ("train", "valid", "test")
    part = splits.split("valid")
    assert len(part) == 4
    image, labels = rectangles(11)
    assert part[1].name == "11"
    assert torch.equal(part[1].image, torch.from_numpy(image)[None].float() / 255)
    assert torch.equal(part[1].labels, torch.from_numpy(labels).long())
    assert part[1].valid.all()
    assert check(cremi_root, Options()) == []


@pytest.mark.parametrize("base", [".", "256"])
def test_other_places_below_the_root(tmp_path, base):
    write_tif(tmp_path, base=base)
    assert len(open_dataset("cremi", tmp_path).split("train")) == 4


def test_hdf_gives_the_same_pictures(cremi_root, cremi_hdf_root):
    pairs = open_dataset("cremi", cremi_root).split("test")
    volume = open_dataset("cremi", cremi_hdf_root).split("test")
    for k in range(4):
        assert torch.equal(pairs[k].image, volume[k].image)
        assert torch.equal(pairs[k].labels, volume[k].labels)
    assert not volume[0].valid[:2, :3].any()
    assert volume[0].valid.sum() == 48 * 48 - 6
    assert len({volume[k].name for k in range(4)}) == 4
    with pytest.raises(IndexError):
        volume[4]
    assert check(cremi_hdf_root, Options()) == []


def test_digest_follows_the_files(tmp_path, cremi_root):
    before = open_dataset("cremi", cremi_root).digest
    assert open_dataset("cremi", cremi_root, {"form": "tif"}).digest == before
    folder = cremi_root / "Cremi/Corrected/256/test"
    (folder / "A/A_23.tif").unlink()
    (folder / "B/B_23.tif").unlink()
    assert open_dataset("cremi", cremi_root).digest != before


def test_a_missing_file_is_named(cremi_root):
    gone = cremi_root / "Cremi/Corrected/256/valid/B/B_12.tif"
    gone.unlink()
    with pytest.raises(CorruptDatasetError, match=r"A_12\.tif: no labels.*B_12"):
        open_dataset("cremi", cremi_root)
    problems = check(cremi_root, Options())
    assert len(problems) == 1
    assert problems[0].where.endswith("A_12.tif")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_damage_is_found_in_one_pass(cremi_root):
    base = cremi_root / "Cremi/Corrected/256"
    (base / "train/A/A_0.tif").write_bytes(b"II*\0 damaged")
    Image.fromarray(np.zeros((9, 9), np.int32)).save(base / "train/B/B_1.tif")
    (base / "test/A/A_20.tif").unlink()
    found = [p.where + p.what for p in check(cremi_root, Options())]
    assert len(found) == 3
    for expected in ("A_0.tif", "B_1.tif, size 9x9", "B_20.tif"):
        assert sum(expected in text for text in found) == 1
    (base / "test/A/A_20.tif").write_bytes((base / "test/A/A_21.tif").read_bytes())
    with pytest.raises(CorruptDatasetError, match=r"A_0\.tif"):
        open_dataset("cremi", cremi_root).split("train")[0]


def test_wrong_root_says_what_was_looked_for_and_found(tmp_path):
    (tmp_path / "holiday").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"A_<n>\.tif.*\.hdf.*holiday/.*cremi\.org"):
        open_dataset("cremi", tmp_path)
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        open_dataset("cremi", tmp_path / "absent")
    with pytest.raises(ConfigError, match="--root"):
        open_dataset("cremi", None)
    assert len(check(tmp_path, Options())) == 1


def test_missing_split_is_reported_by_check_only(cremi_hdf_root):
    (cremi_hdf_root / "cre256_test.hdf").unlink()
    assert open_dataset("cremi", cremi_hdf_root).names == ("train", "valid")
    assert [(p.where, p.note) for p in check(cremi_hdf_root, Options())] == [("split test", True)]


def test_volumes_that_do_not_fit(cremi_hdf_root):
    with h5py.File(cremi_hdf_root / "cre256_valid.hdf", "w") as file:
        file["volumes/raw"] = np.zeros((2, 5, 5), np.uint8)
        file["volumes/labels/neuron_ids"] = np.zeros((2, 5, 6), np.uint64)
    with pytest.raises(CorruptDatasetError, match=r"valid\.hdf.*\[2, 5, 5\].*\[2, 5, 6\]"):
        open_dataset("cremi", cremi_hdf_root)
    assert any("valid.hdf" in p.where for p in check(cremi_hdf_root, Options()))


def test_two_files_for_one_split(cremi_hdf_root):
    (cremi_hdf_root / "other_train.h5").write_bytes(b"")
    with pytest.raises(CorruptDatasetError, match="both look like split 'train'"):
        open_dataset("cremi", cremi_hdf_root)


def test_unknown_option(cremi_root):
    with pytest.raises(ConfigError, match="form"):
        open_dataset("cremi", cremi_root, {"form": "zarr"})
    with pytest.raises(ConfigError, match="from"):
        open_dataset("cremi", cremi_root, {"from": "tif"})


def slice_names(splits):
    return {
        name: [splits.split(name)[k].name for k in range(len(splits.split(name)))]
        for name in splits.names
    }


def numbers(stem, *values):
    return [f"{stem}_{value:04d}" for value in values]


def test_a_volume_of_the_challenge_is_cut_into_runs_of_slices(tmp_path):
    write_challenge_hdf(tmp_path)
    splits = open_dataset("cremi", tmp_path)
    stem = "sample_A_20160501"
    assert slice_names(splits) == {
        "train": numbers(stem, *range(16)),
        "valid": numbers(stem, 16, 17),
        "test": numbers(stem, 18, 19),
    }
    image, labels = rectangles(18)
    first = splits.split("test")[0]
    assert torch.equal(first.image, torch.from_numpy(image)[None].float() / 255)
    assert torch.equal(first.labels, torch.from_numpy(labels).long())
    assert check(tmp_path, Options()) == []


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1, 0, 0]), (2, [1, 0, 1]), (5, [4, 0, 1]), (125, [100, 12, 13])]
)
def test_every_slice_is_in_one_split_and_train_is_never_empty(count, sizes):
    found = borders(count)
    assert [stop - start for start, stop in found.values()] == sizes
    assert [k for pair in found.values() for k in range(*pair)] == list(range(count))


def test_several_volumes_are_cut_each(tmp_path):
    for letter in "AB":
        write_challenge_hdf(tmp_path / "hdf", 10, f"sample_{letter}_20160501.hdf")
    names = slice_names(open_dataset("cremi", tmp_path))
    assert len(names["train"]) == 16
    assert names["valid"] == ["sample_A_20160501_0008", "sample_B_20160501_0008"]


def test_a_file_and_ranges_are_named(tmp_path):
    write_tif(tmp_path)
    write_challenge_hdf(tmp_path / "more", 10, "train.hdf")
    chosen = {"file": "more/train.hdf", "train_slices": [2, 5], "test_slices": [7, 10]}
    splits = open_dataset("cremi", tmp_path, chosen)
    assert slice_names(splits) == {
        "train": numbers("train", 2, 3, 4),
        "test": numbers("train", 7, 8, 9),
    }
    whole = open_dataset("cremi", tmp_path, {"file": "more/train.hdf"})
    assert [len(whole.split(name)) for name in whole.names] == [8, 1, 1]
    assert whole.digest != splits.digest
    with pytest.raises(DatasetNotFoundError, match=r"absent\.hdf: no such file.*option file"):
        open_dataset("cremi", tmp_path, {"file": "absent.hdf"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_slices": [0, 6], "valid_slices": [5, 8]}, "share slices from 5 on"),
        ({"test_slices": [4, 4]}, r"got \[4, 4\]"),
        ({"test_slices": [-1, 4]}, r"got \[-1, 4\]"),
        ({"train_slices": [0, 11]}, r"train_slices is \[0, 11\].*has 10 slices"),
        ({"train_slices": [0, 5], "form": "tif"}, "belong to HDF5"),
        ({"file": "sample_A_20160501.hdf", "form": "tif"}, "belong to HDF5"),
    ],
)
def test_ranges_that_do_not_fit(tmp_path, options, message):
    write_challenge_hdf(tmp_path, 10)
    with pytest.raises(ConfigError, match=message):
        open_dataset("cremi", tmp_path, options)


def test_ranges_and_files_that_are_splits_contradict(cremi_hdf_root):
    with pytest.raises(ConfigError, match=r"cre256_test\.hdf.*option file"):
        open_dataset("cremi", cremi_hdf_root, {"train_slices": [0, 2]})


def test_a_volume_without_truth_is_named_with_the_way_out(tmp_path):
    write_challenge_hdf(tmp_path, 10)
    with h5py.File(tmp_path / "sample_B.hdf", "w") as file:
        file["volumes/raw"] = np.zeros((2, 5, 5), np.uint8)
    problems = check(tmp_path, Options())
    assert [(p.where, p.note) for p in problems] == [(str(tmp_path / "sample_B.hdf"), False)]
    assert len(open_dataset("cremi", tmp_path, {"file": "sample_A_20160501.hdf"}).names) == 3


def test_check_tells_how_far_it_is(tmp_path):
    write_challenge_hdf(tmp_path, 10)
    seen = []
    assert check(tmp_path, Options(), lambda *state: seen.append(state)) == []
    assert seen == [("train", k, 8) for k in range(1, 9)] + [("valid", 1, 1), ("test", 1, 1)]


# Patches and padded volumes


@pytest.mark.parametrize(("recipe", "side"), [("Cre-160", 160), ("Cre-256", 256), ("Cre-448", 448)])
def test_recipes_cut_patches_of_their_size(tmp_path, recipe, side):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 255, (20, 460, 470)).astype(np.uint8)
    with h5py.File(tmp_path / "sample_A_20160501.hdf", "w") as file:
        file["volumes/raw"] = raw
        ids = np.repeat(np.arange(5, 5 + 47, dtype=np.uint64), 10)
        file["volumes/labels/neuron_ids"] = np.broadcast_to(ids, raw.shape)
    splits = open_dataset("cremi", tmp_path, {"recipe": recipe})
    assert {n: len(splits.split(n)) for n in splits.names} == {
        "train": 103,
        "valid": 20,
        "test": 25,
    }
    slices = {"train": range(16), "valid": range(16, 18), "test": range(18, 20)}
    again = open_dataset("cremi", tmp_path, {"recipe": recipe})
    for name in splits.names:
        part = splits.split(name)
        numbers = {part.dataset.place(k)[1][0] for k in range(len(part))}
        assert numbers <= set(slices[name])
        assert len(numbers) == len(slices[name])
        sample = part[3]
        z, y, x = part.dataset.place(3)[1]
        expected = torch.from_numpy(raw[z, y : y + side, x : x + side])[None].float() / 255
        assert torch.equal(sample.image, expected)
        assert sample.labels.shape == sample.valid.shape == (side, side)
        assert sample.labels.unique().tolist() == list(range(1, int(sample.labels.max()) + 1))
        assert torch.equal(again.split(name)[3].labels, sample.labels)
    other = open_dataset("cremi", tmp_path, {"recipe": recipe, "seed": 1})
    assert other.split("train").dataset.place(3)[1] != splits.split("train").dataset.place(3)[1]
    assert len({splits.digest, other.digest, open_dataset("cremi", tmp_path).digest}) == 3


def test_patches_without_enough_neurons_are_drawn_again(tmp_path):
    """Only the right half of the slices is labelled; the left is ignored above, 0 below."""
    ids = np.full((10, 400, 400), 3, np.uint64)
    ids[:, :200, :200] = np.uint64(2**64 - 1)
    ids[:, 200:, :200] = 0
    with h5py.File(tmp_path / "sample_B.hdf", "w") as file:
        file["volumes/raw"] = np.zeros(ids.shape, np.uint8)
        file["volumes/labels/neuron_ids"] = ids
    options = {"recipe": "Cre-160", "patches": [30, 0, 0]}
    for share in (0.5, 0.9):
        part = open_dataset("cremi", tmp_path, options | {"min_labelled": share}).split("train")
        for k in range(30):
            sample = part[k]
            assert (sample.labels > 0).float().mean() >= share
            assert not sample.labels[~sample.valid].any()
    free = open_dataset("cremi", tmp_path, options | {"min_labelled": 0.0}).split("train")
    shares = [float((free[k].labels > 0).float().mean()) for k in range(30)]
    assert min(shares) < 0.5
    assert check(tmp_path, Options(recipe="Cre-160", patches=(3, 1, 1))) == []


def test_patches_that_cannot_be(tmp_path, cremi_root, cremi_hdf_root):
    with pytest.raises(ConfigError, match=r"less than a crop of \[1, 160, 160\]"):
        open_dataset("cremi", cremi_hdf_root, {"recipe": "Cre-160"})
    with pytest.raises(DatasetNotFoundError, match="no CREMI data"):
        open_dataset("cremi", cremi_root, {"recipe": "Cre-160"})
    for wrong, message in (
        ({"patches": [0, 1, 1]}, "patches"),
        ({"min_labelled": -0.1}, "min_labelled"),
        ({"recipe": "Cre-160", "form": "tif"}, "belong to HDF5"),
        ({"recipe": "Cre-200"}, "recipe"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_dataset("cremi", tmp_path, wrong)


def test_fault_l6_a_volume_of_ignored_pixels_has_no_instance_and_no_known_pixel(tmp_path):
    path = write_challenge_hdf(tmp_path, 10)
    with h5py.File(path, "r+") as file:
        file["volumes/labels/neuron_ids"][...] = np.uint64(2**64 - 1)
    sample = open_dataset("cremi", tmp_path).split("train")[0]
    assert not sample.labels.any()
    assert not sample.valid.any()


def test_padded_volumes_are_read_where_they_have_labels(tmp_path):
    raw = write_padded(tmp_path / "sample_A_padded.hdf")
    splits = open_dataset("cremi", tmp_path)
    assert {n: len(splits.split(n)) for n in splits.names} == {"train": 4, "test": 1}
    for part, index, number in (("train", 0, 0), ("train", 3, 3), ("test", 0, 4)):
        sample = splits.split(part)[index]
        assert sample.labels.shape == (20, 20)
        assert sample.valid.all()
        expected = torch.from_numpy(raw[number + 2, 6:26, 7:27])[None].float() / 255
        assert torch.equal(sample.image, expected)
    assert [(p.where, p.note) for p in check(tmp_path, Options())] == [("split valid", True)]


def test_padded_volumes_whose_labels_lie_outside(tmp_path):
    write_padded(tmp_path / "sample_A_padded.hdf", corner=(5, 6, 7))
    with pytest.raises(CorruptDatasetError, match=r"begin at voxel \[5, 6, 7\].*\[9, 30, 31\]"):
        open_dataset("cremi", tmp_path)
