"""Policy x simulator -> transitions. Here alone is a doubtful simulator paid for: by a price, or by a halt."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mbrl.core import Batch, Policy, World

FOREVER = 100.0  # steps: what a reward that is paid for ever comes to at a discount of 0.99
Measure = Callable[[Tensor, Tensor, Tensor], Tensor]  # obs, action, next_obs [B, ...] -> [B], or [M, B]: M of them
Cost = Measure  # what a transition costs, of several by member


class Acting(Protocol):
    """Whoever answers observations [B, O] with actions [B, A]; see `mbrl.core.Policy.act`."""

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor: ...


def price(simulator: World, penalty: float) -> float:
    """What uncertainty 1 costs, in units of the reward: penalty * (reward spread of the log).

    Raises:
        ValueError: the penalty is negative or not finite, or there is no uncertainty to scale it by.
    """
    if not 0 <= penalty < math.inf:
        raise ValueError(f"penalty is {penalty}, expected 0 or more")
    if penalty and simulator.uncertainty is None:
        raise ValueError(f"penalty is {penalty} but the simulator has no uncertainty: name one, or set penalty to 0")
    return penalty * simulator.spec.reward_std


class Pessimism(NamedTuple):
    """What a doubtful step of an imagined rollout costs, see `imagine`."""

    price: float  # of uncertainty 1, in units of the reward
    halt: float | None = None  # the uncertainty above which a rollout goes no further
    floor: float | None = None  # the reward of a step that ends the world for that reason; None: the world goes on

    @classmethod
    def of(cls, simulator: World, penalty: float, halt: float | None, halt_cost: float | None) -> Pessimism:
        """From coefficients that mean the same on every log.

        Raises:
            ValueError: one of them is out of range, there is no uncertainty to measure with, or a halt that never
                happens has a cost.
        """
        unit = price(simulator, penalty)
        if halt is None:
            if halt_cost is not None:
                raise ValueError(f"halt_cost is {halt_cost} and halt is None: say which uncertainty halts a rollout")
            return cls(unit)
        if not 0 < halt < math.inf:
            raise ValueError(
                f"halt is {halt}, expected an uncertainty above 0, or None for rollouts that nothing halts"
            )
        if simulator.uncertainty is None:
            raise ValueError(f"halt is {halt} but the simulator has no uncertainty: name one, or set halt to None")
        if halt_cost is None:
            return cls(unit, halt)
        if not 0 <= halt_cost < math.inf:
            raise ValueError(f"halt_cost is {halt_cost}, expected 0 or more, or None for a world that goes on")
        return cls(unit, halt, FOREVER * (simulator.spec.reward_low - halt_cost * simulator.spec.reward_std))

    def __call__(self, reward: Tensor, terminated: Tensor, uncertainty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The reward that counts, whether the world counts as ended, and whether the rollout goes no further: [B]."""
        reward = reward - self.price * uncertainty
        if self.halt is None:
            return reward, terminated, terminated
        halted = ~(uncertainty <= self.halt)  # NaN is in doubt
        if self.floor is not None:
            reward, terminated = torch.where(halted, self.floor, reward), terminated | halted
        return reward, terminated, terminated | halted


@torch.no_grad()
def imagine(
    policy: Policy,
    simulator: World,
    start: Tensor,
    horizon: int,
    penalty: float,
    rng: torch.Generator,
    rows: Tensor | None = None,
    halt: float | None = None,
    halt_cost: float | None = None,
) -> Batch:
    """Roll the policy out for `horizon` steps from logged states `start` [B, O]: a Batch of [T, B, ...].

    The reward is penalised as in MOPO (Yu et al. 2020, eq. 7), r - penalty * (reward spread of the log) * u, where u
    is the simulator's uncertainty, 1 at its stated quantile on held-out rows: one coefficient means the same on every
    log. A row that terminates starts again from its own logged state, so every row of the result is a transition of
    a living world, and the shapes are known without reading from the device. So does a row whose replayed episode has
    come to its end, without being called terminated: its last next_obs was logged, and may be bootstrapped from, while
    one after it would have to be invented.

    A step whose uncertainty is above `halt` is the last one of its rollout, and its row starts again. Without a cost
    that is a truncation: the step stays, and its next_obs may be bootstrapped from (long rollouts that end where the
    model is in doubt, Ni et al. 2025, "Neubay"). It stays because a step that were left out would leave an action
    that the targets before it do read, the policy's own next one, without a target of its own: values that nothing
    corrects are what the edge of reach is made of (Sims et al. 2024), while this one step's error is bounded by the
    range that no prediction leaves. With a cost it is MOReL's halt (Kidambi et al. 2020, section 4, definition 2): the
    step counts as terminated, and its reward is what the halted world pays for ever, at a discount of 0.99: a hundred
    times (lowest reward of the log) - halt_cost * (reward spread of the log). Paid once, a halt would be a way out of
    any log whose rewards are negative.

    Args:
        policy: acts with noise.
        simulator: its uncertainty may be None only where `penalty` is 0 and nothing halts.
        start: logged observations.
        horizon: T, at least 1.
        penalty: at least 0.
        rng: of the policy's and the simulator's noise; a generator of their own gives the start states.
        rows: [B] long, which transitions of the replayed log these states are of; see `Simulator.begin`.
        halt: an uncertainty above 0, 1 being its stated quantile on held-out rows; None: nothing halts.
        halt_cost: at least 0; None: a halt is a truncation.

    Raises:
        ValueError: horizon, penalty, halt or its cost out of range, or a penalty or a halt without an uncertainty.
    """
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}, expected at least 1")
    pessimism = Pessimism.of(simulator, penalty, halt, halt_cost)
    first = simulator.begin(start, rng, rows)
    obs, memory, steps = start, first, []
    for _ in range(horizon):
        action = policy.act(obs, rng)
        next_obs, reward, terminated, uncertainty, memory = simulator.step(obs, action, rng, memory)
        reward, terminated, fresh = pessimism(reward, terminated, uncertainty)
        steps.append(Batch(obs, action, reward, next_obs, terminated))
        ended = simulator.ended(memory)
        if ended is not None:
            fresh = fresh | ended
        obs = torch.where(fresh.unsqueeze(-1), start, next_obs)
        if memory is not None and first is not None:
            memory = memory.unless(fresh, first)
    return Batch(*(torch.stack(column) for column in zip(*steps, strict=True)))


