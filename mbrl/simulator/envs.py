"""A registered simulator as a Gymnasium environment, alone or in a batch: shells over `Episodes`, without arithmetic.

    gym.make("mbrl:mbrl/Simulator-v0", simulator="models:/hopper-simulator@champion")
    gym.make_vec("mbrl:mbrl/Simulator-v0", num_envs=4096, simulator="models:/hopper-simulator/3", uncertainty=False)

Neither the environment that the log is from nor the log is needed: all is in the artefact.

An environment shows what the plant would show, the newest observation, also where the simulator was learned with a
history: a registered policy, which keeps its own window, is called in either alike. For a learner that has to be given
the window there is `mbrl.simulator.wrappers.HistoryWindow`, which goes round this environment and round the plant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mbrl.simulator.episodes import Episodes, truncation
from mbrl.simulator.inputs import Source, action_rows, open_simulator, room_for, start_rows
from mbrl.simulator.simulator import Simulator

Action: TypeAlias = Any  # an array or a number of the action space

SEEDS = 2**62  # how many seeds of its generators an environment draws from


class SimulatorEnv(gym.Env[NDArray[np.float32], Action]):
    """One episode at a time in a learned simulator.

    An episode starts in a logged start state that the artefact carries, or in `reset(options={"obs": ...})` [F]. It is
    `terminated` where the simulator says that the world ended, and `truncated` after `horizon` steps.
    `info["uncertainty"]` of a step is 1 at its stated quantile on held-out logged transitions; it is absent where the
    simulator has none. Rewards are raw: see `mbrl.simulator.wrappers`. Equal seeds give equal episodes.

    Exogenous channels are replayed from the logged episode that the start state began (from one at random after an
    `obs` of your own), and where that one ends, so does the episode: `truncated`.

    Args:
        simulator: as `open_simulator` takes it.
        horizon: steps of an episode; by default as far as the simulator is trusted, or else as long as the log's
            longest. Gymnasium's own `max_episode_steps` can only shorten it.
        uncertainty: False leaves it out, which makes steps several times faster.
        render_mode: "rgb_array" draws the channels of the running episode as strips.

    Raises:
        ValueError: horizon is below 1, the render mode is unknown, or as `open_simulator` does.
        CorruptFileError: a file of the simulator is truncated or altered.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        simulator: Source,
        horizon: int | None = None,
        uncertainty: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode is {render_mode!r}, expected None or 'rgb_array'")
        world = open_simulator(simulator)
        self.simulator = world if uncertainty else world.plain()
        self.horizon = truncation(world, horizon)
        self.render_mode = render_mode
        self.observation_space, self.action_space = spaces(world)
        self._episodes: Episodes | None = None
        self._played: list[NDArray[np.float32]] = []  # (obs, reward, uncertainty) [F + 2] since it began, to be drawn

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode; `seed` as in Gymnasium, `options={"obs": [F]}` for a start state of your own.

        Raises:
            ValueError: an option is unknown, obs is not in the observation space, or there is no start state.
        """
        super().reset(seed=seed)
        given = start_rows(options, self.simulator, ())
        if self._episodes is None or seed is not None:
            self._episodes = Episodes(self.simulator, 1, int(self.np_random.integers(SEEDS)), self.horizon)
        obs = self._episodes.begin(given)[0].cpu().numpy()
        self._played = [np.append(obs, [math.nan, math.nan])]
        return obs, {}

    def step(self, action: Action) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One step of the learned world.

        Raises:
            ValueError: the action is not in the action space.
            ResetNeeded: there is no running episode.
        """
        if self._episodes is None or self._episodes.over.item():
            raise gym.error.ResetNeeded(
                "there is no running episode: call reset() before the first step and after each end"
            )
        moment = self._episodes.step(action_rows(action, self.simulator.spec, ()))
        obs, reward, uncertainty = moment.obs[0].cpu().numpy(), float(moment.reward), float(moment.uncertainty)
        if self.render_mode is not None:
            self._played.append(np.append(obs, [reward, uncertainty]))
        info = {} if self.simulator.uncertainty is None else {"uncertainty": uncertainty}
        return obs, reward, bool(moment.terminated), bool(moment.truncated), info

    def render(self) -> NDArray[np.uint8] | None:
        """The running episode as strips, [H, W, 3], for render_mode "rgb_array"; else None.

        Raises:
            ResetNeeded: there is no episode to draw.
        """
        if self.render_mode is None:
            gym.logger.warn("render() draws nothing: make the environment with render_mode='rgb_array'")
            return None
        if not self._played:
            raise gym.error.ResetNeeded("there is no episode to draw: call reset() before render()")
        from mbrl.report.strips import draw_episode  # matplotlib takes half a second to import

        return draw_episode(np.stack(self._played), self.simulator.spec, self.simulator.uncertainty is not None)


