"""What pieces of one series are worth as evidence: by hand, and by how often a bound of a known mean holds."""

import math

import numpy as np
import pytest
import torch
from scipy import signal, stats

from mbrl.data.series import Pieces
from mbrl.evaluation.intervals import resampled, student_t
from mbrl.evaluation.stretches import influence, known_mean, stretches
from mbrl.evaluation.twoway import spread_over


def one_series(count: int) -> Pieces:
    return Pieces(torch.zeros(count, dtype=torch.long), torch.arange(count))


def logs(persistence: float, pieces: int, steps: int, count: int) -> np.ndarray:
    """Returns [count, pieces] of an AR(1) reward with mean 0, in its stationary state from the first step on."""
    noise = np.random.default_rng(0).normal(size=(count, pieces * steps))
    noise[:, 0] /= math.sqrt(1 - persistence**2)
    return signal.lfilter([1], [1, -persistence], noise, axis=1).reshape(count, pieces, steps).sum(2)


def test_how_well_a_mean_is_known_by_hand() -> None:
    """Values 1, 3 and 4, 8 of two stretches: the mean is 4, the sums 4 and 12 are 4 below and above their due of 8.

    2 / 1 times (16 + 16) / 16 is 4; of four independent values it is that of scipy's standard error. Of 1, 3, 4 and 8
    the sums, 8 and 8, are 4 below and above their due of 12 and 4, and the shares 3/4 and 1/4: their squares sum to
    10/16, their cubes to 28/64, so that (16 + 16) / 16 is 1 - 1.4 + 0.625 of the variance; they are worth 1.6.
    """
    values = np.array([1.0, 3.0, 4.0, 8.0])
    assert known_mean(values, np.array([0, 0, 1, 1])) == (4.0, 2.0)
    assert known_mean(values, np.arange(4)) == pytest.approx((stats.sem(values) ** 2, 4))
    assert known_mean(values, np.array([0, 0, 0, 1])) == pytest.approx((2 / 0.225, 1.6))


def test_halves_that_are_equal_by_chance_make_nothing_certain() -> None:
    values = np.array([0.0, 0, 1, 1, 1, 1, 0, 0])
    assert known_mean(values, np.repeat([0, 1], 4)) == pytest.approx((2 / 7 / 8, 2))


def test_values_that_rise_slowly_are_two_stretches_in_whatever_order_they_come() -> None:
    """0 to 9: r = 0.7, with its correction 1.01, beyond what is believed, so that half of the series is alike."""
    order = np.random.default_rng(1).permutation(10)
    found = stretches(order.astype(float), Pieces(torch.zeros(10, dtype=torch.long), torch.from_numpy(order)))
    assert found.tolist() == (order >= 5).astype(int).tolist()


def test_the_length_of_a_stretch_by_hand() -> None:
    """1, 1, -1, -1 over and over: neighbours differ as often as not, r = 1/39 / 1 in 40 values.

    With (1 + 3/39) / 40 more it is 0.0526, and (sqrt(6) 0.0526 / 0.9972)^(2/3) 40^(1/3) = 0.874 pieces: one each. For
    1, 1, 1, 1, -1, -1, -1, -1 r is 21/39 + 0.0654 = 0.6039, and the length (2.328)^(2/3) 3.42 = 6.0: six stretches.
    """
    values = np.tile([1.0, 1.0, -1.0, -1.0], 10)
    assert stretches(values, one_series(40)).tolist() == list(range(40))
    values = np.tile(np.repeat([1.0, -1.0], 4), 5)
    assert np.bincount(stretches(values, one_series(40))).tolist() == [7, 7, 6, 7, 7, 6]


