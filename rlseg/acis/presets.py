"""Starting points of `--preset`: the arms and ablations of the paper, and our variants."""

from __future__ import annotations

from collections.abc import Mapping

CURRICULUM_BL = (
    # Epochs 601 to 10000 of 32 iterations (C): iterations, T, load, rate, KL.
    (44_768, 5, "last", 5e-4, 0.0),
    (32_000, 5, "last", 5e-5, 0.0),
    (32_032, 5, "last", 5e-6, 0.0),
    (95_968, 10, "last", 5e-5, 0.0),
    (64_000, 10, "last", 1e-5, 0.0),
    (32_032, 21, "random", 1e-6, 0.0),
)
CURRICULUM_MANY = (
    # More than 60 objects: short episodes first, up to 25 masks, then whole images (I).
    (140_768, 5, "last", 5e-4, 1e-4),
    (64_000, 10, "last", 5e-5, 1e-4),
    (64_000, 15, "last", 5e-5, 1e-4),
    (64_000, 25, "last", 1e-5, 1e-5),
    (32_000, 25, "random", 1e-6, 1e-5),
)


def _phases(rows: tuple[tuple[int, int, str, float, float], ...]) -> list[dict[str, object]]:
    return [
        {
            "steps": steps,
            "length": length,
            "load": load,
            "learning_rate": rate,
            "kl_weight": weight,
        }
        for steps, length, load, rate, weight in rows
    ]


BASELINE: Mapping[str, object] = {
    "sequence.phases": _phases(CURRICULUM_BL),
    # The baselines take the mean of the code in stage 4, without a KL term (C).
    "sequence.sample_prob": 0.0,
    "sequence.kl_weight": 0.0,
}

PRESETS: Mapping[str, Mapping[str, object]] = {
    # The defaults of `Config`, under the names of Tables 1, 2 and 4.
    "ac_dice": {},
    "ac_iou": {"sequence.reward": "iou"},
    "ac_dice_nokl": {"sequence.kl_weight": 0.0},
    "ac_dice_nosp": {"mask_vae.pyramid": False},
    "bl": {"sequence.objective": "bl", **BASELINE},
    "bl_trunc": {"sequence.objective": "bl_trunc", **BASELINE},
    "lstm_only": {"state": "lstm"},
    "mask_only": {"state": "mask"},
    # The released scripts where they differ from the paper or from our defaults, except for what
    # no setting changes.
    "code": {
        "actor.sample_prob": 0.0,
        "actor.phases": [
            {"steps": 12_800, "learning_rate": 5e-4, "kl_weight": 0.1},
            {"steps": 6_400, "learning_rate": 5e-4, "kl_weight": 0.0},
        ],
        "augmentation.flip_horizontal": 1.0,
        "augmentation.flip_vertical": 1.0,
        "hints.maps": "cached",
        "hints.dropout": True,
        "stop.skip": False,
    },
    # The other reading of "the decoder is frozen".
    "frozen_code_map": {"actor.code_map": "frozen"},
    "many_objects": {"sequence.phases": _phases(CURRICULUM_MANY), "max_steps": 80},
    # Ours: the slope of the reward itself in place of a critic's.
    "potential": {"sequence.gradient": "potential"},
}
"""Name -> overrides of `Config` by dotted path. A recipe's own settings win over these."""
