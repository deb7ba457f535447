"""Channels of the next observation that are exactly what can be said before: values kept, values passed on, clocks,
and values that come back again and again.

A network learns none of them exactly, and in a rollout its small errors add up: a set-point would tremble, a past that
is logged along with the present would fade, and after a day it would be some hour or other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MOSTLY = 0.5  # share of the rows from which on a channel that keeps its value exactly is modelled as one that may
CHANGES = 100  # rows at least in which a carried channel changes: fewer may agree by chance, of flags for instance
OFTEN = 0.05  # share of the rows from which on a value that a channel jumps to is told apart
APART = 2.0  # spreads of its other changes, by which it jumps
GLANCE = 1024  # rows in which a source is looked for first
ROUNDED = 4  # units in the last place of a column's largest value, by which a clock may seem to go wrong


def holding(obs: Tensor, next_obs: Tensor, rows: Tensor, channels: Sequence[int]) -> tuple[int, ...]:
    """Those of the channels that do not change in most of the rows, or in none, as a product of each episode does, and
    yet have several values: a model learns first whether they change.
    """
    kept = {k: float((obs[rows, k] == next_obs[rows, k]).double().mean()) for k in channels}
    several = {k for k in channels if bool((obs[rows, k] != obs[rows[0], k]).any())}
    return tuple(k for k, share in kept.items() if share >= MOSTLY and (share < 1 or k in several))


def resets(obs: Tensor, next_obs: Tensor, channels: Sequence[int]) -> dict[int, float]:
    """Those of the channels that jump to one value again and again, and rest nowhere else; and that value.

    Days since something, tool wear, a stock that is filled up, a meal that is over: most jumps are far from the other
    changes, in spreads of these. A value that is merely met on the way, as in a rounded temperature, or at which a
    sensor ends, is none.

    Args:
        obs: [N, O] of a whole log.
        next_obs: [N, O].
        channels: that may do so.
    """
    few = slice(None, None, max(1, len(obs) // GLANCE))
    found = {}
    for k in channels:
        value = next_obs[few, k].mode().values
        if float((next_obs[few, k] == value).double().mean()) < OFTEN / 2:
            continue
        now, after = obs[:, k], next_obs[:, k]
        there = after == value
        jumps, others = there & (now != value), ~there
        kept = float((now == after).double().mean()) >= MOSTLY
        if kept and bool(((now == after) & others).any()):
            continue
        if float(there.double().mean()) < OFTEN or min(int(jumps.sum()), int(others.sum())) < CHANGES:
            continue
        change = after.double() - now.double()
        apart = (change[jumps] - change[others].mean()).abs().median()
        if bool(apart > APART * change[others].std()):
            found[k] = float(value)
    return found


def carried(
    obs: Tensor, action: Tensor, next_obs: Tensor, channels: Sequence[int], frame: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Those of the channels whose next value is, in every row, a present one of another, and which one that is.

    So it is with a log whose observations hold older ones, or the last actions: its logger stacked them. An action goes
    before an observation that says the same, since it is what a policy will change; a model is left one channel.

    Args:
        obs: [N, O] of a whole log, whose first `frame` channels are looked at, as are those of next_obs.
        action: [N, A].
        next_obs: [N, O].
        channels: that may be carried.
        frame: F.

    Returns:
        channels, and for each the number of its source: k of the observation, or F + k of the action.
    """
    few = slice(None, None, max(1, len(obs) // GLANCE))
    glance = torch.cat([action[few], obs[few, :frame]], 1)
    numbers = [*range(frame, frame + action.shape[1]), *range(frame)]
    pairs = []
    for channel in channels:
        after = next_obs[:, channel]
        alike = (glance == next_obs[few, channel, None]).all(0).tolist()
        likely = [number for number, same in zip(numbers, alike, strict=True) if same and number != channel]
        if not likely or int((obs[:, channel] != after).sum()) < CHANGES:
            continue
        columns = ((n, obs[:, n] if n < frame else action[:, n - frame]) for n in likely)
        source = next((n for n, column in columns if torch.equal(column, after)), None)
        if source is not None:
            pairs.append((channel, source))
    pairs = pairs[: len(channels) - 1]
    return tuple(channel for channel, _ in pairs), tuple(source for _, source in pairs)


class Clock(NamedTuple):
    """now + step, less `period` where now is beyond `turn`, in the direction of the step; a counter has period 0."""

    step: float
    turn: float
    period: float


def clocks(obs: Tensor, action: Tensor, next_obs: Tensor, channels: Sequence[int]) -> dict[int, Clock]:
    """Those of the channels that go on by the same step in every row, as an hour or a number of steps does.

    One that goes back to its beginning does so from beyond one value, by one period, and spans no more than that. Where
    an action tells the rows in which it does from all others, it may be the logger's doing (an order at the same stock,
    a valve at the same level), and is no clock.

    Args:
        obs: [N, O] of a whole log.
        action: [N, A].
        next_obs: [N, O].
        channels: that may be clocks.
    """
    few = slice(None, None, max(1, len(obs) // GLANCE))
    found = {}
    for k in channels:
        clock = _clock(obs[few, k], next_obs[few, k]) and _clock(obs[:, k], next_obs[:, k])
        if clock is not None and not _told(action, (next_obs[:, k] - obs[:, k]) * clock.step < 0):
            found[k] = clock
    return found


def _clock(now: Tensor, after: Tensor) -> Clock | None:
    """What these rows [N] say; one turn is enough, beyond every value that another row goes on from."""
    now, after = now.double(), after.double()
    slack = ROUNDED * torch.finfo(torch.float32).eps * float(torch.maximum(now.abs(), after.abs()).max())
    change = after - now
    step = float(change.median())
    plain = (change - step).abs() <= slack
    if len(now) < CHANGES or not abs(step) > 10 * slack:  # nor of what is not finite
        return None
    step = float(change[plain].mean())  # which is rounded less than each of them
    if plain.all():
        return Clock(step, 0.0, 0.0)
    period, onward = step - float(change[~plain].mean()), math.copysign(1.0, step)
    before, turned = float((onward * now[plain]).max()), float((onward * now[~plain]).min())
    steady = bool(((change[~plain] - step + period).abs() <= slack).all())
    spans = float(now.max() - now.min()) > abs(period) + slack
    if not steady or spans or onward * period < abs(step) or turned < before - slack:
        return None
    return Clock(step, onward * (turned - min(turned - before, abs(step)) / 2), period)


def _told(action: Tensor, turned: Tensor) -> bool:
    """Whether a channel of the action [N, A] lies elsewhere in the rows that `turned` [N] than in all others."""
    if not turned.any():
        return False
    low, high = action[~turned].amin(0), action[~turned].amax(0)
    return bool(((action[turned] < low).all(0) | (action[turned] > high).all(0)).any())
