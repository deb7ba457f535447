"""Small worlds and models with known answers, for the tests of dynamics, training and simulator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbrl.core import Batch, Dynamics, Prediction, Spec


def spec_of(batch: Batch, terminals: bool | None = None, discrete: bool = False) -> Spec:
    """The spec of a log [N, ...], as the data package would read it."""

    def moments(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
        std = x.std(0, correction=0)
        return tuple(x.mean(0).tolist()), tuple(torch.where(std > 1e-8, std, 1.0).tolist())

    both = torch.cat([batch.obs, batch.next_obs])
    (obs_mean, obs_std), (action_mean, action_std) = moments(batch.obs), moments(batch.action)
    delta_mean, delta_std = moments(batch.next_obs - batch.obs)
    (reward_mean,), (reward_std,) = moments(batch.reward.unsqueeze(-1))
    actions = batch.action.shape[-1]
    return Spec(
        obs_dim=batch.obs.shape[-1],
        action_dim=actions,
        discrete=discrete,
        action_low=(0.0 if discrete else -1.0,) * actions,
        action_high=(1.0,) * actions,
        action_mean=action_mean,
        action_std=action_std,
        obs_mean=obs_mean,
        obs_std=obs_std,
        obs_low=tuple(both.amin(0).tolist()),
        obs_high=tuple(both.amax(0).tolist()),
        delta_mean=delta_mean,
        delta_std=delta_std,
        reward_mean=reward_mean,
        reward_std=reward_std,
        reward_low=float(batch.reward.min()),
        reward_high=float(batch.reward.max()),
        terminals=bool(batch.terminated.any()) if terminals is None else terminals,
        max_episode_steps=100,
    )


A = torch.tensor([[0.9, 0.2], [-0.1, 0.8]])
B = torch.tensor([[0.5], [1.0]])
C = torch.tensor([1.0, -2.0])
NOISE = torch.tensor([0.05, 0.2, 0.1])  # of the two observations and the reward


def linear_world(rows: int, seed: int, terminal_below: float = -torch.inf) -> Batch:
    """x' = A x + B a + noise and r = C x + noise; the world ends where x'[0] < terminal_below."""
    rng = torch.Generator().manual_seed(seed)
    obs = torch.randn(rows, 2, generator=rng)
    action = 2 * torch.rand(rows, 1, generator=rng) - 1
    noise = NOISE * torch.randn(rows, 3, generator=rng)
    next_obs = obs @ A.T + action @ B.T + noise[:, :2]
    return Batch(obs, action, obs @ C + noise[:, 2], next_obs, next_obs[:, 0] < terminal_below)


def unit_spec(obs_dim: int = 1, low: float = -1e6, high: float = 1e6, terminals: bool = False) -> Spec:
    """A spec whose moments are all 0 and 1, with one action."""
    zeros, ones = (0.0,) * obs_dim, (1.0,) * obs_dim
    lows, highs = (low,) * obs_dim, (high,) * obs_dim
    bounds = ((-1.0,), (1.0,), (0.0,), (1.0,))
    moments = (zeros, ones, lows, highs, zeros, ones)
    return Spec(obs_dim, 1, False, *bounds, *moments, 0.0, 1.0, low, high, terminals, 100)


class Known(Dynamics):
    """Member e says next_obs = obs + e + 1 and reward = obs[0] + 10 e, with one std for both; it ends as told."""

    def __init__(self, spec: Spec, members: int = 3, std: float = 0.0, chances: tuple[float, ...] = ()) -> None:
        super().__init__(spec, members)
        self.std = std
        self.register_buffer("chances", torch.tensor(chances or (0.0,) * members))
        self.weight = nn.Parameter(torch.zeros(members, 1))

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        return self.weight.squeeze(-1) + 0 * batch.reward.sum(-1)

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        del action
        number = (torch.arange(self.members) if members is None else members).view(-1, 1, 1)
        mean = obs + number + 1.0
        reward = (obs + 10.0 * number)[..., 0]
        std = self.std * torch.ones_like(mean)
        return Prediction(mean, std, reward, std[..., 0], torch.ones(obs.shape[-1] + 1))

    def termination(
        self, obs: Tensor, action: Tensor, next_obs: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        del action, next_obs
        chances = self.chances if members is None else self.chances[members]
        return chances.unsqueeze(-1).expand(-1, obs.shape[-2])


class Watched(Known):
    """Remembers the observations that it is asked about."""

    def __init__(self, spec: Spec, members: int = 3) -> None:
        super().__init__(spec, members)
        self.seen: list[list[float]] = []

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        self.seen.append(obs.flatten().tolist())
        return super().predict(obs, action, members, hidden)


class Scripted(Dynamics):
    """Member e's hold-out error after its t-th update is script[e][t - 1], if Adam's lr is 0.01.

    Under a gradient that is always 1, Adam takes steps of exactly lr, so the parameter counts the updates.
    """

    def __init__(self, spec: Spec, script: list[list[float]]) -> None:
        super().__init__(spec, len(script))
        self.register_buffer("script", torch.tensor(script))
        self.clock = nn.Parameter(torch.zeros(len(script), 1))

    def updates(self) -> list[int]:
        """How many updates each member's parameter has behind it."""
        return (-self.clock.detach() / 0.01).round().long().flatten().tolist()

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        del batch
        return self.clock.squeeze(-1)

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        del action, members
        at = (torch.tensor(self.updates()).view(-1, 1) - 1).clamp(0, self.script.shape[1] - 1)
        error = self.script.gather(1, at).sqrt().expand(-1, len(obs))  # of the reward and of obs, which is [B, 1]
        mean = obs + error.unsqueeze(-1)
        return Prediction(mean, torch.zeros_like(mean), error, torch.zeros_like(error), torch.ones(2))


def still(rows: int) -> Batch:
    """Rows in which nothing happens and nothing is earned."""
    nothing = torch.zeros(rows, 1)
    return Batch(nothing, nothing, torch.zeros(rows), nothing, torch.zeros(rows, dtype=torch.bool))


def reward_of_first(prediction: Prediction) -> Tensor:
    """An uncertainty that is easy to foresee: what member 0 of `Known` earns, obs[0]."""
    return prediction.reward[0]
