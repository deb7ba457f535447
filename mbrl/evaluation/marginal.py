"""Marginalised importance sampling: how much more often the policy visits what was logged than the log does.

The ratio w(s, a) = d_policy(s, a) / d_log(s, a) of discounted occupancies needs no propensities and no product over
steps. Of the family that DualDICE (Nachum et al. 2019) began, this is minimax weight learning (Uehara, Huang and Jiang
2020, equation 9) with critics in the unit ball of a kernel space and weights that are linear in its (random Fourier)
features, where both are solved for in closed form.

Axis letters as in `mbrl.core`; D features, S start states, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from mbrl.core import Policy, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.data.series import blocks
from mbrl.evaluation.critics import Encoding
from mbrl.evaluation.estimates import Estimate, Refused, check_level
from mbrl.evaluation.fitting import CHUNK, Rows, acted
from mbrl.evaluation.linear import FourierFeatures
from mbrl.evaluation.trajectories import check_acts_on

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3)  # of which the best on held-out episodes is taken
NEGATIVE = 0.3  # share of the weights' mass, above which the answer is refused
GROUPS = 20  # of episodes: what is left out in turn

Features = Callable[[Tensor], Tensor]  # [N, I] encoded (obs, action) -> [N, D]


class Balance(NamedTuple):
    """Sums over the rows of each group of episodes: all that the weights depend on."""

    gram: Tensor  # [G, D, D] of here here'
    flow: Tensor  # [G, D, D] of (here - discount there) here'
    start: Tensor  # [G, D] of the policy's features at start states
    rows: Tensor  # [G]
    starts: Tensor  # [G]

    def of(self, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means over some groups ([G] bool): gram and flow [D, D], start [D]."""
        rows = self.rows[groups].sum()
        first = self.start[groups].sum(0) / self.starts[groups].sum()
        return self.gram[groups].sum(0) / rows, self.flow[groups].sum(0) / rows, first


def balance(features: Features, rows: Rows, first: Tensor, group: Tensor, start_group: Tensor, groups: int) -> Balance:
    """The sums, a chunk of rows at a time; `group` [N] and `start_group` [S] say which group each is of."""
    width = features(first[:1]).shape[1]
    gram, flow = (first.new_zeros(groups, width, width, dtype=torch.float64) for _ in range(2))
    for k in range(groups):
        for index in (group == k).nonzero().squeeze(-1).split(CHUNK):
            here, there = features(rows.here[index]).double(), features(rows.there[index]).double()
            gram[k] += here.T @ here
            flow[k] += (here - rows.discount[index].double().unsqueeze(-1) * there).T @ here
    start = gram.new_zeros(groups, width).index_add_(0, start_group, features(first).double())
    counts = (torch.bincount(g, minlength=groups) for g in (group, start_group))
    return Balance(gram, flow, start, *counts)


def solve(gram: Tensor, flow: Tensor, start: Tensor, gamma: float, ridge: float) -> Tensor:
    """Coefficients [D] of the weights w = here @ coefficients, for a constant first feature.

    The policy's occupancy is in balance where E[w (f(s, a) - discount f(s', a'))] = (1 - gamma) E[f(s0, a0)] for every
    f: what flows out of a place has flowed into it. Minimised is the square of the worst imbalance over the unit ball
    of the features' kernel space, plus `ridge` E[(w - 1)^2], the chi-square divergence from the log's own occupancy.
    """
    system, wanted = flow.T @ flow + ridge * gram, (1 - gamma) * (flow.T @ start) + ridge * gram[:, 0]
    return torch.linalg.lstsq(system, wanted.unsqueeze(-1), driver="gelsd").solution.squeeze(-1)


def imbalance(flow: Tensor, start: Tensor, gamma: float, weights: Tensor) -> float:
    """The worst imbalance of `weights` [D] over the unit ball of the features' kernel space."""
    return float((flow @ weights - (1 - gamma) * start).norm())


class Weighted(NamedTuple):
    """A self-normalised value, and the weights it comes from."""

    value: float
    weights: Tensor  # [N], of mean 1 where no row ended
    negative: float  # share of the weights' mass that is below 0, which no ratio is


def weighted(raw: Tensor, reward: Tensor, discount: Tensor, gamma: float) -> Weighted:
    """Discounted value of rewards [N] under raw weights [N], which are normalised.

    The constant function is in balance where E[w (1 - discount)] = 1 - gamma; the weights are scaled to it. Where no
    row ended, the value is the weights' mean reward / (1 - gamma). Linear weights can be negative: to cut them at 0
    would move all the mass to states that are far out.

    Raises:
        Refused: the weights have no positive mass, or more than `NEGATIVE` of it is negative.
    """
    mass = (raw * (1 - discount)).mean()
    negative = float(-raw.clamp_max(0).sum() / raw.abs().sum())
    if not (mass > 0 and negative <= NEGATIVE):
        raise Refused(
            f"{negative:.0%} of the occupancy ratios' mass is negative, more than {NEGATIVE:.0%}: the log does not"
            " visit what the policy visits"
        )
    kept = raw * (1 - gamma) / mass
    return Weighted(float((kept * reward).mean() / (1 - gamma)), kept, negative)


