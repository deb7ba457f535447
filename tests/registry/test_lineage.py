import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.data.dataset_source_registry import DatasetSourceRegistry
from mlflow.exceptions import MlflowException
from registry_toys import environment

from mbrl.data.dataset import TransitionDataset
from mbrl.data.history import windowed
from mbrl.registry.lineage import Lineage, LoggedData
from mbrl.registry.runs import RunLog
from mbrl.registry.source import MinariSource
from mbrl.registry.store import StoreError


def logged(last_reward=1.0):
    rows = 12_000  # more than the head that MLflow's digest samples
    reward = torch.ones(rows)
    reward[-1] = last_reward
    episode = torch.arange(rows) // 3000
    ends = torch.arange(rows) % 3000 == 2999
    return TransitionDataset.create(
        "toy/line-v0",
        obs=torch.zeros(rows, 3),
        action=torch.zeros(rows, 2),
        reward=reward,
        next_obs=torch.zeros(rows, 3),
        terminated=ends & (episode == 0),
        truncated=ends & (episode > 0),
        episode=episode,
        discrete=False,
        action_low=[-1.0, -1.0],
        action_high=[1.0, 1.0],
    )


def test_the_data_set_is_an_input_of_the_run_with_our_fingerprint(home):
    data = logged()
    with RunLog.open("e", "r") as log:
        log.input(LoggedData(data), "training")
    (entry,) = MlflowClient().get_run(log.run_id).inputs.dataset_inputs
    assert entry.dataset.name == "toy/line-v0"
    assert entry.dataset.digest == data.fingerprint[:36]
    assert entry.dataset.source_type == "minari"
    assert json.loads(entry.dataset.source) == {"uri": "minari://toy/line-v0"}
    assert json.loads(entry.dataset.profile) == {
        "rows": 12_000, "episodes": 4, "terminals": 1, "mean_return": 3000.0, "history": 1,
        "fingerprint": data.fingerprint,
    }  # fmt: skip
    features = json.loads(json.loads(entry.dataset.schema)["mlflow_tensorspec"]["features"])
    assert {f["name"]: (f["tensor-spec"]["dtype"], f["tensor-spec"]["shape"]) for f in features} == {
        "obs": ("float32", [-1, 3]),
        "action": ("float32", [-1, 2]),
        "reward": ("float32", [-1]),
        "next_obs": ("float32", [-1, 3]),
        "terminated": ("bool", [-1]),
        "truncated": ("bool", [-1]),
        "episode": ("int64", [-1]),
    }
    assert [(t.key, t.value) for t in entry.tags] == [("mlflow.data.context", "training")]
    assert MinariSource.from_json(entry.dataset.source).dataset_id == "toy/line-v0"


@pytest.mark.parametrize(
    ("message", "times", "fails"),
    [
        ("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id, datasets.name", 1, False),
        ("duplicate key value violates unique constraint datasets_pkey", 1, False),
        ("UNIQUE constraint failed: datasets.name", 2, True),
        ("disk I/O error", 1, True),
    ],
)
def test_two_runs_may_name_a_new_data_set_at_once(home, monkeypatch, message, times, fails):
    refusals, real = [message] * times, MlflowClient.log_inputs

    def racing(self, *arguments, **named):
        if refusals:
            raise MlflowException(refusals.pop())
        return real(self, *arguments, **named)

    monkeypatch.setattr(MlflowClient, "log_inputs", racing)
    with RunLog.open("e", "r") as log:
        if fails:
            with pytest.raises(StoreError, match=f"could not log the data set.*{re.escape(message[:20])}"):
                log.input(LoggedData(logged()), "training")
        else:
            log.input(LoggedData(logged()), "training")
    assert not refusals
    assert len(MlflowClient().get_run(log.run_id).inputs.dataset_inputs) == (0 if fails else 1)


