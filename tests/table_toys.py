"""Small logs as files and tables, and schemas that say what their columns are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mbrl.data.dataset import TransitionDataset

Log = dict[str, np.ndarray]
Maker = Callable[..., Log]
ID = "toy/log-v0"


def npz(tmp_path: Path, log: Log, **changes: Any) -> Path:
    """The log as a file; a change of None leaves an array out."""
    arrays = {name: values for name, values in {**log, **changes}.items() if values is not None}
    np.savez_compressed(tmp_path / "log.npz", **arrays)
    return tmp_path / "log.npz"


def frame(log: Log, next_obs: bool = True) -> pd.DataFrame:
    """The log as a table with other names, an episode id and a time."""
    ends = (log["done"] + log["truncated"]) > 0
    episode = np.concatenate([[0], np.cumsum(ends)[:-1]])
    columns = {
        "run": [f"run{e}" for e in episode],
        "t": np.arange(len(ends)) * 0.25,
        "angle": log["obs"][:, 0],
        "speed": log["obs"][:, 1],
        "torque": log["action"][:, 0],
        "cost": log["reward"],
        "fell": log["done"] > 0,
    }
    if next_obs:
        columns |= {"angle2": log["next_obs"][:, 0], "speed2": log["next_obs"][:, 1]}
    return pd.DataFrame(columns)


SCHEMA = """
observation: [angle, speed]
action: torque
reward: cost
terminal: fell
episode: run
time: t
"""
NEXT = "next_observation: [angle2, speed2]\n"


def schema(tmp_path: Path, text: str = SCHEMA + NEXT) -> Path:
    (tmp_path / "schema.yaml").write_text(text)
    return tmp_path / "schema.yaml"


def csv(tmp_path: Path, table: pd.DataFrame) -> Path:
    table.to_csv(tmp_path / "log.csv", index=False)
    return tmp_path / "log.csv"


def assert_is(data: TransitionDataset, log: Log) -> None:
    """The data set holds exactly this log."""
    wanted = {"obs": log["obs"], "action": log["action"], "reward": log["reward"], "next_obs": log["next_obs"]}
    for name, values in wanted.items():
        torch.testing.assert_close(data.tensors[name], torch.from_numpy(values).float(), rtol=0, atol=0)
    assert data.terminated.tolist() == (log["done"] > 0).tolist()
    assert data.truncated.tolist() == (log["truncated"] > 0).tolist()


def spoiled(log: Log, name: str, row: int, value: float) -> Log:
    values = log[name].copy()
    values[row] = value
    return {**log, name: values}
