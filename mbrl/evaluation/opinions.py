"""What one kind of estimator says of several policies at one discount, and what one of them gains over another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mbrl.data.series import Pieces
from mbrl.evaluation.combining import in_spreads
from mbrl.evaluation.estimates import Estimate
from mbrl.evaluation.twoway import spread_over


class Answer(NamedTuple):
    """A kind's estimate of one policy, and the values behind it where they can be paired with another policy's."""

    estimate: Estimate
    sample: np.ndarray | None = None  # [E, S] by member (of the model, or of the critics) and start state


class Opinion(NamedTuple):
    """One kind of estimator on several policies and on the log; all values are of the same discount and length."""

    gamma: float  # 1: undiscounted
    spread: float  # standard deviation of the logged returns at gamma; 1 where they are all equal
    level: float  # of each one-sided bound
    log: Answer  # what the log's own actions earned
    answers: Mapping[str, Answer]  # by policy
    refused: Mapping[str, str]  # policies that it gives no estimate of, and why
    pieces: Pieces | None = None  # of the episodes that the start states are of, [S]; None where all are independent

    def gain(self, name: str, over: str | None = None) -> Estimate:
        """Policy `name` minus another one, or minus the log: paired by member and start state where that can be."""
        one, other = self.answers[name], self.log if over is None else self.answers[over]
        if one.sample is not None and other.sample is not None:
            return spread_over(one.sample - other.sample, self.level, self.pieces)
        return apart(one.estimate, other.estimate)

    def score(self, name: str) -> Estimate:
        """The gain over the log in spreads of the logged returns."""
        return in_spreads(self.gain(name), self.spread)


def apart(one: Estimate, other: Estimate) -> Estimate:
    """The difference of two estimates that share no draws: their distances to the bounds add as squares do.

    An infinite bound stays infinite; the smaller of the two sample sizes counts.
    """
    value = one.value - other.value
    low = value - float(np.hypot(one.value - one.low, other.high - other.value))
    high = value + float(np.hypot(one.high - one.value, other.value - other.low))
    return Estimate(value, low, high, min(one.effective_n, other.effective_n), {"interval": "unpaired difference"})