class SimulatorVectorEnv(VectorEnv[NDArray[np.float32], Action, NDArray[Any]]):
    """N episodes at once in a learned simulator, which steps all of them in one go.

    As `SimulatorEnv`, and equal to it for equal seeds where N is 1. Autoreset is NEXT_STEP: the step after an end
    ignores that row's action and returns the start of a new episode with reward 0. Such a row is no transition, and
    its `info["_uncertainty"]` is False.

    Args:
        simulator: as `open_simulator` takes it.
        num_envs: N, at least 1.
        horizon: as in `SimulatorEnv`.
        uncertainty: as in `SimulatorEnv`.
        max_episode_steps: what `gym.make_vec` passes on; it can only shorten the horizon.

    Raises:
        ValueError: num_envs, horizon or max_episode_steps is below 1, or as `open_simulator` does.
        CorruptFileError: a file of the simulator is truncated or altered.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        simulator: Source,
        num_envs: int = 1,
        horizon: int | None = None,
        uncertainty: bool = True,
        max_episode_steps: int | None = None,
    ) -> None:
        for name, value in ("num_envs", num_envs), ("max_episode_steps", max_episode_steps):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        world = open_simulator(simulator)
        self.simulator = world if uncertainty else world.plain()
        longest = truncation(world, horizon)
        self.horizon = longest if max_episode_steps is None else min(longest, max_episode_steps)
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = spaces(world)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._episodes: Episodes | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin N episodes; arguments and errors as in `SimulatorEnv.reset`, with obs [N, F]."""
        super().reset(seed=seed)
        given = start_rows(options, self.simulator, (self.num_envs,))
        if self._episodes is None or seed is not None:
            root = int(self.np_random.integers(SEEDS))
            self._episodes = Episodes(self.simulator, self.num_envs, root, self.horizon)
        return self._episodes.begin(given).cpu().numpy(), {}

    def step(
        self, actions: Action
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """One step of every running episode, with its row of `actions` [N, A] or (Discrete) [N].

        Raises:
            ValueError: an action is not in the action space.
            ResetNeeded: `reset` was never called.
        """
        if self._episodes is None:
            raise gym.error.ResetNeeded("there are no running episodes: call reset() before the first step")
        moment = self._episodes.step(action_rows(actions, self.simulator.spec, (self.num_envs,)))
        obs, reward, terminated, truncated, uncertainty, began = (x.cpu().numpy() for x in moment)
        info = {} if self.simulator.uncertainty is None else {"uncertainty": uncertainty, "_uncertainty": ~began}
        return obs, reward.astype(np.float64), terminated, truncated, info


def spaces(simulator: Simulator) -> tuple[Box[np.float32], Box[np.float32] | Discrete]:
    """Observation space: the range that the simulator's predictions are clipped to. Action space: the log's own."""
    spec = simulator.spec
    width = spec.frame_dim
    observation = _box(simulator.low[:width].tolist(), simulator.high[:width].tolist())
    return observation, Discrete(spec.action_dim) if spec.discrete else _box(spec.action_low, spec.action_high)


def _box(low: Sequence[float], high: Sequence[float]) -> Box[np.float32]:
    floor, ceiling = np.asarray(low, np.float32), np.asarray(high, np.float32)
    return Box(floor, room_for(floor, ceiling), dtype=np.float32)
