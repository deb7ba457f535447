"""Arguments that learners share are refused where they are out of range, before anything is learned."""

from collections.abc import Callable
from typing import Any

import pytest

from mbrl.core import Batch, Learner, Spec
from policies import AWAC, AWR, BCQ, COMBO, CQL, EDAC, IQL, MOBILE, RAMBO, SAC, TD3BC, DiscreteBCQ, ReBRAC

Problem = Callable[[bool], tuple[Spec, Batch]]
VALUED = [AWAC, BCQ, COMBO, CQL, EDAC, IQL, MOBILE, RAMBO, SAC, TD3BC, ReBRAC]


@pytest.mark.parametrize("cls", [*VALUED, AWR, DiscreteBCQ])
def test_a_discount_beyond_1_is_refused(cls: type[Learner], problem: Problem) -> None:
    with pytest.raises(ValueError, match=r"discount is 1\.5, expected from 0 to 1"):
        cls(problem(cls is DiscreteBCQ)[0], hidden=(4,), discount=1.5)


@pytest.mark.parametrize("cls", [*VALUED, DiscreteBCQ])
@pytest.mark.parametrize("tau", [0.0, 5.0])
def test_a_rate_beyond_1_is_refused(cls: type[Learner], tau: float, problem: Problem) -> None:
    with pytest.raises(ValueError, match=rf"tau is {tau}, expected above 0 and up to 1"):
        cls(problem(cls is DiscreteBCQ)[0], hidden=(4,), tau=tau)


@pytest.mark.parametrize("cls", [cls for cls in VALUED if cls is not EDAC])
def test_no_critic_is_none(cls: type[Learner], problem: Problem) -> None:
    with pytest.raises(ValueError, match="critics is 0, expected at least 1"):
        cls(problem(False)[0], hidden=(4,), critics=0)


@pytest.mark.parametrize("cls", [COMBO, CQL])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"conservatism": -1.0}, r"conservatism is -1\.0, expected 0 \(none\) or more"),
        ({"samples": 0}, "samples is 0, expected at least 1 action"),
    ],
)
def test_a_gap_needs_a_weight_and_actions(
    cls: type[Learner], arguments: dict[str, Any], told: str, problem: Problem
) -> None:
    with pytest.raises(ValueError, match=told):
        cls(problem(False)[0], hidden=(4,), **arguments)


@pytest.mark.parametrize("cls", [TD3BC, ReBRAC])
def test_every_step_of_the_critics_has_its_rows(cls: type[Learner], problem: Problem) -> None:
    spec, rows = problem(False)
    learner: Any = cls(spec, hidden=(4,), delay=4)
    for count, sizes in (10, [3, 3, 2, 2]), (9, [3, 2, 2, 2]), (4, [1, 1, 1, 1]):
        shares = learner.agent.shares(Batch(*(column[:count] for column in rows)))
        assert [len(share.reward) for share in shares] == sizes
    with pytest.raises(ValueError, match=r"has 3 rows for 4 steps of the critics \(delay\): raise batch_size"):
        learner.agent.shares(Batch(*(column[:3] for column in rows)))
