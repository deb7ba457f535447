"""A plant that pays for its action, a policy that always does the same, and learners that become it."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor

from mbrl import probation
from mbrl.core import Policy, Spec
from mbrl.training.loop import Pace
from mbrl.training.policy import PolicyReport

STEPS = 5  # of an episode
ENV, ENDLESS = "mbrltest/Push-v0", "mbrltest/PushOn-v0"


class Push(gym.Env[Any, Any]):
    """Spaces of Pendulum; the state is the start, and the reward is the action, less `fee` from step `since` on."""

    observation_space = Box(-8, 8, (3,), np.float32)
    action_space = Box(-2, 2, (1,), np.float32)
    taken: ClassVar[int] = 0  # steps, of all environments
    starts: ClassVar[list[float]] = []
    since: ClassVar[float] = np.inf
    fee: ClassVar[float] = 0.0
    fails: ClassVar[float] = np.inf  # the step that is the last one

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        Push.starts.append(float(self.at[0]))
        return self.at, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        Push.taken += 1
        if Push.taken >= Push.fails:
            raise RuntimeError("the plant does not answer")
        return self.at, float(action[0]) - (Push.fee if Push.taken >= Push.since else 0.0), False, False, {}


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Push]]:
    """Push, registered and fresh; who always does the same does so in practice as well."""
    monkeypatch.setattr(probation, "EXPLORE", 0.0)
    for name, value in {"taken": 0, "starts": [], "since": np.inf, "fee": 0.0, "fails": np.inf}.items():
        monkeypatch.setattr(Push, name, value)
    gym.register(ENV, Push, max_episode_steps=STEPS)
    gym.register(ENDLESS, Push)
    yield Push
    for name in (ENV, ENDLESS):
        del gym.registry[name]


class Constant(Policy):
    """Does the same everywhere, with noise or without."""

    def __init__(self, spec: Spec, value: float = 0.0) -> None:
        super().__init__(spec)
        self.value = torch.nn.Parameter(torch.tensor(value))

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        del rng
        return self.value + 0 * obs[:, :1]


def becoming(value: float) -> Callable[..., PolicyReport]:
    """What stands for `fit_policy` where a learner is to end as `Constant`."""

    def fit(learner: Any, real: Any, simulator: Any, *, updates: int, **settings: Any) -> PolicyReport:
        return PolicyReport(Constant(learner.spec, value), updates, 0, Pace(updates, 0, 1.0, 0.0, 0.0))

    return fit
