"""Every test has its own home, data sets and working folder, one torch thread and the same global draws."""

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import event
from sqlalchemy.engine import Engine

from mbrl.data.dataset import TransitionDataset

gc.disable()  # while tests are collected, as what they import stays: see mbrl.allocator.uncollected


def pytest_collection_finish() -> None:
    """Look for garbage from now on, but not among what is imported, and seldom: a million objects come later."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


@event.listens_for(Engine, "connect")
def unsynchronised(connection: Any, _: Any) -> None:
    """No store of a test has to outlive a power cut, so nothing waits for the disc."""
    connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBRL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # see `unsynchronised`
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background
    torch.set_num_threads(1)
    torch.manual_seed(0)  # weights that a test makes itself are the same in every run


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick audits."""
    import pipeline_toys

    pipeline_toys.coarse(monkeypatch)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their pictures, in tests of their words."""
    import pipeline_toys

    pipeline_toys.undrawn(monkeypatch)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs. Creating one takes a second, copying it a few milliseconds."""
    from mbrl.registry import store

    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MBRL_HOME", str(folder))
        store.connect()
    return folder / "mlflow.db"


def logged(lengths: tuple[int, ...] = (4, 3, 5), seed: int = 0) -> dict[str, np.ndarray]:
    """A log in the layout that needs no schema: x' = 0.9 x + 0.1 (a, -a), reward -|x'|^2, even episodes terminate."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[object]] = {k: [] for k in ("obs", "action", "next_obs", "reward", "done", "truncated")}
    for number, length in enumerate(lengths):
        x = rng.normal(size=2).astype(np.float32)
        for step in range(length):
            a = rng.uniform(-1, 1, 1).astype(np.float32)
            after = (0.9 * x + 0.1 * np.concatenate([a, -a])).astype(np.float32)
            last = step == length - 1
            values = (x, a, after, -np.float32((after**2).sum()), last and number % 2 == 0, last and number % 2 == 1)
            for column, value in zip(rows.values(), values, strict=True):
                column.append(value)
            x = after
    return {name: np.array(column, np.float32) for name, column in rows.items()}


@pytest.fixture
def toy_log() -> Callable[..., dict[str, np.ndarray]]:
    """`logged`, the maker of small logs as arrays."""
    return logged


@pytest.fixture
def toy_data() -> Callable[..., TransitionDataset]:
    """A maker of small data sets in memory, from the same arguments as `logged`."""

    def make(lengths: tuple[int, ...] = (4, 3, 5), seed: int = 0) -> TransitionDataset:
        log = {name: torch.from_numpy(values) for name, values in logged(lengths, seed).items()}
        return TransitionDataset.create(
            "toy/log-v0",
            obs=log["obs"],
            action=log["action"],
            reward=log["reward"],
            next_obs=log["next_obs"],
            terminated=log["done"].bool(),
            truncated=log["truncated"].bool(),
            episode=torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)),
            discrete=False,
            action_low=[-1.0],
            action_high=[1.0],
        )

    return make
