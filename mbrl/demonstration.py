"""The log of `mbrl demo`: Pendulum-v1 under a controller that swings up late and badly."""

from __future__ import annotations

from functools import partial

import numpy as np

from mbrl import environments, playing
from mbrl.data import minari
from mbrl.report.console import tell

ENV = "Pendulum-v1"
NOISES = (0.2, 0.6, 1.2, 2.0)  # standard deviation of the torque's noise in N m, one for each episode in turn


def mediocre(obs: np.ndarray, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Torque [1] for (cos, sin) of the angle and its speed: pumps energy too weakly, balances with little damping."""
    cosine, sine, speed = obs
    torque = -6.0 * np.arctan2(sine, cosine) - 0.6 * speed if cosine > 0.8 else 0.7 * np.sign(speed)
    return np.clip([torque + noise * rng.standard_normal()], -2.0, 2.0).astype(np.float32)


def log_pendulum(id: str, episodes: int, seed: int) -> None:
    """Write the log as the Minari data set `id`, unless it is there already.

    Raises:
        ValueError: the id is malformed, or episodes is below 1.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}, expected at least 1")
    if minari.exists(id):
        if (there := minari.load(id).episodes) != episodes:
            raise ValueError(
                f"{id} is there already, with {there} episodes, and episodes is {episodes}: run `minari delete {id}`,"
                " or write another one with --data"
            )
        tell("log", f"{id} is there already")
        return
    played = (
        episode
        for k in range(episodes)
        for episode in playing.record(ENV, partial(mediocre, noise=NOISES[k % len(NOISES)]), 1, seed + k)
    )
    observation_space, action_space = environments.spaces(ENV)
    minari.write(
        id,
        played,
        observation_space,
        action_space,
        env_id=ENV,
        description=f"{ENV} under a mediocre controller with noise of several strengths",
        algorithm="mbrl.demonstration.mediocre",
    )
    tell("log", f"{episodes} episodes of {ENV} under a mediocre controller -> {id}")
