"""Bounds over members and start states by hand, and differences that are paired where they can be."""

import math

import numpy as np
import pytest
from scipy import stats

from mbrl.evaluation.combining import choose
from mbrl.evaluation.estimates import Estimate
from mbrl.evaluation.opinions import Answer, Opinion, apart
from mbrl.evaluation.panel import Heard, preference
from mbrl.evaluation.twoway import spread_over


def test_members_that_agree_leave_the_spread_of_the_starts() -> None:
    """Two equal members, starts 1, 2, 3: mean 2, variance 1, so the error is 1/sqrt(3), with 2 degrees of freedom."""
    found = spread_over(np.array([[1.0, 2.0, 3.0]] * 2), 0.9)
    half = stats.t.ppf(0.9, 2) / math.sqrt(3)
    assert found[:4] == pytest.approx((2.0, 2.0 - half, 2.0 + half, 3))
    assert found.diagnostics["members"] == 2
    assert spread_over(np.array([[1.0, 2.0, 3.0]]), 0.9)[:3] == pytest.approx(found[:3])


def test_starts_that_agree_leave_the_spread_of_the_members_undivided() -> None:
    """Members 0, 2, 4, whatever the start: mean 2, variance 4, one more draw has 4 (1 + 1/3), 2 degrees of freedom."""
    found = spread_over(np.repeat([[0.0], [2.0], [4.0]], 50, axis=1), 0.9)
    half = stats.t.ppf(0.9, 2) * math.sqrt(4 * 4 / 3)
    assert found[:4] == pytest.approx((2.0, 2.0 - half, 2.0 + half, 50))


def test_both_spreads_count() -> None:
    """[[0, 2], [4, 6]]: starts' means 2, 4 (variance 2, over 2: 1); members' means 1, 5 (variance 8, times 1.5: 12)."""
    found = spread_over(np.array([[0.0, 2.0], [4.0, 6.0]]), 0.9)
    welch = 13**2 / (1 / 1 + 144 / 1)
    assert found.diagnostics["degrees_of_freedom"] == pytest.approx(welch)
    assert found.low == pytest.approx(3 - stats.t.ppf(0.9, welch) * math.sqrt(13))


def test_what_has_no_spread_or_no_number() -> None:
    assert spread_over(np.full((3, 4), 7.0), 0.9)[:4] == (7.0, 7.0, 7.0, 4)
    assert spread_over(np.array([[1.0], [2.0]]), 0.9)[:4] == (1.5, -math.inf, math.inf, 1)
    broken = spread_over(np.array([[1.0, math.nan], [2.0, 3.0]]), 0.9)
    assert math.isnan(broken.low)
    assert math.isnan(broken.high)
    with pytest.raises(ValueError, match=r"shape \[0, 4\], expected \[members, starts\]"):
        spread_over(np.zeros((0, 4)), 0.9)
    with pytest.raises(ValueError, match=r"level is 0\.5, expected a one-sided level"):
        spread_over(np.zeros((2, 4)), 0.5)


