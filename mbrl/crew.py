"""Stages of one run at the same time, each in a process of its own that leaves what it makes in the run's folder."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, final

import torch

from mbrl.allocator import keep_freed_memory, uncollected
from mbrl.engines import RUN_BYTES
from mbrl.following import PATIENCE, follow
from mbrl.report.console import tell
from mbrl.runfolder import RunFolder
from mbrl.training.room import check_room, free

STAGE = (sys.executable, "-m", "mbrl.crew")


@final
class Crew:
    """Processes that make stages of a run, `workers` at once; a context manager that leaves none of them behind.

    The cores are divided among them, and the one that waits takes no more than its share either: threads that wait for
    each other on cores that others have are slower than one.

    A process that fails leaves its stage to the one that waits for it, which goes on from what it left, and tells what
    went wrong.

    Args:
        folder: of the run, with its `config.yaml`.
        workers: processes at once, beside the one that waits, which imitates the log meanwhile; with 1 there are none,
            and every stage is left to the one that waits.

    Raises:
        ValueError: the machine has no memory for so many.
    """

    def __init__(self, folder: RunFolder, workers: int) -> None:
        if workers > 1:
            check_room("workers", workers, RUN_BYTES, torch.device("cpu"), "a process")
        self._folder, self._workers = folder, workers
        self._before = torch.get_num_threads()
        self._threads = max(1, self._before // workers)
        self._pool = ThreadPoolExecutor(workers)
        self._tasks: dict[str, Future[None]] = {}
        self._going: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    @staticmethod
    def room() -> int:
        """As many processes as there are cores for, and memory, and at least 1."""
        return max(1, min(torch.get_num_threads(), int(min(free(torch.device("cpu")) // RUN_BYTES, 1e6))))

    def begin(self, *stages: str) -> None:
        """Make the stages, those that are not made yet, as soon as processes are free."""
        for stage in stages:
            self._folder.join(stage)  # in case it was made when the run was stopped
            if self._workers > 1 and f"{stage}_seconds" not in self._folder.facts:
                self._tasks[stage] = self._pool.submit(self._make, stage)

    def wait(self, stage: str) -> None:
        """Until the stage is made, if it was begun at all."""
        if stage in self._tasks:
            self._tasks.pop(stage).result()
            self._folder.join(stage)

    def _make(self, stage: str) -> None:
        try:
            process = self._launch(stage)
        except OSError as error:
            tell(stage, f"no process of its own ({error}): the run goes on with it here")
            return
        if process is None:
            return
        with process:
            for line in process.stdout or ():
                if not self._stopped:  # then it says how it was interrupted
                    print(line, end="", flush=True)
            if (status := process.wait()) and not self._stopped:
                tell(stage, f"its own process ended with status {status}: the run goes on with it here")
            self._going.discard(process)

    def _launch(self, stage: str) -> subprocess.Popen[str] | None:
        """Its process; None where the run has stopped. Those that a run has begun are all known when it stops."""
        environ = os.environ | {"OMP_NUM_THREADS": str(self._threads), "PYTHONUNBUFFERED": "1"}
        with self._lock:
            if self._stopped:
                return None
            process = subprocess.Popen(
                [*STAGE, str(self._folder.path), stage],
                env=environ,
                text=True,
                errors="replace",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it once, from here
            )
            self._going.add(process)
            return process

    def __enter__(self) -> Self:
        torch.set_num_threads(self._threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        with self._lock:
            self._stopped = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in tuple(self._going):
            with contextlib.suppress(OSError, ValueError):
                process.send_signal(signal.SIGINT)
        for process in tuple(self._going):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()
        self._pool.shutdown()
        torch.set_num_threads(self._before)


def main(arguments: Sequence[str]) -> int:
    """Make one stage of the run in a folder, as a process of its own: 0, 1 for what failed, 130 where it was stopped.

    It stops, as by Ctrl-C, when the process that began it is gone.
    """
    folder, stage = arguments
    try:
        follow()
        return _make(folder, stage)
    except KeyboardInterrupt:
        return 130


def _make(folder: str, stage: str) -> int:
    keep_freed_memory()
    with uncollected(freeze=True):
        from mbrl import parsing, stages

    try:
        options = ["--config", str(Path(folder) / "config.yaml")]
        parser = parsing.parser(stages.run, "run", None, options)
        values = parser.instantiate(parser.parse_args(options)).as_dict()
        values.pop("config", None)
        stages.run(**values, only=stage)
    except (argparse.ArgumentError, *stages.MENDABLE) as error:
        tell(stage, f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
