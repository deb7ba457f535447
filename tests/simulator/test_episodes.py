from typing import Any

import pytest
import torch
from dynamics_toys import Known, unit_spec

from mbrl.core import generator
from mbrl.simulator.episodes import Episodes, truncation
from mbrl.simulator.simulator import Simulator

STARTS = torch.arange(0.0, 7.0).view(-1, 1)
STILL = torch.zeros(1, 1)


def world(chances: tuple[float, ...] = (), std: float = 0.0, **arguments: Any) -> Simulator:
    """One member: next_obs = obs + 1, reward = obs."""
    spec = unit_spec(terminals=bool(chances))
    return Simulator(Known(spec, 1, std, chances), spec, **{"starts": STARTS, **arguments})


def test_an_episode_is_cut_at_the_horizon_and_another_begins_at_the_next_step() -> None:
    episodes = Episodes(world(), 1, seed=0, horizon=3)
    start = float(episodes.begin(torch.tensor([[2.0]])))
    assert start == 2.0
    moments = [episodes.step(STILL) for _ in range(5)]
    assert [float(m.obs) for m in moments[:3]] == [3.0, 4.0, 5.0]
    assert [float(m.reward) for m in moments] == [2.0, 3.0, 4.0, 0.0, float(moments[3].obs)]
    assert [bool(m.truncated) for m in moments] == [False, False, True, False, False]
    assert [bool(m.began) for m in moments] == [False, False, False, True, False]
    assert not any(bool(m.terminated) for m in moments)
    assert float(moments[3].obs) in STARTS
    assert float(moments[4].obs) == float(moments[3].obs) + 1


def test_rows_end_and_begin_on_their_own() -> None:
    def above_five(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return next_obs[:, 0] > 5

    episodes = Episodes(world(termination=above_five, starts=torch.zeros(1, 1)), 3, seed=0, horizon=4)
    episodes.begin(torch.tensor([[0.0], [4.5], [1.5]]))
    action = torch.zeros(3, 1)
    seen = [episodes.step(action) for _ in range(6)]
    assert torch.stack([m.obs[:, 0] for m in seen]).T.tolist() == [
        [1.0, 2.0, 3.0, 4.0, 0.0, 1.0],
        [5.5, 0.0, 1.0, 2.0, 3.0, 4.0],
        [2.5, 3.5, 4.5, 5.5, 0.0, 1.0],
    ]
    assert torch.stack([m.terminated for m in seen]).T.nonzero().tolist() == [[1, 0], [2, 3]]
    assert torch.stack([m.truncated for m in seen]).T.nonzero().tolist() == [[0, 3], [1, 5]]  # not where it terminated
    assert torch.stack([m.began for m in seen]).T.nonzero().tolist() == [[0, 4], [1, 1], [2, 4]]


def test_they_are_the_simulators_own_steps() -> None:
    simulator = world(chances=(0.0,), std=0.3)
    episodes = Episodes(simulator, 8, seed=5, horizon=10)
    obs, rng = episodes.begin(), generator(5, "episodes/noise")
    for _ in range(4):
        action = torch.zeros(8, 1)
        wanted = simulator.step(obs, action, rng)
        moment = episodes.step(action)
        assert torch.equal(moment.obs, wanted.next_obs)
        assert torch.equal(moment.reward, wanted.reward)
        obs = wanted.next_obs


def test_equal_seeds_are_equal_and_starts_do_not_depend_on_what_happens_between() -> None:
    def starts(seed: int, steps: int) -> list[list[float]]:
        episodes = Episodes(world(std=0.5), 4, seed, horizon=50)
        found = []
        for _ in range(3):
            found.append(episodes.begin()[:, 0].tolist())
            for _ in range(steps):
                episodes.step(torch.zeros(4, 1))
        return found

    assert starts(1, 0) == starts(1, 5)
    assert starts(1, 0) != starts(2, 0)


def test_what_is_returned_is_nobody_elses() -> None:
    episodes = Episodes(world(), 1, seed=0, horizon=9)
    first = episodes.begin(given := torch.tensor([[2.0]]))
    first += 100
    given += 100
    second = episodes.step(STILL).obs
    assert float(second) == 3.0
    second += 100
    assert float(episodes.step(STILL).obs) == 4.0


def test_without_start_states_a_beginning_is_refused() -> None:
    episodes = Episodes(world(starts=None), 1, seed=0, horizon=1)
    with pytest.raises(ValueError, match=r"carries no start states: give reset\(options="):
        episodes.begin()
    episodes.begin(torch.tensor([[2.0]]))
    episodes.step(STILL)
    with pytest.raises(ValueError, match="carries no start states"):
        episodes.step(STILL)


def test_where_an_episode_is_cut() -> None:
    assert truncation(world(), None) == 100  # the spec's longest episode
    assert truncation(world(trusted_horizon=12), None) == 12
    assert truncation(world(trusted_horizon=12), 40) == 40
    for steps in 0, 2.5, float("inf"), float("nan"):
        with pytest.raises(ValueError, match=f"horizon is {steps}, expected a whole number of steps, at least 1"):
            truncation(world(), steps)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="trusts not even one step"):
        truncation(world(trusted_horizon=0), None)
