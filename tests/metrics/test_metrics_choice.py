"""Scores of options, and the choice among them."""

import math

import pytest
import torch

from rlseg.metrics import (
    OptionScores,
    adapted_rand_error,
    best_option,
    count_difference,
    overlap,
    symmetric_best_dice,
)


def maps(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 4, (2, 8, 9), generator=generator)


def test_means_are_those_of_the_images():
    true, valid = maps(0), torch.ones(2, 8, 9, dtype=torch.bool)
    valid[1, :4] = False
    tried = OptionScores()
    tried.add("a", maps(1), true, valid)
    tried.add("a", maps(2), true, valid)
    tried.add("b", true, true, valid)
    tables = [overlap(maps(s)[k], true[k], valid[k]) for s in (1, 2) for k in (0, 1)]
    means = tried.means()
    assert list(means) == ["a", "b"]
    assert means["a"]["sbd"] == pytest.approx(sum(map(symmetric_best_dice, tables)) / 4)
    assert means["a"]["arand"] == pytest.approx(sum(map(adapted_rand_error, tables)) / 4)
    counts = [abs(count_difference(table)) for table in tables]
    assert means["a"]["abs_dic"] == pytest.approx(sum(counts) / 4)
    assert means["b"]["sbd"] == 1.0
    assert means["b"]["instances"] == 3.0


def test_no_option_no_means_and_undefined_images_are_left_out():
    assert OptionScores().means() == {}
    tried = OptionScores()
    true = maps(0)
    true[1] = 0  # no instance: ARAND is undefined there
    tried.add("a", true, true, torch.ones(2, 8, 9, dtype=torch.bool))
    assert tried.means()["a"]["arand"] == pytest.approx(0.0)


def test_the_first_of_equals_wins_and_an_undefined_score_never_does():
    means = {k: {"x": v} for k, v in {0: math.nan, 5: 0.3, 7: 0.3, 9: 0.1}.items()}
    assert best_option(means, lambda scores: scores["x"]) == 5
    assert best_option({1: {"x": math.nan}}, lambda scores: scores["x"]) == 1
