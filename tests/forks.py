"""Processes of tests, forked from one that has imported everything and done nothing.

A Python of its own that imports torch, Lightning and MLflow takes as long as twenty tests.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

import pytest


def forks() -> ForkServerContext:
    """The context of all these processes; what it imports is imported once for all tests of one process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imported"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # it knows no other path
        ensure_running()
    return context


def forked(
    act: Callable[..., Any], *arguments: Any, output: Path = Path(os.devnull), environ: Mapping[str, str] | None = None
) -> multiprocessing.Process:
    """Begin a process, the first of a group, that ends with what `act` returns and prints to a file.

    Args:
        act: a function of a module of these tests; an unexpected error is printed, and the status is 1.
        environ: in the place of this process's environment, of which the server knows what there was when it began.
    """
    if not output.exists():
        output.touch()
    process = forks().Process(target=_apart, args=(act, arguments, dict(environ or os.environ), Path.cwd(), output))
    process.start()
    return process  # type: ignore[return-value]  # the contexts' processes have this one's methods, and another base


def _apart(
    act: Callable[..., Any], arguments: tuple[Any, ...], environ: dict[str, str], cwd: Path, output: Path
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(cwd)
    with output.open("wb", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(act(*arguments))
