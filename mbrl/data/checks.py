"""Checks that read a log as it stands: copies, ends, sensors and outliers. Pure functions of a TransitionDataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl.data import exact
from mbrl.data.dataset import TransitionDataset
from mbrl.data.episodes import differing
from mbrl.data.findings import Finding, Flags, Floats, named, share

DISTINCT = 20  # a channel with fewer values is a flag or a level, not a measurement
PREFIX = 5  # rows with which two recordings of one episode begin alike
STUCK = 20  # consecutive equal values of a channel that otherwise moves with almost every row
SATURATED = 0.005  # share of the rows at the very end of a channel's range
COARSE = 0.05  # of a channel's spread, by which neighbouring float32 numbers of its size differ
APART = 0.05  # of a channel's range, by which an end of rest lies off all other values
FAR = 4.0  # spans between the 1 % and 99 % quantiles, beyond either of them


def not_finite(data: TransitionDataset) -> Iterator[Finding]:
    """NaN and infinity, in any column."""
    for name in ("obs", "action", "reward", "next_obs", "cost"):
        if name not in data.tensors:
            continue
        bad = ~torch.isfinite(data.tensors[name].reshape(len(data), -1)).all(1).numpy()
        if bad.any():
            yield Finding(
                "not finite",
                "serious",
                f"{name} is NaN or infinite in {share(int(bad.sum()), len(data))}; nothing else was checked",
                "every loss that sees one of these rows becomes NaN",
                "repair the rows, or import again with --on-bad-rows drop-episode",
                **named(bad),
            )


def copied_episodes(data: TransitionDataset, sides: tuple[Tensor, ...]) -> Iterator[Finding]:
    """The same episode twice, whole or cut: their first rows are equal to the last bit."""
    pairs = _pairs(data)
    if not pairs:
        return
    side = {int(episode): k for k, episodes in enumerate(sides) for episode in episodes}
    across = sum(side.get(a) != side.get(b) for a, b in pairs)
    one, other = pairs[0]
    text = f"{len(pairs)} episode(s) repeat an earlier one, such as episode {other} episode {one}"
    yield Finding(
        "same episode twice",
        "serious",
        text + (f"; {across} of them lie on another side of the split" if sides else ""),
        "a model is judged on rows that it was fitted to, so hold-out errors and the second simulator flatter it",
        "import each recording once; where a machine repeats itself exactly, keep one of the episodes",
        **named(data.rows(torch.tensor([b for _, b in pairs])).numpy()),
    )


def _pairs(data: TransitionDataset) -> list[tuple[int, int]]:
    """(an episode, a later one that begins with the very same rows)."""
    rows = torch.cat([data.obs, data.action, data.reward[:, None]], 1).numpy()
    seen: dict[bytes, int] = {}
    pairs = []
    for episode, (first, length) in enumerate(zip(data.first.tolist(), data.lengths.tolist(), strict=True)):
        start = rows[first : first + min(length, PREFIX)].tobytes()
        if length >= 2 and start in seen:
            pairs.append((seen[start], episode))
        seen.setdefault(start, episode)
    return pairs


def duplicate_rows(data: TransitionDataset) -> Iterator[Finding]:
    """Observation, action and reward of another row. A log of few distinct states is left alone."""
    whole = np.ascontiguousarray(torch.cat([data.obs, data.action, data.reward[:, None]], 1).numpy())
    keys = whole.view(np.dtype((np.void, whole.dtype.itemsize * whole.shape[1]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    twice = first[inverse] != np.arange(len(data))
    previous = np.flatnonzero(data.episode.diff().numpy() == 0)
    frozen = np.zeros(len(data), bool)  # a plant at rest repeats itself: only rows beside moving ones count
    frozen[previous + 1] = (whole[previous + 1] == whole[previous]).all(1)
    rest = frozen.copy()
    rest[1:] &= frozen[:-1]
    copied = np.isin(data.episode.numpy(), [later for _, later in _pairs(data)])  # told by `copied_episodes`
    bad = twice & ~rest & ~copied
    if bad.any() and bad.mean() < 0.5:
        yield Finding(
            "duplicate rows",
            "serious" if bad.mean() > 0.002 else "warning",
            f"{share(int(bad.sum()), len(data))} repeat an earlier row",
            "repeated rows weigh more than others, and one after the other they teach that nothing moves",
            "remove the repetitions before the import: a logger may write one sample twice, an export may overlap",
            **named(bad),
        )


def broken_sequence(data: TransitionDataset) -> Iterator[Finding]:
    """Within an episode, the next observation of a row is the observation of the row after it."""
    inside = np.flatnonzero(data.episode.diff().numpy() == 0)
    said, found = data.next_obs[inside].numpy(), data.obs[inside + 1].numpy()
    wrong = differing(said, found).any(1)
    if wrong.any():
        yield Finding(
            "next observation disagrees",
            "serious",
            f"next_obs of {share(int(wrong.sum()), len(data))} is not the observation of the row after it",
            "the model learns transitions that never happened",
            "mark the end of the episode where rows are missing, or leave next_observation out of the schema",
            **named(inside[wrong]),
        )


def flags_inside(data: TransitionDataset) -> Iterator[Finding]:
    """A terminated or truncated row that is not the last of its episode, and a log that is one episode."""
    inside = torch.cat([data.episode.diff() == 0, torch.zeros(1, dtype=torch.bool)])
    bad = ((data.terminated | data.truncated) & inside).numpy()
    if bad.any():
        yield Finding(
            "rows after an end",
            "serious",
            f"{share(int(bad.sum()), len(data))} end an episode that goes on",
            "the value of these states is cut off, and the world seems to go on after its end",
            "begin a new episode after each terminal or truncated row",
            **named(bad),
        )
    if data.episodes == 1:
        yield Finding(
            "one episode",
            "serious",
            f"all {len(data):,} rows are one episode",
            "a split never cuts an episode, so nothing can be held out",
            "mark where episodes end: by an id, a flag, or a `max_gap` in time",
        )


def uneven_cuts(data: TransitionDataset) -> Iterator[Finding]:
    """No terminal anywhere, yet the episodes differ in length: what cut them was not a common time limit."""
    shortest, longest = int(data.lengths.min()), int(data.lengths.max())
    if data.terminated.any() or data.episodes < 2 or longest <= 2 * shortest:
        return
    short = data.lengths * 2 < longest
    yield Finding(
        "episodes without an end",
        "warning",
        f"no row is terminal, and {int(short.sum())} of {data.episodes} episodes are shorter than half the longest "
        f"({shortest} to {longest} rows)",
        "if some of them ended by a fault or a trip, the simulator never learns that the world can end, and policies "
        "learn to ignore it",
        "name the column that says so as `terminal`; if they were only cut, nothing needs to change",
        **named((data.first + data.lengths - 1)[short].numpy()),
    )


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
        return cls(carried, sources, data.clocks(carried))

    @property
    def known(self) -> set[int]:
        """All of them."""
        return {*self.carried, *self.clocks}


def sensors(data: TransitionDataset, past: Past) -> Iterator[Finding]:
    """Channels of the observation that are constant, too coarse in float32, saturated, or stuck for a while.

    An exogenous channel may rest as it likes: a set-point holds, and the sun does not shine at night. What the row
    before says already is not a sensor.
    """
    obs, same = data.obs.numpy(), np.zeros(len(data), bool)
    same[1:] = data.episode.diff().numpy() == 0
    for k, (name, column) in enumerate(zip(data.channels, obs.T, strict=True)):
        distinct = np.unique(column)
        if len(distinct) == 1:
            yield Finding(
                "constant sensor",
                "serious",
                f"{name} is {distinct[0] + 0.0:.6g} in every row",
                "a channel without information; should it move later, the policy meets values it has never seen",
                "leave the column out of the schema, or find out why it was not recorded",
                channels=(name,),
            )
        elif (step := _step(column)) > COARSE:
            yield Finding(
                "coarse sensor",
                "serious" if step > 10 * COARSE else "warning",
                f"{name} is about {np.abs(column).max():.6g}, where float32 numbers lie {step:.2g} of its spread apart",
                "all rows are kept in float32, which rounds the channel's changes away: a model sees steps, or nothing",
                "subtract a constant from the column, in the log and where the policy is used, and import it again",
                channels=(name,),
            )
        elif len(distinct) > DISTINCT and k not in {*data.exogenous, *past.known}:
            yield from _saturated(name, column, distinct)
            yield from _stuck(name, column, same)


def _step(column: NDArray[np.float32]) -> float:
    """Between neighbouring float32 numbers as large as the channel's largest, in its standard deviations."""
    return float(np.spacing(np.abs(column).max())) / float(column.std(dtype=np.float64))


