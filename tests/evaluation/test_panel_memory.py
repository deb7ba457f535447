"""The panel in a world that remembers: every elite member goes its own way, with a state of its own, from 0 on."""

import numpy as np
import pytest
import torch
from evaluation_toys import Linear, Stepped
from memory_toys import oscillator
from torch import Tensor

from dynamics import RecurrentEnsemble
from mbrl.core import Policy, seeded
from mbrl.evaluation.bench import Bench
from mbrl.evaluation.modelbased import start_states
from mbrl.evaluation.panel import hear
from mbrl.registry.gates import CANDIDATE, CLONING
from mbrl.simulator.simulator import Simulator

LENGTH, TRUSTED, ELITES = 9, 3, (2, 0)


@pytest.fixture(scope="module")
def world() -> tuple[Bench, dict[str, Policy]]:
    """Three networks as they were drawn, with a state of 4, whose means are sampled without their noise."""
    data = oscillator(5, LENGTH, seed=0)
    spec = data.spec(torch.arange(5))
    with seeded(0, "simulator"):
        model = RecurrentEnsemble(spec, members=3, elites=2, state=4, memory=2, hidden=8, layers=1, reward_network=(8,))
    model.elites = torch.tensor(ELITES)
    simulator = Simulator(model, spec, None, trusted_horizon=TRUSTED).replaying(data)
    simulator.recalibration.scale.zero_()
    policies: dict[str, Policy] = {CLONING: Linear(spec, 0.5), CANDIDATE: Linear(spec, -0.8)}
    made = {policy: Stepped() for policy in (*policies.values(), None)}
    return Bench(data, torch.arange(5), simulator, start_states(data, 5, 0), 0.5, 0.9, 0, 10, made), policies


@torch.no_grad()
def followed(bench: Bench, policy: Policy, member: int, forgets: bool = False) -> tuple[Tensor, Tensor]:
    """Rewards [T, S] and observations [T + 1, S] of one member, step by step."""
    assert bench.simulator is not None
    model, low, high = bench.simulator.dynamics, bench.simulator.low, bench.simulator.high
    one, obs = torch.tensor([member]), bench.starts.obs
    hidden = torch.zeros(1, len(obs), 4)
    rewards, seen = [], [obs]
    for _ in range(LENGTH):
        action = policy.act(obs, None)
        said = model.predict(obs, action, one, hidden)
        hidden = hidden if forgets else model.remember(obs, action, hidden, one)
        obs = said.obs[0].clamp(low[:-1], high[:-1])
        rewards.append(said.reward[0].clamp(low[-1], high[-1]))
        seen.append(obs)
    return torch.stack(rewards), torch.stack(seen)[..., 0]


def test_whole_episodes_are_those_of_each_member_with_its_own_memory(world: tuple[Bench, dict[str, Policy]]) -> None:
    bench, policies = world
    opinion = hear(bench, policies, ["model"]).opinions["model"]
    assert opinion.refused == {}
    for name, policy in policies.items():
        rewards = [followed(bench, policy, e)[0] for e in ELITES]
        np.testing.assert_allclose(opinion.answers[name].sample, [r.sum(0).numpy() for r in rewards], rtol=1e-4)
    forgetful = followed(bench, policies[CANDIDATE], ELITES[0], forgets=True)[0].sum(0).numpy()
    assert np.abs(forgetful - opinion.answers[CANDIDATE].sample[0]).min() > 1e-3


def test_critics_take_over_where_it_is_no_longer_trusted(world: tuple[Bench, dict[str, Policy]]) -> None:
    """Three rewards at 1, 1/2 and 1/4, and an eighth of the observation there and of 100 m."""
    bench, policies = world
    opinion = hear(bench, policies, ["model+fqe"]).opinions["model+fqe"]
    assert opinion.refused == {}
    weights = torch.tensor([1, 0.5, 0.25])
    for name, policy in policies.items():
        ways = [followed(bench, policy, e) for e in ELITES]
        wanted = [weights @ r[:TRUSTED] + (x[TRUSTED] + 100 * m) / 8 for m, (r, x) in enumerate(ways)]
        np.testing.assert_allclose(opinion.answers[name].sample, torch.stack(wanted).numpy(), rtol=1e-4)


def test_the_judge_is_asked_the_same_twice(world: tuple[Bench, dict[str, Policy]]) -> None:
    bench, policies = world
    one, other = (hear(bench, policies, ["model", "model+fqe"]).opinions for _ in range(2))
    for kind in one:
        np.testing.assert_array_equal(one[kind].answers[CANDIDATE].sample, other[kind].answers[CANDIDATE].sample)
