"""The verdict on a fine-tuned version, from true returns."""

import numpy as np
import pytest

from mbrl.registry import verdicts
from mbrl.registry.decisions import Decision
from mbrl.registry.verdicts import TrueReturns, decide

OLD = np.array([1.0, 2.0, 3.0, 4.0])
LOGGED = np.array([0.0, 1.0])


def seen(gain: float, **changes: object) -> TrueReturns:
    """Every start gains the same, so that the bounds of the gain are the gain itself."""
    return TrueReturns(OLD, OLD + gain, LOGGED, "3", "3", False)._replace(**changes)


def test_a_gain_over_the_champion_and_the_log_promotes() -> None:
    outcome, reasons = decide(seen(2.0))
    assert outcome == "promote"
    assert reasons[0] == "lower bound of the true gain over version 3: 2 is above 0"
    assert reasons[2] == "version it was measured against: 3 is one of 3"
    assert decide(seen(2.0, champion=None))[0] == "promote"


@pytest.mark.parametrize(
    ("what", "outcome", "reason"),
    [
        (seen(0.0), "no evidence of improvement", "lower bound of the true gain over version 3: 0 is not above 0"),
        (seen(-1.0), "harmful", "lower bound of the true gain over version 3: -1 is not above 0"),
        (seen(2.0, champion="2"), "no evidence of improvement", "version it was measured against: 3 is not one of 2"),
        (
            seen(2.0, logged=np.array([50.0, 50.0])),
            "no evidence of improvement",
            "lower bound of the true gain over the log: -46.",
        ),
        (seen(9.0, handed_back=True), "handed back", "the newest true episodes returned less than the floor"),
    ],
)
def test_what_is_not_promoted_says_why(what: TrueReturns, outcome: str, reason: str) -> None:
    found, reasons = decide(what)
    assert found == outcome
    assert [one for one in reasons if one.startswith(reason)], reasons


def test_gains_are_paired_by_start() -> None:
    apart = seen(0.0, old=np.array([0.0, 100.0, 200.0, 300.0]), new=np.array([1.0, 102.0, 201.0, 302.0]))
    assert decide(apart)[0] == "promote"  # unpaired, a gain of 1.5 would be lost in the starts' own spread


def test_a_second_person_is_wanted_where_one_was_before(registry: object) -> None:
    before = verdicts.decision("toy", "1", "promote", ("why",), "f" * 64, "runs:/x/y.json")
    assert before == Decision("promote", "true returns 1", "f" * 64, ("why",), "runs:/x/y.json", False, "1")
    from mbrl.registry import promotion

    promotion.judge("toy", "1", before._replace(second_person=True))
    assert verdicts.decision("toy", "1", "promote", (), "f" * 64, "runs:/x/y.json").second_person


def test_bounds_of_two_episodes_are_as_wide_as_they_have_to_be() -> None:
    """Gains of 1 and 3: 2 - 3.078 sqrt(2 / 2), Student's 90 % quantile with one degree of freedom."""
    two = seen(0.0, old=np.array([0.0, 0.0]), new=np.array([1.0, 3.0]), logged=np.array([-9.0, -9.0]))
    outcome, reasons = decide(two)
    assert (outcome, reasons) == (
        "no evidence of improvement",
        ("lower bound of the true gain over version 3: -1.078 is not above 0",),
    )
