"""A policy on probation in a true environment: whole episodes, on a budget of steps, as long as a floor is kept."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Generator, Iterator
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mbrl import environments, playing
from mbrl.core import Policy
from mbrl.environments import Episode
from mbrl.window import Window

EXPLORE = 0.1  # std of the noise of a policy without one, in half ranges, or how often it tries another choice


@final
class Driver:
    """A policy as `mbrl.playing.record` calls it: it remembers the window of the episode that is being played.

    Args:
        policy: may be exchanged between two episodes.
        rng: of its noise; None for its mode. To what has no density (`log_prob`) this adds a Gaussian within the bounds
            (Fujimoto et al. 2018, "TD3", algorithm 1), as a planner's draws are nearly its mode; to a choice that is
            the mode, and not by chance, now and then another one at random.
    """

    def __init__(self, policy: Policy, rng: torch.Generator | None) -> None:
        self.policy, self.rng = policy, rng
        self.window = Window.of(policy.spec)
        self.last: tuple[Tensor, Tensor] | None = None  # window and action of the step before, none at a beginning

    @torch.no_grad()
    def __call__(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        del rng
        frame = torch.from_numpy(obs)
        seen = self.window.begin(frame) if self.last is None else self.window.shift(*self.last, frame)
        rows = seen.unsqueeze(0)
        drawn = self.policy.act(rows, self.rng)
        action = drawn[0]
        if self.rng is not None and self._bare(rows, drawn):
            action = self._explored(action, self.rng)
        self.last = seen, action
        return np.asarray(action.argmax() if self.policy.spec.discrete else action)

    def _bare(self, rows: Tensor, drawn: Tensor) -> bool:
        """Whether what was drawn has no noise to speak of."""
        if self.policy.log_prob(rows, drawn) is not None:
            return False
        return not self.policy.spec.discrete or torch.equal(drawn, self.policy.act(rows, None))

    def _explored(self, action: Tensor, rng: torch.Generator) -> Tensor:
        """An action [A] near this one, or another choice."""
        spec = self.policy.spec
        if spec.discrete:
            choice, tries = torch.randint(spec.action_dim, (), generator=rng), torch.rand((), generator=rng) < EXPLORE
            return torch.where(tries, one_hot(choice, spec.action_dim).float(), action)
        low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
        noise = EXPLORE * (high - low) / 2 * torch.randn(len(action), generator=rng)
        return torch.clamp(action + noise, low, high)


@final
class Probation:
    """Plays whole episodes, counts their steps, and knows when the newest returns have fallen below the floor.

    What is compared with the floor is the mean of the newest `episodes` returns, of whatever policy they are; the first
    of them are those that were measured before the floor was set.

    Args:
        env: id of the true environment.
        budget: steps in all.
        episodes: of one measurement, and in the mean that is compared with the floor.
        seed: of the first episode of a measurement; the episodes between two measurements have seeds of their own.

    Raises:
        ValueError: the budget is too small for two measurements and an episode, or as `environments.longest`.
    """

    def __init__(self, env: str, budget: int, episodes: int, seed: int) -> None:
        self.env, self.budget, self.episodes, self.seed = env, budget, episodes, seed
        self.longest = environments.longest(env)
        self.floor = -math.inf
        self.spent = 0
        self.newest: deque[float] = deque(maxlen=episodes)
        least = (2 * episodes + 1) * self.longest
        if budget < least:
            raise ValueError(
                f"steps is {budget}, expected at least {least}: {episodes} episodes of up to {self.longest} steps to"
                f" measure the old policy, as many to measure the new one, and one to learn from. Raise steps, or lower"
                " episodes"
            )

    @property
    def broken(self) -> bool:
        """Whether the newest returns are below the floor; the mean of equal ones is itself, whatever numpy rounds."""
        return float(np.mean(np.subtract(self.newest, self.floor))) < 0

    def measure(self, policy: Policy) -> np.ndarray:
        """Returns [n] float64 of the policy's mode, always from the same starts; fewer than asked for if `broken`."""
        driver, returns = Driver(policy, None), []
        with contextlib.closing(self._played(driver, self.episodes, self.seed)) as played:
            for _, value in played:
                returns.append(value)
                if self.broken:
                    break
        return np.array(returns)

    def practice(self, driver: Driver) -> Iterator[tuple[Episode, float]]:
        """Episodes with their returns, until `broken`, or until the budget has no other one beside a measurement."""
        reserved = (self.episodes + 1) * self.longest
        with contextlib.closing(self._played(driver, self.budget, self.seed + self.episodes)) as played:
            while not self.broken and self.spent + reserved <= self.budget:
                yield next(played)

    def _played(self, driver: Driver, count: int, seed: int) -> Generator[tuple[Episode, float]]:
        driver.last = None
        for episode in playing.record(self.env, driver, count, seed):
            driver.last = None
            self.spent += len(episode.rewards)
            value = float(episode.rewards.sum())
            if not math.isfinite(value):
                raise ValueError(f"{self.env!r} gave an episode whose return is {value}: no floor can be kept by that")
            self.newest.append(value)
            yield episode, value
