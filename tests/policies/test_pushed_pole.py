"""Learners of Box actions on a small log of CartPole that is pushed with any force: they do better than the log."""

from typing import Any

import pytest
from pole_toys import BOLD, BOX, BRIEF, CUT, FAST, LOGGED, PENALISED, SMALL, SOFT, Problem

from mbrl.core import Learner
from policies import AWAC, AWR, BC, BCQ, CQL, EDAC, IQL, TD3BC, Planning, ReBRAC

FEW = {"candidates": 32, "rounds": 2}
SOFT_AGENT = {"class_path": "policies.SAC", "init_args": SOFT}
CEM, MPPI = ({"class_path": f"policies.{name}", "init_args": FEW} for name in ("CEM", "MPPI"))
MADE: dict[str, tuple[type[Learner], dict[str, Any], dict[str, Any]]] = {
    "td3bc": (TD3BC, {**FAST, "alpha": 10.0}, LOGGED),
    "rebrac": (ReBRAC, {**FAST, "actor_penalty": 0.001, "critic_penalty": 0.001}, LOGGED),
    "edac": (EDAC, {**SOFT, "critics": 4}, {**LOGGED, **BRIEF}),
    "cql": (CQL, {**SOFT, "conservatism": 1.0, "samples": 4}, LOGGED),
    "iql": (IQL, SMALL, LOGGED),
    "awac": (AWAC, SMALL, LOGGED),
    "awr": (AWR, SMALL, {**LOGGED, **BRIEF}),
    "bcq": (BCQ, SMALL, LOGGED),
    "ravl": (EDAC, {**SOFT, "critics": 4}, {**BOLD, **BRIEF}),
    "cem": (Planning, {"learner": SOFT_AGENT, "planner": CEM, "horizon": 5}, {**PENALISED, **BRIEF}),
    "mppi": (Planning, {"learner": SOFT_AGENT, "planner": MPPI, "horizon": 5}, {**PENALISED, **BRIEF}),
}


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem.of(BOX)


def test_imitation_drops_it_as_most_of_the_log_does(problem: Problem) -> None:
    """A policy that holds the pole gets 150, the log 14 on average and 60 at most."""
    assert 12 < float(problem.data.returns().mean()) < 18
    assert problem.earned(BC, SMALL, LOGGED) < 20


@pytest.mark.parametrize("name", MADE)
def test_who_learns_from_the_reward_holds_it_for_longer_than_anybody_in_the_log(name: str, problem: Problem) -> None:
    assert problem.earned(*MADE[name]) > CUT
