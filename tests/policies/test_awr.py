"""AWR: returns of whole episodes by hand, cut or terminated, the weights they give, and what comes of a mixed log."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from mixed_logs import mixed_log, true_return

from mbrl.core import Batch, Spec, discounted_sums, generator, seeded
from mbrl.testing import check_learner
from mbrl.training.policy import fit_policy
from policies import AWR
from policies.functional import standardised

Problem = Callable[[bool], tuple[Spec, Batch]]
FAST: dict[str, Any] = {"hidden": (32, 32), "actor_lr": 3e-3, "value_lr": 3e-3}
KINDS = pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
ENDS = torch.tensor([False, False, True, False, True])


def episodes(rows: Batch) -> Batch:
    """Five rows: rewards 1, 2, 4 in an episode that terminates, and 6, 8 in one that is cut."""
    five = Batch(*(column[:5] for column in rows))
    ended = torch.tensor([False, False, True, False, False])
    return five._replace(reward=torch.tensor([1.0, 2.0, 4.0, 6.0, 8.0]), terminated=ended)


@KINDS
def test_contract(discrete: bool, problem: Problem) -> None:
    assert not AWR.imagines
    check_learner(lambda spec: AWR(spec, hidden=(16,)), problem(discrete)[0])


def test_sums_by_hand() -> None:
    """The first: 1 + 2 / 2 + 4 / 4, 2 + 4 / 2, 4, each with 10 / 2^n; the second: 6 + 8 / 2 and 8, with 20 / 2^n."""
    reward = torch.tensor([1.0, 2.0, 4.0, 6.0, 8.0])
    beyond = torch.tensor([99.0, 99.0, 10.0, 99.0, 20.0])
    assert discounted_sums(reward, ENDS, 0.5, torch.zeros(5)).tolist() == [3.0, 4.0, 4.0, 10.0, 8.0]
    assert discounted_sums(reward, ENDS, 0.5, beyond).tolist() == [4.25, 6.5, 9.0, 15.0, 18.0]


def test_standardised_by_hand() -> None:
    assert standardised(torch.tensor([1.0, 3.0, 5.0, 7.0])).tolist() == pytest.approx(
        [-3 / 5**0.5, -1 / 5**0.5, 1 / 5**0.5, 3 / 5**0.5], rel=1e-5
    )
    assert standardised(torch.full((3,), 7.0)).tolist() == [0.0, 0.0, 0.0]


def test_a_lesson_is_a_row_and_the_last_of_its_episode(problem: Problem) -> None:
    spec, rows = problem(False)
    five = episodes(rows)
    lessons = AWR(spec, hidden=(8,), discount=0.5).study(five, ENDS)
    last = torch.tensor([2, 2, 2, 4, 4])
    assert lessons.reward.tolist() == [[3.0, 0.125], [4.0, 0.25], [4.0, 0.5], [10.0, 0.25], [8.0, 0.5]]
    for name in ("obs", "action", "next_obs", "terminated"):
        column = getattr(five, name)
        assert torch.equal(getattr(lessons, name), torch.stack([column, column[last]], 1))


def test_a_cut_episode_is_worth_more_by_its_last_value_and_a_terminated_one_is_not(problem: Problem) -> None:
    """In spreads of 2: 3, 4, 4 and 10, 8 are halved; the second episode has V(last next_obs) / 4 and / 2 beyond it."""
    spec, rows = problem(False)
    spec, five = replace(spec, reward_std=2.0, reward_mean=0.0), episodes(rows)
    with seeded(0, "test"):
        learner = AWR(spec, hidden=(8,), discount=0.5)
    with torch.no_grad():
        for weight in learner.value.parameters():
            weight.zero_()
        learner.value.network.output.bias.fill_(12.0)  # V is 12 everywhere
        found = learner.returns(learner.study(five, ENDS))
    assert found.tolist() == [1.5, 2.0, 2.0, 5.0 + 3.0, 4.0 + 6.0]


def test_what_is_beyond_a_cut_is_valued_where_it_was_cut(problem: Problem) -> None:
    spec, rows = problem(False)
    five = episodes(rows)
    with seeded(0, "test"):
        learner = AWR(spec, hidden=(8,), discount=0.5)
    with torch.no_grad():
        value = learner.value(five.next_obs[4])
        found = learner.returns(learner.study(five, ENDS))[3:] * spec.reward_std
    expected = torch.tensor([10.0, 8.0]) + spec.reward_std * value * torch.tensor([0.25, 0.5])
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_weights_are_exp_of_the_standardised_advantage(scale: float, problem: Problem) -> None:
    """Uniform choices, rewards 0 and 1, one step: A / std is -1 and 1, so the odds are exp(2 / temperature)."""
    spec, rows = problem(True)
    spec = replace(spec, reward_std=spec.reward_std / scale)  # as if advantages were sums of many rewards
    with seeded(0, "test"):
        learner = AWR(spec, **FAST, temperature=2.0)
    fit_policy(learner, rows, ends=rows.terminated, updates=300, batch_size=128, real_ratio=1.0)
    chance = learner.policy.log_probs(rows.obs).detach().exp().amax(-1)
    clear = (rows.obs[:, 0] - rows.obs[:, 1]).abs() > 0.4
    assert float(chance[clear].mean()) == pytest.approx(math.e / (1 + math.e), abs=0.04)


def test_weights_are_clipped_and_the_loss_is_their_imitation(problem: Problem) -> None:
    """Three rows of return 0 and one of 4 about V = 0: weights exp(-1 / sqrt 3) and min(exp(sqrt 3), 3)."""
    spec, rows = problem(True)
    spec = replace(spec, reward_std=1.0)
    four = Batch(*(column[:4] for column in rows))._replace(reward=torch.tensor([0.0, 0.0, 0.0, 4.0]))
    with seeded(0, "test"):
        learner = AWR(spec, hidden=(8,), largest_weight=3.0, value_lr=0.0)
    with torch.no_grad():
        for weight in learner.value.parameters():
            weight.zero_()
        log_prob = learner.actor.log_prob(four.obs, four.action)
    learner.update(learner.study(four, four.terminated), None, generator(0, "a"))
    found = [p.grad.clone() for p in learner.actor.parameters() if p.grad is not None]
    weights = torch.tensor([math.exp(-1 / 3**0.5)] * 3 + [3.0])
    with seeded(0, "test"):
        twin = AWR(spec, hidden=(8,))
    loss = -(weights * twin.actor.log_prob(four.obs, four.action)).mean()
    expected = torch.autograd.grad(loss, list(twin.actor.parameters()))
    assert float(loss.detach()) == pytest.approx(float(-(weights * log_prob).mean()))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_value_that_stands_for_the_rest_of_cut_episodes_stays_one() -> None:
    """Rewards are within -4 and 0, so values within -400 and 0; without LayerNorm one is -42,000 by then."""
    data = mixed_log(True)
    with seeded(0, "test"):
        learner = AWR(data.spec(torch.arange(data.episodes)), **FAST, discount=0.99)
    ends = data.ends(torch.arange(len(data)))
    fit_policy(learner, data.batch(), ends=ends, updates=500, batch_size=128, real_ratio=1.0)
    with torch.no_grad():
        found = learner.value(data.next_obs) * learner.spec.reward_std
    assert -400 < float(found.amin()) < float(found.amax()) < -50


@KINDS
def test_a_mixed_log_is_left_behind(discrete: bool) -> None:
    """Imitation gets below -5, see `test_advantage_weighted`; doing nothing -2.7. Episodes are cut, never over."""
    data = mixed_log(discrete)
    rows = torch.arange(len(data))
    with seeded(0, "test"):
        learner = AWR(data.spec(torch.arange(data.episodes)), **FAST, discount=0.5)
    fit_policy(learner, data.batch(), ends=data.ends(rows), updates=300, batch_size=128, real_ratio=1.0)
    assert true_return(learner.policy) > -2.0


def test_box_actions_are_learned_from_uniform_ones(problem: Problem) -> None:
    spec, rows = problem(False)
    with seeded(0, "test"):
        learner = AWR(spec, **FAST, temperature=0.2)
    fit_policy(learner, rows, ends=rows.terminated, updates=250, batch_size=128, real_ratio=1.0)
    error = (learner.policy(rows.obs) - rows.obs).square().sum(-1).mean()
    assert error < 0.1  # the logged actions are 1.1 away, and the action 0 is 0.43 away


def test_what_cannot_be_is_refused(problem: Problem) -> None:
    spec, rows = problem(False)
    with pytest.raises(ValueError, match="AWR learns from whole episodes: give `ends`"):
        fit_policy(AWR(spec, hidden=(8,)), rows, updates=1, real_ratio=1.0)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"temperature is {temperature}, expected more than 0"):
            AWR(spec, temperature=temperature)
