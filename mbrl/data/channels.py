"""Checks of a log's channels, one by one: sensors, and what the row before says already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbrl.data import exact
from mbrl.data.dataset import TransitionDataset
from mbrl.data.findings import Finding, Flags, named, share
from mbrl.data.problem import clocks_of

DISTINCT = 20  # a channel with fewer values is a flag or a level, not a measurement
STUCK = 20  # consecutive equal values of a channel that otherwise moves with almost every row
SATURATED = 0.005  # share of the rows at the very end of a channel's range
RESTING = 0.5  # share of the rows at an end, from which on it is likely to be one of rest
COARSE = 0.05  # of a channel's spread, by which neighbouring float32 numbers of its size differ
APART = 0.05  # of a channel's range, by which an end of rest lies off all other values


class Past(NamedTuple):
    """Channels of the observation of which the row before says all: copies of another one or of the action, clocks."""

    carried: tuple[int, ...]
    sources: tuple[int, ...]
    clocks: Mapping[int, exact.Clock]

    @classmethod
    def of(cls, data: TransitionDataset) -> Past:
        """Those of a log."""
        own = [k for k in range(data.frame_dim) if k not in data.exogenous]
        carried, sources = exact.carried(data.obs, data.action, data.next_obs, own, data.frame_dim)
        return cls(carried, sources, clocks_of(data, carried))

    @property
    def known(self) -> set[int]:
        """All of them."""
        return {*self.carried, *self.clocks}


def sensors(data: TransitionDataset, past: Past) -> Iterator[Finding]:
    """Channels of the observation that are constant, too coarse in float32, saturated, or stuck for a while.

    An exogenous channel may rest as it likes: a set-point holds, and the sun does not shine at night. So may all others
    and the actions together, as of a machine that is off. What the row before says already is not a sensor.
    """
    obs, same = data.obs.numpy(), np.zeros(len(data), bool)
    same[1:] = data.episode.diff().numpy() == 0
    own = [k for k in range(data.frame_dim) if k not in {*data.exogenous, *past.known}]
    whole, resting = np.concatenate([obs[:, own], data.action.numpy()], 1), same.copy()
    resting[1:] &= (whole[1:] == whole[:-1]).all(1)  # all of the plant, which stands still then
    begins = ~same & (data.lengths[data.episode].numpy() > 1)
    for k, (name, column, after) in enumerate(zip(data.channels, obs.T, data.next_obs.numpy().T, strict=True)):
        distinct = np.unique(column)
        constant = len(distinct) == 1 and bool((after == distinct[0]).all())
        if constant and "=" in name:
            yield Finding(
                "constant category",
                "warning",
                f"{name} is {distinct[0] + 0.0:.6g} in every row",
                "should that ever change, the policy meets values it has never seen",
                "list the categories that there are in the schema, or log some rows of the others",
                channels=(name,),
            )
        elif constant:
            yield Finding(
                "constant sensor",
                "serious",
                f"{name} is {distinct[0] + 0.0:.6g} in every row",
                "a channel without information; should it move later, the policy meets values it has never seen",
                "leave the column out of the schema, or find out why it was not recorded",
                channels=(name,),
            )
        elif len(distinct) > 1 and (coarse := _coarse(name, column, after)) is not None:
            yield coarse
        elif len(distinct) > DISTINCT and k not in {*data.exogenous, *past.known}:
            yield from _saturated(name, column, distinct, begins)
            yield from _stuck(name, column, same & ~resting)


def spacing(column: NDArray[np.float32]) -> float:
    """Between neighbouring float32 numbers as large as the channel's largest."""
    return float(np.spacing(np.abs(column).max()))


def _coarse(name: str, column: NDArray[np.float32], after: NDArray[np.float32]) -> Finding | None:
    """A channel [N] that float32 rounds by much of its spread, or by more than it changes to what comes `after` it."""
    apart, spread = spacing(column), float(column.std(dtype=np.float64))
    change = float(np.sqrt(np.square(after - column.astype(np.float64)).mean()))
    if apart <= COARSE * spread and not 0 < change < apart:
        return None
    return Finding(
        "coarse sensor",
        "serious" if apart > 10 * COARSE * spread else "warning",
        f"{name} is about {np.abs(column).max():.6g}, where float32 numbers lie {apart:.3g} apart; its spread is"
        f" {spread:.2g}, and its change from row to row {change:.2g}",
        "all rows are kept in float32, which rounds the channel's changes away: a model sees steps, or nothing",
        "subtract a constant from the column, in the log and where the policy is used, and import it again; of a time,"
        " that of the episode's start",
        channels=(name,),
    )


