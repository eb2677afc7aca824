"""Worker processes: spawned (never forked), seeded, supervised, paused and stopped.

Control goes through one small tensor in shared memory, without locks, and one pipe per worker, so
that a worker killed at any moment cannot block the parent or the others.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.process import parent_process
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch import multiprocessing as torch_processes

from rlseg.errors import ConfigError, WorkerError
from rlseg.train.runtime import derive_seed

WORKER_SILENCE_SECONDS = 300.0
"""A worker that gives no sign of life for longer has failed."""
SHUTDOWN_SECONDS = 30.0
"""Time that workers get to stop by themselves before they are killed."""
POLL_SECONDS = 0.002
"""Time between two looks at the shared control words."""
RUN, PAUSE, STOP = 0, 1, 2
RUNNING, PARKED = 0, 1


class Stopped(BaseException):
    """Raised inside a worker when the parent wants it to end; the worker lets it pass."""


class WorkerContext:
    """What a worker's function gets: its number, its random numbers, and the way to the parent."""

    def __init__(
        self,
        index: int,
        count: int,
        seed: int,
        control: Tensor,
        pipe: connection.Connection[Any, Any],
    ) -> None:
        self.index = index
        """0..count-1."""
        self.count = count
        self._seed, self._control, self._pipe = seed, control, pipe

    def generator(self, *name: str | int) -> torch.Generator:
        """A new CPU generator; same seed, worker and name, same numbers."""
        number = derive_seed(self._seed, "worker", self.index, *name)
        return torch.Generator().manual_seed(number)

    def pause_point(self) -> None:
        """Waits here while the parent pauses; call it between updates of anything shared.

        Raises:
            Stopped: the parent wants the worker to end.
        """
        self._beat()
        if int(self._control[0]) == PAUSE:
            self._set_state(PARKED)
            while int(self._control[0]) == PAUSE:
                time.sleep(POLL_SECONDS)
                self._beat()
            self._set_state(RUNNING)
        if int(self._control[0]) == STOP:
            raise Stopped

    def report(self, value: Any) -> None:
        """Sends plain values or CPU tensors to the parent's `receive`."""
        self._beat()
        try:
            self._pipe.send(("report", value))
        except OSError:  # the parent has closed its end: it is on its way out
            raise Stopped from None

    def receive(self) -> Any:
        """The next value from the parent's `send`; a pause point while it waits."""
        while True:
            self.pause_point()
            try:
                if self._pipe.poll(POLL_SECONDS):
                    return self._pipe.recv()
            except (EOFError, OSError):
                raise Stopped from None

    def _beat(self) -> None:
        self._control[1 + 2 * self.index + 1] = time.monotonic()

    def _set_state(self, state: int) -> None:
        self._control[1 + 2 * self.index] = state


class WorkerFunction(Protocol):
    """Module-level function that a worker runs; returning ends it."""

    def __call__(self, context: WorkerContext, /, *args: Any) -> None:
        """Computes until it returns or `context` raises `Stopped`."""


