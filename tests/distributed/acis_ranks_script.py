"""What each of the two processes of test_acis_ranks.py runs."""

import dataclasses
import sys
from pathlib import Path

import torch
from torch import distributed as dist

from rlseg.acis.actor_critic import EpisodeLearner
from rlseg.acis.build import make_actor, make_decoder
from rlseg.acis.curriculum import SequencePhase
from rlseg.data.samples import InstanceBatch
from rlseg.train.runtime import make_runtime
from tests.fake.acis import TINY, FakeHints, bars, with_critic, with_sequence

COUNTS = (((3, 1), 0), ((1, 0), 1))
"""Instances per image, and seed of the pictures, of each rank's only batch of `gradients`."""


def gradients(batch: InstanceBatch) -> dict[str, torch.Tensor]:
    """Of the critic's, and of BL-Trunc's first update, at length that leaves nothing to chance."""
    runtime = make_runtime(device="cpu")
    phases = (SequencePhase(steps=9, learning_rate=1e-2, length=3),)
    found = {}
    for kind in ("actor_critic", "bl_trunc"):
        config = with_sequence(TINY, phases=phases, objective=kind, sample_prob=0.0)
        torch.manual_seed(3)
        learner = EpisodeLearner(
            config,
            config.sequence,
            1,
            actor=make_actor(config, 1),
            decoder=make_decoder(config, 1),
            hints=FakeHints(),  # type: ignore[arg-type]
            runtime=runtime,
            name="sequence",
        )
        learner.step(batch)
        network = learner.actor if learner.critic is None else learner.critic.network
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                found[f"{kind} {name}"] = parameter.grad.clone()
    return found


def batch_of(counts: tuple[int, ...], seed: int) -> InstanceBatch:
    batch = bars(counts, seed=seed)
    return dataclasses.replace(batch, image=batch.image.float())


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    runtime = make_runtime(device="cpu")
    phases = (SequencePhase(steps=9, learning_rate=1e-2, length=3),)
    for kind in ("critic", "bl_trunc"):
        changes = {"objective": "bl_trunc"} if kind == "bl_trunc" else {}
        config = with_critic(with_sequence(TINY, phases=phases, **changes), per_actor=1)
        torch.manual_seed(runtime.rank)  # ranks start apart; sharing brings them together
        learner = EpisodeLearner(
            config,
            config.sequence,
            1,
            actor=make_actor(config, 1),
            decoder=make_decoder(config, 1),
            hints=FakeHints(),  # type: ignore[arg-type]
            runtime=runtime,
            name="sequence",
        )
        state = [learner.actor.state_dict()]
        if learner.critic is not None:
            state.append(learner.critic.network.state_dict())
        torch.save(
            [{k: v.clone() for k, v in part.items()} for part in state],
            folder / f"{kind}-before-{runtime.rank}.pt",
        )
        # Neither, one and both of the ranks have something to draw.
        counts = [((0, 0), (0, 0)), ((2, 1), (0, 0)), ((0, 0), (3, 1)), ((2, 3), (1, 0))]
        for own in [pair[runtime.rank] for pair in counts for _ in range(2)]:
            batch = bars(own, seed=runtime.rank)
            learner.step(dataclasses.replace(batch, image=batch.image.float()))
        torch.save(state, folder / f"{kind}-after-{runtime.rank}.pt")
    torch.save(gradients(batch_of(*COUNTS[runtime.rank])), folder / f"gradients-{runtime.rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
