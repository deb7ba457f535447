"""Whole episodes of a policy or a controller in a true environment: what it earns there, and a log of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from mbrl.environments import Episode, flat_spaces, flatten, make

LOCKSTEP = 16  # environments played side by side, so that the policy is called on batches
MAX_STEPS = 100_000  # an episode longer than this is taken for one that never ends

Actor = Callable[[np.ndarray, Sequence[int]], np.ndarray]  # observations and the episode of each -> actions


class Played(NamedTuple):
    """What episodes paid, and which of them nothing but a time limit ended."""

    rewards: list[list[float]]  # of each episode, a number a step
    cut: np.ndarray  # [episodes] bool

    def returns(self, gamma: float = 1.0) -> np.ndarray:
        """Their returns [episodes] float64, discounted by gamma a step; 1 is undiscounted."""
        return np.array([sum(gamma**t * reward for t, reward in enumerate(paid)) for paid in self.rewards])

    def beyond(self, gamma: float) -> np.ndarray:
        """The weight of the steps after the cut of an episode, gamma^T, [episodes]; 0 where it ended."""
        return np.where(self.cut, [gamma ** len(paid) for paid in self.rewards], 0.0)


def true_returns(act: Actor, env_id: str, episodes: int, seed: int) -> np.ndarray:
    """Undiscounted returns [episodes] float64 of a policy in the true environment; see `play`."""
    return play(act, env_id, episodes, seed).returns()


def play(act: Actor, env_id: str, episodes: int, seed: int) -> Played:
    """Play episodes of a policy in the true environment.

    Episode k starts from `reset(seed=seed + k)`, so the result does not depend on how many run side by side.

    Args:
        act: [B, O] float32, and the number of the episode that each row is from, -> [B, A] actions, clipped here into
            a Box's bounds, or [B] integers from 0 (Discrete). B is at most 16 and falls as the last episodes end.
        env_id: as in `mbrl.environments.make`.
        episodes: how many to play, at least 1.
        seed: of the first episode.

    Raises:
        ValueError: the environment cannot be made or its spaces are not supported, `act` returns another shape or
            numbers that are not finite, or an episode does not end within 100,000 steps.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}, expected at least 1")
    envs = [make(env_id) for _ in range(min(episodes, LOCKSTEP))]
    try:
        return _lockstep(act, envs, episodes, seed)
    finally:
        for env in envs:
            env.close()


def _lockstep(act: Actor, envs: list[gym.Env], episodes: int, seed: int) -> Played:
    space = envs[0].observation_space
    _, action_space = flat_spaces(space, envs[0].action_space)
    rewards: list[list[float]] = [[] for _ in range(episodes)]
    cut = np.zeros(episodes, bool)
    playing = dict(enumerate(envs))  # episode -> the environment it runs in
    obs = {k: _observe(space, env.reset(seed=seed + k)[0]) for k, env in playing.items()}
    coming = iter(range(len(envs), episodes))
    while playing:
        chosen = act(np.stack(list(obs.values())), list(obs))
        actions = _to_environment(envs[0].action_space, action_space, chosen, len(obs))
        for k, action in zip(list(playing), actions, strict=True):
            env = playing[k]
            raw, reward, terminated, truncated, _ = env.step(action)
            rewards[k].append(float(reward))
            obs[k] = _observe(space, raw)
            if terminated or truncated:
                cut[k] = not terminated
                del playing[k], obs[k]
                if (after := next(coming, None)) is not None:
                    playing[after], obs[after] = env, _observe(space, env.reset(seed=seed + after)[0])
            elif len(rewards[k]) >= MAX_STEPS:
                raise ValueError(f"episode {k} did not end in {MAX_STEPS} steps: register it with max_episode_steps")
    return Played(rewards, cut)


def _observe(space: Space, raw: Any) -> np.ndarray:
    return flatten(space, raw, 1)[0].copy()  # an environment may go on in the very array that it has returned


def _to_environment(space: Space, flat: Box | Discrete, actions: np.ndarray, count: int) -> list[Any]:
    """What `step` takes, for each of `count` flat actions."""
    actions = np.asarray(actions)
    shape = (count,) if isinstance(flat, Discrete) else (count, *flat.shape)
    if actions.shape != shape:
        raise ValueError(f"the policy returned actions of shape {list(actions.shape)}, expected {list(shape)}")
    if not np.isfinite(actions).all():
        raise ValueError(f"the policy returned an action that is not finite: {actions[~np.isfinite(actions)][0]}")
    if isinstance(flat, Discrete):
        if not np.issubdtype(actions.dtype, np.integer) or actions.min() < 0 or actions.max() >= flat.n:
            raise ValueError(f"the policy returned actions {actions.tolist()}, expected integers 0 to {flat.n - 1}")
        return [int(a + flat.start) for a in actions]
    return list(np.clip(actions, flat.low, flat.high).astype(flat.dtype).reshape(count, *(space.shape or ())))


def record(
    env_id: str, controller: Callable[[np.ndarray, np.random.Generator], np.ndarray], episodes: int, seed: int
) -> Iterator[Episode]:
    """Play whole episodes with a controller and log them; episode k starts from `reset(seed=seed + k)`.

    Args:
        env_id: as in `mbrl.environments.make`.
        controller: (observation [O] float32, rng) -> action [A], clipped into a Box's bounds, or an integer from 0.
        episodes: how many to play.
        seed: of the resets and of the controller's generator.

    Yields:
        each episode, with the actions that the environment was given.

    Raises:
        ValueError: as in `play`.
    """
    env = make(env_id)
    rng = np.random.default_rng(seed)
    space = env.observation_space
    _, flat = flat_spaces(space, env.action_space)
    try:
        for k in range(episodes):
            observations, steps = [_observe(space, env.reset(seed=seed + k)[0])], []
            ended = False
            while not ended:
                chosen = np.asarray(controller(observations[-1], rng))[None]
                (action,) = _to_environment(env.action_space, flat, chosen, 1)
                taken = np.array(action).ravel() if isinstance(flat, Box) else action  # a copy: it may scale its own
                raw, reward, terminated, truncated, _ = env.step(action)
                observations.append(_observe(space, raw))
                steps.append((taken, reward, terminated, truncated))
                ended = bool(terminated or truncated)
                if not ended and len(steps) >= MAX_STEPS:
                    raise ValueError(f"episode {k} did not end in {MAX_STEPS} steps: give it max_episode_steps")
            actions, rewards, terminations, truncations = zip(*steps, strict=True)
            yield Episode(
                np.stack(observations),
                np.asarray(actions),
                np.asarray(rewards, np.float64),
                np.asarray(terminations, bool),
                np.asarray(truncations, bool),
            )
    finally:
        env.close()
