"""Rows of a log -> episodes: where they end, what is wrong with them, and how they are stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mbrl.environments import Box, Discrete, Episode

ROUNDING = 1e-6  # relative to the larger of value and 1, or what is largest in its channel: as text and float32 lose
LEAST_SIZE = 1e-9  # of a channel, in its unit: smaller values are what arithmetic leaves of a 0
DATED = 1e8  # seconds; beyond it times are dates, in seconds since 1970
AUTUMN = 3_600  # seconds by which clocks are set back
OF_STEPS = ("action", "propensity", "reward", "cost")  # what a final observation goes without
LARGEST = dict.fromkeys(("obs", *OF_STEPS, "next_obs"), np.finfo(np.float32).max) | {"time": np.finfo(np.float64).max}


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a log: a chunk of a file, or one episode."""

    first: int  # index of the first one in the log
    obs: np.ndarray  # [n, O]
    action: np.ndarray  # [n, A]; Discrete: [n, 1]
    reward: np.ndarray | None  # [n], None where a function gives it
    next_obs: np.ndarray | None  # [n, O], None where the log has only the next row
    terminated: np.ndarray  # [n] bool
    truncated: np.ndarray  # [n] bool
    episode: np.ndarray | None  # [n] ids
    time: np.ndarray | None  # [n]
    columns: dict[str, list[str]]  # what the file calls each channel of a field
    held: tuple[str, ...] = ()  # channels of obs that are categories: never interpolated
    given: tuple[str, ...] = ()  # channels of obs that are exogenous
    propensity: np.ndarray | None = None  # [n] logarithms, None where none was logged
    cost: np.ndarray | None = None  # [n], None where none was logged
    opens: bool = False  # whether a file begins with them
    at: Callable[[int], str] = "row {}".format  # what to call a row of the log in a message

    def __len__(self) -> int:
        return len(self.obs)


def cut(chunks: Iterable[Rows], gap: float | None = None) -> Iterator[Rows]:
    """Chunks of a log -> its episodes, each as one Rows; a step in time beyond `gap` ends one as well.

    So does the end of a file, unless time goes on in the next one. Ids count within a file.

    Raises:
        ValueError: an episode id comes again after another one.
    """
    seen: set[Any] = set()
    last = None
    for whole in _whole(chunks, gap):
        if whole.opens:
            seen, last = set(), None
        if whole.episode is not None and whole.episode[0] != last:
            last = whole.episode[0]
            if last in seen:
                told = f"episode {last!r} comes again: sort the log by episode and time"
                raise ValueError(f"{whole.at(whole.first)}: {told}")
            seen.add(last)
        yield whole


def _whole(chunks: Iterable[Rows], gap: float | None) -> Iterator[Rows]:
    parts: list[Rows] = []  # of the episode that is still open
    for chunk in chunks:
        ends = chunk.terminated | chunk.truncated
        if parts and chunk.opens and not _goes_on(parts[-1], chunk):
            yield _join(parts)
            parts = []
        if gap is not None and chunk.time is not None:
            ends = ends | np.append(np.diff(chunk.time) > gap, False)
            if parts and parts[-1].time is not None and chunk.time[0] - parts[-1].time[-1] > gap:
                yield _join(parts)
                parts = []
        if chunk.episode is not None:
            ends = ends | np.append(chunk.episode[1:] != chunk.episode[:-1], False)
            before = parts[-1].episode if parts else None
            if before is not None and before[-1] != chunk.episode[0]:
                yield _join(parts)
                parts = []
        start = 0
        for end in (np.flatnonzero(ends) + 1).tolist():
            yield _join([*parts, _part(chunk, start, end)])
            parts, start = [], end
        if start < len(chunk):
            parts.append(_part(chunk, start, len(chunk)))
    if parts:
        yield _join(parts)


def _goes_on(before: Rows, after: Rows) -> bool:
    """Whether time says that what a file ends with goes on in the next one."""
    return before.time is not None and after.time is not None and bool(after.time[0] > before.time[-1])


def pieces(rows: Rows, most: int | None) -> Iterator[tuple[Rows, bool]]:
    """An episode in equal pieces of at most `most` steps, and of each whether another one follows.

    No step is lost: without next observations, a piece ends with the observation that the next one begins with.
    """
    last = 0 if rows.next_obs is not None else 1  # rows of a piece beyond its steps
    steps = len(rows) - last
    count = 1 if most is None else max(1, math.ceil(steps / most))
    for k in range(count):
        start, end = steps * k // count, steps * (k + 1) // count
        yield _part(rows, start, end + last), k + 1 < count


_ARRAYS = (
    *("obs", "action", "propensity", "reward", "cost", "next_obs"),
    *("terminated", "truncated", "episode", "time"),
)


def _part(rows: Rows, start: int, end: int) -> Rows:
    arrays = {name: getattr(rows, name) for name in _ARRAYS}
    cuts: dict[str, Any] = {name: None if array is None else array[start:end] for name, array in arrays.items()}
    return replace(rows, first=rows.first + start, opens=rows.opens and start == 0, **cuts)


