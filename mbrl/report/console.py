"""The lines that a run prints on stdout."""

from __future__ import annotations

import time
from collections.abc import Callable

SELDOM = 30.0  # seconds between two lines about the same long work


def tell(what: str, text: str) -> None:
    """Print `text` beside a word for what it is about."""
    print(f"{what:<18} {text}", flush=True)


def seldom() -> Callable[[str, str], None]:
    """`tell`, for lines that say how far a work is: they are printed when the last one is long ago."""
    last = time.monotonic()

    def told(what: str, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= SELDOM:
            tell(what, text)
            last = time.monotonic()

    return told
