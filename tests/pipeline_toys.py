"""What the tests of whole runs share: toy commands, and how to run them."""

import contextlib
import io
import json
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run
from torch import Tensor, nn

from mbrl.__main__ import config_file, main
from mbrl.registry import store
from mbrl.report import style
from mbrl.serving import export
from mbrl.simulator import card

ROOT = Path(__file__).resolve().parents[1]
DOT = b"\x89PNG\r\n\x1a\n"  # as a picture begins
STEPS = 50  # of an episode, at most
DEBUG = ["run", "--config", str(config_file("debug.yaml")), "--rehearsal.updates", "300"]
PENDULUM = [*DEBUG, "--data.id", "toy/pendulum-v0", "--name", "toy"]


def spoken(arguments: list[str]) -> tuple[int, dict[str, Any], str]:
    """Run a command with --json: (exit status, its one JSON object, everything else that it printed)."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main([*arguments, "--json"])
    return status, json.loads(out.getvalue()), err.getvalue()


def quick(arguments: list[str]) -> int:
    """A command as the whole of this process, with short episodes, small cards and dots for pictures."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "LOCK_SECONDS", 240.0)  # as others may be busy on the machine
        small(patch)
        dots(patch)
        return main(arguments)


def forked(arguments: Sequence[str], environ: Mapping[str, str], output: Path) -> BaseProcess:
    """A command as the whole of a process of its own, forked from one that has imported everything and done nothing.

    All that it prints goes to a file; pictures are dots.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mbrl.pipeline"])
    process = context.Process(target=_apart, args=(list(arguments), dict(environ), output))
    process.start()
    return process


def _apart(arguments: list[str], environ: Mapping[str, str], output: Path) -> None:
    os.environ.clear()
    os.environ.update(environ)
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(quick(arguments))


def small(patch: pytest.MonkeyPatch) -> None:
    """Short episodes, and report cards that follow a few particles from a few states: half the time of a toy run."""
    patch.setattr(card, "STARTS", 30)
    patch.setattr(card, "PARTICLES", 20)
    for name in ("Pendulum-v1", "CartPole-v1"):
        patch.setattr(gym.spec(name), "max_episode_steps", STEPS)


def dots(patch: pytest.MonkeyPatch, but: str = "") -> None:
    """Dots for pictures, except for those of that name, and for programs of simulators: half of a toy run."""
    drawn, exported = style.write, export._export

    def dot(figure: Figure, path: Path) -> None:
        drawn(figure, path) if path.name == but else path.write_bytes(DOT)

    def program(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *rest: Any) -> None:
        exported(module, inputs, path, *rest) if path.stem == "policy" else path.write_bytes(DOT)

    patch.setattr(style, "write", dot)
    patch.setattr(export, "_export", program)


def stages(client: MlflowClient, parent: Run) -> dict[str, Run]:
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    return {run.info.run_name: run for run in client.search_runs([parent.info.experiment_id], query)}
