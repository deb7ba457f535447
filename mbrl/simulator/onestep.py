"""One step ahead on held-out rows: errors, intervals, what the uncertainty is worth, ends and rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl.core import Batch, Prediction
from mbrl.evaluation import scores
from mbrl.simulator.calibration import CALIBRATION_ROWS
from mbrl.simulator.foreign import foreign_actions
from mbrl.simulator.openloop import LEVEL
from mbrl.simulator.recalibration import Forecast, Recalibration, outcome
from mbrl.simulator.recall import in_parts
from mbrl.simulator.simulator import Simulator

INTERVALS = (0.5, 0.8, 0.9, 0.95)
CRPS_LEVELS, CRPS_ROWS = 99, 1024


class Seen(NamedTuple):
    """The simulator's forecasts for held-out rows, N of them, beside what happened."""

    forecast: Forecast  # [N, C]
    target: Tensor  # [N, C]
    uncertainty: Tensor  # [N]
    foreign: Tensor  # [N] uncertainty of the same states under actions drawn from all that are possible
    terminated: Tensor  # [N] probability that the world ends


def look(simulator: Simulator, batch: Batch, rng: torch.Generator, episode: Tensor | None = None) -> Seen:
    """The simulator's forecasts for the rows of `batch` [N, ...]; `rng` draws the foreign actions.

    `episode` [N] long is that of each row, as in `Simulator.calibrate`.
    """
    parts, dynamics = [], simulator.dynamics
    for part, hidden in in_parts(dynamics, batch, episode, CALIBRATION_ROWS):
        prediction = dynamics.predict(part.obs, part.action, None, hidden)
        transition = part.obs, part.action, part.next_obs, None, hidden
        forecast = simulator.forecast(simulator.ends.settled(prediction, *transition))
        others = foreign_actions(simulator.spec, len(part.obs), rng)
        doubts = (_doubt(simulator, p) for p in (prediction, dynamics.predict(part.obs, others, None, hidden)))
        chance = simulator.ends.chance(*transition)[dynamics.elites].mean(0)
        parts.append((*forecast, outcome(part, simulator.targets), *doubts, chance))
    mean, std, *rest = (torch.cat(column) for column in zip(*parts, strict=True))
    return Seen(Forecast(mean, std), *rest)


def _doubt(simulator: Simulator, prediction: Prediction) -> Tensor:
    """The simulator's own uncertainty [B]; of one that has none, the size of its forecast's std."""
    if simulator.uncertainty is not None:
        return simulator.uncertainty(prediction) / simulator.uncertainty_scale
    return torch.linalg.vector_norm(simulator.forecast(prediction).std / simulator.unit(prediction), dim=-1)


def joined(parts: Sequence[Seen]) -> Seen:
    """Several as one, their rows behind each other."""
    forecasts, *rest = zip(*parts, strict=True)
    forecast = Forecast(*(torch.cat(column) for column in zip(*forecasts, strict=True)))
    return Seen(forecast, *(torch.cat(column) for column in rest))