@pytest.mark.parametrize("first", ["mlflow", "mbrl.registry.lineage"])
def test_where_mbrl_is_installed_mlflow_finds_the_source_and_imports_no_more_of_mbrl(tmp_path, first):
    root = Path(__file__).resolve().parents[2]
    entry = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]["mlflow.dataset_source"]
    installed = tmp_path / "offline_mbrl-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: offline-mbrl\nVersion: 0\n")
    (installed / "entry_points.txt").write_text(f"[mlflow.dataset_source]\nminari = {entry['minari']}\n")
    work = (
        f"import sys, {first}; print(sorted(m for m in sys.modules if m.startswith('mbrl') or m == 'torch'));"
        "from mlflow.data.dataset_source_registry import resolve_dataset_source as find;"
        "print(find('minari://toy/line-v0').to_json())"
    )
    variables = environment(PYTHONPATH=os.pathsep.join([str(tmp_path), str(root)]))
    done = subprocess.run([sys.executable, "-c", work], env=variables, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    imported, source = done.stdout.splitlines()
    assert json.loads(source) == {"uri": "minari://toy/line-v0"}
    if first == "mlflow":  # the entry point imports mbrl, and mbrl announces its environment to Gymnasium
        light = ["mbrl", "mbrl.registry", "mbrl.registry.source", "mbrl.simulator", "mbrl.simulator.registration"]
        assert imported == str(light)


def test_the_digest_covers_the_last_row():
    assert LoggedData(logged()).digest != LoggedData(logged(last_reward=2.0)).digest


def test_windows_are_told_from_the_plain_log():
    plain, windows = logged(), windowed(logged(), 2)
    assert LoggedData(plain).digest != LoggedData(windows).digest
    assert LoggedData(windows).profile == {
        **LoggedData(plain).profile,
        "history": 2,
        "fingerprint": windows.fingerprint,
    }
    tags = Lineage.of(windows, "toy-simulator/3").tags()
    assert tags == {**Lineage.of(plain, "toy-simulator/3").tags(), "mbrl.data_history": "2",
                    "mbrl.data_fingerprint": windows.fingerprint}  # fmt: skip


def test_the_source_knows_its_own_uris_and_no_others():
    registry = DatasetSourceRegistry()
    registry.register(MinariSource)
    source = registry.resolve("minari://mujoco/hopper/medium-v0")
    assert source.dataset_id == "mujoco/hopper/medium-v0"
    assert source.uri == "minari://mujoco/hopper/medium-v0"
    assert MinariSource.from_json(source.to_json()).dataset_id == source.dataset_id
    for other in ("s3://bucket/x", "mujoco/hopper/medium-v0", 7, None):
        assert not MinariSource._can_resolve(other)


def test_the_source_loads_the_data_set_itself(monkeypatch):
    from mbrl.data import minari

    monkeypatch.setattr(minari, "load", lambda id: f"loaded {id}")
    assert MinariSource("toy/line-v0").load() == "loaded toy/line-v0"


@pytest.mark.parametrize(
    ("lineage", "tags"),
    [
        (Lineage("a/b-v0", "f00"), {"mbrl.data_id": "a/b-v0", "mbrl.data_fingerprint": "f00"}),
        (
            Lineage("a/b-v0", "f00", "hopper-simulator/3"),
            {"mbrl.data_id": "a/b-v0", "mbrl.data_fingerprint": "f00", "mbrl.simulator": "hopper-simulator/3"},
        ),
    ],
)
def test_tags_say_where_a_model_comes_from(lineage, tags):
    assert lineage.tags() == tags


def test_tags_say_which_number_goes_where(toy_data):
    data = replace(toy_data(), channels=("level", "speed"), units=("m", ""), action_channels=("valve",))
    found = Lineage.of(data)
    assert (found.observation, found.action) == ("level [m], speed", "valve")
    windows = windowed(data, 2)
    assert Lineage.of(windows).observation == "level [m], speed"  # a served policy is given the newest one
    many = replace(data, channels=("c" * 3000, "d" * 3000))
    assert Lineage.of(many).observation == f"2 channels, {'c' * 3000} [m] to {'d' * 3000}"
