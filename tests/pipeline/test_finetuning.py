"""`mbrl finetune` on a toy plant: the budget, the floor, what is registered, what is refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning_toys import ENDLESS, ENV, STEPS, Push, becoming
from finetuning_toys import plant as plant
from mlflow import MlflowClient
from pipeline_toys import spoken, stages
from registry_toys import crown

from mbrl import demonstration, files, playing, practice
from mbrl.assessment import figure
from mbrl.evaluation.evidence import acting
from mbrl.heritage import inherit
from mbrl.registry import chronicle, models, promotion, store, witnesses
from mbrl.registry.ledger import Ledger
from mbrl.registry.lineage import Lineage
from mbrl.registry.runs import RunLog

FOUR = ["finetune", "toy", "--version", "1", "--env", ENV, "--episodes", "4"]


@pytest.fixture(autouse=True)
def own(whole: tuple[Path, dict[str, Any], str], plant: type[Push], tmp_path: Path, monkeypatch: Any) -> Path:
    """A registry of the test's own, with the toy run in it."""
    home = tmp_path / "own"
    home.mkdir()
    shutil.copy(whole[0] / "mlflow.db", home / "mlflow.db")
    monkeypatch.setenv("MBRL_HOME", str(home))
    return home


@pytest.fixture
def worth() -> float:
    """The mean return of the toy policy's mode from the four starts of a measurement."""
    returns = playing.true_returns(acting(models.load_policy("models:/toy-policy/1")), ENV, 4, seed=0)
    Push.taken = 0
    return float(returns.mean())


def versions() -> list[int]:
    return sorted(int(v.version) for v in MlflowClient(store.connect()).search_model_versions("name = 'toy-policy'"))


def curve(answer: dict[str, Any]) -> list[Any]:
    client = MlflowClient(store.connect())
    (stage,) = stages(client, client.get_run(answer["run_id"])).values()
    return client.get_metric_history(stage.info.run_id, "true_return")


