from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from rlseg.data import open_dataset
from rlseg.data.em3d import Options, check
from rlseg.data.samples import collate_instances
from rlseg.data.stream import EpochStream
from rlseg.data.transforms import CUBES_3D, TrainingTransform, resize_nearest
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError
from tests.fake.child import in_child
from tests.fake.em3d import (
    COUNTS,
    blocks,
    write_pairs,
    write_sparse,
    write_stack,
    write_volume,
)


def counts(splits):
    return {name: len(splits.split(name)) for name in splits.names}


@pytest.mark.parametrize(
    ("base", "kind"), [("tif", "tif"), (".", "tif"), ("npy", "npy"), (".", "npy")]
)
def test_pairs(tmp_path, base, kind):
    splits = open_dataset("em3d", write_pairs(tmp_path, base, kind))
    assert (splits.task, splits.ndim, splits.channels) == ("instance", 3, 1)
    assert counts(splits) == COUNTS
    for k in range(3):
        sample = splits.split("train")[k]
        image, ids = blocks(k)
        assert sample.name == str(k)
        assert torch.equal(sample.image, torch.from_numpy(image)[None].float() / 255)
        assert torch.equal(sample.labels, torch.from_numpy(ids))
        assert sample.valid.all()
    with pytest.raises(IndexError):
        splits.split("train")[3]
    assert check(tmp_path, Options()) == []


def test_hdf_by_folder_by_name_or_cut(tmp_path):
    for split, number in (("train", 0), ("train", 1), ("val", 2)):
        write_volume(tmp_path / "a" / split / f"v{number}.h5", number=number)
    splits = open_dataset("em3d", tmp_path / "a")
    assert counts(splits) == {"train": 2, "valid": 1}
    sample = splits.split("train")[1]
    assert sample.name == "v1"
    assert sample.image.shape == (1, 20, 24, 30)
    assert not sample.valid[:2, :3, :4].any()
    assert int((~sample.valid).sum()) == 24
    expected = blocks(1, (20, 24, 30))[1]
    expected[:2, :3, :4] = 0
    assert torch.equal(sample.labels, torch.from_numpy(expected))

    write_volume(tmp_path / "b" / "hdf" / "fish_train.hdf")
    write_volume(tmp_path / "b" / "hdf" / "fish_test.hdf")
    assert counts(open_dataset("em3d", tmp_path / "b")) == {"train": 1, "test": 1}

    write_volume(tmp_path / "c" / "fish.hdf5")
    cut = open_dataset("em3d", tmp_path / "c")
    names = [cut.split(name)[0].name for name in cut.names]
    assert names == ["fish_0000-0015", "fish_0016-0017", "fish_0018-0019"]
    joined = torch.cat([cut.split(name)[0].image for name in cut.names], dim=1)
    assert torch.equal(joined, torch.from_numpy(blocks(0, (20, 24, 30))[0])[None].float() / 255)
    ranges = {"train_slices": [0, 12], "test_slices": [15, 20]}
    chosen = open_dataset("em3d", tmp_path / "c", ranges)
    assert {n: chosen.split(n)[0].labels.shape[0] for n in chosen.names} == {"train": 12, "test": 5}
    assert chosen.digest != cut.digest


def test_other_names_of_arrays_and_another_ignore_id(tmp_path):
    write_volume(tmp_path / "v_train.h5", keys=("em", "seg"))
    options = {"image_key": "em", "labels_key": "seg", "ignore_id": 7}
    sample = open_dataset("em3d", tmp_path, options).split("train")[0]
    ids = blocks(0, (20, 24, 30))[1]
    ids[:2, :3, :4] = -1
    assert torch.equal(sample.valid, torch.from_numpy(ids != 1))
    with pytest.raises(CorruptDatasetError, match=r"v_train\.h5.*holds em, seg"):
        open_dataset("em3d", tmp_path)


