"""Training: the runtime, the seam to the methods, the loop, the trainer and its files."""

from rlseg.train.checkpoint import Checkpoint, load_checkpoint
from rlseg.train.loop import run_loop
from rlseg.train.runtime import Runtime, make_runtime
from rlseg.train.stage import Learner, Stage, StopRule, Stream, Workers
from rlseg.train.trainer import Trainer, TrainResult
from rlseg.train.workers import WorkerContext, WorkerGroup

__all__ = [
    "Checkpoint",
    "Learner",
    "Runtime",
    "Stage",
    "StopRule",
    "Stream",
    "TrainResult",
    "Trainer",
    "WorkerContext",
    "WorkerGroup",
    "Workers",
    "load_checkpoint",
    "make_runtime",
    "run_loop",
]
