"""A process that ends with the one that began it: `python -m mbrl.following COMMAND ...` is `mbrl COMMAND ...`.

Whoever begins it holds the other end of its standard input, and stops it, as by Ctrl-C, by closing that or by dying.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time

PATIENCE = 30.0  # seconds that it has to write its checkpoint when it is stopped


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
    os._exit(130)


if __name__ == "__main__":
    from mbrl.__main__ import main

    follow()
    sys.exit(main())
