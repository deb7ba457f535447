import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mbrl.data.dataset import TransitionDataset

Maker = Callable[..., TransitionDataset]


def by_hand(**changes: Any) -> TransitionDataset:
    """Two episodes: three rows that terminate, one row that is truncated; the second observation is constant."""
    arguments: dict[str, Any] = {
        "obs": torch.tensor([[0.0, 5], [1, 5], [3, 5], [10, 5]]),
        "action": torch.tensor([[-1.0], [0], [1], [2]]),
        "reward": torch.tensor([1.0, 2, 3, 10]),
        "next_obs": torch.tensor([[1.0, 5], [3, 5], [7, 5], [20, 5]]),
        "terminated": torch.tensor([False, False, True, False]),
        "truncated": torch.tensor([False, False, False, True]),
        "episode": torch.tensor([0, 0, 0, 1]),
        "discrete": False,
        "action_low": [-2.0],
        "action_high": [math.inf],
    }
    return TransitionDataset.create("by/hand-v0", **{**arguments, **changes})


def test_episodes_are_found_where_they_are() -> None:
    data = by_hand()
    assert (len(data), data.episodes) == (4, 2)
    assert data.first.tolist() == [0, 3]
    assert data.lengths.tolist() == [3, 1]
    assert data.returns().tolist() == [6.0, 10.0]
    assert data.starts.tolist() == [[0.0, 5.0], [10.0, 5.0]]
    assert data.rows(torch.tensor([1, 0])).tolist() == [3, 0, 1, 2]
    assert data.rows(torch.tensor([1])).tolist() == [3]


def test_an_infinite_bound_becomes_the_logs_own() -> None:
    data = by_hand()
    assert (data.action_low, data.action_high) == ((-2.0,), (2.0,))


def test_ends_are_the_last_rows_of_episodes(toy_data: Callable[..., TransitionDataset]) -> None:
    data = toy_data((4, 3, 5))
    found = data.ends(data.rows(torch.tensor([2, 0])))
    assert found.tolist() == [False] * 4 + [True] + [False] * 3 + [True]
    assert data.ends(torch.tensor([6, 5])).tolist() == [True, False]


def test_batch_takes_rows_and_shares_memory_without_them() -> None:
    data = by_hand()
    batch = data.batch(torch.tensor([3, 2]))
    assert batch.reward.tolist() == [10.0, 3.0]
    assert batch.terminated.tolist() == [False, True]
    assert data.batch().obs.data_ptr() == data.obs.data_ptr()


def test_moments_come_from_the_given_episodes_only() -> None:
    spec = by_hand().spec(torch.tensor([0]))
    assert (spec.obs_dim, spec.action_dim, spec.discrete) == (2, 1, False)
    assert spec.obs_mean == pytest.approx((4 / 3, 5.0))
    assert spec.obs_std == pytest.approx((math.sqrt(14 / 9), 1.0))  # a constant channel has std 1
    assert (spec.obs_low, spec.obs_high) == ((0.0, 5.0), (7.0, 5.0))  # the final observation counts
    assert spec.delta_mean == pytest.approx((7 / 3, 0.0))
    assert spec.delta_std == pytest.approx((math.sqrt(14 / 9), 1.0))
    assert spec.action_mean == pytest.approx((0.0,))
    assert spec.action_std == pytest.approx((math.sqrt(2 / 3),))
    assert (spec.reward_mean, spec.reward_low, spec.reward_high) == (2.0, 1.0, 3.0)
    assert spec.reward_std == pytest.approx(math.sqrt(2 / 3))
    assert (spec.terminals, spec.max_episode_steps, spec.terminal_rate) == (True, 3, pytest.approx(1 / 3))
    assert (spec.action_low, spec.action_high) == ((-2.0,), (2.0,))  # of the whole log: bounds, not moments
    other = by_hand().spec(torch.tensor([1]))
    assert (other.terminals, other.max_episode_steps, other.reward_std) == (False, 1, 10.0)  # its size


def test_a_reward_that_is_always_the_same_is_measured_by_its_size() -> None:
    data = by_hand()
    for constant, expected in ((-0.01, 0.01), (0.0, 1.0), (1000.0, 1000.0)):
        spec = replace(data, reward=torch.full_like(data.reward, constant)).spec(torch.arange(data.episodes))
        assert spec.reward_std == pytest.approx(expected)


