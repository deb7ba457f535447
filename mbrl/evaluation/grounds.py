"""What estimates of a policy rest on: how well its actions are known to the log, and its rollouts to the simulator."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from mbrl.core import Policy, Prediction, deviation, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.estimates import Refused
from mbrl.evaluation.modelbased import Starts, rolled, uncertain_share, worst_mean
from mbrl.simulator.simulator import Simulator

ASKED, KNOWN = 2000, 20_000  # logged rows, at most: those that distances are measured from, and those to which they are
USUAL = 0.95  # share of logged rows whose actions count as usual
INSIDE = 0.99  # share of logged rows within whose distance to others a simulated step is inside the log
LEAST = 0.3  # spreads: what is nearer to a row than this is next to it, however close rows of a machine at rest are
DOUBTFUL = 1.25  # of the quantile that counts as 1: where noise is even, nearly every step is at 0.9 to 1.05 of it
WALKED = 128  # start states, at most, whose rollouts say what share of the steps is in doubt or outside the log
WORST = 0.1  # share of returns that a tail is the mean of


class Neighbours(NamedTuple):
    """A sample of a log, and how far its rows are from the nearest of another episode, which says what an odd row is.

    A piece of the same series is another episode, and near where it goes on: that makes what is near the log narrower.
    Distances are Euclidean, of (observation, action) in units of their spreads, so no behaviour model is needed, and a
    logger without chance is no exception. Outliers by the distance to the nearest neighbour: Ramaswamy, Rastogi and
    Shim 2000 with k = 1; of what a network was not trained on, Sun et al. 2022, "Deep nearest neighbors".
    """

    place: Tensor  # [K, O + A] in spreads, from the mean
    episode: Tensor  # [K] long
    centre: Tensor  # [O + A] float64
    unit: Tensor  # [O + A] float64
    asked: Tensor  # [Q] long, rows of the data set
    gaps: Tensor  # [Q] distances of these to the nearest of another episode

    @classmethod
    def of(cls, data: TransitionDataset, seed: int) -> Self:
        """A sample of a log.

        Raises:
            Refused: the rows are of one episode only.
        """
        order = torch.randperm(len(data), generator=generator(seed, "support")).to(data.obs.device)
        asked, known = order[:ASKED], order[:KNOWN]
        episode = data.episode[known]
        if len(episode.unique()) < 2:
            raise Refused(
                f"{data.id} has one episode in a sample of {len(known)} rows, and what is near to the log is measured"
                " against the others: import it with `cut_every`, which makes episodes of equal length"
            )
        rows = torch.cat([data.obs[known], data.action[known]], -1).double()
        unit = rows.std(0, correction=0)
        if data.discrete:
            unit[data.obs.shape[1] :] = 1.0
        centre, unit = rows.mean(0), unit.where(unit > 0, 1.0)
        found = cls(((rows - centre) / unit).float(), episode, centre, unit, asked, centre[:0])
        return found._replace(gaps=found.distance(data.obs[asked], data.action[asked], data.episode[asked]))

    def distance(self, obs: Tensor, action: Tensor, episode: Tensor | None = None) -> Tensor:
        """From rows [B, O] and [B, A] to the nearest logged one, [B]; not one of the row's own `episode` [B]."""
        rows = torch.cat([obs, action], -1).double()
        gaps = torch.cdist(((rows - self.centre) / self.unit).float(), self.place)
        if episode is not None:
            gaps = gaps.where(episode.unsqueeze(-1) != self.episode, torch.inf)
        return gaps.amin(-1)

    def radius(self, share: float) -> Tensor:
        """The distance within which that share of logged rows has a neighbour."""
        return self.gaps.quantile(share).clamp_min(LEAST)

    @property
    def edge(self) -> Tensor:
        """The distance beyond which a step is outside the log."""
        return self.radius(INSIDE)


class Walk(NamedTuple):
    """Rollouts of a policy's mode in a simulator, from logged start states."""

    outside: float | None  # share of steps farther from the log than `INSIDE` of its rows are from its other episodes
    doubt: float | None  # share of steps whose uncertainty is above `DOUBTFUL`; None without an uncertainty


@torch.no_grad()
def support(policy: Policy, data: TransitionDataset, near: Neighbours) -> float:
    """Share of logged states at which the policy's action is no odder than `USUAL` of the logged ones."""
    obs = data.obs[near.asked]
    found = near.distance(obs, policy.act(obs, None), data.episode[near.asked])
    return float((found <= near.radius(USUAL)).double().mean())


def disagreement(prediction: Prediction) -> Tensor:
    """Spread of the members' means in the channel where it is largest, [B], in units of the log's spread."""
    mean, _ = prediction.normalised()
    return deviation(mean).amax(-1)


def walk(policy: Policy, simulator: Simulator, starts: Starts, near: Neighbours | None, *, seed: int) -> Walk:
    """Follow the policy's mode in a simulator, and say where that leads.

    Args:
        policy: whose mode is followed.
        simulator: replays the log that the starts are of, where channels are exogenous.
        starts: where rollouts begin, and where they are cut; the first `WALKED` alone, as a share of steps needs no
            more, and uncertainty is the dearest part of a simulator's step.
        near: rows of the log, which says what is outside of it; None where that is not known.
        seed: of the noise.
    """
    starts = Starts(*(column[:WALKED] for column in starts))

    def beyond(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
        del after
        return obs.new_zeros(len(obs)) if near is None else (~(near.distance(obs, action) <= near.edge)).to(obs.dtype)

    played = rolled(policy, simulator, starts, seed, measure=beyond)
    assert played.measured is not None
    outside = None if near is None else float(played.measured[:, 0][played.within(starts.limit)].double().mean())
    doubt = None if simulator.uncertainty is None else uncertain_share(played, starts.limit, DOUBTFUL)
    return Walk(outside, doubt)


def tail(returns: np.ndarray, share: float = WORST) -> float:
    """Mean of the worst `share` of returns, however they are arranged; see `mbrl.evaluation.modelbased.cvar`."""
    return float(worst_mean(np.ravel(returns), share))
