"""Judging the judges: what estimates of policies were worth, once the policies' true values are known.

The measures are those of deep OPE benchmarks (Fu et al. 2021, section 4.1), with regret normalised by best minus worst.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from mbrl.evaluation.estimates import Estimate
from mbrl.evaluation.scores import spearman


class Score(NamedTuple):
    """What one judge's estimates were worth; None where it cannot be said."""

    policies: int  # that it gave a value for
    rank_correlation: float | None  # Spearman's, over these
    regret_1: float | None  # (best - true value of what it thinks best) / (best - worst)
    regret_3: float | None  # the same of the best of the three that it thinks best
    absolute_error: float | None  # mean, in the unit of the values
    coverage: float | None  # share of its lower bounds that are not above the true value
    rank_of_all: float | None  # Spearman's over all policies, those without a value ranked below all others


def score(truth: Mapping[str, float], estimates: Mapping[str, Estimate]) -> Score:
    """Hold a judge's estimates against the truth; both by policy, in one unit and at one discount.

    A policy that the judge gave no finite value for counts as one that it would not choose: it is left out of the rank
    correlation, the error and the coverage, but may be the best that the regret is measured from; `rank_of_all` has it
    last, as those do who choose by these estimates. Policies that it cannot tell apart are chosen in the order that is
    worst for it. An infinite lower bound covers.

    Raises:
        ValueError: there are fewer than two policies, a true value is not finite, or an estimate is of another policy.
    """
    if len(truth) < 2:
        raise ValueError(f"there are {len(truth)} policies of known value, expected at least 2 to tell apart")
    if bad := [name for name, value in truth.items() if not math.isfinite(value)]:
        raise ValueError(f"the true value of {', '.join(bad)} is not finite")
    if foreign := sorted(set(estimates) - set(truth)):
        raise ValueError(f"there is no true value of {', '.join(foreign)}")
    valued = [name for name in truth if name in estimates and math.isfinite(estimates[name].value)]
    if not valued:
        return Score(0, None, None, None, None, None, None)
    true = np.array([truth[name] for name in valued])
    said = np.array([estimates[name].value for name in valued])
    low = np.array([estimates[name].low for name in valued])
    everyone = [estimates[name].value if name in valued else said.min() - 1 for name in truth]
    best, worst = max(truth.values()), min(truth.values())
    order = np.lexsort((true, -said))
    left = {k: float((best - true[order[:k]].max()) / (best - worst)) if best > worst else None for k in (1, 3)}
    return Score(
        policies=len(valued),
        rank_correlation=spearman(torch.from_numpy(said), torch.from_numpy(true)),
        regret_1=left[1],
        regret_3=left[3],
        absolute_error=float(np.abs(said - true).mean()),
        coverage=float((low <= true).mean()),
        rank_of_all=spearman(torch.tensor(everyone), torch.tensor(list(truth.values()))),
    )
