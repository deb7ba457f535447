"""A policy that is driven in a true environment, with noise and without."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from dynamics_toys import unit_spec
from gymnasium.spaces import Box
from torch import Tensor

from mbrl.core import Policy, Spec, generator, seeded
from mbrl.probation import EXPLORE, Driver, Probation
from policies.actors import Categorical, Deterministic, TanhGaussian
from policies.discrete_bcq import ConstrainedChoice

COUNT = 500


class Still(gym.Env[Any, Any]):
    """Pays 0.1 for each step."""

    observation_space = Box(-1, 1, (1,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), 0.1, False, False, {}


@pytest.mark.parametrize("steps", [3, 6, 7])
@pytest.mark.parametrize("episodes", [3, 10])
def test_returns_that_are_the_floor_keep_it(steps: int, episodes: int) -> None:
    """Also where their mean is rounded to less: that of ten times 0.1 + 0.1 + 0.1, or of three times seven of these."""
    gym.register("mbrltest/Still-v0", Still, max_episode_steps=steps)
    try:
        probation = Probation("mbrltest/Still-v0", (2 * episodes + 2) * steps, episodes, 0)
        policy = made(Deterministic, unit_spec())
        (probation.floor,) = set(probation.measure(policy).tolist())
        played = [value for _, value in probation.practice(Driver(policy, generator(0, "noise")))]
        assert played == [probation.floor] * 2
        assert len(probation.measure(policy)) == episodes
        probation.floor = np.nextafter(probation.floor, np.inf)
        assert probation.broken
    finally:
        del gym.registry["mbrltest/Still-v0"]


def driven(policy: Policy, rng: torch.Generator | None) -> np.ndarray:
    """Actions [COUNT, ...] at one and the same observation, each the first of an episode."""
    driver, actions = Driver(policy, rng), []
    for _ in range(COUNT):
        driver.last = None
        actions.append(driver(np.zeros(policy.spec.frame_dim, np.float32), np.random.default_rng(0)))
    return np.stack(actions)


class Restless(Policy):
    """The middle of the range, and a hundredth of it as noise."""

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        middle = (self.spec.action_low[0] + self.spec.action_high[0]) / 2
        noise = torch.zeros(len(obs), 1) if rng is None else 0.01 * torch.randn(len(obs), 1, generator=rng)
        return middle + noise


def made(kind: type[Policy], spec: Spec) -> Policy:
    with seeded(0, "policy"):
        return kind(spec)


def test_a_deterministic_policy_explores_by_a_tenth_of_half_the_range_within_the_bounds() -> None:
    policy = made(Deterministic, replace(unit_spec(2), action_low=(-2.0,), action_high=(6.0,)))
    (mode,) = np.unique(driven(policy, None))
    noisy = driven(policy, generator(0, "noise"))
    assert abs((noisy - mode).std() / (EXPLORE * 4) - 1) < 0.1
    assert abs((noisy - mode).mean()) < 0.06
    with torch.no_grad():
        policy.network.output.bias.fill_(100.0)  # type: ignore[union-attr, operator]
    pushed = driven(policy, generator(0, "noise"))
    assert pushed.max() == 6.0
    assert 0.4 < float((pushed < 6.0).mean()) < 0.6


def test_a_greedy_policy_tries_another_choice_now_and_then() -> None:
    policy = made(ConstrainedChoice, replace(unit_spec(2), discrete=True, action_dim=4, **_choices(4)))
    (mode,) = np.unique(driven(policy, None))
    tried = float((driven(policy, generator(0, "noise")) != mode).mean())
    assert abs(tried - EXPLORE * 3 / 4) < 0.04  # one in four of them is the mode again


def test_a_planner_explores_as_a_deterministic_policy_does() -> None:
    """Its own draws lie next to its mode."""
    policy = made(Restless, replace(unit_spec(2), action_low=(-2.0,), action_high=(6.0,)))
    assert driven(policy, None).std() == 0.0
    assert abs(driven(policy, generator(0, "noise")).std() / (EXPLORE * 4) - 1) < 0.1


def test_a_policy_with_noise_of_its_own_has_that_alone() -> None:
    policy = made(TanhGaussian, unit_spec(2))
    with torch.no_grad():
        own = policy.act(torch.zeros(1, 2), generator(0, "noise"))
    assert driven(policy, generator(0, "noise"))[0].tolist() == own[0].tolist()


def test_a_policy_that_draws_its_likeliest_choice_by_chance_has_its_own_noise_alone() -> None:
    policy = made(Categorical, replace(unit_spec(2), discrete=True, action_dim=4, **_choices(4)))
    rng = generator(0, "noise")
    with torch.no_grad():
        own = [int(policy.act(torch.zeros(1, 2), rng).argmax()) for _ in range(COUNT)]
    assert driven(policy, generator(0, "noise")).tolist() == own


def _choices(count: int) -> dict[str, tuple[float, ...]]:
    zeros, ones = (0.0,) * count, (1.0,) * count
    return {"action_low": zeros, "action_high": ones, "action_mean": zeros, "action_std": ones}