def _saturated(
    name: str, column: NDArray[np.float32], distinct: NDArray[np.float32], begins: Flags
) -> Iterator[Finding]:
    """Many rows exactly at an end of the range, where a measurement has few: compared with the value beside it.

    An end apart from all other values is one of rest, such as no meal: what a sensor cuts off lies on both sides. What
    an episode `begins` with, such as no product yet, is how a task begins.
    """
    typical = len(column) / len(distinct)
    for end, value, beside in (("upper", distinct[-1], distinct[-2]), ("lower", distinct[0], distinct[1])):
        at = (column == value) & ~begins
        count, next_to = int(at.sum()), int((column == beside).sum())
        if abs(value - beside) > APART * (distinct[-1] - distinct[0]):
            continue
        if count >= max(10, SATURATED * len(column)) and count > 10 * max(next_to, typical):
            yield Finding(
                "saturated sensor",
                "serious" if 0.1 < count / len(column) <= RESTING else "warning",
                f"{name} is exactly {value:.6g}, its {end} end, in {share(count, len(column))}",
                "beyond the end the true value is unknown, so the model sees different states as one",
                "widen the sensor's range or the logger's clipping, or end episodes there; if the plant itself stops "
                "there, nothing needs to change",
                channels=(name,),
                **named(at),
            )


def _stuck(name: str, column: NDArray[np.float32], same: Flags) -> Iterator[Finding]:
    repeats = np.zeros(len(column), bool)
    repeats[1:] = (column[1:] == column[:-1]) & same[1:]
    ends = np.flatnonzero(np.diff(np.concatenate([[0], repeats, [0]]).astype(np.int8)))
    begin, stop = ends[::2], ends[1::2]
    inner = (column[begin] > column.min()) & (column[begin] < column.max())  # the ends are `_saturated`'s
    long = (stop - begin >= STUCK - 1) & inner if len(begin) else np.zeros(0, bool)
    rows = np.concatenate([np.arange(a, b) for a, b in zip(begin[long], stop[long], strict=True)] or [begin[:0]])
    elsewhere = len(column) - len(rows)  # a set-point holds nearly always, a coarse sensor repeats everywhere
    if len(rows) and elsewhere > 0.7 * len(column) and repeats.sum() - len(rows) < 0.05 * elsewhere:
        yield Finding(
            "stuck sensor",
            "serious",
            f"{name} repeats its last value over {len(rows):,} rows, in {int(long.sum())} stretch(es) of {STUCK} or "
            "more, while it changes almost everywhere else",
            "the model learns that the channel does not move, and averages that with the truth",
            "cut these stretches out: end the episode before each and begin another one after it",
            channels=(name,),
            **named(rows),
        )


def stacked_past(data: TransitionDataset, past: Past) -> Iterator[Finding]:
    """Older values that the logger has put beside the present ones."""
    if past.carried:
        names = [*data.channels[: data.frame_dim], *data.action_channels]
        pairs = [f"{names[k]} is {names[s]}" for k, s in zip(past.carried, past.sources, strict=True)]
        yield Finding(
            "stacked past",
            "note",
            f"{len(pairs)} of {data.frame_dim} channels are what another one, or the action, was a row before: "
            + "; ".join(pairs[:3])
            + ("; ..." if len(pairs) > 3 else ""),
            "none: a simulator copies them, and learns the others",
            "nothing",
            channels=tuple(data.channels[k] for k in past.carried),
        )


def clocks(data: TransitionDataset, past: Past) -> Iterator[Finding]:
    """Hours, days and numbers of steps, which go on whatever anybody does."""
    for k, clock in past.clocks.items():
        back = f", and back by {clock.period:.6g} beyond {clock.turn:.6g}" if clock.period else ""
        yield Finding(
            "clock",
            "note",
            f"{data.channels[k]} changes by {clock.step:.6g} in every row{back}",
            "none: a simulator lets it go on like that, and learns the others",
            "nothing",
            channels=(data.channels[k],),
        )


def whole_actions(data: TransitionDataset, past: Past) -> Iterator[Finding]:
    """Actions that were always whole numbers, in a log that says they are of a continuum."""
    del past
    if data.discrete:
        return
    for name, column in zip(data.action_channels, data.action.numpy().T, strict=True):
        distinct = np.unique(column)
        if len(distinct) > 2 and (distinct == np.round(distinct)).all():
            yield Finding(
                "whole actions",
                "note",
                f"{name} is a whole number in every row, from {distinct[0]:.6g} to {distinct[-1]:.6g}",
                "policies answer any number between the bounds, and simulators are asked what it would do",
                "round what a policy answers, if the plant takes nothing else; a single choice that has no order is a "
                "`discrete` action",
                channels=(name,),
            )


def untried_choices(data: TransitionDataset, past: Past) -> Iterator[Finding]:
    """Choices of a discrete action that no row has taken, such as those between the labels 10 and 20."""
    del past
    tried = (data.action > 0).any(0).numpy()
    if not data.discrete or tried.all():
        return
    never = np.flatnonzero(~tried)
    runs = np.split(never, np.flatnonzero(np.diff(never) > 1) + 1)
    names = [data.action_channels[run[0]] + f" to {data.action_channels[run[-1]]}" * (len(run) > 1) for run in runs]
    yield Finding(
        "untried choices",
        "warning",
        f"{len(never)} of {len(tried)} choices were never taken: {', '.join(names[:5])}" + ", ..." * (len(names) > 5),
        "policies may choose what nobody has tried, and what a simulator says of it is invented",
        "name those that there are in the schema (`discrete: [10, 20]`), or number them from 0 without gaps; of one"
        " that is real, log some rows, or leave it out",
        channels=tuple(data.action_channels[k] for k in never),
    )
