"""How far back one has to look to know what a plant does next: delays, and velocities that were not logged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mbrl.core import generator
from mbrl.data.channels import spacing
from mbrl.data.dataset import TransitionDataset
from mbrl.data.findings import Finding, Floats
from mbrl.data.history import windowed
from mbrl.data.refit import out_of_fold

HISTORIES = (1, 2, 3, 5, 9, 17)  # observations in a row that are tried
ROWS = 8_000  # looked at, of whole episodes: what a refit of both its folds is fitted on
LEAST_ROWS = 500  # with a whole history before them
WIDEST = 500  # columns of a refit, at most; two observations are always tried
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


def sight(data: TransitionDataset, seed: int) -> Sight | None:
    """How many observations in a row tell what a log's plant does next; None where too few rows have others before.

    The change of what the plant decides, and the reward, are refitted from the last 1, 2, 3 ... observations and
    actions. Of a channel of which one observation leaves more than `HIDDEN` of the variance unexplained, older ones
    have to leave at most `TOLD` of that; so noise, and contacts that a quick refit does not get right, ask for nothing.
    Where older ones say more only because the refit is too coarse for the plant, as the last change is much like the
    next one, a network has the say of what one observation leaves.

    Args:
        data: the log, on the CPU, all of it finite; of windows, the newest observations are looked at.
        seed: of the episodes looked at.
    """
    some = _Some(data, seed)
    if len(some.tried) < 2:
        return None
    left = [some.left(1)]
    if (left[0] > HIDDEN).any():
        left += [some.left(k) for k in some.tried[1:]]
    found = np.array(left)
    asking = _asking(found)
    if asking.any():
        found[0] = np.minimum(found[0], some.left(1, network=True))
        asking = _asking(found)
    if not asking.any():
        return Sight(1)
    asked = found[:, asking]
    enough = (asked <= asked.min(0) + ALIKE * asked[0]).all(1)
    best = int(enough.argmax())
    chosen = tuple(name for name, ask in zip(some.names, asking, strict=True) if ask)
    return Sight(some.tried[best], chosen, float(asked[0].mean()), float(asked[best].mean()))


def _asking(found: Floats) -> NDArray[np.bool_]:
    """Channels [k] of which older observations say most of what one leaves, by shares [histories, k]."""
    asking: NDArray[np.bool_] = (found[0] > HIDDEN) & (found[0] <= 1) & (found.min(0) <= TOLD * found[0])
    return asking


class _Some:
    """Some rows of a log, and how much of what comes next they say."""

    def __init__(self, data: TransitionDataset, seed: int) -> None:
        order = torch.randperm(data.episodes, generator=generator(seed, "sight"))
        self.rows = data.rows(data.some(order, ROWS))[:ROWS].numpy()
        self.obs, self.action = data.obs[:, : data.frame_dim].numpy(), data.action.numpy()
        self.seed, width = seed, self.obs.shape[1] + self.action.shape[1]
        episode = data.episode.numpy()[self.rows]
        age = self.rows - data.first.numpy()[episode]
        long = [k for k in HISTORIES if int((age >= k - 1).sum()) >= LEAST_ROWS]
        self.tried = [k for k in long if k * width <= max(WIDEST, 2 * width)]
        full = age >= (self.tried or [1])[-1] - 1
        self.rows, self.group = self.rows[full], np.unique(episode[full], return_inverse=True)[1]
        after = data.next_obs[:, : data.frame_dim].numpy()[self.rows].astype(np.float64)
        change = after - self.obs[self.rows]
        inside = [k for k in range(data.frame_dim) if k not in data.exogenous and self._moves(k, change[:, k])]
        self.names = (*(data.channels[k] for k in inside), "the reward")
        self.y = np.column_stack([change[:, inside], data.reward.numpy()[self.rows]]).astype(np.float64)

    def _moves(self, channel: int, change: Floats) -> bool:
        """Whether its changes [n] differ by more than what rounding to float32 makes of them, which older rows tell."""
        return not len(change) or float(change.std()) >= spacing(self.obs[:, channel])

    def left(self, history: int, network: bool = False) -> Floats:
        """Share of each column's variance that so many observations and actions leave, in typical rows, [k]."""
        parts = [column[self.rows - back] for back in range(history) for column in (self.obs, self.action)]
        x = np.concatenate(parts, 1).astype(np.float64)
        return _unexplained(self.y, out_of_fold(x, self.y, self.group, self.seed, network=network))


def _unexplained(y: Floats, predicted: Floats) -> Floats:
    """Share of each column's variance that is left in typical rows, [k]; 0 where it is constant."""
    spread, squares = y.var(0), np.sort((y - predicted) ** 2, 0)
    return squares[: max(1, int(TYPICAL * len(y)))].mean(0) / np.where(spread > 0, spread, np.inf)


def seen(data: TransitionDataset, history: int | Literal["auto"], seed: int) -> TransitionDataset:
    """The log with windows of so many observations, or of as many as it asks for; see `mbrl.data.history.windowed`."""
    if history == "auto":
        found = sight(data, seed)
        history = 1 if found is None else found.history
    return windowed(data, history)


def hidden_state(data: TransitionDataset, seed: int, history: int) -> Iterator[Finding]:
    """A log of whose observations so many do not say all that decides what comes next."""
    found = sight(data, seed)
    if found is not None and found.history > history:
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
