"""Episodes side by side in a learned world: how they start, step and end. What both Gymnasium shells are made of."""

from __future__ import annotations

import math
from typing import NamedTuple, final

import torch
from torch import Tensor

from mbrl.core import Memory, Step, generator
from mbrl.simulator.simulator import Simulator
from mbrl.window import Window


class Moment(NamedTuple):
    """One step of every episode. Where `began` is true there was none: a new episode starts with `obs`."""

    obs: Tensor  # [N, F] newest observations
    reward: Tensor  # [N], raw: no penalty; 0 where an episode began
    terminated: Tensor  # [N] bool: the world ended
    truncated: Tensor  # [N] bool: the world went on; the episode was cut at the horizon, or where the replayed log ends
    uncertainty: Tensor  # [N], in the simulator's unit; 0 where an episode began
    began: Tensor  # [N] bool


def truncation(simulator: Simulator, horizon: int | None) -> int:
    """Steps after which an episode is cut: as asked, or as far as the simulator is trusted, or as the log's longest.

    Raises:
        ValueError: that is no step at all.
    """
    if horizon is not None:
        if not 1 <= horizon < math.inf or horizon != int(horizon):
            raise ValueError(f"horizon is {horizon}, expected a whole number of steps, at least 1")
        return int(horizon)
    if simulator.trusted_horizon == 0:
        raise ValueError(
            "the simulator's trusted horizon is 0: its report card trusts not even one step. Give horizon=STEPS to step"
            " in it all the same"
        )
    return simulator.trusted_horizon or simulator.spec.max_episode_steps


@final
class Episodes:
    """N episodes in one simulator. A row whose episode is over begins a new one at the next step (NEXT_STEP autoreset).

    Start states and the world's noise are drawn from separate generators, so that the same seed gives the same start
    states whatever happens between them.

    Args:
        simulator: steps them, on its own device.
        count: N, at least 1.
        seed: of both generators.
        horizon: steps after which an episode is cut, at least 1.
    """

    def __init__(self, simulator: Simulator, count: int, seed: int, horizon: int) -> None:
        device = simulator.low.device
        self.simulator = simulator
        self.horizon = horizon
        self.window = Window.of(simulator.spec)
        self.obs = torch.zeros(count, simulator.spec.obs_dim, device=device)  # [N, O] now, older observations included
        self.elapsed = torch.zeros(count, dtype=torch.long, device=device)  # [N] steps of the running episode
        self.over = torch.ones(count, dtype=torch.bool, device=device)  # [N] to begin anew at the next step
        self.memory: Memory | None = None  # what the world carries beside obs
        self._starts, self._noise = (generator(seed, f"episodes/{s}", device) for s in ("starts", "noise"))

    def begin(self, obs: Tensor | None = None) -> Tensor:
        """Start all episodes anew, from `obs` [N, F] or from stored start states, and return what is seen, [N, F].

        Exogenous channels are replayed from the episode that the stored start state began; after an `obs` of the
        caller's own, from the beginning of a stored episode drawn at random.

        Raises:
            ValueError: no `obs` is given, and the simulator carries no start states.
        """
        if obs is None:
            self.obs, self.memory = self.simulator.start(len(self.obs), self._starts)
        else:
            self.obs = self.window.begin(obs.to(self.obs.device))
            self.memory = self.simulator.begin(self.obs, self._starts)
        self.elapsed, self.over = torch.zeros_like(self.elapsed), torch.zeros_like(self.over)
        return self._seen()

    def step(self, action: Tensor) -> Moment:
        """Step every running episode with its row of `action` [N, A], and begin a new one where the last is over.

        Raises:
            ValueError: an episode has to begin, and the simulator carries no start states.
            FloatingPointError: an observation is not finite.
        """
        action = action.to(self.obs.device)
        began = self.over
        if began.any():
            step = self._some_anew(action, began)
        else:
            step = self.simulator.step(self.obs, action, self._noise, self.memory)
        self.obs, reward, terminated, uncertainty, self.memory = step
        if not self.obs.isfinite().all():
            row, channel = (~self.obs.isfinite()).nonzero()[0].tolist()
            raise FloatingPointError(
                f"episode {row} came to {float(self.obs[row, channel])} in channel {channel}: the model diverged, or"
                " simulator.structure gives no finite number there"
            )
        self.elapsed = (self.elapsed + 1).masked_fill_(began, 0)
        cut, ended = self.elapsed >= self.horizon, self.simulator.ended(self.memory)
        truncated = (cut if ended is None else cut | ended) & ~terminated
        self.over = terminated | truncated
        return Moment(self._seen(), reward, terminated, truncated, uncertainty, began)

    def _seen(self) -> Tensor:
        return self.obs[:, : self.window.frame].clone()

    def _some_anew(self, action: Tensor, began: Tensor) -> Step:
        """A step of the rows that go on, and a new episode in the rows `began` [N] bool."""
        start, memory = self.simulator.start(int(began.sum()), self._starts)
        nothing = torch.zeros_like(self.obs[:, 0])
        step = Step(torch.empty_like(self.obs), nothing, torch.zeros_like(began), nothing.clone(), memory)
        step.next_obs[began] = start
        if began.all():
            return step
        rows = ~began
        on = self.simulator.step(self.obs[rows], action[rows], self._noise, self.memory and self.memory.at(rows))
        for column, values in zip(step[:4], on[:4], strict=True):
            column[rows] = values
        if self.memory is None or memory is None or on.memory is None:
            return step
        return step._replace(memory=self.memory.put(rows, on.memory).put(began, memory))
