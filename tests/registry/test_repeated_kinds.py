"""Kinds of estimators that would repeat another one: counted once, and the lowest of the others decides."""

from dataclasses import replace

import pytest
from gate_toys import GOOD, RULES, view

from mbrl.registry.gates import decide

THREE = replace(RULES, kinds=("model", "mixed", "fqe"), least_agreement=0.6)
REPEATED = GOOD._replace(repeats={"mixed": "fqe"})


def test_a_kind_that_repeats_another_is_counted_once_and_the_lowest_decides() -> None:
    """Gains in spreads are 2 to 4 and 2 to 6: the lowest bounds are 2, their median would be the mean of both."""
    verdict = decide(REPEATED, THREE)
    assert verdict.promote
    values = {rule.name: rule.value for rule in verdict.rules}
    assert values["upper bound of the gain over the log"] == 4
    assert values["share of the kinds that see a gain over the log"] == 1
    assert "mixed is missing: it was not asked" in decide(GOOD, THREE).reasons
    for kind, bad in (("model", view(-5, 30, 40)), ("fqe", view(-1, 8, 12, spread=2.0))):  # either has a veto
        refused = decide(REPEATED._replace(views={**REPEATED.views, kind: bad}), THREE)
        assert refused.outcome == "no evidence of improvement"
        assert refused.reasons[0].startswith("lower bound of the gain over the log: -0.5 is not above 0")


@pytest.mark.parametrize(
    ("repeats", "message"),
    [
        ({"mixed": "dr"}, "mixed is missing: it was not asked"),
        ({"mixed": "fqe", "model": "fqe"}, "mixed repeats fqe, model repeats fqe: 1 of 3 kinds is left"),
        ({"mixed": "fqe", "fqe": "mixed"}, "mixed repeats fqe, fqe repeats mixed: 1 of 3 kinds is left"),
        ({"mixed": "mixed", "fqe": "fqe", "model": "model"}, "0 of 3 kinds is left"),
    ],
)
def test_repetitions_promote_nothing_by_themselves(repeats: dict[str, str], message: str) -> None:
    verdict = decide(GOOD._replace(repeats=repeats), THREE)
    assert verdict.outcome == "no evidence of improvement"
    assert message in "; ".join(verdict.reasons)
