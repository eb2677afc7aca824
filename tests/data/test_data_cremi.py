import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from rlseg.data import open_dataset
from rlseg.data.cremi import Options, check
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from tests.fake.cremi import write_tif
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
    assert [p.where for p in check(cremi_hdf_root, Options())] == ["split test"]


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
