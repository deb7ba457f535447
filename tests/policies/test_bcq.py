"""BCQ in both forms: what may be chosen, how it is valued, and what it makes of a mixed log."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mixed_logs import mixed, true_return

from mbrl.core import Batch, Policy, Spec, generator, seeded
from mbrl.serving.export import export_policy, policy_from
from mbrl.testing import check_learner
from mbrl.training.policy import fit_policy
from policies import BCQ, DiscreteBCQ
from policies.bcq import BatchConstrained
from policies.discrete_bcq import ConstrainedChoice
from policies.functional import likely, soft_minimum, standard_divergence

Problem = Callable[[bool], tuple[Spec, Batch]]
BOX: dict[str, Any] = {"hidden": (32, 32), "actor_lr": 3e-3, "critic_lr": 3e-3, "generator_lr": 3e-3, "tau": 0.05}
DISCRETE: dict[str, Any] = {"hidden": (32, 32), "critic_lr": 3e-3, "imitation_lr": 3e-3, "tau": 0.05}
FORMS = pytest.mark.parametrize(("cls", "discrete"), [(BCQ, False), (DiscreteBCQ, True)])


def made(cls: Any, spec: Spec, **arguments: Any) -> Any:
    with seeded(0, "test"):
        return cls(spec, **{"hidden": (8,), **arguments})


def trained(cls: Any, spec: Spec, rows: Batch, updates: int, **arguments: Any) -> Policy:
    learner = made(cls, spec, **arguments)
    fit_policy(learner, rows, updates=updates, batch_size=64, real_ratio=1.0)
    return learner.policy


@FORMS
def test_contract(cls: Any, discrete: bool, problem: Problem) -> None:
    assert not cls.imagines
    check_learner(lambda spec: cls(spec, hidden=(16,)), problem(discrete)[0])


def test_the_pieces_by_hand() -> None:
    values = torch.tensor([[1.0, 4.0], [3.0, 0.0]])
    assert soft_minimum(values, 0.75).tolist() == [0.75 * 1 + 0.25 * 3, 0.25 * 4]
    found = standard_divergence(torch.tensor([0.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, math.log(3)]))
    assert found.tolist() == pytest.approx([0.0, 2.0, 0.5 * (9 - 1) - math.log(3)])
    chances = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.6, 0.3]]).log()
    assert likely(chances, 0.4).tolist() == [[True, True, False], [False, True, True]]
    assert likely(chances, 1.0).tolist() == [[True, False, False], [False, True, False]]
    assert likely(chances, 0.0).all()


def test_the_policy_takes_the_best_of_its_proposals_moved_by_no_more_than_its_reach(problem: Problem) -> None:
    spec = replace(problem(False)[0], action_low=(0.0, -3.0), action_high=(4.0, 1.0))
    policy, obs = made(BatchConstrained, spec, reach=0.2, candidates=5), problem(False)[1].obs[:20]
    with torch.no_grad():
        for weight in policy.perturbation.parameters():
            weight *= 30  # so that the reach is used
        chosen, known = policy.act(obs, None), policy.standardise(obs)
        best = torch.full((20,), -torch.inf)
        for latent in policy.latents:  # one after another
            proposal = policy.decode(known, latent.expand(20, -1))
            moved = policy.perturbation(known, proposal)
            assert float((moved - proposal).abs().max()) <= 0.2 + 1e-6
            assert float((moved - proposal).abs().max()) > 0.1
            best = torch.maximum(best, policy.critics(obs, policy.bounds.scale(moved))[0])
        assert torch.allclose(policy.critics(obs, chosen)[0], best, atol=1e-6)
    assert float(policy.latents.abs().max()) <= 0.5


def test_box_target(problem: Problem) -> None:
    """Slow networks, the largest over proposals of 0.75 min + 0.25 max over critics, nothing beyond a terminal."""
    spec, rows = problem(False)
    learner = made(BCQ, spec, candidates=4, discount=0.8)
    with torch.no_grad():
        for weight in [*learner.slow_critics.parameters(), *learner.slow_perturbation.parameters()]:
            weight += 0.1 * torch.randn(weight.shape, generator=generator(1, "noise"))
        rows = Batch(*(column[:30] for column in rows))._replace(terminated=torch.arange(30) % 3 == 0)
        found = learner._target(rows, generator(0, "a"))
        latents = learner.actor.draw(rows.next_obs, 4, generator(0, "a"))
        known, best = learner.actor.standardise(rows.next_obs), torch.full((30,), -torch.inf)
        for latent in latents:
            action = learner.slow_perturbation(known, learner.actor.decode(known, latent))  # the bounds are [-1, 1]
            low, high = learner.slow_critics(rows.next_obs, action).sort(0).values
            best = torch.maximum(best, 0.75 * low + 0.25 * high)
        expected = rows.reward / spec.reward_std + 0.8 * best * (1 - rows.terminated.float())
    assert torch.allclose(found, expected, atol=1e-5)


def test_discrete_critic_learns_from_the_policy_s_own_choice_unless_the_world_ended(problem: Problem) -> None:
    spec, rows = problem(True)
    rows = rows._replace(terminated=torch.arange(len(rows.reward)) % 2 == 0)
    learner = made(DiscreteBCQ, spec, threshold=0.7, discount=0.8, imitation_lr=0.0)
    with torch.no_grad():
        for weight in learner.slow.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator(1, "noise"))
        chance = learner.actor.imitation.log_probs(rows.next_obs).exp()
        allowed = chance / chance.max(-1, keepdim=True).values >= 0.7
        quick, slow = learner.actor.critic.every(rows.next_obs)[0], learner.slow.every(rows.next_obs)[0]
        after = slow[torch.arange(len(quick)), quick.masked_fill(~allowed, -1e9).argmax(-1)]
        assert 0.1 < float(allowed.float().mean()) - 0.5 < 0.45  # some states leave a choice, and some do not
        target = rows.reward / spec.reward_std + 0.8 * after * (1 - rows.terminated.float())
        error = (learner.actor.critic(rows.obs, rows.action)[0] - target).abs()
        huber = torch.where(error < 1, error.square() / 2, error - 0.5).mean()
    found = learner.update(rows, None, generator(0, "update"))["critic_loss"]
    assert float(found) == pytest.approx(float(huber), rel=1e-5)


def test_actions_that_the_log_never_takes_are_never_chosen(problem: Problem) -> None:
    """Box: a log within 0.2 of the observation, of which larger actions promise ever more; the reach says how far."""
    spec, rows = problem(False)
    rng = generator(0, "log")
    near = (rows.obs + 0.4 * torch.rand(rows.obs.shape, generator=rng) - 0.2).clamp(-1, 1)
    policy = trained(BCQ, spec, rows._replace(action=near, reward=near.sum(-1)), 300, **BOX, reach=0.05)
    gain = policy(rows.obs).detach() - rows.obs
    assert 0.0 < float(gain.mean()) < 0.3
    assert float(gain.max()) < 0.5
    spec, rows = problem(True)
    only = torch.tensor([1.0, 0.0]).expand_as(rows.action)
    policy = trained(DiscreteBCQ, spec, rows._replace(action=only, reward=-rows.reward), 60, **DISCRETE)
    assert not policy(rows.obs).any()


@FORMS
def test_the_best_action_is_learned_from_uniform_ones(cls: Any, discrete: bool, problem: Problem) -> None:
    spec, rows = problem(discrete)
    policy = trained(cls, spec, rows, 300, **(DISCRETE if discrete else {**BOX, "reach": 0.5}))
    if discrete:
        assert (policy(rows.obs) == rows.obs.argmax(-1)).float().mean() > 0.95
    else:
        assert (policy(rows.obs) - rows.obs).square().sum(-1).mean() < 0.15  # the logged ones are 1.1 away


@FORMS
def test_a_mixed_log_is_left_behind(cls: Any, discrete: bool) -> None:
    """Imitation of it gets below -5; see `test_advantage_weighted`."""
    spec, rows = mixed(discrete)
    assert true_return(trained(cls, spec, rows, 300, **(DISCRETE if discrete else BOX), discount=0.9)) > -2.5


@FORMS
def test_it_is_exported_with_all_that_serving_needs(cls: Any, discrete: bool, problem: Problem, tmp_path: Path) -> None:
    spec, rows = problem(discrete)
    policy = made(cls, spec).policy
    export_policy(policy, tmp_path)
    assert torch.equal(policy_from(tmp_path / "policy.ckpt")(rows.obs), policy(rows.obs))


def test_what_cannot_be_is_refused(problem: Problem) -> None:
    box, discrete = problem(False)[0], problem(True)[0]
    with pytest.raises(ValueError, match=r"BCQ acts in Box spaces.*Discrete: use policies\.DiscreteBCQ"):
        BCQ(discrete)
    with pytest.raises(ValueError, match=r"DiscreteBCQ acts in Discrete spaces.*Box: use policies\.BCQ"):
        DiscreteBCQ(box)
    with pytest.raises(ValueError, match=r"BatchConstrained acts in Box spaces"):
        BatchConstrained(discrete)
    with pytest.raises(ValueError, match=r"ConstrainedChoice acts in Discrete spaces"):
        ConstrainedChoice(box)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(
            ValueError, match=rf"threshold is {share}, expected from 0 \(Q-learning\) to 1 \(imitation\)"
        ):
            DiscreteBCQ(discrete, threshold=share)
        with pytest.raises(ValueError, match=rf"soft_min is {share}, expected a weight from 0 to 1"):
            BCQ(box, soft_min=share)
    with pytest.raises(ValueError, match=r"reach is -0.1, expected 0 \(proposals as they are\) or more"):
        BCQ(box, reach=-0.1)
    with pytest.raises(ValueError, match=r"candidates is 0, expected at least 1"):
        BCQ(box, candidates=0)