class WorkerGroup:
    """Processes that run one function each; `Stage.workers` takes it as it is.

    Args:
        function: module-level, so that a spawned process can import it.
        args: for the function; modules and tensors in shared memory stay shared.
        count: number of processes.
        seed: their random numbers depend on it and on their index.
        threads: CPU threads of torch in each.
        silence_seconds: longest time without a sign of life.
        shutdown_seconds: time to stop by themselves.
    """

    def __init__(
        self,
        function: WorkerFunction,
        args: tuple[Any, ...] = (),
        *,
        count: int,
        seed: int,
        threads: int = 1,
        silence_seconds: float = WORKER_SILENCE_SECONDS,
        shutdown_seconds: float = SHUTDOWN_SECONDS,
    ) -> None:
        if count < 1:
            raise ConfigError(f"the number of workers must be at least 1, got {count}")
        self.count = count
        self._function, self._args = function, args
        self._seed, self._threads = seed, threads
        self._silence, self._shutdown = silence_seconds, shutdown_seconds
        self._processes: list[Any] = []
        self._pipes: list[connection.Connection[Any, Any]] = []
        self._reports: deque[tuple[int, Any]] = deque()
        # [command, state 0, heartbeat 0, state 1, heartbeat 1, ...]; float64 holds them exactly
        self._control = torch.zeros(1 + 2 * count, dtype=torch.float64)

    def __enter__(self) -> Self:
        """Starts the processes."""
        context = torch_processes.get_context("spawn")
        self._control = torch.zeros(1 + 2 * self.count, dtype=torch.float64)
        self._control.share_memory_()  # type: ignore[no-untyped-call]
        self._control[2::2] = time.monotonic()
        try:
            for index in range(self.count):
                ours, theirs = context.Pipe()
                self._pipes.append(ours)
                process = context.Process(
                    target=_main,
                    args=(
                        self._function,
                        self._args,
                        (index, self.count, self._seed, self._control, theirs),
                        self._threads,
                    ),
                    daemon=True,
                    name=f"rlseg-worker-{index}",
                )
                process.start()
                self._processes.append(process)
                theirs.close()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops the processes; those that do not end in time are killed."""
        self._stop()

    def pause(self) -> None:
        """Returns when every worker waits at a pause point (or has returned).

        Raises:
            WorkerError: one died, raised, or did not get there in time.
        """
        self._control[0] = PAUSE
        while not all(self._parked(index) for index in range(len(self._processes))):
            self._collect()  # a worker whose pipe is full could not get to its pause point
            self.check()
            time.sleep(POLL_SECONDS)

    def resume(self) -> None:
        """Lets the workers go on."""
        # The time of a pause is no silence.
        self._control[2::2] = time.monotonic()
        self._control[0] = RUN

    def send(self, index: int, value: Any) -> None:
        """Gives a value to one worker's `receive`.

        Raises:
            WorkerError: the worker has gone.
        """
        try:
            self._pipes[index].send(value)
        except OSError as error:
            self.check()
            raise WorkerError(f"worker {index} has ended and takes nothing more") from error

    def receive(self) -> tuple[int, Any]:
        """The next report of any worker: its index and the value.

        Raises:
            WorkerError: a worker died, raised, or fell silent; or all have returned.
        """
        while True:
            self._collect()
            if self._reports:
                return self._reports.popleft()
            pairs = zip(self._pipes, self._processes, strict=True)
            running = [pipe for pipe, process in pairs if process.is_alive()]
            self.check()  # after the look at who runs: whoever has ended by then has an exit code
            if running:
                connection.wait(running, timeout=0.1)
                continue
            self._collect()  # what was sent just before the end
            if not self._reports:
                raise WorkerError("all workers have returned, and a report is still awaited")

    def check(self) -> None:
        """Nothing, if no worker has failed.

        Raises:
            WorkerError: with the worker's number and its traceback.
        """
        now = time.monotonic()
        for index, process in enumerate(self._processes):
            code = process.exitcode
            if code not in (None, 0):
                raise WorkerError(self._last_words(index, code))
            silent = now - float(self._control[2 + 2 * index])
            if code is None and silent > self._silence:
                raise WorkerError(
                    f"worker {index} (process {process.pid}) has given no sign of life for "
                    f"{silent:.0f} s; it hangs, or a step takes longer than the limit of "
                    f"{self._silence:.0f} s"
                )

    def _parked(self, index: int) -> bool:
        return int(self._control[1 + 2 * index]) == PARKED or self._processes[index].exitcode == 0

    def _collect(self) -> None:
        """Takes one waiting report of each worker, in turn, so that none is starved."""
        for index, pipe in enumerate(self._pipes):
            try:
                if pipe.poll():
                    self._reports.append((index, self._unpack(index, pipe.recv())))
            except (EOFError, OSError):
                continue  # its process has ended; `check` says how

    def _unpack(self, index: int, message: tuple[str, Any]) -> Any:
        kind, value = message
        if kind == "error":
            raise WorkerError(f"worker {index} failed:\n{value}")
        return value

    def _last_words(self, index: int, code: int) -> str:
        pipe = self._pipes[index]
        try:
            while pipe.poll():
                kind, value = pipe.recv()
                if kind == "error":
                    return f"worker {index} failed:\n{value}"
        except (EOFError, OSError):
            pass  # it died without a word
        cause = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        hint = "; out of memory is the usual cause" if code == -signal.SIGKILL else ""
        return f"worker {index} {cause}{hint}"

    def _stop(self) -> None:
        self._control[0] = STOP
        for pipe in self._pipes:
            pipe.close()  # a worker that waits in `report` or `receive` wakes up
        deadline = time.monotonic() + self._shutdown
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in self._processes:
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._processes.clear()
        self._pipes.clear()
        self._reports.clear()


def _main(
    function: Callable[..., None],
    args: tuple[Any, ...],
    place: tuple[int, int, int, Tensor, connection.Connection[Any, Any]],
    threads: int,
) -> None:
    """Runs in the worker process."""
    index, _, seed, _, pipe = place
    # A signal to the whole terminal reaches the workers too; the parent decides when they end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    torch.manual_seed(derive_seed(seed, "worker", index))
    try:
        function(WorkerContext(*place), *args)
    except Stopped:
        return
    except BaseException:
        try:
            pipe.send(("error", traceback.format_exc()))
        except OSError:
            traceback.print_exc(
                file=sys.stderr
            )  # the parent has gone: the terminal is all there is
        sys.exit(1)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)  # nothing of the tree survives, also after kill -9 of the parent
