"""Every learner honours its contract, and solves a problem whose answer is known."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mbrl.core import Batch, Learner, Spec, generator, rows_at, seeded
from mbrl.testing import check_learner, no_host_reads
from mbrl.training.policy import fit_policy
from mbrl.training.population import Population
from policies import BC, COMBO, CQL, EDAC, MOBILE, RAMBO, SAC, TD3BC, ReBRAC

Problem = Callable[[bool], tuple[Spec, Batch]]
SMALL = {"hidden": (32, 32)}
FAST = {**SMALL, "actor_lr": 3e-3, "critic_lr": 3e-3, "temperature_lr": 3e-3}
MADE = {
    "sac": (SAC, SMALL),
    "sac-n": (SAC, {**SMALL, "critics": 4, "layer_norm": True}),
    "combo": (COMBO, {**SMALL, "samples": 3}),
    "bc": (BC, SMALL),
}


@pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
@pytest.mark.parametrize("name", MADE)
def test_contract(name: str, discrete: bool, problem: Problem) -> None:
    cls, arguments = MADE[name]
    check_learner(lambda spec: cls(spec, **arguments), problem(discrete)[0])


@pytest.mark.parametrize(
    ("lessons", "told"),
    [
        (lambda rows: rows_at(rows, torch.arange(5)), r"\[5, 2\], expected \[12, 2\]"),
        (
            lambda rows: rows_at(rows, torch.zeros(12, 3).long())._replace(obs=rows.obs),
            r"\[12, 2\], expected \[12, 3, 2\]",
        ),
    ],
    ids=["rows left out", "a column of single rows"],
)
def test_lessons_of_another_shape_are_told(
    lessons: Callable[[Batch], Batch], told: str, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BC, "study", lambda self, real, ends: lessons(real))
    with pytest.raises(AssertionError, match=f"study gives obs of {told}"):
        check_learner(lambda spec: BC(spec, hidden=(8,)), problem(False)[0])


def test_the_arguments_that_learners_share_arrive_and_are_remembered(problem: Problem) -> None:
    own: dict[type[Learner], set[str]] = {
        SAC: {"soft_backup"},
        COMBO: {"conservatism", "samples"},
        CQL: {"conservatism", "samples", "threshold", "conservatism_lr"},
        EDAC: {"diversity"},
        MOBILE: {"beta", "samples"},
        RAMBO: {"adversary", "model_lr", "soft_backup", "imitation"},
        TD3BC: {"alpha"},
        ReBRAC: {"actor_penalty", "critic_penalty"},
    }
    shared = {"hidden", "critics", "layer_norm", "discount", "tau", "actor_lr", "critic_lr"}
    soft, delayed = {"temperature_lr", "entropy_target"}, {"delay", "noise", "noise_limit"}
    for cls, names in own.items():
        family = delayed if cls in (TD3BC, ReBRAC) else soft
        learner: Any = cls(problem(False)[0], hidden=(8,), critics=3, discount=0.5, critic_lr=0.25)
        init_args = learner.config["init_args"]
        assert set(init_args) == names | shared | family
        assert (init_args["critics"], init_args["discount"], init_args["tau"]) == (3, 0.5, 0.005)
        assert (learner.agent.critics.count, learner.agent.discount, learner.agent.tau) == (3, 0.5, 0.005)
        assert [group["lr"] for group in learner.optimizers["critics"].param_groups] == [0.25]


def test_the_bonus_is_in_the_target_where_the_paper_has_it(problem: Problem) -> None:
    held = {SAC: True, RAMBO: True, EDAC: True, COMBO: False, CQL: False, MOBILE: False}
    for cls, soft in held.items():
        assert cls(problem(False)[0], hidden=(8,)).agent.soft_backup is soft
    for cls in (SAC, RAMBO):
        assert cls(problem(False)[0], hidden=(8,), soft_backup=False).agent.soft_backup is False


def train(learner: Learner, rows: Batch, updates: int, batch: int = 128) -> None:
    rng = generator(0, "train")
    for _ in range(updates):
        index = torch.randint(len(rows.reward), (batch,), generator=rng)
        learner.update(Batch(*(column[index] for column in rows)), None, rng)


@pytest.mark.parametrize(("cls", "extra"), [(SAC, {}), (COMBO, {"conservatism": 0.1, "samples": 3})])
def test_box_actions_are_learned_from_uniform_ones(
    cls: type[Learner], extra: dict[str, float], problem: Problem
) -> None:
    spec, rows = problem(False)
    with seeded(0, "test"):
        learner = cls(spec, **FAST, entropy_target=-6.0, **extra)
    train(learner, rows, 350)
    error = (learner.policy(rows.obs) - rows.obs).square().sum(-1).mean()
    assert error < 0.1  # the logged actions are 1.1 away, and the action 0 is 0.43 away


def test_every_member_of_a_population_learns(problem: Problem) -> None:
    spec, rows = problem(False)
    arguments = {**FAST, "hidden": list(FAST["hidden"]), "entropy_target": -6.0}
    together = Population(spec, {"class_path": "policies.SAC", "init_args": arguments}, [0, 1])
    fit_policy(together, rows, updates=350, batch_size=128, real_ratio=1.0)
    for member in range(2):
        error = (together.policy.single(member)(rows.obs) - rows.obs).square().sum(-1).mean()
        assert error < 0.1


@pytest.mark.parametrize(("cls", "extra"), [(SAC, {}), (COMBO, {"conservatism": 0.1})])
def test_choices_are_learned_from_uniform_ones(cls: type[Learner], extra: dict[str, float], problem: Problem) -> None:
    spec, rows = problem(True)
    with seeded(0, "test"):
        learner = cls(spec, **FAST, **extra)
    train(learner, rows, 300)
    assert (learner.policy(rows.obs) == rows.obs.argmax(-1)).float().mean() > 0.95


@pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
def test_cloning_recovers_the_behaviour(discrete: bool, problem: Problem) -> None:
    spec, rows = problem(discrete)
    best = torch.nn.functional.one_hot(rows.obs.argmax(-1), 2).float() if discrete else rows.obs
    with seeded(0, "test"):
        learner = BC(spec, **SMALL)
    train(learner, rows._replace(action=best), 400)
    wanted = rows.obs.argmax(-1) if discrete else rows.obs
    assert (learner.policy(rows.obs) - wanted).abs().float().mean() < 0.05


def test_a_terminal_is_not_bootstrapped_and_negative_values_are_reached(problem: Problem) -> None:
    spec, rows = problem(False)
    living = rows._replace(reward=torch.full_like(rows.reward, -spec.reward_std), next_obs=rows.obs)
    for terminated, value in ((True, -1.0), (False, -1.0 / (1 - 0.5))):
        with seeded(0, "test"):
            learner = SAC(spec, **FAST, discount=0.5, tau=0.1, soft_backup=False)
        train(learner, living._replace(terminated=torch.full_like(rows.terminated, terminated)), 250)
        found = learner.agent.critics(rows.obs, rows.action).detach().mean()
        assert float(found) == pytest.approx(value, abs=0.1)


def test_conservatism_lowers_the_value_of_actions_that_the_log_lacks(problem: Problem) -> None:
    spec, rows = problem(False)
    narrow = rows._replace(action=rows.action * 0.1, reward=torch.zeros_like(rows.reward))
    gaps = []
    for conservatism in (0.0, 5.0):
        with seeded(0, "test"):
            learner = COMBO(spec, **FAST, conservatism=conservatism, samples=3)
        train(learner, narrow, 100)
        foreign = torch.ones_like(rows.action)
        critics = learner.agent.critics
        gaps.append(float((critics(rows.obs, narrow.action) - critics(rows.obs, foreign)).detach().mean()))
    assert gaps[1] > gaps[0] + 0.5


def test_updates_read_nothing_from_the_device(problem: Problem) -> None:
    for cls, arguments in MADE.values():
        for discrete in (False, True):
            spec, rows = problem(discrete)
            learner = cls(spec, **arguments)
            part = Batch(*(column[:16] for column in rows))
            learner.update(part, part, generator(0, "x"))  # the first step makes the optimisers' state
            with no_host_reads():
                learner.update(part, part, generator(0, "x"))


def test_a_policy_for_the_other_kind_of_action_says_so(problem: Problem) -> None:
    from policies.actors import Categorical, TanhGaussian

    with pytest.raises(ValueError, match=r"TanhGaussian acts in Box spaces.*Discrete"):
        TanhGaussian(problem(True)[0])
    with pytest.raises(ValueError, match=r"Categorical acts in Discrete spaces.*Box"):
        Categorical(problem(False)[0])
