"""RAMBO: the model learns on, against the policy, in a copy of the simulator."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from exact_worlds import Told, bandit_world, plain_spec

from dynamics import DeterministicEnsemble, ProbabilisticEnsemble, RecurrentEnsemble
from mbrl.core import Batch, Spec, generator, seeded
from mbrl.simulator.simulator import Simulator
from mbrl.testing import check_learner
from mbrl.training.policy import fit_policy
from policies import RAMBO
from policies.functional import adversarial_loss

Problem = Callable[[bool], tuple[Spec, Batch]]
FAST = {"hidden": (32, 32), "actor_lr": 3e-3, "critic_lr": 3e-3, "temperature_lr": 3e-3}


@pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
def test_contract(discrete: bool, problem: Problem) -> None:
    spec, _ = problem(discrete)
    with seeded(0, "world"):
        model = ProbabilisticEnsemble(spec, members=2, elites=2, hidden=8, layers=1)
    check_learner(lambda spec: RAMBO(spec, hidden=(16,)), spec, Simulator(model, spec))


def test_the_adversarial_loss_by_hand() -> None:
    log_density = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    loss = adversarial_loss(log_density, torch.tensor([5.0, 5.0, 8.0]))
    # advantages about their mean of 6: -1, -1 and 2, in units of their std sqrt(2)
    assert float(loss.detach()) == pytest.approx((-1 - 2 + 12) / 2**0.5 / 3, rel=1e-4)
    loss.backward()
    assert log_density.grad is not None
    assert log_density.grad.tolist() == pytest.approx([-1 / 3 / 2**0.5, -1 / 3 / 2**0.5, 2 / 3 / 2**0.5], rel=1e-4)


def test_a_world_says_how_likely_transitions_are(problem: Problem) -> None:
    spec = plain_spec(problem(False)[0])
    world = Simulator(Told(spec, (0.0, 1.0), std=0.5), spec)
    obs = torch.tensor([[0.0, 0.0]])
    row = Batch(obs, obs, torch.tensor([0.5]), torch.tensor([[1.0, 0.0]]), torch.tensor([False]))
    # both members are a distance of 1 / 0.5 off in one channel, and 0.5 / 0.5 in the reward: equal densities
    of_one = 3 * torch.distributions.Normal(0.0, 0.5).log_prob(torch.tensor(0.0)) - (4 + 1) / 2
    assert float(world.log_density(row).detach()) == pytest.approx(float(of_one), abs=1e-5)
    world.recalibration.scale.fill_(2.0)  # as `step` samples: stds of 1
    wider = 3 * torch.distributions.Normal(0.0, 1.0).log_prob(torch.tensor(0.0)) - (1 + 0.25) / 2
    assert float(world.log_density(row).detach()) == pytest.approx(float(wider), abs=1e-5)


def test_the_model_takes_what_the_policy_gets_as_far_as_the_log_lets_it(problem: Problem) -> None:
    spec, rows = problem(False)
    bonus = []
    for adversary in (0.0, 1.0):
        with seeded(0, "test"):
            learner = RAMBO(spec, **FAST, adversary=adversary, model_lr=1e-2)
        honest = bandit_world(spec)
        learner.enter(honest)
        rng = generator(0, "train")
        for _ in range(40):
            index = torch.randint(len(rows.reward), (128,), generator=rng)
            part = Batch(*(column[index] for column in rows))
            learner.update(part, part, rng)
        assert not honest.dynamics.bonus.any()  # it is the copy that has moved
        assert learner.world is not None
        bonus.append(float(learner.world.dynamics.bonus.detach().mean()))
    assert abs(bonus[0]) < 0.02  # the log's own rewards, which this model knows
    assert bonus[1] < -0.05
    assert bonus[1] > -1.0  # not for ever: the log pulls it back


@pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
def test_the_bandit_is_solved_from_uniform_actions_and_its_world(discrete: bool, problem: Problem) -> None:
    spec, rows = problem(discrete)
    with seeded(0, "test"):
        learner = RAMBO(spec, **FAST, entropy_target=None if discrete else -6.0)
    settings = {"batch_size": 128, "horizon": 1, "rollout_every": 50, "rollout_starts": 200}
    fit_policy(learner, rows, bandit_world(spec), updates=300, **settings)
    answer = learner.policy(rows.obs)
    if discrete:
        assert (answer == rows.obs.argmax(-1)).float().mean() > 0.95
    else:
        assert (answer - rows.obs).square().sum(-1).mean() < 0.1  # the logged actions are 1.1 away


def test_bad_arguments(problem: Problem) -> None:
    spec, rows = problem(False)
    with pytest.raises(ValueError, match="adversary is -1"):
        RAMBO(spec, adversary=-1.0)
    with pytest.raises(ValueError, match=r"RAMBO asks .*channels \[1\] are exogenous"):
        RAMBO(replace(spec, exogenous=(1,), predicted=(0,)))
    learner = RAMBO(spec, **FAST)
    with pytest.raises(ValueError, match="RAMBO trains a copy of the simulator, and has entered none"):
        learner.update(rows, rows, generator(0, "x"))
    with pytest.raises(ValueError, match="RecurrentEnsemble remembers what was before"):
        learner.enter(Simulator(RecurrentEnsemble(spec, members=2, elites=2), spec))
    with pytest.raises(ValueError, match="DeterministicEnsemble states no spread of its predictions"):
        learner.enter(Simulator(DeterministicEnsemble(spec, members=2, elites=2), spec))
    learner.enter(bandit_world(spec))
    with pytest.raises(ValueError, match="RAMBO keeps its model true to logged rows and got none"):
        learner.update(Batch(*(column[:0] for column in rows)), rows, generator(0, "x"))
