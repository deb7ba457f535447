"""Small problems that learners must solve."""

from collections.abc import Callable

import pytest
import torch

from mbrl.core import Batch, Spec, generator
from mbrl.data.dataset import TransitionDataset


def bandit(discrete: bool, seed: int = 0, rows: int = 2000) -> tuple[Spec, Batch]:
    """One-step episodes in which the best action is the observation itself (Discrete: its larger coordinate).

    The logged actions are uniform: imitation earns nothing, and reward -|a - s|^2 (or 1 for the right choice) can be
    solved from the log alone.
    """
    rng = generator(seed, "bandit")
    obs = torch.rand(rows, 2, generator=rng) * 1.6 - 0.8
    if discrete:
        choice = torch.randint(2, (rows,), generator=rng)
        action = torch.nn.functional.one_hot(choice, 2).float()
        reward = (choice == obs.argmax(-1)).float()
    else:
        action = torch.rand(rows, 2, generator=rng) * 2 - 1
        reward = -(action - obs).square().sum(-1)
    every = torch.ones(rows, dtype=torch.bool)
    data = TransitionDataset.create(
        "toy/bandit-v0",
        obs=obs,
        action=action,
        reward=reward,
        next_obs=obs.flip(0),
        terminated=every,
        truncated=~every,
        episode=torch.arange(rows),
        discrete=discrete,
        action_low=[0.0, 0.0] if discrete else [-1.0, -1.0],
        action_high=[1.0, 1.0],
    )
    return data.spec(torch.arange(rows)), data.batch()


@pytest.fixture
def problem() -> Callable[[bool], tuple[Spec, Batch]]:
    return bandit
