"""Rows of a log -> episodes: where they end, and how they are stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from mbrl.environments import Box, Discrete, Episode
from mbrl.limits import dotted

ROUNDING = 1e-6  # relative to the larger of value and 1, or what is largest in its channel: as text and float32 lose


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
    crosses: bool = False  # whether one begins within them
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
        if whole.crosses:
            seen = {last}
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
            yield _join([*parts, part(chunk, start, end)])
            parts, start = [], end
        if start < len(chunk):
            parts.append(part(chunk, start, len(chunk)))
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
        yield part(rows, start, end + last), k + 1 < count


def parted(rows: Rows, bad: np.ndarray) -> Iterator[Rows]:
    """An episode where `bad` steps, [steps] bool, begin and end: those and the good ones between them by themselves."""
    last = 0 if rows.next_obs is not None else 1  # rows of a part beyond its steps
    edges = [0, *(np.flatnonzero(np.diff(bad.astype(np.int8))) + 1).tolist(), len(rows) - last]
    yield from (part(rows, start, end + last) for start, end in pairwise(edges))


_ARRAYS = (
    *("obs", "action", "propensity", "reward", "cost", "next_obs"),
    *("terminated", "truncated", "episode", "time"),
)


def part(rows: Rows, start: int, end: int) -> Rows:
    arrays = {name: getattr(rows, name) for name in _ARRAYS}
    cuts: dict[str, Any] = {name: None if array is None else array[start:end] for name, array in arrays.items()}
    return replace(rows, first=rows.first + start, opens=rows.opens and start == 0, **cuts)


def _join(parts: list[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    arrays = {name: [getattr(part, name) for part in parts] for name in _ARRAYS}
    joined: dict[str, Any] = {k: None if v[0] is None else np.concatenate(v) for k, v in arrays.items()}
    return replace(parts[0], crosses=any(part.opens for part in parts[1:]), **joined)


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
    path = dotted(rule)
    try:
        reward = rule(obs[:-1], acted, obs[1:])
    except Exception as error:  # whatever it raises, it is somebody else's code
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"the reward_function {path} failed in the episode from {first}: {told}") from error
    if not isinstance(reward, torch.Tensor) or reward.shape != (len(action),):
        shape = list(reward.shape) if isinstance(reward, torch.Tensor) else type(reward).__name__
        raise ValueError(f"the reward_function {path} returned {shape}, expected a tensor [{len(action)}]")
    if not bool(torch.isfinite(reward).all()):
        step = int((~torch.isfinite(reward)).nonzero()[0])
        raise ValueError(
            f"the reward_function {path} returned {reward[step]} for step {step} of the episode from {first}"
        )
    return reward.double().numpy()
