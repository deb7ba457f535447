"""Checks that refit a log quickly: shifted columns, odd rewards, missing ends, and what the behaviour policy left open.

Pure functions of a TransitionDataset and a seed. A refit is weak evidence of each row and strong evidence of a column.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from mbrl.core import generator
from mbrl.data.dataset import TransitionDataset
from mbrl.data.findings import Finding, Flags, Floats, named, share
from mbrl.data.moments import ends_apart
from mbrl.data.refit import explained, out_of_fold

MOST_ROWS = 50_000  # looked at, as whole episodes drawn at random, or as a part of one that is longer
DISTRUSTED = 0.03  # share of the rows, those with the worst reward, that a second refit does without
LEAST_ODD = 10  # rows with an odd reward that are more than chance: a rare event leaves a few
TRIFLE = 1e-4  # of the largest reward: less than that is the refit's rounding
DISTINCT = 20  # a reward with fewer values may pay one of them so rarely that a smooth refit cannot say when
NEGLIGIBLE = 5.0  # times as much as a row's own action has a neighbour to explain, to be taken for it
WIDEST = 500  # products of actions and observations that a regression has, at most; ten rows for each, at least
DETERMINED = 0.98  # share of the action's variance beyond which the observation says nearly all of it
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Refit:
    """Rows of whole episodes, and what is left of each column when the rest of its row is known."""

    data: TransitionDataset
    rows: Rows  # [n] of the data set, in order
    seed: int

    @classmethod
    def of(cls, data: TransitionDataset, seed: int, spoiled: Flags | None = None) -> Refit:
        """A refit of at most `MOST_ROWS` rows, and of none that is `spoiled` [N]."""
        rng = generator(seed, "audit")
        order = torch.randperm(data.episodes, generator=rng)
        rows = data.rows(data.some(order, MOST_ROWS))
        begin = int(torch.randint(max(0, len(rows) - MOST_ROWS) + 1, (), generator=rng))
        chosen = rows[begin : begin + MOST_ROWS].numpy()
        return cls(data, chosen if spoiled is None else chosen[~spoiled[chosen]], seed)

    def share(self, bad: Flags) -> str:
        """How many of the rows looked at, [n], and that these are not all."""
        told = share(int(bad.sum()), len(bad))
        return told if len(bad) == len(self.data) else f"{told} of the {len(bad):,} that were looked at"

    @cached_property
    def episode(self) -> Rows:
        """Episode of each row, renumbered from 0, [n]."""
        return np.unique(self.data.episode.numpy()[self.rows], return_inverse=True)[1]

    @cached_property
    def inner(self) -> Flags:
        """Rows with a row before and after them in their episode, [n]."""
        same = (np.diff(self.episode) == 0) & (np.diff(self.rows) == 1)
        return np.concatenate([[False], same]) & np.concatenate([same, [False]])

    @cached_property
    def inside(self) -> list[int]:
        """The channels of the observation that the plant decides: what an exogenous one does next, no row can say."""
        return [k for k in range(self.data.obs.shape[1]) if k not in self.data.exogenous]

    def _take(self, tensor: torch.Tensor) -> Floats:
        return tensor.numpy()[self.rows].astype(np.float64)

    @cached_property
    def obs(self) -> Floats:
        """[n, O]"""
        return self._take(self.data.obs)

    @cached_property
    def action(self) -> Floats:
        """[n, A]"""
        return self._take(self.data.action)

    @cached_property
    def delta(self) -> Floats:
        """Change of the observation, [n, O]"""
        return self._take(self.data.next_obs) - self.obs

    @cached_property
    def left(self) -> tuple[Floats, Floats]:
        """What the observation leaves unexplained: of its change [n, I], and of the action before, of and after it.

        I are the channels `inside`. Of the action after it is what that row's own observation leaves: a controller
        answers what has just changed, and that answer is no cause of it.
        """
        around = [np.roll(self.action, 1, 0), self.action]
        y, count = np.concatenate([self.delta[:, self.inside], *around], 1), len(self.inside)
        residual = y - out_of_fold(self.obs, y, self.episode, self.seed)
        before, own = np.split(residual[:, count:], 2, axis=1)
        return residual[:, :count], np.stack([before, own, np.roll(own, -1, 0)], 1)

    @cached_property
    def determined(self) -> Floats:
        """Share of each action's variance that the observation explains, [A]."""
        return explained(self.action, self.action - self.left[1][:, 1])

    @cached_property
    def reward(self) -> Floats:
        """[n]"""
        return self._take(self.data.reward)

    @cached_property
    def ended(self) -> Flags:
        """Whether the world ended with a row, [n]."""
        return self.data.terminated.numpy()[self.rows]

    @cached_property
    def outcome(self) -> Floats:
        """Everything that a reward may depend on: observation, action, next observation and end, [n, 2 O + A + 1]."""
        return np.column_stack([self.obs, self.action, self.obs + self.delta, self.ended])


