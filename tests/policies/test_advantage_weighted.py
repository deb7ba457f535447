"""IQL and AWAC: weighted imitation, its fixed point, the values behind it, and what it makes of a mixed log."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from mixed_logs import mixed, true_return

from mbrl.core import Batch, Learner, Spec, generator, seeded
from mbrl.testing import check_learner, check_policy
from mbrl.training.policy import fit_policy
from policies import AWAC, BC, IQL
from policies.actors import Gaussian
from policies.functional import advantage_weighted, expectile_loss

Problem = Callable[[bool], tuple[Spec, Batch]]
FAST: dict[str, Any] = {"hidden": (32, 32), "actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.05}
BOTH = pytest.mark.parametrize("cls", [IQL, AWAC])
KINDS = pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])


def trained(cls: Any, spec: Spec, rows: Batch, updates: int, **arguments: Any) -> Any:
    with seeded(0, "test"):
        learner = cls(spec, **arguments)
    fit_policy(learner, rows, updates=updates, batch_size=128, real_ratio=1.0)
    return learner


@KINDS
@BOTH
def test_contract(cls: type[Learner], discrete: bool, problem: Problem) -> None:
    assert not cls.imagines
    check_learner(lambda spec: cls(spec, hidden=(16,)), problem(discrete)[0])


def test_expectile_loss() -> None:
    assert expectile_loss(torch.tensor([1.0, -2.0]), 0.7).tolist() == pytest.approx([0.7, 1.2])
    place = torch.tensor(0.7, requires_grad=True)  # of 0 and 1 the 0.7-expectile is 0.7: 0.7 * 0.3 = 0.3 * 0.7
    expectile_loss(torch.tensor([0.0, 1.0]) - place, 0.7).sum().backward()
    assert place.grad is not None
    assert float(place.grad) == pytest.approx(0.0, abs=1e-6)


def test_weights_are_clipped_and_constant() -> None:
    """Weights 1, 2 and min(e^1000, 5) of log probabilities -1, -2, -3: (1 + 4 + 15) / 3."""
    log_prob = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    values = torch.tensor([0.0, math.log(2) / 2, 500.0], requires_grad=True)
    loss = advantage_weighted(log_prob, values, beta=2.0, largest=5.0)
    assert float(loss.detach()) == pytest.approx(20 / 3)
    loss.backward()
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == pytest.approx([-1 / 3, -2 / 3, -5 / 3])
    assert values.grad is None


def test_a_gaussian_policy_has_the_normal_s_density_and_clips_what_it_draws(problem: Problem) -> None:
    spec = replace(problem(False)[0], action_low=(0.0, -3.0), action_high=(4.0, 1.0))
    with seeded(0, "test"):
        policy = Gaussian(spec, (8,))
    check_policy(policy)
    with torch.no_grad():
        policy.raw_std += 1.0
        obs, half = torch.zeros(20_000, 2), torch.tensor([2.0, 2.0])
        mean, log_std = policy.distribution(obs[:1])
        assert log_std.tolist() == pytest.approx([-5 + 7 / (1 + math.exp(-1))] * 2, rel=1e-5)
        plain = torch.distributions.Normal(policy.act(obs[:1], None), half * log_std.exp())
        where = torch.tensor([[1.0, -3.0]])
        assert torch.allclose(policy.log_prob(obs[:1], where), plain.log_prob(where).sum(-1), atol=1e-5)
        drawn = policy.act(obs, generator(0, "noise"))
    assert drawn.amin(0).tolist() == [0.0, -3.0]
    beyond = torch.distributions.Normal(mean[0], log_std.exp()).cdf(torch.tensor(-1.0))  # all of it on the lower bound
    on_bound = (drawn == torch.tensor([0.0, -3.0])).float().mean(0)
    assert on_bound.tolist() == pytest.approx(beyond.tolist(), abs=0.015)


@BOTH
def test_the_actor_s_fixed_point_is_the_log_s_policy_times_exp_of_the_advantage(cls: Any, problem: Problem) -> None:
    """Uniform choices, rewards 0 and 1, one step: the odds of the better choice are exp(beta / reward_std)."""
    spec, rows = problem(True)
    learner = trained(cls, spec, rows, 300, **FAST, beta=0.5)
    odds = math.exp(0.5 / spec.reward_std)
    chance = learner.policy.log_probs(rows.obs).detach().exp().amax(-1)
    clear = (rows.obs[:, 0] - rows.obs[:, 1]).abs() > 0.4
    assert float(chance[clear].mean()) == pytest.approx(odds / (1 + odds), abs=0.03)


def test_iql_s_value_is_an_expectile_of_logged_actions(problem: Problem) -> None:
    """Of rewards 0 and 1, equally often and told by the action alone: the expectile itself."""
    spec, rows = problem(True)
    told = rows._replace(obs=torch.zeros_like(rows.obs), reward=rows.action[:, 1])
    learner = trained(IQL, spec, told, 300, **FAST, value_lr=3e-3, expectile=0.9)
    assert float(learner.value(told.obs[:1]).detach()) * spec.reward_std == pytest.approx(0.9, abs=0.04)


def test_awac_s_value_is_that_of_its_own_policy(problem: Problem) -> None:
    """(1 - p) Q_0 + p Q_1 for Discrete actions, exactly, where p is the actor's, and the smaller Q of two counts."""
    spec, rows = problem(True)
    with seeded(0, "test"):
        learner = AWAC(spec, hidden=(8,))
    with torch.no_grad():
        found = learner._expected(learner.critics, rows.obs, generator(0, "unused"))
        q = learner.critics.every(rows.obs).numpy()  # [2, B, A]
        p = learner.actor.log_probs(rows.obs).exp().numpy()
    assert torch.allclose(found, torch.from_numpy((p * q.min(0)).sum(-1)), atol=1e-6)


