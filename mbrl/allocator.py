"""What the C library does with freed memory, and when Python looks for garbage."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's <malloc.h>
KEPT = 512 << 20  # bytes of freed memory that the process keeps
MAPPED = 32 << 20  # larger blocks still go back at once; glibc allows no more


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next allocation; whether it could be told so (other C libraries cannot).

    By default it gives the top of the heap back to the kernel whenever that is free. A training frees its activations
    after every update and asks for the same again, so that the kernel maps and clears the same pages thousands of times
    a second: an eighth of the time of an ensemble's update on a CPU. The setting is the whole process's, and therefore
    the command's to make, not a library's.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have none, Windows no library of this name
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MAPPED)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))


def give_back() -> bool:
    """Give all freed memory back to the kernel, wherever in the heap it is; whether there was any to give.

    With `keep_freed_memory`, work that leaves small results between large temporary ones spreads over the heap:
    thousands of steps of rollouts, of one policy after the other, end in gigabytes that are free and of no use.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    return bool(trim(0))


@contextmanager
def uncollected(freeze: bool = False) -> Iterator[None]:
    """For imports: they make a million objects that stay, and looking through them for garbage, again and again, is a
    quarter of their time, and a second at each full search later.

    `freeze`: after an import all that there is in the process is never looked through again. That is the command's to
    say, not a library's: cycles of whoever else lives there would never be freed.
    """
    before, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if freeze and len(sys.modules) > known:
            gc.freeze()
        if before:
            gc.enable()
