"""Judges of known worth, by hand: four policies whose true values are 0, 1, 2 and 4."""

import math

import pytest

from mbrl.evaluation.combining import agreement, combine, in_spreads
from mbrl.evaluation.estimates import Estimate
from mbrl.evaluation.judging import Score, score

TRUTH = {"a": 0.0, "b": 1.0, "c": 2.0, "d": 4.0}


def said(**values: float) -> dict[str, Estimate]:
    return {name: Estimate(value, value - 1, value + 1, 10) for name, value in values.items()}


def test_a_judge_that_is_right() -> None:
    assert score(TRUTH, said(**TRUTH)) == Score(4, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0)


def test_a_judge_that_takes_the_second_worst_for_the_best() -> None:
    """Said 0, 9, 2, 4: ranks 1, 4, 2, 3 against 1, 2, 3, 4, so rho = 1 - 6 * (0 + 4 + 1 + 1) / (4 * 15) = 0.4.

    Its best is worth 1 of 0 to 4: regret 3/4; among its best three (b, d, c) is the best of all. Off by 8 once in four;
    its bound of b, 8, is above 1.
    """
    found = score(TRUTH, said(a=0, b=9, c=2, d=4))
    assert found == Score(4, pytest.approx(0.4), 0.75, 0.0, 2.0, 0.75, pytest.approx(0.4))


def test_a_judge_that_has_it_upside_down() -> None:
    found = score(TRUTH, said(a=4, b=2, c=1, d=0))
    assert (found.rank_correlation, found.regret_1, found.regret_3) == (pytest.approx(-1.0), 1.0, 0.5)


def test_what_cannot_be_told_apart_is_chosen_as_badly_as_can_be() -> None:
    found = score(TRUTH, said(a=1, b=1, c=1, d=1))
    assert (found.rank_correlation, found.regret_1, found.regret_3) == (None, 1.0, 0.5)


def test_a_policy_without_an_estimate_is_not_chosen_and_the_regret_counts_it() -> None:
    """Of all, c and d share the lowest rank: 3, 4, 1.5, 1.5 against 1 to 4 correlate with -3.5 / sqrt(4.5 x 5)."""
    found = score(TRUTH, said(a=0, b=1, c=math.nan))
    assert found == Score(2, pytest.approx(1.0), 0.75, 0.75, 0.0, 1.0, pytest.approx(-3.5 / math.sqrt(4.5 * 5)))
    assert score(TRUTH, {}) == Score(0, None, None, None, None, None, None)


def test_policies_of_one_value_have_no_regret() -> None:
    assert score({"a": 1.0, "b": 1.0}, said(a=1, b=2)) == Score(2, None, None, None, 0.5, 1.0, None)


def test_a_bound_without_end_covers() -> None:
    assert score(TRUTH, {"a": Estimate(3.0, -math.inf, math.inf, 1)}).coverage == 1.0


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="there are 1 policies of known value"):
        score({"a": 1.0}, {})
    with pytest.raises(ValueError, match="the true value of b is not finite"):
        score({"a": 1.0, "b": math.nan}, {})
    with pytest.raises(ValueError, match="no true value of z"):
        score(TRUTH, said(z=1.0))


GAINS = {"model": Estimate(1.0, 0.5, 1.5, 40), "fqe": Estimate(3.0, -1.0, 9.0, 12), "dice": Estimate(-2.0, -9, 1.0, 7)}


def test_kinds_are_combined_by_their_middle_or_the_least_of_them() -> None:
    assert combine(GAINS) == Estimate(1.0, -1.0, 1.5, 7)
    assert combine(GAINS, "lowest") == Estimate(-2.0, -9.0, 1.0, 7)
    two = {name: GAINS[name] for name in ("model", "fqe")}
    assert combine(two) == Estimate(2.0, -0.25, 5.25, 12)
    assert agreement(GAINS) == 2 / 3
    assert agreement({"flat": Estimate(0.0, -1, 1, 3)}) == 0.0


def test_nothing_is_left_out_in_silence() -> None:
    broken = combine({**GAINS, "is": Estimate(math.nan, math.nan, math.nan, 3)})
    assert math.isnan(broken.value)
    assert math.isnan(broken.low)
    for function in (combine, agreement):
        with pytest.raises(ValueError, match="there is no kind of estimator"):
            function({})


def test_gains_are_told_in_spreads() -> None:
    assert in_spreads(Estimate(10.0, 5.0, 20.0, 8), 5.0) == Estimate(2.0, 1.0, 4.0, 8)
    for spread in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="the spread of the logged returns is"):
            in_spreads(Estimate(1.0, 1.0, 1.0, 1), spread)
