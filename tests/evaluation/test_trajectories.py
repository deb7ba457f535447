"""Episodes side by side: literal rows of a log of episodes of 3, 1 and 2 steps."""

from dataclasses import replace

import pytest
import torch

from mbrl.data.dataset import TransitionDataset
from mbrl.data.history import windowed
from mbrl.evaluation.trajectories import Trajectories, check_acts_on, discounts, fitted
from policies.actors import Deterministic


def log() -> TransitionDataset:
    obs = torch.tensor([10.0, 11, 12, 20, 30, 31]).unsqueeze(-1)
    return TransitionDataset.create(
        "toy/three-v0",
        obs=obs,
        action=torch.tensor([-1.0, 0, 1, 0.5, 0.25, 1]).unsqueeze(-1),
        reward=torch.tensor([1.0, 2, 4, 8, 16, 32]),
        next_obs=obs + 1,
        terminated=torch.tensor([0, 0, 1, 0, 0, 0]).bool(),
        truncated=torch.tensor([0, 0, 0, 1, 0, 1]).bool(),
        episode=torch.tensor([0, 0, 0, 1, 2, 2]),
        discrete=False,
        action_low=[-1.0],
        action_high=[1.0],
    )


def test_rows_are_padded_at_the_end_in_the_order_asked_for():
    seen = Trajectories.of(log(), torch.tensor([2, 0, 1]))
    assert seen.valid.tolist() == [[True, True, False], [True, True, True], [True, False, False]]
    assert seen.obs[..., 0].tolist() == [[30, 31, 0], [10, 11, 12], [20, 0, 0]]
    assert seen.action[..., 0].tolist() == [[0.25, 1, 0], [-1, 0, 1], [0.5, 0, 0]]
    assert seen.next_obs[..., 0].tolist() == [[31, 32, 0], [11, 12, 13], [21, 0, 0]]
    assert seen.reward.tolist() == [[16, 32, 0], [1, 2, 4], [8, 0, 0]]
    assert seen.terminated.tolist() == [[False] * 3, [False, False, True], [False] * 3]
    assert seen.propensity is None
    assert seen.lengths.tolist() == [2, 3, 1]
    assert seen.final_obs.flatten().tolist() == [32, 13, 21]
    assert seen.ended.tolist() == [False, True, False]


def test_returns_are_named_by_their_discount():
    seen = Trajectories.of(log(), torch.tensor([0, 1, 2]))
    assert seen.returns(1.0).tolist() == [7, 8, 48]
    assert seen.returns(0.5).tolist() == [1 + 1 + 1, 8, 16 + 16]
    assert seen.returns(0.0).tolist() == [1, 8, 16]
    with pytest.raises(ValueError, match=r"gamma is 1\.5, expected a discount factor"):
        discounts(1.5, seen.reward)


def test_an_episode_may_be_there_twice_and_none_at_all_is_refused():
    seen = Trajectories.of(log(), torch.tensor([1, 1]))
    assert seen.reward.tolist() == [[8], [8]]
    with pytest.raises(ValueError, match=r"no episode of toy/three-v0 was given"):
        Trajectories.of(log(), torch.tensor([], dtype=torch.long))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"obs_dim": 2, "obs": 2}, "obs_dim is 2, and the log's 1"),
        ({"action_high": (2.0,)}, "action_high of action 0 is 2, and the log's 1: they have other units"),
        ({"action_low": (-0.5,)}, "action_low of action 0 is -0.5, and the log's -1"),
        ({"discrete": True}, "discrete is True, and the log's False"),
    ],
)
def test_a_policy_of_another_problem_is_refused_by_field(changes, message):
    data = log()
    spec = data.spec(torch.arange(3))
    check_acts_on(spec, data)
    if changes.pop("obs", None):
        wide = {name: getattr(spec, name) * 2 for name in ("obs_mean", "obs_std", "obs_low", "obs_high")}
        wide |= {name: getattr(spec, name) * 2 for name in ("delta_mean", "delta_std")}
        changes |= {**wide, "bound_low": (), "bound_high": (), "predicted": ()}
    with pytest.raises(ValueError, match=message):
        check_acts_on(replace(spec, **changes), data)


def test_a_policy_with_another_memory_is_told_which_log_to_take():
    data = log()
    spec = replace(
        data.spec(torch.arange(3)),
        obs_dim=3,
        history=2,
        **dict.fromkeys(("obs_mean", "obs_low", "obs_high", "delta_mean"), (0.0,) * 3),
        **dict.fromkeys(("obs_std", "delta_std"), (1.0,) * 3),
    )
    with pytest.raises(ValueError, match=r"history is 2, and the log's 1: give it the log with `data\.history 2`"):
        check_acts_on(spec, data)


def test_a_policy_that_looks_back_less_is_asked_about_longer_windows(toy_data):
    data = toy_data()
    windows, policy = windowed(data, 3), Deterministic(data.spec(torch.arange(3)), (4,))
    assert fitted(policy, data) is policy
    found = fitted(policy, windows)
    assert torch.equal(found.act(windows.obs, None), policy.act(data.obs, None))
    assert (found.spec.history, found.training) == (3, False)
    elsewhere = replace(policy.spec, action_high=(5.0,))
    with pytest.raises(ValueError, match="action_high of action 0 is 5, and the log's 1"):
        fitted(Deterministic(elsewhere, (4,)), windows)
    with pytest.raises(ValueError, match=r"history is 3, and the log's 1: give it the log with `data\.history 3`"):
        fitted(found, data)
