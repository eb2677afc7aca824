"""A method with one learned number, for tests of everything around methods.

It thresholds the image; the threshold runs towards the mean grey value of the training images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from rlseg.data.base import Splits
from rlseg.data.samples import InstanceSample
from rlseg.errors import ConfigError
from rlseg.prediction import Prediction
from rlseg.shapes import expect
from rlseg.train.runtime import Runtime
from rlseg.train.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ("a", "b")


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int = 20
    start: float = 0.0
    inner: Inner = field(default_factory=Inner)
    bits: int | Literal["auto"] = "auto"
    fail: Literal["no", "crash", "diverge"] = "no"

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"steps must not be negative, got {self.steps}")


PRESETS: Mapping[str, Mapping[str, object]] = {
    "fast": {"steps": 4, "inner.rate": 1.0},
    "slow": {"steps": 40, "inner": {"rate": 0.01}},
}


def resolve(config: Config, data: Splits) -> Config:
    if config.bits != "auto":
        return config
    most = max(int(data.split("train")[i].labels.max()) for i in range(len(data.split("train"))))
    return replace(config, bits=most)


class Stream:
    def __init__(self, samples: Any) -> None:
        self.samples, self.position = samples, 0

    def __next__(self) -> InstanceSample:
        sample: InstanceSample = self.samples[self.position % len(self.samples)]
        self.position += 1
        return sample

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class Learner:
    def __init__(self, config: Config, channels: int, runtime: Runtime) -> None:
        self.config, self.channels, self.runtime = config, channels, runtime
        self.threshold = nn.Parameter(torch.tensor(config.start))
        self.optimizer = torch.optim.SGD([self.threshold], lr=config.inner.rate)

    def step(self, item: InstanceSample) -> Mapping[str, float | Tensor]:
        if self.config.fail == "crash":
            raise LookupError("made to crash")
        loss = 0.5 * (self.threshold - item.image.mean()) ** 2
        if self.config.fail == "diverge":
            loss = loss / 0
        self.runtime.update(loss, self.optimizer)
        return {"loss/threshold": loss.detach(), "reward/split": float(self.threshold.detach())}

    def evaluate(self, items: Iterable[InstanceSample]) -> Mapping[str, float]:
        predictor = ThresholdPredictor(self.threshold.detach(), self.channels)
        scores = []
        for item in items:
            found = predictor(item.image[None]).labels[0] > 0
            true = item.labels > 0
            scores.append(float(2 * (found & true).sum() / max(1, int(found.sum() + true.sum()))))
        return {"dice": sum(scores) / len(scores)}

    def state_dict(self) -> dict[str, Any]:
        return {"threshold": self.threshold.detach(), "channels": self.channels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.threshold.copy_(state["threshold"])


class ThresholdPredictor:
    task: Literal["instance"] = "instance"
    ndim = 2
    stride = 1
    size = (32, 32)

    def __init__(self, threshold: Tensor, channels: int, bits: int = 3) -> None:
        self.threshold, self.in_channels, self.bits = threshold, channels, bits

    def __call__(self, image: Tensor, *, trace: bool = False) -> Prediction:
        expect(f"B {self.in_channels} H W", image=image)
        found = [
            ndimage.label(plane.mean(dim=0).numpy() > float(self.threshold))[0] for plane in image
        ]
        labels = torch.from_numpy(np.stack(found)).long()
        bits = torch.stack([(labels >> t) & 1 for t in range(self.bits)], dim=1).to(torch.uint8)
        return Prediction(labels=labels, trace={"bits": bits, "colors": labels} if trace else {})


def stages(config: Config, data: Splits, runtime: Runtime) -> Iterator[Stage[InstanceSample]]:
    train, valid = data.split("train"), data.split("valid")
    yield Stage(
        name="threshold",
        learner=Learner(config, data.channels, runtime),
        stream=Stream(train),
        steps=config.steps,
        held_out=[valid[i] for i in range(len(valid))],
        evaluate_every=max(1, config.steps // 2),
        monitor="dice",
    )


def load_predictor(config: Config, checkpoint: Any, runtime: Runtime) -> ThresholdPredictor:
    return ThresholdPredictor(checkpoint.state["threshold"], checkpoint.state["channels"])
