"""A run with `data.history`, of Discrete actions and terminals, from the log to the policy in use."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import mlflow
import numpy as np
import pyarrow.parquet
import pytest
import torch
from mlflow import MlflowClient
from pipeline_toys import dots, small, spoken

from mbrl import environments, playing
from mbrl.__main__ import config_file
from mbrl.data import minari
from mbrl.data.history import windowed
from mbrl.registry import models, store
from mbrl.simulator.envs import SimulatorEnv
from mbrl.simulator.wrappers import HistoryWindow
from mbrl.window import Window

CARTPOLE = ["run", "--config", str(config_file("debug.yaml")), "--data.id", "toy/cartpole-v0", "--name", "toy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("history")


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBRL_HOME", str(folder / "home"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "datasets"))
    small(monkeypatch)


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[dict[str, Any], str]:
    """A run with windows of three and a final measurement: its answer, and what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MBRL_HOME", str(folder / "home"))
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "datasets"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        small(patch)
        dots(patch)
        torch.set_num_threads(1)
        played = playing.record("CartPole-v1", lambda obs, rng: rng.integers(2), 16, seed=0)
        minari.write("toy/cartpole-v0", played, *environments.spaces("CartPole-v1"), env_id="CartPole-v1")
        run = [*CARTPOLE, "--data.history", "3", "--env", "CartPole-v1", "--folder", str(folder / "run")]
        status, answer, told = spoken(run)
    assert status == 0, answer
    return answer, told


def test_the_run_says_what_it_learned_from(whole: tuple[dict[str, Any], str]) -> None:
    answer, told = whole
    plain = minari.load("toy/cartpole-v0")
    data = windowed(plain, 3)
    assert answer["data"] == {
        "id": data.id, "fingerprint": data.fingerprint, "rows": len(plain), "episodes": 16, "history": 3,
    }  # fmt: skip
    assert "windows of 3 observations" in told
    client = MlflowClient(store.connect())
    for kind in ("simulator", "policy"):
        tags = client.get_model_version(f"toy-{kind}", "1").tags
        assert (tags["mbrl.data_fingerprint"], tags["mbrl.data_history"]) == (data.fingerprint, "3")
        spec = getattr(models, f"load_{kind}")(f"models:/toy-{kind}/1").spec
        assert (spec.history, spec.obs_dim, spec.frame_dim, spec.predicted) == (3, 3 * 4 + 2 * 2, 4, (0, 1, 2, 3))
    starts = models.load_simulator("models:/toy-simulator/1").starts
    assert starts is not None
    assert torch.equal(starts[:, 4:8], starts[:, :4])
    assert not starts[:, 12:].any()


def test_the_audit_is_of_the_plain_log_and_the_pictures_of_the_newest_observation(
    whole: tuple[dict[str, Any], str], folder: Path, tmp_path: Path
) -> None:
    client, parent = MlflowClient(store.connect()), whole[0]["run_id"]
    experiment = client.get_run(parent).info.experiment_id
    stages = {r.info.run_name: r.info.run_id for r in client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{parent}'"
    )}  # fmt: skip
    found = json.loads(Path(client.download_artifacts(stages["audit"], "audit.json", str(tmp_path))).read_text())
    assert found["data"]["fingerprint"] == minari.load("toy/cartpole-v0").fingerprint
    card = json.loads((folder / "run" / "card.json").read_text())
    assert card["channels"] == [*(f"observation {k}" for k in range(4)), "reward"]
    assert (card["about"]["history"], card["data"]["fingerprint"]) == (3, whole[0]["data"]["fingerprint"])
    table = pyarrow.parquet.read_table(client.download_artifacts(stages["evidence"], "rollouts.parquet", str(tmp_path)))
    assert {len(row) for name in ("obs", "next_obs") for row in table[name].to_pylist()} == {4}


