"""A run with several candidates: each is rehearsed, judged and registered, and the evidence chooses among them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from pipeline_toys import PENDULUM, ROOT, spoken, stages

from mbrl import files
from mbrl.registry import models, store
from mbrl.registry.rules import PACKAGED

BC = {"class_path": "policies.BC"}
SAC = {"class_path": "policies.SAC", "init_args": {"hidden": [16, 16]}}
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


@pytest.mark.usefixtures("sketched")
def test_several_are_judged_side_by_side_and_the_run_can_be_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    status, answer, told = spoken([*config(tmp_path, SEVERAL), "--env", "Pendulum-v1", "--folder", str(folder)])
    assert status == 0
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
    (folder / "result.json").unlink()
    status, again, _ = spoken(["run", "--config", str(folder / "config.yaml")])
    assert (status, again["estimates"], again["candidates"]) == (0, answer["estimates"], rows)


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
    told = "--rehearsal.updates is given, and the candidates imitation, mopo have rehearsals of their own: set it there"
    assert answer["error"].startswith(told)
    assert "candidates.imitation.rehearsal" in answer["error"]
