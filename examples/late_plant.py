"""A plant that answers late, and a log of it: water let into a long pipe reaches its end 25 steps later.

PYTHONPATH=examples python examples/late_plant.py                                             (plant/pipe-v0)
PYTHONPATH=examples mbrl run --config configs/auto.yaml --data plant/pipe-v0 --env late_plant:Pipe-v0

The flow at the end should meet a demand that jumps. The last 25 inflows and actions are logged beside what is seen now,
by a cautious controller with a good deal of noise. After "Pipeline" of NeoRL-2.
"""

import argparse

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from mbrl import environments, playing
from mbrl.data import minari

LAG, DEMANDS = 25, [50.0, 80.0, 110.0, 140.0]


class Pipe(gym.Env):
    """obs: flow at the end, demand, the last 25 inflows and actions, newest first. action: how to change the inflow."""

    observation_space = Box(-np.inf, np.inf, (2 + 2 * LAG,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def _obs(self) -> np.ndarray:
        return np.array([self.flow, self.demand, *self.inflows, *self.actions], np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed, options=options)
        self.flow, self.demand = self.np_random.uniform(40, 150), self.np_random.choice(DEMANDS)
        self.inflows, self.actions = [self.flow] * LAG, [0.0] * LAG
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        change = float(np.clip(action[0], -1, 1))
        self.inflows = [float(np.clip(self.inflows[0] + 4 * change, 20, 170)), *self.inflows[:-1]]
        self.actions = [change, *self.actions[:-1]]
        self.flow += 0.3 * (self.inflows[-1] - self.flow) + 0.2 * self.np_random.standard_normal()
        reward = max(2 - 0.05 * abs(self.flow - self.demand), -2.0)
        if self.np_random.random() < 0.003:
            self.demand = self.np_random.choice(DEMANDS)
        return self._obs(), reward, False, False, {}


def operate(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip([0.012 * (obs[1] - obs[0]) + 0.25 * rng.standard_normal()], -1, 1).astype(np.float32)


if "Pipe-v0" not in gym.registry:  # Minari imports this file once more
    gym.register("Pipe-v0", Pipe, max_episode_steps=1000)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100)
    played = playing.record("Pipe-v0", operate, parser.parse_args().episodes, seed=0)
    minari.write("plant/pipe-v0", played, *environments.spaces("Pipe-v0"), env_id="late_plant:Pipe-v0")
    print(f"plant/pipe-v0: mean return {minari.load('plant/pipe-v0').returns().mean():.0f}")