def test_zebrafish_is_the_nearest_voxel_of_the_whole(tmp_path, monkeypatch):
    write_volume(tmp_path / "v_train.h5", resolution=[60.0, 56.4, 56.4])
    whole = open_dataset("em3d", tmp_path).split("train")[0]
    splits = open_dataset("em3d", tmp_path, {"recipe": "zebrafish"})
    sample = splits.split("train")[0]
    assert sample.image.shape == (1, 96, 96, 96)
    assert torch.equal(sample.image, resize_nearest(whole.image, (96, 96, 96)))
    assert torch.equal(sample.labels, resize_nearest(whole.labels, (96, 96, 96)))
    monkeypatch.setattr("rlseg.data.volume_files.SLAB_VOXELS", 24 * 30 * 3)
    for size in ((7, 9, 11), (20, 5, 40), (1, 1, 1)):
        part = open_dataset("em3d", tmp_path, {"size": list(size)}).split("train")
        assert torch.equal(part[0].image, resize_nearest(whole.image, size))
        assert torch.equal(part[0].valid, resize_nearest(whole.valid, size))
    volumes = splits.split("train").dataset
    assert volumes.resolution(0) == pytest.approx((60 * 20 / 96, 56.4 * 24 / 96, 56.4 * 30 / 96))


def test_fault_l9_instances_lost_by_making_a_volume_small_are_removed(tmp_path):
    write_volume(tmp_path / "v_train.h5")
    sample = open_dataset("em3d", tmp_path, {"size": [2, 2, 2]}).split("train")[0]
    present = sample.labels.unique().tolist()
    assert 1 <= len([k for k in present if k]) < 3
    assert present[-1] == len([k for k in present if k])


def test_crops_are_windows_of_the_volume_and_repeat(tmp_path):
    write_volume(tmp_path / "v_train.h5", number=0)
    write_volume(tmp_path / "v_test.h5", number=1)
    options = {"crop": [6, 10, 12], "crops": [12, 5, 4], "min_labelled": 0.3}
    splits = open_dataset("em3d", tmp_path, options)
    assert counts(splits) == {"train": 12, "test": 4}
    whole = open_dataset("em3d", tmp_path).split("train")[0]
    part, again = splits.split("train"), open_dataset("em3d", tmp_path, options).split("train")
    places = set()
    for k in range(12):
        crop = part[k]
        start = part.dataset.place(k)[1]
        window = tuple(slice(a, a + n) for a, n in zip(start, (6, 10, 12), strict=True))
        assert torch.equal(crop.image[0], whole.image[0][window])
        assert torch.equal(crop.labels > 0, whole.labels[window] > 0)
        assert crop.labels.unique().tolist() == list(range(int(crop.labels.max()) + 1))
        assert (crop.labels > 0).float().mean() >= 0.3
        assert torch.equal(crop.image, again[k].image)
        assert torch.equal(crop.labels, again[k].labels)
        assert crop.name == f"v_train_c{k:04d}"
        places.add(start)
    assert len(places) > 6
    other = open_dataset("em3d", tmp_path, options | {"seed": 1})
    assert {other.split("train").dataset.place(k)[1] for k in range(12)} != places
    assert other.digest != splits.digest
    small = open_dataset("em3d", tmp_path, options | {"size": [3, 5, 6]}).split("train")[2]
    assert torch.equal(small.image, resize_nearest(part[2].image, (3, 5, 6)))


def test_crops_of_several_volumes_come_from_all(tmp_path):
    for number in range(3):
        write_volume(tmp_path / "train" / f"v{number}.h5", number=number)
    options = {"crop": [20, 8, 8], "crops": [30, 0, 0], "min_labelled": 0.0}
    part = open_dataset("em3d", tmp_path, options).split("train")
    assert {part.dataset.place(k)[0].volume.name for k in range(30)} == {"v0", "v1", "v2"}


def test_a_crop_that_no_place_can_give(tmp_path):
    write_volume(tmp_path / "v_train.h5")
    options = {"crop": [6, 10, 12], "crops": [2, 0, 0], "min_labelled": 1.0}
    with pytest.raises(CorruptDatasetError, match=r"v_train\.h5: none of 200 places.*min_labelled"):
        open_dataset("em3d", tmp_path, options).split("train")[0]
    with pytest.raises(ConfigError, match=r"v_train\.h5: em3d train.*crop of \[6, 10, 99\]"):
        open_dataset("em3d", tmp_path, {"crop": [6, 10, 99]})


def test_volumes_stream_in_cubes(tmp_path):
    write_pairs(tmp_path)
    stream = EpochStream(
        open_dataset("em3d", tmp_path).split("train"),
        batch_size=2,
        transform=TrainingTransform(CUBES_3D, (4, 4, 4)),
        collate=collate_instances,
        seed=0,
        prefetch=1,
    )
    for _ in range(3):
        batch = next(stream)
        assert batch.image.shape == (2, 1, 4, 4, 4)
        present = [labels.unique() for labels in batch.labels]
        assert all(ids[ids > 0].tolist() == list(range(1, int(ids.max()) + 1)) for ids in present)
    stream.close()


