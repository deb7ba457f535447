"""Values are learned as a difference from what the log's mean reward comes to, where the world does not end."""

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
    """1000 a step with a spread of 2, at a discount of 0.9: 500 spreads, ten times over."""
    spec = replace(problem(False)[0], terminals=False, reward_mean=1000.0, reward_std=2.0)
    assert usual_value(spec, 0.9) == pytest.approx(5000.0)
    assert usual_value(replace(spec, terminals=True), 0.9) == 0.0
    assert usual_value(spec, 1.0) == 0.0
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
    spec = replace(problem(cls is DiscreteBCQ)[0], terminals=False, reward_mean=1000.0, reward_std=2.0)
    learner = cls(spec, hidden=(4,), discount=0.9)
    networks = [part for part in learner.modules() if isinstance(part, Critics | Value)]
    assert networks
    assert [network.usual for network in networks] == pytest.approx([5000.0] * len(networks))


def test_a_reward_that_is_large_for_its_spread_is_learned_as_any_other(problem: Problem) -> None:
    """The bandit, in a world that goes on, and pays 100 in every step: as far as its actions go, the same problem."""
    spec, rows = problem(False)
    going = rows._replace(terminated=torch.zeros_like(rows.terminated), reward=rows.reward + 100)
    spec = replace(spec, terminals=False, reward_mean=spec.reward_mean + 100)
    arguments: dict[str, Any] = {"hidden": (32, 32), "discount": 0.5, "entropy_target": -6.0}
    rates = {"actor_lr": 3e-3, "critic_lr": 3e-3, "temperature_lr": 3e-3}
    with seeded(0, "test"):
        learner = SAC(spec, **arguments, **rates)
    rng = generator(0, "rows")
    for _ in range(600):
        learner.update(rows_at(going, torch.randint(len(rows.reward), (128,), generator=rng)), None, rng)
    error = (learner.policy.act(rows.obs, None) - rows.obs).square().sum(-1).mean()
    assert float(error.detach()) < 0.05
