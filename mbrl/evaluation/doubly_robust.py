"""Doubly robust estimators: a model's values, corrected by weighted episodes.

Q and V are another estimator's (fitted Q evaluation), made without the episodes that they correct (cross-fitting), or
the correction is biased. Shapes: q is Q(s_t, a_t) of the logged action, [n, T]; v is V(s_t), [n, T + 1], and at the
first step after an episode's end V of the final observation where it was only cut, as
`mbrl.evaluation.trajectories.to_the_end` lays it out. Both are 0 beyond.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from mbrl.evaluation.estimates import RESAMPLES, Estimate, Refused, Side
from mbrl.evaluation.importance import Answer, Interval, Statistic, bounded, carried, quotient, ratio_of
from mbrl.evaluation.intervals import resampled
from mbrl.evaluation.ratios import FLOOR, SLACK, Weights
from mbrl.evaluation.trajectories import Trajectories, discounts

MAGIC_RESAMPLES = 500
TRUST = 0.9  # coverage of the interval of WDR whose distance is a blend's bias


def doubly_robust(
    kind: Literal["DR", "WDR"],
    weights: Weights,
    seen: Trajectories,
    gamma: float,
    q: Tensor,
    v: Tensor,
    *,
    floor: float = FLOOR,
    slack: float = SLACK,
    level: float = 0.95,
    interval: Interval = "BCa",
    side: Side = "both",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """sum_t gamma^t (w_t (r_t - q_t) + w_{t-1} v_t): DR (Jiang and Li 2016), or WDR (Thomas and Brunskill 2016).

    DR is the mean over episodes, unbiased where either the ratios are exact or Q is; WDR divides w_t by the sum of all
    episodes' w_t, is biased and consistent, and varies less. With Q = V = 0 they are PDIS and PDWIS. Arguments, result
    and errors are otherwise those of `mbrl.evaluation.importance.importance_sampling`.

    Raises:
        ValueError: q or v has another shape, is not finite, or is not 0 where the world has ended.
    """
    if kind not in ("DR", "WDR"):
        raise ValueError(f"kind is {kind!r}, expected DR or WDR")
    _check(seen, q, v)
    about = carried(kind, weights, gamma, floor, slack)
    answer = Answer(kind, about, level, interval, side, seed, resamples, seen.pieces)
    if kind == "DR":
        return answer.of_mean(doubly_robust_values(weights, seen, gamma, q, v))
    return answer.of_counts(_weighted(weights, seen, gamma, q, v))


def doubly_robust_values(weights: Weights, seen: Trajectories, gamma: float, q: Tensor, v: Tensor) -> Tensor:
    """The independent values [n] float64 whose mean DR is."""
    _check(seen, q, v)
    weight, discount = weights.log.exp(), discounts(gamma, v)
    before = torch.cat([torch.ones_like(weight[:, :1]), weight], 1)
    corrections = (weight * (seen.reward.double() - q.double())) @ discount[:-1]
    return corrections + (before * v.double()) @ discount


def magic(
    weights: Weights,
    seen: Trajectories,
    gamma: float,
    q: Tensor,
    v: Tensor,
    *,
    switches: int = 10,
    floor: float = FLOOR,
    slack: float = SLACK,
    level: float = 0.95,
    side: Side = "both",
    seed: int = 0,
    resamples: int = MAGIC_RESAMPLES,
) -> Estimate:
    """MAGIC (Thomas and Brunskill 2016, algorithm 1): the blend of a model and WDR with the least estimated error.

    g_j is WDR for j steps and the model's value after them: g_0 is the model alone, g_T is WDR. The blend x, on the
    simplex, minimises x' (Omega + b b') x with Omega the covariance of the g_j and b the distance of each from the
    `TRUST` bootstrap interval of WDR. The interval is that of percentiles, and Omega, b and x are made anew in every
    resample (the interval of WDR keeps its width, and moves with it). It is as wide as WDR's at least: q and v are the
    same in all resamples, so that the model's own error is in none, and where WDR cannot tell the model from the truth
    the blend is the model alone. Omega takes pieces of one series for independent.

    Args:
        weights: of the logged episodes.
        seen: the logged episodes.
        gamma: discount factor.
        q: as above.
        v: as above.
        switches: how many steps j, evenly spaced from 0 to T.
        floor: effective episodes below which it refuses, as WDR does.
        slack: by how much the mean weight may differ from 1.
        level: coverage of the interval.
        side: both, or a lower bound.
        seed: of the bootstraps.
        resamples: of the bootstraps.

    Returns:
        `diagnostics` has the steps j (switches), the g_j (partial_values) and x (blend).

    Raises:
        Refused: too few effective episodes or a mean weight too far from 1, as in every estimator with weights; or
            pieces of one series that are too alike for an interval of WDR.
        ValueError: q or v has another shape, is not finite, or is not 0 where the world has ended; or there are fewer
            than 2 switches.
    """
    if switches < 2:
        raise ValueError(f"switches is {switches}, expected at least 2: the model alone, and WDR")
    _check(seen, q, v)
    about = carried("MAGIC", weights, gamma, floor, slack)
    steps = np.unique(np.linspace(0, seen.reward.shape[1], switches).round().astype(int))
    partial = _Partial.of(weights, seen, gamma, q, v, steps)
    wdr = _weighted(weights, seen, gamma, q, v)
    drawn: dict[str, Any] = {"method": "percentile", "resamples": resamples, "pieces": seen.pieces}
    trusted = bounded("MAGIC", resampled(wdr, len(seen.obs), TRUST, seed, **drawn))
    if not np.isfinite([trusted.low, trusted.high]).all():
        raise Refused(
            f"MAGIC cannot tell how far off WDR is: the {len(seen.obs)} pieces of a series that was not interrupted are"
            f" worth {trusted.effective_n:.2g} independent ones. Log for longer, or use FQE or the simulator"
        )
    reach = (trusted.low - trusted.value, trusted.high - trusted.value)

    def blended(counts: np.ndarray) -> np.ndarray:
        return np.array([float(np.dot(*partial.blend(row, reach))) for row in counts])

    values, blend = partial.blend(np.ones(len(seen.obs)), reach)
    about |= {"switches": steps.tolist(), "partial_values": values.tolist(), "blend": blend.tolist()}
    answer = Answer("MAGIC", about, level, "percentile", side, seed, resamples, seen.pieces)
    found, beside = answer.of_counts(blended), answer.of_counts(wdr)
    low = min(found.low, found.value + beside.low - beside.value)
    return found._replace(low=low, high=max(found.high, found.value + beside.high - beside.value))


def simplex_minimum(omega: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """argmin over the simplex of x' (Omega + b b') x, for a covariance Omega [J, J] and biases b [J]: [J].

    Exact, by the active-set method of Lawson and Hanson: the minimiser over y >= 0 of y' A y + (1'y - 1)^2 is a
    multiple of it, because for y = s x the best s only falls with x' A x.
    """
    error = omega + np.outer(bias, bias)
    scale = float(np.trace(error)) or 1.0
    values, vectors = np.linalg.eigh(error / scale)
    root = np.sqrt(values.clip(min=0))[:, None] * vectors.T
    found, _ = optimize.nnls(np.vstack([root, np.ones(len(bias))]), np.append(np.zeros(len(bias)), 1.0))
    return found / found.sum()


class _Partial(NamedTuple):
    """What the g_j are made of."""

    scaled: np.ndarray  # [n, T] w_t, up to a factor for each step
    before: np.ndarray  # [n, T + 1] w_{t-1}
    gained: np.ndarray  # [n, T] r_t - q_t
    v: np.ndarray  # [n, T + 1]
    discount: np.ndarray  # [T + 1]
    steps: np.ndarray  # [J] of j

    @classmethod
    def of(cls, weights: Weights, seen: Trajectories, gamma: float, q: Tensor, v: Tensor, steps: np.ndarray) -> Self:
        scaled, gained = weights.scaled.numpy(force=True), (seen.reward.double() - q.double()).numpy(force=True)
        before = np.concatenate([np.ones((len(scaled), 1)), scaled], 1)
        return cls(scaled, before, gained, v.double().numpy(force=True), discounts(gamma, v).numpy(force=True), steps)

    def blend(self, counts: np.ndarray, reach: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        """The g_j [J] and the blend x [J], with episodes counted [n] times and WDR's interval at g_T + `reach`."""
        total = counts.sum()
        now, last = quotient(self.scaled, counts @ self.scaled), quotient(self.before, counts @ self.before)
        ahead = self.discount * last * self.v  # the model's value from step t on
        steps = self.discount[:-1] * now * self.gained + ahead[:, :-1]
        parts = np.pad(steps.cumsum(1), ((0, 0), (1, 0)))[:, self.steps] + ahead[:, self.steps]
        values = counts @ parts
        if not np.isfinite(values).all():
            return values, np.full(len(values), np.nan)
        apart = total * parts - values
        omega = (counts * apart.T) @ apart / (total * (total - 1))
        low, high = values[-1] + reach[0], values[-1] + reach[1]
        return values, simplex_minimum(omega, np.maximum(0, np.maximum(values - high, low - values)))


