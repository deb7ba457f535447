"""Values that hardly a plant has had: codes for what was not read, and values far outside of what nearly all span."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from mbrl.data.channels import DISTINCT, Past
from mbrl.data.dataset import TransitionDataset
from mbrl.data.findings import Finding, Flags, Floats, named, share
from mbrl.data.refit import out_of_fold

FAR, ABSURD = 4.0, 1000.0  # spans of nearly all values, beyond either end of them
FEW = 0.001  # share of the rows: so few that are far, but not absurd, may be a heavy tail, or a rare bonus
WIDER = 1.41  # from between the 5 % and 95 % quantiles to between 1 % and 99 %, of a normal distribution
GRADUAL = 0.3  # of the way back to the others, that a step at most takes where the plant itself goes there
FORETOLD = 0.95  # area under the ROC curve, from which on it is the plant that pays what is far
LEAST_FAR, MOST_FAR = 10, 800  # rows that can say so, and that are asked
LEAST_EQUAL, MOST_EQUAL = 3, 0.2  # rows, and share of them, that hold a code for what was not read
NEAR, COMMANDED = 1.0, 20.0  # spans, by which a code lies off: if it comes for a moment; in a controller's choices
WHOLLY = 100.0  # spans, beyond which it is no machine that was off either
MOMENT, MOSTLY = 3, 0.9  # rows in a row, and the share of such stretches


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a log, and the rows of it that are asked."""

    data: TransitionDataset
    name: str
    values: Floats  # [N]
    asked: Flags  # [N]; without the reward of an episode's end, which often is another one
    beside: tuple[int, ...]  # channels of the observation that are no copies of one, and not this one
    commanded: bool = False  # an action, which may be off as often as anybody likes

    def without(self, rows: Flags) -> Column:
        """The same with fewer rows asked."""
        return replace(self, asked=self.asked & ~rows)

    def span(self) -> tuple[float, float]:
        """What nearly all values span, though one in twenty lies far off at either end."""
        values = self.values[self.asked]
        low, high = (float(q) for q in np.quantile(values, (0.05, 0.95)))
        if high > low:
            more = (WIDER - 1) / 2 * (high - low)
            return low - more, high + more
        low, high = (float(q) for q in np.quantile(values, (0.01, 0.99)))
        return low, high

    def away(self) -> tuple[Floats, Floats]:
        """How far each value lies off that [N], in its unit and in spans; 0 where nearly all are the same."""
        low, high = self.span()
        away = np.where(self.asked, np.maximum(low - self.values, self.values - high).clip(min=0.0), 0.0)
        return away, away / (high - low) if high > low else np.zeros(len(away))


@dataclass(frozen=True, eq=False)
class Odd:
    """What is said of odd values, and which rows hold one that the plant is not known to have had."""

    findings: tuple[Finding, ...]
    spoiled: Flags  # [N]; in any column, or in the next observation

    @classmethod
    def of(cls, data: TransitionDataset, past: Past) -> Odd:
        """The odd values of a log's observations, its rewards, and its actions where they are numbers."""
        found, spoiled = [], np.zeros(len(data), bool)
        for column in _columns(data, past):
            rest = column
            for at, finding in _sentinels(column):
                found.append(finding)
                spoiled |= at
                rest = rest.without(at)
            for far, finding in () if column.commanded else _outliers(rest):
                found.append(finding)
                spoiled |= far & (finding.severity != "note")
        on = (data.episode.diff() == 0).numpy()
        spoiled[:-1] |= spoiled[1:] & on  # it is the next observation of the row before
        return cls(tuple(found), spoiled)


def _columns(data: TransitionDataset, past: Past) -> Iterator[Column]:
    everywhere = np.ones(len(data), bool)
    own = tuple(k for k in range(len(data.channels)) if k not in past.carried)
    for k in own:
        if k not in past.clocks:
            values = data.obs[:, k].double().numpy()
            yield Column(data, data.channels[k], values, everywhere, tuple(c for c in own if c != k))
    yield Column(data, "reward", data.reward.double().numpy(), ~data.terminated.numpy(), own)
    if not data.discrete:
        for k, name in enumerate(data.action_channels):
            yield Column(data, name, data.action[:, k].double().numpy(), everywhere, own, commanded=True)


