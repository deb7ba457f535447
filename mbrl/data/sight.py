"""How far back one has to look to know what a plant does next: delays, and velocities that were not logged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from mbrl.core import generator
from mbrl.data.dataset import TransitionDataset
from mbrl.data.findings import Finding, Floats
from mbrl.data.history import windowed
from mbrl.data.refit import out_of_fold

HISTORIES = (1, 2, 3, 5, 9)  # observations in a row that are tried
ROWS = 8_000  # looked at, of whole episodes: what a refit of both its folds is fitted on
LEAST_ROWS = 1_000  # with a whole history before them
WIDEST = 500  # columns of a refit, at most
HIDDEN = 0.02  # share of a channel's variance that one observation has to leave unexplained
TOLD = 0.1  # of which older ones leave at most this: logs of Markov plants leave half (contacts), blinded ones 0.03
ALIKE = 0.02  # of what one observation leaves: a shorter history that tells so little less than the best goes before it
TYPICAL = (
    0.9  # share of the rows, those with the smallest errors, that count: a refit errs widely where it extrapolates
)


@dataclass(frozen=True)
class Sight:
    """The history that a log asks for, and what it says that one observation does not."""

    history: int  # 1 where one observation says what older ones would
    channels: tuple[str, ...] = ()  # of which older ones say most of what it leaves open
    alone: float = 0.0  # share of these channels' variance that one observation leaves unexplained, on average
    told: float = 0.0  # the same with the history


def sight(data: TransitionDataset, seed: int) -> Sight:
    """How many observations in a row tell what a log's plant does next.

    The change of what the plant decides, and the reward, are refitted from the last 1, 2, 3 ... observations and
    actions. Of a channel of which one observation leaves more than `HIDDEN` of the variance unexplained, older ones
    have to leave at most `TOLD` of that; so noise, and contacts that a quick refit does not get right, ask for nothing.

    Args:
        data: the log, on the CPU, all of it finite; of windows, the newest observations are looked at.
        seed: of the episodes looked at.
    """
    order = torch.randperm(data.episodes, generator=generator(seed, "sight"))
    some = order[: max(1, int((data.lengths[order].cumsum(0) <= ROWS).sum()))]
    rows = data.rows(some.sort().values)[:ROWS].numpy()
    episode = data.episode.numpy()[rows]
    age = rows - data.first.numpy()[episode]
    frame = data.frame_dim
    width = frame + data.action.shape[1]
    tried = [k for k in HISTORIES if int((age >= k - 1).sum()) >= LEAST_ROWS and k * width <= WIDEST]
    if len(tried) < 2:
        return Sight(1)
    full = age >= tried[-1] - 1
    inside = [k for k in range(frame) if k not in data.exogenous]
    obs, action = data.obs[:, :frame].numpy(), data.action.numpy()
    change = (data.next_obs[:, :frame].numpy()[rows] - obs[rows])[:, inside]
    y = np.column_stack([change, data.reward.numpy()[rows]])[full].astype(np.float64)
    numbers = np.unique(episode[full], return_inverse=True)[1]
    left = []
    for k in tried:
        x = np.concatenate([column[rows[full] - back] for back in range(k) for column in (obs, action)], 1)
        left.append(_unexplained(y, out_of_fold(x.astype(np.float64), y, numbers, seed)))
    found = np.array(left)
    asking = (found[0] > HIDDEN) & (found[0] <= 1) & (found.min(0) <= TOLD * found[0])
    if not asking.any():
        return Sight(1)
    told = found[:, asking].mean(1)
    best = next(i for i, value in enumerate(told) if value <= told.min() + ALIKE * told[0])
    names = (*(data.channels[k] for k in inside), "the reward")
    chosen = tuple(name for name, ask in zip(names, asking, strict=True) if ask)
    return Sight(tried[best], chosen, float(told[0]), float(told[best]))


def _unexplained(y: Floats, predicted: Floats) -> Floats:
    """Share of each column's variance that is left in typical rows, [k]; 0 where it is constant."""
    spread, squares = y.var(0), np.sort((y - predicted) ** 2, 0)
    return squares[: max(1, int(TYPICAL * len(y)))].mean(0) / np.where(spread > 0, spread, np.inf)


def seen(data: TransitionDataset, history: int | Literal["auto"], seed: int) -> TransitionDataset:
    """The log with windows of so many observations, or of as many as it asks for; see `mbrl.data.history.windowed`."""
    return windowed(data, sight(data, seed).history if history == "auto" else history)


def hidden_state(data: TransitionDataset, seed: int, history: int) -> Iterator[Finding]:
    """A log of whose observations so many do not say all that decides what comes next."""
    found = sight(data, seed)
    if found.history > history:
        yield Finding(
            "hidden state",
            "serious",
            f"one observation leaves {found.alone:.0%} of the change of {_listed(found.channels)} unexplained, the last"
            f" {found.history} leave {found.told:.1%}",
            "the model takes for noise what older rows say (a delay, a velocity that was not logged), the policy cannot"
            " react to it, and the evidence, which rests on such models, may see gains that are none",
            f"set data.history to {found.history}, or to auto, or log what is missing",
            channels=found.channels,
        )


def _listed(names: tuple[str, ...]) -> str:
    few = ", ".join(names[:5])
    return few if len(names) <= 5 else f"{few} and {len(names) - 5} more"
