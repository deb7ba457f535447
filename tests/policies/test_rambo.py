"""RAMBO: the model learns on, against the policy, in a copy of the simulator."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from exact_worlds import Told, bandit_world, plain_spec

from dynamics import DeterministicEnsemble, ProbabilisticEnsemble, RecurrentEnsemble
from mbrl.core import Batch, Spec, generator, seeded
from mbrl.simulator.simulator import Simulator
from mbrl.testing import check_learner
from mbrl.training.policy import fit_policy
from policies import RAMBO, Planning
from policies.functional import adversarial_loss

Problem = Callable[[bool], tuple[Spec, Batch]]
FAST: dict[str, Any] = {"hidden": (32, 32), "actor_lr": 3e-3, "critic_lr": 3e-3, "temperature_lr": 3e-3}


@pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
def test_contract(discrete: bool, problem: Problem) -> None:
    spec, _ = problem(discrete)
    with seeded(0, "world"):
        model = ProbabilisticEnsemble(spec, members=2, elites=2, hidden=8, layers=1)
    check_learner(lambda spec: RAMBO(spec, hidden=(16,)), spec, Simulator(model, spec))


@pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
def test_contract_across_the_end_of_imitation(discrete: bool, problem: Problem) -> None:
    spec, _ = problem(discrete)
    with seeded(0, "world"):
        model = ProbabilisticEnsemble(spec, members=2, elites=2, hidden=8, layers=1)
    check_learner(lambda spec: RAMBO(spec, hidden=(16,), imitation=4), spec, Simulator(model, spec))


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


def test_what_was_clipped_moves_the_model_no_farther(problem: Problem) -> None:
    """A mean beyond the range, where most samples are on the bound: their expected score is 0, or it would run away."""
    spec = plain_spec(problem(False)[0])
    world = Simulator(Told(spec, (0.0, 0.0), std=0.5), spec, margin=0.0)
    obs = (torch.tensor(spec.obs_high) + 0.25).expand(20_000, -1)
    action, rng = torch.zeros(len(obs), spec.action_dim), generator(0, "test")
    with torch.no_grad():
        next_obs, reward, terminated, _, _ = world.plain().step(obs, action, rng)
    assert float((next_obs == torch.tensor(spec.obs_high)).float().mean()) == pytest.approx(0.69, abs=0.02)
    world.log_density(Batch(obs, action, reward, next_obs, terminated)).mean().backward()
    for weight in world.dynamics.parameters():
        assert weight.grad is not None
        assert (0.5 * weight.grad).flatten().tolist() == pytest.approx([0.0] * weight.numel(), abs=0.02)


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


def test_where_updates_go_on_so_does_the_model_that_it_has_changed(problem: Problem) -> None:
    """Fine-tuning enters the simulator before the updates that follow each true episode."""
    spec, rows = problem(False)
    with seeded(0, "test"):
        learner = RAMBO(spec, **FAST, adversary=1.0, model_lr=1e-2)
    world = learner.enter(bandit_world(spec))
    learner.update(rows, rows, generator(0, "train"))
    moved = copy.deepcopy(learner.state_dict())
    assert learner.enter(bandit_world(spec)) is world
    assert all(torch.equal(moved[key], value) for key, value in learner.state_dict().items())
    (state, *_) = learner.optimizers["model"].state.values()
    assert int(state["step"]) == 1


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


def test_the_imitation_loss_by_hand(problem: Problem) -> None:
    """Of a policy about 0 with a log std of -1.5: at 0, and at a bound of 3, which counts as 0.99 of it."""
    spec, rows = problem(False)
    learner = RAMBO(replace(spec, action_low=(-3.0, -3.0), action_high=(3.0, 3.0)), hidden=(8,))
    choices = RAMBO(problem(True)[0], hidden=(8,))
    with torch.no_grad():
        for weight in [*learner.policy.parameters(), *choices.policy.parameters()]:
            weight.zero_()
        two = Batch(*(column[:2] for column in rows))
        found = learner.imitation_loss(two._replace(action=torch.tensor([[0.0, 0.0], [3.0, 0.0]])))
        even = choices.imitation_loss(two._replace(action=torch.eye(2)))
    peak = 1.5 - math.log(2 * math.pi) / 2 - math.log(3)  # log density of a channel at 0
    bound = peak - 0.5 * (math.atanh(0.99) / math.exp(-1.5)) ** 2 - math.log(1 - 0.99**2)
    assert float(found) == pytest.approx(-(3 * peak + bound) / 2, rel=1e-4)
    assert float(even) == pytest.approx(math.log(2))


def restored(learner: RAMBO, **arguments: Any) -> RAMBO:
    """Another learner, in the state of this one."""
    twin = RAMBO(learner.spec, **FAST, **arguments)
    twin.enter(bandit_world(learner.spec))
    twin.load_state_dict(learner.state_dict())
    for name, optimizer in learner.optimizers.items():
        twin.optimizers[name].load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return twin


def test_the_game_begins_when_imitation_is_over(problem: Problem) -> None:
    """Two updates are of imitation, without an adversary; the third is that of a learner that never imitates."""
    spec, rows = problem(False)
    part = Batch(*(column[:64] for column in rows))
    with seeded(0, "test"):
        learner = RAMBO(spec, **FAST, adversary=1.0, imitation=2)
    learner.enter(bandit_world(spec))
    temperature = learner.agent.log_temperature.detach().clone()
    for number in range(2):
        peaceful, loss = restored(learner, adversary=0.0, imitation=9), learner.imitation_loss(part)
        expected = torch.autograd.grad(loss, list(learner.policy.parameters()))
        for one in (learner, peaceful):
            one.update(part, part, generator(number, "a"))
        assert all(torch.equal(v, peaceful.state_dict()[k]) for k, v in learner.state_dict().items())
        for parameter, gradient in zip(learner.policy.parameters(), expected, strict=True):
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, gradient, atol=1e-6)
        assert torch.equal(learner.agent.log_temperature, temperature)
    at_once = restored(learner, adversary=1.0)
    for one in (learner, at_once):
        one.update(part, part, generator(2, "a"))
    assert all(torch.equal(v, at_once.state_dict()[k]) for k, v in learner.state_dict().items())
    assert not torch.equal(learner.agent.log_temperature, temperature)
    assert int(learner.updates) == 3


@pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
def test_imitation_makes_the_log_s_policy_whatever_it_earns(discrete: bool, problem: Problem) -> None:
    """The logged action is the worst of the bandit: the opposite of the observation, or its smaller coordinate."""
    spec, rows = problem(discrete)
    worst = torch.eye(2)[rows.obs.argmin(-1)] if discrete else -rows.obs
    rows = rows._replace(action=worst, reward=torch.zeros_like(rows.reward))
    with seeded(0, "test"):
        learner = RAMBO(spec, **FAST, imitation=200)
    settings = {"batch_size": 128, "horizon": 1, "rollout_every": 50, "rollout_starts": 200}
    fit_policy(learner, rows, bandit_world(spec), updates=200, **settings)
    wanted = worst.argmax(-1) if discrete else worst
    assert (learner.policy(rows.obs) - wanted).abs().float().mean() < 0.08


def test_bad_arguments(problem: Problem) -> None:
    spec, rows = problem(False)
    with pytest.raises(ValueError, match="adversary is -1"):
        RAMBO(spec, adversary=-1.0)
    with pytest.raises(ValueError, match="imitation is -1, expected a number of updates"):
        RAMBO(spec, imitation=-1)
    with pytest.raises(ValueError, match=r"RAMBO asks .*channels \[1\] are exogenous"):
        RAMBO(replace(spec, exogenous=(1,), predicted=(0,)))
    learner = RAMBO(spec, **FAST)
    with pytest.raises(ValueError, match="RAMBO trains a copy of the simulator, and has entered none"):
        learner.update(rows, rows, generator(0, "x"))
    with pytest.raises(ValueError, match="RecurrentEnsemble remembers what was before"):
        learner.enter(Simulator(RecurrentEnsemble(spec, members=2, elites=2), spec))
    with pytest.raises(ValueError, match="DeterministicEnsemble states no spread of its predictions"):
        learner.enter(Simulator(DeterministicEnsemble(spec, members=2, elites=2), spec))
    with pytest.raises(ValueError, match=r"best is 0.5, and RAMBO keeps its model true to the logged rows"):
        fit_policy(learner, rows, bandit_world(spec), best=0.5)
    inner = {"class_path": "policies.RAMBO", "init_args": FAST}
    planning = Planning(spec, inner, {"class_path": "policies.MPPI", "init_args": {}}, horizon=1, penalty=0.0)
    with pytest.raises(ValueError, match=r"best is 0.5, and Planning keeps its model true to the logged rows"):
        fit_policy(planning, rows, bandit_world(spec), best=0.5)
    learner.enter(bandit_world(spec))
    with pytest.raises(ValueError, match="RAMBO keeps its model true to logged rows and got none"):
        learner.update(Batch(*(column[:0] for column in rows)), rows, generator(0, "x"))
