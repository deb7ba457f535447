"""Intervals: formulas by hand, and coverage of known means at least as large as said."""

import math
from functools import partial

import numpy as np
import pytest
from scipy import stats

from mbrl.evaluation.estimates import bootstrap
from mbrl.evaluation.intervals import empirical_bernstein, hoeffding, iqm, over_seeds, resampled, student_t

UNIT = {"lowest": 0.0, "highest": 1.0}


def mean_of(values: np.ndarray):
    """A statistic of counts that is the mean."""
    return lambda counts: counts @ values / counts.sum(1)


def resampled_mean(values, level, side="both", **options):
    return resampled(mean_of(np.asarray(values)), len(values), level, side=side, resamples=500, **options)


def test_student_t_by_hand():
    values = [1.0, 2.0, 3.0, 4.0]  # mean 2.5, variance 5/3
    half = 3.182446 * math.sqrt(5 / 3 / 4)  # t at 0.975 with 3 degrees of freedom
    assert student_t(values).numbers == pytest.approx(
        {"value": 2.5, "low": 2.5 - half, "high": 2.5 + half, "effective_n": 4}, abs=1e-6
    )
    below = student_t(values, side="lower")
    assert below.low == pytest.approx(2.5 - 2.353363 * math.sqrt(5 / 3 / 4), abs=1e-6)  # t at 0.95
    assert below.high == math.inf


@pytest.mark.parametrize(("n", "half"), [(100, 0.1358), (10_000, 0.01358)])
def test_hoeffding_by_hand(n, half):
    values = np.tile([0.25, 0.75], n // 2)
    estimate = hoeffding(values, 0.95, **UNIT)
    assert estimate.high - estimate.value == pytest.approx(half, abs=1e-4)  # sqrt(ln(40) / 2 n)
    assert estimate.value - estimate.low == pytest.approx(half, abs=1e-4)
    below = hoeffding(values, 0.95, **UNIT, side="lower")
    assert below.value - below.low == pytest.approx(math.sqrt(math.log(20) / (2 * n)), abs=1e-12)
    assert below.high == 1.0


def test_empirical_bernstein_by_hand():
    values = np.tile([0.25, 0.75], 500)  # variance 1000 / 999 / 16
    log = math.log(2 / 0.05)
    half = math.sqrt(2 * 1000 / 999 / 16 * log / 1000) + 7 * log / (3 * 999)
    below = empirical_bernstein(values, 0.95, **UNIT, side="lower")
    assert below.value - below.low == pytest.approx(half, abs=1e-12)
    twice = empirical_bernstein(values * 20, 0.95, lowest=0, highest=20, side="lower")
    assert twice.value - twice.low == pytest.approx(20 * half, abs=1e-10)
    assert empirical_bernstein(np.full(1000, 0.5), **UNIT).high < hoeffding(np.full(1000, 0.5), **UNIT).high


@pytest.mark.parametrize("bound", [hoeffding, empirical_bernstein])
def test_the_range_is_known_beforehand(bound):
    with pytest.raises(TypeError, match="lowest"):
        bound([0.1, 0.2])
    with pytest.raises(ValueError, match=r"1 of 2 values are outside of \[0, 1\], first 1\.5"):
        bound([0.1, 1.5], **UNIT)
    with pytest.raises(ValueError, match="outside"):
        bound([0.1, math.nan], **UNIT)
    with pytest.raises(ValueError, match=r"the range is \[1, 1\]"):
        bound([1.0], lowest=1, highest=1)
    with pytest.raises(ValueError, match="the range is"):
        bound([1.0], lowest=0, highest=math.inf)
    assert bound([0.5], **UNIT)[:3] == (0.5, 0.0, 1.0)  # a single value leaves the range open


INTERVALS = {
    "Student t": student_t,
    "BCa": bootstrap,
    "percentile": partial(bootstrap, method="percentile"),
    "whole BCa": resampled_mean,
    "whole percentile": partial(resampled_mean, method="percentile"),
    "Hoeffding": partial(hoeffding, **UNIT),
    "empirical Bernstein": partial(empirical_bernstein, **UNIT),
}


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr("mbrl.evaluation.estimates.RESAMPLES", 500)


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("side", ["both", "lower"])
@pytest.mark.parametrize("interval", INTERVALS.values(), ids=INTERVALS)
def test_the_truth_is_covered_at_least_as_often_as_said(interval, side):
    """Uniform values in [0, 1]: of 200 intervals of 90 % no fewer hold 0.5 than chance allows, 3 standard errors."""
    rng, level, trials = np.random.default_rng(11), 0.9, 200
    found = [interval(rng.random(50), level, side=side) for _ in range(trials)]
    hits = [e.low <= 0.5 <= e.high for e in found]
    assert np.mean(hits) >= level - 3 * math.sqrt(level * (1 - level) / trials)
    if interval in (INTERVALS["Student t"], INTERVALS["BCa"], INTERVALS["percentile"]):  # not vacuous either
        assert np.mean(hits) <= level + 3 * math.sqrt(level * (1 - level) / trials)


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("interval", INTERVALS.values(), ids=INTERVALS)
def test_the_width_shrinks_with_the_root_of_n(interval):
    rng = np.random.default_rng(12)
    guaranteed = interval is INTERVALS["empirical Bernstein"]  # its second term shrinks with n itself
    widths = []
    for n in (6400, 102_400) if guaranteed else (100, 1600):
        estimate = interval(rng.random(n), 0.9)
        widths.append(estimate.high - estimate.low)
    slack = 1.25 if guaranteed else 1.15
    assert 4 / slack <= widths[0] / widths[1] <= 4 * slack


@pytest.mark.parametrize("interval", [student_t, bootstrap, resampled_mean])
def test_what_has_no_spread_or_no_number(interval):
    assert interval([2.0, 2.0, 2.0], 0.9)[:3] == (2.0, 2.0, 2.0)
    assert interval([2.0], 0.9)[:3] == (2.0, -math.inf, math.inf)
    assert np.isnan(interval([2.0, math.nan], 0.9)[1:3]).all()
    with pytest.raises(ValueError, match="nothing to estimate from"):
        interval([], 0.9)
    with pytest.raises(ValueError, match="level is 95"):
        interval([1.0, 2.0], 95)


def test_a_whole_estimator_is_made_anew_in_every_resample():
    """A ratio of means: the bootstrap of the ratio, not of its terms with the denominator held still."""
    rng = np.random.default_rng(3)
    weight = rng.exponential(1.0, 200)
    paid = weight * (5.0 + 0.1 * rng.standard_normal(200))

    def ratio(counts: np.ndarray) -> np.ndarray:
        return counts @ paid / (counts @ weight)

    whole = resampled(ratio, 200, 0.9)
    still = bootstrap(paid / weight.mean(), 0.9)
    assert whole.value == pytest.approx(paid.sum() / weight.sum(), abs=1e-12)
    assert whole.low < 5.0 < whole.high
    assert whole.high - whole.low < 0.1 * (still.high - still.low)
    assert resampled(ratio, 200, 0.9) == whole
    assert whole.diagnostics == {"interval": "BCa", "level": 0.9, "resamples": 9999}


def test_the_whole_bootstrap_of_a_mean_is_that_of_its_values():
    values = np.random.default_rng(4).exponential(1.0, 60)
    whole, plain = resampled(mean_of(values), 60, 0.9, resamples=9999), bootstrap(values, 0.9)
    assert whole[:3] == pytest.approx(plain[:3], abs=0.01)


def test_iqm_is_the_mean_of_the_middle_half():
    assert iqm([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 700.0]]) == (2 + 3 + 4 + 5) / 4
    assert iqm([1.0, 2.0, 9.0]) == 4.0  # a quarter of three values is none


