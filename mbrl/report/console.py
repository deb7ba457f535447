"""The lines that a run prints on stdout."""

from __future__ import annotations


def tell(what: str, text: str) -> None:
    """Print `text` beside a word for what it is about."""
    print(f"{what:<18} {text}", flush=True)
