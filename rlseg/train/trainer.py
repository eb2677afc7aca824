"""The trainer: drives the stages of any method, and keeps the run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlseg.errors import ConfigError
from rlseg.train import run_folder as folders
from rlseg.train.checkpoint import stage_stores
from rlseg.train.progress import RunProgress
from rlseg.train.runlog import RunLog
from rlseg.train.runtime import Runtime
from rlseg.train.signals import Interrupted, SignalGuard
from rlseg.train.stage import Stage
from rlseg.train.stage_run import Ending, Session, StageRun

CHECKPOINT_SECONDS = 60.0
"""Default time between two saves; every evaluation saves as well."""
LOG_EVERY = 10
"""Default steps between two lines of the log."""
RESUME_HINT = "--resume goes on from there"
"""Default advice after an interruption."""
EXIT_CODES: Mapping[Ending, int] = {"finished": 0, "stopped": 0, "interrupted": 130}


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a call of the trainer ended."""

    status: Ending
    """"finished", "stopped" by steps or minutes, or "interrupted" by a signal."""
    stage: str
    """Last stage that was worked on; empty if there was none."""
    step: int
    """Its last finished step."""
    total_steps: int
    """Steps of the whole run, all stages and earlier calls included."""
    new_steps: int
    """Those of this call."""
    seconds: float
    """Wall-clock seconds of the whole run."""
    scores: Mapping[str, float]
    """Of the last evaluation in this call; NaN = undefined."""

    @property
    def exit_code(self) -> int:
        """Of the command line: 0, or 130 after a signal."""
        return EXIT_CODES[self.status]


