"""The embedded default: generated scenes, ColorRL, two classical baselines, one page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlseg import figures
from rlseg.baselines.classical import (
    ClassicalConfig,
    Method,
    components,
    segment,
    split_by_distance,
    tune,
)
from rlseg.config import dump
from rlseg.data import open_dataset
from rlseg.data.base import Splits
from rlseg.data.samples import InstanceSample
from rlseg.errors import CheckpointError, ConfigError
from rlseg.files import as_json, write_whole
from rlseg.methods import make_config, method_module
from rlseg.metrics import InstanceScores
from rlseg.prediction import Predictor
from rlseg.recipes import Recipe, load_recipe
from rlseg.report import Section, write_report
from rlseg.runs import open_run
from rlseg.train import run_folder
from rlseg.train.runtime import Runtime, make_runtime, native_bf16
from rlseg.train.trainer import Trainer, TrainResult

RECIPE = "quickstart"
METRICS = ("sbd", "abs_dic", "ap50", "arand")
"""Columns of the table."""
HEADINGS = {"sbd": "SBD", "abs_dic": "|DiC|", "ap50": "AP50", "arand": "ARAND"}
ROWS = {
    "colorrl": "ColorRL",
    "components": "Otsu + components",
    "watershed": "Otsu + watershed",
    "watershed_true_foreground": "watershed of the true foreground",
}
SHOWN = 4
"""Scenes in the report."""


def run(*, minutes: float, seed: int, out: Path, device: str = "auto", quiet: bool = False) -> int:
    """The exit code, after training, scoring and reporting.

    A folder that holds this quickstart already is gone on with; once its minutes are used up it is
    only scored and reported again.

    Args:
        minutes: of training, at most, earlier calls included; the schedule does not depend on it.
        seed: of training; the scenes are the same for every seed.
        out: run folder; gets `table.json` and `report.html` besides a run's own files.
        device: as `--device`.
        quiet: print nothing but the table.
    """
    recipe = load_recipe(RECIPE)
    runtime = make_runtime(device, fast_precision(device), seed, 1)
    data = open_dataset(recipe.dataset, None, recipe.data)
    result = _train(recipe, data, runtime, out, minutes, quiet)
    if result.status == "interrupted":
        return result.exit_code
    if not quiet:
        print("scoring unseen scenes, tuning the baselines ...", file=sys.stderr)
    test = _samples(data.split("test"))
    try:
        predictor = open_run(out, device=str(runtime.device)).predictor
    except CheckpointError as error:
        raise ConfigError(
            f"{minutes:g} minutes were over before the agent took a step (stage {result.stage!r}); "
            f"give more --minutes to go on with {out}"
        ) from error
    labels: dict[str, list[Tensor]] = {
        "colorrl": [predictor(sample.image.unsqueeze(0)).labels[0] for sample in test]
    }
    for name, (method, settings, known) in tuned_baselines(_samples(data.split("tune"))).items():
        labels[name] = [
            torch.from_numpy(segment(sample, method, settings, known)) for sample in test
        ]
    table = {name: scores(found, test) for name, found in labels.items()}
    write_whole(out / "table.json", as_json(table))
    write_report(
        [out],
        out / "report.html",
        title="rlseg quickstart: ColorRL on touching cells",
        sections=_sections(table, test, labels, predictor),
        examples=0,
        device=str(runtime.device),
    )
    _show(table, out, result.seconds, len(test))
    return result.exit_code


def _train(
    recipe: Recipe, data: Splits, runtime: Runtime, out: Path, minutes: float, quiet: bool
) -> TrainResult:
    module = method_module(recipe.method)
    config = make_config(
        module, preset=recipe.preset, recipe=recipe.config, overrides=[], where=RECIPE
    )
    trainer = Trainer(
        out,
        runtime,
        method=recipe.method,
        config={
            "preset": recipe.preset,
            "recipe": RECIPE,
            "dataset": recipe.dataset,
            "root": None,
            "data": dict(recipe.data),
            "config": dump(config),
        },
        data_digest=data.digest,
        quiet=quiet,
        resume_hint="run rlseg quickstart again to go on",
    )
    begun = run_folder.has_begun(out)
    if begun:
        _check_same(out, trainer.record)
    result = trainer.run(
        lambda: module.stages(config, data, runtime), minutes=minutes, resume=begun
    )
    if begun and result.new_steps == 0 and result.status != "interrupted" and not quiet:
        used_up = f"its {minutes:g} minutes are used up; more --minutes train on"
        why = "training is finished" if result.status == "finished" else used_up
        print(f"nothing left to train in {out} ({why})", file=sys.stderr)
    return result


def _check_same(out: Path, record: Mapping[str, Any]) -> None:
    changed = run_folder.differences(out, record)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ConfigError(
            f"{out} already holds another run ({changed[0]}{more}); choose another --out"
        )


def _sections(
    table: Mapping[str, Mapping[str, float]],
    test: Sequence[InstanceSample],
    labels: Mapping[str, Sequence[Tensor]],
    predictor: Predictor,
) -> list[Section]:
    rows = [
        (
            sample.name,
            {
                "image": sample.image,
                "truth": sample.labels,
                "ColorRL": labels["colorrl"][k],
                "Otsu + watershed": labels["watershed"][k],
            },
        )
        for k, sample in enumerate(test[:SHOWN])
    ]
    steps = []
    for sample in test[:2]:
        trace = predictor(sample.image.unsqueeze(0), trace=True).trace
        picture = figures.bit_maps(sample.image, trace)
        if picture is not None:
            steps.append((sample.name, picture))
    about = (
        f"{len(test)} scenes that training never saw. Watershed's threshold, marker distance and "
        "minimum size are tuned on further scenes; ColorRL's minimum size on the validation split. "
        "The true foreground leaves no gap between touching cells, so that watershed can do worse "
        "on it than on a threshold that opens one. ARAND is an error: lower is better."
    )
    colouring = (
        "In each step every pixel sets one bit; the colours are the bits so far. Pieces of equal "
        "colour are the instances."
    )
    return [
        Section(title="Scores", text=about, table=_readable(table)),
        Section(title="Pictures", pictures=[("", figures.panels(rows))]),
        Section(title="Bit by bit", text=colouring, pictures=steps),
    ]


def fast_precision(device: str) -> str:
    """`"bf16"` where a CPU computes in it natively, else `"fp32"`; a GPU gets `"bf16"`."""
    return "bf16" if native_bf16(device) else "fp32"


def tuned_baselines(
    samples: Sequence[InstanceSample],
) -> dict[str, tuple[Method, ClassicalConfig, bool]]:
    """Row name -> (method, its best settings on the samples, whether it gets the true foreground).

    Otsu + components keeps Otsu's threshold and gets the best minimum size; the watershed is tuned
    in threshold, markers and minimum size.
    """
    shifts = (-0.04, 0.0, 0.04)
    return {
        "components": (components, tune(samples, components), False),
        "watershed": (
            split_by_distance,
            tune(samples, split_by_distance, shifts=shifts),
            False,
        ),
        "watershed_true_foreground": (
            split_by_distance,
            tune(samples, split_by_distance, true_foreground=True),
            True,
        ),
    }


def scores(found: Sequence[Tensor], samples: Sequence[InstanceSample]) -> dict[str, float]:
    """`METRICS` over label maps int64 [H, W] and the samples they belong to."""
    counter = InstanceScores()
    for labels, sample in zip(found, samples, strict=True):
        counter.update(labels, sample.labels, sample.valid, name=sample.name)
    computed = counter.compute()
    return {name: computed[name] for name in METRICS}


def _samples(dataset: Sequence[InstanceSample]) -> list[InstanceSample]:
    return [dataset[index] for index in range(len(dataset))]


def _readable(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, str]]:
    return {
        ROWS[row]: {HEADINGS[name]: f"{value:.3f}" for name, value in values.items()}
        for row, values in table.items()
    }


def _show(table: Mapping[str, Mapping[str, float]], out: Path, seconds: float, count: int) -> None:
    rich = Table(title=f"{count} unseen scenes, {seconds / 60:.1f} minutes of training")
    rich.add_column("method")
    for name in METRICS:
        rich.add_column(HEADINGS[name], justify="right")
    for row, values in _readable(table).items():
        rich.add_row(row, *values.values())
    Console().print(rich)
    print(f"report: {out / 'report.html'}")
    print("next:")
    print(f"  rlseg evaluate {out}")
    print("  rlseg train --recipe quickstart --dataset folder --root YOUR_FOLDER --set bits=auto")
    print(f"  rlseg predict {out} YOUR_IMAGE.png --out predictions --overlay")
