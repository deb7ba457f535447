"""How a run on a toy log ends: stopped, killed, beside another, refused; and how it goes on."""

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from forks import forked
from mlflow import MlflowClient
from pipeline_toys import DEBUG, PENDULUM, quick, spoken, stages

from mbrl import demonstration, environments, files, pipeline, playing, worlds
from mbrl.data import minari
from mbrl.registry import store


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


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(("room", "fit", "when"), [(worlds, "fit_dynamics", 1), (pipeline, "fit_policy", 250)])
def test_ctrl_c_is_graceful_and_the_run_goes_on_where_it_was(
    room: ModuleType,
    fit: str,
    when: int,
    whole: tuple[Path, dict[str, Any], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(room, fit, interrupting(getattr(room, fit), when))
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
    assert answer["estimates"] == whole[1]["estimates"]


@pytest.mark.usefixtures("sketched")
def test_a_killed_run_goes_on_to_the_same_policy(whole: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = forked(quick, [*PENDULUM, "--folder", str(folder)], output=tmp_path / "told")
    deadline = time.monotonic() + 200
    while not (folder / "policy.ckpt").exists():
        assert process.is_alive(), (tmp_path / "told").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join()
    assert files.load(folder / "policy.ckpt")["updates"] < 300
    left = json.loads((folder / "run.json").read_text())["run_id"]
    status, answer, _ = spoken(["run", "--config", str(folder / "config.yaml")])
    assert (status, answer["run_id"], answer["policy_version"]) == (0, left, "1")
    assert same_weights(folder, whole[0] / "here")


def test_two_runs_can_start_at_once_on_an_empty_home(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "home")
    outputs, short = [tmp_path / "one", tmp_path / "two"], [*PENDULUM, "--rehearsal.updates", "40"]
    processes = [forked(quick, [*short, "--seed", str(k)], output=output) for k, output in enumerate(outputs)]
    for process, output in zip(processes, outputs, strict=True):
        process.join(timeout=200)
        assert process.exitcode == 0, output.read_text()
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


PLANNING = json.dumps(
    {
        "class_path": "policies.Planning",
        "init_args": {"learner": {"class_path": "policies.SAC"}, "planner": {"class_path": "policies.CEM"}},
    }
)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--env", "CartPole-v1"], "observations [4] and 2 discrete actions, and the log toy/pendulum-v0 has"),
        (["--env", "Pendulum-v9"], "there is no environment 'Pendulum-v9'"),
        (["--env", "Pendulum-v9", "--data.id", "toy/missing-v0"], "there is no environment"),  # first of all
        (["--env", "nowhere:Pendulum-v1"], "nowhere"),
        (["--data.id", "toy/missing-v0"], "minari download toy/missing-v0"),
        (["--data.id", "toy/pendulum"], "expected NAMESPACE/NAME-vN"),
        (["--data.split", "[0.7,0.2,0.2]"], "data.split is [0.7, 0.2, 0.2]"),
        (["--name", "toy/pendulum"], "name is 'toy/pendulum'"),
        (["--accelerator", "cuda"], "accelerator is 'cuda'"),
        (["--seeds", "[1,1]"], "seeds are [1, 1], expected different numbers, at least one"),
        (["--seeds", "[]"], "seeds are [], expected different numbers, at least one"),
        (["--seeds", "[-1]"], "seeds are [-1], expected different numbers, at least one, each from 0 to 4294967295"),
        (
            ["--learner", "policies.RAMBO", "--seeds", "[0,1]", "--population", "batched"],
            "RAMBO has a simulator of its own, and a population shares one: set population to processes",
        ),
        (["--simulator.uncertainty", "null", "--rehearsal.penalty", "1"], "simulator.uncertainty is null"),
        (["--simulator.uncertainty", "dynamics.terminations.never"], "which does not take (prediction)"),
        (
            ["--simulator.uncertainty", "builtins.len"],
            "simulator.uncertainty builtins.len returned int, expected a tensor",
        ),
        (["--simulator.termination", "dynamics.uncertainty.ensemble_std"], "does not take (obs, action, next_obs)"),
        (["--simulator.quantile", "95"], "simulator.quantile is 95.0"),
        (["--trial.discount", "1"], "trial.discount is 1.0, expected a number above 0 and below 1"),
        (["--trial.rules", "nowhere.yaml"], "the rules nowhere.yaml cannot be read"),
        (["--trial.starts", "1"], "trial.starts is 1, expected at least 2"),
        (["--rehearsal.horizon", "0"], "rehearsal.horizon is 0, expected at least 1"),
        (["--rehearsal.real_ratio", "1.5"], "rehearsal.real_ratio is 1.5"),
        (["--rehearsal.penalty", "-1"], "rehearsal.penalty is -1.0"),
        (["--rehearsal.halt_cost", "1"], "rehearsal.halt_cost is 1.0, expected null"),
        (["--learner", "policies.BC", "--rehearsal.penalty", "2"], "rehearsal.penalty is 2.0, and BC never imagines"),
        (["--imitation.updates", "0"], "imitation.updates is 0"),
        (["--fit.lr", "0"], "fit.lr is 0.0"),
        (["--fit.multistep", "0"], "fit.multistep is 0, expected at least 1"),
        (["--fit.judge_multistep", "0"], "fit.judge_multistep is 0, expected at least 1"),
        (
            ["--dynamics", "dynamics.RecurrentEnsemble", "--fit.multistep", "1", "--fit.judge_multistep", "3"],
            "fit.judge_multistep is 3, and RecurrentEnsemble remembers: it is fitted one step ahead. Set",
        ),
        (
            ["--learner", PLANNING, "--simulator.uncertainty", "null"],
            "dynamics.uncertainty.max_aleatoric, or learner.init_args.penalty to 0",
        ),
        (
            ["--learner", "policies.RAMBO", "--dynamics", "dynamics.DeterministicEnsemble"],
            "DeterministicEnsemble states no spread of its predictions: use dynamics.ProbabilisticEnsemble",
        ),
        (
            ["--learner", "policies.MOBILE", "--dynamics", "dynamics.RecurrentEnsemble"],
            "MOBILE asks the simulator for other successors of single rows, and RecurrentEnsemble remembers",
        ),
        (["--rehearsal.batch_size", "2000000000"], "batch_size is 2,000,000,000, and a row takes about"),
        (["--imitation.batch_size", "2000000000"], "batch_size is 2,000,000,000, and a row takes about"),
        (["--rehearsal.keep_rollouts", "2000000000"], "rollout_starts x horizon x keep_rollouts is"),
        (["--rehearsal.real_ratio", "0.999"], "no row of an update would be an imagined one"),
        (
            ["--rehearsal.real_ratio", "0", "--learner", "policies.COMBO"],
            "real_ratio is 0, and COMBO needs logged",
        ),
        (
            ["--rehearsal.real_ratio", "0", "--learner", "policies.RAMBO"],
            "real_ratio is 0, and RAMBO needs logged",
        ),
        (["--fit.multistep_weight", "0"], "fit.multistep_weight is 0.0, expected a number above 0"),
        (["--dynamics.init_args.elites", "9"], "elites"),
    ],
)
def test_what_cannot_end_well_is_refused_before_any_work(
    arguments: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the training began")

    monkeypatch.setattr(worlds, "fit_dynamics", never)
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
    played = playing.record("Pendulum-v1", lambda obs, rng: rng.uniform(-2, 2, 1), 8, seed=0)
    dead = (episode._replace(observations=episode.observations * np.float32([1, 1, 0])) for episode in played)
    minari.write("toy/dead-v0", dead, *environments.spaces("Pendulum-v1"))
    monkeypatch.setattr(worlds, "fit_dynamics", never)
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
