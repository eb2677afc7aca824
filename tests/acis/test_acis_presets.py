"""Presets: each builds, schedules are those of the code, recipes keep their own settings."""

import json

import pytest

from rlseg import acis
from rlseg.acis.config import Config
from rlseg.acis.presets import PRESETS
from rlseg.config import build, dump
from rlseg.errors import ConfigError
from rlseg.methods import make_config
from rlseg.recipes import load_recipe


def schedule(config):
    return [
        (p.steps, p.length, p.load, p.learning_rate, p.kl_weight) for p in config.sequence.phases
    ]


def from_epochs(rows, last):
    """Iterations of phases that begin at an epoch; 32 iterations each."""
    ends = [row[0] for row in rows[1:]] + [last]
    return [((end - row[0]) * 32, *row[1:]) for row, end in zip(rows, ends, strict=True)]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_changes_what_it_says(name):
    config = make_config(acis, preset=name)
    plain = dump(config)
    for path, value in PRESETS[name].items():
        found = plain
        for part in path.split("."):
            found = found[part]
        assert json.dumps(found, sort_keys=True) == json.dumps(value, sort_keys=True)
    assert (config == Config()) == (name == "ac_dice")


def test_schedules_are_those_of_the_code():
    actor_critic = [
        (601, 5, "last", 5e-4, 1e-4),
        (5000, 5, "last", 5e-5, 1e-4),
        (7000, 10, "last", 5e-5, 1e-4),
        (8000, 10, "last", 1e-5, 1e-5),
        (9000, 15, "random", 1e-6, 1e-5),
    ]
    assert schedule(make_config(acis, preset="ac_dice")) == from_epochs(actor_critic, 10_000)
    baseline = [
        (601, 5, "last", 5e-4, 0.0),
        (2000, 5, "last", 5e-5, 0.0),
        (3000, 5, "last", 5e-6, 0.0),
        (4001, 10, "last", 5e-5, 0.0),
        (7000, 10, "last", 1e-5, 0.0),
        (9000, 21, "random", 1e-6, 0.0),
    ]
    found = schedule(make_config(acis, preset="bl"))
    assert found == schedule(make_config(acis, preset="bl_trunc"))
    assert found == from_epochs(baseline, 10_001)


def of_recipe(preset=None):
    recipe = load_recipe("leaves_acis_cpu")
    return make_config(acis, preset=preset or recipe.preset, recipe=recipe.config)


@pytest.mark.parametrize(
    ("preset", "objective", "weight"),
    [
        (None, ("actor_critic", "potential"), None),
        ("bl", ("bl", "critic"), 0.0),
        ("bl_trunc", ("bl_trunc", "critic"), 0.0),
        ("ac_dice", ("actor_critic", "critic"), None),
        ("ac_dice_nokl", ("actor_critic", "critic"), 0.0),
    ],
)
def test_a_preset_switches_the_arm_of_the_recipe_for_leaves(preset, objective, weight):
    sequence = of_recipe(preset).sequence
    assert (sequence.objective, sequence.gradient) == objective
    assert sequence.kl_weight == weight
    assert [phase.length for phase in sequence.phases] == [1, 3, 6, 15]
    assert {phase.kl_weight for phase in sequence.phases} == {1e-4}


def test_the_settings_of_a_recipe_win_over_a_preset():
    recipe = load_recipe("kitti")
    config = make_config(acis, preset="bl_trunc", recipe=recipe.config)
    assert config.sequence.objective == "bl_trunc"
    assert config.sequence.kl_weight == 0.0
    assert schedule(config) == schedule(make_config(acis, recipe=recipe.config))


def test_settings_of_earlier_runs_still_load():
    """Their phases of the mask VAE have a KL weight of 0, their sequences none for all phases."""
    plain = dump(of_recipe())
    del plain["sequence"]["kl_weight"]
    assert plain["mask_vae"]["phases"][0]["kl_weight"] == 0.0
    assert build(Config, plain, "config.json").sequence.kl_weight is None
    plain["mask_vae"]["phases"][0]["kl_weight"] = 0.5
    with pytest.raises(ConfigError, match=r"mask_vae\.beta"):
        build(Config, plain, "config.json")
