"""What each of the two processes of test_two_ranks.py runs."""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist

from rlseg.errors import DivergenceError
from rlseg.metrics import InstanceScores, MaskAveragePrecision, SemanticScores
from rlseg.train.runtime import Runtime, make_runtime
from rlseg.train.trainer import Trainer
from tests.train.toy_method import toy_stages


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def batch(step: int, rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(10 * step + rank)
    x = torch.randn(5, 3, generator=generator)
    # Very different counts per rank: a mean of means would be wrong.
    return x, torch.arange(5) < (1 if rank else 4)


def masked_sum(module: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return (module(x).squeeze(1).square() * mask).sum()


def updates(runtime: Runtime, folder: Path) -> None:
    for kind in ("count", "mean"):
        module = network()
        # A parameter that only rank 1 uses, and one that nobody uses.
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        for step in range(3):
            x, mask = batch(step, runtime.rank)
            if kind == "count":
                loss = masked_sum(module, x, mask)
                runtime.update(loss, optimizer, count=mask.sum(), max_norm=1.0)
            else:
                runtime.update(module(x).square().mean(), optimizer)
        torch.save(module.state_dict(), folder / f"{kind}-{runtime.rank}.pt")


def uneven_gradients(runtime: Runtime) -> None:
    """A parameter with a gradient on one rank only gets half of it; one without keeps None."""
    used, unused = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.SGD([used, unused], lr=1.0)
    anchor = nn.Parameter(torch.ones(1))
    loss = (used.sum() if runtime.rank else anchor.sum() * 1.0) + anchor.sum()
    runtime.update(loss, optimizer)
    assert torch.equal(used.detach(), torch.full((2,), 0.5))
    assert unused.grad is None


def divergence(runtime: Runtime, folder: Path) -> None:
    module = network()
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    loss = module(torch.ones(1, 3)).sum() + (float("nan") if runtime.rank else 0.0)
    try:
        runtime.update(loss, optimizer)
    except DivergenceError:
        same = all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
        text = "before the optimizer moved" if same else "too late"
        (folder / f"diverged-{runtime.rank}").write_text(text)


IMAGES = 7


def label_maps(image: int) -> tuple[Tensor, Tensor]:
    """A prediction and its truth, int64 [8, 9]; instances, or classes 0 to 4."""
    generator = torch.Generator().manual_seed(image)
    true = torch.randint(0, 5, (8, 9), generator=generator)
    noise = torch.randint(0, 5, (8, 9), generator=generator)
    return torch.where(torch.rand(8, 9, generator=generator) < 0.7, true, noise), true


def instance_scores(images: list[int], name: bool) -> InstanceScores:
    scores = InstanceScores()
    for image in images:
        scores.update(*label_maps(image), name=f"{image}" if name else "")
    return scores


def semantic_scores(images: list[int]) -> SemanticScores:
    scores = SemanticScores(5)
    for image in images:
        scores.update(*label_maps(image))
    return scores


def mask_scores(images: list[int]) -> MaskAveragePrecision:
    scores = MaskAveragePrecision()
    for image in images:
        pred, true = label_maps(image)
        own, others = pred.unique()[1:], true.unique()[1:]
        confidence = (own * 7 + image) % 3 / 4.0  # many equal ones, also across images
        scores.update_labels(pred, own % 2, confidence, true, others % 2, image=image)
    return scores


def metrics(runtime: Runtime, folder: Path) -> None:
    """Scores of images that are shared out unevenly, joined on each rank."""
    images = [k for k in range(IMAGES) if (k % 3 == 0) == (runtime.rank == 0)]

    def joined(records: object) -> list[dict[str, object]]:
        parts: list[object] = [None, None]
        dist.all_gather_object(parts, records)
        return parts[::-1]  # no order may matter

    found: dict[str, dict[str, float]] = {}
    for key, name in (("named", True), ("unnamed", False)):
        whole = InstanceScores()
        for records in joined(instance_scores(images, name).records()):
            whole.add_records(records)
        found[key] = whole.compute()
    sums = InstanceScores()
    sums.load(runtime.sum(instance_scores(images, True).state()))
    found["sums"] = sums.compute()
    semantic = SemanticScores(5)
    semantic.load(runtime.sum(semantic_scores(images).state()))
    found["semantic"] = semantic.compute()
    masks = MaskAveragePrecision()
    for records in joined(mask_scores(images).records()):
        masks.add_records(records)
    found["masks"] = masks.compute()
    (folder / f"metrics-{runtime.rank}.json").write_text(json.dumps(found))


def runs(runtime: Runtime, folder: Path) -> None:
    def train(name: str, *, steps: int | None = None, resume: bool = False) -> None:
        trainer = Trainer(
            folder / name,
            runtime,
            method="toy",
            config={},
            data_digest="",
            log_every=3,
            quiet=True,
            tensorboard=False,
        )
        trainer.run(lambda: toy_stages(runtime), steps=steps, resume=resume)

    train("whole")
    torch.save(torch.rand(3), folder / f"whole-{runtime.rank}.pt")
    for steps in (4, 5, 12, 17):
        train("cut", steps=steps, resume=steps > 4)
        torch.manual_seed(steps)
    train("cut", resume=True)
    torch.save(torch.rand(3), folder / f"cut-{runtime.rank}.pt")


def main() -> None:
    folder = Path(sys.argv[1])
    runtime = make_runtime("cpu", seed=0)
    assert (runtime.world_size, dist.get_backend()) == (2, "gloo")
    total = runtime.sum(torch.tensor([1, runtime.rank]))
    assert total.tolist() == [2, 1]
    assert runtime.any(runtime.rank == 1, False) == (True, False)
    norm = nn.BatchNorm1d(2)
    with torch.no_grad():
        norm.running_mean += runtime.rank
        norm.weight += runtime.rank
    runtime.share(norm)
    torch.save(norm.state_dict(), folder / f"share-{runtime.rank}.pt")
    updates(runtime, folder)
    uneven_gradients(runtime)
    divergence(runtime, folder)
    metrics(runtime, folder)
    runs(runtime, folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