def shifted_action(refit: Refit) -> Iterator[Finding]:
    """An action column that is a row late or early.

    What the observation does not say of its own change is regressed on what it does not say of the actions before, of
    and after the row, and on their products with the observation unless these are too many. In a Markov log the row's
    own action has the largest share that no other has.
    """
    change, action = (part[refit.inner] for part in refit.left)
    if len(change) < 100 or (refit.determined > DETERMINED).all():
        return
    obs = refit.obs[refit.inner]
    scaled = (obs - obs.mean(0)) / np.where(obs.std(0) > 0, obs.std(0), 1.0)
    change = change / np.where(change.std(0) > 0, change.std(0), 1.0)
    blocks = list(action.swapaxes(0, 1))
    if 3 * scaled.shape[1] * action.shape[2] <= min(WIDEST, len(change) // 10):
        blocks = [np.column_stack([a, (a[:, :, None] * scaled[:, None]).reshape(len(a), -1)]) for a in blocks]
    left = [_unexplained(np.concatenate(blocks[:k] + blocks[k + 1 :], 1), change) for k in range(3)]
    own = np.array(left) - _unexplained(np.concatenate(blocks, 1), change)
    best = int(own.argmax())
    if best != 1 and own[best] > 0.03 and own[best] > 2 * own[1]:
        late = "late" if best == 2 else "early"
        neighbour = "after" if best == 2 else "before"
        alone = own[best] > NEGLIGIBLE * own[1]  # in a column that is a row off, its own action says next to nothing
        yield Finding(
            "shifted actions",
            "serious" if alone else "warning",
            f"the observation's change is explained by the action of the row {neighbour} ({own[best]:.0%}), "
            + ("not by" if alone else "and less, as in a plant with a dead time or a filter, by")
            + f" the row's own ({own[1]:.0%})",
            "the model attributes each change to the wrong action, and the policy learns to act at the wrong time",
            f"the action column seems to be one row {late}: shift it; if the plant answers with a dead time, set "
            "data.history to 2, so that model and policy know the last action",
            channels=refit.data.action_channels,
        )


def _unexplained(x: Floats, y: Floats) -> float:
    x = np.column_stack([x, np.ones(len(x))])
    return float(((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2).mean())


def rewards(refit: Refit) -> Iterator[Finding]:
    """A reward that is a row late or early, that no refit explains, or that some rows contradict."""
    around = np.column_stack([np.roll(refit.reward, k) for k in (1, 0, -1)])
    predicted = out_of_fold(refit.outcome, around, refit.episode, refit.seed)
    good = explained(around[refit.inner], predicted[refit.inner]) if refit.inner.any() else np.ones(3)
    best = int(good.argmax())
    if best != 1 and good[best] > 0.3 and 1 - good[best] < 0.5 * (1 - good[1]):
        yield Finding(
            "shifted rewards",
            "serious",
            f"a row explains {good[best]:.0%} of the reward of the row {'after' if best == 2 else 'before'} it and "
            f"{good[1]:.0%} of its own",
            "credit goes to the neighbouring action; the reward model is noisier than it has to be",
            f"the reward column seems to be one row {'late' if best == 2 else 'early'}: shift it",
        )
    else:
        left = np.abs(refit.reward - predicted[:, 1])
        trusted = left <= np.quantile(left, 1 - DISTRUSTED)
        again = out_of_fold(refit.outcome, refit.reward[:, None], refit.episode, refit.seed, trusted)
        yield from _odd_rewards(refit, left, again[:, 0], trusted)


def _odd_rewards(refit: Refit, first: Floats, predicted: Floats, trusted: Flags) -> Iterator[Finding]:
    """Rows that two refits contradict, by `first` [n] the one on all rows, and one on the trusted rows only.

    The first is pulled towards odd rewards; the second is wrong where it trusts no row, such as rare start-ups. Neither
    is asked at the far ends of the log, nor of the ends of episodes where these pay another kind of reward.
    """
    left = np.minimum(first, np.abs(refit.reward - predicted))
    told = float(explained(refit.reward[trusted, None], (refit.reward - left)[trusted, None])[0])
    if told < 0.5:
        yield Finding(
            "unexplained reward",
            "warning",
            f"a refit from observation, action and next observation explains {told:.0%} of the reward",
            "imagined rewards are mostly noise, so rehearsal optimises little",
            "log what the reward depends on as an observation, or give a `reward_function`",
        )
        return
    typical = 1.4826 * np.median(np.abs(refit.reward - predicted))
    dense = (np.abs(refit.outcome - refit.outcome.mean(0)) <= 3 * refit.outcome.std(0)).all(1)
    apart = bool(ends_apart(refit.data.reward, refit.data.terminated)[0])
    live = ~(refit.ended & apart)
    if np.ptp(refit.reward[live]) <= TRIFLE * np.abs(refit.reward).max():  # only ends do not all pay the same
        return
    bad = live & dense & (left > 15 * typical) & (left > refit.reward[live].std())
    bad &= left > TRIFLE * np.abs(refit.reward).max()
    if bad.any():
        yield Finding(
            "inconsistent reward",
            "serious"
            if bad.sum() >= LEAST_ODD and bad.mean() > 0.001 and not _one_event(refit.reward, bad)
            else "warning",
            f"{refit.share(bad)} have a reward that a refit on the other episodes contradicts, by "
            f"{left[bad].max():.4g} at most, where {typical:.2g} is usual",
            "the reward model averages two answers to the same question, and the policy is misled where they differ",
            "look at these rows: another definition or unit for a while, a default where the value was missing, a rare "
            "event that the observation does not show",
            **named(refit.rows[bad]),
        )


def _one_event(reward: Floats, odd: Flags) -> bool:
    """Whether all odd rows [N] pay the usual reward of a few, or one other: what is paid when something happens."""
    values, counts = np.unique(reward, return_counts=True)
    paid = np.unique(reward[odd])
    return len(values) <= DISTINCT and int((paid != values[counts.argmax()]).sum()) <= 1


def missing_ends(refit: Refit) -> Iterator[Finding]:
    """Jumps within an episode, in most channels at once and to where episodes start: a reset without an end."""
    known = np.concatenate([refit.obs, refit.action], 1)
    delta, spread = refit.delta[:, refit.inside], refit.obs.std(0)[refit.inside]
    left = np.abs(delta - out_of_fold(known, delta, refit.episode, refit.seed))
    moving = spread > 0
    if not moving.any():
        return
    jump = np.quantile(left[:, moving] / spread[moving], 0.5, axis=1, method="lower")
    leap = np.quantile(np.abs(delta)[:, moving] / spread[moving], 0.5, axis=1, method="lower")
    bad = jump > max(0.25, 12 * np.quantile(jump, 0.9))
    bad &= leap > np.quantile(leap, 0.9)  # a cell aside on a grid is unexpected in both channels, and moves one
    fresh = np.diff(refit.data.series_of.numpy(), prepend=-1) != 0 if refit.data.series else slice(None)
    starts = refit.data.starts.numpy()[fresh][:, refit.inside]  # a piece of a series begins anywhere
    low, high = starts.min(0), starts.max(0)
    room = 0.25 * (high - low) + 0.05 * spread
    after = refit.obs[:, refit.inside] + delta
    bad &= ((after > low - room) & (after < high + room)).all(1)
    alone = ~(np.roll(bad, 1) | np.roll(bad, -1))  # one outlier jumps there and back
    bad &= alone & ~refit.ended
    if bad.any():
        yield Finding(
            "missing end",
            "serious",
            f"{refit.share(bad)} jump, in most channels at once, to where episodes start",
            "the model learns that the plant can leap from anywhere to a start, and values leak across it",
            "mark the end of an episode at these rows (episode, terminal or truncated column, or `max_gap`)",
            **named(refit.rows[bad]),
        )
