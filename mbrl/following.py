"""A process that ends with the one that began it: `python -m mbrl.following COMMAND ...` is `mbrl COMMAND ...`.

Whoever begins it holds the other end of its standard input, and stops it, as by Ctrl-C, by closing that or by dying.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, final

PATIENCE = 30.0  # seconds that it has to write its checkpoint when it is stopped
INTERRUPTED = 130  # exit status of what has heard a Ctrl-C


def follow() -> None:
    """From now on, stop when nobody holds the other end of standard input, which says nothing, any more."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are begun deaf to it
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    while os.read(0, 1):
        pass
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in 1, 2:  # of a pipe the reader is gone, too: a word more would be an error in the middle of an update
        if stat.S_ISFIFO(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)
    if os.getpgrp() == os.getpid():  # with what it has forked
        os.killpg(0, signal.SIGINT)
    else:
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(PATIENCE)
    os._exit(INTERRUPTED)


@final
class Going:
    """Processes that go on, each as long as this one holds the other end of its standard input; see `follow`."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock, self.stopped = threading.Lock(), False

    def run(self, command: Sequence[str], out: IO[str], told: Mapping[str, str], folder: Path | None = None) -> int:
        """Begin one, in this folder if not in ours, and wait: its exit status; that of an interruption where all have
        been stopped before.
        """
        with self._lock:
            if self.stopped:
                return INTERRUPTED
            environ = {**os.environ, **told}
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.PIPE, stdout=out, stderr=out, env=environ, start_new_session=True
            )  # in which a Ctrl-C reaches it once, from here
            self._processes.add(process)
        try:
            return process.wait()
        finally:
            self._processes.discard(process)
            _let_go(process)

    def stop(self) -> None:
        """Have all of them stop, as by Ctrl-C, and let none begin."""
        with self._lock:
            self.stopped = True
        for process in tuple(self._processes):
            _let_go(process)
        for process in tuple(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()


def _let_go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()


if __name__ == "__main__":
    from mbrl.__main__ import main

    follow()
    sys.exit(main())
