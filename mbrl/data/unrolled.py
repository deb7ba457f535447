"""Logged episodes -> flat arrays, a row a step."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mbrl import environments
from mbrl.data.mapped import new_array
from mbrl.environments import Box, Discrete, Space

INFOS = {  # what the infos may hold, by the field of a TransitionDataset
    "propensity": "log_propensity",  # the log density (Discrete: log probability) of each action
    "cost": "cost",  # what a step costs beside its reward, by the name that Safety-Gymnasium has for it
}


def flat_columns(
    id: str, episodes: Iterable[Any], spaces: tuple[Space, Space], n: int, place: Path | None
) -> dict[str, np.ndarray]:
    """The flat arrays: the one place where episodes become rows.

    Args:
        id: of the data set, for messages.
        episodes: `minari.EpisodeData`, one at a time.
        spaces: of the observation and of the action, as they were logged.
        n: steps of all episodes.
        place: where the arrays lie in files; None for memory.

    Returns:
        obs, next_obs [n, O] and action [n, A] float32 (a Discrete action one-hot), reward [n] float32, terminated and
        truncated [n] bool, episode [n] int64 from 0; and propensity, cost [n] float32 where all infos have them.

    Raises:
        ValueError: an episode has no step, an action outside of its space, or numbers that are not finite; or some
            episodes have a column of the infos and some have not.
    """
    flat_obs, flat_action = environments.flat_spaces(*spaces)
    width = int(flat_action.n) if isinstance(flat_action, Discrete) else flat_action.shape[0]
    made = partial(new_array, place)
    obs, next_obs = (made(name, (n, flat_obs.shape[0]), np.float32) for name in ("obs", "next_obs"))
    action, reward = made("action", (n, width), np.float32), made("reward", (n,), np.float32)
    terminated, truncated = (made(name, (n,), np.bool_) for name in ("terminated", "truncated"))
    episode = made("episode", (n,), np.int64)
    more: dict[str, list[np.ndarray]] = {field: [] for field in INFOS}
    row = 0
    for number, logged in enumerate(episodes):
        steps = len(logged.rewards)
        if steps == 0:
            raise ValueError(f"{id}: episode {number} has no step")
        here = slice(row, row + steps)
        seen = environments.flatten(spaces[0], logged.observations, steps + 1)
        obs[here], next_obs[here] = seen[:-1], seen[1:]
        action[here] = _flat_actions(id, number, flat_action, logged.actions, steps)
        reward[here], terminated[here], truncated[here] = logged.rewards, logged.terminations, logged.truncations
        truncated[row + steps - 1] |= not terminated[row + steps - 1]  # the log ends here, whatever the flags say
        episode[here] = number
        columns = {"observation": seen, "action": action[here], "reward": reward[here]}
        for field, key in INFOS.items():
            found = _of_infos(id, number, key, logged.infos, steps, known=len(more[field]) == number)
            if found is not None:
                more[field].append(found)
                columns[key] = found
        for name, values in columns.items():
            if not np.isfinite(values).all():
                step = int(np.argwhere(~np.isfinite(values))[0][0])
                raise ValueError(f"{id}: the {name} of episode {number} is not finite at step {step}")
        row += steps
    return {
        "obs": obs,
        "action": action,
        "reward": reward,
        "next_obs": next_obs,
        "terminated": terminated,
        "truncated": truncated,
        "episode": episode,
        **{field: np.concatenate(parts) for field, parts in more.items() if parts},
    }


def _of_infos(id: str, number: int, key: str, infos: Any, steps: int, known: bool) -> np.ndarray | None:
    """What the infos say of an episode's steps, [T] float32; `known` is whether every episode before said it."""
    found = np.asarray(infos[key], np.float32) if infos and key in infos else None
    if number and (found is not None) != known:
        raise ValueError(f"{id}: some episodes have {key!r} in their infos and some have not, first {number}")
    if found is None:
        return None
    if found.shape not in ((steps,), (steps + 1,)):
        raise ValueError(f"{id}: {key!r} of episode {number} is {list(found.shape)}, expected [{steps}]")
    return found[-steps:]  # a collector's infos begin with that of the reset


def _flat_actions(id: str, number: int, space: Box | Discrete, actions: Any, steps: int) -> np.ndarray:
    if not isinstance(space, Discrete):
        return np.asarray(actions, np.float32).reshape(steps, -1)
    chosen = np.asarray(actions).reshape(steps) - space.start
    if chosen.min() < 0 or chosen.max() >= space.n:
        raise ValueError(f"{id}: episode {number} has an action outside of {space}")
    return np.eye(int(space.n), dtype=np.float32)[chosen]
