import math

import pytest
import torch

from dynamics import terminations

NAN = math.nan


def ends(rule, *next_obs: list[float]) -> list[bool]:
    rows = torch.tensor(next_obs)
    found = rule(torch.zeros_like(rows), torch.zeros(len(rows), 1), rows)
    assert found.dtype == torch.bool
    return found.tolist()


def test_never() -> None:
    assert ends(terminations.never, [0.0, NAN], [1e9, 1.0]) == [False, False]
    for name in ("half_cheetah", "swimmer", "reacher", "pusher", "humanoid_standup"):
        assert getattr(terminations, name) is terminations.never


def test_hopper() -> None:
    up = [1.2, 0.0, 0.0, 0.0]
    assert ends(terminations.hopper, up, [0.71, 0.19, 99.0, -99.0]) == [False, False]
    assert ends(terminations.hopper, [0.69, *up[1:]], [1.2, 0.21, 0.0, 0.0], [1.2, -0.21, 0.0, 0.0]) == [True] * 3
    # the healthy range of the other entries has two ends: a peer's rule, |x < 100|, has only one
    assert (
        ends(terminations.hopper, [1.2, 0.0, 101.0, 0.0], [1.2, 0.0, -101.0, 0.0], [1.2, 0.0, 0.0, NAN]) == [True] * 3
    )


def test_walker2d() -> None:
    assert ends(terminations.walker2d, [0.81, 0.99], [1.99, -0.99]) == [False, False]
    assert ends(terminations.walker2d, [0.79, 0.0], [2.01, 0.0], [1.2, 1.01], [1.2, -1.01], [NAN, 0.0]) == [True] * 5


def test_ant() -> None:
    fine = [0.5] + [0.0] * 26
    contacts = [NAN] * 3  # after the state, so the environment does not look at them
    assert ends(terminations.ant, [0.2, *fine[1:]], [1.0, *fine[1:]], fine) == [False] * 3
    assert ends(terminations.ant, [0.19, *fine[1:]], [1.01, *fine[1:]], [*fine[:26], math.inf]) == [True] * 3
    assert ends(terminations.ant, [*fine, *contacts]) == [False]


def test_humanoid() -> None:
    assert ends(terminations.humanoid, [1.01, 9.0], [1.99, 9.0], [1.0, 9.0], [2.0, 9.0]) == [False, False, True, True]


def test_inverted_pendulum() -> None:
    rule = terminations.inverted_pendulum
    assert ends(rule, [9.0, 0.19, 9.0, 9.0], [9.0, -0.19, 9.0, 9.0]) == [False, False]
    assert ends(rule, [0.0, 0.21, 0.0, 0.0], [0.0, -0.21, 0.0, 0.0], [0.0, 0.0, 0.0, math.inf]) == [True] * 3


def test_inverted_double_pendulum() -> None:
    def at(first: float, second: float) -> list[float]:
        return [0.3, math.sin(first), math.sin(second), math.cos(first), math.cos(second), 0.0, 0.0, 0.0, 0.0]

    # the tip is at 0.6 cos(first) + 0.6 cos(first + second)
    found = ends(terminations.inverted_double_pendulum, at(0, 0), at(0.5, -0.5), at(0.5, 0.3), at(0, math.pi / 2))
    assert found == [False, False, True, True]


@pytest.mark.parametrize("rule", [terminations.hopper, terminations.walker2d, terminations.never])
def test_rules_keep_leading_axes(rule) -> None:
    assert rule(torch.zeros(2, 3, 4), torch.zeros(2, 3, 1), torch.zeros(2, 3, 4)).shape == (2, 3)
