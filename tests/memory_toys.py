"""Worlds that one observation does not tell, and a model that remembers, with known answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mbrl.core import Batch, Dynamics, Prediction, Spec
from mbrl.data.dataset import TransitionDataset


def dataset(obs: Sequence[Tensor], action: Sequence[Tensor], reward: Sequence[Tensor]) -> TransitionDataset:
    """Episodes of [T + 1, O] observations, [T, A] actions and [T] rewards, cut at their end."""
    lengths = torch.tensor([len(r) for r in reward])
    last = torch.zeros(int(lengths.sum()), dtype=torch.bool).index_fill(0, lengths.cumsum(0) - 1, True)
    return TransitionDataset.create(
        "toy/hidden-v0",
        obs=torch.cat([x[:-1] for x in obs]),
        action=torch.cat(list(action)),
        reward=torch.cat(list(reward)),
        next_obs=torch.cat([x[1:] for x in obs]),
        terminated=torch.zeros_like(last),
        truncated=last,
        episode=torch.arange(len(lengths)).repeat_interleave(lengths),
        discrete=False,
        action_low=[-1.0],
        action_high=[1.0],
    )


def sums(lengths: Sequence[int]) -> TransitionDataset:
    """Each observation is 0.5 plus half the sum of those before the last one: what member 0 of `Summing` says."""
    episodes = []
    for number, length in enumerate(lengths):
        seen = [1.0 + number]
        for step in range(length):
            seen.append(0.5 * sum(seen[:step]) + 0.5)
        episodes.append(torch.tensor(seen).unsqueeze(-1))
    actions = [torch.zeros(length, 1) for length in lengths]
    return dataset(episodes, actions, [x[:-1, 0] for x in episodes])


class Summing(Dynamics):
    """The state of member e is (e + 1) / 2 times the sum of the observations so far; it says that plus 0.5."""

    def __init__(self, spec: Spec, members: int = 1, std: float = 0.0) -> None:
        super().__init__(spec, members)
        self.memory = 4
        self.std = std
        self.weight = nn.Parameter(torch.zeros(members, 1))

    def initial(self, rows: int) -> Tensor:
        return torch.zeros(self.members, rows, 1)

    def remember(self, obs: Tensor, action: Tensor, hidden: Tensor | None, members: Tensor | None = None) -> Tensor:
        del action
        assert hidden is not None
        number = (torch.arange(self.members) if members is None else members).view(-1, 1, 1)
        return hidden + 0.5 * (number + 1) * obs

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        assert hidden is not None
        return (self.weight - hidden[..., 0].mean(-1, keepdim=True) - batch.reward.mean(-1, keepdim=True)).square()[
            :, 0
        ]

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        del action, members
        assert hidden is not None
        mean, reward = hidden + 0.5, obs[..., 0].expand(hidden.shape[:-1])
        std = self.std * torch.ones_like(mean)
        return Prediction(mean, std, reward, std[..., 0], torch.ones(2))


def oscillator(episodes: int, length: int, seed: int) -> TransitionDataset:
    """A driven, damped oscillator whose velocity is not logged: s' = 0.98 R(0.5) s + (0, 0.3 a) + noise of 0.01.

    With the velocity the next position is known to 0.01; without it to sin(0.5) = 0.48 times the velocity's spread.
    """
    rng = torch.Generator().manual_seed(seed)
    turn = 0.98 * torch.tensor([[math.cos(0.5), math.sin(0.5)], [-math.sin(0.5), math.cos(0.5)]])
    state = torch.randn(episodes, 2, generator=rng)
    seen, actions = [state], []
    for _ in range(length):
        action = 2 * torch.rand(episodes, 1, generator=rng) - 1
        state = state @ turn.T + torch.cat([0 * action, 0.3 * action], -1)
        state = state + 0.01 * torch.randn(episodes, 2, generator=rng)
        seen.append(state)
        actions.append(action)
    positions = torch.stack(seen, 1)[..., :1]
    return dataset(list(positions), list(torch.stack(actions, 1)), list(positions[:, :-1, 0]))
