"""The whole path on toy logs, as a user meets it: what it leaves, how it ends, and how it goes on once stopped."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from mbrl import assessment, demonstration, environments, files, pipeline
from mbrl.__main__ import config_file, main
from mbrl.data import minari
from mbrl.registry import models, store
from mbrl.registry.gates import Verdict

ROOT = Path(__file__).resolve().parents[1]
DEBUG = ["run", "--config", str(config_file("debug.yaml")), "--rehearsal.updates", "300"]
PENDULUM = [*DEBUG, "--data.id", "toy/pendulum-v0", "--name", "toy"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Minari data sets: toy/pendulum-v0, and the Discrete toy/cartpole-v0 with true terminals."""
    folder = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        demonstration.log_pendulum("toy/pendulum-v0", 8, seed=0)
        played = environments.record("CartPole-v1", lambda obs, rng: rng.integers(2), 16, seed=0)
        minari.write("toy/cartpole-v0", played, *environments.spaces("CartPole-v1"), env_id="CartPole-v1")
    return folder


@pytest.fixture(autouse=True)
def here(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(logs))


@pytest.fixture(scope="module")
def whole(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """One uninterrupted run with a final measurement: its MBRL_HOME, its answer, and what it printed."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MBRL_HOME", str(home))
        patch.setenv("MINARI_DATASETS_PATH", str(logs))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        torch.set_num_threads(1)
        status, answer, told = spoken([*PENDULUM, "--env", "Pendulum-v1", "--folder", str(home / "here")])
    assert status == 0
    return home, answer, told


def spoken(arguments: list[str]) -> tuple[int, dict[str, Any], str]:
    """Run a command with --json: (exit status, its one JSON object, everything else that it printed)."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main([*arguments, "--json"])
    return status, json.loads(out.getvalue()), err.getvalue()


@pytest.fixture
def record(whole: tuple[Path, dict[str, Any], str], monkeypatch: pytest.MonkeyPatch) -> tuple[MlflowClient, Run]:
    """A client of the uninterrupted run's store, and its parent run."""
    home, answer, _ = whole
    monkeypatch.setenv("MBRL_HOME", str(home))
    client = MlflowClient(store.connect())
    return client, client.get_run(answer["run_id"])


def stages(client: MlflowClient, parent: Run) -> dict[str, Run]:
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    return {run.info.run_name: run for run in client.search_runs([parent.info.experiment_id], query)}


def test_a_run_answers_with_everything_that_it_found(whole: tuple[Path, dict[str, Any], str]) -> None:
    _, answer, told = whole
    log = minari.load("toy/pendulum-v0")
    data = {"id": log.id, "fingerprint": log.fingerprint, "rows": 1600, "episodes": 8, "history": 1}
    assert answer["data"] == data
    assert answer["logged_return"]["value"] == pytest.approx(float(log.returns().mean()))
    assert set(answer["second_simulator"]) == set(answer["true_environment"]) == {"behaviour cloning", "candidate"}
    assert all(v["low"] <= v["value"] <= v["high"] for v in answer["second_simulator"].values())
    assert (answer["updates"], answer["simulator_version"], answer["policy_version"]) == (300, "1", "1")
    lines = [line.split()[0] for line in told.splitlines() if line.strip()]
    wanted = [
        "log",
        "folder",
        "audit",
        "simulator",
        "card",
        "baseline",
        "policy",
        "judge",
        "logged",
        "behaviour",
        "candidate",
    ]
    told_once = list(dict.fromkeys(line for line in lines if line in wanted))
    assert told_once == wanted
    assert "mbrl ui" in told


def test_its_folder_holds_what_a_later_process_needs(whole: tuple[Path, dict[str, Any], str]) -> None:
    home, answer, told = whole
    folder = home / "here"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    checkpoints = {"simulator.ckpt", "baseline.ckpt", "policy.ckpt", "judge.ckpt"}
    notes = {"config.yaml", "run.json", "result.json", "audit.html", "card.html", "card.json"}
    fits = {"simulator/dynamics.ckpt", "judge/dynamics.ckpt"}
    assert names - {"run.lock"} == notes | checkpoints | fits
    assert f"mbrl run --config {folder / 'config.yaml'}" in told
    assert json.loads((folder / "result.json").read_text()) == answer
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert (kept["folder"], kept["rehearsal"]["updates"], kept["env"]) == (str(folder), 300, "Pendulum-v1")
    assert kept["simulator"]["uncertainty"] == "dynamics.uncertainty.ensemble_std"


def test_mlflow_has_a_parent_run_and_a_child_for_every_stage(record: tuple[MlflowClient, Run]) -> None:
    client, parent = record
    children = stages(client, parent)
    assert set(children) == {"audit", "simulator", "card", "baseline", "policy", "judge", "evidence"}
    assert {run.info.status for run in [parent, *children.values()]} == {"FINISHED"}
    assert parent.data.params["rehearsal.updates"] == "300"
    assert parent.data.params["learner.class_path"] == "policies.SAC"
    assert "mbrl.verdict" in parent.data.tags
    for stage in ("simulator", "judge"):
        assert {"loss", "holdout_error", "holdout_member_0"} <= set(children[stage].data.metrics)
    points = client.get_metric_history(children["policy"].info.run_id, "critic_loss")
    assert [point.step for point in points] == [250]


def test_mlflow_has_the_data_set_with_our_fingerprint(record: tuple[MlflowClient, Run]) -> None:
    (entry,) = record[1].inputs.dataset_inputs
    fingerprint = minari.load("toy/pendulum-v0").fingerprint
    assert (entry.dataset.name, entry.dataset.digest) == ("toy/pendulum-v0", fingerprint[:36])
    assert json.loads(entry.dataset.profile)["fingerprint"] == fingerprint


def test_mlflow_has_the_configuration_the_evidence_and_the_pictures(
    record: tuple[MlflowClient, Run], whole: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    (client, parent), (home, answer, _) = record, whole
    evidence = stages(client, parent)["evidence"].info.run_id
    found = {file.path for file in client.list_artifacts(evidence)}
    assert found == {"evidence.json", "returns.png", "rollouts.parquet", "rollouts.png", "true_environment.json"}
    kept = Path(client.download_artifacts(parent.info.run_id, "config.yaml", str(tmp_path))).read_text()
    assert kept == (home / "here" / "config.yaml").read_text()
    seen = json.loads(Path(client.download_artifacts(evidence, "evidence.json", str(tmp_path))).read_text())
    assert seen["second_simulator"] == answer["second_simulator"]
    assert seen["verdict"]["promote"] == answer["promoted"] == all(rule["passed"] for rule in seen["verdict"]["rules"])
    table = pyarrow.parquet.read_table(client.download_artifacts(evidence, "rollouts.parquet", str(tmp_path)))
    assert {"rollout", "step", "obs", "action", "reward", "next_obs", "terminated"} == set(table.column_names)
    for name in ("returns.png", "rollouts.png"):
        picture = Path(client.download_artifacts(evidence, name, str(tmp_path))).read_bytes()
        assert picture.startswith(b"\x89PNG")


def test_models_are_registered_with_their_lineage(
    record: tuple[MlflowClient, Run], whole: tuple[Path, dict[str, Any], str]
) -> None:
    (client, parent), (_, answer, _) = record, whole
    simulator, policy = (client.get_model_version(f"toy-{kind}", "1") for kind in ("simulator", "policy"))
    source = {"mbrl.data_id": "toy/pendulum-v0", "mbrl.data_fingerprint": answer["data"]["fingerprint"]}
    assert source.items() <= simulator.tags.items()
    assert {**source, "mbrl.simulator": "toy-simulator/1"}.items() <= policy.tags.items()
    assert {simulator.run_id, policy.run_id} == {parent.info.run_id}
    registered = models.load_policy("models:/toy-policy/1").state_dict()
    trained = files.load(Path(answer["folder"]) / "policy.ckpt")["state_dict"]
    assert registered
    for name, value in registered.items():
        kept = next(tensor for key, tensor in trained.items() if key.endswith(name) and tensor.shape == value.shape)
        torch.testing.assert_close(value, kept, rtol=0, atol=0)


def test_a_finished_run_is_told_again_and_not_repeated(
    whole: tuple[Path, dict[str, Any], str], record: tuple[MlflowClient, Run]
) -> None:
    home, answer, _ = whole
    config = ["run", "--config", str(home / "here" / "config.yaml")]
    status, again, told = spoken(config)
    assert (status, again) == (0, answer)
    assert "nothing is repeated" in told
    assert [v.version for v in record[0].search_model_versions("name = 'toy-policy'")] == [1]
    status, refused, _ = spoken([*config, "--seed", "3", "--rehearsal.penalty", "2.0"])
    assert status == 1
    assert "rehearsal.penalty was 1.0, is 2.0; seed was 0, is 3" in refused["error"]


def test_the_card_of_the_run_is_bound_to_the_version(
    record: tuple[MlflowClient, Run], whole: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    (client, parent), (home, answer, _) = record, whole
    stage = stages(client, parent)["card"].info.run_id
    tags = client.get_model_version("toy-simulator", "1").tags
    numbers = json.loads((home / "here" / "card.json").read_text())
    assert tags["mbrl.card"] == f"runs:/{stage}/card.html"
    assert tags["mbrl.trusted_horizon"] == str(numbers["trusted_horizon"]["steps"]) == str(answer["trusted_horizon"])
    assert models.load_simulator("models:/toy-simulator/1").trusted_horizon == answer["trusted_horizon"]
    assert numbers["about"]["simulator"] == "toy-simulator/1"
    for name in ("card.html", "card.json"):
        stored = Path(client.download_artifacts(stage, name, str(tmp_path)))
        assert stored.read_text() == (home / "here" / name).read_text()


def test_card_measures_a_registered_simulator_again_and_on_another_log(
    record: tuple[MlflowClient, Run], whole: tuple[Path, dict[str, Any], str]
) -> None:
    kept = json.loads((whole[0] / "here" / "card.json").read_text())
    status, answer, told = spoken(["card", "toy"])
    assert status == 0
    assert Path(answer.pop("page")).read_text() == (whole[0] / "here" / "card.html").read_text()
    assert answer == kept
    assert kept["verdict"]["sentence"] in told
    demonstration.log_pendulum("toy/other-v0", 2, seed=7)
    status, answer, _ = spoken(["card", "toy", "--version", "1", "--data.id", "toy/other-v0"])
    assert (status, answer["data"]["episodes"], answer["data"]["calibration_episodes"]) == (0, 2, 0)
    assert answer["page"].endswith("toy-simulator-1-on-toy-other-v0.html")
    tags = record[0].get_model_version("toy-simulator", "1").tags
    assert tags["mbrl.card.toy/other-v0"].startswith("runs:/")
    assert tags["mbrl.trusted_horizon"] == str(kept["trusted_horizon"]["steps"])


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (["nobody"], ["nobody-simulator", "registered models: ", "toy-simulator"]),
        (["toy", "--version", "7"], ["versions of toy-simulator: [1]"]),
        (["toy", "--data.id", "toy/cartpole-v0"], ["(4, 2, True)", "(3, 1, False)", "data.id"]),
        (["toy", "--data.id", "toy/none-v0"], ["toy/none-v0"]),
    ],
)
def test_card_says_what_is_wrong(change: list[str], parts: list[str], record: tuple[MlflowClient, Run]) -> None:
    status, answer, _ = spoken(["card", *change])
    assert status == 1
    assert all(part in answer["error"] for part in parts), answer


def test_evaluate_measures_a_registered_policy(
    whole: tuple[Path, dict[str, Any], str], record: tuple[MlflowClient, Run]
) -> None:
    command = ["evaluate", "--policy", "models:/toy-policy/1", "--env", "Pendulum-v1", "--episodes", "2"]
    status, answer, told = spoken(command)
    assert status == 0
    measured = whole[1]["true_environment"]["candidate"]  # the run's own measurement, from the same two starts
    assert {k: answer[k] for k in measured} == pytest.approx(measured)
    assert len(answer["returns"]) == 2
    assert "95% interval of 2 undiscounted returns" in told
    status, answer, _ = spoken([*command[:-1], "1"])
    assert (answer["low"], answer["high"]) == ("-Infinity", "Infinity")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (["--policy", "models:/toy-policy@champ"], ["champ", "versions of toy-policy: [1]"]),
        (["--policy", "models:/nobody-policy/1"], ["nobody-policy", "toy-policy", "toy-simulator"]),
        (["--policy", "toy-policy"], ["'toy-policy' is not a model URI", "models:/NAME-policy@champion"]),
        (["--policy", "models:/toy-simulator/1"], ["is a simulator, expected a policy"]),
        (["--env", "CartPole-v1"], ["observations [4] and 2 discrete actions", "observations [3] and actions [1]"]),
        (["--env", "Pendulum-v9"], ["Pendulum-v9"]),
        (["--episodes", "0"], ["episodes is 0, expected at least 1"]),
        (["--level", "95"], ["level is 95.0, expected a coverage"]),
    ],
)
def test_evaluate_says_what_is_wrong(change: list[str], parts: list[str], record: tuple[MlflowClient, Run]) -> None:
    command = ["evaluate", "--policy", "models:/toy-policy/1", "--env", "Pendulum-v1", "--episodes", "2"]
    status, answer, _ = spoken([*command, *change])
    assert status == 1
    assert all(part in answer["error"] for part in parts), answer


