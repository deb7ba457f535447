"""A clean log in closed form, and the faults that the audit's tests plant in a copy of it, one at a time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mbrl.data.audit import Audit
from mbrl.data.dataset import TransitionDataset

EPISODES, STEPS = 40, 60
A = np.array([[0.95, 0.1, 0.0], [-0.1, 0.9, 0.05], [0.0, 0.0, 0.85]])
B = np.array([[0.0, 0.0], [0.3, 0.0], [0.0, 0.4]])
Policy = Callable[[int, np.ndarray, np.random.Generator], np.ndarray]


def several(episode: int, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Three controllers in turn, each with a gain and a noise of its own."""
    gain = ((0.2, 0.1), (0.8, 0.5), (-0.3, 0.9))[episode % 3]
    noise = (0.2, 0.4, 0.7)[episode % 3]
    return -np.array(gain) * x[1:] + noise * rng.normal(size=2)


def single(episode: int, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One controller with one noise."""
    del episode
    return -0.5 * x[1:] + 0.4 * rng.normal(size=2)


def rule(episode: int, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A bang-bang valve and a proportional heater: no noise."""
    del episode, rng
    return np.array([np.sign(x[1]), -0.7 * x[2]])


def plant(policy: Policy = several, seed: int = 0, lag: float = 0.0) -> TransitionDataset:
    """x' = A x + B a + noise, reward -|x|^2 - 0.1 |a|^2: 40 episodes of 60 steps, all cut by the clock.

    `lag` is the share of the action before that acts in place of the row's own.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    for episode in range(EPISODES):
        x, before = rng.normal(size=3), np.zeros(2)
        for _ in range(STEPS):
            a = np.clip(policy(episode, x, rng), -2, 2)
            after = A @ x + B @ ((1 - lag) * a + lag * before) + 0.05 * rng.normal(size=3)
            rows.append((x, a, -(x @ x) - 0.1 * (a @ a), after))
            x, before = after, a
    obs, action, reward, next_obs = (torch.tensor(np.array(c), dtype=torch.float32) for c in zip(*rows, strict=True))
    episode = torch.arange(EPISODES).repeat_interleave(STEPS)
    names = {"channels": ["level", "flow", "heat"], "action_channels": ["valve", "heater"]}
    return logged(obs, action, reward, next_obs, episode, bound=2.0, **names)


def logged(
    obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor, episode: Tensor, bound: float = 1.0, **more: Any
) -> TransitionDataset:
    """Rows [N, ...] as a log, none of whose episodes ends the world; actions go from -bound to bound."""
    return TransitionDataset.create(
        "toy/plant-v0",
        obs=obs,
        action=action,
        reward=reward,
        next_obs=next_obs,
        terminated=torch.zeros(len(obs), dtype=torch.bool),
        truncated=episode.diff(append=torch.tensor([-1])) != 0,
        episode=episode,
        discrete=False,
        action_low=[-bound] * action.shape[1],
        action_high=[bound] * action.shape[1],
        **more,
    )


def sensor(data: TransitionDataset, change: Callable[[Tensor], Tensor], channel: int = 0) -> TransitionDataset:
    """The log with a channel that was recorded otherwise, in obs and next_obs alike."""
    obs, next_obs = data.obs.clone(), data.next_obs.clone()
    obs[:, channel] = change(obs[:, channel])
    inside = data.episode.diff() == 0
    next_obs[:, channel] = change(next_obs[:, channel])
    next_obs[:-1][inside] = obs[1:][inside]
    return replace(data, obs=obs, next_obs=next_obs)


def moved(data: TransitionDataset, column: Tensor, by: int) -> Tensor:
    """A column `by` rows late within each episode; the rows at its edge keep their own value."""
    rows = torch.arange(len(data))
    source = (rows - by).clamp(0, len(data) - 1)
    return column[torch.where(data.episode[source] == data.episode, source, rows)]


def put(column: Tensor, rows: Any, values: Any) -> Tensor:
    """A copy with other values in some rows."""
    changed = column.clone()
    changed[rows] = values
    return changed


def repeated(data: TransitionDataset) -> TransitionDataset:
    """Every 50th row is written twice: the second time instead of the row after it."""
    rows = torch.arange(5, len(data) - 1, 50)
    rows = rows[data.episode[rows] == data.episode[rows + 1]]
    columns = {n: put(t, rows + 1, t[rows]) for n, t in data.tensors.items() if n in ("obs", "action", "reward")}
    inside = torch.nonzero(data.episode.diff() == 0).flatten()
    return replace(data, **columns, next_obs=put(data.next_obs, inside, columns["obs"][inside + 1]))


def merged(data: TransitionDataset) -> TransitionDataset:
    """Five episodes whose end was not marked: the next one goes on in them."""
    seams = data.first[torch.tensor([4, 11, 18, 25, 33])] - 1
    gone = torch.zeros(len(data), dtype=torch.long)
    gone[seams + 1] = 1
    return replace(
        data,
        next_obs=put(data.next_obs, seams, data.obs[seams + 1]),
        truncated=put(data.truncated, seams, False),
        episode=data.episode - gone.cumsum(0),
    )


def twice(data: TransitionDataset) -> TransitionDataset:
    """Episode 3 once more at the end."""
    rows = torch.cat([torch.arange(len(data)), data.rows(torch.tensor([3]))])
    columns = {name: tensor[rows] for name, tensor in data.tensors.items()}
    columns["episode"] = torch.cat([data.episode, torch.full((STEPS,), data.episodes)])
    return replace(data, **columns)


def pinned(data: TransitionDataset) -> TransitionDataset:
    """Where the flow is above its mean, both actions are always the same two."""
    return replace(data, action=put(data.action, data.obs[:, 1] > data.obs[:, 1].mean(), torch.tensor([0.5, -0.5])))


def half_saturated(column: Tensor) -> Tensor:
    return column.clamp(max=float(column.quantile(0.75)))


def set_point(column: Tensor) -> Tensor:
    """A value that holds for 30 rows and then jumps."""
    return column[torch.arange(len(column)) // 30 * 30]


def fahrenheit(column: Tensor) -> Tensor:
    """From row 600 to row 900 in another unit, as of a temperature of 20 to 40 degrees."""
    warm = 20 + 20 * (column - column.min()) / (column.max() - column.min())
    return put(warm, slice(600, 900), 1.8 * warm[600:900] + 32)


def stuck(column: Tensor) -> Tensor:
    return put(column, slice(605, 655), float(column[605])) if len(column) > 655 else column


FAULTS: dict[str, tuple[str, Callable[[TransitionDataset], TransitionDataset]]] = {
    # what is planted: (the kind of the finding, how)
    "rows written twice": ("duplicate rows", repeated),
    "reward a row late": ("shifted rewards", lambda d: replace(d, reward=moved(d, d.reward, 1))),
    "action a row late": ("shifted actions", lambda d: replace(d, action=moved(d, d.action, 1))),
    "action a row early": ("shifted actions", lambda d: replace(d, action=moved(d, d.action, -1))),
    "next_obs of other rows": (
        "next observation disagrees",
        lambda d: replace(d, next_obs=put(d.next_obs, slice(100, 110), 0.0)),
    ),
    "a dead sensor": ("constant sensor", lambda d: sensor(d, lambda c: torch.full_like(c, 4.0))),
    "a sensor far from zero": ("coarse sensor", lambda d: sensor(d, lambda c: c + 1e7)),
    "a clipped sensor": ("saturated sensor", lambda d: sensor(d, half_saturated)),
    "a sensor that hangs": ("stuck sensor", lambda d: sensor(d, stuck)),
    "wild values": ("outliers", lambda d: sensor(d, lambda c: put(c, [40, 900, 1700], torch.tensor([1e3, 9e2, 8e2])))),
    "a code for what was not read": (
        "sentinel value",
        lambda d: sensor(d, lambda c: put(c, torch.arange(7, len(c), 40), -9999.0)),
    ),
    "another unit for a while": ("two levels", lambda d: sensor(d, fahrenheit)),
    "another reward for a while": (
        "inconsistent reward",
        lambda d: replace(d, reward=put(d.reward, slice(1210, 1230), d.reward[1210:1230] + 10.0)),
    ),
    "ends that are not marked": ("missing end", merged),
    "rows after an end": ("rows after an end", lambda d: replace(d, terminated=put(d.terminated, [30, 90], True))),
    "the same episode twice": ("same episode twice", twice),
    "one action in half of the states": ("thin coverage", pinned),
}


@pytest.fixture(autouse=True)
def unsighted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audits that do not look for a hidden state, half of their time; test_sight.py is about that."""
    monkeypatch.setattr("mbrl.data.audit.hidden_state", lambda *_: ())


def kinds(found: Audit) -> set[str]:
    """Of an audit's findings."""
    return {finding.kind for finding in found.findings}
