"""The environment from the registry, in a process that has neither the log nor what the plant was simulated with."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import mlflow
import pytest
import torch
from mlflow import MlflowClient
from registry_toys import LINEAGE, Line, crown, environment, home, log, simulator, spec

from mbrl.files import CorruptFileError
from mbrl.registry import models, store
from mbrl.registry.runs import RunLog

__all__ = ["home", "log"]

STARTS = torch.tensor([[10.0, -5.0, 0.0], [9.0, -4.0, 0.5]])
ALONE = """
import sys
for name in ("mujoco", "minari", "h5py"):
    sys.modules[name] = None  # an import of it fails
import gymnasium as gym
import numpy as np

env = gym.make("mbrl:mbrl/Simulator-v0", simulator="models:/toy-simulator@champion")
first, _ = env.reset(seed=0)
obs, reward, terminated, truncated, info = env.step(np.array([0.0, 1.0], np.float32))
assert first.tolist() in [[10.0, -5.0, 0.0], [9.0, -4.0, 0.5]], first
assert info == {"uncertainty": 0.5}, info
envs = gym.make_vec("mbrl:mbrl/Simulator-v0", num_envs=3, simulator="models:/toy-simulator/1", uncertainty=False)
envs.reset(seed=0)
assert envs.step(np.zeros((3, 2), np.float32))[0].shape == (3, 3)
print(sorted(name for name in ("lightning", "matplotlib") if name in sys.modules))
"""


@pytest.fixture
def champion(log: RunLog) -> None:
    """Version 1 of toy-simulator, which the champion of toy-policy was rehearsed in."""
    models.log_simulator(log, simulator(starts=STARTS), "toy", LINEAGE)
    lineage = replace(LINEAGE, simulator="toy-simulator/1")
    crown("toy", models.log_policy(log, Line(spec()), "toy", lineage))


@pytest.mark.usefixtures("champion")
def test_it_needs_neither_the_log_nor_the_plant(tmp_path: Path) -> None:
    env = environment(MINARI_DATASETS_PATH=str(tmp_path / "nowhere"))
    done = subprocess.run([sys.executable, "-c", ALONE], check=False, capture_output=True, text=True, env=env)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


@pytest.mark.usefixtures("champion")
def test_an_altered_artefact_is_refused() -> None:
    source = MlflowClient(store.connect()).get_model_version("toy-simulator", "1").source
    folder = mlflow.get_logged_model(source.removeprefix("models:/")).artifact_location.removeprefix("file://")
    path = Path(folder) / "artifacts" / "simulator.ckpt"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"toy-simulator@champion: .*simulator\.ckpt is truncated or altered"):
        gym.make("mbrl:mbrl/Simulator-v0", simulator="models:/toy-simulator@champion")


@pytest.mark.usefixtures("home")
def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(store.StoreError, match="'no-simulator' in sqlite:"):
        gym.make("mbrl:mbrl/Simulator-v0", simulator="models:/no-simulator@champion")
    with pytest.raises(ValueError, match="'models:/no-simulator' is not a model URI"):
        gym.make("mbrl:mbrl/Simulator-v0", simulator="models:/no-simulator")
