"""What estimates of a policy rest on: how well its actions are known to the log, and its rollouts to the simulator."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrl.core import Policy, Prediction, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.estimates import Estimate
from mbrl.evaluation.modelbased import Starts, rolled, uncertain_share, worst_mean
from mbrl.evaluation.twoway import spread_over
from mbrl.simulator.rollout import Cost
from mbrl.simulator.simulator import Simulator

ASKED, KNOWN = 1000, 20_000  # logged rows, at most: those that the policy is asked at, those that it is compared with
USUAL = 0.95  # share of logged rows that count as usual
DOUBTED = 128  # start states, at most, whose rollouts say what share of the steps is in doubt
WORST = 0.1  # share of returns that a tail is the mean of


class Walk(NamedTuple):
    """Rollouts of a policy's mode in a simulator, from logged start states."""

    doubt: float | None  # share of steps whose uncertainty is above 1, its quantile; None without an uncertainty
    cost: Estimate | None  # of an episode, undiscounted


@torch.no_grad()
def support(policy: Policy, data: TransitionDataset, seed: int) -> float:
    """Share of logged states at which the policy's action is no odder than `USUAL` of the logged ones.

    How odd an action is: the distance of (observation, action), in units of their spreads, to the nearest of the log in
    another episode. So no behaviour model is needed, and a logger without chance is no exception.

    Raises:
        ValueError: the log has one episode only.
    """
    if data.episodes < 2:
        raise ValueError(f"{data.id} has one episode: support is measured against the other episodes of a log")
    order = torch.randperm(len(data), generator=generator(seed, "support")).to(data.obs.device)
    asked, known = order[:ASKED], order[:KNOWN]
    obs_unit = _unit(data.obs)
    action_unit = torch.ones_like(data.action[0]) if data.discrete else _unit(data.action)
    place = torch.cat([data.obs[known] / obs_unit, data.action[known] / action_unit], -1)
    foreign = data.episode[asked].unsqueeze(-1) != data.episode[known]

    def distance(action: Tensor) -> Tensor:
        own = torch.cat([data.obs[asked] / obs_unit, action / action_unit], -1)
        return torch.cdist(own, place).where(foreign, torch.inf).amin(-1)

    usual = distance(data.action[asked]).quantile(USUAL)
    return float((distance(policy.act(data.obs[asked], None)) <= usual).double().mean())


def _unit(rows: Tensor) -> Tensor:
    spread = rows.double().std(0, correction=0).to(rows.dtype)
    return spread.where(spread > 0, torch.ones_like(spread))


def disagreement(prediction: Prediction) -> Tensor:
    """Spread of the members' means in the channel where it is largest, [B], in units of the log's spread."""
    mean, _ = prediction.normalised()
    return mean.std(0, correction=0).amax(-1)


def walk(policy: Policy, simulator: Simulator, starts: Starts, *, cost: Cost | None, level: float, seed: int) -> Walk:
    """Follow the policy's mode in a simulator, and say where that leads.

    Args:
        policy: whose mode is followed.
        simulator: replays the log that the starts are of, where channels are exogenous.
        starts: where rollouts begin, and where they are cut; where no cost is counted the first `DOUBTED` alone, as a
            share of steps needs no more, and uncertainty is the dearest part of a simulator's step.
        cost: of a transition, where one is to be counted.
        level: of each one-sided bound of the cost, over start states and the members of `cost`, where it has some. The
            error of the simulator itself is not in them.
        seed: of the noise.
    """
    if cost is None:
        if simulator.uncertainty is None:
            return Walk(None, None)
        starts = Starts(*(column[:DOUBTED] for column in starts))
    played = rolled(policy, simulator, starts, seed, cost=cost)
    doubt = None if simulator.uncertainty is None else uncertain_share(played, starts.limit)
    if played.cost is None:
        return Walk(doubt, None)
    spent = played.cost.where(played.within(starts.limit).unsqueeze(1), 0.0).sum(0)
    return Walk(doubt, spread_over(spent.cpu().numpy(), level))


def tail(returns: np.ndarray, share: float = WORST) -> float:
    """Mean of the worst `share` of returns, however they are arranged; see `mbrl.evaluation.modelbased.cvar`."""
    return float(worst_mean(np.ravel(returns), share))