def test_a_missing_partner_and_a_damaged_stack(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "tif/train/B/B_1.tif").unlink()
    path = tmp_path / "tif/test/A/A_0.tif"
    path.write_bytes(path.read_bytes()[:-200])
    write_stack(tmp_path / "tif/valid/B/B_0.tif", blocks(0)[1][:-1].astype(np.uint8))
    with pytest.raises(CorruptDatasetError, match=r"A_1\.tif: no labels.*B_1"):
        open_dataset("em3d", tmp_path)
    found = [p.where + " " + p.what for p in check(tmp_path, Options()) if not p.note]
    assert len(found) == 3
    for name in ("train/A/A_1.tif", "test/A/A_0.tif", "valid/B/B_0.tif"):
        assert sum(name in text for text in found) == 1


def test_nothing_there_and_files_that_say_no_split(tmp_path):
    (tmp_path / "holiday").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"A_<k>\.tif.*found holiday/.*FIB-25"):
        open_dataset("em3d", tmp_path)
    assert len(check(tmp_path, Options())) == 1
    with pytest.raises(ConfigError, match="--root"):
        open_dataset("em3d", None)
    write_volume(tmp_path / "v_train.h5")
    write_volume(tmp_path / "other.h5")
    with pytest.raises(CorruptDatasetError, match=r"other\.h5: no word for a split"):
        open_dataset("em3d", tmp_path)
    one = open_dataset("em3d", tmp_path, {"file": "other.h5"})
    assert one.names == ("train", "valid", "test")
    with pytest.raises(DatasetNotFoundError, match=r"absent\.h5: no such file"):
        open_dataset("em3d", tmp_path, {"file": "absent.h5"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": [0, 3, 3]}, "crop needs sides"),
        ({"size": [3, 3, 0]}, "size needs sides"),
        ({"crops": [0, 1, 1]}, "crops must be"),
        ({"min_labelled": 1.5}, "min_labelled"),
        ({"recipe": "zebrafish", "size": [9, 9, 9]}, "leave one of them out"),
        ({"form": "pairs", "train_slices": [0, 3]}, "belong to HDF5"),
        ({"train_slices": [3, 3]}, r"got \[3, 3\]"),
        ({"recipe": "guppy"}, "recipe"),
    ],
)
def test_options_out_of_range(tmp_path, options, message):
    write_volume(tmp_path / "v.h5")
    with pytest.raises(ConfigError, match=message):
        open_dataset("em3d", tmp_path, options)


# HDF5 and npy


def no_labels(file):
    del file["volumes/labels/neuron_ids"]


def a_group(file):
    no_labels(file)
    file.create_group("volumes/labels/neuron_ids")


def floats(file):
    no_labels(file)
    file["volumes/labels/neuron_ids"] = np.zeros((20, 24, 30), np.float32)


def negative(file):
    no_labels(file)
    file["volumes/labels/neuron_ids"] = np.full((20, 24, 30), -5)


def flat(file):
    no_labels(file)
    file["volumes/labels/neuron_ids"] = np.zeros((24, 30), np.uint8)


def other_shape(file):
    no_labels(file)
    file["volumes/labels/neuron_ids"] = np.zeros((20, 24, 29), np.uint8)


def other_file(file):
    no_labels(file)
    file["volumes/labels/neuron_ids"] = h5py.ExternalLink("/etc/passwd", "/x")


def loop(file):
    no_labels(file)
    file["volumes/labels/neuron_ids"] = h5py.SoftLink("/volumes/labels/neuron_ids")


def no_numbers(file):
    file["volumes/raw"].attrs["resolution"] = "fine"


def flat_voxels(file):
    file["volumes/raw"].attrs["resolution"] = [4.0, 0.0, 4.0]


def half_voxel(file):
    file["volumes/labels/neuron_ids"].attrs["offset"] = [20.0, 0.0, 0.0]
    file["volumes/labels/neuron_ids"].attrs["resolution"] = [40.0, 4.0, 4.0]