@BOTH
def test_critics_are_fitted_to_what_comes_after_unless_the_world_ended(cls: Any, problem: Problem) -> None:
    """r / reward_std + discount V(s'), or r / reward_std alone: of IQL's V, or of AWAC's slow critics and actor."""
    spec, rows = problem(True)
    ends = torch.arange(len(rows.reward)) % 2 == 0
    rows = rows._replace(terminated=ends)
    with seeded(0, "test"):
        learner = cls(spec, hidden=(8,), discount=0.8, **({"value_lr": 0.0} if cls is IQL else {}))
    with torch.no_grad():
        for weight in learner.slow.parameters():
            weight += 0.2
        after = (learner.actor.log_probs(rows.next_obs).exp() * learner.slow.every(rows.next_obs).amin(0)).sum(-1)
        if cls is IQL:
            after = learner.value(rows.next_obs)
        target = rows.reward / spec.reward_std + 0.8 * after * (1 - ends.float())
        expected = (learner.critics(rows.obs, rows.action) - target).square().mean()
    found = learner.update(rows, None, generator(0, "update"))["critic_loss"]
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@BOTH
def test_box_actions_are_learned_from_uniform_ones(cls: Any, problem: Problem) -> None:
    spec, rows = problem(False)
    learner = trained(cls, spec, rows, 250, **FAST)
    error = (learner.policy(rows.obs) - rows.obs).square().sum(-1).mean()
    assert error < 0.1  # the logged actions are 1.1 away, and the action 0 is 0.43 away


@KINDS
@BOTH
def test_a_mixed_log_is_left_behind(cls: Any, discrete: bool) -> None:
    spec, rows = mixed(discrete)
    learner = trained(cls, spec, rows, 300, **FAST, discount=0.9)
    assert true_return(learner.policy) > -2.0


@KINDS
def test_imitation_of_a_mixed_log_is_worse_than_doing_nothing(discrete: bool) -> None:
    spec, rows = mixed(discrete)
    assert true_return(trained(BC, spec, rows, 150, hidden=(32, 32)).policy) < -5.0


@pytest.mark.parametrize("beta", [-0.1, float("nan")])
@BOTH
def test_a_negative_beta_is_refused(cls: Any, beta: float, problem: Problem) -> None:
    with pytest.raises(ValueError, match=rf"beta is {beta}, expected 0 \(imitation\) or more"):
        cls(problem(False)[0], beta=beta)


@pytest.mark.parametrize("expectile", [0.0, 1.0, float("nan")])
def test_an_expectile_outside_0_and_1_is_refused(expectile: float, problem: Problem) -> None:
    with pytest.raises(ValueError, match=rf"expectile is {expectile}, expected a number between 0 and 1"):
        IQL(problem(False)[0], expectile=expectile)
