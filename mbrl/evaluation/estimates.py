"""A number with its interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

RESAMPLES = 9999
BATCH_ELEMENTS = 4_000_000  # resampled at once, which bounds the memory of an estimate


class Estimate(NamedTuple):
    """A mean with its two-sided interval and the number of independent values behind it."""

    value: float
    low: float
    high: float
    effective_n: float


def bootstrap(values: ArrayLike, level: float = 0.95, seed: int = 0, axis: int = 0) -> Estimate:
    """The mean of `values` with a bias-corrected and accelerated bootstrap interval (Efron 1987).

    Args:
        values: finite numbers. What is independent (episodes, start states) lies along `axis`; the other axes
            (repeats of one start state) are averaged first and are not resampled.
        level: two-sided coverage, within (0, 1).
        seed: of the resampling.
        axis: the axis of independent values.

    Returns:
        low = high = value where all values are equal; low = -inf and high = inf for a single value, which says
        nothing about its own spread; NaN for low and high where a value is NaN or infinite.

    Raises:
        ValueError: there are no values, or level is not within (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a coverage within (0, 1), such as 0.95")
    array = np.moveaxis(np.asarray(values, dtype=np.float64), axis, 0)
    if array.size == 0:
        raise ValueError(f"values has shape {np.shape(values)}: there is nothing to estimate from")
    sample = array.reshape(len(array), -1).mean(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not finite, and handled as such
        count, value, spread = len(sample), float(sample.mean()), float(np.ptp(sample))
    if not np.isfinite([value, spread]).all():
        return Estimate(value, np.nan, np.nan, count)
    if count == 1:
        return Estimate(value, -np.inf, np.inf, count)
    if spread == 0:
        constant = float(sample[0])  # the mean of equal values may differ from them in the last digit
        return Estimate(constant, constant, constant, count)
    interval = stats.bootstrap(
        ((sample - value) / spread,),  # the cubes of the acceleration constant neither overflow nor underflow
        np.mean,
        confidence_level=level,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_ELEMENTS // count),
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, value + spread * float(interval.low), value + spread * float(interval.high), count)
