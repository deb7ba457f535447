"""A run with several candidates: each is rehearsed, judged and registered, and the evidence chooses among them."""

import json
import subprocess
from multiprocessing import Process
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from forks import forked
from mlflow import MlflowClient
from pipeline_toys import PENDULUM, ROOT, dots, small, spoken, stages

from mbrl import crew, files
from mbrl.registry import models, store
from mbrl.registry.rules import PACKAGED

BC = {"class_path": "policies.BC"}
SAC = {"class_path": "policies.SAC", "init_args": {"hidden": [16, 16]}}
TRUE = ["--env", "Pendulum-v1"]
SHORT = {"updates": 40, "batch_size": 32, "rollout_every": 20, "rollout_starts": 16, "keep_rollouts": 2}
SEVERAL = {"imitation": {"learner": BC, "rehearsal": {"updates": 30}}, "mopo": {"learner": SAC, "rehearsal": SHORT}}


def config(folder: Path, candidates: dict[str, Any]) -> list[str]:
    """A run of these candidates, everything else as in debug.yaml."""
    settings = yaml.safe_load((ROOT / "configs" / "debug.yaml").read_text())
    del settings["learner"], settings["rehearsal"]
    rules = yaml.safe_load(PACKAGED.read_text())
    rules |= {"kinds": ["model"], "least_trusted_horizon": 0}  # the others, and trust, need more than toys
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    settings["trial"]["rules"] = str(folder / "rules.yaml")
    path = folder / "several.yaml"
    path.write_text(yaml.safe_dump({**settings, "candidates": candidates}))
    return ["run", "--config", str(path), "--data.id", "toy/pendulum-v0", "--name", "toy"]


def weights(folder: Path, stage: str) -> dict[str, Any]:
    """Of a stage of a run: all tensors, by name."""
    content = files.load(folder / f"{stage}.ckpt")
    return content.get("learner", content)


def same(a: Any, b: Any) -> bool:
    """Whether two states are alike, tensor by tensor."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture(scope="module")
def alone(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """A run of several, all of it in this process: its MBRL_HOME, its answer, and what it printed."""
    home = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MBRL_HOME", str(home))
        patch.setenv("MINARI_DATASETS_PATH", str(logs))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        small(patch)
        dots(patch)
        torch.set_num_threads(1)
        status, answer, told = spoken([*config(home, SEVERAL), *TRUE, "--folder", str(home / "run")])
    assert status == 0, answer
    return home, answer, told


def test_several_are_judged_side_by_side(
    alone: tuple[Path, dict[str, Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, answer, told = alone
    monkeypatch.setenv("MBRL_HOME", str(home))
    rows = answer["candidates"]
    assert {name: (row["version"], row["updates"]) for name, row in rows.items()} == {
        "imitation": ("1", 30),
        "mopo": ("2", 40),
    }
    liked = {name: row["preference_in_spreads"] for name, row in rows.items()}
    assert liked == {name: row["gain_in_spreads"]["value"] for name, row in rows.items()}  # there is one kind
    promotable = {name for name, row in rows.items() if row["verdict"] == "promote"}
    lows = {name: row["gain_in_spreads"]["low"] for name, row in rows.items()}
    safe = {name: low for name, low in lows.items() if low > 0}
    best = max(promotable or safe or ["imitation"], key=(liked if promotable else lows).__getitem__)
    assert answer["chosen"] == best
    assert answer["policy_version"] == rows[answer["chosen"]]["version"]
    assert set(answer["true_environment"]) == {"imitation", "mopo", "behaviour cloning"}
    assert f"chosen             {answer['chosen']}" in told
    client = MlflowClient(store.connect())
    children = stages(client, client.get_run(answer["run_id"]))
    assert {"policy-imitation", "policy-mopo", "simulator", "judge"} <= set(children)
    kept = {file.path for file in client.list_artifacts(children["evidence"].info.run_id)}
    assert {"evidence-imitation.json", "evidence-mopo.json"} <= kept
    assert str(client.get_model_version_by_alias("toy-policy", "candidate").version) == answer["policy_version"]
    status, history, _ = spoken(["history", "toy", "--verify"])
    assert status == 0
    assert {move["after"] for entry in history["entries"] for move in entry["moves"]} == {"1", "2"}


def made_apart(folder: str, name: str) -> int:
    """A stage as the whole of this process, as `quick` is a command."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        dots(patch, served=False)
        patch.setattr(crew, "follow", lambda: None)  # nobody holds the other end of its standard input
        return crew.main([folder, name])


@pytest.fixture
def crews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Process]:
    """Processes of crews that are forked: all but the shortest, which begins, follows and ends as that of a user."""
    begun: dict[str, Process] = {}
    launched = crew.Crew._launch

    def launch(several: crew.Crew, name: str) -> subprocess.Popen[str] | None:
        if name == "policy-imitation":
            return launched(several, name)
        output = tmp_path / name
        begun[name] = forked(made_apart, str(several._folder.path), name, output=output)
        until = f"while kill -0 {begun[name].pid} 2> /dev/null; do sleep 0.1; done; cat '{output}'"
        return subprocess.Popen(["sh", "-c", until], text=True, stdout=subprocess.PIPE)

    monkeypatch.setattr(crew.Crew, "_launch", launch)
    return begun