def marginal_value(
    data: TransitionDataset,
    episodes: Tensor,
    policy: Policy | None,
    *,
    gamma: float,
    level: float = 0.95,
    features: int | Features = 256,
    ridges: Sequence[float] = RIDGES,
    floor: float = 10.0,
    seed: int = 0,
) -> Estimate:
    """Discounted value of the policy's mode by marginalised importance sampling, from the log's start states.

    The interval is that of a delete-a-group jackknife over groups of episodes, with a Student-t of G - 1 degrees of
    freedom (Kott 2001). The bias of features and ridge is not in it, and on short logs it covers less than it says.
    `effective_n` is Kish's effective number of rows, (sum w)^2 / sum w^2.

    Args:
        data: the log.
        episodes: [n] long, at least 2.
        policy: None for the log's own (its next action is the logged one).
        gamma: discount factor, in [0, 1).
        level: coverage of the interval.
        features: how many random Fourier features; or a function of your own, whose first feature is constant.
        ridges: how strongly to draw the weights to 1; the one with the least imbalance on held-out groups is taken.
        floor: rows, the least effective number to answer with.
        seed: of the features and the groups. Values of several policies with the same seed share them.

    Raises:
        Refused: the effective number of rows is below the floor, too many weights are negative, or no row has another
            after it, or only rows of too few episodes have.
        ValueError: a setting is out of range, or the policy's spec does not fit the log.
    """
    _check(gamma, level, ridges, len(episodes), data.id)
    if policy is not None:
        check_acts_on(policy.spec, data)
    encoding = Encoding(data.spec(episodes)).to(data.obs.device)
    rows = Rows.of(data, episodes, policy, encoding, gamma)
    if not len(rows.reward):
        raise Refused(f"no row of {data.id} is followed by another, so nothing says where actions lead")
    begin = data.first[episodes]
    start_action = data.action[begin] if policy is None else acted(policy, data.obs[begin])
    first = encoding(data.obs[begin], start_action)
    if isinstance(features, int):
        features = FourierFeatures.drawn(rows.here, features, generator(seed, "marginal/features", data.obs.device))
    block = blocks(data, episodes)
    count = int(block.max()) + 1
    groups = min(GROUPS, count)
    place = (torch.randperm(count, generator=generator(seed, "marginal/groups")) % groups).to(first.device)[block]
    sums = balance(features, rows, first, place[rows.owner], place, groups)
    _check_groups(sums, data.id)
    ridge, missed = _best_ridge(sums, gamma, ridges)
    seen = torch.cat([features(part).double() for part in rows.here.split(CHUNK)])
    kept = torch.ones(groups, groups, dtype=torch.bool, device=first.device).fill_diagonal_(False)
    found = _answer(sums, rows, seen, gamma, ridge, kept[0] | True, place)
    left = [_answer(sums, rows, seen, gamma, ridge, some, place).value for some in kept]
    error = float(np.sqrt((groups - 1) * np.var(left)))
    effective = float(found.weights.sum().square() / found.weights.square().sum())
    if effective < floor:
        raise Refused(f"the effective number of rows is {effective:.1f}, below the floor of {floor:g}: support is thin")
    half = float(stats.t.ppf(0.5 + level / 2, groups - 1)) * error
    about = {
        "value": "discounted",
        "gamma": gamma,
        "level": level,
        "interval": "jackknife over groups of episodes",
        "groups": groups,
        "ridge": ridge,
        "held_imbalance": missed,
        "negative": found.negative,
        "largest_weight": float(found.weights.max()),
        "rows": len(found.weights),
    }
    return Estimate(found.value, found.value - half, found.value + half, effective, about)


def _answer(
    sums: Balance, rows: Rows, seen: Tensor, gamma: float, ridge: float, kept: Tensor, place: Tensor
) -> Weighted:
    """The value from the groups `kept` [G] bool."""
    weights = solve(*sums.of(kept), gamma, ridge)
    some = kept[place[rows.owner]]
    return weighted((seen @ weights)[some], rows.reward[some].double(), rows.discount[some].double(), gamma)


def _best_ridge(sums: Balance, gamma: float, ridges: Sequence[float]) -> tuple[float, float]:
    """The ridge with the least imbalance on every second group after a fit to the others, and that imbalance."""
    odd = torch.arange(len(sums.rows), device=sums.rows.device) % 2 == 1
    missed = []
    for ridge in ridges:
        sides = [imbalance(*sums.of(~side)[1:], gamma, solve(*sums.of(side), gamma, ridge)) for side in (odd, ~odd)]
        missed.append(sum(sides) / 2)
    best = min(range(len(ridges)), key=missed.__getitem__)
    return ridges[best], missed[best]


def _check_groups(sums: Balance, log: str) -> None:
    """Refuse groups of which every second one, or all but one, hold no row that is followed by another."""
    followed = sums.rows > 0
    if not (followed[0::2].any() and followed[1::2].any()):
        raise Refused(
            f"{int(followed.sum())} of {len(followed)} groups of episodes of {log} have rows that are followed by"
            " others, so no part can be held out: too many episodes were cut after a single step"
        )


def _check(gamma: float, level: float, ridges: Sequence[float], episodes: int, log: str) -> None:
    check_level(level)
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma is {gamma}, expected a discount factor within [0, 1): occupancies are discounted")
    if not ridges or min(ridges) < 0:
        raise ValueError(f"ridges is {list(ridges)}, expected one or more, each 0 or above")
    if episodes < 2:
        raise ValueError(f"{episodes} episode(s) of {log}: none can be held out, give at least 2")