def _join(parts: list[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    arrays = {name: [getattr(part, name) for part in parts] for name in _ARRAYS}
    joined: dict[str, Any] = {k: None if v[0] is None else np.concatenate(v) for k, v in arrays.items()}
    return replace(parts[0], **joined)


def fault(rows: Rows, space: Box | Discrete, alone: bool = False) -> str | None:
    """Why an episode cannot be used, naming its first bad row and the column; None where it can.

    Without next observations the last row is a final observation, and what else it holds does not matter. `alone`
    allows a single row of that kind, which comes to nothing.
    """
    for name in LARGEST:
        values = _used(rows, name)
        if values is None or (np.abs(values) <= LARGEST[name]).all():
            continue
        wide = values.reshape(len(values), -1)
        row, channel = np.argwhere(~(np.abs(wide) <= LARGEST[name]))[0].tolist()
        value = wide[row, channel]
        what = "empty or not a number" if np.isnan(value) else f"{value}, which is not finite in float32"
        count = int((~(np.abs(wide) <= LARGEST[name])).any(1).sum())
        others = f" (so are {count} of {len(wide)} rows of this episode)" if count > 1 else ""
        return f"{rows.at(rows.first + row)}, column {rows.columns[name][channel]!r} is {what}{others}"
    if rows.time is not None and (np.diff(rows.time) < 0).any():
        row = int(np.argmax(np.diff(rows.time) < 0)) + 1
        before, after = rows.time[row - 1], rows.time[row]
        dated = after > DATED and before - after <= AUTUMN
        clock = (
            "; in local time an hour comes twice when clocks are set back: log UTC, or a zone with each"
            if dated
            else ""
        )
        return (
            f"{rows.at(rows.first + row)} is out of time order: {rows.columns['time'][0]!r} falls from "
            f"{before} to {after} within an episode; sort the log by episode and time, "
            f"or mark where another run begins (episode, terminal or truncated){clock}"
        )
    if len(rows) == 1 and rows.next_obs is None and not alone:
        return (
            f"{rows.at(rows.first)} is an episode of one row, and the log has no next observation to go with it: name a"
            " `next_observation`, or say `final_action: true` if rows that are flagged terminal acted and were paid"
        )
    return _disagreement(rows) or _out_of_bounds(rows, space) or _improbable(rows, space)


def _used(rows: Rows, name: str) -> np.ndarray | None:
    """The values of a field that become part of the episode, None where there are none."""
    values: np.ndarray | None = getattr(rows, name)
    return values if values is None or rows.next_obs is not None or name not in OF_STEPS else values[:-1]


def differing(said: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Which values [n, O] differ by more than rounding: [n, O]. In a channel of small values a small error counts."""
    size = np.maximum(np.abs(found).max(0, initial=LEAST_SIZE), np.abs(said).max(0, initial=LEAST_SIZE))
    return np.abs(said - found) > ROUNDING * np.maximum(np.abs(found), np.minimum(1, size))


def _disagreement(rows: Rows) -> str | None:
    """Minari keeps T + 1 observations of T steps, so within an episode next_obs must be the next row's obs."""
    if rows.next_obs is None:
        return None
    said, found = rows.next_obs[:-1], rows.obs[1:]
    differs = differing(said, found)
    if not differs.any():
        return None
    row, channel = np.argwhere(differs)[0].tolist()
    return (
        f"{rows.at(rows.first + row)}, column {rows.columns['next_obs'][channel]!r} is {said[row, channel]} and the"
        f" next row has {rows.columns['obs'][channel]!r} {found[row, channel]}: rows are missing or an episode ends"
        " here; mark the end (episode, terminal or truncated)"
    )


def _improbable(rows: Rows, space: Box | Discrete) -> str | None:
    """The probability of a choice is 1 at most, and its logarithm 0, but for rounding."""
    logged = _used(rows, "propensity") if isinstance(space, Discrete) else None
    if logged is None or not (bad := logged > ROUNDING).any():
        return None
    row = int(np.argmax(bad))
    return (
        f"{rows.at(rows.first + row)}, column {rows.columns['propensity'][0]!r} is {logged[row]}, expected the natural"
        " logarithm of a probability, which is not above 0: log the logarithm, or convert the column"
    )


def _out_of_bounds(rows: Rows, space: Box | Discrete) -> str | None:
    action = _used(rows, "action")
    assert action is not None
    if isinstance(space, Discrete):
        low, high = np.array([space.start]), np.array([space.start + space.n - 1])
        bad = (action < low) | (action > high) | (action != np.round(action))
        kind = "an integer"
    else:
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        room = ROUNDING * np.where(np.isfinite(low) & np.isfinite(high), np.maximum(np.abs(low), np.abs(high)), 1)
        bad = (action < low - room) | (action > high + room)
        kind = "a value"
    if not bad.any():
        return None
    row, channel = np.argwhere(bad)[0].tolist()
    value = action[row, channel]
    remedy = "; correct the bounds, or, if the actuator limited commands to them, say `clip_action: true` in the schema"
    if isinstance(space, Discrete):
        remedy = "; number the choices from 0" if space.start == 0 and value < 0 else ""
        remedy = remedy if value == np.round(value) else "; an action of such values is not discrete"
    return (
        f"{rows.at(rows.first + row)}, column {rows.columns['action'][channel]!r} is {value}, expected "
        f"{kind} within the declared bounds [{low[channel]}, {high[channel]}] (so are {int(bad.any(1).sum())} of "
        f"{len(bad)} rows of this episode){remedy}"
    )


def limited(rows: Rows, space: Box) -> tuple[Rows, int]:
    """The rows with their actions brought to the bounds; in how many of them one moved by more than rounding.

    Cells that are not finite stay as they are, for `fault` to find.
    """
    finite = np.isfinite(rows.action)
    known = np.where(finite, rows.action, 0)
    action = np.where(finite, known.clip(space.low, space.high), rows.action)
    limits = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float64)
    moved = finite & (np.abs(np.where(finite, action, 0) - known) > ROUNDING * np.maximum(limits, np.abs(known)))
    used = len(rows) if rows.next_obs is not None else len(rows) - 1
    return replace(rows, action=action), int(moved[:used].any(axis=1).sum())


def outside(rows: Rows, bounds: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray]:
    """Rows of the file that leave the physical bounds of a column (all channels of an array), by its name.

    What binds a channel of the observation binds it in the next observation as well, and the other way round.
    """
    found = {}
    twins = [pair for pair in (("obs", "next_obs"), ("next_obs", "obs"), ("reward",)) if rows.columns[pair[0]]]
    for name, (low, high) in bounds.items():
        wide = [
            getattr(rows, part).reshape(len(rows), -1)[:, k]
            for parts in twins
            for k, channel in enumerate(rows.columns[parts[0]])
            if channel == name or channel.startswith(f"{name}[")
            for part in parts
            if rows.columns[part]
        ]
        bad = np.flatnonzero(np.any([(column < low) | (column > high) for column in wide], axis=0))
        if len(bad):
            found[name] = rows.first + bad
    return found


def to_episode(
    rows: Rows, space: Box | Discrete, constant: Container[str] = (), rule: Callable[..., Any] | None = None
) -> Episode:
    """A faultless episode as it is stored, without its `constant` channels. An end without a flag is a truncation.

    Without next observations the last row is the final observation only: its action, reward and cost are dropped, and
    its flag ends the transition that leads to it. `rule` gives the reward from all channels, constant ones included.

    Raises:
        ValueError: the rule returns anything but finite numbers [n].
    """
    steps = len(rows) if rows.next_obs is not None else len(rows) - 1
    terminations, truncations = np.zeros(steps, bool), np.zeros(steps, bool)
    terminations[-1] = rows.terminated[-1]
    truncations[-1] = rows.truncated[-1] or not rows.terminated[-1]
    if isinstance(space, Discrete):
        actions = rows.action[:steps, 0].astype(np.int64)
    else:
        actions = np.clip(rows.action[:steps].astype(space.dtype), space.low, space.high)
    final = rows.obs[:0] if rows.next_obs is None else rows.next_obs[-1:]
    seen = np.concatenate([rows.obs, final])
    if rule is not None:
        flat = np.eye(int(space.n))[actions - space.start] if isinstance(space, Discrete) else actions
        reward = _ruled(rule, seen, flat, rows.at(rows.first))
    else:
        assert rows.reward is not None
        reward = rows.reward[:steps].astype(np.float64)
    kept = [k for k, name in enumerate(rows.columns["obs"]) if name not in constant]
    propensity, cost = (None if x is None else x[:steps].astype(np.float64) for x in (rows.propensity, rows.cost))
    if propensity is not None and isinstance(space, Discrete):
        propensity = np.minimum(propensity, 0)  # beyond it is rounding: see `fault`
    return Episode(seen[:, kept], actions, reward, terminations, truncations, propensity, cost)


def _ruled(rule: Callable[..., Any], seen: np.ndarray, action: np.ndarray, first: str) -> np.ndarray:
    """Rewards [n] of a reward function, which takes and gives float32 tensors as networks do."""
    obs, acted = (torch.as_tensor(np.asarray(x), dtype=torch.float32) for x in (seen, action))
    reward = rule(obs[:-1], acted, obs[1:])
    path = f"{rule.__module__}.{getattr(rule, '__qualname__', rule)}"
    if not isinstance(reward, torch.Tensor) or reward.shape != (len(action),):
        shape = list(reward.shape) if isinstance(reward, torch.Tensor) else type(reward).__name__
        raise ValueError(f"the reward_function {path} returned {shape}, expected a tensor [{len(action)}]")
    if not bool(torch.isfinite(reward).all()):
        step = int((~torch.isfinite(reward)).nonzero()[0])
        raise ValueError(
            f"the reward_function {path} returned {reward[step]} for step {step} of the episode from {first}"
        )
    return reward.double().numpy()
