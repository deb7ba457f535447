"""The critics' update that COMBO and CQL share: Bellman error and a gap between sampled and logged actions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mbrl.core import Batch
from policies.actor_critic import ActorCritic
from policies.actors import Categorical
from policies.functional import conservative_gap


def conservative_update(
    agent: ActorCritic, batch: Batch, logged: int, conservatism: Tensor | float, samples: int, rng: torch.Generator
) -> dict[str, Tensor]:
    """One step of the critics, of the actor and of the slow critics.

    The critics' loss is the Bellman error plus `conservatism` times (logsumexp of Q over sampled actions at every
    state - mean Q of the logged rows): Kumar et al. 2020, "Conservative Q-Learning", eq. 4 and appendix F, on logged
    rows alone; Yu et al. 2021, "COMBO", eq. 2 and 3, on imagined ones, too. The actor's step is that of `ActorCritic`.

    Args:
        agent: its critics are changed in place.
        batch: logged rows first.
        logged: how many these are, at least 1.
        conservatism: weight of the gap, in units of the log's reward spread; a scalar, taken as a constant.
        samples: actions of each of the three kinds, see `sampled_values`.
        rng: of the actions.
    """
    target = agent.target(batch, rng)
    values = agent.critics(batch.obs, batch.action)
    bellman = (values - target).square().mean(1).sum()
    sampled, log_density = sampled_values(agent, batch, samples, rng)
    gap = conservative_gap(sampled, log_density, values[:, :logged])
    agent.step("critics", bellman + conservatism * gap.sum())
    metrics = agent.improve_actor(batch.obs, rng)
    agent.follow()
    return {"critic_loss": bellman.detach() / len(values), "gap": gap.detach().mean(), **metrics}


def sampled_values(agent: ActorCritic, batch: Batch, samples: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Q-values [K, M, B] of sampled actions and the log density [M, B] of each, in [-1, 1] units.

    M is 3 x `samples`: uniform actions, the actor's at obs and the actor's at next_obs, all of them weighed at obs.
    For Discrete actions M is their number: every choice once, so that the sum over them is exact.
    """
    rows, dim = batch.action.shape
    actor = agent.actor
    if isinstance(actor, Categorical):
        uniform = batch.obs.new_full((dim, rows), -math.log(dim))
        return agent.critics.every(batch.obs).transpose(1, 2), uniform
    obs = batch.obs.expand(samples, *batch.obs.shape)
    with torch.no_grad():
        unit = 2 * torch.rand(samples, rows, dim, generator=rng, device=obs.device) - 1
        here, log_here = actor.sample(obs, rng)
        there, log_there = actor.sample(batch.next_obs.expand_as(obs), rng)
        action = torch.cat([actor.bounds.scale(unit), here, there])
        moving = len(actor.bounds.moving)
        uniform = unit.new_full((samples, rows), -moving * math.log(2))  # density 2^-A on [-1, 1]^A
        log_density = torch.cat([uniform, log_here, log_there])
    states = batch.obs.expand(3 * samples, *batch.obs.shape)
    values = agent.critics(states.reshape(-1, states.shape[-1]), action.reshape(-1, dim))
    return values.view(len(values), 3 * samples, rows), log_density
