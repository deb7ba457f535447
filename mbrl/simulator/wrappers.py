"""What goes round an environment: a penalty for uncertainty, and windows for learners that have no memory."""

from __future__ import annotations

from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from mbrl.simulator.envs import SimulatorEnv, SimulatorVectorEnv
from mbrl.simulator.rollout import price
from mbrl.simulator.simulator import Simulator
from mbrl.window import Window

Action: TypeAlias = Any  # an array or a number of the action space


class UncertaintyPenalty(gym.Wrapper[NDArray[np.float32], Action, NDArray[np.float32], Action], RecordConstructorArgs):
    """Lowers the reward of a `SimulatorEnv` by its uncertainty, in the units of `mbrl.simulator.rollout.imagine`.

    MOPO's penalty (Yu et al. 2020, eq. 7): r - penalty * (reward spread of the log) * uncertainty.

    Args:
        env: has a `SimulatorEnv` inside.
        penalty: what uncertainty 1 costs, in reward spreads of the log; at least 0.

    Raises:
        ValueError: there is no simulator inside or it has no uncertainty, or the penalty is negative.
    """

    def __init__(self, env: gym.Env[NDArray[np.float32], Action], penalty: float) -> None:
        RecordConstructorArgs.__init__(self, penalty=penalty)
        gym.Wrapper.__init__(self, env)
        self.price = price(_simulator_in(env.unwrapped), penalty)

    def step(self, action: Action) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """As the environment's, with the reward lowered."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, float(reward) - self.price * info.get("uncertainty", 0.0), terminated, truncated, info


class UncertaintyVectorPenalty(VectorWrapper, RecordConstructorArgs):
    """`UncertaintyPenalty` for a `SimulatorVectorEnv`; a row in which an episode begins costs nothing."""

    def __init__(self, env: VectorEnv[NDArray[np.float32], Action, NDArray[Any]], penalty: float) -> None:
        RecordConstructorArgs.__init__(self, penalty=penalty)
        VectorWrapper.__init__(self, env)
        self.price = price(_simulator_in(env.unwrapped), penalty)

    def step(
        self, actions: Action
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """As the environment's, with the rewards lowered."""
        obs, reward, terminated, truncated, info = self.env.step(actions)
        return obs, reward - self.price * info.get("uncertainty", 0.0), terminated, truncated, info


class HistoryWindow(gym.Wrapper[NDArray[np.float32], Action, NDArray[np.float32], Action], RecordConstructorArgs):
    """Shows the window of `mbrl.window` in place of the newest observation, as networks of `data.history` see it.

    It goes round a `SimulatorEnv` to train a policy that has no memory of its own (Stable-Baselines3's, say), and round
    the true environment to use that policy: the windows are the same. Policies that `mbrl` registers need no wrapper.

    Args:
        env: flat Box observations [F], Box or Discrete actions.
        history: observations in a window, at least 1.

    Raises:
        ValueError: another kind of space, actions without bounds, or history is below 1.
    """

    def __init__(self, env: gym.Env[NDArray[np.float32], Action], history: int) -> None:
        RecordConstructorArgs.__init__(self, history=history)
        gym.Wrapper.__init__(self, env)
        self._frames = _Frames(env.observation_space, env.action_space, history)
        self.observation_space = self._frames.space
        self._seen = torch.zeros(0)  # [O], what was shown last

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """As the environment's; the window of a start."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._seen = self._frames.window.begin(self._frames.observed(obs))
        return self._seen.numpy().copy(), info

    def step(self, action: Action) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """As the environment's."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._seen = self._frames.window.shift(self._seen, self._frames.taken(action), self._frames.observed(obs))
        return self._seen.numpy().copy(), float(reward), terminated, truncated, info


class HistoryVectorWindow(VectorWrapper, RecordConstructorArgs):
    """`HistoryWindow` for vector environments whose autoreset is NEXT_STEP, as that of a `SimulatorVectorEnv` is.

    Raises:
        ValueError: another autoreset, or as `HistoryWindow` does.
    """

    def __init__(self, env: VectorEnv[NDArray[np.float32], Action, NDArray[Any]], history: int) -> None:
        RecordConstructorArgs.__init__(self, history=history)
        VectorWrapper.__init__(self, env)
        if (mode := env.metadata.get("autoreset_mode")) is not AutoresetMode.NEXT_STEP:
            raise ValueError(f"the autoreset of {env} is {mode}, expected NEXT_STEP: else the last window is lost")
        self._frames = _Frames(env.single_observation_space, env.single_action_space, history)
        self.single_observation_space = self._frames.space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._seen = torch.zeros(0)  # [N, O]
        self._over = torch.zeros(self.num_envs, dtype=torch.bool)  # a new episode begins with the next observation

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """As the environment's; the windows of starts."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._seen = self._frames.window.begin(self._frames.observed(obs))
        self._over = torch.zeros_like(self._over)
        return self._seen.numpy().copy(), info

    def step(
        self, actions: Action
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """As the environment's."""
        obs, reward, terminated, truncated, info = self.env.step(actions)
        seen, window = self._frames.observed(obs), self._frames.window
        on = window.shift(self._seen, self._frames.taken(actions), seen)
        self._seen = torch.where(self._over.unsqueeze(-1), window.begin(seen), on)
        self._over = torch.from_numpy(np.asarray(terminated) | np.asarray(truncated))
        return self._seen.numpy().copy(), reward, terminated, truncated, info


class _Frames:
    """Observations and actions of an environment as parts of a window."""

    def __init__(self, observation: gym.Space[Any], action: gym.Space[Any], history: int) -> None:
        bounds: tuple[NDArray[np.float32], ...] = ()
        if isinstance(action, Discrete):
            bounds = np.zeros(int(action.n), np.float32), np.ones(int(action.n), np.float32)
        elif isinstance(action, Box) and len(action.shape) == 1:
            bounds = action.low.astype(np.float32), action.high.astype(np.float32)
        if not isinstance(observation, Box) or len(observation.shape) != 1 or not bounds:
            raise ValueError(
                f"the spaces are {observation} and {action}, expected a flat Box of observations and a flat Box of"
                " actions or a Discrete: wrap it in gymnasium's FlattenObservation first"
            )
        if history > 1 and isinstance(action, Box) and not action.is_bounded():
            raise ValueError(
                f"the action space is {action}: a window begins with the action next to 0 that is possible, and only"
                " finite bounds say which that is. Wrap it in gymnasium's RescaleAction with the bounds of the log"
            )
        self.action = action
        lists = (bound.tolist() for bound in bounds)
        self.window = Window.made(history, observation.shape[0], isinstance(action, Discrete), *lists)
        ends = ((observation.low, bounds[0]), (observation.high, bounds[1]))
        low, high = (np.concatenate([*[frame] * history, *[past] * (history - 1)]) for frame, past in ends)
        self.space = Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    @staticmethod
    def observed(obs: Any) -> Tensor:
        return torch.from_numpy(np.array(obs, np.float32))

    def taken(self, action: Action) -> Tensor:
        """Actions as rows [..., A] of a window."""
        if isinstance(self.action, Discrete):
            choice = torch.from_numpy(np.array(action, np.int64)) - int(self.action.start)
            return torch.nn.functional.one_hot(choice, int(self.action.n)).float()
        return torch.from_numpy(np.array(action, np.float32))


def _simulator_in(env: Any) -> Simulator:
    if not isinstance(env, SimulatorEnv | SimulatorVectorEnv):
        raise ValueError(f"{env} has no learned simulator inside, expected a SimulatorEnv or a SimulatorVectorEnv")
    return env.simulator