def test_rounding_noise_is_not_a_moment() -> None:
    wobble = torch.tensor([[1000.0], [1000.0 + 2**-14], [1000.0], [1000.0]])
    data = by_hand(obs=wobble, next_obs=wobble.roll(1, 0))
    spec = data.spec(torch.arange(2))
    assert spec.obs_std == (1.0,)
    assert spec.delta_std == (1.0,)


def test_a_spec_of_no_episode_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one episode"):
        by_hand().spec(torch.tensor([], dtype=torch.long))


def test_split_is_seeded_disjoint_and_by_episode(toy_data: Maker) -> None:
    data = toy_data(lengths=(2,) * 20)
    train, held = data.split((0.9, 0.1), seed=3)
    assert (len(train), len(held)) == (18, 2)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(20))
    assert data.split((0.9, 0.1), seed=3)[1].tolist() == held.tolist()
    assert any(data.split((0.9, 0.1), seed=s)[1].tolist() != held.tolist() for s in range(5))


def test_split_leaves_the_global_generator_alone(toy_data: Maker) -> None:
    before = torch.get_rng_state()
    toy_data().split((0.5, 0.5), seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("lengths", "fractions", "counts"),
    [((1,) * 3, (0.98, 0.01, 0.01), [1, 1, 1]), ((1,) * 10, (0.95, 0.05), [9, 1]), ((1,) * 7, (0.5, 0.5), [3, 4])],
)
def test_no_side_of_a_split_is_empty(
    toy_data: Maker, lengths: tuple[int, ...], fractions: tuple[float, ...], counts: list[int]
) -> None:
    sides = toy_data(lengths=lengths).split(fractions, seed=0)
    assert sorted(len(side) for side in sides) == sorted(counts)


@pytest.mark.parametrize("fractions", [(), (0.5, 0.4), (1.5, -0.5), (1.0, 0.0)])
def test_wrong_fractions_are_errors(toy_data: Maker, fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        toy_data().split(fractions, seed=0)


def test_too_few_episodes_are_an_error(toy_data: Maker) -> None:
    with pytest.raises(ValueError, match=r"3 episode.* 4 non-empty sides"):
        toy_data().split((0.25,) * 4, seed=0)


@pytest.mark.parametrize(
    "change",
    [
        {"obs": torch.tensor([[0.0, 5], [1, 5], [3, 5], [10, 6]])},
        {"reward": torch.tensor([1.0, 2, 3, 11])},
        {"next_obs": torch.tensor([[1.0, 5], [3, 5], [7, 5], [20, 6]])},
        {"terminated": torch.tensor([False, False, True, True])},
        {"truncated": torch.tensor([False, False, True, True])},
        {"episode": torch.tensor([0, 0, 1, 2]), "truncated": torch.tensor([False, True, False, True])},
        {"action_low": [-3.0]},
        {"action": torch.tensor([[-1.0], [0.5], [1], [2]])},
        {"discrete": True},
    ],
)
def test_every_part_of_the_content_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert by_hand().fingerprint == by_hand().fingerprint
    assert by_hand(**change).fingerprint != by_hand().fingerprint


def test_the_name_is_not_content() -> None:
    assert replace(by_hand(), id="other/name-v0").fingerprint == by_hand(env_id="Pendulum-v1").fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs": torch.zeros(4, 2, dtype=torch.float64)}, r"obs is \[4, 2\] torch.float64"),
        ({"reward": torch.zeros(4, 1)}, r"reward is \[4, 1\]"),
        ({"next_obs": torch.zeros(4, 3)}, r"next_obs is \[4, 3\]"),
        ({"episode": torch.tensor([0, 1, 0, 1])}, "episode numbers"),
        ({"episode": torch.tensor([1, 1, 1, 2])}, "episode numbers"),
        ({"truncated": torch.zeros(4, dtype=torch.bool)}, "last row of every episode"),
        ({"action_low": [0.0, 0.0]}, "2 lower and 1 upper"),
    ],
)
def test_what_is_not_a_log_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_hand(**change)


def test_an_empty_log_is_refused() -> None:
    none = {name: tensor[:0] for name, tensor in by_hand().tensors.items()}
    with pytest.raises(ValueError, match="no transition"):
        by_hand(**none)


def test_moving_keeps_content_and_fingerprint(toy_data: Maker) -> None:
    data = toy_data()
    moved = data.to("cpu")
    assert moved.fingerprint == data.fingerprint
    assert all(torch.equal(moved.tensors[name], tensor) for name, tensor in data.tensors.items())
