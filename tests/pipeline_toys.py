"""What the tests of whole runs share: toy commands, and how to run them."""

import contextlib
import io
import json
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
from mbrl.data import refit
from mbrl.registry import store
from mbrl.report import audit_page, style
from mbrl.report import card as report_card
from mbrl.serving import export, golden
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
    """A command as the whole of this process, with short episodes, small cards and dots for pictures and programs."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "LOCK_SECONDS", 240.0)  # as others may be busy on the machine
        small(patch)
        dots(patch, served=False)
        return main(arguments)


def small(patch: pytest.MonkeyPatch) -> None:
    """Short episodes, audits as `coarse` ones, and report cards that follow a few particles from a few states."""
    coarse(patch)
    patch.setattr(card, "STARTS", 30)
    patch.setattr(card, "PARTICLES", 20)
    for name in ("Pendulum-v1", "CartPole-v1"):
        patch.setattr(gym.spec(name), "max_episode_steps", STEPS)


def dots(patch: pytest.MonkeyPatch, but: str = "", served: bool = True) -> None:
    """Dots for pictures, except for those of that name, and for programs of simulators: half of a toy run.

    Of policies too where they are not to be `served`, which nobody replays then.
    """
    drawn, exported = style.write, export._export

    def dot(figure: Figure, path: Path) -> None:
        drawn(figure, path) if path.name == but else path.write_bytes(DOT)

    def program(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *rest: Any) -> None:
        exported(module, inputs, path, *rest) if served and path.stem == "policy" else path.write_bytes(DOT)

    patch.setattr(style, "write", dot)
    undrawn(patch)
    patch.setattr(export, "_export", program)
    if not served:
        patch.setattr(golden, "check", lambda *what: None)


def undrawn(patch: pytest.MonkeyPatch) -> None:
    """Pages without their pictures, of which the words are asked."""
    names = ("intervals", "horizon", "followed", "doubt")
    patch.setattr(report_card, "_pictures", lambda card: dict.fromkeys(names, ""))
    patch.setattr(audit_page, "_picture", lambda *what: "")


def coarse(patch: pytest.MonkeyPatch) -> None:
    """Refits on a third of the landmarks and of the epochs: plants as simple as these need no more."""
    patch.setattr(refit, "LANDMARKS", 100)
    patch.setattr(refit, "EPOCHS", 50)


def stages(client: MlflowClient, parent: Run) -> dict[str, Run]:
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    return {run.info.run_name: run for run in client.search_runs([parent.info.experiment_id], query)}