def test_the_alias_moves_at_a_promotion_only_and_the_truth_is_measured_after_the_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            events.append(name)
            return function(*args, **kwargs)

        return call

    verdicts = [Verdict(True, ("it is better",), ()), Verdict(False, ("it is not better",), ())]
    monkeypatch.setattr(assessment, "decide", watched("verdict", lambda evidence: verdicts.pop(0)))
    monkeypatch.setattr(models, "set_champion", watched("alias", models.set_champion))
    monkeypatch.setattr(environments, "true_returns", watched("truth", environments.true_returns))
    status, first, _ = spoken([*PENDULUM, "--env", "Pendulum-v1"])
    assert (status, first["promoted"], first["champion"]) == (0, True, "1")
    assert events == ["verdict", "truth", "truth", "alias"]
    status, second, told = spoken([*PENDULUM, "--seed", "1"])
    assert (status, second["promoted"], second["champion"], second["policy_version"]) == (0, False, "1", "2")
    assert events[4:] == ["verdict"]
    assert second["true_environment"] == {}
    assert "no evidence of improvement" in told
    assert "it is not better" in told
    assert models.champion("toy") == "1"
    client = MlflowClient(store.connect())
    assert client.get_run(second["run_id"]).data.tags["mbrl.reasons"] == "it is not better"


