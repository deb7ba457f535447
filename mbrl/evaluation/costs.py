"""What an episode costs beside its reward: by a known function, or by what the log's cost column teaches.

A column says what logged rows cost, and nothing of the rollouts of another policy. The networks of `fit_cost` learn it
as a function of (observation, action, next observation), so that a policy's cost is counted in the very rollouts, with
the very length and without a discount, as that of the log and that of a known function are. Fitted Q evaluation of the
cost would need no simulator; but it discounts, and a limit on what a whole episode may cost is not one on a discounted
sum.

Axis letters as in `mbrl.core`; M members, n episodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from typing import Any, final

import torch
from torch import Tensor

from mbrl.data.dataset import TransitionDataset
from mbrl.data.series import blocks
from mbrl.evaluation.critics import Encoding
from mbrl.evaluation.estimates import Refused
from mbrl.evaluation.fitting import CHUNK, Fit, Folds, Rows, fit
from mbrl.limits import answered, asked, dotted
from mbrl.simulator.rollout import Cost

LEAST_EXPLAINED = 0.5  # share of the cost's variance in episodes that a network never saw, below which it is not known


@final
@dataclass(frozen=True, eq=False)
class FittedCost:
    """M networks that say what a transition costs, never less than the log's least: beyond it nothing is known."""

    fit: Fit
    encoding: Encoding
    low: float
    about: dict[str, Any]  # how well they foretell episodes that they never saw, as JSON has it

    @torch.no_grad()
    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """What transitions [B, ...] cost, [M, B] by member."""
        return self.fit.values(_encoded(self.encoding, obs, action, next_obs)).clamp_min(self.low)


def _encoded(encoding: Encoding, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    width = obs.shape[-1]
    return torch.cat([encoding(obs, action), encoding(next_obs, action)[..., :width]], -1)


def fit_cost(
    data: TransitionDataset, episodes: Tensor, *, members: int, folds: int, updates: int, seed: int
) -> FittedCost:
    """Regress the log's cost column on (obs, action, next_obs), each member on a bootstrap sample of episodes.

    It is `mbrl.evaluation.fitting.fit` at a discount of 0. Every row is also foretold by the members that never saw its
    episode, and that error is reported: `held_rmse` of a row, `held_bias` of an episode's sum, and `explained`, the
    share of the rows' variance (1 - mean squared error / variance).

    Args:
        data: a log with a cost column.
        episodes: [n] long, whose rows are fitted to; at least two a fold.
        members: M, a multiple of the folds.
        folds: into which the episodes are divided; each is kept from the same number of members.
        updates: of all members, at once.
        seed: of everything random.

    Raises:
        Refused: the cost is the same in every row, or less than `LEAST_EXPLAINED` of it is explained where the networks
            have not seen it: a policy that does other things than the log may then cost anything.
        ValueError: the log has no cost column.
    """
    if data.cost is None:
        raise ValueError(f"{data.id} has no cost column: name it as `cost` in the schema, or give trial.cost")
    rows = data.rows(episodes)
    cost, encoding = data.cost[rows], Encoding(data.spec(episodes)).to(data.obs.device)
    low, high = float(cost.min()), float(cost.max())
    if low == high:
        raise Refused(
            f"the cost is {low:g} in all rows of {data.id} to learn it from, so that nothing says what would cost more:"
            " name a function as trial.cost"
        )
    owner = torch.arange(len(episodes), device=rows.device).repeat_interleave(data.lengths[episodes])
    here = _encoded(encoding, data.obs[rows], data.action[rows], data.next_obs[rows])
    division = Folds.drawn(blocks(data, episodes), members, folds, seed)
    settings: dict[str, Any] = {"updates": updates, "batch": 256, "lr": 1e-3, "tau": 0.02, "hidden": (64, 64)}
    table = Rows(here, here, cost, torch.zeros_like(cost), owner)
    spread = float(cost.double().std(correction=0))
    fitted = fit(table, here[:1], division, (low, high), spread, seed=seed, **settings)
    about = _held_out(fitted, table, division, low)
    if not about["explained"] >= LEAST_EXPLAINED:  # false of NaN as well
        raise Refused(
            f"observation, action and next observation explain {about['explained']:.0%} of the variance of the cost in"
            f" episodes of {data.id} that were not fitted to, expected at least {LEAST_EXPLAINED:.0%}: log the channels"
            " that it depends on, set data.history, or name a function as trial.cost"
        )
    return FittedCost(fitted, encoding, low, {"cost": "learned from the log's column", "members": members, **about})


@torch.no_grad()
def _held_out(fitted: Fit, rows: Rows, folds: Folds, low: float) -> dict[str, float]:
    """Errors on rows by the members that never saw their episode."""
    unseen = folds.held(rows.owner).double()
    said = (fitted.values(rows.here).clamp_min(low) * unseen).sum(0) / unseen.sum(0)
    error, cost = said - rows.reward, rows.reward.double()
    total = torch.zeros(len(folds.episode), dtype=torch.float64, device=error.device).index_add_(0, rows.owner, error)
    return {
        "held_rmse": float(error.square().mean().sqrt()),
        "held_bias": float(total.mean()),
        "explained": float(1 - error.square().mean() / cost.var(correction=0)),
    }


def framed(cost: Cost, width: int) -> Cost:
    """A cost of plain observations on rows that may be windows: of the newest ones, `width` channels."""

    @wraps(cost)
    def of_newest(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return cost(obs[..., :width], action, next_obs[..., :width])

    return of_newest


def logged_costs(data: TransitionDataset, cost: Cost | None) -> Tensor | None:
    """What each logged episode cost, [n] float32: by the function if there is one, else by the column; None without.

    Raises:
        ValueError: the function gives anything but a finite cost [B] for rows [B].
    """
    if cost is None:
        return None if data.cost is None else data.sums(data.cost)
    columns, parts = (column.split(CHUNK) for column in (data.obs, data.action, data.next_obs)), []
    newest = framed(cost, data.frame_dim)
    with torch.no_grad():
        for part in zip(*columns, strict=True):
            parts.append(answered("trial.cost", cost, asked("trial.cost", newest, *part), part[0].shape[:1]))
    found = torch.cat(parts)
    if not found.isfinite().all():
        bad = int((~found.isfinite()).sum())
        raise ValueError(f"trial.cost {dotted(cost)} is not finite in {bad} of {len(found)} logged rows")
    return data.sums(found)