class Trainer:
    """Runs the stages of a method in a run folder; knows nothing of segmentation.

    Args:
        run_folder: made where it is missing.
        runtime: of this process.
        method: name of the method, kept in every checkpoint.
        config: the resolved configuration as plain values; goes to config.json and checkpoints.
        data_digest: of the data; a run is only resumed on the same.
        log_every: steps between two lines of scalars.jsonl.
        checkpoint_seconds: time between two saves.
        quiet: no progress, no notes.
        tensorboard: also write event files where TensorBoard is installed.
        progress: display to use instead of the default one.
        resume_hint: what the user reads after an interruption.
    """

    def __init__(
        self,
        run_folder: Path,
        runtime: Runtime,
        *,
        method: str,
        config: Mapping[str, Any],
        data_digest: str,
        log_every: int = LOG_EVERY,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        quiet: bool = False,
        tensorboard: bool = True,
        progress: RunProgress | None = None,
        resume_hint: str = RESUME_HINT,
    ) -> None:
        if log_every < 1:
            raise ConfigError(f"log_every must be at least 1 step, got {log_every}")
        if checkpoint_seconds < 0:
            raise ConfigError(f"checkpoint_seconds must not be negative, got {checkpoint_seconds}")
        self.folder = run_folder.absolute()
        self.runtime = runtime
        self.method = method
        self.config = dict(config)
        self.record = {
            **self.config,
            "method": method,
            "data_digest": data_digest,
            "runtime": {
                "seed": runtime.seed,
                "precision": runtime.precision,
                "device": runtime.device.type,
                "ranks": runtime.world_size,
            },
        }
        self._log_every, self._checkpoint_seconds = log_every, checkpoint_seconds
        self._tensorboard = tensorboard
        self._resume_hint = resume_hint
        self._recorded = False  # config.json and environment.json are those of this call
        self._progress = progress or RunProgress(quiet=quiet or runtime.rank > 0)

    def run(
        self,
        make_stages: Callable[[], Iterator[Stage[Any]]],
        *,
        steps: int | None = None,
        minutes: float | None = None,
        resume: bool = False,
        allow_change: Sequence[str] = (),
    ) -> TrainResult:
        """Runs what is left of the stages.

        Args:
            make_stages: starts the method's generator of stages.
            steps: stop after so many steps of the whole run, earlier calls included.
            minutes: likewise in minutes.
            resume: go on with the run that the folder holds.
            allow_change: keys of the configuration that may differ from that run's.

        Raises:
            ConfigError: the folder is in use, holds a run that is not to be resumed, or cannot be
                written; or a stage is misdeclared.
            CheckpointError: nothing to resume, damaged, of other settings; or it cannot be saved.
            DivergenceError: a number was not finite; the last good checkpoint is kept.
            WorkerError: a worker process failed.
        """
        if steps is not None and steps < 0:
            raise ConfigError(f"steps must not be negative, got {steps}")
        if minutes is not None and not minutes > 0:
            raise ConfigError(f"minutes must be above 0, got {minutes}")
        with ExitStack() as stack:
            self._open_folder(stack, resume, allow_change)
            stack.callback(self._progress.close)
            writes = self._tensorboard and self.runtime.rank == 0
            log = RunLog(self.folder, tensorboard=writes)
            stack.callback(log.close)
            session = Session(
                folder=self.folder,
                runtime=self.runtime,
                method=self.method,
                config=self.config,
                log=log,
                progress=self._progress,
                guard=stack.enter_context(SignalGuard()),
                log_every=self._log_every,
                checkpoint_seconds=self._checkpoint_seconds,
                max_steps=steps,
                max_seconds=None if minutes is None else 60.0 * minutes,
                allow_device="device" in allow_change or "runtime.device" in allow_change,
                resume_hint=self._resume_hint,
            )
            return self._run_stages(make_stages(), session, resume)

    def _open_folder(self, stack: ExitStack, resume: bool, allow_change: Sequence[str]) -> None:
        self._recorded = False
        if self.runtime.rank > 0:
            return  # rank 0 alone writes
        if resume:
            folders.check_recorded(self.folder)  # before a folder is made
        made_here = not self.folder.exists()
        folders.prepare(self.folder)
        stack.enter_context(folders.lock(self.folder, self._progress.note))
        if made_here:
            stack.enter_context(folders.removed_if_refused(self.folder))
        if resume:
            folders.check_same(self.folder, self.record, allow_change)
        else:
            folders.check_unused(self.folder)
            self._write_records()

    def _write_records(self) -> None:
        if self._recorded or self.runtime.rank > 0:
            return
        folders.write_record(self.folder, folders.CONFIG, self.record)
        environment = folders.describe_environment(self.runtime.device)
        folders.write_record(self.folder, folders.ENVIRONMENT, environment)
        self._recorded = True

    def _run_stages(
        self, stages: Iterator[Stage[Any]], session: Session, resume: bool
    ) -> TrainResult:
        names: set[str] = set()
        run: StageRun | None = None
        partial = new = 0  # steps of a stage that did not finish; steps of this call
        ending: Ending = "finished"
        for index in range(10**6):
            if session.spent(0):
                ending = "stopped"
                break
            self.runtime.seed_everything("stage", index, "rank", self.runtime.rank)
            try:
                with session.guard.immediate():
                    stage = next(stages, None)
            except Interrupted:
                ending = "interrupted"
                break
            if stage is None:
                self._write_records()
                break
            if stage.name in names:
                raise ConfigError(f"two stages are named {stage.name!r}; names must differ")
            names.add(stage.name)
            run = StageRun(stage, index, session)
            resume = self._begin(run, resume)
            new -= run.step
            ending = "finished" if run.finished else run.train()
            new += run.step
            if ending != "finished":
                partial = run.step
                break
            run.load_chosen()
            session.steps_before += run.step
        return TrainResult(
            status=ending,
            stage="" if run is None else run.stage.name,
            step=0 if run is None else run.step,
            total_steps=session.steps_before + partial,
            new_steps=new,
            seconds=session.seconds,
            scores=session.scores,
        )

    def _begin(self, run: StageRun, resume: bool) -> bool:
        """Restores or starts a stage; whether a later one may be restored, too.

        When resuming, what the folder says about the run is replaced only once everything that
        is to be restored has been: a refused resume leaves the run as it was.
        """
        (found,) = self.runtime.any(self.runtime.rank == 0 and resume and run.store.exists())
        if not found:
            self._write_records()
            run.start()
            return False
        last = not any(other.index() > run.index for other in stage_stores(self.folder))
        run.restore(last=last)
        if not run.finished:
            self._write_records()
        return run.finished