def _sentinels(column: Column) -> Iterator[tuple[Flags, Finding]]:
    """One value, off all others at an end of the channel and exactly the same time and again, such as -9999 or 0."""
    values, counts = np.unique(column.values[column.asked], return_counts=True)
    ends = {0, len(values) - 1} if len(values) > 2 else ()
    for end in sorted(ends):
        at = column.asked & (column.values == values[end])
        if not LEAST_EQUAL <= counts[end] <= MOST_EQUAL * len(at):
            continue
        low, high = column.without(at).span()
        off = max(low - values[end], values[end] - high) / (high - low) if high > low else 0.0
        brief = _brief(column.data, at)
        least = COMMANDED if column.commanded else NEAR if brief else FAR
        if off <= (least if len(values) > DISTINCT else ABSURD) or _foretold(column, at):
            continue
        yield (
            at,
            Finding(
                "sentinel value",
                "serious" if brief or off > WHOLLY else "warning",
                f"{column.name} is exactly {values[end]:.6g} in {share(int(at.sum()), len(at))}"
                f"{', for a moment each time' if brief else ''}, and nearly all others lie in [{low:.4g}, {high:.4g}];"
                " nothing else in these rows tells why",
                "as it seems a code for what was not read: it sets the channel's scale, and models learn jumps that no"
                " plant makes",
                "leave these cells empty in the file, or name the channel's physical `bounds` in the schema, which find"
                " such rows, and import it again; if the plant itself was there, nothing needs to change",
                channels=(column.name,),
                **named(at),
            ),
        )


def _brief(data: TransitionDataset, at: Flags) -> bool:
    """Whether rows [N] come alone, or a few in a row, nearly always."""
    series = runs(data)
    begins = np.flatnonzero(at & np.append(True, ~at[:-1] | (series[1:] != series[:-1])))
    ends = np.flatnonzero(at & np.append(~at[1:] | (series[1:] != series[:-1]), True))
    return bool((ends - begins < MOMENT).mean() >= MOSTLY)


def _outliers(column: Column) -> Iterator[tuple[Flags, Finding]]:
    """Values far outside of what nearly all others span, in a few rows."""
    away, beyond = column.away()
    far = beyond > FAR
    if not far.any():
        return
    low, high = column.span()
    worst = column.values[far][away[far].argmax()]
    reason = None if beyond.max() > ABSURD else _reason(column, away, far)
    yield (
        far,
        Finding(
            "outliers",
            "note" if reason else "serious" if far.mean() > FEW or beyond.max() > ABSURD else "warning",
            f"{column.name} is up to {worst:.6g} in {share(int(far.sum()), len(far))}, and nearly all others lie in "
            f"[{low:.4g}, {high:.4g}]{f'; {reason}' if reason else ''}",
            "a squared error sees little else, they set the channel's scale, and imagined states may go there",
            "nothing, where the plant does so; leave these rows out if no policy has to do with them (a start-up)"
            if reason
            else "correct or remove them; physical `bounds` in the schema find them at the import",
            channels=(column.name,),
            **named(far),
        ),
    )


def _reason(column: Column, away: Floats, far: Flags) -> str | None:
    """What speaks for the plant and against the sensor; None where nothing does."""
    if _gradual(column.values, away, far, runs(column.data)):
        return "it goes there and back step by step"
    if _foretold(column, far):
        return "the rest of the row foretells in which"
    return None


def runs(data: TransitionDataset) -> NDArray[np.int64]:
    """The episode of each row, where pieces of one series count as one."""
    on = (data.next_obs[:-1] == data.obs[1:]).all(1) & ~data.terminated[:-1]
    parted = (data.episode.diff() != 0) & ~on
    return np.append(0, parted.numpy().cumsum())


def _gradual(column: Floats, away: Floats, far: Flags, episode: NDArray[np.int64]) -> bool:
    """Whether episodes go to all that is far, or come from there, in steps that are small beside the way."""
    if len(np.setdiff1d(episode, episode[~far])):  # one that is far from end to end went nowhere
        return False
    crossed = (far[1:] != far[:-1]) & (episode[1:] == episode[:-1])
    way = np.maximum(away[1:], away[:-1])[crossed]
    return bool(crossed.any() and (np.abs(np.diff(column))[crossed] <= GRADUAL * way).all())


def _foretold(column: Column, far: Flags) -> bool:
    """Whether a refit tells these rows from others, in other episodes, by all other columns.

    Of a channel also by the action before.
    """
    if far.sum() < LEAST_FAR:
        return False
    data, rng = column.data, np.random.default_rng(0)
    sides = (far, MOST_FAR), (~far, 5 * MOST_FAR)
    rows = np.sort(np.concatenate([rng.permutation(np.flatnonzero(flags))[:most] for flags, most in sides]))
    acts = [k for k, name in enumerate(data.action_channels) if not (column.commanded and name == column.name)]
    seen = [tensor[rows][:, list(column.beside)] for tensor in (data.obs, data.next_obs)]
    if column.name in data.channels:
        seen.append(data.action[np.maximum(rows - 1, data.first.numpy()[data.episode.numpy()[rows]])])
    table = torch.cat([*seen, data.action[rows][:, acts]], 1).double().numpy()
    told = out_of_fold(table, far[rows, None].astype(np.float64), data.episode[rows].numpy(), seed=0)
    return bool(roc_auc_score(far[rows], told[:, 0]) >= FORETOLD)
