"""What an episode costs: by a known function, learned from the log's column, or refused; and what the gate says."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from dynamics_toys import Known, unit_spec
from torch import Tensor

from mbrl.assessment import told
from mbrl.core import Policy
from mbrl.data.dataset import TransitionDataset
from mbrl.data.history import windowed
from mbrl.evaluation.answers import spent
from mbrl.evaluation.bench import Bench
from mbrl.evaluation.costs import FittedCost, fit_cost, framed, logged_costs
from mbrl.evaluation.estimates import Refused
from mbrl.evaluation.gathering import Provenance, gather
from mbrl.evaluation.modelbased import start_states
from mbrl.evaluation.panel import Heard
from mbrl.registry.gates import CANDIDATE, LOG, CardFacts, Evidence, decide
from mbrl.registry.rules import read
from mbrl.simulator.simulator import Simulator

EPISODES, STEPS = 12, 10
FIT = {"members": 4, "folds": 2, "updates": 300, "seed": 0}
FACTS = Provenance({"log": "f"}, {"a": ("b", "b")}, CardFacts("good", 0.9, 2), None)


class Always(Policy):
    """One and the same action."""

    def __init__(self, spec: object, action: float) -> None:
        super().__init__(spec)
        self.register_buffer("action", torch.tensor(action))

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        del rng
        return self.action.expand(len(obs), 1)


def pushes(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """1 + 2 a."""
    del obs, next_obs
    return 1 + 2 * action[:, 0]


def log(cost: Tensor | None = None) -> TransitionDataset:
    """12 cut episodes of 10 steps from 0 or thereabouts, x' = x + 1, under actions drawn from [-1, 1]."""
    rng = torch.Generator().manual_seed(0)
    rows = EPISODES * STEPS
    obs = torch.arange(float(STEPS)).repeat(EPISODES).unsqueeze(-1) + 0.1 * torch.rand(rows, 1, generator=rng)
    last = torch.arange(rows) % STEPS == STEPS - 1
    return TransitionDataset.create(
        "toy/wear-v0",
        obs=obs,
        action=2 * torch.rand(rows, 1, generator=rng) - 1,
        reward=torch.ones(rows),
        next_obs=obs + 1,
        terminated=torch.zeros(rows, dtype=torch.bool),
        truncated=last,
        episode=torch.arange(EPISODES).repeat_interleave(STEPS),
        discrete=False,
        action_low=[-1.0],
        action_high=[1.0],
        cost=cost,
    )


def worn() -> TransitionDataset:
    data = log()
    return replace(data, cost=pushes(*data.batch()[:2], data.next_obs))


def bench(data: TransitionDataset, episodes: int = EPISODES) -> Bench:
    spec = unit_spec()
    simulator = Simulator(Known(spec, 1), spec, None)
    return Bench(data, torch.arange(episodes), simulator, start_states(data, 8, 0), 0.5, 0.9, 0, FIT["updates"])


@pytest.fixture(scope="module")
def learned() -> FittedCost:
    return fit_cost(worn(), torch.arange(EPISODES), **FIT)


@pytest.fixture(scope="module")
def seen() -> Evidence:
    """Of a policy whose actions are 0.5: 2 a step, 20 an episode; the logged ones cost 1 on average, 10."""
    return gathered(worn(), 0.5)


def test_networks_learn_the_column_and_say_how_well(learned: FittedCost) -> None:
    data, fitted = worn(), learned
    assert fitted.about["explained"] > 0.95
    assert fitted.about["held_rmse"] < 0.2 * float(data.cost.std())
    assert abs(fitted.about["held_bias"]) < 0.5  # of sums of 10 rows, which spread by 3.7
    obs, action = torch.full((3, 1), 4.0), torch.tensor([[-0.5], [0.0], [0.5]])
    said = fitted(obs, action, obs + 1)
    assert said.shape == (4, 3)
    torch.testing.assert_close(said.mean(0), torch.tensor([0.0, 1.0, 2.0]), atol=0.25, rtol=0)


