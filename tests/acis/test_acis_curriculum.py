"""Which phase an update belongs to, at the borders and beyond the end."""

import pytest

from rlseg.acis.config import MaskVAEConfig, Phase, SequencePhase
from rlseg.acis.curriculum import phase_at, total_steps
from rlseg.errors import ConfigError

LADDER = (
    Phase(steps=3, learning_rate=1e-1),
    Phase(steps=1, learning_rate=1e-2),
    Phase(steps=2, learning_rate=1e-3),
)


def test_each_update_has_its_phase():
    rates = [phase_at(LADDER, step).learning_rate for step in range(8)]
    assert rates == [1e-1] * 3 + [1e-2] + [1e-3] * 4


def test_kind_of_phase_is_kept():
    phases = (
        SequencePhase(steps=2, learning_rate=1.0, length=5),
        SequencePhase(steps=2, learning_rate=1.0, length=10, load="random"),
    )
    assert [phase_at(phases, step).length for step in (0, 1, 2, 9)] == [5, 5, 10, 10]


def test_default_ladder_of_the_mask_vae_is_that_of_the_code():
    phases = MaskVAEConfig().phases
    assert total_steps(phases) == 800 * 32
    epochs = (1, 400, 401, 600, 601, 800)
    rates = [phase_at(phases, (epoch - 1) * 32).learning_rate for epoch in epochs]
    assert rates == [2e-4, 2e-4, 2e-5, 2e-5, 2e-6, 2e-6]


def test_no_phase_is_an_error():
    with pytest.raises(ConfigError, match="at least one phase"):
        phase_at((), 0)
