"""Windows of a log: worked by hand, and what cannot be one."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from mbrl.data.dataset import TransitionDataset
from mbrl.data.history import windowed


def plain(**changes: Any) -> TransitionDataset:
    """Two episodes, of three rows and of two; one observation, one action from 1 to 9."""
    arguments: dict[str, Any] = {
        "obs": torch.tensor([[10.0], [11], [12], [20], [21]]),
        "action": torch.tensor([[2.0], [3], [4], [5], [6]]),
        "reward": torch.tensor([1.0, 2, 3, 4, 5]),
        "next_obs": torch.tensor([[11.0], [12], [13], [21], [22]]),
        "terminated": torch.tensor([False, False, True, False, False]),
        "truncated": torch.tensor([False, False, False, False, True]),
        "episode": torch.tensor([0, 0, 0, 1, 1]),
        "discrete": False,
        "action_low": [1.0],
        "action_high": [9.0],
        "channels": ["angle"],
        "units": ["rad"],
        "action_channels": ["valve"],
        "action_units": ["%"],
    }
    return TransitionDataset.create("by/hand-v0", **{**arguments, **changes})


def test_windows_of_two() -> None:
    data = windowed(plain(), 2)
    # newest, the one before it, the action between the two; 1 is the bound next to 0
    assert data.obs.tolist() == [[10, 10, 1], [11, 10, 2], [12, 11, 3], [20, 20, 1], [21, 20, 5]]
    assert data.next_obs.tolist() == [[11, 10, 2], [12, 11, 3], [13, 12, 4], [21, 20, 5], [22, 21, 6]]
    assert data.channels == ("angle", "angle (t-1)", "valve (t-1)")
    assert data.units == ("rad", "rad", "%")
    assert data.labels == ("angle [rad]", "angle (t-1) [rad]", "valve (t-1) [%]")
    assert (data.history, data.frame_dim) == (2, 1)
    assert data.starts.tolist() == [[10, 10, 1], [20, 20, 1]]


def test_windows_of_three_need_three_rows_an_episode() -> None:
    longer = plain(episode=torch.zeros(5, dtype=torch.long))
    data = windowed(longer, 3)
    assert data.obs.tolist() == [
        [10, 10, 10, 1, 1],
        [11, 10, 10, 2, 1],
        [12, 11, 10, 3, 2],
        [20, 12, 11, 4, 3],
        [21, 20, 12, 5, 4],
    ]
    assert data.next_obs[2].tolist() == [13, 12, 11, 4, 3]
    assert data.channels == ("angle", "angle (t-1)", "angle (t-2)", "valve (t-1)", "valve (t-2)")


def test_a_discrete_past_begins_without_any_choice() -> None:
    one_hot = torch.eye(3)[[2, 0, 1, 1, 2]]
    data = windowed(plain(action=one_hot, discrete=True, action_low=[0] * 3, action_high=[1] * 3, action_channels=[],
                          action_units=[]), 2)  # fmt: skip
    assert data.obs[:, 2:].tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert data.next_obs[:, 2:].tolist() == one_hot.tolist()
    assert data.channels[2:] == ("action 0 (t-1)", "action 1 (t-1)", "action 2 (t-1)")


def test_the_rest_of_the_log_is_as_it_was() -> None:
    before, after = plain(), windowed(plain(), 2)
    for name in ("action", "reward", "terminated", "truncated", "episode"):
        assert torch.equal(before.tensors[name], after.tensors[name])
    assert (after.id, after.action_low, after.action_high) == (before.id, before.action_low, before.action_high)


def test_a_history_of_one_is_the_log_itself() -> None:
    data = plain()
    assert windowed(data, 1) is data


def test_the_fingerprint_tells_windows_from_the_plain_log_and_from_other_windows() -> None:
    data = plain(episode=torch.zeros(5, dtype=torch.long))
    prints = {data.fingerprint, windowed(data, 2).fingerprint, windowed(data, 3).fingerprint}
    assert len(prints) == 3
    assert windowed(data, 2).fingerprint == windowed(replace(data, id="an/other-v0"), 2).fingerprint
    other = plain(reward=torch.zeros(5))
    assert windowed(other, 2).fingerprint != windowed(plain(), 2).fingerprint


def test_the_spec_has_moments_of_every_channel_and_one_range_for_all_ages() -> None:
    spec = windowed(plain(), 2).spec(torch.tensor([0]))
    assert (spec.obs_dim, spec.frame_dim, spec.history) == (3, 1, 2)
    assert spec.obs_mean == pytest.approx((11, 31 / 3, 2))
    assert spec.obs_std == pytest.approx(((2 / 3) ** 0.5, (2 / 9) ** 0.5, (2 / 3) ** 0.5))
    # the older observation was never 13, the last one; in a rollout it can be, and any action can have come before
    assert (spec.obs_low, spec.obs_high) == ((10, 10, 1), (13, 13, 9))
    assert spec.delta_mean[0] == 1


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (0, "history is 0, expected at least 1"),
        (-2, "history is -2, expected at least 1"),
        (
            4,
            r"data\.history is 4, and the longest episode of by/hand-v0 has 3 steps, .* set data\.history to 3 or less",
        ),
    ],
)
def test_a_history_that_cannot_be_is_refused(history: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        windowed(plain(), history)


def test_windows_of_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="has windows of 2 already: make them from the plain log"):
        windowed(windowed(plain(), 2), 2)
