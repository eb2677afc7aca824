"""Label files: pairing, every format, and what is refused with the file's name."""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError, RlsegError
from rlseg.labelfiles import LabelFile, find_pairs, read_label_file, read_scores

pytestmark = pytest.mark.filterwarnings("error")

IDS = np.array([[0, 1, 2], [300, 1, 0]], dtype=np.uint16)


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def read(path, field=None, **options):
    return read_label_file(LabelFile(path=path, field=field), **options)


# Pairing


def names(pairs):
    return [(p.name, p.pred and p.pred.path.name, p.true.path.name) for p in pairs]


def test_folders_are_paired_by_path_without_ending(tmp_path):
    pred, true = tmp_path / "p", tmp_path / "t"
    touch(pred / "b.tif", pred / "sub/a.npy", pred / "b.overlay.png", pred / "notes.txt")
    touch(true / "b.png", true / "sub/a.h5", true / ".hidden/c.png", true / ".d.png")
    expected = [("b", "b.tif", "b.png"), ("sub/a", "a.npy", "a.h5")]
    assert names(find_pairs(pred, true)) == expected


def test_two_files_are_one_pair_whatever_their_names(tmp_path):
    touch(tmp_path / "x.png", tmp_path / "y.tif")
    assert names(find_pairs(tmp_path / "x.png", tmp_path / "y.tif")) == [("y", "x.png", "y.tif")]


def test_suffixes_are_cut_off_and_select(tmp_path):
    touch(tmp_path / "p/a_pred.png", tmp_path / "t/a_label.png", tmp_path / "t/a_rgb.png")
    pairs = find_pairs(tmp_path / "p", tmp_path / "t", pred_suffix="_pred", true_suffix="_label")
    assert names(pairs) == [("a", "a_pred.png", "a_label.png")]
    with pytest.raises(DatasetNotFoundError, match="2 label files, none ending in '_gt'"):
        find_pairs(tmp_path / "p", tmp_path / "t", pred_suffix="_pred", true_suffix="_gt")


def test_fields_after_a_colon(tmp_path):
    touch(tmp_path / "p.h5", tmp_path / "t:1.h5", tmp_path / "d/a.h5", tmp_path / "d/b.png")
    (pair,) = find_pairs(f"{tmp_path}/p.h5:volumes/labels", tmp_path / "t:1.h5")
    assert (pair.pred.field, pair.true.field) == ("volumes/labels", None)
    (pair,) = find_pairs(tmp_path / "p.h5", f"{tmp_path}/t:1.h5:ids")
    assert (pair.true.path.name, pair.true.field) == ("t:1.h5", "ids")
    assert str(pair.true) == f"{tmp_path}/t:1.h5:ids"
    pairs = find_pairs(f"{tmp_path}/d:x/y", tmp_path / "d")
    assert [(p.pred.field, p.true.field) for p in pairs] == [("x/y", None), (None, None)]


def test_missing_and_extra_partners(tmp_path):
    pred, true = tmp_path / "p", tmp_path / "t"
    touch(pred / "a.png", pred / "z.png", *(true / f"{c}.png" for c in "abcdefgh"))
    with pytest.raises(
        CorruptDatasetError, match=r"7 of 8 truths.*b, c, d, e, f and 2 more.*--mis"
    ):
        find_pairs(pred, true)
    with pytest.raises(CorruptDatasetError, match=r"1 of 2 predictions.*: z;.*--extra ignore"):
        find_pairs(pred, true, missing="empty")
    pairs = find_pairs(pred, true, missing="empty", extra="ignore")
    assert names(pairs)[:2] == [("a", "a.png", "a.png"), ("b", None, "b.png")]
    assert len(pairs) == 8


def test_what_cannot_be_paired(tmp_path):
    touch(
        tmp_path / "p/a.png", tmp_path / "t/b.png", tmp_path / "two/a.png", tmp_path / "two/a.npy"
    )
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetNotFoundError, match="predictions a; truths b"):
        find_pairs(tmp_path / "p", tmp_path / "t")
    with pytest.raises(CorruptDatasetError, match="same name without ending"):
        find_pairs(tmp_path / "two", tmp_path / "t")
    with pytest.raises(DatasetNotFoundError, match="no label maps"):
        find_pairs(tmp_path / "none", tmp_path / "t")
    with pytest.raises(DatasetNotFoundError, match=r"absent: no such file or folder \(PRED\)"):
        find_pairs(tmp_path / "absent", tmp_path / "t")
    with pytest.raises(ConfigError, match="one is a folder, the other a file"):
        find_pairs(tmp_path / "p", tmp_path / "t/b.png")


