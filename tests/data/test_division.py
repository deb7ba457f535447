"""No episode has two purposes, and no simulator is asked for what its episodes cannot teach."""

from collections.abc import Callable

import pytest
import torch

from mbrl.data.dataset import TransitionDataset
from mbrl.data.division import divide

Maker = Callable[..., TransitionDataset]


def test_every_episode_has_one_purpose(toy_data: Maker) -> None:
    division = divide(toy_data((3,) * 100), (0.7, 0.1, 0.2), seed=0)
    assert [len(side) for side in division] == [70, 10, 17, 3]
    assert torch.cat(division).sort().values.tolist() == list(range(100))


def test_what_stops_the_judge_s_training_is_drawn_from_the_whole_log(toy_data: Maker) -> None:
    data, last = toy_data((3,) * 100), 0
    for seed in range(10):
        division = divide(data, (0.1, 0.1, 0.8), seed)
        last = max(last, int(division.judge_held.max()))
        assert division.judge_held.max() > division.judge.min()  # not merely the first episodes of a sorted log
    assert last > 80


def test_the_same_seed_divides_alike(toy_data: Maker) -> None:
    data = toy_data((3,) * 100)
    for a, b in zip(divide(data, (0.6, 0.2, 0.2), 4), divide(data, (0.6, 0.2, 0.2), 4), strict=True):
        assert torch.equal(a, b)


def test_a_judge_of_one_episode_is_refused(toy_data: Maker) -> None:
    with pytest.raises(ValueError, match=r"gets 1 of 10 episodes and needs 2: raise the last of data\.split"):
        divide(toy_data((3,) * 10), (0.7, 0.2, 0.1), seed=0)


def test_a_log_of_fewer_episodes_than_purposes_is_refused(toy_data: Maker) -> None:
    assert [len(side) for side in divide(toy_data((3,) * 4), (0.1, 0.1, 0.8), 0, needs_terminals=False)] == [1] * 4
    for few in (1, 3):
        with pytest.raises(ValueError, match=f"the log has {few} episodes, expected at least 4: one to learn from"):
            divide(toy_data((3,) * few), (0.1, 0.1, 0.8), seed=0)


def test_a_simulator_that_would_never_see_a_terminal_is_refused(toy_data: Maker) -> None:
    data = toy_data((3,) * 10)
    last = data.first + data.lengths - 1
    ended = torch.zeros_like(data.terminated)
    ended[last[divide(data, (0.6, 0.2, 0.2), seed=0).held[0]]] = True  # where neither simulator learns
    truncated = (data.terminated | data.truncated) & ~ended
    values = {k: v for k, v in data.tensors.items() if k not in ("terminated", "truncated")}
    bounds = {"action_low": data.action_low, "action_high": data.action_high}
    only = TransitionDataset.create(
        "toy/log-v0", **values, terminated=ended, truncated=truncated, discrete=False, **bounds
    )
    with pytest.raises(ValueError, match=r"1 of 10 episodes end in a terminal.*raise number 1 of data\.split"):
        divide(only, (0.6, 0.2, 0.2), seed=0)
    assert len(divide(only, (0.6, 0.2, 0.2), seed=0, needs_terminals=False).learn) == 6
