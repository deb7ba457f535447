"""What a whole run on a toy log leaves: its answer, its folder, what is recorded and registered, what reads it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from pipeline_toys import DEBUG, PENDULUM, dots, spoken, stages

from mbrl import assessment, demonstration, files, playing
from mbrl.data import minari
from mbrl.registry import models, promotion, store
from mbrl.registry.gates import CHAMPION, Evidence, Verdict
from mbrl.registry.rules import Rules


def test_a_run_answers_with_everything_that_it_found(whole: tuple[Path, dict[str, Any], str]) -> None:
    _, answer, told = whole
    log = minari.load("toy/pendulum-v0")
    data = {"id": log.id, "fingerprint": log.fingerprint, "rows": 400, "episodes": 8, "history": 1}
    assert answer["data"] == data
    assert answer["logged_return"]["value"] == pytest.approx(float(log.returns().mean()))
    values = answer["estimates"]["model"]
    assert set(values) == {"log", "behaviour cloning", "candidate"}
    assert set(answer["true_environment"]) == {"behaviour cloning", "candidate"}
    assert all(v["low"] <= v["value"] <= v["high"] for v in values.values())
    assert (answer["verdict"], answer["promoted"]) == ("no evidence of improvement", False)
    assert any(reason.startswith("fqe is missing: critics need 4 episodes") for reason in answer["reasons"])
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
        "behaviour",
        "candidate",
        "verdict",
    ]
    told_once = list(dict.fromkeys(line for line in lines if line in wanted))
    assert told_once == wanted
    assert "mbrl ui" in told


def test_its_folder_holds_what_a_later_process_needs(whole: tuple[Path, dict[str, Any], str]) -> None:
    home, answer, told = whole
    folder = home / "here"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    checkpoints = {"simulator.ckpt", "baseline.ckpt", "policy.ckpt", "judge.ckpt", "witnesses.ckpt"}
    pages = {f"{stem}.{kind}" for stem in ("card", "judge-card") for kind in ("html", "json")}
    notes = {"config.yaml", "run.json", "result.json", "audit.html"} | pages
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
    pictures = {"evidence.png", "returns.png", "rollouts.png"}
    assert found == pictures | {"evidence.json", "rollouts.parquet", "true_environment.json"}
    kept = Path(client.download_artifacts(parent.info.run_id, "config.yaml", str(tmp_path))).read_text()
    assert kept == (home / "here" / "config.yaml").read_text()
    seen = json.loads(Path(client.download_artifacts(evidence, "evidence.json", str(tmp_path))).read_text())
    assert {kind: view["values"] for kind, view in seen["evidence"]["views"].items()} == answer["estimates"]
    assert seen["verdict"]["outcome"] == answer["verdict"]
    assert seen["verdict"]["rules"][0] == {
        "name": "faults of the evidence",
        "value": 1,
        "relation": "at most",
        "threshold": 0,
        "outcome": "failed",
    }
    assert seen["evidence"]["fingerprints"] == dict.fromkeys(("log", "second simulator"), answer["data"]["fingerprint"])
    assert all(wanted == found for wanted, found in seen["evidence"]["hashes"].values())
    table = pyarrow.parquet.read_table(client.download_artifacts(evidence, "rollouts.parquet", str(tmp_path)))
    assert {"rollout", "step", "obs", "action", "reward", "next_obs", "terminated"} == set(table.column_names)
    for name in pictures:
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
    assert "rehearsal.penalty was None, is 2.0; seed was 0, is 3" in refused["error"]


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
    status, answer, told = spoken([*command, "--level", "0.8"])
    assert status == 0
    measured = whole[1]["true_environment"]["candidate"]  # the run's own measurement, from the same two starts
    numbers = ("value", "low", "high", "effective_n")
    assert {k: answer[k] for k in numbers} == pytest.approx({k: measured[k] for k in numbers})
    assert len(answer["returns"]) == 2
    assert "80% interval of 2 undiscounted returns" in told
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
        (["--estimators", "fqe"], ["estimators is 'fqe', and there is no log for them to work on", "--data ID"]),
    ],
)
def test_evaluate_says_what_is_wrong(change: list[str], parts: list[str], record: tuple[MlflowClient, Run]) -> None:
    command = ["evaluate", "--policy", "models:/toy-policy/1", "--env", "Pendulum-v1", "--episodes", "2"]
    status, answer, _ = spoken([*command, *change])
    assert status == 1
    assert all(part in answer["error"] for part in parts), answer


@pytest.mark.usefixtures("sketched")
def test_the_alias_moves_at_a_promotion_only_and_the_truth_is_measured_after_the_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            events.append(name)
            return function(*args, **kwargs)

        return call

    weighed: list[Evidence] = []
    outcomes = [("promote", "it is better"), ("no evidence of improvement", "it is not better")]

    def decided(evidence: Evidence, rules: Rules) -> Verdict:
        weighed.append(evidence)
        outcome, reason = outcomes.pop(0)
        return Verdict(outcome, (reason,), (), rules.version)

    monkeypatch.setattr(assessment, "decide", watched("verdict", decided))
    monkeypatch.setattr(promotion, "promote", watched("asked", promotion.promote))
    monkeypatch.setattr(playing, "true_returns", watched("truth", playing.true_returns))
    short = [*PENDULUM, "--rehearsal.updates", "40"]
    status, first, _ = spoken([*short, "--env", "Pendulum-v1"])
    assert (status, first["promoted"], first["champion"]) == (0, True, "1")
    assert events == ["verdict", "truth", "truth", "asked"]
    status, second, told = spoken([*short, "--seed", "1"])
    assert (status, second["promoted"], second["champion"], second["policy_version"]) == (0, False, "1", "2")
    assert events[4:] == ["verdict", "asked"]  # a refusal is in the ledger as well
    assert second["true_environment"] == {}
    assert [evidence.champion for evidence in weighed] == [None, "1"]
    assert [CHAMPION in evidence.views["model"].gains for evidence in weighed] == [False, True]
    assert "no evidence of improvement" in told
    assert "it is not better" in told
    assert promotion.champion("toy") == "1"
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


def test_a_discrete_log_with_terminals_goes_the_whole_path(monkeypatch: pytest.MonkeyPatch) -> None:
    dots(monkeypatch, but="rollouts.png")
    short = ["--rehearsal.updates", "40", "--env", "CartPole-v1"]
    status, answer, _ = spoken([*DEBUG, "--data.id", "toy/cartpole-v0", *short])
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