def _saturated(name: str, column: NDArray[np.float32], distinct: NDArray[np.float32]) -> Iterator[Finding]:
    """Many rows exactly at an end of the range, where a measurement has few: compared with the value beside it.

    An end apart from all other values is one of rest, such as no meal: what a sensor cuts off lies on both sides.
    """
    typical = len(column) / len(distinct)
    for end, value, beside in (("upper", distinct[-1], distinct[-2]), ("lower", distinct[0], distinct[1])):
        at = column == value
        count, next_to = int(at.sum()), int((column == beside).sum())
        if abs(value - beside) > APART * (distinct[-1] - distinct[0]):
            continue
        if count >= max(10, SATURATED * len(column)) and count > 10 * max(next_to, typical):
            yield Finding(
                "saturated sensor",
                "serious" if count > 0.1 * len(column) else "warning",
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


def constant_cost(data: TransitionDataset) -> Iterator[Finding]:
    """A cost column that never changes says nothing of what would cost more."""
    if data.cost is not None and float(data.cost.min()) == float(data.cost.max()):
        yield Finding(
            "constant cost",
            "warning",
            f"the cost is {float(data.cost[0]):.6g} in every row",
            "what another policy costs cannot be learned: a gate that limits it (the rule most_cost) promotes nothing",
            "add a log of what costs more, name a function as trial.cost, or leave the column out of the schema",
        )


def equal_returns(data: TransitionDataset) -> Iterator[Finding]:
    """Episodes of which none earned more than another."""
    returns = data.returns()
    apart = float(returns.max() - returns.min())
    if data.episodes > 1 and apart <= 1e-6 * float(returns.abs().max()):  # but for rounding
        yield Finding(
            "equal returns",
            "warning",
            f"each of the {data.episodes} episodes earned {float(returns[0]):.6g}",
            "no episode shows what earns more, so a policy that does is hardly found; as the returns have no spread,"
            " gains are told in the reward's own unit",
            "add episodes that went better or worse, or choose a reward that tells them apart",
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


def outliers(data: TransitionDataset, past: Past) -> Iterator[Finding]:
    """Values far outside of what nearly all others span; not the reward of an episode's end, which often is."""
    columns = {**dict(zip(data.channels, data.obs.numpy().T, strict=True)), "reward": data.reward.numpy()}
    columns = {name: column for name, column in columns.items() if name not in {data.channels[k] for k in past.known}}
    for name, column in columns.items():
        far = _far(column.astype(np.float64))
        if name == "reward":
            far &= ~data.terminated.numpy()
        if far.any():
            worst = column[far][np.abs(column[far] - np.median(column)).argmax()]
            low, high = np.quantile(column, (0.01, 0.99))
            yield Finding(
                "outliers",
                "serious",
                f"{name} is up to {worst:.6g} in {share(int(far.sum()), len(column))}, and 98 % of its values lie in "
                f"[{low:.4g}, {high:.4g}]",
                "a squared error sees little else, they set the channel's scale, and imagined states may go there",
                "correct or remove them; physical `bounds` in the schema find them at the import",
                channels=(name,),
                **named(far),
            )


def _far(column: Floats) -> Flags:
    low, high = np.quantile(column, (0.01, 0.99))
    room = FAR * (high - low)
    if not room:
        return np.zeros(len(column), bool)
    return (column < low - room) | (column > high + room)
