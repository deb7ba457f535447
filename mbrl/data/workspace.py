"""A hidden folder in which a data set is made before it is renamed into place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = ".mbrl-import-"  # Minari does not look into folders whose name begins with a dot


def lock(root: Path) -> FileLock:
    """The lock under which folders appear in and vanish from `root`; held for moments only."""
    return FileLock(root / ".mbrl.lock")


@contextmanager
def hidden(root: Path) -> Iterator[Path]:
    """A new folder in `root`, removed at the end with what is still in it.

    It is locked while its process lives, so that the next one can tell, and removes, what a killed one left.
    """
    with lock(root):
        for left in root.glob(f"{_PREFIX}*"):
            with suppress(Timeout), FileLock(left / "lock", timeout=0):
                shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        alive = FileLock(work / "lock")
        alive.acquire()
    try:
        yield work
    finally:
        if work.exists():
            with lock(root):  # or another one would look for its lock while it vanishes
                shutil.rmtree(work, ignore_errors=True)
        alive.release()
