"""What a policy is worth in a learned simulator, which has to be one that it was not learned in.

Axis letters as in `mbrl.core`; S start states. The intervals are over start states, as if of independent episodes: the
error of the simulator itself is not in them (its report card measures that), nor how alike pieces of one series are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from mbrl.core import Policy, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.estimates import BATCH_ELEMENTS, RESAMPLES, Estimate, Refused, bootstrap, check_level
from mbrl.evaluation.fqe import FittedQ, pooled
from mbrl.simulator.rollout import Acting, Measure, Played, play
from mbrl.simulator.simulator import Simulator


class Starts(NamedTuple):
    """Where rollouts begin, and where their episodes are cut."""

    obs: Tensor  # [B, O]
    limit: Tensor  # [B] long, steps
    rows: Tensor  # [B] long, of the data set


class Recital:
    """The actions of logged episodes, one after the other, whatever is seen: an open loop.

    Args:
        data: the log.
        rows: [B] long, with which the episodes begin; beyond its last row an episode's last action goes on.
    """

    def __init__(self, data: TransitionDataset, rows: Tensor) -> None:
        self.action, self.rows, self.step = data.action, rows, 0
        self.last = data.first[data.episode[rows]] + data.lengths[data.episode[rows]] - 1

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        """The next ones, [B, A]."""
        del obs, rng
        self.step += 1
        return self.action[torch.minimum(self.rows + self.step - 1, self.last)]


def start_states(data: TransitionDataset, most: int, seed: int, episodes: Tensor | None = None) -> Starts:
    """The beginnings of at most `most` logged episodes ([n] long; None: of all), drawn without replacement.

    Where an episode starts, and where it is cut, is the world's choice, not a policy's, so every side of the split may
    give them, but where exogenous channels are replayed from them: a policy that knows the weather of the episodes that
    it was learned on has to be judged in the weather of others. A truncated episode's limit is its own length, so that
    a policy's value is about as many steps as the logged return is; one that terminated says nothing of how long it
    might have lasted, and gets the longest length. Where all of them terminated that is no limit of the world's: it
    would call all policies equal that last so long. They get the environment's time limit, if the log says which.

    Raises:
        ValueError: `most` is below 2, which no interval can be made from.
    """
    if most < 2:
        raise ValueError(f"starts is {most}, expected at least 2: an interval over start states needs several")
    those = torch.arange(data.episodes) if episodes is None else episodes.cpu()
    order = torch.randperm(len(those), generator=generator(seed, "trial/starts"))
    chosen = those[order[:most]].to(data.obs.device)
    cut = data.truncated[data.first + data.lengths - 1] & ~data.terminated[data.first + data.lengths - 1]
    unknown = max(int(data.lengths.max()), 0 if cut.any() else data.time_limit or 0)
    limit = torch.where(cut, data.lengths, unknown)
    return Starts(data.starts[chosen], limit[chosen], data.first[chosen])


def rolled(
    policy: Acting,
    simulator: Simulator,
    starts: Starts,
    seed: int,
    horizon: int | None = None,
    measure: Measure | None = None,
    whole: bool = True,
) -> Played:
    """Rollouts of a policy's mode from `starts`, as long as the longest limit (and `horizon`).

    All policies meet the same starts, the same exogenous channels and the same stream of noise: rollouts of two with
    the same seed are paired. A simulator of a log with exogenous channels has to replay the log that `starts` are of:
    `simulator.replaying(data)`. `simulator.plain()` leaves the uncertainty out, which is several times faster.

    Args:
        horizon: steps for which the simulator is trusted, for `truncated_value`.
        measure: of a transition, where more than its reward is to be known, such as what it costs.
        whole: False: no step after the horizon, which `truncated_value` does not look at.

    Raises:
        Refused: the simulator is not trusted for a single step.
        ValueError: horizon is negative.
    """
    if horizon == 0:
        raise Refused("the simulator's trusted horizon is 0: its card trusts not even one step of a rollout")
    if horizon is not None and horizon < 0:
        raise ValueError(f"horizon is {horizon}, expected at least 1 step")
    world = simulator.to(starts.obs.device)
    rng = generator(seed, "trial/noise", starts.obs.device)
    steps = max(int(starts.limit.max()) if whole or horizon is None else 0, horizon or 0)
    return play(policy, world, starts.obs, steps, rng, starts.rows, horizon, measure, starts.limit)


def value(played: Played, starts: Starts, *, gamma: float, level: float, seed: int) -> Estimate:
    """The policy's value over whole episodes, cut at the limits of `starts`; gamma = 1 is undiscounted.

    A discounted one lacks what comes after the cut, up to the share `beyond` of all discounted time, and so is not
    comparable with fitted Q values unless that is small.

    Raises:
        ValueError: gamma is not within [0, 1], or level not within (0, 1).
    """
    _check_gamma(gamma)
    estimate = bootstrap(played.returns(starts.limit, gamma).cpu().numpy(), level, seed)
    return estimate._replace(diagnostics={**estimate.diagnostics, **_about(played, starts, gamma)})


def simulated_values(
    policies: Mapping[str, Policy], simulator: Simulator, starts: Starts, *, gamma: float, level: float, seed: int
) -> dict[str, Estimate]:
    """Each policy's `value`, without uncertainties; all policies meet the same starts and noise."""
    world = simulator.plain()
    return {
        name: value(rolled(policy, world, starts, seed), starts, gamma=gamma, level=level, seed=seed)
        for name, policy in policies.items()
    }