@pytest.mark.usefixtures("record")
def test_the_registered_simulator_carries_the_start_states_that_it_learnt_from(
    whole: tuple[Path, dict[str, Any], str],
) -> None:
    config = yaml.safe_load((whole[0] / "here" / "config.yaml").read_text())
    log = minari.load("toy/pendulum-v0")
    learn = log.split(config["data"]["split"], config["seed"])[0]
    starts = models.load_simulator("models:/toy-simulator/1").starts
    assert starts is not None
    assert sorted(starts.tolist()) == sorted(log.starts[learn].tolist())


def test_a_discrete_log_with_terminals_goes_the_whole_path() -> None:
    status, answer, _ = spoken([*DEBUG, "--data.id", "toy/cartpole-v0", "--env", "CartPole-v1"])
    assert status == 0
    assert answer["name"] == "toy-cartpole"
    log = minari.load("toy/cartpole-v0")
    assert bool(log.terminated.any())
    simulator = models.load_simulator("models:/toy-cartpole-simulator/1")
    assert simulator.termination is None  # so the learned head decides
    rows = log.batch()
    chance = simulator.dynamics.termination(rows.obs, rows.action, rows.next_obs)
    assert bool(((chance > 0) & (chance < 1)).all())
    policy = models.load_policy("models:/toy-cartpole-policy/1")
    assert set(np.unique(policy(rows.obs).numpy())) <= {0, 1}
    assert 1 <= answer["true_environment"]["candidate"]["value"] <= 500