class Played(NamedTuple):
    """Rollouts of a policy's mode, unpenalised, side by side. A row is over once the world ended or the replay did."""

    reward: Tensor  # [T, B], 0 once a row is over
    uncertainty: Tensor  # [T, B], in the simulator's unit
    taken: Tensor  # [T, B] bool: the row was not over yet when this step began
    horizon: int  # at which the next two are
    stop: Tensor  # [B, O] the observation after `horizon` steps, or after a row's last one
    living: Tensor  # [B] bool: the world had not ended there, so the row has a value beyond
    measured: Tensor | None = None  # [T, M, B] of each step, 0 once a row is over; None where nothing is measured

    def within(self, limit: Tensor) -> Tensor:
        """The steps that were taken and count where rows are cut after `limit` [B] long steps: [T, B] bool."""
        return self.taken & (torch.arange(len(self.taken), device=limit.device).unsqueeze(-1) < limit)

    def returns(self, limit: Tensor, gamma: float) -> Tensor:
        """Discounted returns [B] float64 of the first `limit` [B] long steps; gamma = 1 is undiscounted."""
        steps = torch.arange(len(self.reward), device=limit.device, dtype=torch.float64)
        weight = torch.as_tensor(gamma, dtype=torch.float64, device=limit.device) ** steps
        return weight @ self.reward.where(self.within(limit), 0.0).double()


@torch.no_grad()
def play(
    policy: Acting,
    simulator: World,
    start: Tensor,
    steps: int,
    rng: torch.Generator,
    rows: Tensor | None = None,
    horizon: int | None = None,
    measure: Measure | None = None,
    limit: Tensor | None = None,
) -> Played:
    """Roll the policy's mode out for `steps` steps from `start` [B, O], unpenalised; `rows` as in `imagine`.

    Where exogenous channels are replayed, the end of the replayed episode ends a row, at the same step for every
    policy, so that values stay comparable: what the weather did next is not known. Where that is before the row's
    `limit` [B] long, as the logger's world ended there and the policy's may not, they stay as they were last. Every row
    draws its noise to the end, over or not, so equal generators give all policies the same noise. `horizon` is `steps`
    if not given; `measure` is what else of a transition is to be known beside its reward, such as what it costs.
    """
    horizon = steps if horizon is None else horizon
    obs, memory = start, simulator.begin(start, rng, rows)
    going = torch.ones(len(start), dtype=torch.bool, device=start.device)
    stop, living, columns, more = start, going.clone(), [], []
    for step in range(steps):
        before, action = obs, policy.act(obs, None)
        obs, reward, terminated, uncertainty, memory = simulator.step(before, action, rng, memory)
        columns.append((reward.where(going, 0.0), uncertainty, going))
        if measure is not None:
            more.append(torch.atleast_2d(measure(before, action, obs)).where(going, 0.0))
        if step < horizon:
            stop = torch.where(going.unsqueeze(-1), obs, stop)
            living = living & ~(going & terminated)
        going = going & ~terminated
        ended = simulator.ended(memory)
        if ended is not None:
            going = going & ~(ended if limit is None else ended & (limit <= step + 1))
    rewards, uncertainties, taken = (torch.stack(column) for column in zip(*columns, strict=True))
    return Played(rewards, uncertainties, taken, horizon, stop, living, torch.stack(more) if more else None)
