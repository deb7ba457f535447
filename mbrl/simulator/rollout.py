"""Policy x simulator -> transitions. `price` is the one place where pessimism is priced."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.core import Batch, Policy
from mbrl.simulator.simulator import Simulator


def price(simulator: Simulator, penalty: float) -> float:
    """What uncertainty 1 costs, in units of the reward: penalty * (reward spread of the log).

    Raises:
        ValueError: the penalty is negative or not finite, or there is no uncertainty to scale it by.
    """
    if not 0 <= penalty < math.inf:
        raise ValueError(f"penalty is {penalty}, expected 0 or more")
    if penalty and simulator.uncertainty is None:
        raise ValueError(f"penalty is {penalty} but the simulator has no uncertainty: name one, or set penalty to 0")
    return penalty * simulator.spec.reward_std


@torch.no_grad()
def imagine(
    policy: Policy,
    simulator: Simulator,
    start: Tensor,
    horizon: int,
    penalty: float,
    rng: torch.Generator,
    rows: Tensor | None = None,
) -> Batch:
    """Roll the policy out for `horizon` steps from logged states `start` [B, O]: a Batch of [T, B, ...].

    The reward is penalised as in MOPO (Yu et al. 2020, eq. 7), r - penalty * (reward spread of the log) * u, where u
    is the simulator's uncertainty, 1 at its stated quantile on held-out rows: one coefficient means the same on every
    log. A row that terminates starts again from its own logged state, so every row of the result is a transition of
    a living world, and the shapes are known without reading from the device. So does a row whose replayed episode has
    come to its end, without being called terminated: its last next_obs was logged, and may be bootstrapped from, while
    one after it would have to be invented.

    Args:
        policy: acts with noise.
        simulator: its uncertainty may be None only where `penalty` is 0.
        start: logged observations.
        horizon: T, at least 1.
        penalty: at least 0.
        rng: of the policy's and the simulator's noise; a generator of their own gives the start states.
        rows: [B] long, which transitions of the replayed log these states are of; see `Simulator.begin`.

    Raises:
        ValueError: horizon or penalty out of range, or a penalty without an uncertainty to scale it by.
    """
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}, expected at least 1")
    unit = price(simulator, penalty)
    first = simulator.begin(start, rng, rows)
    obs, memory, steps = start, first, []
    for _ in range(horizon):
        action = policy.act(obs, rng)
        next_obs, reward, terminated, uncertainty, memory = simulator.step(obs, action, rng, memory)
        steps.append(Batch(obs, action, reward - unit * uncertainty, next_obs, terminated))
        fresh, ended = terminated, simulator.ended(memory)
        if ended is not None:
            fresh = fresh | ended
        obs = torch.where(fresh.unsqueeze(-1), start, next_obs)
        if memory is not None and first is not None:
            memory = memory.unless(fresh, first)
    return Batch(*(torch.stack(column) for column in zip(*steps, strict=True)))


class Rolled(NamedTuple):
    """What rollouts earned, and where each of them stopped."""

    total: Tensor  # [B] discounted return
    obs: Tensor  # [B, O] the last observation
    onward: Tensor  # [B] the discount of what would follow; 0 where the world ended


@torch.no_grad()
def rolled(
    policy: Policy,
    simulator: Simulator,
    start: Tensor,
    limit: Tensor,
    rng: torch.Generator,
    rows: Tensor | None = None,
    gamma: float = 1.0,
) -> Rolled:
    """Roll the policy's mode out from `start` [B, O], unpenalised.

    A row earns nothing after it has terminated, nor after `limit` [B] long steps, where its episode is cut; `rows` as
    in `imagine`. Where exogenous channels are replayed, the end of the replayed episode cuts it as well, at the same
    step for every policy, so that values stay comparable: what the weather did next is not known.
    """
    obs, total, memory = start, start.new_zeros(len(start)), simulator.begin(start, rng, rows)
    alive, onward, last = limit > 0, torch.ones_like(total), start
    for step in range(int(limit.max())):
        next_obs, reward, terminated, _, memory = simulator.step(obs, policy.act(obs, None), rng, memory)
        total += torch.where(alive, gamma**step * reward, 0.0)
        last = torch.where(alive.unsqueeze(-1), next_obs, last)
        onward = torch.where(alive, torch.where(terminated, 0.0, gamma ** (step + 1)), onward)
        alive &= ~terminated & (step + 1 < limit)
        ended = simulator.ended(memory)
        if ended is not None:
            alive &= ~ended
        obs = next_obs
    return Rolled(total, last, onward)


def simulated_returns(
    policy: Policy,
    simulator: Simulator,
    start: Tensor,
    limit: Tensor,
    rng: torch.Generator,
    rows: Tensor | None = None,
) -> Tensor:
    """Undiscounted returns [B] of the policy's mode; see `rolled`."""
    return rolled(policy, simulator, start, limit, rng, rows).total
