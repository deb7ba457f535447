"""Toy logs, and one uninterrupted run on them that many tests look at."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from pipeline_toys import PENDULUM, dots, small, spoken

from mbrl import demonstration, environments, playing
from mbrl.data import minari
from mbrl.registry import store


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Minari data sets: toy/pendulum-v0, and the Discrete toy/cartpole-v0 with true terminals."""
    folder = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        small(patch)
        demonstration.log_pendulum("toy/pendulum-v0", 8, seed=0)
        played = playing.record("CartPole-v1", lambda obs, rng: rng.integers(2), 16, seed=0)
        minari.write("toy/cartpole-v0", played, *environments.spaces("CartPole-v1"), env_id="CartPole-v1")
    return folder


@pytest.fixture(autouse=True)
def here(logs: Path, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """These logs, an empty store, short episodes and small report cards."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(logs))
    (tmp_path / "home").mkdir()
    shutil.copy(template, tmp_path / "home" / "mlflow.db")
    small(monkeypatch)


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dots for pictures and programs, in runs of which something else is asked; those of `whole` are made."""
    dots(monkeypatch, served=False)


@pytest.fixture(scope="session")
def whole(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """One uninterrupted run with a final measurement: its MBRL_HOME, its answer, and what it printed."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MBRL_HOME", str(home))
        patch.setenv("MINARI_DATASETS_PATH", str(logs))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        small(patch)
        torch.set_num_threads(1)
        status, answer, told = spoken([*PENDULUM, "--env", "Pendulum-v1", "--folder", str(home / "here")])
    assert status == 0
    return home, answer, told


@pytest.fixture
def record(whole: tuple[Path, dict[str, Any], str], monkeypatch: pytest.MonkeyPatch) -> tuple[MlflowClient, Run]:
    """A client of the uninterrupted run's store, and its parent run."""
    home, answer, _ = whole
    monkeypatch.setenv("MBRL_HOME", str(home))
    client = MlflowClient(store.connect())
    return client, client.get_run(answer["run_id"])
