"""Logs of a linear-quadratic and of a 2-state world, and the values of policies in them in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl.core import Policy, Spec
from mbrl.data.dataset import TransitionDataset

A = torch.tensor([[0.9, 0.2], [-0.1, 0.8]]).double()  # x' = A x + B u + NOISE w, r = -x'x - PRICE u'u, x0 = w
B = torch.tensor([[0.5], [1.0]]).double()
NOISE, PRICE = 0.1, 0.1
GAIN, LOGGING_GAIN = [[-0.2, -0.4]], [[-0.1, -0.2]]


class Linear(Policy):
    """u = K x."""

    def __init__(self, spec: Spec, gain: list[list[float]]) -> None:
        super().__init__(spec)
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        return obs @ self.gain.T


class Choose(Policy):
    """Always the same choice."""

    def __init__(self, spec: Spec, choice: int) -> None:
        super().__init__(spec)
        self.register_buffer("row", torch.eye(spec.action_dim)[choice])

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        return self.row.expand(len(obs), -1)


def lqr_value(start: Tensor, gain: list[list[float]], gamma: float) -> Tensor:
    """Discounted value [S] of u = K x from start [S, 2]: -(x'Px + gamma / (1 - gamma) tr(P W))."""
    k, p = torch.tensor(gain).double(), torch.zeros(2, 2).double()
    closed = A + B @ k
    for _ in range(300):  # the closed loop's eigenvalues are 0.8 at most: 0.64^300 is far below rounding
        p = torch.eye(2).double() + PRICE * k.T @ k + gamma * closed.T @ p @ closed
    x = start.double()
    return -((x @ p) * x).sum(-1) - gamma / (1 - gamma) * NOISE**2 * p.trace()


def lqr_log(episodes: int, steps: int, seed: int, exploring: float = 0.5) -> TransitionDataset:
    """A log of u = LOGGING_GAIN x + noise; every episode is cut after `steps`."""
    rng = torch.Generator().manual_seed(seed)
    x, k, rows = torch.randn(episodes, 2, generator=rng).double(), torch.tensor(LOGGING_GAIN).double(), []
    for _ in range(steps):
        u = x @ k.T + exploring * torch.randn(episodes, 1, generator=rng)
        after = x @ A.T + u @ B.T + NOISE * torch.randn(episodes, 2, generator=rng)
        rows.append((x, u, -x.square().sum(-1) - PRICE * u.square().sum(-1), after))
        x = after
    obs, action, reward, next_obs = (torch.stack(column, 1).flatten(0, 1).float() for column in zip(*rows, strict=True))
    cut = torch.arange(episodes * steps) % steps == steps - 1
    return log(obs, action, reward, next_obs, torch.zeros_like(cut), cut, discrete=False)


def log(
    obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor, terminated: Tensor, cut: Tensor, discrete: bool
) -> TransitionDataset:
    """Rows as a data set; an episode ends with each `terminated` or `cut` one."""
    ends = terminated | cut
    return TransitionDataset.create(
        "toy/evaluation-v0",
        obs=obs,
        action=action,
        reward=reward,
        next_obs=next_obs,
        terminated=terminated,
        truncated=cut,
        episode=ends.long().cumsum(0) - ends.long(),
        discrete=discrete,
        action_low=[0.0 if discrete else -5.0] * action.shape[1],
        action_high=[1.0 if discrete else 5.0] * action.shape[1],
    )


CHANGE = torch.tensor([[[0.8, 0.2], [0.3, 0.7]], [[0.1, 0.9], [0.5, 0.5]]]).double()  # [state, choice, next state]
PAYS = torch.tensor([[1.0, 0.0], [-1.0, 2.0]]).double()  # [state, choice]
ENDS = torch.tensor([[0.0, 0.1], [0.05, 0.2]]).double()  # [state, choice]: chance that the world ends


def tabular_log(episodes: int, longest: int, seed: int) -> TransitionDataset:
    """A log of the 2-state, 2-choice world under uniform choices: one-hot states, episodes of varying length."""
    rng = torch.Generator().manual_seed(seed)
    rows, eye = [], torch.eye(2)
    for _ in range(episodes):
        state = int(torch.randint(2, (), generator=rng))
        for step in range(longest):
            choice = int(torch.randint(2, (), generator=rng))
            after = int(torch.multinomial(CHANGE[state, choice], 1, generator=rng))
            ends = bool(torch.rand((), generator=rng) < ENDS[state, choice])
            last = step == longest - 1 and not ends
            rows.append((eye[state], eye[choice], PAYS[state, choice].float(), eye[after], ends, last))
            state = after
            if ends:
                break
    obs, action, reward, next_obs = (torch.stack(column) for column in list(zip(*rows, strict=True))[:4])
    terminated, cut = (torch.tensor(column) for column in list(zip(*rows, strict=True))[4:])
    return log(obs, action, reward, next_obs, terminated, cut, discrete=True)
