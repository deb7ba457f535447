"""Checks of who made a log: how freely it acted in each region of the state space, and whether it was one policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from sklearn.cluster import KMeans

from mbrl.data.findings import Finding, Flags, Floats, named
from mbrl.data.suspicions import Refit, Rows

REGIONS = 24  # of the state space, at most
REGION_ROWS = 100  # a region holds, on average, at least
PAIRED_ROWS = 4_000  # whose nearest neighbours are looked up
NEIGHBOURS = 8
LEAST_PAIRS = 10  # that say anything of a region
RULE = 0.02  # freedom below which a policy counts as a rule
THIN = 0.05  # freedom below which a region counts as thin
SINGLE = 0.25  # agreement of the halves of episodes below which one policy made the log


@dataclass(frozen=True, eq=False)
class Freedom:
    """How much the logged action varies where the observation does not.

    From pairs of nearest observations of different episodes: the typical difference of their actions, beyond what a
    refit expects, over the action's spread in the whole log. 0 is a rule, 1 is chance; of several action channels the
    least free one counts. For Discrete actions it is the share of pairs that chose differently, over that of any two
    rows of the log.
    """

    whole: float
    regions: Floats  # [R]
    rows: Rows  # rows of each region among `region`, [R]
    region: NDArray[np.int64]  # [n] region of each row of the refit

    @property
    def is_rule(self) -> bool:
        """Whether the action is a function of the observation: no other action can then be weighed against it."""
        return self.whole < RULE


def freedom(refit: Refit) -> Freedom:
    """Measure it in the whole log and in each region, found by k-means on standardised observations."""
    spread = refit.obs.std(0)
    obs = (refit.obs - refit.obs.mean(0)) / np.where(spread > 0, spread, 1.0)
    rng = np.random.default_rng(refit.seed)
    some = np.sort(rng.choice(len(obs), min(len(obs), PAIRED_ROWS), replace=False))
    k = int(np.clip(len(some) // REGION_ROWS, 1, REGIONS))
    centres = KMeans(k, n_init=1, random_state=refit.seed).fit(obs[some])
    region = centres.predict(obs).astype(np.int64)
    one, other = _pairs(obs, refit.episode, some)
    if refit.data.discrete:
        chosen = np.bincount(refit.action.argmax(1)) / len(refit.action)
        chance = 1 - float(np.square(chosen).sum())  # that two draws differ
        varies = (refit.action[one] != refit.action[other]).any(1)[:, None] / (chance or np.inf)
    else:
        left, std = refit.left[1][:, 1], refit.action.std(0)
        moved = std > 0 if (std > 0).any() else std >= 0  # one that never moves says nothing of the others
        varies = np.abs(left[one] - left[other])[:, moved] / np.where(std > 0, std, np.inf)[moved] / _PAIR
    here = region[one]
    regions = np.array([_typical(varies[here == r], refit.data.discrete) for r in range(k)])
    return Freedom(_typical(varies, refit.data.discrete), regions, np.bincount(region, minlength=k), region)


_PAIR = 0.6745 * np.sqrt(2)  # median of the difference of two draws of the same normal, in standard deviations


def _typical(varies: Floats, discrete: bool) -> float:
    if len(varies) < LEAST_PAIRS:
        return float("nan")
    return float(varies.mean()) if discrete else float(np.median(varies, 0).min())


def _pairs(obs: Floats, episode: Rows, some: Rows) -> tuple[Rows, Rows]:
    """Rows and their nearest ones of other episodes; only the closer half of the pairs, where an answer is local."""
    if episode[-1] == 0:  # a single one: its blocks in time take the part of episodes
        episode = np.arange(len(obs)) * 10 // len(obs)
    distance, found = cKDTree(obs[some]).query(obs[some], k=min(len(some), NEIGHBOURS))
    elsewhere = episode[some][found] != episode[some][:, None]
    has = elsewhere.any(1)
    first = elsewhere.argmax(1)
    near = distance[np.arange(len(some)), first]
    if not has.any():
        return some[:0], some[:0]
    keep = has & (near <= np.median(near[has]))
    return some[keep], some[found[keep, first[keep]]]


def actions(refit: Refit, free: Freedom) -> Iterator[Finding]:
    """Actions that are constant, a function of the observation, or chosen freely in a part of the states only."""
    fixed = tuple(name for name, std in zip(refit.data.action_channels, refit.action.std(0), strict=True) if std == 0)
    if fixed and not refit.data.discrete:
        yield Finding(
            "constant action",
            "serious",
            f"{', '.join(fixed)} never changes",
            "what this action does cannot be learned, and the model's answer to any other value is invented",
            "leave the column out of the schema, or log a period in which it is moved",
            channels=fixed,
        )
        if len(fixed) == refit.action.shape[1]:
            return
    if np.isnan(free.whole):
        yield Finding(
            "freedom unknown",
            "note",
            f"fewer than {LEAST_PAIRS} states of different episodes are alike",
            "nobody can say whether the action is a function of the observation: estimators that weigh episodes refuse",
            "nothing for learning; log the propensities, or more episodes, where such estimators are needed",
        )
    elif free.is_rule:
        yield Finding(
            "rule-based logger",
            "serious",
            f"the action is a function of the observation: of pairs of alike states, the actions differ by "
            f"{free.whole:.1%} of their spread",
            "importance sampling will refuse, and the model cannot tell an action's effect from that of the state that "
            "calls for it",
            "log with some exploration (noise on the set-point, other gains), or evaluate by the simulator alone and "
            "trust short horizons",
            channels=refit.data.action_channels,
        )
    else:
        yield from _thin(refit, free)


def _thin(refit: Refit, free: Freedom) -> Iterator[Finding]:
    thin = np.flatnonzero(free.regions < THIN)  # NaN, where no pair is close, is not thin
    rows: Flags = np.isin(free.region, thin)
    if rows.mean() > 0.02:
        yield Finding(
            "thin coverage",
            "serious" if rows.mean() > 0.5 else "warning",
            f"in {len(thin)} of {len(free.regions)} regions of the state space, {refit.share(rows)}, "
            "hardly more than one action was tried per state",
            "there the model has never seen an alternative: what it predicts for other actions is extrapolated",
            "explore there, or raise the penalty so that rehearsal stays with the logged actions",
            **named(refit.rows[rows]),
        )


def one_policy(refit: Refit) -> Iterator[Finding]:
    """Whether what is particular to the first half of an episode's actions returns in its second half.

    Per episode and half, of each channel of the action: the slope of what is unexplained of it on the observation, and
    the size of what is left. With several behaviour policies (or noise levels) these agree between halves in at least
    one channel; with one they are chance.
    """
    left = refit.left[1][:, 1]
    spread = refit.obs.std(0)
    x = np.column_stack([np.ones(len(left)), (refit.obs - refit.obs.mean(0)) / np.where(spread > 0, spread, 1.0)])
    halves: list[list[Floats]] = [[], []]
    least = 2 * x.shape[1]
    for rows in np.split(np.arange(len(left)), np.flatnonzero(np.diff(refit.episode)) + 1):
        if len(rows) >= 2 * least:
            for side, half in zip(halves, np.array_split(rows, 2), strict=True):
                side.append(_fingerprint(x[half], left[half]))
    if len(halves[0]) < 6:
        return
    first, second = np.array(halves[0]), np.array(halves[1])
    agreement = [
        _agreement(first[:, k, part], second[:, k, part])
        for k in range(left.shape[1])
        for part in (slice(0, -1), slice(-1, None))
    ]
    if max(agreement) < SINGLE:
        yield Finding(
            "one policy",
            "warning",
            "in like states all episodes act alike: what is particular to one half of an episode does not return in the"
            f" other (correlation {max(agreement):.2f})",
            "the log shows the neighbourhood of one way to act, and how far a better one may lie is unknown",
            "add logs of other operators, gains or set-points; expect a short trusted horizon",
        )


def _fingerprint(x: Floats, left: Floats) -> Floats:
    """Ridge slopes of `left` on `x`, and the logarithm of its size, by channel: [A, O + 2]."""
    slopes = np.linalg.solve(x.T @ x / len(x) + 0.1 * np.eye(x.shape[1]), x.T @ left / len(x))
    return np.column_stack([slopes.T, np.log(np.sqrt((left**2).mean(0)) + 1e-12)])


def _agreement(first: Floats, second: Floats) -> float:
    """Correlation of two [episodes, k] tables, each column centred first."""
    a, b = first - first.mean(0), second - second.mean(0)
    size = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / size) if size > 0 else 0.0
