"""Values far outside of what nearly all others span, and whether it is the plant that goes there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from mbrl.data.channels import Past
from mbrl.data.dataset import TransitionDataset
from mbrl.data.findings import Finding, Flags, Floats, named, share
from mbrl.data.refit import out_of_fold

FAR, ABSURD = 4.0, 1000.0  # spans between the 1 % and 99 % quantiles, beyond either of them
FEW = 0.001  # share of the rows: so few that are far, but not absurd, may be a heavy tail, or a rare bonus
GRADUAL = 0.3  # of the way back to the quantile, that a step at most takes where the plant itself goes there
FORETOLD = 0.95  # area under the ROC curve, from which on it is the plant that pays what is far
LEAST_FAR, MOST_FAR = 10, 800  # rows that can say so, and that are asked


def outliers(data: TransitionDataset, past: Past) -> Iterator[Finding]:
    """Values far outside of what nearly all others span; not the reward of an episode's end, which often is."""
    columns = {**dict(zip(data.channels, data.obs.numpy().T, strict=True)), "reward": data.reward.numpy()}
    columns = {name: column for name, column in columns.items() if name not in {data.channels[k] for k in past.known}}
    for name, values in columns.items():
        column = values.astype(np.float64)
        low, high = np.quantile(column, (0.01, 0.99))
        away = np.maximum(low - column, column - high).clip(min=0.0)
        beyond = away / (high - low) if high > low else np.zeros(len(column))
        if name == "reward":
            beyond[data.terminated.numpy()] = 0.0
        far = beyond > FAR
        if not far.any():
            continue
        worst = column[far][np.abs(column[far] - np.median(column)).argmax()]
        reason = None if beyond.max() > ABSURD else _reason(data, name, column, away, far)
        yield Finding(
            "outliers",
            "note" if reason else "serious" if far.mean() > FEW or beyond.max() > ABSURD else "warning",
            f"{name} is up to {worst:.6g} in {share(int(far.sum()), len(column))}, and 98 % of its values lie in "
            f"[{low:.4g}, {high:.4g}]{f'; {reason}' if reason else ''}",
            "a squared error sees little else, they set the channel's scale, and imagined states may go there",
            "nothing, where the plant does so; leave these rows out if no policy has to do with them (a start-up)"
            if reason
            else "correct or remove them; physical `bounds` in the schema find them at the import",
            channels=(name,),
            **named(far),
        )


def _reason(data: TransitionDataset, name: str, column: Floats, away: Floats, far: Flags) -> str | None:
    """What speaks for the plant and against the sensor; None where nothing does."""
    if _gradual(column, away, far, runs(data)):
        return "it goes there and back step by step"
    if name == "reward" and _foretold(data, far):
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


def _foretold(data: TransitionDataset, far: Flags) -> bool:
    """Whether a refit tells these rows from others, in other episodes, by all that is logged beside the reward."""
    if far.sum() < LEAST_FAR:
        return False
    rng = np.random.default_rng(0)
    sides = (far, MOST_FAR), (~far, 5 * MOST_FAR)
    rows = np.sort(np.concatenate([rng.permutation(np.flatnonzero(flags))[:most] for flags, most in sides]))
    x = np.hstack([column[rows].numpy() for column in (data.obs, data.action, data.next_obs)]).astype(np.float64)
    told = out_of_fold(x, far[rows, None].astype(np.float64), data.episode[rows].numpy(), seed=0)
    return bool(roc_auc_score(far[rows], told[:, 0]) >= FORETOLD)
