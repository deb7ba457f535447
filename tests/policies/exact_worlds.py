"""A world with two models that know the reward of the bandit, and worlds whose every number can be worked by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from mbrl.core import Batch, Dynamics, Prediction, Spec
from mbrl.simulator.simulator import Simulator


class Told(Dynamics):
    """Two members: each predicts a function of (obs, action) plus a bias of its own, with a constant std.

    Args:
        spec: of the log.
        shifts: what each member adds to every channel of obs.
        std: of every channel and the reward; 0 for a model without a spread.
        reward: obs, action [..., B, *] -> [..., B]; zero if not given.
    """

    def __init__(
        self,
        spec: Spec,
        shifts: tuple[float, ...] = (0.0, 0.0),
        std: float = 0.1,
        reward: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(spec, members=len(shifts))
        self.std, self.reward = std, reward
        self.shift = nn.Parameter(torch.tensor(shifts).view(-1, 1, 1).repeat(1, 1, spec.obs_dim))
        self.bonus = nn.Parameter(torch.zeros(len(shifts), 1))

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        chosen = torch.arange(self.members) if members is None else members
        mean = obs + self.shift[chosen]
        reward = obs.new_zeros(obs.shape[:-1]) if self.reward is None else self.reward(obs, action)
        wide = torch.full_like(mean, self.std)
        return Prediction(mean, wide, reward + self.bonus[chosen], wide[..., 0], torch.ones(self.spec.obs_dim + 1))

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        found = self.predict(batch.obs, batch.action)
        return (found.obs - batch.next_obs).square().mean((-2, -1)) + (found.reward - batch.reward).square().mean(-1)


def nearness(obs: Tensor, action: Tensor) -> Tensor:
    """The reward of the Box bandit, -|a - s|^2."""
    return -(action - obs).square().sum(-1)


def rightness(obs: Tensor, action: Tensor) -> Tensor:
    """The reward of the Discrete bandit: 1 for the larger coordinate."""
    return (action.argmax(-1) == obs.argmax(-1)).float()


def over_at_once(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.ones_like(obs[..., 0], dtype=torch.bool)


def bandit_world(spec: Spec) -> Simulator:
    """The bandit itself."""
    return Simulator(Told(spec, reward=rightness if spec.discrete else nearness), spec, termination=over_at_once)


def plain_spec(spec: Spec, **changes: object) -> Spec:
    """A spec in which observations and rewards are in units of one, and hardly anything is clipped."""
    wide = {"obs_low": (-100.0,) * spec.obs_dim, "obs_high": (100.0,) * spec.obs_dim}
    unit = {"obs_mean": (0.0,) * spec.obs_dim, "obs_std": (1.0,) * spec.obs_dim}
    return replace(spec, **wide, **unit, reward_low=-100.0, reward_high=100.0, reward_std=1.0, **changes)
