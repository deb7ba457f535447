"""Logged rows that come group after group: which, how many, in which order."""

from collections.abc import Callable
from itertools import chain

import pytest
import torch

from mbrl.core import Batch
from mbrl.data.dataset import TransitionDataset
from mbrl.data.source import Streamed, Whole

LENGTHS = (4, 3, 5, 2, 6, 4, 3, 5, 4, 4)
ROW = 4 * (2 + 1 + 1 + 2) + 1  # bytes: observation, action, reward, next observation, and whether it terminated


@pytest.fixture
def data(toy_data: Callable[..., TransitionDataset]) -> TransitionDataset:
    return toy_data(LENGTHS)


def test_what_fits_is_one_group_in_the_logs_order(data: TransitionDataset) -> None:
    episodes = torch.tensor([1, 2, 7])
    source = Streamed(data, episodes, resident=13 * ROW, seed=0)
    assert (source.groups, source.rows, source.episodes, source.longest) == (1, 13, 3, 5)
    rows = data.rows(episodes)
    for group in (source.group(0), source.group(7), source.whole()):
        assert all(torch.equal(a, b) for a, b in zip(group.rows, data.batch(rows), strict=True))
        assert group.episode.tolist() == [0] * 3 + [1] * 5 + [2] * 5
        assert group.ends is not None
        assert group.ends.nonzero().flatten().tolist() == [2, 7, 12]
    whole = torch.arange(10)
    assert [Streamed(data, whole, 40 * ROW - less, seed=0).groups for less in (0, 1)] == [1, 2]


def test_a_pass_has_every_episode_once_in_groups_of_about_the_same_size(data: TransitionDataset) -> None:
    episodes = torch.tensor([0, 1, 2, 4, 5, 6, 7, 8, 9])  # 38 rows
    source = Streamed(data, episodes, resident=13 * ROW, seed=3)
    assert source.groups == 3
    orders = []
    for rounds in range(2):
        groups = [source.group(3 * rounds + k) for k in range(3)]
        seen = [group.episode.unique().tolist() for group in groups]
        assert sorted(chain(*seen)) == list(range(9))
        assert all(6 < len(group.episode) < 20 for group in groups)
        for group in groups:
            rows = data.rows(episodes[group.episode.unique()])
            assert torch.equal(group.rows.next_obs, data.next_obs[rows])
        orders.append(seen)
    assert orders[0] != orders[1]
    again = Streamed(data, episodes, resident=13 * ROW, seed=3)
    assert torch.equal(again.group(4).rows.obs, source.group(4).rows.obs)
    assert Streamed(data, episodes, resident=13 * ROW, seed=4).group(0).episode.tolist() != orders[0][0]


def test_episodes_that_are_long_beside_a_group_make_the_groups_larger(
    toy_data: Callable[..., TransitionDataset],
) -> None:
    """Every group is learned from for as long as any other, so a tiny one would count for far too much."""
    assert Streamed(toy_data((1, 100, 1, 1)), torch.arange(4), resident=35 * ROW, seed=0).groups == 1
    source = Streamed(toy_data((10, *[1] * 90)), torch.arange(91), resident=10 * ROW, seed=0)
    assert source.groups == 5
    sizes = [len(source.group(number).episode) for number in range(25)]
    assert all(10 <= size <= 30 for size in sizes)


def test_rows_in_memory_are_one_group_whose_episodes_may_have_any_numbers(data: TransitionDataset) -> None:
    rows: Batch = data.batch()
    source = Whole(rows, data.episode * 7 + 2)
    assert (source.groups, source.rows, source.episodes, source.longest) == (1, 40, 10, 6)
    assert torch.equal(source.group(5).episode, data.episode)
    assert source.group(0).rows is rows
    assert Whole(rows).episodes == 40
    with pytest.raises(ValueError, match=r"episode has shape \[39\], expected \[40\], one a training row"):
        Whole(rows, data.episode[1:])
