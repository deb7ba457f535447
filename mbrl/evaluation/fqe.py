"""Fitted Q evaluation: what a policy is worth, from logged transitions alone.

Le, Voloshin and Yue 2019, "Batch policy learning under constraints", algorithm 3; Voloshin et al. 2021 and Paine et
al. 2020 compare it with other estimators. No propensities are needed. Values are discounted, and of a world whose
episodes are not cut: a truncated row is bootstrapped from, a terminated one never.

Axis letters as in `mbrl.core`; M members, S start states, n episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from mbrl.core import Policy
from mbrl.data.dataset import TransitionDataset
from mbrl.data.series import Pieces, blocks
from mbrl.evaluation.critics import Encoding
from mbrl.evaluation.estimates import Estimate, Refused, check_level
from mbrl.evaluation.fitting import Fit, Folds, Rows, acted, fit, reachable, spread_of_values
from mbrl.evaluation.trajectories import Trajectories, check_acts_on, to_the_end
from mbrl.evaluation.twoway import spread_over

DIVERGED = 0.1  # share of late targets out of reach, above which a fit has not converged


class CrossFitted(NamedTuple):
    """Values of logged steps by members that never saw their episode, as `mbrl.evaluation.doubly_robust` takes them."""

    q: Tensor  # [n, T] of the logged action; 0 beyond the episode's end
    v: Tensor  # [n, T + 1] of the policy's action; right after the end that of the final observation, 0 if it ended


@final
@dataclass(frozen=True, eq=False)
class FittedQ:
    """M Q-functions of one policy, and its value at S start states."""

    fit: Fit
    encoding: Encoding
    policy: Policy | None  # None: the log's own
    folds: Folds
    episodes: Tensor  # [n] long, what it was fitted on
    starts: Tensor  # [S = n, M] value of each of their start states by each member
    gamma: float
    recipe: tuple[Any, ...]  # what two fits have to share for their differences to be paired
    diagnostics: dict[str, Any]
    pieces: Pieces | None  # of `episodes`; None where all are independent

    @torch.no_grad()
    def q(self, obs: Tensor, action: Tensor) -> Tensor:
        """Discounted value [M, N] of actions [N, A] at obs [N, O]."""
        return self.fit.values(self.encoding(obs, action))

    def v(self, obs: Tensor) -> Tensor:
        """Discounted value [M, N] of obs [N, O].

        Raises:
            ValueError: it was fitted to the log's own policy, which says nothing of other states.
        """
        if self.policy is None:
            raise ValueError("v was asked of the log's own policy, which is known by its logged actions only")
        return self.q(obs, acted(self.policy, obs))

    def cross_fitted(self, trajectories: Trajectories, episodes: Tensor) -> CrossFitted:
        """Values of `episodes` [n] long, laid out as `Trajectories.of(data, episodes)`, for doubly robust estimators.

        An episode that was fitted on is valued by the members that never saw it (Chernozhukov et al. 2018; Kallus and
        Uehara 2020, algorithm 1), any other by all of them.

        Raises:
            Refused: the fit diverged.
            ValueError: it was fitted to the log's own policy.
        """
        self.check()
        trust = self._trust(episodes)
        valid, shape = trajectories.valid, trajectories.valid.shape
        owner = torch.arange(len(valid), device=valid.device).unsqueeze(-1).expand(shape)[valid]
        obs = trajectories.obs[valid]
        q, v = (
            values.new_zeros(shape).masked_scatter(valid, (values * trust[:, owner]).sum(0))
            for values in (self.q(obs, trajectories.action[valid]), self.v(obs))
        )
        final = torch.where(trajectories.ended, 0.0, (self.v(trajectories.final_obs) * trust).sum(0))
        return CrossFitted(q, to_the_end(v, final, trajectories))

    def _trust(self, episodes: Tensor) -> Tensor:
        """Weights [M, n] of the members in the values of each episode; they sum to 1."""
        match = episodes.unsqueeze(-1) == self.episodes
        fold = torch.where(match.any(-1), self.folds.episode[match.int().argmax(-1)], -1)
        unseen = (self.folds.member.unsqueeze(-1) == fold) | (fold < 0)
        return unseen / unseen.sum(0)

    def estimate(self, level: float = 0.95) -> Estimate:
        """The policy's discounted value from the log's start states; see `pooled` for the interval.

        Raises:
            Refused: the fit diverged.
            ValueError: level is not within (0, 1).
        """
        self.check()
        return pooled(self.starts, level, self.diagnostics, self.pieces)

    def check(self) -> None:
        """Raise Refused where the fit diverged: its values mean nothing."""
        if self.diagnostics["diverged"]:
            low, high = self.diagnostics["low"], self.diagnostics["high"]
            raise Refused(
                f"fitted Q evaluation diverged: {self.fit.clipped:.0%} of the late targets are not finite or outside of"
                f" what the log's rewards allow ({low:.4g} to {high:.4g}). Where the policy's actions are far from the"
                " log's, nothing but another log helps; else lower gamma"
            )


def fit_q(
    data: TransitionDataset,
    episodes: Tensor,
    policy: Policy | None,
    *,
    gamma: float,
    members: int = 8,
    folds: int = 4,
    hidden: Sequence[int] = (64, 64),
    updates: int = 3000,
    batch: int = 256,
    lr: float = 1e-3,
    tau: float = 0.02,
    horizon: int | None = None,
    seed: int = 0,
) -> FittedQ:
    """Fit Q-functions of the policy's mode, which is what is served, to `episodes` [n] long of a log.

    Args:
        data: the log, on the device to compute on.
        episodes: whose rows are fitted to, and whose start states are valued.
        policy: None for the log's own (its next action is the logged one), so that a difference to it is like for like.
        gamma: discount factor, in [0, 1).
        members: M, Q-functions, each on a bootstrap sample of the episodes outside its fold.
        folds: into which the episodes are divided; each is kept from the same number of members.
        hidden: widths of the hidden layers.
        updates: of all members, at once.
        batch: rows a member and update.
        lr: of Adam; falls to 0.
        tau: share by which the targets follow at each update.
        horizon: steps after which every episode of this world is over, if it is known: narrows the range that targets
            are clipped to.
        seed: of everything random. Fits of several policies with the same seed are paired.

    Raises:
        ValueError: a setting is out of range, there are too few episodes to hold some out, or the policy's spec does
            not fit the log.
    """
    _check_settings(gamma, members, folds, updates, batch, horizon)
    block = blocks(data, episodes)
    if (count := len(block.unique())) < 2 * folds:
        whole = "block(s) of pieces" if data.series else "episode(s)"
        raise ValueError(
            f"{count} {whole} of {data.id} cannot be divided into {folds} folds of at least 2, so none can be held out:"
            " give more episodes, or fewer folds"
        )
    if policy is not None:
        check_acts_on(policy.spec, data)
    spec = data.spec(episodes)
    encoding = Encoding(spec).to(data.obs.device)
    rows = Rows.of(data, episodes, policy, encoding, gamma)
    begin = data.first[episodes]
    first = data.action[begin] if policy is None else acted(policy, data.obs[begin])
    starts = encoding(data.obs[begin], first)
    division = Folds.drawn(block, members, folds, seed)
    limits = reachable(data.reward[data.rows(episodes)], gamma, spec.terminals, horizon)
    settings: dict[str, Any] = {
        "hidden": tuple(hidden),
        "updates": updates,
        "batch": batch,
        "lr": lr,
        "tau": tau,
        "seed": seed,
    }
    fitted = fit(rows, starts, division, limits, spread_of_values(data, episodes, gamma), **settings)
    with torch.no_grad():
        values = fitted.values(starts).T
        facts = _facts(fitted, rows, division, limits)
    sound = bool(values.isfinite().all()) and fitted.clipped <= DIVERGED
    about = {"value": "discounted", "gamma": gamma, "members": members, "folds": folds, **settings, **facts}
    recipe = (data.fingerprint, tuple(episodes.tolist()), gamma, horizon, members, folds, *settings.values())
    diagnostics = {**about, "hidden": list(hidden), "diverged": not sound}
    pieces = Pieces.of(data, episodes)
    return FittedQ(fitted, encoding, policy, division, episodes, values, gamma, recipe, diagnostics, pieces)


def differences(candidate: FittedQ, baseline: FittedQ, level: float = 0.95) -> Estimate:
    """Discounted value of one policy minus that of another, paired by start state and by member.

    Both members saw the same episodes in the same order and began with the same weights, so that most of the noise of
    either value is not in the difference.

    Raises:
        Refused: one of the fits diverged.
        ValueError: they were not fitted alike, or level is not within (0, 1).
    """
    fitting = ("hidden", "updates", "batch", "lr", "tau", "seed")
    names = ("log", "episodes", "gamma", "horizon", "members", "folds", *fitting)
    for name, one, other in zip(names, candidate.recipe, baseline.recipe, strict=True):
        if one != other:
            told = "" if name == "episodes" else f": {one} and {other}"
            raise ValueError(f"the two fits differ in {name}{told}; fit both alike for a paired difference")
    for fitted in candidate, baseline:
        fitted.check()
    return pooled(candidate.starts - baseline.starts, level, candidate.diagnostics, candidate.pieces)


def pooled(values: Tensor, level: float, about: dict[str, Any], pieces: Pieces | None = None) -> Estimate:
    """The mean of `values` [S, M] over start states and members, with the interval of `mbrl.evaluation.twoway`.

    A bias that all members share, of a function class too small or too few updates, is not in it. `level` is that of
    the two-sided interval.
    """
    check_level(level)
    estimate = spread_over(values.T.numpy(force=True), 0.5 + level / 2, pieces)
    return estimate._replace(diagnostics={**about, **estimate.diagnostics, "level": level})


def _facts(fitted: Fit, rows: Rows, folds: Folds, limits: tuple[float, float]) -> dict[str, Any]:
    """What is worth knowing of a fit, as JSON has it; temporal differences are of episodes that a member never saw."""
    here = fitted.values(rows.here)
    held = folds.held(rows.owner)
    error = (rows.reward + rows.discount * fitted.values(rows.there) - here)[held].double()
    outside = (here < limits[0]) | (here > limits[1])
    return {
        "low": limits[0],
        "high": limits[1],
        "clipped": fitted.clipped,
        "outside": float(outside.float().mean()),
        "held_td_error": float(error.square().mean().sqrt()),
        "held_td_mean": float(error.mean()),
        "trace": fitted.trace,
    }


def _check_settings(gamma: float, members: int, folds: int, updates: int, batch: int, horizon: int | None) -> None:
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma is {gamma}, expected a discount factor within [0, 1): fitted Q values are discounted")
    if folds < 2 or members < folds or members % folds:
        raise ValueError(f"members is {members} and folds {folds}, expected at least 2 folds and a multiple of them")
    for name, value in ("updates", updates), ("batch", batch), ("horizon", horizon):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