# Reading


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.TIFF"])
def test_images_of_16_bits(tmp_path, name):
    Image.fromarray(IDS).save(tmp_path / name)
    assert (read(tmp_path / name) == IDS).all()


def test_fault_i3_all_bit_depths_hold_the_same_ids(tmp_path):
    ids = np.array([[0, 1], [1, 0]])
    palette = Image.fromarray(ids.astype(np.uint8)).convert("P")
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putdata([0, 1, 1, 0])
    images = {
        "one.png": Image.fromarray(ids.astype(bool)),
        "palette.png": palette,
        "eight.png": Image.fromarray(ids.astype(np.uint8)),
        "sixteen.tif": Image.fromarray(ids.astype(np.uint16)),
        "thirty_two.tif": Image.fromarray(ids.astype(np.int32)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
        assert (read(tmp_path / name).astype(int) == ids).all(), name


def test_fault_l1_ids_above_16_bits(tmp_path):
    ids = np.arange(70_000, dtype=np.int32).reshape(200, 350)
    Image.fromarray(ids).save(tmp_path / "a.tif")
    np.save(tmp_path / "a.npy", ids)
    assert (read(tmp_path / "a.tif") == ids).all()
    assert (read(tmp_path / "a.npy") == ids).all()


def test_pages_are_a_volume(tmp_path):
    pages = [Image.fromarray(IDS), Image.fromarray(IDS[::-1].copy())]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert (read(tmp_path / "a.tif") == np.stack([IDS, IDS[::-1]])).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_fault_i3_colour_needs_the_flag(tmp_path, mode):
    Image.fromarray(np.full((2, 2, len(mode)), 7, dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(CorruptDatasetError, match=r"a\.png.*rgb24"):
        read(tmp_path / "a.png")
    found = read(tmp_path / "a.png", encoding="rgb24")
    assert (found == 7 + 256 * 7 + 65536 * 7).all()


def test_fault_i3_rgb24_refuses_varying_alpha_and_leaves_grey_alone(tmp_path):
    colors = np.zeros((2, 2, 4), dtype=np.uint8)
    colors[0, 0, 3] = 255
    Image.fromarray(colors).save(tmp_path / "alpha.png")
    Image.fromarray(IDS).save(tmp_path / "grey.png")
    with pytest.raises(CorruptDatasetError, match=r"alpha\.png: alpha varies from 0 to 255"):
        read(tmp_path / "alpha.png", encoding="rgb24")
    assert (read(tmp_path / "grey.png", encoding="rgb24") == IDS).all()


def test_npz_by_field(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, labels=IDS, other=IDS + 1, scores=np.ones(3))
    assert (read(path) == IDS).all()
    assert (read(path, "other") == IDS + 1).all()
    np.savez_compressed(path, only=IDS, scores=np.ones(3))
    assert (read(path) == IDS).all()
    np.savez(path, a=IDS, b=IDS)
    with pytest.raises(CorruptDatasetError, match=r"2 arrays, none called 'labels'.*a, b"):
        read(path)
    with pytest.raises(CorruptDatasetError, match="no array 'c'"):
        read(path, "c")


def test_h5_by_name(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["volumes/raw"] = np.zeros((2, 3), dtype=np.float32)
        file["volumes/labels/ids"] = IDS.astype(np.uint64) + np.uint64(2**63)
    assert (read(path) == IDS.astype(np.uint64) + np.uint64(2**63)).all()
    assert read(path, "volumes/labels/ids").dtype == np.uint64
    with h5py.File(path, "a") as file:
        file["more"] = IDS
    with pytest.raises(
        CorruptDatasetError, match=r"2 integer data sets \(more, volumes/labels/ids"
    ):
        read(path)
    with pytest.raises(CorruptDatasetError, match="no data set 'x'"):
        read(path, "x")


def npz_with(path, header, body=b""):
    """An npz whose only array has a header of our choice."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.npy", stream.getvalue() + body)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 2)), "float64"),
        (np.full((2, 2), -3), "-3"),
        (np.zeros(4, dtype=int), r"\[4\]"),
        (np.zeros((1, 1, 1, 1), dtype=int), r"\[1, 1, 1, 1\]"),
        (np.zeros((2, 2), dtype=complex), "complex"),
    ],
)
def test_fault_l2_arrays_that_are_no_label_maps(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", labels=array)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(CorruptDatasetError, match=rf"{name}.*{words}"):
            read(tmp_path / name)


def test_fault_h6_npz_that_declares_too_much_or_holds_objects(tmp_path):
    path = tmp_path / "a.npz"
    npz_with(path, {"descr": "<i8", "fortran_order": False, "shape": (2**20, 2**20)})
    with pytest.raises(CorruptDatasetError, match="declares 8796093022208 bytes"):
        read(path)
    npz_with(path, {"descr": "<i8", "fortran_order": False, "shape": (100,)}, b"\0" * 8)
    with pytest.raises(CorruptDatasetError, match="declares 800 bytes"):
        read(path)
    np.savez(path, labels=np.array([[{}]], dtype=object))
    with pytest.raises(CorruptDatasetError, match="never loaded"):
        read(path)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy", "a.npz", "a.h5"])
@pytest.mark.parametrize("content", [b"", b"not a label map", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04"])
def test_fault_i2_garbage_is_one_error_with_the_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptDatasetError, match=name.replace(".", r"\.")):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy", "a.npz", "a.h5"])
def test_fault_i8_absent_file(tmp_path, name):
    with pytest.raises(DatasetNotFoundError, match=name.replace(".", r"\.")):
        read(tmp_path / name)


def test_truncated_files_never_crash(tmp_path):
    """Any prefix, and any flipped byte, is read or refused with one of our errors."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", labels=IDS)
    np.save(tmp_path / "a.npy", IDS)
    Image.fromarray(IDS).save(tmp_path / "a.png")
    for name in ("a.npz", "a.npy", "a.png"):
        content = (tmp_path / name).read_bytes()
        broken = [content[:k] for k in range(0, len(content), 7)]
        for k in rng.integers(0, len(content), 60).tolist():
            changed = bytearray(content)
            changed[k] ^= 1 << int(rng.integers(0, 8))
            broken.append(bytes(changed))
        messages = []
        for piece in broken:
            (tmp_path / name).write_bytes(piece)
            try:
                read(tmp_path / name)
            except RlsegError as error:
                messages.append(str(error))
        assert len(messages) >= len(content) // 7
        assert all(name in message for message in messages)


def test_formats_we_do_not_know(tmp_path):
    touch(tmp_path / "a.nii.gz")
    with pytest.raises(CorruptDatasetError, match="not a known label format"):
        read(tmp_path / "a.nii.gz")
    Image.fromarray(IDS).save(tmp_path / "a.png")
    with pytest.raises(CorruptDatasetError, match="only npz and HDF5"):
        read(tmp_path / "a.png", "labels")


# Scores


def scores_of(path, ids=(1, 2, 300)):
    return read_scores(LabelFile(path=path), np.array(ids, dtype=np.uint64))


def test_scores_from_npz_and_from_the_side_file(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, labels=IDS)
    assert scores_of(path) is None
    np.savez(path, labels=IDS, scores=np.array([0.5, 1, 2], dtype=np.float32))
    assert scores_of(path).tolist() == [0.5, 1, 2]
    side = tmp_path / "a.scores.json"
    side.write_text(json.dumps({"300": 3, "1": 0.25, "2": 7}))
    assert scores_of(path).tolist() == [0.25, 7, 3]
    assert scores_of(tmp_path / "a.png").tolist() == [0.25, 7, 3]
    assert scores_of(tmp_path / "b.png") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "one object"),
        ('{"1": 1, "2": 1}', "no score for id 300"),
        ('{"1": 1, "2": "x", "300": 1}', "id 2 is 'x'"),
        ('{"1": 1, "2": true, "300": 1}', "id 2 is true, expected a number"),
        ('{"1": NaN, "2": 1, "300": 1}', "NaN"),
        ('{"1": 1, "2": 1e999, "300": 1}', "id 2 is Infinity, expected a finite number"),
        ('{"1": 1, "2": -1e999, "300": 1}', "id 2 is -Infinity, expected a finite number"),
        (f'{{"1": 1, "2": 1{"0" * 400}, "300": 1}}', "id 2 is an integer of more than 20 digits"),
        ('{"1": 1, "2": 1, "300": [1]}', "id 300 is a list of 1, expected a number"),
        ('{"1": 1, "2": 1, "300": null}', "id 300 is nothing, expected a number"),
        ('{"1": 1, "1": 2}', "twice"),
    ],
)
def test_bad_side_files(tmp_path, text, words):
    (tmp_path / "a.scores.json").write_text(text)
    with pytest.raises(CorruptDatasetError, match=rf"a\.scores\.json.*{words}"):
        scores_of(tmp_path / "a.tif")


@pytest.mark.parametrize("scores", [[1.0], [1, np.nan, 2], [1, np.inf, 2], ["a", "b", "c"]])
def test_bad_scores_in_npz(tmp_path, scores):
    np.savez(tmp_path / "a.npz", labels=IDS, scores=np.array(scores))
    with pytest.raises(CorruptDatasetError, match=r"a\.npz: field 'scores'"):
        scores_of(tmp_path / "a.npz")
