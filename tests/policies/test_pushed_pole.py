"""Learners of Box actions on a small log of CartPole that is pushed with any force: they do better than the log."""

from typing import Any

import pytest
from pole_toys import BOLD, BOX, CRITICS, CUT, HASTY, LOGGED, SMALL, SOFT, Problem

from mbrl.core import Learner
from policies import AWAC, AWR, BC, BCQ, CQL, EDAC, IQL, TD3BC, Planning, ReBRAC

FEW = {"candidates": 32, "rounds": 2}
SOFT_AGENT = {"class_path": "policies.SAC", "init_args": SOFT}
CEM, MPPI = ({"class_path": f"policies.{name}", "init_args": FEW} for name in ("CEM", "MPPI"))
MADE: dict[str, tuple[type[Learner], dict[str, Any], dict[str, Any]]] = {
    "td3bc": (TD3BC, {**CRITICS, "actor_lr": 1e-3, "critic_lr": 1e-3, "alpha": 30.0}, LOGGED),
    "rebrac": (
        ReBRAC,
        {**SMALL, "discount": 0.97, "tau": 0.02, "actor_penalty": 0.001, "critic_penalty": 0.001},
        LOGGED,
    ),
    "edac": (EDAC, {**SOFT, "critics": 4}, LOGGED),
    "cql": (CQL, {**SOFT, "conservatism": 0.1, "samples": 4}, LOGGED),
    "iql": (IQL, {**CRITICS, "value_lr": 3e-3}, LOGGED),
    "awac": (AWAC, CRITICS, LOGGED),
    "awr": (AWR, {**HASTY, "value_lr": 3e-3}, LOGGED),
    "bcq": (BCQ, {**CRITICS, "generator_lr": 3e-3}, LOGGED),
    "ravl": (EDAC, {**SOFT, "critics": 4}, BOLD),
    "cem": (Planning, {"learner": SOFT_AGENT, "planner": CEM, "horizon": 5}, BOLD),
    "mppi": (Planning, {"learner": SOFT_AGENT, "planner": MPPI, "horizon": 5}, BOLD),
}


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem.of(BOX)


def test_imitation_drops_it_as_most_of_the_log_does(problem: Problem) -> None:
    """A policy that holds the pole gets 100, the log 14 on average and 60 at most."""
    assert 12 < float(problem.data.returns().mean()) < 18
    assert problem.earned(BC, SMALL, LOGGED) < 20


@pytest.mark.parametrize("name", MADE)
def test_who_learns_from_the_reward_holds_it_for_longer_than_anybody_in_the_log(name: str, problem: Problem) -> None:
    assert problem.earned(*MADE[name]) > CUT
