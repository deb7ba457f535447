"""A number with its interval, and the refusal to give one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

RESAMPLES = 9999
BATCH_ELEMENTS = 4_000_000  # resampled at once, which bounds the memory of an estimate
Side = Literal["both", "lower"]  # an interval, or a lower bound with nothing said above


class Refused(ValueError):
    """An estimator that must not answer: the log cannot carry the number. The message is the reason."""


class Estimate(NamedTuple):
    """A value with its interval and the number of independent values behind it."""

    value: float
    low: float
    high: float
    effective_n: float
    diagnostics: Mapping[str, Any] = MappingProxyType({})  # plain JSON values: how it came about

    @property
    def numbers(self) -> dict[str, float]:
        """The four numbers by name."""
        return dict(zip(self._fields[:4], self[:4], strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.numbers, "diagnostics": dict(self.diagnostics)}


def bootstrap(
    values: ArrayLike,
    level: float = 0.95,
    seed: int = 0,
    axis: int = 0,
    *,
    method: Literal["BCa", "percentile"] = "BCa",
    side: Side = "both",
) -> Estimate:
    """The mean of `values` with a bootstrap interval: bias-corrected and accelerated, or of percentiles (Efron 1987).

    Both are asymptotic: on few or very lopsided values they cover less than they say (`mbrl.evaluation.intervals` has
    bounds that do not).

    Args:
        values: finite numbers. What is independent (episodes, start states) lies along `axis`; the other axes
            (repeats of one start state) are averaged first and are not resampled.
        level: coverage, within (0, 1).
        seed: of the resampling.
        axis: the axis of independent values.
        method: which interval.
        side: "lower" puts the whole miss below `low`; `high` is then infinite.

    Returns:
        low = high = value where all values are equal; low = -inf and high = inf for a single value, which says
        nothing about its own spread; NaN for low and high where a value is NaN or infinite.

    Raises:
        ValueError: there are no values, or level is not within (0, 1).
    """
    sample = independent(values, level, axis)
    settled = without_spread(sample, level, method)
    if settled is not None:
        return settled
    with np.errstate(over="ignore"):
        value, spread = float(sample.mean()), float(np.ptp(sample))
    interval = stats.bootstrap(
        ((sample - value) / spread,),  # the cubes of the acceleration constant neither overflow nor underflow
        np.mean,
        confidence_level=level,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_ELEMENTS // len(sample)),
        method=method,
        alternative="two-sided" if side == "both" else "greater",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    low, high = (value + spread * float(end) for end in interval)
    return Estimate(value, low, high, len(sample), {"interval": method, "level": level})


def independent(values: ArrayLike, level: float, axis: int = 0) -> np.ndarray:
    """What is independent in `values`, as float64 [n]: `axis` is kept and the others are averaged.

    Raises:
        ValueError: there are no values, or level is not within (0, 1).
    """
    check_level(level)
    array = np.moveaxis(np.asarray(values, dtype=np.float64), axis, 0)
    if array.size == 0:
        raise ValueError(f"values has shape {np.shape(values)}: there is nothing to estimate from")
    return array.reshape(len(array), -1).mean(axis=1)


def check_level(level: float) -> None:
    """Raise ValueError where `level` is not a coverage."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a coverage within (0, 1), such as 0.95")


def without_spread(sample: np.ndarray, level: float, interval: str) -> Estimate | None:
    """The estimate of a sample [n] that has no spread to make an interval of, None where it has one.

    A value that is not finite gives NaN, a single one an infinite interval, and equal ones an interval of width 0.
    """
    about = {"interval": interval, "level": level}
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not finite, and handled as such
        count, value, spread = len(sample), float(sample.mean()), float(np.ptp(sample))
    if not np.isfinite([value, spread]).all():
        return Estimate(value, np.nan, np.nan, count, about)
    if count == 1:
        return Estimate(value, -np.inf, np.inf, count, about)
    if spread == 0:
        constant = float(sample[0])  # the mean of equal values may differ from them in the last digit
        return Estimate(constant, constant, constant, count, about)
    return None
