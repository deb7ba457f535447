"""The door to Gymnasium: make an environment, and flatten its spaces.

Everywhere else an observation is a flat float32 row [O] and a Box action a flat row [A].
"""

from __future__ import annotations

import importlib.metadata
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete, Space

from mbrl.core import Spec
from mbrl.report.console import tell

SLACK = 1e-3  # of a range, by which actions of a log may lie outside of an environment's and nobody tells


class Episode(NamedTuple):
    """One whole episode of T steps, as it was played or logged."""

    observations: np.ndarray  # [T + 1, O], the final one included
    actions: np.ndarray  # [T, A] or, for a Discrete space, [T] integers
    rewards: np.ndarray  # [T]
    terminations: np.ndarray  # [T] bool
    truncations: np.ndarray  # [T] bool
    log_propensities: np.ndarray | None = None  # [T] of the actions, where the logger knew them
    costs: np.ndarray | None = None  # [T] what each step cost beside its reward, where that was logged


def make(env_id: str) -> gym.Env:
    """Make an environment by its Gymnasium id, or by `module:EnvId`, where importing `module` registers it.

    Raises:
        ValueError: there is no such environment or module, or a package that it needs is missing.
    """
    module, _, name = env_id.rpartition(":")
    try:
        return gym.make(env_id, disable_env_checker=True)
    except gym.error.DependencyNotInstalled as error:
        raise ValueError(
            f"the environment {env_id!r} needs a package that is not installed: {error} "
            "(for MuJoCo: pip install 'offline-mbrl[mujoco]')"
        ) from error
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the environment {env_id!r} cannot be made: {str(error).rstrip('.')}. In MODULE:ENV_ID the module must "
            "be on PYTHONPATH and register the environment when it is imported"
        ) from error
    except gym.error.Error as error:
        where = f"; importing {module!r} did not register {name!r}" if module else ""
        raise ValueError(
            f"there is no environment {env_id!r}: {str(error).rstrip('.')}{where}. "
            "One of your own is named as MODULE:ENV_ID"
        ) from error


def spaces(env_id: str) -> tuple[Box, Box | Discrete]:
    """The flat spaces of an environment, named as in `make`; raises as `make` and `flat_spaces` do."""
    env = make(env_id)
    try:
        return flat_spaces(env.observation_space, env.action_space)
    finally:
        env.close()


def check_spaces(env_id: str, spec: Spec, whose: str) -> None:
    """Refuse an environment whose flat spaces are not those of a log or a policy, which `whose` names.

    Where it takes less of a Box action than they have, that is told.

    Raises:
        ValueError: they differ in number or in kind, or as `spaces` does.
    """
    observation, action = spaces(env_id)
    choices = isinstance(action, Discrete)
    width = int(action.n) if isinstance(action, Discrete) else action.shape[0]
    here, there = (observation.shape[0], width, choices), (spec.frame_dim, spec.action_dim, spec.discrete)
    if here != there:
        raise ValueError(
            f"the environment {env_id!r} has {_dims(*here)}, and {whose} has {_dims(*there)}: name the one that the log"
            " is from, or none. An import drops columns that never change (keep_constant: true keeps them), and makes a"
            " category several channels"
        )
    if isinstance(action, Box):
        low, high = np.array(spec.action_low), np.array(spec.action_high)
        slack = SLACK * (high - low)
        if (beyond := (low < action.low - slack) | (high > action.high + slack)).any():
            k = int(beyond.argmax())
            tell(
                "bounds",
                f"{env_id} takes action[{k}] from {action.low[k]:g} to {action.high[k]:g}, and {whose} has it from"
                f" {low[k]:g} to {high[k]:g}: what is beyond will be clipped. Are they in one unit?",
            )


def longest(env_id: str) -> int:
    """Steps after which this environment cuts an episode.

    Raises:
        ValueError: nothing cuts its episodes, or as `make` does.
    """
    env = make(env_id)
    env.close()
    steps = None if env.spec is None else env.spec.max_episode_steps
    if steps is None:
        raise ValueError(
            f"nothing cuts an episode of {env_id!r}, so that no budget of steps can be kept: register it with"
            " max_episode_steps"
        )
    return steps


def _dims(obs_dim: int, action_dim: int, discrete: bool) -> str:
    return f"observations [{obs_dim}] and " + (
        f"{action_dim} discrete actions" if discrete else f"actions [{action_dim}]"
    )


def requirements(env: gym.Env) -> list[str]:
    """The package that decides this environment's physics, pinned, e.g. ["mujoco==3.5.0"]; empty without one.

    MuJoCo's contacts changed between 3.4 and 3.5, so a log is only comparable with the version that made it.
    """
    names = (f"{cls.__module__}.{cls.__qualname__}".lower() for cls in type(env.unwrapped).__mro__)
    return [f"mujoco=={importlib.metadata.version('mujoco')}"] if any("mujoco" in n for n in names) else []


def portable_spec(env_id: str) -> EnvSpec | None:
    """The registered spec of an environment that can be made; None where it cannot be written as JSON.

    That is so where a class, not a "module:Class" string, was registered.
    """
    spec = gym.spec(env_id.rpartition(":")[2])
    try:
        spec.to_json()
    except ValueError:
        return None
    return spec


def flat_spaces(observation: Space, action: Space) -> tuple[Box, Box | Discrete]:
    """The spaces of flat rows: a Box [O], and a Box [A] or the Discrete space itself.

    Dict and Tuple observations of Boxes are flattened in the order of `gymnasium.spaces.flatten`.

    Raises:
        ValueError: an image, or a kind of space that is not supported.
    """
    _check_observation(observation)
    flat = gym.spaces.flatten_space(observation)
    assert isinstance(flat, Box)
    if isinstance(action, Discrete):
        return flat, action
    if isinstance(action, Box):
        flat_action = gym.spaces.flatten_space(action)
        assert isinstance(flat_action, Box)
        return flat, flat_action
    raise ValueError(
        f"the action space {action} is not supported: mbrl learns Box and Discrete actions; "
        "encode other kinds as one of these in the log and in a wrapper of the environment"
    )


def _check_observation(space: Space) -> None:
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        for part in space.spaces.values() if isinstance(space, gym.spaces.Dict) else space.spaces:
            _check_observation(part)
        return
    if not isinstance(space, Box):
        raise ValueError(
            f"the observation space {space} is not supported: expected Boxes, or a Dict or Tuple of Boxes; encode other"
            " kinds as a Box (a category as one channel for each of its values) in the log and in a wrapper"
        )
    if len(space.shape) >= 3 or (space.dtype == np.uint8 and len(space.shape) == 2):
        raise ValueError(
            f"the observation space holds images (Box {space.shape} {space.dtype}), from which mbrl does not learn: "
            "log a state vector, or the features of an encoder of your own"
        )


def flatten(space: Space, values: Any, rows: int) -> np.ndarray:
    """Rows of a space's values, stacked per leaf as Minari stores them, as [rows, O] float32.

    Equal, row by row, to `gymnasium.spaces.flatten`, which takes one sample at a time.
    """
    if isinstance(space, gym.spaces.Dict):
        parts = [flatten(part, values[key], rows) for key, part in space.spaces.items()]
        return np.concatenate(parts, axis=1)
    if isinstance(space, gym.spaces.Tuple):
        parts = [flatten(part, value, rows) for part, value in zip(space.spaces, values, strict=True)]
        return np.concatenate(parts, axis=1)
    return np.asarray(values, np.float32).reshape(rows, -1)