@pytest.mark.usefixtures("sketched")
def test_processes_make_the_run_that_one_would_make_and_it_can_be_repeated(
    alone: tuple[Path, dict[str, Any], str], crews: dict[str, Process], tmp_path: Path
) -> None:
    home, first, _ = alone
    together = tmp_path / "together"
    several = [*config(tmp_path, SEVERAL), *TRUE, "--folder", str(together), "--workers", "3"]
    status, answer, told = spoken(several)
    assert status == 0, answer
    assert answer["candidates"] == first["candidates"]
    assert answer["estimates"] == first["estimates"]
    for stage in ("simulator", "judge", "policy-imitation", "policy-mopo"):
        assert same(weights(home / "run", stage), weights(together, stage)), stage
        assert answer["seconds"][stage] > 0
    assert "judge: epoch 2: " in told
    assert told.count("policy-mopo        40 updates") == 1
    assert {name: process.exitcode for name, process in crews.items()} == dict.fromkeys(
        ("simulator", "judge", "policy-mopo"), 0
    )
    assert "its own process ended" not in told
    client = MlflowClient(store.connect())
    run = client.get_run(answer["run_id"])
    children = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    names = [child.info.run_name for child in children]
    assert len(set(names)) == len(names) >= 7  # the process that waits goes on with the stage of the one that made it
    assert {child.info.status for child in children} == {run.info.status} == {"FINISHED"}
    assert len(stages(client, run)["judge"].data.metrics) > 3  # which its process has sent
    assert not (together / "judge.json").exists()
    (together / "result.json").unlink()
    status, again, _ = spoken(["run", "--config", str(together / "config.yaml"), "--workers", "1"])
    assert (status, again["estimates"], again["candidates"]) == (0, first["estimates"], first["candidates"])


@pytest.mark.usefixtures("sketched")
def test_without_a_learner_that_rehearses_there_is_a_judge_and_no_other_simulator(tmp_path: Path) -> None:
    best = {"learner": BC, "rehearsal": {"updates": 30, "best": 0.5}}
    status, answer, _ = spoken(config(tmp_path, {"imitation": best}))
    assert (status, answer["simulator_version"], answer["own_simulator"]) == (0, None, {})
    assert {path.name for path in Path(answer["folder"]).glob("*.ckpt")} == {
        "baseline.ckpt",
        "policy-imitation.ckpt",
        "judge.ckpt",
        "witnesses.ckpt",
    }
    assert files.load(Path(answer["folder"]) / "policy-imitation.ckpt")["settings"]["best"] == 0.5
    with pytest.raises(store.StoreError, match="toy-simulator"):
        models.load_simulator("models:/toy-simulator/1")
    assert json.loads((Path(answer["folder"]) / "result.json").read_text())["chosen"] == "imitation"


@pytest.mark.usefixtures("sketched")
def test_a_candidate_that_diverges_is_left_out(tmp_path: Path) -> None:
    wild = {"learner": {**BC, "init_args": {"lr": 1e30}}, "rehearsal": {"updates": 30}}
    alone = config(tmp_path, {"wild": wild, "wilder": wild})
    status, answer, told = spoken(alone)
    assert (status, "wild               left out: " in told) == (1, True)
    assert "the learning diverged" in answer["error"]
    status, answer, told = spoken(config(tmp_path, {"wild": wild, "imitation": SEVERAL["imitation"]}))
    assert (status, set(answer["candidates"]), answer["chosen"]) == (0, {"imitation"}, "imitation")
    assert set(answer["left_out"]) == {"wild"}
    assert f"wild               left out: {answer['left_out']['wild']}" in told
    tags = MlflowClient(store.connect()).get_run(answer["run_id"]).data.tags
    assert tags["mbrl.left_out.wild"] == answer["left_out"]["wild"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("champion", "candidates has one called 'champion'"),
        ("Best one", "candidates has one called 'Best one', expected up to 32 of a-z"),
    ],
)
def test_a_candidate_has_a_name_that_files_can_carry(name: str, part: str, tmp_path: Path) -> None:
    status, answer, _ = spoken(config(tmp_path, {name: SEVERAL["imitation"]}))
    assert status == 1
    assert part in answer["error"]


def test_either_one_learner_or_several_candidates(tmp_path: Path) -> None:
    status, answer, _ = spoken([*config(tmp_path, SEVERAL), "--learner", "policies.BC"])
    assert status == 1
    assert "there are a learner and the candidates imitation, mopo" in answer["error"]
    status, answer, _ = spoken([*PENDULUM, "--learner", "null"])
    assert status == 1
    assert "there is no candidate: give a learner" in answer["error"]


def test_a_rehearsal_that_no_candidate_has_is_refused(tmp_path: Path) -> None:
    status, answer, _ = spoken([*config(tmp_path, SEVERAL), "--rehearsal.updates", "5"])
    assert status == 1
    told = "a rehearsal is given, and the candidates imitation, mopo have rehearsals of their own: set it there"
    assert answer["error"].startswith(told)
    assert "candidates.imitation.rehearsal" in answer["error"]
    words = config(tmp_path, SEVERAL)
    path = tmp_path / "several.yaml"
    path.write_text(f"{path.read_text()}rehearsal: {{updates: 5}}\n")
    status, answer, _ = spoken(words)
    assert (status, answer["error"].startswith(told)) == (1, True)
