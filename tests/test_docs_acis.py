"""The page of ACIS is true: sections, defaults, presets, departures and scalars match the code."""

import dataclasses
import json
import re

from rlseg.acis import PRESETS, Config, EpisodeLearner, HintLearner, MaskVAELearner, StopLearner
from rlseg.acis.build import make_actor, make_decoder, make_stop_head, start_of
from rlseg.config import apply_overrides, build, dump
from rlseg.recipes import recipe_names
from tests.fake import acis as fake
from tests.test_docs import TEXTS, rows, section, setting

PAGE = TEXTS["docs/methods/acis.md"]
PLAIN = dump(Config())


def part(title):
    """The text below a heading of any level, up to the next one."""
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def leaves(values, path=""):
    """Dotted paths of all settings but those of the augmentation."""
    for name, value in values.items():
        if name == "augmentation":
            continue
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield path + name


def test_fixed_sections():
    assert re.findall(r"^## (.+)$", PAGE, re.MULTILINE) == [
        "Idea",
        "From formula to function",
        "Defaults",
        "Departures",
        "Logged scalars",
        "Results",
        "Cost",
    ]


def test_defaults_are_those_of_the_code_and_all_are_there():
    shown = dict(re.findall(r"^\| `([\w.]+)` \| `(.+?)` \|", part("Defaults"), re.MULTILINE))
    for name, value in shown.items():
        assert json.loads(value) == setting(name, PLAIN), name
    listed = {re.sub(r"\.\d+$", "", name) for name in shown}
    assert set(leaves(PLAIN)) <= listed
    phases = [len(setting(f"{room}.phases", PLAIN)) for room in ("mask_vae", "actor", "sequence")]
    assert sum(".phases." in name for name in shown) == sum(phases)


def test_presets_are_those_of_the_code():
    shown = {
        row[0].strip("`"): set(re.findall(r"`([\w.]+)`", row[2]))
        for row in rows(part("Presets"))
        if row[0] != "preset"
    }
    assert shown == {name: set(values) for name, values in PRESETS.items()}


def test_recipes_exist():
    named = re.findall(r"`((?:cvppp|kitti|leaves)\w*)`", part("Recipes"))
    assert len(named) >= 10
    assert set(named) <= set(recipe_names())


def test_departures_are_numbered_and_name_real_settings():
    text = section(PAGE, "Departures")
    numbers = [int(n) for n in re.findall(r"^(\d+)\. \*\*", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 20
    pairs = re.findall(r"`([\w.]+)=(.+?)`", text)
    assert len(pairs) >= 15
    for name, value in pairs:
        needed = ["sequence.objective=bl"] if name == "sequence.unroll_canvas" else []
        changed = build(Config, apply_overrides(PLAIN, [*needed, f"{name}={value}"]), "config")
        assert changed != Config(), f"{name} is {value} already"
    for name in re.findall(r"`((?:hints|mask_vae|actor|sequence|stop|masks)\.[\w.]+)`", text):
        setting(name, PLAIN)


def narrow(batch):
    return dataclasses.replace(batch, image=batch.image.float())


def logged(learner, batch):
    found = {*learner.step(batch), *learner.evaluate([batch])}
    return {re.sub(r"dice_step_\d+$", "dice_step_1", name) for name in found}


def shown(stage):
    text = re.search(rf"^Stages? {stage}.*?:\n(.*?)(?=^Stages? |\Z)", LOGGED, re.S | re.M)
    assert text, stage
    return set(re.findall(r"^\| `(\w+/\w+)` \|", text[1], re.MULTILINE))


LOGGED = section(PAGE, "Logged scalars")


def test_scalars_are_those_that_are_logged(cpu_runtime):
    batch = narrow(fake.bars((2, 3)))
    hints = fake.FakeHints()
    config = fake.TINY
    assert shown("`hints`") == logged(HintLearner(config, 1, cpu_runtime), batch)
    assert shown("`mask_vae`") == logged(MaskVAELearner(config, 1, hints, cpu_runtime), batch)
    parts = {
        "actor": make_actor(config, 1),
        "decoder": make_decoder(config, 1),
        "hints": hints,
        "runtime": cpu_runtime,
    }
    critic = dataclasses.replace(config.sequence.critic, per_actor=1)
    joint = dataclasses.replace(config.sequence, critic=critic, diagnose_every=1)
    head = make_stop_head(config)
    learner = EpisodeLearner(config, joint, 1, name="sequence", stop_head=head, **parts)
    # A turn of the critic, one of the actor, and a batch without instances.
    found = {*learner.step(batch), *learner.step(batch)}
    found |= logged(EpisodeLearner(config, start_of(config), 1, name="start", **parts), batch)
    found |= set(learner.step(narrow(fake.bars((0, 0)))))
    assert shown("`start` and `sequence`") == found
    assert shown("`stop`") == logged(StopLearner(config, 1, **parts), batch)
