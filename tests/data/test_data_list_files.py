import os

import pytest

from rlseg.data import list_files
from rlseg.data.list_files import read_lines
from rlseg.errors import CorruptDatasetError, DatasetNotFoundError


def test_lines_without_blanks(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbf a \r\n\n\tb c\t\r\n   \nd")
    assert read_lines(path) == ["a", "b c", "d"]
    path.write_bytes(b"")
    assert read_lines(path) == []


def test_fault_p5_names_that_are_not_utf8(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"gr\xfc\xdfe\n\xc3\xbc\n")
    found = read_lines(path)
    assert [os.fsencode(name) for name in found] == [b"gr\xfc\xdfe", b"\xc3\xbc"]


def test_files_that_are_no_lists(tmp_path, monkeypatch):
    with pytest.raises(DatasetNotFoundError, match=r"absent\.txt: no such file"):
        read_lines(tmp_path / "absent.txt")
    with pytest.raises(CorruptDatasetError, match="cannot be read"):
        read_lines(tmp_path)
    path = tmp_path / "list.txt"
    path.write_bytes(b"ab\0c")
    with pytest.raises(CorruptDatasetError, match="byte 2 is NUL"):
        read_lines(path)
    monkeypatch.setattr(list_files, "MAX_LIST_BYTES", 3)
    with pytest.raises(CorruptDatasetError, match="larger than 3 bytes"):
        read_lines(path)
