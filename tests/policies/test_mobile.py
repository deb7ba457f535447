"""MOBILE: the target is lowered by what models disagree about the value of what follows."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from exact_worlds import Told, bandit_world, plain_spec

from dynamics import RecurrentEnsemble
from mbrl.core import Batch, Spec, generator, seeded
from mbrl.simulator.simulator import Simulator
from mbrl.testing import check_learner
from mbrl.training.policy import fit_policy
from policies import MOBILE
from policies.functional import bellman_inconsistency

Problem = Callable[[bool], tuple[Spec, Batch]]
FAST = {"hidden": (32, 32), "samples": 2, "actor_lr": 3e-3, "critic_lr": 3e-3, "temperature_lr": 3e-3}


@pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
def test_contract(discrete: bool, problem: Problem) -> None:
    spec, _ = problem(discrete)
    check_learner(lambda spec: MOBILE(spec, hidden=(16,), samples=2), spec, bandit_world(spec))


def test_the_std_over_models_of_the_mean_over_samples_by_hand() -> None:
    values = torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[4.0, 0.0], [8.0, 0.0]], [[4.0, 0.0], [6.0, 0.0]]])
    # means of 2, 6 and 5 about 13/3: squares 49/9, 25/9 and 4/9, so sqrt(78 / 27)
    assert bellman_inconsistency(values).tolist() == pytest.approx([(78 / 27) ** 0.5, 0.0])
    assert bellman_inconsistency(values[:1]).tolist() == [0.0, 0.0]


def hand_worked(problem: Problem, shifts: tuple[float, float]) -> tuple[MOBILE, Simulator, Batch]:
    """A learner whose one critic says 2 s_0 - s_1 + 3, without a hidden layer, in a world that adds a shift to s."""
    spec = plain_spec(problem(False)[0], reward_mean=0.0)  # which values would begin at
    learner = MOBILE(spec, hidden=(), beta=1.5, samples=3, critics=1, discount=0.9)
    with torch.no_grad():
        learner.agent.slow.weights[0].copy_(torch.tensor([2.0, -1.0, 0.0, 0.0]).view(1, 4, 1))
        learner.agent.slow.biases[0].fill_(3.0)
    rows = Batch(*(column[:2] for column in problem(False)[1]))
    return learner, Simulator(Told(spec, shifts, std=1e-6), spec), rows._replace(terminated=torch.tensor([False, True]))


def test_targets_by_hand(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, world, rows = hand_worked(problem, (1.0, 4.0))
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(learner.agent, "improve", lambda batch, target, rng: seen.append(target) or {})
    told = learner.update(rows, rows, generator(0, "x"), world)
    # a shift of 1 or 4 in both channels moves 2 s_0 - s_1 by 1 or 4: std 1.5, whatever the state, but where the world
    # has ended: all models then say that nothing follows
    assert float(told["inconsistency"]) == pytest.approx(1.5 / 2, abs=1e-4)
    value = 2 * rows.next_obs[0, 0] - rows.next_obs[0, 1] + 3
    plain = [float(rows.reward[0] + 0.9 * value), float(rows.reward[1])]  # the second row is terminal
    assert seen[0].tolist() == pytest.approx([*plain, plain[0] - 1.5 * 1.5, plain[1]], abs=1e-3)


def test_models_that_agree_about_the_value_may_disagree_about_the_rest(problem: Problem) -> None:
    learner, world, rows = hand_worked(problem, (0.0, 0.0))
    with torch.no_grad():
        world.dynamics.shift[1] = torch.tensor([5.0, 10.0])  # 2 * 5 - 10 = 0
    assert learner.inconsistency(rows, world, generator(0, "x")).tolist() == pytest.approx([0.0, 0.0], abs=1e-4)


def test_negative_returns_are_reached_and_a_terminal_is_not_bootstrapped(problem: Problem) -> None:
    spec, rows = problem(False)
    for terminated, value in ((True, -1.0), (False, -2.0)):
        lost = rows._replace(
            reward=torch.full_like(rows.reward, -spec.reward_std),
            next_obs=rows.obs,
            terminated=torch.full_like(rows.terminated, terminated),
        )
        with seeded(0, "test"):
            learner = MOBILE(spec, **FAST, discount=0.5, tau=0.1)
        world, rng = Simulator(Told(spec), spec), generator(0, "train")
        for _ in range(200):
            index = torch.randint(len(rows.reward), (64,), generator=rng)
            part = Batch(*(column[index] for column in lost))
            learner.update(part, part, rng, world)
        found = learner.agent.critics(rows.obs, rows.action).detach().mean()
        assert float(found) == pytest.approx(value, abs=0.15)


@pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
def test_the_bandit_is_solved_from_uniform_actions_and_its_world(discrete: bool, problem: Problem) -> None:
    spec, rows = problem(discrete)
    with seeded(0, "test"):
        learner = MOBILE(spec, **FAST, entropy_target=None if discrete else -6.0)
    settings = {"batch_size": 128, "horizon": 1, "rollout_every": 50, "rollout_starts": 200}
    fit_policy(learner, rows, bandit_world(spec), updates=300, **settings)
    answer = learner.policy(rows.obs)
    if discrete:
        assert (answer == rows.obs.argmax(-1)).float().mean() > 0.95
    else:
        assert (answer - rows.obs).square().sum(-1).mean() < 0.1  # the logged actions are 1.1 away


def test_bad_arguments(problem: Problem) -> None:
    spec, rows = problem(False)
    for arguments, message in (({"beta": -1.0}, "beta is -1"), ({"samples": 0}, "samples is 0")):
        with pytest.raises(ValueError, match=message):
            MOBILE(spec, **arguments)
    with pytest.raises(ValueError, match=r"MOBILE asks .*channels \[1\] are exogenous"):
        MOBILE(replace(spec, exogenous=(1,), predicted=(0,)))
    learner = MOBILE(spec, **FAST)
    with pytest.raises(ValueError, match="MOBILE asks the simulator about imagined rows, and was given none"):
        learner.update(rows, rows, generator(0, "x"))
    remembering = Simulator(RecurrentEnsemble(spec, members=2, elites=2), spec)
    with pytest.raises(ValueError, match="RecurrentEnsemble remembers what was before"):
        learner.enter(remembering)
