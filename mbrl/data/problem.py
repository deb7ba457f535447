"""The problem that a log poses: what a model, a policy and a simulator need to know of it, read from its episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mbrl.core import Spec
from mbrl.data import exact
from mbrl.data.dataset import TransitionDataset
from mbrl.data.exact import Clock
from mbrl.data.moments import ends_apart, moments, varies


def spec_of(data: TransitionDataset, episodes: Tensor) -> Spec:
    """Dimensions, bounds and moments, read from the given episodes ([k] long) only, accumulated in float64.

    What is a copy of what is said by all of the log, of whose rows one alone can refute it; so is whether ends pay
    another kind of reward, lest two simulators of one log differ in kind where one of them was shown few ends.

    Raises:
        ValueError: there is no episode.
    """
    if not len(episodes):
        raise ValueError("a spec needs at least one episode, got none")
    rows = data.rows(episodes)
    live, end = ends_apart(data.reward, data.terminated)
    return Spec(
        obs_dim=data.obs.shape[1],
        action_dim=data.action.shape[1],
        discrete=data.discrete,
        action_low=data.action_low,
        action_high=data.action_high,
        **_moments(data, rows),
        terminals=bool(data.terminated[rows].any()),
        max_episode_steps=int(data.lengths[episodes].max()),
        exogenous=data.exogenous,
        bound_low=data.bound_low,
        bound_high=data.bound_high,
        **_exact(data, rows),
        history=data.history,
        terminal_rate=float(data.terminated[rows].double().mean()),
        live_reward=live,
        end_reward=end,
    )


def clocks_of(data: TransitionDataset, carried: Sequence[int]) -> dict[int, Clock]:
    """Channels that go on by the same step in every row; at least one that is not `carried` is left for a model."""
    own = [k for k in _own(data) if k not in carried]
    found = exact.clocks(data.obs, data.action, data.next_obs, own)
    return dict(list(found.items())[: len(own) - 1])


def _own(data: TransitionDataset) -> list[int]:
    """Channels of the newest observation that the world decides."""
    return [k for k in range(data.frame_dim) if k not in data.exogenous]


def _moments(data: TransitionDataset, rows: Tensor) -> dict[str, Any]:
    """Of observations, their changes, actions and rewards."""
    obs = moments(column[rows] for column in data.obs.T)
    next_obs = moments(column[rows] for column in data.next_obs.T)
    sizes = [max(abs(v) for v in ends) for ends in zip(obs.low, obs.high, strict=True)]
    data.let_go()
    delta = moments((b[rows].double() - a[rows] for a, b in zip(data.obs.T, data.next_obs.T, strict=True)), sizes)
    action = moments(column[rows] for column in data.action.T)
    reward = moments([data.reward[rows]])
    return {
        "action_mean": action.mean,
        "action_std": action.std,
        "obs_mean": obs.mean,
        "obs_std": obs.std,
        "obs_low": _of_window(data, tuple(map(min, obs.low, next_obs.low)), data.action_low),
        "obs_high": _of_window(data, tuple(map(max, obs.high, next_obs.high)), data.action_high),
        "delta_mean": delta.mean,
        "delta_std": delta.std,
        "reward_mean": reward.mean[0],
        "reward_std": reward.std[0] if varies(reward) else abs(reward.mean[0]) or 1.0,
        "reward_low": reward.low[0],
        "reward_high": reward.high[0],
    }


def _of_window(data: TransitionDataset, seen: tuple[float, ...], action: tuple[float, ...]) -> tuple[float, ...]:
    """Limits [O]: whatever the newest observation can be, an older one can, and an earlier action any action."""
    return seen[: data.frame_dim] * data.history + action * (data.history - 1)


def _exact(data: TransitionDataset, rows: Tensor) -> dict[str, Any]:
    """Channels of the next observation of which no network has to learn all."""
    own = _own(data)
    holding = exact.holding(data.obs, data.next_obs, rows, own)
    carried, sources = exact.carried(data.obs, data.action, data.next_obs, own, data.frame_dim)
    clocks = clocks_of(data, carried)
    resets = exact.resets(data.obs, data.next_obs, [k for k in own if k not in {*carried, *clocks}])
    data.let_go()
    return {
        "holding": tuple(k for k in holding if k not in resets),
        "resets": tuple(resets),
        "reset_values": tuple(resets.values()),
        "carried": carried,
        "sources": sources,
        "clocks": tuple(clocks),
        **{f"clock_{name}s": tuple(getattr(clock, name) for clock in clocks.values()) for name in Clock._fields},
    }
