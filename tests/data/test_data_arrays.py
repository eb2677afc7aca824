import h5py
import numpy as np
import pytest

from rlseg.data.arrays import h5_dataset, lone_h5_name, opened_h5, read_h5, read_npy
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError


@pytest.fixture
def volume(tmp_path):
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        file["volumes/raw"] = np.arange(24).reshape(2, 3, 4)
        file["inside"] = h5py.SoftLink("/volumes/raw")
        file["volumes/beside"] = h5py.SoftLink("raw")
        file["outside"] = h5py.ExternalLink("other.h5", "/x")
        file["loop"] = h5py.SoftLink("/pool")
        file["pool"] = h5py.SoftLink("/loop")
        file["dangling"] = h5py.SoftLink("/nowhere")
    return path


def read(path, name, **options):
    with opened_h5(path) as file:
        return read_h5(h5_dataset(file, name, path), f"{path}: {name}", **options)


def test_names_and_soft_links_inside_the_file(volume):
    for name in ("volumes/raw", "/volumes/raw", "inside", "volumes/beside"):
        assert read(volume, name).shape == (2, 3, 4)
    assert read(volume, "volumes/raw", index=1)[0, 0] == 12


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("volumes/labels", "no data set.*holds volumes/raw"),
        ("volumes", "is a group.*volumes/raw"),
        ("outside", r"another file \(other\.h5\)"),
        ("outside/deeper", "another file"),
        ("loop", "loop of soft links"),
        ("dangling", "no data set"),
        ("volumes/raw/x", "no data set|damaged"),
    ],
)
def test_fault_h1_h3_what_is_not_a_data_set_of_this_file(volume, name, message):
    with pytest.raises(CorruptDatasetError, match=message):
        read(volume, name)


def test_fault_h3_virtual_data_sets_are_refused(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        layout = h5py.VirtualLayout((4,), dtype="i4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", (4,))
        file.create_virtual_dataset("raw", layout)
    with pytest.raises(CorruptDatasetError, match="other files"):
        read(tmp_path / "v.h5", "raw")


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_fault_h1_no_hdf5(tmp_path, content):
    (tmp_path / "g.h5").write_bytes(content)
    with pytest.raises(CorruptDatasetError, match=r"g\.h5.*not an HDF5 file"):
        read(tmp_path / "g.h5", "raw")


def test_fault_h1_truncated_and_missing(tmp_path, volume):
    whole = volume.read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptDatasetError, match=r"cut\.h5"):
        read(tmp_path / "cut.h5", "volumes/raw")
    with pytest.raises(DatasetNotFoundError, match=r"none\.h5"):
        read(tmp_path / "none.h5", "raw")


def test_fault_h2_declared_size_is_checked_first(tmp_path):
    path = tmp_path / "big.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("raw", (2**14, 2**10, 2**10), "u1", chunks=(64, 64, 64))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(CorruptDatasetError, match=r"17179869184 bytes.*limit"):
        read(path, "raw")
    assert read(path, "raw", index=5).shape == (1024, 1024)
    with pytest.raises(CorruptDatasetError, match="limit is 10"):
        read(path, "raw", index=0, max_bytes=10)


def test_the_only_data_set_of_a_file(tmp_path, volume):
    with opened_h5(volume) as file:
        assert lone_h5_name(file, volume) == "volumes/raw"
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = 1, 2
    with (
        opened_h5(tmp_path / "two.h5") as file,
        pytest.raises(CorruptDatasetError, match=r"2 data sets.*a, b"),
    ):
        lone_h5_name(file, tmp_path / "two.h5")


def test_fault_h6_npy(tmp_path):
    array = np.arange(12, dtype=">i4").reshape(3, 4, order="F")
    np.save(tmp_path / "a.npy", np.asfortranarray(array))
    assert np.array_equal(read_npy(tmp_path / "a.npy"), array)
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object))
    with pytest.raises(CorruptDatasetError, match=r"o\.npy.*pickled"):
        read_npy(tmp_path / "o.npy")
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-5])
    with pytest.raises(CorruptDatasetError, match=r"cut\.npy.*48 bytes, the file holds 43"):
        read_npy(tmp_path / "cut.npy")
    (tmp_path / "t.npy").write_bytes(b"no array")
    with pytest.raises(CorruptDatasetError, match=r"t\.npy"):
        read_npy(tmp_path / "t.npy")
    with pytest.raises(DatasetNotFoundError, match=r"none\.npy"):
        read_npy(tmp_path / "none.npy")


def test_fault_h6_npy_header_of_a_terabyte(tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }"
    header += b" " * (117 - len(header)) + b"\n"
    path = tmp_path / "huge.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(CorruptDatasetError, match=r"huge\.npy.*1099511627776 bytes"):
        read_npy(path)