def test_the_same_seed_learns_the_same(learned: FittedCost) -> None:
    other = fit_cost(worn(), torch.arange(EPISODES), **FIT)
    for a, b in zip(learned.fit.critics.parameters(), other.fit.critics.parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_reads_the_next_observation() -> None:
    """A cost of where a step has led, which neither observation nor action tells."""
    data = log()
    jump = (torch.arange(len(data)) * 7 % 5 < 2).float()
    moved = replace(data, next_obs=data.next_obs + 3 * jump.unsqueeze(-1), cost=jump)
    assert fit_cost(moved, torch.arange(EPISODES), **FIT).about["explained"] > 0.5
    with pytest.raises(Refused, match=r"next observation explain -?\d+% of the variance of the cost in episodes"):
        fit_cost(replace(data, cost=jump), torch.arange(EPISODES), **FIT)


def test_nothing_costs_less_than_the_least_that_was_logged(learned: FittedCost) -> None:
    least = worn().cost.min()
    far = learned(torch.zeros(1, 1), torch.tensor([[-5.0]]), torch.ones(1, 1))
    assert bool((learned.fit.values(torch.tensor([[-1.5, -8.0, -1.2]])) < least).any())
    assert bool((far >= least).all())


def test_what_the_column_cannot_teach_is_refused() -> None:
    every = torch.arange(EPISODES)
    with pytest.raises(Refused, match=r"the cost is 0 in all rows of toy/wear-v0.*name a function as trial\.cost"):
        fit_cost(log(torch.zeros(EPISODES * STEPS)), every, **FIT)
    with pytest.raises(ValueError, match=r"toy/wear-v0 has no cost column: name it as `cost` in the schema"):
        fit_cost(log(), every, **FIT)
    with pytest.raises(Refused, match="costs need 4 episodes to hold some out, and have 3"):
        bench(worn(), 3).cost()


def test_the_log_itself_costs_what_its_column_or_the_function_says() -> None:
    data = worn()
    assert logged_costs(log(), None) is None
    torch.testing.assert_close(logged_costs(data, None), data.cost.view(EPISODES, STEPS).sum(1))
    torch.testing.assert_close(
        logged_costs(data, lambda obs, action, after: after[:, 0] - obs[:, 0]), torch.full((EPISODES,), 10.0)
    )


def test_members_of_a_cost_widen_its_interval() -> None:
    """Members say 1 and 3 a step, 10 and 30 an episode: a variance of 200, 1.5 times, and t(0.9) of one degree."""
    table = bench(log())

    def both(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
        del action, after
        return torch.tensor([[1.0], [3.0]]).expand(2, len(obs))

    found = spent(table, Always(unit_spec(), 0.0), both)
    assert found.value == pytest.approx(20)
    assert found.high - 20 == pytest.approx(3.0776835 * math.sqrt(300))
    assert 20 - found.low == pytest.approx(3.0776835 * math.sqrt(300))


def gathered(data: TransitionDataset, action: float, cost: object = None, episodes: int = EPISODES) -> Evidence:
    policy = Always(unit_spec(), action)
    return gather(bench(data, episodes), Heard({}, {}), {CANDIDATE: CANDIDATE}, policy, read(), FACTS, cost)


def limit(evidence: Evidence, most: float | None) -> tuple[object, str]:
    rules = {rule.name: rule for rule in decide(evidence, replace(read(), most_cost=most)).rules}
    return rules["upper bound of the cost"].value, rules["upper bound of the cost"].outcome


def test_evidence_and_gate_with_a_column(seen: Evidence) -> None:
    data, evidence = worn(), seen
    assert evidence.cost.value == pytest.approx(20, abs=2)
    assert evidence.cost.low < evidence.cost.value < evidence.cost.high
    assert evidence.cost.diagnostics["cost"] == "learned from the log's column"
    assert evidence.cost.diagnostics["explained"] > 0.95
    assert evidence.logged_cost.value == pytest.approx(float(data.cost.sum()) / EPISODES)
    high = evidence.cost.high
    assert limit(evidence, high + 1) == (high, "passed")
    assert limit(evidence, high - 1) == (high, "failed")
    assert limit(evidence, None)[1] == "not asked"
    lines = dict(told(evidence))
    assert lines[LOG].startswith("an episode costs ")
    assert lines[CANDIDATE].endswith("learned from the log's column")


def test_a_function_comes_before_the_column() -> None:
    evidence = gathered(worn(), 0.5, cost=lambda obs, action, after: torch.full((len(obs),), 7.0))
    assert evidence.cost[:3] == evidence.logged_cost[:3] == (70.0, 70.0, 70.0)
    assert evidence.cost.diagnostics["cost"] == "trial.cost"


def test_a_function_reads_the_newest_observation_of_a_window() -> None:
    def last(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
        return after[..., -1] - 2 * obs[..., -1]

    data = worn()
    torch.testing.assert_close(logged_costs(windowed(data, 3), last), logged_costs(data, last))
    rows = windowed(data, 3)
    of_newest = framed(last, data.frame_dim)(rows.obs, rows.action, rows.next_obs)
    torch.testing.assert_close(of_newest, last(data.obs, data.action, data.next_obs))


def test_the_gate_is_closed_where_the_column_teaches_nothing() -> None:
    safe = log(torch.zeros(EPISODES * STEPS))
    for evidence, reason in (
        (gathered(safe, 0.5), "the cost is 0 in all rows"),
        (gathered(worn(), 0.5, episodes=3), "costs need 4 episodes"),
    ):
        assert evidence.cost is None
        assert evidence.refused["cost"].startswith(reason)
        assert evidence.logged_cost is not None
        assert limit(evidence, 1e9) == (None, "failed")
    assert gathered(log(), 0.5).logged_cost is None
    assert limit(gathered(log(), 0.5), 1e9) == (None, "failed")


def test_a_cost_of_the_log_that_is_not_finite_is_a_fault(seen: Evidence) -> None:
    broken = seen._replace(logged_cost=seen.logged_cost._replace(value=math.nan))
    assert "logged_cost.value is nan, expected a finite number" in decide(broken, read()).reasons


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda obs, action, after: obs[:, :1], r"trial.cost .* returned torch.float32 \[\d+, 1\], expected a tensor"),
        (lambda obs, action, after: obs[:, 99], r"trial.cost .* raised IndexError: index 99 is out of bounds"),
        (lambda obs, action, after: obs[:, 0] / 0, r"trial.cost .* is not finite in \d+ of \d+ logged rows"),
    ],
)
def test_a_function_that_gives_no_cost_is_named(function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        logged_costs(log(), function)
