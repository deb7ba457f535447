"""Every example runs as its first lines say, here on a toy log and for seconds."""

import contextlib
import io
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from pipeline_toys import dots, small

from mbrl import demonstration
from mbrl.__main__ import config_file, main
from mbrl.data import minari
from mbrl.registry import models

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LOG = "toy/pendulum-v0"
QUALITIES = ("random", "poor", "mixed", "good")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log, and with the simulator that a debug run has registered."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        point_at(folder, patch)
        dots(patch)
        small(patch)
        demonstration.log_pendulum(LOG, 8, seed=0)
        assert main(["run", "--config", str(config_file("debug.yaml")), "--data.id", LOG, "--name", "toy"]) == 0
    return folder


def point_at(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("MBRL_HOME", str(folder / "home"))
    patch.setenv("MINARI_DATASETS_PATH", str(folder / "datasets"))
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(autouse=True)
def here(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(state, monkeypatch)


def run(name: str, *options: str) -> str:
    """Run an example in this process, where a warning is an error, as Python runs a script; what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *options])
        small(patch)
        try:
            runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
    return out.getvalue()


def test_a_simulator_is_fitted_and_asked_what_it_knows() -> None:
    lines = run("01_fit_a_simulator.py", "--id", LOG, "--epochs", "2").splitlines()
    assert [line.split(":")[0].split(",")[0] for line in lines] == [
        "hold-out error of each member",
        "one step ahead",
        "median uncertainty",
    ]


def test_a_policy_is_rehearsed_in_a_registered_simulator() -> None:
    told = run("02_rehearse_a_policy.py", "--id", LOG, "--simulator", "models:/toy-simulator/1", "--updates", "20")
    lines = told.splitlines()
    assert lines[0].startswith("20 updates on 12,500 imagined rows")
    assert [line.split(":")[0].strip() for line in [lines[1], *lines[3:]]] == ["mean logged return", "cloning", "SAC"]
    assert lines[2].endswith("flatter it: `mbrl evaluate` asks a second one")


def test_another_librarys_learner_trains_in_a_registered_simulator() -> None:
    settings = ["--simulator", "models:/toy-simulator/1", "--steps", "130", "--episodes", "1", "--env", "Pendulum-v1"]
    lines = run("04_train_with_stable_baselines3.py", *settings).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "mean uncertainty along one episode of 50 steps",
        "mean return of 1 episodes in the simulator",
        "mean return of 1 episodes in Pendulum-v1",
    ]


def test_estimators_are_judged_on_a_ladder_of_policies() -> None:
    small = ["--ages", "10", "20", "--episodes", "2", "--trial.starts", "6", "--estimators", "model,fqe"]
    told = run("05_judge_the_judges.py", "--id", LOG, "--simulator", "models:/toy-simulator/1", *small)
    assert "ladder-policy/3: SAC after 20 updates, penalty 0.5" in told
    assert "ladder-policy/7: the last one, drowned in noise" in told
    table = {line.split()[0]: line.split()[1:] for line in told.splitlines() if line.startswith(("model  ", "fqe  "))}
    assert table["model"][0] == "7"  # policies that it gave a value for
    assert "fqe: no estimate: critics need 4 episodes to hold some out, and have 2" in told


def test_a_learner_of_ones_own_checks_itself() -> None:
    """The one example that is run by a Python of its own."""
    command = [sys.executable, str(ROOT / "examples" / "03_write_your_own_learner.py")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "honours the learner's contract" in done.stdout


def test_a_learner_of_ones_own_is_used_by_its_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "examples" / "03_write_your_own_learner.py", tmp_path / "my_learner.py")
    monkeypatch.syspath_prepend(tmp_path)  # as PYTHONPATH=. does
    dots(monkeypatch)
    small(monkeypatch)
    debug = ["run", "--config", str(config_file("debug.yaml")), "--data.id", LOG, "--name", "own"]
    assert main([*debug, "--learner", "my_learner.WeightedCloning", "--learner.sharpness", "2.0"]) == 0
    (folder,) = (Path(os.environ["MBRL_HOME"]) / "runs").glob("own-*")
    learner = yaml.safe_load((folder / "config.yaml").read_text())["learner"]
    assert learner == {"class_path": "my_learner.WeightedCloning", "init_args": {"sharpness": 2.0, "lr": 0.001}}
    assert models.load_policy("models:/own-policy/1").config["class_path"] == "policies.actors.Deterministic"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_short_and_say_how_they_are_run(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert f"examples/{path.name}" in text or path.stem in text


def test_logs_of_four_qualities_are_written_and_get_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    lines = run("06_logs_of_four_qualities.py", "--episodes", "4", "--namespace", "four").splitlines()
    returns = {line.split(":")[0]: float(line.rsplit(" ", 1)[1]) for line in lines}
    for task in "pendulum", "cartpole":
        random, poor, mixed, good = (returns[f"four/{task}-{quality}-v0"] for quality in QUALITIES)
        assert random < min(poor, mixed) < max(poor, mixed) < good
    assert len(returns) == 8


def test_a_plant_that_answers_late_is_logged_with_its_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.syspath_prepend(ROOT / "examples")  # as PYTHONPATH=examples does
    told = run("late_plant.py", "--episodes", "2")
    assert float(told.removeprefix("plant/pipe-v0: mean return ")) > 500
    spec = minari.load("plant/pipe-v0").spec(torch.arange(2))
    assert spec.predicted == (0, 1, 2)  # the flow, the demand, the newest inflow
    assert (len(spec.carried), spec.sources[24]) == (49, spec.obs_dim)  # the last action is the first of its kind
