import itertools
import math

import numpy as np
import pytest

from mbrl.evaluation.estimates import Estimate
from mbrl.registry.gates import Evidence, Rule, decide

GOOD = Evidence(
    logged=Estimate(100.0, 90.0, 110.0, 50),
    baseline=Estimate(120.0, 115.0, 125.0, 30),
    candidate=Estimate(150.0, 140.0, 160.0, 30),
)


def test_a_candidate_above_both_is_promoted_with_its_reasons():
    verdict = decide(GOOD)
    assert verdict.promote
    assert verdict.rules == (
        Rule("candidate beats the log", 140.0, 100.0, True),
        Rule("candidate beats behaviour cloning", 140.0, 120.0, True),
    )
    assert verdict.reasons == (
        "candidate beats the log: lower bound 140 is above 100",
        "candidate beats behaviour cloning: lower bound 140 is above 120",
    )


@pytest.mark.parametrize(
    ("low", "passed"),
    [(99.0, (False, False)), (100.0, (False, False)), (110.0, (True, False)), (120.0, (True, False))],
)
def test_the_lower_bound_must_be_strictly_above_both(low, passed):
    verdict = decide(GOOD._replace(candidate=Estimate(150.0, low, 160.0, 30)))
    assert not verdict.promote
    assert tuple(rule.passed for rule in verdict.rules) == passed
    assert len(verdict.reasons) == passed.count(False)
    assert all("is not above" in reason for reason in verdict.reasons)


def test_the_point_value_of_the_candidate_does_not_help_it():
    assert not decide(GOOD._replace(candidate=Estimate(1e9, 50.0, 2e9, 30))).promote


def test_the_baseline_counts_where_the_log_is_the_worse_one():
    evidence = GOOD._replace(baseline=Estimate(145.0, 140.0, 150.0, 30))
    assert [rule.passed for rule in decide(evidence).rules] == [True, False]


PLACES = list(itertools.product(Evidence._fields, Estimate._fields[:4]))


@pytest.mark.parametrize(("name", "field"), PLACES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_nan_or_infinity_anywhere_refuses_and_says_where(name, field, bad):
    evidence = GOOD._replace(**{name: getattr(GOOD, name)._replace(**{field: bad})})
    verdict = decide(evidence)
    assert not verdict.promote
    assert f"{name}.{field} is {bad}, expected a finite number" in verdict.reasons


@pytest.mark.parametrize(("name", "field"), PLACES)
@pytest.mark.parametrize("bad", [None, "150"])
def test_what_is_not_a_number_refuses(name, field, bad):
    verdict = decide(GOOD._replace(**{name: getattr(GOOD, name)._replace(**{field: bad})}))
    assert not verdict.promote
    assert f"{name}.{field} is {bad}, expected a finite number" in verdict.reasons


@pytest.mark.parametrize("name", Evidence._fields)
def test_an_interval_in_disorder_or_without_values_refuses(name):
    estimate = getattr(GOOD, name)
    upside_down = decide(GOOD._replace(**{name: estimate._replace(high=estimate.low - 1)}))
    empty = decide(GOOD._replace(**{name: estimate._replace(effective_n=0)}))
    assert not upside_down.promote
    assert not empty.promote
    assert f"{name} has its lower bound" in upside_down.reasons[0]
    assert empty.reasons == (f"{name} rests on 0 values, expected at least 1",)


def test_numpy_numbers_are_numbers():
    evidence = Evidence(*(Estimate(*map(np.float32, estimate[:4])) for estimate in GOOD))
    assert decide(evidence).promote
