"""The processes of torchrun, seen from one of them."""

import pytest

from rlseg.errors import ConfigError
from rlseg.train.ranks import gathered, rank_and_size


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert rank_and_size() == (0, 1)
    assert gathered("rows") == ["rows"]


def test_the_number_of_this_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert rank_and_size() == (3, 4)


@pytest.mark.parametrize(
    ("size", "rank", "message"),
    [("x", "0", "WORLD_SIZE"), ("0", "0", "WORLD_SIZE"), ("2", "-1", "RANK"), ("2", "2", "below")],
)
def test_wrong_variables(monkeypatch, size, rank, message):
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(ConfigError, match=message):
        rank_and_size()


def test_missing_variables_say_how_to_start(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match=r"MASTER_ADDR.*start 2 processes with torchrun"):
        gathered(1)
