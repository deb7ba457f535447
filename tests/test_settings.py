"""Settings that are more than numbers."""

import pytest

from mbrl.settings import Data, Rehearsal


def test_a_rollout_is_as_long_as_it_is_set_or_as_it_is_trusted() -> None:
    assert Rehearsal(horizon=5).steps(31) == 5
    assert Rehearsal(horizon=None).steps(31) == 31
    assert Rehearsal(horizon=None).steps(0) == 1


def test_a_rollout_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rehearsal\.horizon is 0, expected at least 1"):
        Rehearsal(horizon=0)


@pytest.mark.parametrize("history", [0, -1])
def test_a_window_without_an_observation_is_refused(history: int) -> None:
    with pytest.raises(ValueError, match=rf"data\.history is {history}, expected at least 1"):
        Data("toy/log-v0", history=history)