def _weighted(weights: Weights, seen: Trajectories, gamma: float, q: Tensor, v: Tensor) -> Statistic:
    """WDR as a function of how often each episode counts."""
    scaled, discount = weights.scaled, discounts(gamma, v).numpy(force=True)
    before = torch.cat([torch.ones_like(scaled[:, :1]), scaled], 1)
    corrections = ratio_of(scaled, seen.reward.double() - q.double(), discount[:-1])
    values = ratio_of(before, v.double(), discount)
    return lambda counts: corrections(counts) + values(counts)


def _check(seen: Trajectories, q: Tensor, v: Tensor) -> None:
    """Shapes, numbers, and the absorbing convention."""
    n, steps = seen.reward.shape
    open_end = torch.arange(steps + 1, device=v.device) <= (seen.lengths - seen.ended.long()).unsqueeze(-1)
    for name, found, wanted, alive in ("q", q, (n, steps), seen.valid), ("v", v, (n, steps + 1), open_end):
        if found.shape != wanted or not bool(found.isfinite().all()):
            raise ValueError(f"{name} has shape {list(found.shape)}, expected finite numbers {list(wanted)}")
        beyond = (found != 0) & ~alive
        if bool(beyond.any()):
            episode, step = beyond.nonzero()[0].tolist()
            raise ValueError(
                f"{name} is {float(found[episode, step]):g} at step {step} of episode {episode}, expected 0: its world"
                f" ended, or its log, after {int(seen.lengths[episode])} steps"
            )