def test_series_do_not_know_of_each_other() -> None:
    """Two levels, of five pieces each, that do not change: two stretches, and a mean that is hardly known.

    Of levels of seven pieces and three the two would be worth 1.7, and the longer one is two.
    """
    levels = np.repeat([0.0, 1.0], 5)
    pieces = Pieces(torch.arange(2).repeat_interleave(5), torch.arange(10))
    assert stretches(levels, pieces).tolist() == [0] * 5 + [1] * 5
    assert spread_over(levels[None], 0.9, pieces).effective_n == 2
    assert stretches(np.repeat([0.0, 1.0], [7, 3]), pieces_of((7, 3))).tolist() == [0] * 4 + [1] * 3 + [2] * 3
    alone = Pieces(torch.arange(10), torch.arange(10))
    assert stretches(levels, alone).tolist() == list(range(10))
    assert spread_over(levels[None], 0.9, alone) == spread_over(levels[None], 0.9)


def test_what_never_changes_is_known_exactly() -> None:
    assert spread_over(np.full((2, 6), 3.0), 0.9, one_series(6))[:4] == (3.0, 3.0, 3.0, 6)


def pieces_of(series: tuple[int, ...]) -> Pieces:
    return Pieces(torch.arange(len(series)).repeat_interleave(torch.tensor(series)), torch.arange(sum(series)))


@pytest.mark.parametrize(("persistence", "steps", "naive"), [(0.0, 50, 0.93), (0.99, 50, 0.8), (0.999, 288, 0.75)])
def test_bounds_hold_about_as_often_as_they_say(persistence: float, steps: int, naive: float) -> None:
    """Of the true mean, 0, by 90 % lower bounds of 100 pieces; those that take pieces for independent fall short."""
    returns = logs(persistence, 100, steps, 300)
    held = [spread_over(row[None], 0.9, one_series(100)).low <= 0 for row in returns]
    assert 0.84 <= np.mean(held) <= 0.95
    assert np.mean([spread_over(row[None], 0.9).low <= 0 for row in returns]) <= naive


@pytest.mark.parametrize("series", [(96, 1, 1, 1, 1), (90, 10)])
def test_short_series_beside_a_long_one_add_little(series: tuple[int, ...]) -> None:
    """Nine tenths of the log are one series that is nowhere near independent: few stretches, whose bounds hold."""
    long, *short = (logs(0.999, count, 50, 300) for count in series)
    returns = np.concatenate([long, *(rows[np.roll(np.arange(300), k + 1)] for k, rows in enumerate(short))], axis=1)
    found = [spread_over(row[None], 0.9, pieces_of(series)) for row in returns]
    assert 0.75 <= np.mean([estimate.low <= 0 for estimate in found]) <= 0.97
    assert np.median([estimate.effective_n for estimate in found]) < 3


def test_all_intervals_draw_stretches_anew() -> None:
    """Of six levels of five pieces each the mean is known as of six values, not of thirty; two are no bootstrap."""
    values, pieces = np.repeat(np.arange(6.0), 5), pieces_of((5,) * 6)

    def mean(counts: np.ndarray) -> np.ndarray:
        if counts.max() >= 2:  # what is drawn, not what is asked for the influence of one
            assert (counts[:, :5] == counts[:, :1]).all()
        return counts @ values / counts.sum(1)

    found, whole = resampled(mean, 30, 0.8, pieces=pieces), resampled(mean_of(np.arange(6.0)), 6, 0.8)
    assert found[:4] == pytest.approx(whole[:4])
    assert resampled(mean_of(values), 30, 0.8).effective_n == 30
    assert resampled(mean_of(values[:10]), 10, 0.8, pieces=pieces_of((5, 5)))[:4] == (0.5, -math.inf, math.inf, 2)
    assert student_t(values, 0.8, pieces=pieces)[:4] == pytest.approx(student_t(np.arange(6.0), 0.8)[:4])
    assert student_t(values, 0.8).effective_n == 30


def mean_of(values: np.ndarray):
    return lambda counts: counts @ values / counts.sum(1)


def test_the_influence_on_a_mean_is_the_distance_from_it() -> None:
    values = np.random.default_rng(0).normal(size=40)
    np.testing.assert_allclose(influence(mean_of(values), 40), (values - values.mean()) / 40, rtol=1e-2, atol=1e-6)
