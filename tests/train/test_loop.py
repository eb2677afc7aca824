from typing import Any

import torch

from rlseg.train.loop import run_loop
from rlseg.train.runtime import Runtime
from tests.train.toy_method import ToyLearner, ToyStream

RUNTIME = Runtime(device=torch.device("cpu"), precision="fp32", seed=0)


def test_loop_counts_from_one_and_stops_when_told() -> None:
    seen: list[Any] = []

    def after(step: int, scalars: Any) -> bool:
        seen.append((step, scalars["count"]))
        return step == 5

    names: list[str] = []
    learner, stream = ToyLearner(RUNTIME), ToyStream(RUNTIME)
    last = run_loop(
        learner,
        stream,
        9,
        start=2,
        before=lambda step, item: names.append(f"{step} {item.names[0]}"),
        after=after,
    )
    assert last == 5
    assert seen == [(3, 1.0), (4, 2.0), (5, 3.0)]
    assert names == ["3 item0-0", "4 item1-0", "5 item2-0"]
    assert run_loop(learner, stream, 5, start=5) == 5
    assert stream.position == 3
