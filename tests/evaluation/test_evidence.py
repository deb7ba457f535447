"""Evidence in a world that pays 1 a step, whatever is done."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from dynamics_toys import Known, unit_spec
from torch import Tensor

from mbrl.core import Policy, Prediction
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.evidence import acting
from mbrl.evaluation.modelbased import simulated_values, start_states
from mbrl.simulator.simulator import Simulator


class Pays(Known):
    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        count = self.members if members is None else len(members)
        mean = obs.expand(count, *obs.shape[-2:])
        nothing = torch.zeros_like(mean)
        return Prediction(mean, nothing, nothing[..., 0] + 1, nothing[..., 0], torch.ones(2))


class Rest(Policy):
    def __init__(self, spec: object) -> None:
        super().__init__(spec)
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        return obs * 0 + self.weight


def log(lengths: tuple[int, ...], terminal: tuple[bool, ...]) -> TransitionDataset:
    rows = sum(lengths)
    episode = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    last = torch.ones(rows, dtype=torch.bool)
    last[:-1] = episode[:-1] != episode[1:]
    ended = last & torch.tensor(terminal)[episode]
    obs = torch.arange(rows).float().unsqueeze(-1)
    return TransitionDataset.create(
        "toy/pays-v0",
        obs=obs,
        action=torch.linspace(-1, 1, rows).unsqueeze(-1),
        reward=torch.ones(rows),
        next_obs=obs + 1,
        terminated=ended,
        truncated=last & ~ended,
        episode=episode,
        discrete=False,
        action_low=[-1.0],
        action_high=[1.0],
    )


def test_a_policy_s_value_is_about_as_many_steps_as_the_logged_return() -> None:
    data = log((2, 5, 3), (False, False, False))
    starts = start_states(data, 10, seed=0)
    assert sorted(starts.limit.tolist()) == [2, 3, 5]
    assert sorted(starts.obs.flatten().tolist()) == [0.0, 2.0, 7.0]
    simulator = Simulator(Pays(unit_spec()), unit_spec())
    values = simulated_values({"rest": Rest(unit_spec())}, simulator, starts, gamma=1.0, level=0.9, seed=0)
    assert values["rest"].value == pytest.approx(float(data.returns().mean()))


def test_an_episode_that_terminated_may_last_as_long_as_the_longest() -> None:
    starts = start_states(log((2, 5, 3), (True, False, False)), 10, seed=0)
    assert sorted(zip(starts.obs.flatten().tolist(), starts.limit.tolist(), strict=True)) == [(0, 5), (2, 5), (7, 3)]


def test_where_every_episode_terminated_the_environment_s_time_limit_counts() -> None:
    all_fell = log((2, 5, 3), (True, True, True))
    for limit, expected in (None, 5), (8, 8), (4, 5):
        starts = start_states(replace(all_fell, time_limit=limit), 10, seed=0)
        assert starts.limit.tolist() == [expected] * 3
    one_was_cut = replace(log((2, 5, 3), (True, True, False)), time_limit=8)
    assert sorted(start_states(one_was_cut, 10, seed=0).limit.tolist()) == [3, 5, 5]


def test_starts_are_drawn_without_replacement_and_repeat_with_the_seed() -> None:
    data = log((1,) * 50, (False,) * 50)
    first = start_states(data, 20, seed=3)
    assert len(first.obs.unique()) == 20
    assert torch.equal(first.obs, start_states(data, 20, seed=3).obs)
    assert not torch.equal(first.obs, start_states(data, 20, seed=4).obs)
    with pytest.raises(ValueError, match="starts is 1, expected at least 2"):
        start_states(data, 1, seed=0)


def test_acting_takes_and_gives_numpy() -> None:
    answer = acting(Rest(unit_spec()))(np.zeros((3, 1), np.float32), [0, 1, 2])
    assert isinstance(answer, np.ndarray)
    assert answer.shape == (3, 1)


class Rule(Policy):
    """Against what is seen: a rule, without a weight or a buffer."""

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        del rng
        return -0.5 * obs[:, :1]


def test_a_rule_acts_as_well() -> None:
    assert acting(Rule(unit_spec()))(np.ones((2, 1), np.float32), [0, 1]).tolist() == [[-0.5], [-0.5]]
