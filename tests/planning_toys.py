"""Worlds in which the best plan is known, and planners in them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from dynamics_toys import unit_spec
from torch import Tensor, nn

from mbrl.core import Dynamics, Policy, Prediction, Spec, generator, seeded
from mbrl.simulator.simulator import Simulator, Termination, Uncertainty
from policies.actors import Categorical, Deterministic
from policies.networks import Critics
from policies.outlook import Outlook
from policies.planner import Planner


class Toy(Dynamics):
    """A model without noise whose members differ by what `apart` adds to their next observations."""

    def __init__(self, spec: Spec, members: int = 2, apart: float = 0.0) -> None:
        super().__init__(spec, members)
        self.apart = apart
        self.weight = nn.Parameter(torch.zeros(members, 1))

    def loss(self, batch: Any, hidden: Tensor | None = None) -> Tensor:
        del hidden
        return self.weight.squeeze(-1) + 0 * batch.reward.sum(-1)

    @abstractmethod
    def happens(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The next observation and the reward."""

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        del hidden
        numbers = torch.arange(self.members) if members is None else members
        next_obs, reward = self.happens(obs, action)
        offset = self.apart * (numbers - (self.members - 1) / 2).view(-1, 1, 1)
        next_obs = next_obs.expand(len(numbers), *next_obs.shape[-2:]) + offset
        reward = reward.expand(len(numbers), reward.shape[-1])
        scale = torch.ones(obs.shape[-1] + 1)
        return Prediction(next_obs, torch.zeros_like(next_obs), reward, torch.zeros_like(reward), scale)


class Integrator(Toy):
    """x' = x + a and r = -x^2 - a^2: the linear-quadratic regulator in one dimension."""

    def happens(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return obs + action, -obs[..., 0].square() - action[..., 0].square()


class Hill(Toy):
    """x' = x + a and r = x: the further up, the better."""

    def happens(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return obs + action, obs[..., 0] + 0.0 * action[..., 0]


class Heap(Toy):
    """A binary tree, its nodes numbered row by row from 0: choice k leads from x to 2 x + 1 + k, and earns its number's
    reward."""

    rewards = (0.0, 1.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0)

    def happens(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        next_obs = 2 * obs + 1 + action[..., 1:]
        table = torch.tensor(self.rewards)
        return next_obs, table[next_obs[..., 0].round().long().clamp(0, len(table) - 1)]


class Pole(Toy):
    """(angle, speed) of a pole that falls by itself, pushed to the left or to the right; 1 a step."""

    def happens(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        push = action[..., 1] - action[..., 0]
        speed = obs[..., 1] + 0.1 * obs[..., 0] - 0.05 * push
        return torch.stack([obs[..., 0] + speed, speed], -1), torch.ones_like(speed)


def fallen(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The rule that ends a `Pole`."""
    del obs, action
    return next_obs[..., 0].abs() > 0.5


def above_one(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """A rule that ends a world where it leads above 1."""
    del obs, action
    return next_obs[..., 0] > 1


def doubt_above_one(prediction: Prediction) -> Tensor:
    """An uncertainty of 1 where a prediction leads above 1, of 0 elsewhere."""
    return (prediction.obs[0, ..., 0] > 1).float()


def choices_spec(obs_dim: int = 1) -> Spec:
    """Two choices, and moments that are all 0 and 1."""
    zeros, ones = (0.0,) * obs_dim, (1.0,) * obs_dim
    lows, highs = (-1e3,) * obs_dim, (1e3,) * obs_dim
    pair = ((0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.5, 0.5))
    return Spec(obs_dim, 2, True, *pair, zeros, ones, lows, highs, zeros, ones, 0.0, 1.0, -1e3, 1e3, False, 100)


def world_of(
    kind: type[Toy],
    spec: Spec | None = None,
    uncertainty: Uncertainty | None = None,
    termination: Termination | None = None,
    **settings: Any,
) -> Simulator:
    """The simulator of a toy, its uncertainty in its own units."""
    spec = unit_spec(1, -100.0, 100.0) if spec is None else spec
    simulator = Simulator(kind(spec, **settings), spec, uncertainty, termination)
    simulator.calibrated = True
    return simulator


def indifferent(spec: Spec) -> tuple[Policy, Critics]:
    """A policy that does nothing, or all choices alike, and critics that value everything as 0."""
    with seeded(0, "toy"):
        actor: Policy = Categorical(spec, (4,)) if spec.discrete else Deterministic(spec, (4,))
        critics = Critics(spec, 2, (4,), False)
    with torch.no_grad():
        for parameter in (*actor.parameters(), *critics.parameters()):
            parameter.zero_()
    return actor, critics


def placed(planner: Planner, world: Simulator, horizon: int, discount: float = 1.0, penalty: float = 0.0) -> Planner:
    """The planner in a world, beginning with an indifferent policy."""
    actor, critics = indifferent(planner.spec)
    outlook = Outlook.over(world, actor, critics, discount=discount, horizon=horizon, penalty=penalty)
    return planner.seeing(outlook)


def drawn(rows: int, width: int = 1, seed: int = 0) -> Tensor:
    """Observations [rows, width], uniform within -0.5 to 0.5."""
    return torch.rand(rows, width, generator=generator(seed, "toy")) - 0.5
