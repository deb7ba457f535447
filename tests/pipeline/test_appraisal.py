"""Registered policies on a log: estimates beside the truth, judges that are judged, and a choice that may abstain."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from pipeline_toys import spoken

from mbrl import selection
from mbrl.data import minari
from mbrl.registry import models, promotion, witnesses
from mbrl.registry.gates import Evidence
from mbrl.registry.lineage import Lineage
from mbrl.registry.rules import PACKAGED
from mbrl.registry.runs import RunLog
from policies import Perturbed

pytestmark = pytest.mark.usefixtures("record")
FEW = ["--trial.starts", "4", "--trial.critic-updates", "5"]


@pytest.fixture(scope="module")
def ladder(whole: tuple[Path, dict[str, Any], str], logs: Path) -> str:
    """URIs of the toy run's policy and of two that were made of it, which that run's second simulator judges."""
    home, answer, _ = whole
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MBRL_HOME", str(home))
        patch.setenv("MINARI_DATASETS_PATH", str(logs))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        policy = models.load_policy("models:/toy-policy/1")
        lineage = Lineage("toy/pendulum-v0", answer["data"]["fingerprint"], "toy-simulator/1")
        with RunLog.open("mbrl", "ladder") as log:
            for change in ({"flip": True}, {"noise": 1.0}):
                models.log_policy(log, Perturbed.of(policy, **change), "rung", lineage)
    return "models:/toy-policy/1,models:/rung-policy"


def rules(tmp_path: Path, **changes: Any) -> list[str]:
    """Settings that name the packaged rules with changes."""
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(PACKAGED.read_text()) | changes))
    return ["--trial.rules", str(path)]


def test_the_run_has_kept_its_witnesses_sealed(record: tuple[MlflowClient, Run]) -> None:
    client, run = record
    origin = witnesses.origin("models:/toy-policy/1")
    assert (origin.label, origin.run_id, origin.seed) == ("toy-policy/1", run.info.run_id, 0)
    seen = witnesses.fetch(origin.run_id)
    ((name, (wanted, found)),) = seen.hashes.items()
    assert (name, wanted) == ("witnesses.ckpt", found)
    assert client.get_run(run.info.run_id).data.tags["mbrl.witnesses_sha256"] == wanted
    assert seen.data_fingerprint == minari.load("toy/pendulum-v0").fingerprint
    assert seen.simulator.trusted_horizon == seen.card.trusted_horizon


def test_a_version_whose_run_somebody_has_removed_is_judged_by_that_of_its_simulator(
    ladder: str, record: tuple[MlflowClient, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ladder.endswith("rung-policy")
    found, gone = models.run_of, {"rung-policy"}
    monkeypatch.setattr(models, "run_of", lambda client, one: None if one.name in gone else found(client, one))
    origin = witnesses.origin("models:/rung-policy/1")
    assert (origin.run_id, origin.folder) == (record[1].info.run_id, None)
    gone.add("toy-simulator")
    with pytest.raises(ValueError, match=r"rung-policy/1 has no second simulator .* or they are deleted"):
        witnesses.origin("models:/rung-policy/1")


def test_policies_are_judged_on_a_log_beside_the_log_and_the_imitation(ladder: str) -> None:
    kinds = ["--estimators", "model,fqe,pdwis"]
    command = ["evaluate", "--policy", ladder, "--data", "toy/pendulum-v0", *kinds, *FEW]
    status, answer, told = spoken(command)
    assert status == 0, answer
    policies = {"toy-policy/1", "rung-policy/1", "rung-policy/2"}
    assert set(answer["estimates"]["model"]) == {"log", "behaviour cloning", *policies}
    assert answer["discount"] == {"model": 1.0, "pdwis": 0.99}
    assert answer["refused"]["fqe"]["log"].startswith("critics need 4 episodes")
    assert set(answer["refused"]["pdwis"]) == {"behaviour cloning", *policies}
    assert "true" not in answer
    assert answer["combined_gain_in_spreads"] == dict.fromkeys(policies)  # one kind has no estimate
    assert "no estimate: critics need" in told
    assert Path(answer["picture"]).read_bytes().startswith(b"\x89PNG")


def test_where_no_estimator_answers_there_is_no_picture_and_no_error(ladder: str) -> None:
    command = ["evaluate", "--policy", ladder, "--data", "toy/pendulum-v0", "--estimators", "fqe", *FEW]
    for more in ([], ["--judge", "--env", "Pendulum-v1", "--episodes", "1"]):
        status, answer, told = spoken([*command, *more])
        assert (status, answer["picture"], answer["estimates"]) == (0, None, {"fqe": {}})
        assert "no picture: no estimator answered" in told


def test_the_truth_stands_beside_where_it_is_asked_for(ladder: str) -> None:
    command = ["evaluate", "--policy", ladder, "--data", "toy/pendulum-v0", "--estimators", "model", *FEW]
    status, answer, told = spoken([*command, "--env", "Pendulum-v1", "--episodes", "2"])
    assert status == 0, answer
    assert set(answer["true"]) == {"1.0"}
    assert set(answer["true"]["1.0"]) == {"behaviour cloning", "toy-policy/1", "rung-policy/1", "rung-policy/2"}
    assert "true -" in told
    gains = answer["combined_gain_in_spreads"]
    log, value = (answer["estimates"]["model"][name]["value"] for name in ("log", "rung-policy/1"))
    assert all(gain["low"] <= gain["value"] <= gain["high"] for gain in gains.values())
    assert log != value


def test_several_policies_are_measured_from_the_same_starts(ladder: str) -> None:
    command = ["evaluate", "--env", "Pendulum-v1", "--episodes", "2", "--policy"]
    status, answer, told = spoken([*command, ladder])
    assert (status, answer["env"]) == (0, "Pendulum-v1")
    uris = ["models:/toy-policy/1", "models:/rung-policy/1", "models:/rung-policy/2"]
    assert list(answer["policies"]) == uris
    assert all(f"{uri} in Pendulum-v1: " in told for uri in uris)
    alone = spoken([*command, uris[1]])[1]
    assert {key: alone[key] for key in ("value", "returns")} == {
        key: answer["policies"][uris[1]][key] for key in ("value", "returns")
    }


def test_judges_are_judged(ladder: str) -> None:
    command = ["evaluate", "--judge", "--policy", ladder, "--estimators", "model", *FEW]
    status, answer, told = spoken([*command, "--env", "Pendulum-v1", "--episodes", "2"])
    assert status == 0, answer
    assert set(answer["scores"]) == {"model", "combined"}
    for row in answer["scores"].values():
        assert row["policies"] == 3
        assert 0 <= row["regret_3"] <= row["regret_1"] <= 1
        assert row["coverage"] in (0, 1 / 3, 2 / 3, 1)
    assert answer["scores"]["model"]["rank_correlation"] == answer["scores"]["combined"]["rank_correlation"]
    assert answer["data"]["id"] == "toy/pendulum-v0"
    assert "rank correlation" in told
    assert Path(answer["picture"]).read_bytes().startswith(b"\x89PNG")


def test_a_selection_takes_the_best_that_the_gate_would_promote_or_nobody(ladder: str, tmp_path: Path) -> None:
    del ladder
    lenient = {"kinds": ["model"], "least_agreement": 0.0, "least_effective_n": 1, "most_doubt": None}
    lenient |= {"most_tail_loss": None, "harmful_loss": 1e6}
    status, answer, told = spoken(["select", "rung", *FEW, *rules(tmp_path, **lenient, least_gain_over_log=1e6)])
    assert (status, answer["selected"], answer["kept"]) == (0, None, "behaviour cloning")
    assert {v["outcome"] for v in answer["verdicts"].values()} == {"no evidence of improvement"}
    assert "none is selected; what stays: behaviour cloning" in told
    low = {label: gain["low"] for label, gain in answer["combined_gain_in_spreads"].items()}
    liked = answer["preference_in_spreads"]
    assert liked == {label: gain["value"] for label, gain in answer["combined_gain_in_spreads"].items()}  # one kind
    best = max(liked, key=liked.__getitem__)
    assert set(low) == {"rung-policy/1", "rung-policy/2"}
    status, answer, told = spoken(["select", "rung", "--versions", f"[{best[-1]}]", *FEW, *rules(tmp_path, **lenient)])
    assert status == 0, answer
    (verdict,) = answer["verdicts"].values()
    assert (answer["selected"] == best) == (verdict["outcome"] == "promote") == (low[best] > 0)


def test_a_champion_that_the_rules_would_not_promote_is_named(
    ladder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del ladder
    monkeypatch.setattr(promotion, "champion", lambda name: "1")
    status, answer, told = spoken(["select", "rung", *FEW, *rules(tmp_path, kinds=["model"], least_gain_over_log=1e6)])
    assert (status, answer["selected"], answer["kept"]) == (0, None, "rung-policy/1")
    assert answer["refused_champion"] == "rung-policy/1"
    assert "rung-policy/1 reigns, and these rules would not promote it: `mbrl withdraw rung --alias champion`" in told


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (["--estimators", "fqe,guess"], ["there is no estimator called guess", "model, model+fqe, fqe"]),
        (["--policy", ","], ["policy is ','"]),
        (["--policy", "models:/nobody-policy"], ["nobody-policy", "registered models: "]),
        (["--policy", "models:/toy-policy/9"], ["versions of toy-policy: [1]"]),
        (["--data", "toy/cartpole-v0"], ["toy-policy/1: the policy's spec does not fit toy/cartpole-v0: discrete is"]),
        (["--data", "toy/none-v0"], ["toy/none-v0"]),
        (["--judge"], ["--judge needs the truth", "--env Pendulum-v1"]),
        (["--judge", "--env", "CartPole-v1"], ["observations [4] and 2 discrete actions"]),
        (["--judge", "--env", "Pendulum-v1", "--episodes", "1"], ["there are 1 policies of known value"]),
    ],
)
def test_what_cannot_be_judged_is_told(change: list[str], parts: list[str]) -> None:
    command = ["evaluate", "--policy", "models:/toy-policy/1", "--data", "toy/pendulum-v0", "--estimators", "model"]
    status, answer, _ = spoken([*command, *FEW, *change])
    assert status == 1
    assert all(part in answer["error"] for part in parts), answer


def test_a_policy_without_witnesses_says_where_they_are_missing() -> None:
    policy = models.load_policy("models:/toy-policy/1")
    with RunLog.open("mbrl", "alone") as log:
        models.log_policy(log, policy, "alone", Lineage("toy/pendulum-v0", "f" * 64))
    status, answer, _ = spoken(["evaluate", "--policy", "models:/alone-policy/1", "--data", "toy/pendulum-v0", *FEW])
    assert status == 1
    assert "alone-policy/1 has no second simulator to be judged in" in answer["error"]
    status, answer, _ = spoken(["evaluate", "--policy", "models:/alone-policy/1"])
    assert (status, "neither a log nor an environment" in answer["error"]) == (1, True)


def test_a_selection_leaves_out_versions_without_witnesses(
    whole: tuple[Path, dict[str, Any], str], ladder: str, tmp_path: Path
) -> None:
    del ladder
    policy = models.load_policy("models:/toy-policy/1")
    with RunLog.open("mbrl", "some alone") as log:
        models.log_policy(log, policy, "some", Lineage("toy/pendulum-v0", "f" * 64))
        fits = whole[1]["data"]["fingerprint"]
        assert "some-policy/1 has no second simulator" in spoken(["select", "some", *FEW])[1]["error"]
        models.log_policy(log, policy, "some", Lineage("toy/pendulum-v0", fits, "toy-simulator/1"))
    status, answer, told = spoken(["select", "some", *FEW, *rules(tmp_path, kinds=["model"])])
    assert (status, list(answer["verdicts"])) == (0, ["some-policy/2"]), answer
    assert "left out: some-policy/1 has no second simulator to be judged in" in told


@pytest.mark.usefixtures("ladder")
def test_evidence_may_learn_what_a_cost_column_teaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are on where it is gathered, as in a run: `mbrl select` failed for logs with such a column."""
    learning: list[bool] = []
    gather = selection.gather

    def watched(*asked: Any) -> Evidence:
        learning.append(torch.is_grad_enabled())
        return gather(*asked)

    monkeypatch.setattr(selection, "gather", watched)
    assert spoken(["select", "rung", *FEW])[0] == 0
    assert learning == [True, True]
