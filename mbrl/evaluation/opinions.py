"""What one kind of estimator says of several policies at one discount, and what one of them gains over another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from mbrl.evaluation.estimates import Estimate


class Answer(NamedTuple):
    """A kind's estimate of one policy, and the values behind it where they can be paired with another policy's."""

    estimate: Estimate
    sample: np.ndarray | None = None  # [E, S] by member (of the model, or of the critics) and start state


class Opinion(NamedTuple):
    """One kind of estimator on several policies and on the log; all values are of the same discount and length."""

    gamma: float  # 1: undiscounted
    spread: float  # standard deviation of the logged returns at gamma
    level: float  # of each one-sided bound
    log: Answer  # what the log's own actions earned
    answers: Mapping[str, Answer]  # by policy
    refused: Mapping[str, str]  # policies that it gives no estimate of, and why

    def gain(self, name: str, over: str | None = None) -> Estimate:
        """Policy `name` minus another one, or minus the log: paired by member and start state where that can be."""
        one, other = self.answers[name], self.log if over is None else self.answers[over]
        if one.sample is not None and other.sample is not None:
            return spread_over(one.sample - other.sample, self.level)
        return apart(one.estimate, other.estimate)

    def score(self, name: str) -> Estimate:
        """The gain over the log in spreads of the logged returns."""
        gain = self.gain(name)
        return gain._replace(value=gain.value / self.spread, low=gain.low / self.spread, high=gain.high / self.spread)


def spread_over(values: np.ndarray, level: float) -> Estimate:
    """The mean of [E, S] values, by member and start state, with bounds for what a member that nobody fitted would say.

    The truth is taken for one more draw from where the members came from, so the variance of the members' means counts
    in full, (1 + 1/E) times, and is not divided by their number; that of the starts' means is divided by S. Degrees of
    freedom are those of Welch and Satterthwaite, the quantile is Student's. It knows of the errors that members do not
    share: of those that they share (too narrow a log, too simple a model) no spread over members can tell.

    Args:
        values: finite numbers; rows that are one and the same for all starts, or columns for all members, are allowed.
        level: of each one-sided bound, above 0.5 and below 1.

    Returns:
        low = -inf and high = inf for a single start, NaN bounds where a value is not finite. A single member has no
        spread to show, and its bounds are those of the start states alone: diagnostics count the members.

    Raises:
        ValueError: there are no values, or level is out of range.
    """
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values has shape {list(values.shape)}, expected [members, starts], at least one of each")
    if not 0.5 < level < 1:
        raise ValueError(f"level is {level}, expected a one-sided level between 0.5 and 1")
    table = values.astype(np.float64)
    members, starts = table.shape
    about = {"interval": "members and starts", "level": level, "members": members}
    if not np.isfinite(table).all():
        return Estimate(float(table.mean()), np.nan, np.nan, starts, about)
    value = float(table.mean())
    if starts == 1:
        return Estimate(value, -np.inf, np.inf, 1, about)
    parts, freedom = [table.mean(0).var(ddof=1) / starts], [starts - 1]
    if members > 1:
        parts.append(table.mean(1).var(ddof=1) * (1 + 1 / members))
        freedom.append(members - 1)
    variance = sum(parts)
    if variance == 0:
        return Estimate(value, value, value, starts, about)
    welch = variance**2 / sum(part**2 / df for part, df in zip(parts, freedom, strict=True))
    half = float(stats.t.ppf(level, welch) * np.sqrt(variance))
    return Estimate(value, value - half, value + half, starts, {**about, "degrees_of_freedom": float(welch)})


def apart(one: Estimate, other: Estimate) -> Estimate:
    """The difference of two estimates that share no draws: their distances to the bounds add as squares do.

    An infinite bound stays infinite; the smaller of the two sample sizes counts.
    """
    value = one.value - other.value
    low = value - float(np.hypot(one.value - one.low, other.high - other.value))
    high = value + float(np.hypot(one.high - one.value, other.value - other.low))
    return Estimate(value, low, high, min(one.effective_n, other.effective_n), {"interval": "unpaired difference"})
