import json
import math

import numpy as np
import pytest

from mbrl.evaluation.estimates import Estimate, Refused, bootstrap


def test_the_interval_is_that_of_the_mean_of_a_normal_sample():
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    estimate = bootstrap(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)  # central limit theorem
    assert estimate.value == pytest.approx(values.mean(), abs=1e-12)
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.02)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.02)
    assert estimate.effective_n == 400


def test_it_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = [e.low <= 1.0 <= e.high for e in (bootstrap(rng.exponential(1.0, 60), level=0.9) for _ in range(150))]
    assert 0.83 <= np.mean(hits) <= 0.97


def test_it_is_decided_by_its_seed_and_leaves_global_randomness_alone():
    values = np.arange(20.0)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3) != bootstrap(values, seed=4)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_a_wider_level_gives_a_wider_interval():
    values = np.arange(30.0)
    narrow, wide = bootstrap(values, level=0.5), bootstrap(values, level=0.99)
    assert wide.low < narrow.low < 14.5 < narrow.high < wide.high


def test_repeats_of_one_start_state_are_averaged_and_not_counted():
    starts = np.array([1.0, 2.0, 4.0, 9.0])
    repeats = starts[:, None] + np.array([-1.0, 0.0, 1.0])
    assert bootstrap(repeats) == bootstrap(starts)
    assert bootstrap(repeats.T, axis=1) == bootstrap(starts)


@pytest.mark.parametrize("constant", [0.0, 0.1, -262.3, 1e-300])
def test_equal_values_have_no_spread(constant):
    assert bootstrap(np.full(7, constant))[:4] == (constant, constant, constant, 7)


def test_a_single_value_says_nothing_about_its_spread():
    assert bootstrap([3.0])[:4] == (3.0, -math.inf, math.inf, 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_interval(bad):
    estimate = bootstrap([1.0, bad, 2.0])
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    assert not math.isfinite(estimate.value)


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0] * 99 + [1.0], [1.0, 1.0 + 1e-12, 1.0], [-1e300, 1e300, 0.0]])
def test_lopsided_samples_still_have_a_finite_interval_in_order(values):
    estimate = bootstrap(values)
    assert math.isfinite(estimate.low)
    assert estimate.low <= estimate.high < math.inf


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"shape \(0,\): there is nothing"):
        bootstrap([])
    with pytest.raises(ValueError, match=r"shape \(3, 0\)"):
        bootstrap(np.empty((3, 0)))
    with pytest.raises(ValueError, match="level is 95"):
        bootstrap([1.0, 2.0], level=95)


def test_percentiles_and_lower_bounds_of_a_lopsided_sample():
    values = np.random.default_rng(2).exponential(1.0, 80)
    draws = np.random.default_rng(5).choice(values, (20_000, 80)).mean(1)
    plain = bootstrap(values, level=0.9, method="percentile")
    below = bootstrap(values, level=0.95, method="percentile", side="lower")
    assert (plain.low, plain.high) == pytest.approx(np.quantile(draws, [0.05, 0.95]), abs=0.01)
    assert below.low == pytest.approx(plain.low, abs=1e-9)  # 5% lie below in both
    assert below.high == math.inf
    assert bootstrap(values, level=0.9).high > plain.high  # the acceleration follows the long tail


def test_an_estimate_is_four_numbers_and_how_they_came_about():
    plain = Estimate(1.0, 0.5, 2.0, 10)
    assert plain.to_dict() == {"value": 1.0, "low": 0.5, "high": 2.0, "effective_n": 10, "diagnostics": {}}
    told = bootstrap([1.0, 2.0, 4.0], level=0.9).to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["diagnostics"] == {"interval": "BCa", "level": 0.9}
    with pytest.raises(ValueError, match="no propensities"):
        raise Refused("no propensities")
