"""Worlds whose values are known exactly: a 2-state MDP that can be enumerated, and a scalar linear-quadratic one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from dynamics_toys import unit_spec
from torch import Tensor

from mbrl.core import Policy, Spec
from mbrl.evaluation.ratios import Ratios
from mbrl.evaluation.trajectories import Trajectories

HORIZON = 3
START = torch.tensor([0.6, 0.4], dtype=torch.float64)
NEXT = torch.tensor([[[0.7, 0.3], [0.2, 0.8]], [[0.5, 0.5], [0.9, 0.1]]], dtype=torch.float64)  # [s, a, s']
REWARD = torch.tensor([[1.0, -0.5], [0.25, 2.0]], dtype=torch.float64)  # [s, a]
ENDS = torch.tensor([[False, False], [False, True]])  # [s, a]: the world ends with this step
LOGGED = torch.tensor([[0.5, 0.5], [0.6, 0.4]], dtype=torch.float64)  # behaviour [s, a]
TARGET = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)


class Tabular(NamedTuple):
    """Every episode that the MDP can make, or some of them."""

    seen: Trajectories
    state: Tensor  # [n, T] long
    action: Tensor  # [n, T] long
    chance: Tensor  # [n] of each episode under the behaviour

    def ratios(self, target: Tensor = TARGET, behaviour: Tensor = LOGGED) -> Ratios:
        log = (target / behaviour).log()[self.state, self.action]
        return Ratios(log.where(self.seen.valid, 0.0), {})

    def take(self, rows: Tensor) -> Tabular:
        seen = Trajectories(*(None if x is None else x[rows] for x in self.seen))
        return Tabular(seen, self.state[rows], self.action[rows], self.chance[rows])

    def values(self, gamma: float, target: Tensor = TARGET) -> tuple[Tensor, Tensor]:
        """Exact Q [n, T] of the logged actions and V [n, T + 1], with the steps that are left; 0 beyond the end."""
        q, v = tables(gamma, target)
        alive = torch.cat([self.seen.valid, torch.zeros_like(self.seen.valid[:, :1])], 1)
        steps = torch.arange(HORIZON)
        state = torch.cat([self.state, self.state[:, :1]], 1)
        found = v[torch.arange(HORIZON + 1), state].where(alive, 0.0)
        return q[steps, self.state, self.action].where(self.seen.valid, 0.0), found


def tables(gamma: float, target: Tensor = TARGET) -> tuple[Tensor, Tensor]:
    """Exact Q [T, 2, 2] and V [T + 1, 2] of a policy, by dynamic programming."""
    q, v = torch.zeros(HORIZON, 2, 2, dtype=torch.float64), torch.zeros(HORIZON + 1, 2, dtype=torch.float64)
    for t in reversed(range(HORIZON)):
        q[t] = REWARD + gamma * (NEXT @ v[t + 1]).where(~ENDS, 0.0)
        v[t] = (target * q[t]).sum(-1)
    return q, v


def truth(gamma: float, target: Tensor = TARGET) -> float:
    return float(START @ tables(gamma, target)[1][0])


def every_episode() -> Tabular:
    """All of them, with their chances under `LOGGED`; some end early."""
    found: list[tuple[list[tuple[int, int]], float]] = []

    def go(past: list[tuple[int, int]], state: int, chance: float) -> None:
        for action in (0, 1):
            steps, now = [*past, (state, action)], chance * float(LOGGED[state, action])
            if bool(ENDS[state, action]) or len(steps) == HORIZON:
                found.append((steps, now))
            else:
                for after in (0, 1):
                    go(steps, after, now * float(NEXT[state, action, after]))

    for state in (0, 1):
        go([], state, float(START[state]))
    n = len(found)
    state, action = (torch.zeros(n, HORIZON, dtype=torch.long) for _ in range(2))
    valid = torch.zeros(n, HORIZON, dtype=torch.bool)
    for i, (steps, _) in enumerate(found):
        state[i, : len(steps)], action[i, : len(steps)] = torch.tensor(steps).T
        valid[i, : len(steps)] = True
    taken = torch.nn.functional.one_hot(action, 2).float() * valid.unsqueeze(-1)
    obs = state.float().unsqueeze(-1)
    seen = Trajectories(obs, taken, REWARD[state, action].where(valid, 0.0), obs, ENDS[state, action] & valid, valid)
    return Tabular(seen, state, action, torch.tensor([chance for _, chance in found], dtype=torch.float64))


def sampled(n: int, seed: int) -> Tabular:
    """n episodes as the behaviour makes them."""
    whole = every_episode()
    rng = torch.Generator().manual_seed(seed)
    return whole.take(torch.multinomial(whole.chance, n, replacement=True, generator=rng))


class Linear(Policy):
    """u = -gain x, with Gaussian noise of its own where std is above 0."""

    def __init__(self, spec: Spec, gain: float, std: float = 0.0) -> None:
        super().__init__(spec)
        self.gain, self.std = gain, std

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        mean = -self.gain * obs
        return mean if rng is None else mean + self.std * torch.randn(mean.shape, generator=rng, dtype=mean.dtype)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor | None:
        if not self.std:
            return None
        z = (action + self.gain * obs) / self.std
        return (-0.5 * z.square() - math.log(self.std) - 0.5 * math.log(2 * math.pi)).sum(-1)


class Plant(NamedTuple):
    """x' = a x + b u + noise, reward -(x^2 + 0.1 u^2), x0 standard normal."""

    a: float = 0.9
    b: float = 0.5
    noise: float = 0.1

    def value(self, gain: float, std: float, gamma: float, steps: int) -> float:
        """Closed form of the linear policy's expected return: V_t(x) = -(p x^2 + c)."""
        p = c = 0.0
        closed = self.a - self.b * gain
        for _ in range(steps):
            c = 0.1 * std**2 + gamma * (c + p * (self.noise**2 + self.b**2 * std**2))
            p = 1 + 0.1 * gain**2 + gamma * p * closed**2
        return -(p + c)

    def log(self, policy: Linear, n: int, steps: int, seed: int) -> Trajectories:
        """n episodes of a noisy policy, with its propensities."""
        rng = torch.Generator().manual_seed(seed)
        rows = []
        x = torch.randn(n, 1, generator=rng, dtype=torch.float64)
        for _ in range(steps):
            u = policy.act(x, rng)
            after = self.a * x + self.b * u + self.noise * torch.randn(n, 1, generator=rng, dtype=torch.float64)
            rows.append((x, u, -(x.square() + 0.1 * u.square())[:, 0], after, policy.log_prob(x, u)))
            x = after
        obs, action, reward, next_obs, propensity = (torch.stack(column, 1) for column in zip(*rows, strict=True))
        valid = torch.ones(n, steps, dtype=torch.bool)
        return Trajectories(obs, action, reward, next_obs, ~valid, valid, propensity)


def wide_spec() -> Spec:
    """One channel, one action, bounds that no action meets."""
    return replace(unit_spec(), action_low=(-50.0,), action_high=(50.0,))


class Stepped:
    """Critics that say obs + 100 m, by member m, of every policy."""

    gamma = 0.5  # that of the bench that they stand in

    def __init__(self, members: int = 2) -> None:
        self.members = members

    def check(self) -> None:
        return None

    def v(self, obs: Tensor) -> Tensor:
        return obs[:, 0] + 100 * torch.arange(float(self.members)).unsqueeze(-1)

    def q(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.v(obs) + action[:, 0] * 0