def difference(
    candidate: Played, baseline: Played, starts: Starts, *, gamma: float, level: float, seed: int
) -> Estimate:
    """One policy's value minus another's, paired by start state and noise: both `rolled` with the same seed.

    Raises:
        ValueError: the two were not rolled from the same starts, or gamma or level is out of range.
    """
    _check_gamma(gamma)
    if candidate.reward.shape != baseline.reward.shape:
        raise ValueError(
            f"the rollouts are {list(candidate.reward.shape)} and {list(baseline.reward.shape)} steps and rows: roll"
            " both policies out from the same starts, with the same horizon"
        )
    gap = candidate.returns(starts.limit, gamma) - baseline.returns(starts.limit, gamma)
    estimate = bootstrap(gap.cpu().numpy(), level, seed)
    return estimate._replace(diagnostics={**estimate.diagnostics, **_about(candidate, starts, gamma)})


def truncated_value(played: Played, q: FittedQ, *, level: float) -> Estimate:
    """Discounted value of the first `played.horizon` steps in the simulator, and fitted Q beyond.

    sum of gamma^t r_t up to the horizon + gamma^h V(s_h), 0 in place of V where the world ended before (model-based
    value expansion, Feinberg et al. 2018, equation 1, with a simulator that was not trained on the policy). The horizon
    does not cut the world, and neither do logged lengths. gamma is that of `q`, which has to be of the same policy; the
    interval is that of `mbrl.evaluation.fqe.pooled`, over start states and the members of `q`.

    Raises:
        Refused: the fit of `q` diverged.
        ValueError: level is not within (0, 1).
    """
    horizon = torch.full_like(played.living, played.horizon, dtype=torch.long)
    simulated = float(played.returns(horizon, q.gamma).mean())
    about = {"value": "discounted", "gamma": q.gamma, "horizon": played.horizon, "simulated": simulated}
    return pooled(truncated_values(played, q), level, {**about, "uncertain_share": uncertain_share(played, horizon)})


def truncated_values(played: Played, q: FittedQ) -> Tensor:
    """What `truncated_value` is the mean of: [S, M] float64 by start state and member of `q`.

    Raises:
        Refused: the fit of `q` diverged.
    """
    q.check()
    horizon = torch.full_like(played.living, played.horizon, dtype=torch.long)
    steps = played.within(horizon).sum(0)
    tail = torch.where(played.living, q.v(played.stop), 0.0).double()
    return played.returns(horizon, q.gamma).unsqueeze(-1) + (q.gamma ** steps.double()).unsqueeze(-1) * tail.T


def uncertain_share(played: Played, limit: Tensor, above: float = 1.0) -> float:
    """Share of the rollouts' steps within `limit` [S] whose uncertainty is above `above` of its units, or not known."""
    counted = played.within(limit)
    return float((~(played.uncertainty <= above))[counted].double().mean())


def cvar(returns: Tensor, *, share: float, level: float, seed: int) -> Estimate:
    """Conditional value at risk: the mean of the worst `share` of returns [S], with a percentile bootstrap interval.

    Rockafellar and Uryasev 2002, equation 26 for a sample: where share * S is not whole, the last return counts in
    part.

    Raises:
        ValueError: share is not within (0, 1], level not within (0, 1), or fewer than 2 returns.
    """
    check_level(level)
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, expected more than 0 and at most 1, such as 0.1 for the worst tenth")
    sample = returns.double().cpu().numpy()
    if len(sample) < 2:
        raise ValueError(f"{len(sample)} return(s) say nothing of how bad bad ones are: give at least 2")

    def worst(values: np.ndarray, axis: int = -1) -> np.ndarray:
        return worst_mean(values, share, axis)

    point, about = float(worst(sample)), {"share": share, "interval": "percentile", "level": level}
    if np.ptp(sample) == 0:
        return Estimate(point, point, point, len(sample), about)
    interval = stats.bootstrap(
        (sample,),
        worst,
        confidence_level=level,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_ELEMENTS // len(sample)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(point, float(interval.low), float(interval.high), share * len(sample), about)


def worst_mean(values: np.ndarray, share: float, axis: int = -1) -> np.ndarray:
    """What `cvar` estimates, of the values along the last axis: [..., S] -> [...]."""
    count = share * values.shape[axis]
    weight = np.clip(count - np.arange(values.shape[axis]), 0, 1) / count
    return np.asarray(np.sort(values, axis) @ weight)


def _about(played: Played, starts: Starts, gamma: float) -> dict[str, Any]:
    lengths = played.within(starts.limit).sum(0)
    return {
        "value": "undiscounted" if gamma == 1 else "discounted, cut",
        "gamma": gamma,
        "mean_length": float(lengths.double().mean()),
        "beyond": float((gamma ** starts.limit.double()).mean()) if gamma < 1 else None,
        "uncertain_share": uncertain_share(played, starts.limit),
    }


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}, expected a discount factor within [0, 1], where 1 is undiscounted")
