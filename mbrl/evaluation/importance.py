"""Importance sampling of whole episodes and per decision: values of a policy from another one's episodes.

Four estimators of the expected discounted return (Precup, Sutton and Singh 2000; Thomas 2015), with G the return, w_t
the likelihood ratio of the first t + 1 actions and n episodes:

    IS     mean of w_{T-1} G                     PDIS    mean of sum_t gamma^t w_t r_t
    WIS    sum w_{T-1} G / sum w_{T-1}           PDWIS   sum_t gamma^t (sum w_t r_t / sum w_t)

IS and PDIS are unbiased where the ratios are exact and not clipped; WIS and PDWIS are biased, consistent, and vary
less. Ended episodes are absorbing (`mbrl.evaluation.trajectories.Trajectories`): they pay nothing and keep their
weight. The value is that of the steps that were logged: where episodes were cut, of as many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from torch import Tensor

from mbrl.data.series import Pieces
from mbrl.evaluation.estimates import RESAMPLES, Estimate, Refused, Side
from mbrl.evaluation.intervals import resampled, student_t
from mbrl.evaluation.ratios import FLOOR, SLACK, Weights
from mbrl.evaluation.trajectories import Trajectories, discounts

Kind = Literal["IS", "WIS", "PDIS", "PDWIS"]
Interval = Literal["BCa", "percentile", "Student t"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Statistic = Callable[[np.ndarray], np.ndarray]


def importance_sampling(
    kind: Kind,
    weights: Weights,
    seen: Trajectories,
    gamma: float,
    *,
    floor: float = FLOOR,
    slack: float = SLACK,
    level: float = 0.95,
    interval: Interval = "BCa",
    side: Side = "both",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The value of the policy that `weights` are of.

    Args:
        kind: which of the four estimators.
        weights: of the logged episodes.
        seen: the logged episodes.
        gamma: discount factor within [0, 1]; 1 is undiscounted.
        floor: effective episodes below which it refuses. Under it the intervals of all four cover far less than they
            say, because the episodes that would carry the value were not logged.
        slack: by how much the mean weight may differ from 1 before it refuses, for the same reason.
        level: coverage of the interval.
        interval: a bootstrap of the whole estimator over episodes, or (IS and PDIS, which are means over episodes)
            Student's t.
        side: both, or a lower bound.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        effective_n is the effective number of episodes, see `Weights.effective`, or of stretches, if that is smaller.

    Raises:
        Refused: fewer effective episodes than the floor, a mean weight too far from 1, or weights that overflow.
        ValueError: `kind`, `interval` or gamma is none that there is.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    about = carried(kind, weights, gamma, floor, slack)
    answer = Answer(kind, about, level, interval, side, seed, resamples, seen.pieces)
    if kind in ("IS", "PDIS"):
        return answer.of_mean(per_episode(kind, weights, seen, gamma))
    if kind == "WIS":
        return answer.of_counts(ratio_of(weights.scaled[:, -1:], seen.returns(gamma)[:, None], np.ones(1)))
    discount = discounts(gamma, seen.reward).numpy(force=True)
    return answer.of_counts(ratio_of(weights.scaled, seen.reward.double(), discount))


def per_episode(kind: Literal["IS", "PDIS"], weights: Weights, seen: Trajectories, gamma: float) -> Tensor:
    """The independent values [n] float64 whose mean the estimator is, for bounds with a guarantee.

    With ratios of at most c = exp(clip[1]), those of IS lie between the least and the largest possible return times
    c^T (or 0), and those of PDIS between the least and the largest reward times sum_t gamma^t c^(t + 1) (or 0): the
    range that `mbrl.evaluation.intervals` asks for, and soon too wide to say anything.
    """
    if kind == "IS":
        return weights.log[:, -1].exp() * seen.returns(gamma)
    return (weights.log.exp() * seen.reward.double()) @ discounts(gamma, seen.reward)


def carried(kind: str, weights: Weights, gamma: float, floor: float, slack: float) -> dict[str, Any]:
    """What the weights say of themselves, with the effective number of episodes.

    Raises:
        Refused: it is below `floor`, or the mean weight differs from 1 by more than `slack`.
    """
    per_decision = kind not in ("IS", "WIS")
    ess, share = weights.effective(gamma, per_decision)
    episodes, steps = weights.log.shape
    if ess < floor:
        reason = "no logged episode could be the policy's" if ess == 0 else f"one has {share:.0%} of the weight"
        raise Refused(
            f"{kind} of {episodes} episodes of up to {steps} steps rests on {ess:.3g} effective episodes, expected at"
            f" least {floor:g}: {reason}. The policy acts too unlike the log for weights: use FQE or the simulator"
        )
    apart = weights.imbalance(gamma, per_decision)
    if apart > slack:
        raise Refused(
            f"the mean weight of {kind} is {apart:.3g} away from 1, its expectation, and {slack:g} is the most allowed:"
            " the episodes that carry the policy's value were not logged, or the propensities or the clip are not right"
        )
    shape = {"episodes": episodes, "steps": steps}
    said = {"ess": ess, "floor": floor, "imbalance": apart, "slack": slack, "largest_share": share}
    return {"gamma": gamma, **shape, **said, **weights.about}


class Answer(NamedTuple):
    """How an estimator with weights puts its estimate together."""

    kind: str
    about: dict[str, Any]
    level: float
    interval: Interval
    side: Side
    seed: int
    resamples: int
    pieces: Pieces | None  # of the episodes

    def of_mean(self, values: Tensor) -> Estimate:
        """From the independent values [n] whose mean it is."""
        plain = values.numpy(force=True)
        if self.interval == "Student t":
            return self._with(student_t(plain, self.level, side=self.side, pieces=self.pieces))
        return self.of_counts(lambda counts: counts @ plain / counts.sum(1))

    def of_counts(self, statistic: Statistic) -> Estimate:
        """From a function of how often each episode counts."""
        if self.interval not in ("BCa", "percentile"):
            raise ValueError(
                f"interval is {self.interval!r}, expected BCa or percentile"
                + (": Student t is for means over episodes" if self.interval == "Student t" else " or Student t")
            )
        options: dict[str, Any] = {"method": self.interval, "side": self.side, "resamples": self.resamples}
        options |= {"pieces": self.pieces}
        return self._with(resampled(statistic, self.about["episodes"], self.level, self.seed, **options))

    def _with(self, found: Estimate) -> Estimate:
        if not np.isfinite(found.value):
            raise Refused(f"the weights of {self.kind} overflow: use WIS, PDWIS or a tighter clip")
        return bounded(self.kind, found)._replace(
            effective_n=min(self.about["ess"], found.effective_n), diagnostics={**self.about, **found.diagnostics}
        )


def bounded(kind: str, found: Estimate) -> Estimate:
    """The estimate, refused if a resample had no value."""
    if np.isnan(found.low) or np.isnan(found.high):
        raise Refused(
            f"{kind} has no interval: a step rests on so few episodes that a resample may have none of them. The policy"
            " acts too unlike the log for weights so far on: use FQE or the simulator"
        )
    return found


def ratio_of(weight: Tensor, paid: Tensor, discount: np.ndarray) -> Statistic:
    """sum_t discount_t (sum_i c_i w_t x_t / sum_i c_i w_t) for weights and x [n, T], of counts c [R, n].

    NaN where all weight of a step is on episodes that do not count.
    """
    below, above = weight.numpy(force=True), (weight * paid).numpy(force=True)
    return lambda counts: quotient(counts @ above, counts @ below) @ discount


def quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where the latter is 0."""
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below != 0)
