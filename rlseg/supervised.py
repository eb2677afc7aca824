"""Supervised boundary network: ColorRL's hints, and the baseline that a user would try first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlseg.data.samples import InstanceBatch
from rlseg.networks.blocks import ConvNormELU
from rlseg.networks.losses import interior_target, masked_binary_cross_entropy
from rlseg.networks.unet import AttentionUNet
from rlseg.rl.schedules import linear
from rlseg.shapes import pad_to_multiple
from rlseg.train.runtime import Runtime


class BoundaryNetwork(nn.Module):
    """Attention U-Net that tells the inside of instances from boundaries and background.

    Args:
        in_channels: image channels.
        features: channels per level.
    """

    def __init__(self, in_channels: int, features: Sequence[int]) -> None:
        super().__init__()
        self.first = ConvNormELU(in_channels, features[0])
        self.body = AttentionUNet(features)
        self.last = nn.Conv2d(features[0], 1, 1)
        self.stride = self.body.stride

    def forward(self, image: Tensor) -> Tensor:
        """Logits float [B, H, W] of "inside an instance" from float [B, C, H, W]."""
        logits: Tensor = self.last(self.body(self.first(image)))
        return logits.squeeze(1)


class BoundaryLearner:
    """Trains a `BoundaryNetwork` by binary cross entropy with a falling learning rate.

    Args:
        in_channels: image channels.
        features: channels per level.
        learning_rate: Adam's step size at the start; falls to 0 over `steps` in a straight line.
        steps: updates of the stage.
        boundary_width: see `interior_target`.
        runtime: device, precision, seeds.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        features: Sequence[int],
        learning_rate: float,
        steps: int,
        boundary_width: int,
        runtime: Runtime,
    ) -> None:
        self.runtime = runtime
        self.rate = learning_rate
        self.total = steps
        self.width = boundary_width
        self.network = BoundaryNetwork(in_channels, features).to(runtime.device)
        runtime.share(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        self.steps = 0

    def step(self, item: InstanceBatch) -> Mapping[str, float | Tensor]:
        """One update."""
        rate = linear(self.steps, start=self.rate, end=0.0, steps=max(self.total, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = item.to(self.runtime.device)
        self.network.train()
        with self.runtime.autocast():
            logits = self.network(batch.image)
        target = interior_target(batch.labels, self.width)
        loss = masked_binary_cross_entropy(logits.float(), target, batch.valid)
        norm = self.runtime.update(loss, self.optimizer)
        self.steps += 1
        return {
            "train/loss": loss.detach(),
            "train/gradient_norm": norm,
            "train/learning_rate": rate,
        }

    def evaluate(self, items: Iterable[InstanceBatch]) -> Mapping[str, float]:
        """Mean cross entropy per valid pixel of whole images, negated so that higher is better."""
        self.network.eval()
        batches, pixels, total = 0, 0, 0.0
        for item in items:
            batch = item.to(self.runtime.device)
            height, width = batch.labels.shape[1:]
            image = pad_to_multiple(batch.image, self.network.stride)
            with torch.no_grad(), self.runtime.autocast():
                logits = self.network(image)[:, :height, :width]
            target = interior_target(batch.labels, self.width)
            loss = masked_binary_cross_entropy(logits.float(), target, batch.valid)
            known = int(batch.valid.sum())
            total += float(loss) * known
            batches, pixels = batches + 1, pixels + known
        return {"eval/log_likelihood": -total / max(pixels, 1)} if batches else {}

    def state_dict(self) -> dict[str, Any]:
        """Network, optimizer and step count."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = int(state["steps"])
