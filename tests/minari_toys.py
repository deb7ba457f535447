"""Minari data sets: a walk along a line, and what somebody else may have written."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import minari as library
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from mbrl.data import minari
from mbrl.data.dataset import TransitionDataset
from mbrl.environments import Box, Episode

LINE = Box(-np.inf, np.inf, (1,), np.float32)
PUSH = Box(-1, 1, (1,), np.float32)


def episode(*observations: float, terminated: bool = True) -> Episode:
    """A walk along the line: the action is half the step and the reward the observation arrived at."""
    seen = np.array(observations, np.float32)[:, None]
    ended = np.arange(len(seen) - 1) == len(seen) - 2
    return Episode(seen, np.diff(seen, axis=0) / 2, seen[1:, 0], ended & terminated, ended & (not terminated))


TWO = [episode(0, 1, 3), episode(5, 6, terminated=False)]


def folder(id: str) -> Path:
    return Path(os.environ["MINARI_DATASETS_PATH"]) / id


def store(id: str, observation: spaces.Space, action: spaces.Space, *buffers: EpisodeBuffer, **metadata: Any) -> None:
    """Somebody else's data set, written with Minari's own means."""
    path = folder(id) / "data"
    path.mkdir(parents=True)
    storage = MinariStorage.new(path, observation, action)
    storage.update_metadata({"dataset_id": id, "minari_version": library.__version__, **metadata})
    storage.update_episodes(buffers)


def buffer(observations: Any, actions: Any, rewards: Any = (1.0, 2.0), ended: Any = (False, True)) -> EpisodeBuffer:
    return EpisodeBuffer(
        observations=observations,
        actions=np.array(actions),
        rewards=list(rewards),
        terminations=list(ended),
        truncations=[False] * len(rewards),
    )


def with_infos(*infos: dict[str, np.ndarray] | None) -> TransitionDataset:
    """Somebody else's data set: two steps an episode, with these infos."""
    zeros = np.zeros((3, 1), np.float32)
    buffers = [replace(buffer(zeros, zeros[1:]), infos=info) for info in infos]
    store("other/infos-v0", PUSH, PUSH, *buffers)
    return minari.load("other/infos-v0")