def test_a_better_policy_is_registered_judged_and_not_promoted(
    plant: type[Push], worth: float, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(practice, "fit_policy", becoming(1.99))
    crown("toy", "1")
    before = playing.true_returns(acting(models.load_policy("models:/toy-policy/1")), ENV, 4, seed=0)
    plant.taken = 0
    status, answer, told = spoken([*FOUR, "--steps", "64", "--floor", "-10"])
    assert status == 0, told
    # 20 steps measure the old one; of the other 44, episodes of 5 leave 20 for the new one: 4 of them, as 5 would not
    assert (answer["steps"], plant.taken, answer["updates"]) == (60, 60, 20)
    assert plant.starts[-4:] == plant.starts[-12:-8]  # the same starts for both
    assert len(set(plant.starts[-12:])) == 8
    assert answer["true_environment"]["old"]["value"] == pytest.approx(worth, rel=1e-6)
    assert answer["true_environment"]["new"]["value"] == pytest.approx(9.95)
    assert (answer["finetuned_from"], answer["policy_version"], answer["handed_back"]) == ("1", "2", False)
    assert (answer["verdict"], answer["champion"], promotion.champion("toy")) == ("promote", "1", "1")
    assert (before < 7.5).all()  # or it would not be
    client = MlflowClient(store.connect())
    made = client.get_model_version("toy-policy", "2")
    kept = {key: made.tags[f"mbrl.{key}"] for key in ("simulator", "finetuned_from", "true_env", "true_steps")}
    assert kept == {
        "simulator": "toy-simulator/1",
        "finetuned_from": "toy-policy/1",
        "true_env": ENV,
        "true_steps": "60",
    }
    assert f"from logs and from 60 steps in the true environment `{ENV}`" in made.description
    assert "Fine-tuned from: [toy-policy/1]" in made.description
    assert "never tried" in client.get_model_version("toy-policy", "1").description
    verdict = chronicle.judged(Ledger.open("toy").entries(), "2")
    assert verdict is not None
    assert chronicle.decision(verdict).rules_version == "true returns 1"
    run = client.get_run(answer["run_id"])
    assert [point.step for point in curve(answer)] == [25, 30, 35, 40]
    assert (run.info.status, run.data.params["steps"]) == ("FINISHED", "64")
    assert spoken(["history", "toy", "--verify"])[0] == 0
    assert promotion.promote("toy").after == "2"


def test_a_policy_that_gets_worse_is_handed_back(
    plant: type[Push], worth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(practice, "fit_policy", becoming(-2.0))
    crown("toy", "1")
    floor = worth - 0.6 * (worth + 10)  # kept while two of the newest four episodes are the worst there are
    status, answer, told = spoken([*FOUR, "--steps", "1000", f"--floor={floor}"])
    assert status == 0, told
    assert answer["handed_back"]
    assert "handed back" in told
    returns = [point.value for point in curve(answer)]
    assert returns[1:] == [-10.0] * (len(returns) - 1)
    assert len(returns) <= 4
    assert plant.taken == answer["steps"] == 20 + STEPS * len(returns)  # not one more step
    assert "new" not in answer["true_environment"]
    assert (answer["verdict"], answer["policy_version"], promotion.champion("toy")) == ("handed back", "2", "1")
    assert answer["updates"] == STEPS * (len(returns) - 2)  # of the weights that played the last good episode
    with pytest.raises(promotion.RefusedError, match="the verdict on toy-policy/2 is 'handed back'"):
        promotion.promote("toy", "2")


def test_nothing_is_registered_where_the_floor_breaks_before_anything_was_learned(
    plant: type[Push], worth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(practice, "fit_policy", never)
    plant.since, plant.fee = 21, 100.0
    status, answer, told = spoken([*FOUR, "--steps", "1000", f"--floor={worth - 50}"])
    assert status == 0, told
    assert (plant.taken, answer["handed_back"], answer["policy_version"]) == (25, True, None)
    assert "no new version; toy-policy/1 stays as it is" in told
    assert versions() == [1]


def test_the_floor_holds_while_the_new_policy_is_measured(
    plant: type[Push], worth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(practice, "fit_policy", becoming(1.5))
    plant.since, plant.fee = 41, 100.0  # 4 episodes of practice end at step 40
    status, answer, told = spoken([*FOUR, "--steps", "60", "--floor=-10"])
    assert status == 0, told
    assert (plant.taken, answer["handed_back"], answer["updates"]) == (45, True, 15)


def never(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("the learning began")


def test_a_floor_above_the_old_policys_own_return_is_refused_before_learning(
    plant: type[Push], worth: float, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(practice, "fit_policy", never)
    status, answer, _ = spoken([*FOUR, "--steps", "1000", f"--floor={worth + 0.1}"])
    assert status == 1
    assert f"toy-policy/1 itself returns {figure(worth)} (mean of 4 episodes)" in answer["error"]
    assert plant.taken == 20
    assert versions() == [1]
    assert not (own / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--env", "null"], "none is named: --env"),
        (["--steps", "44"], "steps is 44, expected at least 45: 4 episodes of up to 5 steps"),
        (["--env", ENDLESS], "register it with max_episode_steps"),
        (["--env", "CartPole-v1"], "2 discrete actions, and toy-policy/1 has"),
        (["--env", "Nowhere-v1"], "there is no environment 'Nowhere-v1'"),
        (["--version", "null"], "toy-policy has no champion: name a version"),
        (["--version", "7"], "versions of toy-policy: [1]"),
        (["--episodes", "1"], "episodes is 1, expected at least 2"),
        (["--updates-per-step", "0"], "updates_per_step is 0, expected at least 1"),
        (["--floor", ".nan"], "floor is nan, expected a finite mean return"),
        (["--share", "1"], "share is 1.0, expected a number above 0 and below 1"),
    ],
)
def test_what_cannot_end_well_is_refused_before_the_first_step(
    arguments: list[str], part: str, plant: type[Push], own: Path
) -> None:
    status, answer, _ = spoken([*FOUR, "--steps", "1000", *arguments])
    assert status == 1
    assert part in answer["error"]
    assert plant.taken == 0
    assert not (own / "runs").exists()


def test_a_policy_without_its_learner_is_refused(
    whole: tuple[Path, dict[str, Any], str], plant: type[Push], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineage = Lineage("toy/pendulum-v0", whole[1]["data"]["fingerprint"], "toy-simulator/1")
    policy = models.load_policy("models:/toy-policy/1")
    folder = tmp_path / "moved"
    with RunLog.open("mbrl", "by hand") as log:
        models.log_policy(log, policy, "toy", lineage)
        with pytest.raises(ValueError, match=r"toy-policy/2 has no learner's checkpoint .*its run names none"):
            inherit("toy", "2")
        log.tags({"mbrl.folder": str(folder)})
        with pytest.raises(ValueError, match=rf"no learner's checkpoint .*\({folder}\)"):
            inherit("toy", "2")
        shutil.copytree(whole[0] / "here", folder)
        with pytest.raises(ValueError, match=rf"no learner's checkpoint .*\({folder}\)"):
            inherit("toy", "2")  # its facts speak of version 1 alone
    with torch.no_grad():
        next(policy.parameters()).add_(1.0)
    monkeypatch.setattr(models, "load_policy", lambda uri: policy)
    with pytest.raises(ValueError, match="has gone on since toy-policy/1 was registered"):
        inherit("toy", "1")
    assert plant.taken == 0


def test_a_learner_from_before_values_had_an_offset_is_refused(
    whole: tuple[Path, dict[str, Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = files.load

    lacking = ["carried", "sources"]

    def older(path: Path) -> dict[str, Any]:
        content: dict[str, Any] = load(path)
        for name in lacking:
            content.get("spec", {}).pop(name, None)
        return content

    monkeypatch.setattr(files, "load", older)
    inherit("toy", "1")  # the log has neither
    lacking.append("terminal_rate")
    with pytest.raises(ValueError, match=r"toy-policy/1 was learned before its spec had terminal_rate, which its valu"):
        inherit("toy", "1")


def test_another_log_under_the_same_id_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "other"))
    demonstration.log_pendulum("toy/pendulum-v0", 8, seed=5)
    with pytest.raises(ValueError, match="toy-policy/1 was learned from"):
        inherit("toy", "1")


def test_the_learner_goes_on_from_its_checkpoint_and_the_new_version_can_go_on_in_turn(
    plant: type[Push], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, seen = practice.fit_policy, []

    def spy(learner: Any, real: Any, simulator: Any, **settings: Any) -> Any:
        seen.append((real, settings, {k: v.clone() for k, v in learner.state_dict().items()}))
        return fit(learner, real, simulator, **settings)

    monkeypatch.setattr(practice, "fit_policy", spy)
    status, answer, told = spoken([*FOUR, "--steps", "55", "--floor=-10", "--share", "0.25", "--updates-per-step", "2"])
    assert status == 0, told
    left = inherit("toy", "1")
    assert all(torch.equal(v, seen[0][2][k]) for k, v in left.learner.state_dict().items())
    assert left.learner.optimizers["critics"].state_dict()["state"][0]["step"] == 300
    logged = len(left.data.rows(left.episodes))
    for number, (real, settings, _) in enumerate(seen, 1):
        true = real.obs.abs().sum(1) < 3.01  # of Push: Pendulum's speeds are mostly above
        assert settings["updates"] == 2 * STEPS
        assert settings["averaged"][1] == 300 + 2 * STEPS * (number - 1)  # where weights are averaged, it goes on
        assert (settings["batch_size"], settings["rollout_starts"]) == (32, 16)  # as in the run
        copies = (len(real.reward) - logged) / (number * STEPS)  # of what was played, as near a quarter as can be
        assert copies == int(copies) == pytest.approx(logged / 3 / (number * STEPS), abs=0.5)
        assert bool(true[logged:].all())
        torch.testing.assert_close(real.reward[logged:], real.action[logged:, 0])
        assert settings["ends"][logged:].tolist() == ([False] * (STEPS - 1) + [True]) * ((len(true) - logged) // STEPS)
    again = inherit("toy", answer["policy_version"])
    assert again.checkpoint["updates"] == 300 + answer["updates"]
    assert again.learner.optimizers["critics"].state_dict()["state"][0]["step"] == 300 + answer["updates"]
    assert again.simulator is not None
    status, answer, told = spoken([*FOUR, "--steps", "50", "--floor=-10", "--version", "2"])
    assert (status, answer["finetuned_from"], answer["policy_version"]) == (0, "2", "3"), told


def test_equal_seeds_end_alike(plant: type[Push]) -> None:
    answers = [spoken([*FOUR, "--steps", "50", "--floor=-10", "--seed", "3"])[1] for _ in range(2)]
    assert answers[0]["true_environment"] == answers[1]["true_environment"]
    first, second = (models.load_policy(f"models:/toy-policy/{v}").state_dict() for v in (2, 3))
    assert all(torch.equal(first[key], second[key]) for key in first)


def diverging(*sound: Any) -> Any:
    """What stands for `fit_policy` where updates diverge after these."""
    calls = iter(sound)

    def fit(*rows: Any, **settings: Any) -> Any:
        if (learned := next(calls, None)) is None:
            raise FloatingPointError("critics is nan at update 5")
        return learned(*rows, **settings)

    return fit


@pytest.mark.parametrize("sound", [1, 0])
def test_updates_that_diverge_end_it_with_what_was_learned_before(
    sound: int, plant: type[Push], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(practice, "fit_policy", diverging(*[becoming(1.5)] * sound))
    status, answer, told = spoken([*FOUR, "--steps", "1000", "--floor=-10"])
    if not sound:
        assert (status, answer["error"]) == (1, "FloatingPointError: critics is nan at update 5")
        assert versions() == [1]
        return
    assert status == 0, told
    assert "critics is nan at update 5; it ends here, with what was learned from the episodes before" in told
    assert (answer["updates"], answer["policy_version"], answer["handed_back"]) == (STEPS, "2", False)
    assert answer["steps"] == plant.taken == 20 + 2 * STEPS + 20  # two episodes of practice between two measurements
    assert answer["true_environment"]["new"]["value"] == pytest.approx(7.5)


def test_what_is_measured_below_the_floor_after_updates_that_diverge_is_not_handed_back_to(
    plant: type[Push], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(practice, "fit_policy", diverging(becoming(-2.0)))
    status, answer, told = spoken([*FOUR, "--steps", "1000", "--floor=-8"])
    assert (status, answer["handed_back"]) == (0, True), told
    assert versions() == [1]  # before the policy that is too bad there was the old one alone


def test_nothing_is_registered_where_the_plant_fails(plant: type[Push]) -> None:
    plant.fails = 33
    status, answer, _ = spoken([*FOUR, "--steps", "1000", "--floor=-10"])
    assert (status, answer["error"]) == (1, "RuntimeError: the plant does not answer")
    assert versions() == [1]
    client = MlflowClient(store.connect())
    experiment = client.get_experiment_by_name("mbrl")
    (run,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'toy fine-tuned'")
    assert run.info.status == "FAILED"


def test_a_reward_that_is_no_number_ends_it(plant: type[Push]) -> None:
    plant.since, plant.fee = 7, np.nan
    status, answer, _ = spoken([*FOUR, "--steps", "1000"])
    assert (status, plant.taken) == (1, 10)
    assert f"'{ENV}' gave an episode whose return is nan" in answer["error"]


def test_witnesses_of_a_version_without_a_simulator_are_those_of_what_it_was_fine_tuned_from(
    whole: tuple[Path, dict[str, Any], str],
) -> None:
    lineage = Lineage("toy/pendulum-v0", whole[1]["data"]["fingerprint"], finetuned_from="toy-policy/1")
    with RunLog.open("mbrl", "by hand") as log:
        version = models.log_policy(log, models.load_policy("models:/toy-policy/1"), "toy", lineage)
    origin = witnesses.origin(f"models:/toy-policy/{version}")
    assert (origin.run_id, origin.seed, origin.simulator) == (whole[1]["run_id"], 0, None)


def test_the_default_floor_is_the_lower_bound_of_the_old_policy(
    plant: type[Push], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(practice, "fit_policy", becoming(1.5))
    _, answer, _ = spoken([*FOUR, "--steps", "50"])
    assert answer["floor"] == answer["true_environment"]["old"]["low"]
    assert np.isfinite(answer["floor"])
