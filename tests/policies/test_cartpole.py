"""Learners on a small log of CartPole, most of whose rows are of a controller that drops the pole: they do better."""

from typing import Any

import pytest
from pole_toys import BOLD, CRITICS, CUT, DISCRETE, HALTED, HASTY, LOGGED, PENALISED, SMALL, SOFT, TRANSFORMER, Problem

from mbrl.core import Learner
from policies import AWAC, AWR, BC, COMBO, CQL, IQL, MOBILE, RAMBO, SAC, DecisionTransformer, DiscreteBCQ, Planning

SOFT_AGENT = {"class_path": "policies.SAC", "init_args": SOFT}
MCTS = {"class_path": "policies.MCTS", "init_args": {"simulations": 8}}
MADE: dict[str, tuple[type[Learner], dict[str, Any], dict[str, Any]]] = {
    "iql": (IQL, {**CRITICS, "value_lr": 3e-3}, LOGGED),
    "cql": (CQL, {**SOFT, "conservatism": 0.3}, LOGGED),
    "awac": (AWAC, CRITICS, LOGGED),
    "awr": (AWR, {**HASTY, "value_lr": 3e-3}, LOGGED),
    "discrete_bcq": (DiscreteBCQ, {**SMALL, "discount": 0.97, "tau": 0.02, "critic_lr": 3e-3}, LOGGED),
    "dt": (DecisionTransformer, TRANSFORMER, {**LOGGED, "batch_size": 64}),
    "mopo": (SAC, SOFT, PENALISED),
    "combo": (COMBO, SOFT, BOLD),
    "mobile": (MOBILE, {**SOFT, "samples": 3}, BOLD),
    "rambo": (RAMBO, SOFT, BOLD),
    "morel": (SAC, SOFT, HALTED),
    "mcts": (Planning, {"learner": SOFT_AGENT, "planner": MCTS, "horizon": 5}, PENALISED),
}


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem.of(DISCRETE)


def test_imitation_drops_it_as_most_of_the_log_does(problem: Problem) -> None:
    """A policy that holds the pole gets 100, the log 15 on average and 60 at most."""
    assert 12 < float(problem.data.returns().mean()) < 18
    assert problem.earned(BC, SMALL, LOGGED) < 15


@pytest.mark.parametrize("name", MADE)
def test_who_learns_from_the_reward_holds_it_for_longer_than_anybody_in_the_log(name: str, problem: Problem) -> None:
    assert problem.earned(*MADE[name]) > CUT
