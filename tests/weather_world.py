"""A linear-Gaussian world driven by an exogenous sine, every number of it known, for the tests of what is replayed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbrl.core import Batch, Dynamics, Policy, Prediction, Spec, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.simulator.simulator import Simulator


def weather(episode: int, step: Tensor) -> Tensor:
    """The exogenous channel: a sine whose phase is the episode's."""
    return torch.sin(0.7 * step + episode)


def driven(lengths: tuple[int, ...] = (6, 4, 9), seed: int = 0, std: float = 0.0) -> TransitionDataset:
    """x' = 0.8 x + 0.5 a + w + noise and r = x + w; obs (w, x), of which w is exogenous."""
    rng, rows = generator(seed, "driven"), []
    for episode, length in enumerate(lengths):
        x = torch.randn((), generator=rng)
        w = weather(episode, torch.arange(length + 1.0))
        for step in range(length):
            a = 2 * torch.rand((), generator=rng) - 1
            after = 0.8 * x + 0.5 * a + w[step] + std * torch.randn((), generator=rng)
            here, there = torch.stack([w[step], x]), torch.stack([w[step + 1], after])
            rows.append((here, a.view(1), x + w[step], there))
            x = after
    obs, action, reward, next_obs = (torch.stack(column) for column in zip(*rows, strict=True))
    counts = torch.tensor(lengths)
    last = torch.zeros(len(obs), dtype=torch.bool).index_fill(0, counts.cumsum(0) - 1, True)
    return TransitionDataset.create(
        "toy/driven-v0",
        obs=obs,
        action=action,
        reward=reward,
        next_obs=next_obs,
        terminated=torch.zeros_like(last),
        truncated=last,
        episode=torch.arange(len(lengths)).repeat_interleave(counts),
        discrete=False,
        action_low=[-1.0],
        action_high=[1.0],
        channels=["weather", "level"],
        exogenous=[0],
    )


class Driven(Dynamics):
    """Two members that know the world: the level's mean, and a std; the weather stays what it is."""

    def __init__(self, spec: Spec, std: float = 0.0) -> None:
        super().__init__(spec, 2)
        self.std = std
        self.weight = nn.Parameter(torch.zeros(2, 1))

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        return (self.weight - batch.reward.mean(-1, keepdim=True)).square().squeeze(-1)

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        count = self.members if members is None else len(members)
        obs, action = (x.expand(count, *x.shape[-2:]) for x in (obs, action))
        mean = torch.stack([obs[..., 0], 0.8 * obs[..., 1] + 0.5 * action[..., 0] + obs[..., 0]], -1)
        std = self.std * torch.ones_like(mean[..., 0])
        return Prediction(mean, torch.stack([0 * std, std], -1), obs.sum(-1), std, torch.ones(3))


class Rest(Policy):
    """Always 0.25."""

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        del rng
        return torch.full_like(obs[:, :1], 0.25)


def simulator_of(data: TransitionDataset, std: float = 0.0, **arguments: object) -> Simulator:
    """The world itself as a simulator, with room to wander."""
    spec = data.spec(torch.arange(data.episodes))
    return Simulator(Driven(spec, std), spec, **{"margin": 9.0, **arguments})  # type: ignore[arg-type]
