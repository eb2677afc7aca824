"""The embedded default: generated scenes, ColorRL, two classical baselines, one page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

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
from rlseg.data.samples import InstanceSample
from rlseg.files import as_json, write_whole
from rlseg.methods import make_config, method_module
from rlseg.metrics import InstanceScores
from rlseg.prediction import Predictor
from rlseg.recipes import load_recipe
from rlseg.report import Section, write_report
from rlseg.runs import open_run
from rlseg.train.runtime import make_runtime
from rlseg.train.trainer import Trainer

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

    Args:
        minutes: of training, at most; the schedule itself does not depend on it.
        seed: of training; the scenes are the same for every seed.
        out: run folder; gets `table.json` and `report.html` besides a run's own files.
        device: as `--device`.
        quiet: print nothing but the table.
    """
    recipe = load_recipe(RECIPE)
    module = method_module(recipe.method)
    config = make_config(
        module, preset=recipe.preset, recipe=recipe.config, overrides=[], where=RECIPE
    )
    runtime = make_runtime(device, fast_precision(device), seed, 1)
    data = open_dataset(recipe.dataset, None, recipe.data)
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
    )
    result = trainer.run(lambda: module.stages(config, data, runtime), minutes=minutes)
    if result.status == "interrupted":
        return result.exit_code
    if not quiet:
        print("scoring 64 unseen scenes ...", file=sys.stderr)
    tuning = _samples(data.split("tune"))
    test = _samples(data.split("test"))
    predictor = open_run(out, device=str(runtime.device)).predictor
    baselines = tuned_baselines(tuning)
    labels: dict[str, list[Tensor]] = {
        "colorrl": [predictor(sample.image.unsqueeze(0)).labels[0] for sample in test]
    }
    for name, (method, settings, known) in baselines.items():
        labels[name] = [
            torch.from_numpy(segment(sample, method, settings, known)) for sample in test
        ]
    table = {name: scores(found, test) for name, found in labels.items()}
    write_whole(out / "table.json", as_json(table))
    shown = [
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
    steps = [
        (test[k].name, picture)
        for k in range(2)
        if (picture := figures.bit_maps(test[k].image, _trace(predictor, test[k]))) is not None
    ]
    about = (
        f"64 scenes that training never saw, {data.digest[:12]}. Watershed's threshold, marker "
        "distance and minimum size are tuned on 64 further scenes; ColorRL's minimum size on 32 "
        "validation scenes. ARAND is an error: lower is better."
    )
    write_report(
        [out],
        out / "report.html",
        title="rlseg quickstart: ColorRL on touching cells",
        sections=[
            Section(title="Scores", text=about, table=_readable(table)),
            Section(title="Pictures", pictures=[("", figures.panels(shown))]),
            Section(
                title="Bit by bit",
                text="In each step every pixel sets one bit; the colours are the bits so far. "
                "Pieces of equal colour are the instances.",
                pictures=steps,
            ),
        ],
        examples=0,
        device=str(runtime.device),
    )
    _show(table, out, result.seconds)
    return result.exit_code


def fast_precision(device: str) -> str:
    """`"bf16"` where a CPU computes in it natively, else `"fp32"`; a GPU gets `"bf16"`."""
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return "bf16"
    ask = getattr(torch.cpu, "get_capabilities", None)
    found: Mapping[str, object] = ask() if ask is not None else {}
    return "bf16" if found.get("avx512_bf16") or found.get("amx_bf16") else "fp32"


def tuned_baselines(
    samples: Sequence[InstanceSample],
) -> dict[str, tuple[Method, ClassicalConfig, bool]]:
    """Row name -> (method, its best settings on the samples, whether it gets the true foreground).

    Otsu + components stays plain; the watershed is tuned in threshold, markers and minimum size.
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


def _trace(predictor: Predictor, sample: InstanceSample) -> Mapping[str, Tensor]:
    return predictor(sample.image.unsqueeze(0), trace=True).trace


def _readable(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, str]]:
    return {
        ROWS[row]: {HEADINGS[name]: f"{value:.3f}" for name, value in values.items()}
        for row, values in table.items()
    }


def _show(table: Mapping[str, Mapping[str, float]], out: Path, seconds: float) -> None:
    rich = Table(title=f"64 unseen scenes, {seconds / 60:.1f} minutes of training")
    rich.add_column("method")
    for name in METRICS:
        rich.add_column(HEADINGS[name], justify="right")
    for row, values in _readable(table).items():
        rich.add_row(row, *values.values())
    Console().print(rich)
    print(f"report: {out / 'report.html'}")
    print("next:")
    print(f"  rlseg evaluate {out}")
    print("  rlseg train --method colorrl --preset ours --dataset folder --root YOUR_FOLDER \\")
    print("      --set bits=auto")
    print(f"  rlseg predict {out} YOUR_IMAGE.png --out predictions --overlay")
