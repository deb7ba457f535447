"""No episode has two purposes, and no simulator is asked for what its episodes cannot teach."""

from collections.abc import Callable
from dataclasses import replace

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


def test_a_judge_of_one_episode_gets_another_one_of_the_largest_share(toy_data: Maker) -> None:
    auto = (0.7, 0.1, 0.2)
    for episodes, sizes in ((4, [1, 1, 1, 1]), (5, [2, 1, 1, 1]), (7, [4, 1, 1, 1]), (8, [5, 1, 1, 1])):
        division = divide(toy_data((3,) * episodes), auto, seed=0, needs_terminals=False)
        assert [len(side) for side in division] == sizes
        assert torch.cat(division).sort().values.tolist() == list(range(episodes))
    division = divide(toy_data((3,) * 10), (0.2, 0.7, 0.1), seed=0, needs_terminals=False)
    assert [len(side) for side in division] == [2, 6, 1, 1]


def test_a_log_of_fewer_episodes_than_purposes_is_refused(toy_data: Maker) -> None:
    assert [len(side) for side in divide(toy_data((3,) * 4), (0.1, 0.1, 0.8), 0, needs_terminals=False)] == [1] * 4
    for few in (1, 3):
        with pytest.raises(ValueError, match=f"the log has {few} episodes, expected at least 4: one to learn from"):
            divide(toy_data((3,) * few), (0.1, 0.1, 0.8), seed=0)


def ending(data: TransitionDataset, episodes: list[int]) -> TransitionDataset:
    """The log in which these episodes, and no others, end in a terminal."""
    last = data.first + data.lengths - 1
    ended = torch.zeros_like(data.terminated)
    ended[last[episodes]] = True
    truncated = torch.zeros_like(ended)
    truncated[last] = ~ended[last]
    return replace(data, terminated=ended, truncated=truncated)


def test_one_terminal_cannot_teach_two_simulators(toy_data: Maker) -> None:
    data = ending(toy_data((3,) * 10), [4])
    with pytest.raises(ValueError, match=r"1 of 10 episodes ends in a terminal.*log more episodes that end"):
        divide(data, (0.6, 0.2, 0.2), seed=0)
    assert len(divide(data, (0.6, 0.2, 0.2), seed=0, needs_terminals=False).learn) == 6


@pytest.mark.parametrize(
    ("where", "shared"),
    [
        ({"held": 2}, [1, 0, 1, 0]),
        ({"held": 1, "judge_held": 1}, [1, 0, 1, 0]),
        ({"learn": 3}, [1, 1, 1, 0]),
        ({"judge": 4}, [1, 1, 1, 1]),
        ({"learn": 5}, [2, 1, 1, 1]),
        ({"judge_held": 1, "held": 4}, [1, 2, 1, 1]),
    ],
)
def test_rare_terminals_are_shared_with_few_exchanges(
    toy_data: Maker, where: dict[str, int], shared: list[int]
) -> None:
    plain, split = ending(toy_data((3,) * 100), []), (0.7, 0.1, 0.2)
    before = divide(plain, split, seed=3)
    chosen = [int(e) for name, count in where.items() for e in getattr(before, name)[:count]]
    data = ending(plain, chosen)
    after = divide(data, split, seed=3)
    assert [sum(int(e) in chosen for e in side) for side in after] == shared
    assert [len(side) for side in after] == [len(side) for side in before]
    assert torch.cat(after).sort().values.tolist() == list(range(100))
    moved = sum(len(set(b.tolist()) - set(a.tolist())) for a, b in zip(before, after, strict=True))
    assert moved <= 6  # three exchanges at most
    for again in (divide(data, split, seed=3), divide(data, split, seed=3, needs_terminals=False)):
        assert all(torch.equal(a, b) for a, b in zip(after, again, strict=True))


def test_a_division_that_shows_both_simulators_a_terminal_stays_as_it_is(toy_data: Maker) -> None:
    plain, split = ending(toy_data((3,) * 100), []), (0.7, 0.1, 0.2)
    before = divide(plain, split, seed=3)
    data = ending(plain, [int(e) for e in (*before.learn[:5], before.judge[0])])  # none is held out
    assert all(torch.equal(a, b) for a, b in zip(before, divide(data, split, seed=3), strict=True))