@pytest.mark.usefixtures("whole")
def test_the_card_is_made_again_on_the_same_windows(folder: Path) -> None:
    status, again, _ = spoken(["card", "toy"])
    again.pop("page")
    assert (status, again) == (0, json.loads((folder / "run" / "card.json").read_text()))


def test_the_registered_policy_plays_the_plant_as_it_was_measured(whole: tuple[dict[str, Any], str]) -> None:
    status, measured, _ = spoken(
        ["evaluate", "--policy", "models:/toy-policy/1", "--env", "CartPole-v1", "--episodes", "3", "--seed", "1000"]
    )
    assert status == 0
    assert np.mean(measured["returns"][:2]) == pytest.approx(whole[0]["true_environment"]["candidate"]["value"])
    served, env, returns = mlflow.pyfunc.load_model("models:/toy-policy/1"), gym.make("CartPole-v1"), []
    for episode in range(3):
        obs, _ = env.reset(seed=1000 + episode)
        total, over, first = 0.0, False, True
        while not over:
            (action,) = served.predict(obs[None].astype(np.float32), params={"reset": [first]})
            obs, reward, terminated, truncated, _ = env.step(int(action))
            total, over, first = total + float(reward), terminated or truncated, False
        returns.append(total)
    assert returns == measured["returns"]


@pytest.mark.usefixtures("whole")
def test_the_environment_is_played_with_and_without_the_window() -> None:
    simulator = models.load_simulator("models:/toy-simulator/1")
    policy, served = models.load_policy("models:/toy-policy/1"), mlflow.pyfunc.load_model("models:/toy-policy/1")
    env = SimulatorEnv("models:/toy-simulator/1", horizon=9)
    assert env.observation_space.shape == (4,)
    shown = HistoryWindow(SimulatorEnv(simulator, horizon=9), 3)
    (plain, _), (window, _) = env.reset(seed=5), shown.reset(seed=5)
    for step in range(9):
        np.testing.assert_array_equal(window[:4], plain)
        (action,) = served.predict(plain[None], params={"stream": ["it"], "reset": [step == 0]})
        assert action == int(policy(torch.from_numpy(window[None])))
        plain, _, over, *_ = env.step(int(action))
        window, *_ = shown.step(int(action))
        if over:
            break
    assert shown.observation_space.shape == (Window.of(policy.spec).width,)


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (["--data.history", "2", "--env", "CartPole-v1"], ["data.history was 3, is 2", "other settings"]),
        (["--data.history", "400"], ["data.history is 400, and the longest episode of ", "set data.history to "]),
    ],
)
def test_another_history_and_one_that_is_too_long_are_refused(
    change: list[str], parts: list[str], folder: Path
) -> None:
    status, answer, _ = spoken([*CARTPOLE, *change, "--folder", str(folder / "run")])
    assert status == 1
    assert all(part in answer["error"] for part in parts), answer


def test_auto_looks_back_as_far_as_the_log_asks_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dots(monkeypatch, served=False)
    played = playing.record("CartPole-v1", lambda obs, rng: rng.integers(2), 60, seed=0)
    sighted = [0, 2]  # place and angle, without their speeds
    blind = (episode._replace(observations=episode.observations[:, sighted]) for episode in played)
    _, actions = environments.spaces("CartPole-v1")
    minari.write("toy/blind-v0", blind, gym.spaces.Box(-5, 5, (2,), np.float32), actions)
    run = ["run", "--config", str(config_file("debug.yaml")), "--data.id", "toy/blind-v0", "--name", "blind"]
    status, answer, told = spoken([*run, "--data.history", "auto", "--folder", str(folder / "blind")])
    assert status == 0, answer
    assert answer["data"]["history"] == 2
    assert "windows of 2 observations, as the log asks for" in told
    assert "hidden state" not in told
    status, answer, _ = spoken([*run, "--data.history", "some", "--folder", str(folder / "other")])
    assert status == 2
    assert all(part in answer["error"] for part in ("data.history", "some", "auto")), answer