def test_the_bounds_hold_for_one_more_member_as_often_as_they_say() -> None:
    """Members' errors are normal with spread 3, starts with spread 5: the truth is the mean of one more member."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        truth, *members = rng.normal(0, 3, 6)
        values = np.array(members)[:, None] + rng.normal(0, 5, 40)
        covered += spread_over(values, 0.9).low <= truth
    assert 0.88 <= covered / 2000 <= 0.93


def opinion(paired: bool) -> Opinion:
    good, poor = np.array([[3.0, 13.0], [3.0, 13.0]]), np.array([[1.0, 11.0], [1.0, 11.0]])
    log = np.array([[0.0, 10.0]])
    samples = {"good": good, "poor": poor}
    answers = {k: Answer(spread_over(v, 0.9), v if paired else None) for k, v in samples.items()}
    return Opinion(1.0, 4.0, 0.9, Answer(spread_over(log, 0.9), log), answers, {})


def test_a_paired_gain_is_free_of_what_starts_have_in_common() -> None:
    paired = opinion(paired=True)
    assert paired.gain("good", "poor")[:4] == (2.0, 2.0, 2.0, 2)
    assert paired.gain("good")[:3] == (3.0, 3.0, 3.0)
    assert paired.score("good")[:3] == (0.75, 0.75, 0.75)


def test_a_gain_without_pairs_has_the_width_of_both() -> None:
    loose = opinion(paired=False)
    gain = loose.gain("good", "poor")
    half = loose.answers["good"].estimate.high - 8
    assert gain[:3] == pytest.approx((2.0, 2 - math.sqrt(2) * half, 2 + math.sqrt(2) * half))
    assert loose.gain("poor").value == 1.0


def test_the_difference_of_two_estimates_by_hand() -> None:
    assert apart(Estimate(10, 7, 12, 9), Estimate(4, 1, 8, 5))[:4] == (6, 1.0, 6 + math.hypot(2, 3), 5)
    assert apart(Estimate(10, -math.inf, math.inf, 1), Estimate(4, 1, 8, 5))[:3] == (6, -math.inf, math.inf)


def thought(**values: tuple[float, float]) -> Opinion:
    """Value and lower bound of each policy, beside a log of 10 with a spread of 2."""
    answers = {name: Answer(Estimate(value, low, 2 * value - low, 9)) for name, (value, low) in values.items()}
    return Opinion(1.0, 2.0, 0.9, Answer(Estimate(10.0, 10.0, 10.0, 9)), answers, {})


SURE = dict.fromkeys("abcd", True)


def test_a_policy_is_preferred_for_its_value_by_the_kind_that_chooses() -> None:
    """What varies more is not worth less: the gate has seen to its bounds."""
    heard = Heard({"model": thought(a=(16, 11), b=(14, 13)), "fqe": thought(a=(12, 11), b=(18, 17))}, {})
    assert [preference(heard, name, "model", "lowest") for name in "ab"] == [3.0, 2.0]
    assert [preference(heard, name, "fqe", "lowest") for name in "ab"] == [1.0, 4.0]
    assert preference(heard, "c", "model", "lowest") is None


def test_without_that_kind_or_where_nothing_is_trusted_by_the_combined_lower_bound() -> None:
    model, critic = thought(a=(16, 11), b=(14, 13)), thought(a=(12, 11), b=(18, 17))
    for heard in (Heard({"model": model, "fqe": critic}, {}, {"model+fqe": "fqe"}), Heard({"fqe": model}, {})):
        assert [preference(heard, name, "model", "lowest") for name in "ab"] == [0.5, 1.5]
    assert preference(Heard({"fqe": critic}, {"model": "there is none"}), "a", "model", "lowest") is None


def test_the_most_preferred_of_those_that_may_be_promoted_is_chosen_and_else_the_safest() -> None:
    preferences = {"a": 3.0, "b": 2.0, "c": None, "d": math.nan}
    gains = {"a": Estimate(3, 0.5, 8, 9), "b": Estimate(2, 1, 5, 9), "c": None, "d": Estimate(0, math.nan, 1, 9)}
    assert choose(preferences, dict.fromkeys("abcd", True), gains, 0.5, SURE) == "a"
    assert choose(preferences, {"a": False, "b": True, "c": True, "d": True}, gains, 0.5, SURE) == "b"
    assert choose(preferences, dict.fromkeys("abcd", False), gains, 0.5, SURE) == "b"
    assert choose(preferences, {"a": False, "b": False, "c": True, "d": True}, gains, 0.5, SURE) is None
    assert (
        choose(preferences, dict.fromkeys("abcd", False), gains, 0.5, SURE | {"b": False}) == "a"
    )  # b's bounds nothing
    assert choose(preferences, dict.fromkeys("abcd", False), gains, 0.5, dict.fromkeys("abcd", False)) is None
    losses = {name: gain and gain._replace(value=gain.value - 3, low=gain.low - 3) for name, gain in gains.items()}
    assert choose(preferences, dict.fromkeys("abcd", False), losses, 0.5, SURE) is None
    nothing = {"c": None, "d": math.nan}
    assert choose(nothing, dict.fromkeys("cd", False), {name: gains[name] for name in "cd"}, 0.5, SURE) is None


def test_of_those_that_are_preferred_alike_the_safest_is_chosen() -> None:
    """On a log whose best is easily reached a simulator values all good policies the same, and some bad ones."""
    preferences = {"a": 7.0, "b": 6.9, "c": 6.8, "d": 6.95}
    gains = {"a": Estimate(2, 0.7, 3, 9), "b": Estimate(2, 1.7, 3, 9), "c": Estimate(2, 1.9, 3, 9), "d": None}
    every = dict.fromkeys("abcd", True)
    assert choose(preferences, every, gains, 0.1 + 1e-9, SURE) == "b"
    assert choose(preferences, every, gains, 0.3, SURE) == "c"
    assert choose(preferences, every, gains, 0.0, SURE) == "a"
    assert (
        choose({"a": 7.0, "d": 7.0}, {"a": True, "d": True}, gains, 0.1, SURE) == "a"
    )  # what has a bound before what has none
    assert choose({"d": 7.0}, {"d": True}, gains, 0.1, SURE) == "d"
