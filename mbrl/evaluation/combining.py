"""Several kinds of estimators, one answer: gains in units of the log's own spread, and the middle or the least of them.

Kinds err in ways of their own: a simulator where its model is wrong, a fitted Q where it extrapolates, importance
weights where few episodes carry all of the weight. What a majority of them sees is not the error of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from mbrl.evaluation.estimates import Estimate

Combination = Literal["median", "lowest"]
REDUCTIONS: dict[Combination, Callable[[np.ndarray], np.ndarray]] = {
    "median": lambda rows: np.asarray(np.median(rows, axis=0)),
    "lowest": lambda rows: np.asarray(np.min(rows, axis=0)),
}


def in_spreads(gain: Estimate, spread: float) -> Estimate:
    """A gain in units of the spread of the logged returns at the same discount.

    Raises:
        ValueError: the spread is not a number above 0.
    """
    if not (0 < spread < np.inf):
        raise ValueError(f"the spread of the logged returns is {spread}, expected a number above 0")
    return gain._replace(value=gain.value / spread, low=gain.low / spread, high=gain.high / spread)


def combine(gains: Mapping[str, Estimate], combination: Combination = "median") -> Estimate:
    """One gain from those of several kinds, each in spreads of the log's returns at its own discount.

    Value, low and high are each the median of the kinds (of an even number, the mean of the middle two), or the lowest.
    In spreads, gains of different discounts have a sign and a scale in common; values never do, and are not mixed here.

    Args:
        gains: by kind.
        combination: "median", which one kind that is wrong cannot move far, or "lowest", the kind that thinks least of
            the policy.

    Returns:
        NaN where one of the gains is: nothing is left out in silence. `effective_n` is the smallest.

    Raises:
        ValueError: there are no gains.
    """
    if not gains:
        raise ValueError("there is no kind of estimator to combine, expected at least one")
    rows = np.array([[gain.value, gain.low, gain.high] for gain in gains.values()], dtype=np.float64)
    value, low, high = REDUCTIONS[combination](rows)
    return Estimate(float(value), float(low), float(high), min(float(gain.effective_n) for gain in gains.values()))


def agreement(gains: Mapping[str, Estimate]) -> float:
    """Share of the kinds that see a gain: a value above 0.

    Raises:
        ValueError: there are no gains.
    """
    if not gains:
        raise ValueError("there is no kind of estimator that could agree with another, expected at least one")
    return sum(gain.value > 0 for gain in gains.values()) / len(gains)


def choose(
    preferences: Mapping[str, float | None],
    promotable: Mapping[str, bool],
    gains: Mapping[str, Estimate | None],
    tie: float,
    grounded: Mapping[str, bool],
) -> str | None:
    """The candidate that is preferred most of those that may be promoted; where none may, of those that are grounded
    the one with the highest lower bound of its gain, if that is above 0; None where there is none.

    The best of many estimates is the luckiest one, too: its value is too high, the more so the more there are. So one
    that nothing has vouched for is taken by its bound, and so is one of several that are preferred alike: where a
    simulator sees the most that there is to earn in all of them, rounding decides which of them looks best. Of losses
    none is preferred: which is the smallest tells what the estimators miss, more than what policies are worth.

    Args:
        preferences: by candidate, in spreads, see `mbrl.evaluation.panel.preference`; None where there is none.
        promotable: what the gate says of each.
        gains: combined, over the log; None where a kind gave no estimate.
        tie: spreads below the most preferred one within which another is preferred alike.
        grounded: whether a gain rests on simulated steps such as the log knows, in a simulator that is trusted for
            some: where it does not, its bound bounds nothing.
    """
    bounds = _known({name: None if gain is None else gain.low for name, gain in gains.items()})
    good = _known({name: value for name, value in preferences.items() if promotable[name]})
    if not any(promotable.values()):
        known = [name for name, bound in bounds.items() if grounded[name] and bound > 0]
        return max(known, key=bounds.__getitem__, default=None)
    alike = [name for name, value in good.items() if value >= max(good.values()) - tie]
    return max(alike, key=lambda name: (bounds.get(name, -np.inf), good[name]), default=None)


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None and not np.isnan(value)}
