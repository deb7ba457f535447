"""What learners and planners may know of a simulator: how to begin in it, step it, and what stands behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from mbrl.core import Batch, Dynamics, Foresight
    from mbrl.spec import Spec


class Memory(NamedTuple):
    """What a simulated world carries from step to step beside the observation, per row; None where it needs none."""

    cursor: Tensor | None = None  # [B] long: the row of the replayed log that the observation belongs to
    hidden: Tensor | None = None  # [B, E, H]: every member's state, of a model that remembers

    def at(self, rows: Tensor) -> Memory:
        """The memory of some rows: [B'] long, or [B] bool."""
        return Memory(*(None if column is None else column[rows] for column in self))

    def put(self, rows: Tensor, part: Memory) -> Memory:
        """This memory, and `part` in place of its own for some rows: [B'] long, or [B] bool."""
        pairs = zip(self, part, strict=True)
        return Memory(*(None if a is None or b is None else a.index_put((rows,), b) for a, b in pairs))

    def unless(self, fresh: Tensor, start: Memory) -> Memory:
        """This memory, and that of `start` in the rows where `fresh` [B] bool is true; without a host read."""
        pairs = zip(self, start, strict=True)
        return Memory(*(None if a is None or b is None else _where(fresh, b, a) for a, b in pairs))


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (no.dim() - 1)), yes, no)


class Step(NamedTuple):
    """One step of a simulator: honest, so the reward carries no penalty."""

    next_obs: Tensor  # [B, O]
    reward: Tensor  # [B]
    terminated: Tensor  # [B] bool
    uncertainty: Tensor  # [B], 1 = its stated quantile on held-out logged transitions
    memory: Memory | None  # for the next step; None in a world that needs none


class Foreseen(NamedTuple):
    """One step as a simulator expects it: the mean over its elites, without noise."""

    next_obs: Tensor  # [B, O]
    reward: Tensor  # [B], without a penalty
    terminated: Tensor  # [B] the probability that the world ends with this step
    uncertainty: Tensor  # [B], as in `Step`


class World(nn.Module, ABC):
    """A simulator as learners and planners see it; `mbrl.simulator.simulator.Simulator` says what each method does.

    It is the learner's to read. One that changes its weights works on a copy, see `Learner.enter`.
    """

    spec: Spec
    dynamics: Dynamics
    uncertainty: Any  # None: steps say an uncertainty of zero
    trusted_horizon: int | None  # steps; None where no report card says

    @abstractmethod
    def begin(self, obs: Tensor, rng: torch.Generator, rows: Tensor | None = None) -> Memory | None:
        """What rollouts from obs [B, O] carry beside the observation; None in a world that needs nothing."""

    @abstractmethod
    def step(self, obs: Tensor, action: Tensor, rng: torch.Generator, memory: Memory | None = None) -> Step:
        """One step from obs [B, O] with action [B, A], in the environment's units."""

    @abstractmethod
    def propagate(
        self, obs: Tensor, action: Tensor, rng: torch.Generator, memory: Memory | None = None
    ) -> tuple[Tensor, Tensor, Memory | None]:
        """One step of the K elites, each with rows of its own, obs [K, B, O]: next_obs [K, B, O], reward [K, B]."""

    @abstractmethod
    def log_density(self, rows: Batch) -> Tensor:
        """Log density [B] of what a step says, of the transitions [B, ...], with gradients to the model's weights."""

    @abstractmethod
    def ended(self, memory: Memory | None) -> Tensor | None:
        """Rows [B] bool whose replayed episode has no further row; None in a world that replays nothing."""

    @abstractmethod
    def foresight(self) -> Foresight:
        """The expected step, as a copy that can be built into a policy: it is rebuilt from plain values and tensors.

        Raises:
            RuntimeError: there is an uncertainty that was never calibrated.
            ValueError: the model remembers, or a part of the simulator is not reachable by a dotted path.
        """

    @abstractmethod
    def plain(self) -> Self:
        """The same world, its tensors shared, without the uncertainty, which makes it faster."""