def beyond(file):
    file["volumes/labels/neuron_ids"].attrs["offset"] = [40.0, 0.0, 0.0]
    file["volumes/labels/neuron_ids"].attrs["resolution"] = [40.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_labels, "no data set.*holds volumes/raw"),
        (a_group, "is a group"),
        (floats, "float32"),
        (negative, "-5"),
        (flat, r"\[24, 30\]"),
        (other_shape, r"\[20, 24, 29\].*offset"),
        (other_file, "another file"),
        (loop, "loop of soft links"),
        (no_numbers, "resolution"),
        (flat_voxels, "above 0"),
        (half_voxel, "no whole number of voxels"),
        (beyond, "do not lie inside"),
    ],
)
def test_fault_h1_h3_arrays_that_are_no_volume(tmp_path, damage, message):
    path = write_volume(tmp_path / "v_train.h5")
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(CorruptDatasetError, match=message):
        open_dataset("em3d", tmp_path).split("train")[0]
    problems = [p for p in check(tmp_path, Options()) if not p.note]
    assert len(problems) == 1
    assert "v_train.h5" in problems[0].where + problems[0].what


@pytest.mark.parametrize("content", [b"", b"garbage" * 50, "half"])
def test_fault_h1_no_hdf5(tmp_path, content):
    path = write_volume(tmp_path / "v_train.h5")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(CorruptDatasetError, match=r"v_train\.h5: damaged or not an HDF5"):
        open_dataset("em3d", tmp_path)
    assert [p.where for p in check(tmp_path, Options()) if not p.note] == [str(path)]


def test_fault_h2_sixteen_gib_declared_give_slabs_and_refuse_the_rest(tmp_path):
    path = write_sparse(tmp_path / "sample_A.h5")
    assert path.stat().st_size < 1_000_000
    said = in_child(
        """
        root = Path(sys.argv[1])
        try:
            open_dataset("em3d", root).split("train")[0]
        except RlsegError as error:
            print(type(error).__name__, error)
        part = open_dataset("em3d", root, {"crop": [32, 32, 32], "crops": [2, 0, 0]}).split("train")
        print(tuple(part[1].image.shape), int(part[1].labels.max()))
        part = open_dataset("cremi", root).split("test")
        print(len(part), tuple(part[3].image.shape))
        part = open_dataset("cremi", root, {"recipe": "Cre-160", "patches": [2, 0, 0]})
        print(part.names, tuple(part.split("train")[1].image.shape))
        """,
        tmp_path,
    ).splitlines()
    assert said[0].startswith("CorruptDatasetError")
    assert "sample_A.h5" in said[0]
    assert "options crop and size" in said[0]
    assert said[1:] == [
        "(1, 32, 32, 32) 1",
        "410 (1, 2048, 2048)",
        "('train',) (1, 160, 160)",
    ]


def test_fault_h4_flipped_bytes_are_an_error_or_ids_in_range(tmp_path):
    path = write_volume(tmp_path / "v_train.h5")
    whole = bytearray(path.read_bytes())
    for place in range(100, len(whole), max(1, len(whole) // 60)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            sample = open_dataset("em3d", tmp_path).split("train")[0]
        except (CorruptDatasetError, DatasetNotFoundError):
            continue
        assert sample.labels.min() >= 0
        assert 0 <= sample.image.min() <= sample.image.max() <= 1


def test_fault_h6_npy_of_any_order_and_none_that_lies(tmp_path):
    write_pairs(tmp_path, "npy", "npy")
    image, ids = blocks(0)
    folder = tmp_path / "npy/train"
    np.save(folder / "A/A_0.npy", np.asfortranarray(image))
    np.save(folder / "B/B_0.npy", ids.astype(">u4"))
    sample = open_dataset("em3d", tmp_path).split("train")[0]
    assert torch.equal(sample.labels, torch.from_numpy(ids))
    assert torch.equal(sample.image[0], torch.from_numpy(image).float() / 255)
    crops = open_dataset("em3d", tmp_path, {"crop": [2, 8, 8], "min_labelled": 0}).split("train")
    assert crops[0].image.shape == (1, 2, 8, 8)
    np.save(folder / "B/B_1.npy", np.array([{}], dtype=object))
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1048576, 1024, 1024), }"
    header += b" " * (117 - len(header)) + b"\n"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    (folder / "B/B_2.npy").write_bytes(start + header)
    problems = check(tmp_path, Options())
    assert [Path(p.where).name for p in problems] == ["B_1.npy", "B_2.npy"]
    assert "pickled objects" in problems[0].what
    assert "1099511627776" in problems[1].what