def test_seeds_are_drawn_within_their_task():
    scores = np.array([[0.0, 100.0], [2.0, 100.0]])  # the second task does not vary: half of each mean is 100
    estimate = over_seeds(scores, 0.9, statistic=np.mean)
    assert estimate[:4] == (50.5, 50.0, 51.0, 2)  # 0 or 2 twice have a chance of a quarter each
    assert over_seeds([1.0], 0.9)[:4] == (1.0, -math.inf, math.inf, 1)
    for bad in ([], [[1.0, math.nan]], np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match=r"expected finite numbers \[seeds, tasks\]"):
            over_seeds(bad)


def test_the_interval_of_three_seeds_is_their_range():
    """One in 27 resamples is three times the lowest: more than the 2.5 % that a bound may leave below it."""
    assert over_seeds([1.0, 2.0, 6.0], 0.95, statistic=np.mean)[:4] == (3.0, 1.0, 6.0, 3)


def test_the_iqm_over_seeds_covers_the_truth():
    rng, trials = np.random.default_rng(6), 60
    truth = 0.0  # of a symmetric distribution around 0 in each of 4 tasks
    found = [over_seeds(rng.standard_normal((20, 4)), 0.9, resamples=200) for _ in range(trials)]
    hits = [e.low <= truth <= e.high for e in found]
    assert np.mean(hits) >= 0.9 - 3 * math.sqrt(0.09 / trials)
    wide = np.mean([e.high - e.low for e in found])
    narrow = over_seeds(rng.standard_normal((320, 4)), 0.9, resamples=300)
    assert wide / (narrow.high - narrow.low) == pytest.approx(4, rel=0.25)
    assert stats.norm.cdf(narrow.low) < 0.5 < stats.norm.cdf(narrow.high)
