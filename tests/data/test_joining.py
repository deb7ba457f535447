"""True episodes as rows, and as a share of a log's rows."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl.core import Batch, Spec
from mbrl.data.dataset import TransitionDataset
from mbrl.data.history import windowed
from mbrl.data.joining import joined, transitions
from mbrl.environments import Episode


class Choose(gym.Env[Any, Any]):
    observation_space = gym.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gym.spaces.Discrete(3, start=5)


@pytest.fixture
def choose() -> Iterator[str]:
    gym.register("mbrltest/Pick-v0", Choose)
    yield "mbrltest/Pick-v0"
    del gym.registry["mbrltest/Pick-v0"]


def played(length: int, value: float, terminal: bool) -> Batch:
    ends = torch.zeros(length, dtype=torch.bool)
    ends[-1] = terminal
    obs = torch.full((length, 2), value)
    return Batch(obs, torch.full((length, 1), value), torch.full((length,), value), obs + 1, ends)


def test_played_episodes_are_repeated_up_to_their_share(toy_data: Callable[..., TransitionDataset]) -> None:
    data = toy_data((4, 3, 5))
    mixed = joined(data, torch.tensor([0, 2]), [played(2, 7.0, True), played(1, 8.0, False)], share=0.5)
    assert mixed.lengths.tolist() == [4, 5, *[2, 1] * 3]  # 9 logged rows, and 9 = 3 times 3 played ones
    assert mixed.reward[9:].tolist() == [7.0, 7.0, 8.0] * 3
    assert torch.equal(mixed.obs[:9], data.obs[data.rows(torch.tensor([0, 2]))])
    assert mixed.terminated[9:12].tolist() == [False, True, False]
    assert mixed.truncated[9:12].tolist() == [False, False, True]
    assert mixed.ends(torch.arange(18)).nonzero().flatten().tolist() == [3, 8, 10, 11, 13, 14, 16, 17]
    many = joined(data, torch.tensor([1]), [played(30, 7.0, False)], share=0.5)
    assert many.lengths.tolist() == [3, 30]  # once is more than half already
    few = joined(data, torch.tensor([0, 2]), [played(1, 7.0, False)], share=0.25)
    assert few.lengths.tolist() == [4, 5, 1, 1, 1]  # 3 of 12


def test_an_episode_becomes_rows_with_windows(choose: str, toy_data: Callable[..., TransitionDataset]) -> None:
    data = toy_data((4, 3, 5))
    logged = windowed(data, 2)
    rows = data.rows(torch.tensor([2]))
    frames = torch.cat([data.obs[rows], data.next_obs[rows[-1:]]])
    ends = data.terminated[rows].numpy()
    episode = Episode(frames.numpy(), data.action[rows].numpy(), data.reward[rows].double().numpy(), ends, ~ends)
    found = transitions(episode, logged.spec(torch.arange(3)), "Pendulum-v1")
    for name, column in logged.batch(rows)._asdict().items():
        torch.testing.assert_close(getattr(found, name), column)


def test_discrete_actions_become_one_hot_rows(choose: str, toy_data: Callable[..., TransitionDataset]) -> None:
    spec: Spec = toy_data().spec(torch.arange(3))
    three = {name: getattr(spec, name) * 3 for name in ("action_low", "action_high", "action_mean", "action_std")}
    spec = replace(spec, discrete=True, action_dim=3, **three)
    frames, flags = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([False, True])
    rows = transitions(Episode(frames, np.array([7, 5]), np.array([1.0, 2.0]), flags, ~flags), spec, choose)
    assert rows.action.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert rows.obs.tolist() == [[0, 1], [2, 3]]
    assert rows.next_obs.tolist() == [[2, 3], [4, 5]]
    assert (rows.reward.tolist(), rows.terminated.tolist()) == ([1.0, 2.0], [False, True])
