"""How far ahead the simulator can be followed: logged action sequences replayed in it, beside what really happened."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.core import deviation
from mbrl.data.dataset import TransitionDataset
from mbrl.simulator.recalibration import outcome
from mbrl.simulator.simulator import Simulator

LEVEL = 0.9  # of the particles' band


class OpenLoop(NamedTuple):
    """S start rows followed for T steps; C channels are those of `followed_channels`.

    Where `valid` is false the logged episode had ended, and the other columns hold nothing of use.
    """

    rows: Tensor  # [S] of the data set
    valid: Tensor  # [T, S] bool
    truth: Tensor  # [T, S, C] logged
    mean: Tensor  # [T, S, C] of the particles
    low: Tensor  # [T, S, C] ends of the particles' central 90 %
    high: Tensor  # [T, S, C]
    std: Tensor  # [T, S, C] of the particles

    def starts(self) -> Tensor:
        """Start rows that are still followed at each step, [T]."""
        return self.valid.sum(1)

    def error(self) -> Tensor:
        """Root mean square error of the particles' mean at each step, [T, C]."""
        return self._over_starts((self.mean - self.truth).square()).sqrt()

    def coverage(self) -> Tensor:
        """Share of start rows whose logged value is inside the band at each step, [T, C]."""
        return self._over_starts(((self.truth >= self.low) & (self.truth <= self.high)).to(self.truth.dtype))

    def likeness(self) -> tuple[Tensor, Tensor]:
        """How far the particles of all starts together are what the logged values are at each step, [T, C] each.

        Their spread over that of the logged values, and the difference of their means in units of that; 1 and 0 where
        both are constant and the same.
        """
        spreads, means = [], []
        for mean, within in (self.truth, torch.zeros_like(self.truth)), (self.mean, self.std.square()):
            means.append(self._over_starts(mean))
            between = self._over_starts((mean - means[-1].unsqueeze(1)).square())
            spreads.append((between + self._over_starts(within)).sqrt())
        apart = (means[1] - means[0]).abs()
        same = (spreads[0] == spreads[1]) & (apart == 0)
        return torch.where(same, 1.0, spreads[1] / spreads[0]), torch.where(same, 0.0, apart / spreads[0])

    def _over_starts(self, values: Tensor) -> Tensor:
        kept = torch.where(self.valid.unsqueeze(-1), values, 0.0)
        return kept.sum(1) / self.starts().clamp_min(1).unsqueeze(-1)


def followed_channels(simulator: Simulator) -> list[int]:
    """Which of (next observation, reward) can go astray: predicted channels, those computed from them, the reward.

    Carried channels are left out: they are what these, or the logged actions, were before.
    """
    *predicted, reward = simulator.spec.targets
    return [*sorted({*predicted, *simulator.filling.computed.tolist()}), reward]


def start_rows(data: TransitionDataset, episodes: Tensor, count: int, ahead: int, rng: torch.Generator) -> Tensor:
    """At most `count` rows of the episodes, at random, that have `ahead` logged rows from themselves on."""
    rows = data.rows(episodes)
    left = data.first[data.episode[rows]] + data.lengths[data.episode[rows]] - rows
    rows = rows[left >= ahead]
    return rows[torch.randperm(len(rows), generator=rng)[:count]].sort().values


@torch.no_grad()
def open_loop(
    simulator: Simulator, data: TransitionDataset, rows: Tensor, horizon: int, particles: int, rng: torch.Generator
) -> OpenLoop:
    """Follow the logged actions from the states of `rows` ([S] long) for `horizon` steps.

    Each elite carries `particles` of its own from every start to the end: what one member believes is one world, so
    that disagreement adds up as an error would (TS-infinity of PETS, Chua et al. 2018, section 5.1). Exogenous channels
    are the logged ones.
    """
    simulator, channels = simulator.replaying(data), torch.tensor(followed_channels(simulator))
    elites, count = len(simulator.dynamics.elites), len(rows)
    last = data.first[data.episode[rows]] + data.lengths[data.episode[rows]] - 1
    obs = data.obs[rows].repeat(particles, 1).expand(elites, -1, -1)
    memory = simulator.begin(obs[0], rng, rows.repeat(particles))
    ends = _ends(elites * particles).to(obs.device)
    steps = []
    for step in range(horizon):
        here = torch.minimum(rows + step, last)
        obs, reward, memory = simulator.propagate(obs, data.action[here].repeat(particles, 1), rng, memory)
        cloud = torch.cat([obs, reward.unsqueeze(-1)], -1).view(elites * particles, count, -1)
        cloud = cloud.index_select(-1, channels)
        low, high = torch.quantile(cloud, ends, dim=0)
        truth = outcome(data.batch(here), channels)
        steps.append((rows + step <= last, truth, cloud.mean(0), low, high, deviation(cloud)))
    return OpenLoop(rows, *(torch.stack(column) for column in zip(*steps, strict=True)))


def _ends(count: int) -> Tensor:
    """Where in `count` sorted particles the band ends, so that an equal to them is inside with probability `LEVEL`.

    The share of an equal below the r-th of n is r / (n + 1); torch's own quantiles lie further in, and of 50 particles
    would hold 86 % in place of 90 %. Of fewer than 19 the band is all of them.
    """
    ranks = torch.tensor([0.5 - LEVEL / 2, 0.5 + LEVEL / 2]) * (count + 1)
    return ((ranks - 1) / max(1, count - 1)).clamp(0, 1)


def trusted_steps(
    coverage: Tensor, share: Tensor, alike: Tensor, least_coverage: float, most_share: float
) -> tuple[Tensor, Tensor]:
    """The number of first steps in which a channel's band covers enough and its error is small enough, [C] long.

    Of a channel whose very first step nobody foresees, as what customers buy, no error is asked for: chance is as it
    should be where its values come as often as in the log. A model that has lost rare events has not their spread.

    Args:
        coverage: [T, C] of the band.
        share: [T, C] error as a share of the channel's spread.
        alike: [T, C] bool, whether values are distributed as those of the log are.
        least_coverage: the least that counts as covered.
        most_share: the largest share that counts as small.

    Returns:
        steps, and which channels are such a chance, [C] bool.
    """
    covered, near = coverage >= least_coverage, share <= most_share
    chance = (covered & ~near & alike)[0]
    good = covered & torch.where(chance, alike, near)
    return good.long().cumprod(0).sum(0), chance
