"""What a simulator is calibrated to: its model held against held-out logged transitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from mbrl.core import Batch, Prediction, Spec, generator, variance
from mbrl.limits import answered, asked
from mbrl.simulator.ends import Ends
from mbrl.simulator.foreign import foreign_actions
from mbrl.simulator.holding import Stated
from mbrl.simulator.recalibration import FLOOR, Method, Residuals, outcome, unit
from mbrl.simulator.recall import in_parts

CALIBRATION_ROWS = 8192  # predicted at once, which bounds the memory of a calibration


class Measured(NamedTuple):
    """What a model says of held-out rows, N of them."""

    residuals: Residuals  # [N, C]
    doubt: Tensor | None  # [N] raw uncertainty; None without one
    unit: Tensor  # [C] the log's spread


def measure(
    ends: Ends,
    holdout: Batch,
    episode: Tensor | None,
    targets: Tensor | None,
    uncertainty: Callable[[Prediction], Tensor] | None,
) -> Measured:
    """Hold the model of `ends` against transitions [N, ...]; C channels are `targets`.

    Raises:
        ValueError: there are no rows, or an uncertainty is not [B], or as `mbrl.simulator.recall.recalling` does.
    """
    if not len(holdout.obs):
        raise ValueError("no held-out transitions to calibrate the simulator on: hold out at least one episode")
    parts, raw, dynamics = [], [], ends.dynamics
    for batch, hidden in in_parts(dynamics, holdout, episode, CALIBRATION_ROWS):
        everyone = dynamics.predict(batch.obs, batch.action, None, hidden)
        settled = ends.settled(everyone, batch.obs, batch.action, batch.next_obs, None, hidden)
        stated = Stated.of(settled, targets).each(lambda column: column[dynamics.elites])
        found = residuals(stated, outcome(batch, targets), unit(everyone, targets))
        parts.append(_going_on(found, everyone.of(dynamics.elites), batch) if dynamics.ends_apart else found)
        if uncertainty is not None:
            found = asked("simulator.uncertainty", uncertainty, everyone)
            raw.append(answered("simulator.uncertainty", uncertainty, found, batch.reward.shape))
    held = Residuals(*(torch.cat(column) for column in zip(*parts, strict=True)))
    return Measured(held, torch.cat(raw) if raw else None, unit(everyone, targets))


def residuals(stated: Stated, target: Tensor, unit: Tensor) -> Residuals:
    """Residuals about `target` [B, C] of what the elites state [E, B, C]; `unit` [C] is the log's spread.

    The squares are of what changed: whether a set-point rests is another matter than how far it jumps.
    """
    mean, std = stated.changing()
    known = torch.where(std > FLOOR * unit, std, torch.nan)
    rests = stated.rests(target)
    squares = ((target - mean) / (known if rests is None else known.masked_fill(rests, torch.nan))).square().mean(0)
    epistemic = variance(stated.mean)
    return Residuals(stated.mean.mean(0), stated.std.square().mean(0), epistemic, squares, target)


def _going_on(found: Residuals, said: Prediction, batch: Batch) -> Residuals:
    """The same, with squares of the reward about what the elites say of a step after which the world goes on.

    It is their std that a simulated step multiplies by the scale. When the world ends is another matter: an end that
    was not foreseen made every reward tremble, and the share of those that did not come kept all of them too still.
    """
    known = torch.where(said.reward_std > FLOOR * said.scale[-1], said.reward_std, torch.nan)
    squares = ((batch.reward - said.reward) / known).square().mean(0).masked_fill(batch.terminated, torch.nan)
    return found._replace(squares=torch.cat([found.squares[:, :-1], squares.unsqueeze(-1)], -1))


def check_structure(error: Callable[[Batch], Tensor | None], spec: Spec, holdout: Batch) -> None:
    """Compute the known structure of all rows, as logged and under foreign actions, so that it raises where it fails.

    Args:
        error: of `Simulator.structure_error`.
        spec: the problem.
        holdout: [N, ...].
    """
    rng = generator(0, "calibrate")
    for chunk in zip(*(column.split(CALIBRATION_ROWS) for column in holdout), strict=True):
        batch = Batch(*chunk)
        for action in (batch.action, foreign_actions(spec, len(batch.obs), rng).to(batch.obs.device)):
            error(batch._replace(action=action))


def doubt_unit(raw: Tensor, quantile: float) -> Tensor:
    """The smallest uncertainty with the share `quantile` of `raw` [N] at or below it.

    Raises:
        ValueError: an uncertainty is not finite, or below 0.
    """
    rows = len(raw)
    if not raw.isfinite().all():
        bad = int((~raw.isfinite()).sum())
        raise ValueError(f"the uncertainty of {bad} of {rows} held-out transitions is not finite: the model diverged")
    if (raw < 0).any():
        raise ValueError(
            f"the uncertainty of {int((raw < 0).sum())} of {rows} held-out transitions is below 0, the smallest"
            f" {float(raw.min()):.3g}: expected 0 where a model is sure and more where it is not, as a penalty would"
            " otherwise pay for doubt"
        )
    rank = max(1, math.ceil(round(quantile * rows, 6)))
    return raw.kthvalue(rank).values.clamp_min(FLOOR)


def check_settings(margin: float, quantile: float, recalibration: str, trusted_horizon: int | None) -> None:
    """Refuse what a simulator cannot be made with.

    Raises:
        ValueError: one of them is out of range, or there is no such recalibration.
    """
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin is {margin}, expected a fraction of the log's range, 0 or more, and finite")
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile is {quantile}, expected more than 0 and at most 1")
    if recalibration not in get_args(Method):
        raise ValueError(f"recalibration is {recalibration!r}, expected one of {', '.join(get_args(Method))}")
    if trusted_horizon is not None and trusted_horizon < 0:
        raise ValueError(f"trusted_horizon is {trusted_horizon}, expected 0 or more steps, or None if not known")
