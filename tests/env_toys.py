"""A small learned world, and what its environments say."""

from typing import Any

import gymnasium as gym
import torch
from dynamics_toys import linear_world, spec_of

from dynamics import ProbabilisticEnsemble
from dynamics.uncertainty import ensemble_std
from mbrl.core import seeded
from mbrl.simulator.simulator import Simulator

LOG = linear_world(300, 0, terminal_below=-1.8)


def world(discrete: bool = False, **arguments: Any) -> Simulator:
    """An untrained ensemble with an uncertainty and start states; it has terminals."""
    log = LOG
    if discrete:
        choice = torch.arange(len(LOG.obs)) % 3
        log = LOG._replace(action=torch.nn.functional.one_hot(choice, 3).float())
    spec = spec_of(log, discrete=discrete)
    with seeded(0, "test"):
        model = ProbabilisticEnsemble(spec, 4, 3, hidden=8, layers=2).eval()
    simulator = Simulator(model, spec, **{"uncertainty": ensemble_std, "starts": log.obs[:50], **arguments})
    simulator.calibrate(log)
    return simulator


def played(env: gym.Env, seed: int, steps: int = 30) -> list[Any]:
    """What an environment says to the same actions, which are drawn apart from it."""
    env.action_space.seed(0)
    said: list[Any] = [env.reset(seed=seed)[0].tolist()]
    for _ in range(steps):
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        said.append((obs.tolist(), reward, terminated, truncated, info))
        if terminated or truncated:
            said.append(env.reset()[0].tolist())
    return said
