"""Values are learned as a difference from what the log's mean reward comes to until the world ends."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mbrl.core import Batch, Learner, Spec, generator, rows_at, seeded
from policies import AWAC, AWR, BCQ, CQL, IQL, SAC, TD3BC, DiscreteBCQ
from policies.networks import Critics, Value, usual_value

Problem = Callable[[bool], tuple[Spec, Batch]]


def test_by_hand(problem: Problem) -> None:
    """1000 a step with a spread of 2, at a discount of 0.9: 500 spreads, ten times over; or 1 / (1 - 0.9 * 0.75)."""
    spec = replace(problem(False)[0], terminals=False, terminal_rate=0.0, reward_mean=1000.0, reward_std=2.0)
    assert usual_value(spec, 0.9) == pytest.approx(5000.0)
    ending = replace(spec, terminals=True, terminal_rate=0.25)
    assert usual_value(ending, 0.9) == pytest.approx(500 / 0.325)
    assert usual_value(ending, 1.0) == pytest.approx(2000.0)
    assert usual_value(spec, 1.0) == 0.0  # it would be infinite
    assert usual_value(replace(spec, terminals=True), 0.9) == 0.0  # of a spec that does not say how often
    obs, action = torch.zeros(3, 2), torch.zeros(3, 2)
    for discrete in False, True:
        made = replace(problem(discrete)[0], reward_mean=1000.0)
        plain, told = Critics(made, 2, (4,), True), Critics(made, 2, (4,), True, 5000.0)
        told.load_state_dict(plain.state_dict())
        torch.testing.assert_close(told(obs, action), plain(obs, action) + (0.0 if discrete else 5000.0))
    torch.testing.assert_close(told.every(obs), plain.every(obs) + 5000.0)
    assert told.sizes["usual"] == 5000.0
    assert Critics(made, **told.sizes).usual == 5000.0
    assert float(Value(spec, (4,), False, 5000.0)(obs).detach().mean()) == pytest.approx(5000.0, abs=1.0)


@pytest.mark.parametrize("cls", [AWAC, AWR, BCQ, CQL, IQL, SAC, TD3BC, DiscreteBCQ])
def test_every_learner_of_values_begins_there(cls: type[Learner], problem: Problem) -> None:
    changes = {"terminals": False, "terminal_rate": 0.0, "reward_mean": 1000.0, "reward_std": 2.0}
    spec = replace(problem(cls is DiscreteBCQ)[0], **changes)
    learner = cls(spec, hidden=(4,), discount=0.9)
    networks = [part for part in learner.modules() if isinstance(part, Critics | Value)]
    assert networks
    assert [network.usual for network in networks] == pytest.approx([5000.0] * len(networks))


@pytest.mark.parametrize("ends", [False, True])
def test_a_reward_that_is_large_for_its_spread_is_learned_as_any_other(ends: bool, problem: Problem) -> None:
    """The bandit, which pays 100 in every step: as far as its actions go, the same problem, and so where it goes on."""
    spec, rows = problem(False)
    going = rows._replace(terminated=torch.full_like(rows.terminated, ends), reward=rows.reward + 100)
    spec = replace(spec, terminals=ends, terminal_rate=float(ends), reward_mean=spec.reward_mean + 100)
    arguments: dict[str, Any] = {"hidden": (32, 32), "discount": 0.5, "entropy_target": -6.0}
    rates = {"actor_lr": 3e-3, "critic_lr": 3e-3, "temperature_lr": 3e-3}
    with seeded(0, "test"):
        learner = SAC(spec, **arguments, **rates)
    rng = generator(0, "rows")
    for _ in range(350):
        learner.update(rows_at(going, torch.randint(len(rows.reward), (128,), generator=rng)), None, rng)
    error = (learner.policy.act(rows.obs, None) - rows.obs).square().sum(-1).mean()
    assert float(error.detach()) < 0.05
