"""`mbrl run --seeds`: a policy of each candidate for each seed, by learners of their own or by one of many members."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from pipeline_toys import PENDULUM, spoken, stages

from mbrl.heritage import inherit
from mbrl.making import makings
from mbrl.registry import models, store
from mbrl.settings import Candidate
from policies import BC

TWO = ["--rehearsal.updates", "40", "--seeds", "[0,4]"]


def candidates(*names: str) -> dict[str, Candidate]:
    return {name: Candidate(BC) for name in names}


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("way", ["batched", "processes"])
def test_each_seed_has_a_policy_that_is_judged_and_can_go_on(way: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [*PENDULUM, *TWO, "--rehearsal.average", "10", "--population", way, "--folder", str(folder)]
    status, answer, _ = spoken(arguments)
    assert status == 0
    rows = {name: (row["version"], row["updates"], row["rehearsed"]) for name, row in answer["candidates"].items()}
    assert rows == {"seed-0": ("1", 40, True), "seed-4": ("2", 40, True)}
    assert answer["chosen"] in rows
    client = MlflowClient(store.connect())
    made = {name for name in stages(client, client.get_run(answer["run_id"])) if name.startswith("polic")}
    assert made == ({"policies"} if way == "batched" else {"policy-seed-0", "policy-seed-4"})
    version = client.get_model_version("toy-policy", "2")
    assert version.tags["mbrl.learner"] == "policies.sac.SAC"
    first, second = (models.load_policy(f"models:/toy-policy/{number}") for number in (1, 2))
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    for number, policy in (("1", first), ("2", second)):
        left = inherit("toy", number)  # which refuses the checkpoint of another policy
        assert left.checkpoint["ring"]["written"] == 40 // 20 * 16 * 5
        assert all(torch.equal(a, b) for a, b in zip(left.policy.parameters(), policy.parameters(), strict=True))
    (folder / "result.json").unlink()
    status, again, _ = spoken(["run", "--config", str(folder / "config.yaml")])
    assert (status, again["candidates"]) == (0, answer["candidates"])


def test_what_is_made_of_candidates_by_seeds() -> None:
    def told(*names: str, **asked: Any) -> dict[str, Any]:
        found = makings(candidates(*names), **{"seed": 5, "seeds": None, "batched": False} | asked)
        return {one.stage: (one.seeds, one.policies) for one in found.values()}

    assert told("candidate") == {"policy": ((5,), ("candidate",))}
    assert told("a", "b") == {"policy-a": ((5,), ("a",)), "policy-b": ((5,), ("b",))}
    assert told("candidate", seeds=[1, 2]) == {
        "policy-seed-1": ((1,), ("seed-1",)),
        "policy-seed-2": ((2,), ("seed-2",)),
    }
    assert told("a", "b", seeds=[1, 2], batched=True) == {
        "policies-a": ((1, 2), ("a-1", "a-2")),
        "policies-b": ((1, 2), ("b-1", "b-2")),
    }
    both = told("mopo", "mopo-1", seeds=[1, 2], batched=True)
    files = {*both, *(f"policy-{name}" for _, names in both.values() for name in names)}
    assert len(files) == 6  # no checkpoint is written over another one
    assert told("a", seeds=[3], batched=True) == {"policy-a-3": ((3,), ("a-3",))}


def test_a_name_with_a_seed_has_to_be_a_name() -> None:
    with pytest.raises(ValueError, match=f"candidates has one called '{'a' * 31}-0', expected up to 32"):
        makings(candidates("a" * 31), 0, [0], batched=False)


@pytest.mark.parametrize("batched", [False, True])
def test_no_two_policies_have_one_name(batched: bool) -> None:
    with pytest.raises(ValueError, match=r"two policies would be called seed-0, seed-1, as .* other names"):
        makings(candidates("candidate", "seed"), 0, [0, 1], batched=batched)