def one_step(simulator: Simulator, parts: Sequence[tuple[Recalibration, Seen]]) -> dict[str, Any]:
    """Errors and intervals of one step: lists over channels, and `mean` of those that compare between channels.

    Args:
        simulator: whose forecasts they are.
        parts: rows by the recalibration that their forecasts are by; it need not be the simulator's own.
    """

    def asked(ask: Callable[[Recalibration, Forecast, Tensor], Tensor]) -> Tensor:
        return torch.cat([ask(fit, seen.forecast, seen.target) for fit, seen in parts])

    (mean, std), target, *_ = joined([seen for _, seen in parts])
    pit, normal = asked(lambda fit, f, t: fit.pit(f, t)), torch.special.ndtr((target - mean) / std)
    width = asked(lambda fit, f, t: torch.sub(*reversed(fit.interval(f, LEVEL)))).mean(0)
    score = asked(lambda fit, f, t: scores.interval_score(*fit.interval(f, LEVEL), t, LEVEL)).mean(0)
    crps = asked(_crps).mean(0)
    levels, curve = scores.calibration_curve(pit)
    covered = {f"{level:.0%}": scores.coverage(pit, level) for level in INTERVALS}
    columns = {
        "mean_absolute_error": (target - mean).abs().mean(0),
        "bias": (mean - target).mean(0),
        "calibration_error": scores.calibration_error(pit),
        "calibration_error_scaled": scores.calibration_error(normal),
        "crps": crps,
        "crps_scaled": scores.gaussian_crps(mean, std, target).mean(0),
        "nll_scaled": scores.gaussian_nll(mean, std, target).mean(0),
        "sharpness": scores.sharpness(std),
        "interval_width": width,
        "interval_score": score,
        "std_scale": simulator.recalibration.scale,
    }
    return {
        **columns,
        "coverage": covered,
        "coverage_scaled": {f"{level:.0%}": scores.coverage(normal, level) for level in INTERVALS},
        "pit": scores.pit_histogram(pit),
        "curve": {"levels": levels, "observed": curve.mean(1), "scaled": scores.calibration_curve(normal)[1].mean(1)},
        "mean": {
            "calibration_error": columns["calibration_error"].mean(),
            "calibration_error_scaled": columns["calibration_error_scaled"].mean(),
            "coverage": {level: share.mean() for level, share in covered.items()},
        },
    }


def _crps(fit: Recalibration, forecast: Forecast, target: Tensor) -> Tensor:
    """The continuous ranked probability score [N, C], of some rows at a time: there are so many quantiles of each."""
    levels = [(i + 0.5) / CRPS_LEVELS for i in range(CRPS_LEVELS)]
    parts = zip(*(column.split(CRPS_ROWS) for column in (*forecast, target)), strict=True)
    return torch.cat(
        [
            scores.quantile_crps(torch.stack([fit.quantile(Forecast(mean, std), k) for k in levels]), happened)
            for mean, std, happened in parts
        ]
    )


def uncertainty_worth(simulator: Simulator, seen: Seen) -> dict[str, Any]:
    (mean, _), target = seen.forecast, seen.target
    unit = target.new_tensor([*simulator.spec.delta_std, simulator.spec.reward_std])[[*simulator.spec.targets]]
    error = torch.linalg.vector_norm((target - mean) / unit, dim=-1)
    score = torch.cat([seen.uncertainty, seen.foreign])
    foreign = torch.arange(len(score)) >= len(error)
    inside = seen.uncertainty <= 1
    function = simulator.uncertainty
    return {
        "function": "the forecast's std" if function is None else getattr(function, "__name__", str(function)),
        "spearman": scores.spearman(seen.uncertainty, error),
        "auroc_foreign_actions": scores.auroc(score, foreign),
        "deciles": scores.by_decile(seen.uncertainty, error),
        "inside_share": inside.float().mean(),
        "inside_error": error[inside].mean(),
        "outside_error": error[~inside].mean(),
    }


def termination_skill(chance: Tensor, happened: Tensor) -> dict[str, Any] | None:
    """How well ends are foretold; None where no held-out episode ends by itself."""
    if not happened.any():
        return None
    rate = happened.float().mean()
    return {
        "ends": int(happened.sum()),
        "auroc": scores.auroc(chance, happened),
        "brier": scores.brier(chance, happened),
        "brier_of_rate": rate * (1 - rate),
    }


def reward_bias(seen: Seen) -> dict[str, Any]:
    reward, error = seen.target[:, -1], seen.forecast.mean[:, -1] - seen.target[:, -1]
    inside = seen.uncertainty <= 1
    return {
        "bias_by_decile": scores.by_decile(reward, error),
        "bias_inside": error[inside].mean(),
        "bias_outside": error[~inside].mean(),
    }
