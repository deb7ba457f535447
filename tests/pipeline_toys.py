"""What the tests of whole runs share: toy commands, and how to run them."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from mbrl.__main__ import config_file, main

ROOT = Path(__file__).resolve().parents[1]
DEBUG = ["run", "--config", str(config_file("debug.yaml")), "--rehearsal.updates", "300"]
PENDULUM = [*DEBUG, "--data.id", "toy/pendulum-v0", "--name", "toy"]


def spoken(arguments: list[str]) -> tuple[int, dict[str, Any], str]:
    """Run a command with --json: (exit status, its one JSON object, everything else that it printed)."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main([*arguments, "--json"])
    return status, json.loads(out.getvalue()), err.getvalue()


def stages(client: MlflowClient, parent: Run) -> dict[str, Run]:
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    return {run.info.run_name: run for run in client.search_runs([parent.info.experiment_id], query)}