def interrupting(fit: Callable[..., Any], when: int) -> Callable[..., Any]:
    """`fit`, but Ctrl-C is pressed as soon as it logs the metrics of step `when`."""

    def stopped(*args: Any, log: Callable[[dict[str, Any], int], None], **kwargs: Any) -> Any:
        def press(metrics: dict[str, Any], step: int) -> None:
            log(metrics, step)
            if step == when:
                signal.raise_signal(signal.SIGINT)

        return fit(*args, log=press, **kwargs)

    return stopped


def weights(folder: Path, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    state = files.load(folder / name)
    yield from (state["state_dict"] if "state_dict" in state else state["dynamics"]["state_dict"]).items()


def same_weights(one: Path, other: Path) -> bool:
    pairs = [
        (a, b)
        for name in ("policy.ckpt", "simulator.ckpt")
        for a, b in zip(weights(one, name), weights(other, name), strict=True)
    ]
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


@pytest.mark.parametrize(("fit", "when"), [("fit_dynamics", 1), ("fit_policy", 250)])
def test_ctrl_c_is_graceful_and_the_run_goes_on_where_it_was(
    fit: str, when: int, whole: tuple[Path, dict[str, Any], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, fit, interrupting(getattr(pipeline, fit), when))
        status, answer, told = spoken([*PENDULUM, "--folder", str(tmp_path / "run")])
    again = f"mbrl run --config {tmp_path / 'run' / 'config.yaml'}"
    assert status == 130
    assert again in answer["error"]
    assert again in told
    assert "Traceback" not in told
    left = json.loads((tmp_path / "run" / "run.json").read_text())["run_id"]
    client = MlflowClient(store.connect())
    assert client.get_run(left).info.status == "KILLED"
    status, answer, told = spoken(again.split()[1:])
    assert (status, answer["run_id"], answer["simulator_version"]) == (0, left, "1")
    assert "resumed in" in told
    assert client.get_run(left).info.status == "FINISHED"
    assert same_weights(tmp_path / "run", whole[0] / "here")
    assert answer["second_simulator"] == whole[1]["second_simulator"]


def started(arguments: list[str], output: Path) -> subprocess.Popen[bytes]:
    command, env = [sys.executable, "-m", "mbrl", *arguments], {**os.environ, "PYTHONPATH": str(ROOT)}
    with output.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env)


def test_a_killed_run_goes_on_to_the_same_policy(whole: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = started([*PENDULUM, "--folder", str(folder)], tmp_path / "told")
    deadline = time.monotonic() + 200
    while not (folder / "policy.ckpt").exists():
        assert process.poll() is None, (tmp_path / "told").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert files.load(folder / "policy.ckpt")["updates"] < 300
    left = json.loads((folder / "run.json").read_text())["run_id"]
    status, answer, _ = spoken(["run", "--config", str(folder / "config.yaml")])
    assert (status, answer["run_id"], answer["policy_version"]) == (0, left, "1")
    assert same_weights(folder, whole[0] / "here")


def test_two_runs_can_start_at_once_on_an_empty_home(tmp_path: Path) -> None:
    outputs = [tmp_path / "one", tmp_path / "two"]
    processes = [started([*PENDULUM, "--seed", str(k)], output) for k, output in enumerate(outputs)]
    for process, output in zip(processes, outputs, strict=True):
        assert process.wait(timeout=200) == 0, output.read_text()
        assert "Warning" not in output.read_text()
    client = MlflowClient(store.connect())
    assert sorted(v.version for v in client.search_model_versions("name = 'toy-policy'")) == [1, 2]
    experiment = client.get_experiment_by_name("mbrl")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 16  # two parents with seven stages each


def test_a_log_that_has_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "own"))
    demonstration.log_pendulum("toy/pendulum-v0", 8, seed=5)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"fingerprint": "0" * 64, "run_id": "x"}))
    status, answer, _ = spoken([*PENDULUM, "--folder", str(folder)])
    assert status == 1
    assert "fingerprint 000000000000, and the log now has" in answer["error"]
    assert str(folder) in answer["error"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--env", "CartPole-v1"], "observations [4] and 2 discrete actions, and the log toy/pendulum-v0 has"),
        (["--env", "Pendulum-v9"], "there is no environment 'Pendulum-v9'"),
        (["--env", "nowhere:Pendulum-v1"], "nowhere"),
        (["--data.id", "toy/missing-v0"], "minari download toy/missing-v0"),
        (["--data.id", "toy/pendulum"], "expected NAMESPACE/NAME-vN"),
        (["--data.split", "[0.7,0.2,0.2]"], "data.split is [0.7, 0.2, 0.2]"),
        (["--data.split", "[0.8,0.1,0.1]"], "the second simulator gets 1 of 8 episodes and needs 2"),
        (["--name", "toy/pendulum"], "name is 'toy/pendulum'"),
        (["--accelerator", "cuda"], "accelerator is 'cuda'"),
        (["--simulator.uncertainty", "null"], "simulator.uncertainty is null"),
        (["--simulator.uncertainty", "dynamics.terminations.never"], "which does not take (prediction)"),
        (["--simulator.termination", "dynamics.uncertainty.ensemble_std"], "does not take (obs, action, next_obs)"),
        (["--simulator.quantile", "95"], "simulator.quantile is 95.0"),
        (["--trial.level", "95"], "trial.level is 95.0"),
        (["--trial.starts", "1"], "trial.starts is 1, expected at least 2"),
        (["--rehearsal.horizon", "0"], "rehearsal.horizon is 0, expected at least 1"),
        (["--rehearsal.real_ratio", "1.5"], "rehearsal.real_ratio is 1.5"),
        (["--rehearsal.penalty", "-1"], "rehearsal.penalty is -1.0"),
        (["--imitation.updates", "0"], "imitation.updates is 0"),
        (["--fit.lr", "0"], "fit.lr is 0.0"),
        (["--fit.multistep", "0"], "fit.multistep is 0, expected at least 1"),
        (["--fit.multistep_weight", "0"], "fit.multistep_weight is 0.0, expected a number above 0"),
        (["--dynamics.init_args.elites", "9"], "elites"),
    ],
)
def test_what_cannot_end_well_is_refused_before_any_work(
    arguments: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the training began")

    monkeypatch.setattr(pipeline, "fit_dynamics", never)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, answer, _ = spoken([*PENDULUM, *arguments])
    assert status == 1
    assert part in answer["error"]
    assert not list(tmp_path.glob("home/runs/*"))


def test_a_strict_run_ends_after_a_serious_audit_and_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the training began")

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "own"))
    played = environments.record("Pendulum-v1", lambda obs, rng: rng.uniform(-2, 2, 1), 8, seed=0)
    dead = (episode._replace(observations=episode.observations * np.float32([1, 1, 0])) for episode in played)
    minari.write("toy/dead-v0", dead, *environments.spaces("Pendulum-v1"))
    monkeypatch.setattr(pipeline, "fit_dynamics", never)
    folder = tmp_path / "run"
    arguments = [*DEBUG, "--data.id", "toy/dead-v0", "--data.strict", "true", "--folder", str(folder)]
    status, answer, told = spoken(arguments)
    assert status == 1
    assert f"serious finding(s), see {folder / 'audit.html'}" in answer["error"]
    assert "serious: constant sensor: observation 2 is 0 in every row" in told
    assert (folder / "audit.html").read_text().startswith("<!DOCTYPE html>")
    run = json.loads((folder / "run.json").read_text())["run_id"]
    client = MlflowClient(store.connect())
    (stage,) = stages(client, client.get_run(run)).values()
    assert (stage.info.run_name, stage.info.status) == ("audit", "FAILED")
    assert {file.path for file in client.list_artifacts(stage.info.run_id)} == {"audit.html", "audit.json"}
