"""What the simulator's stated intervals are made of: members' Gaussians, merged, scaled and made to fit held-out rows.

C channels are those of (next observation, reward) that a model predicts, `Spec.targets`: [P + 1].
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mbrl.core import Batch, Prediction, variance

Method = Literal["isotonic", "scale"]

REACH, KNOTS = 3.0, 49  # the quantile function is tabulated at 49 normal scores from -3 to 3
SPACING = 2 * REACH / (KNOTS - 1)
FLOOR = 1e-6  # of the log's own spread: a std below it is rounding
SEPARATION = 4e-7  # relative, between two knots: what a float32 can still tell apart
TIED = KNOTS * SEPARATION  # relative: as far apart all knots can be that stand for one and the same value
FAR = 1e30  # stds, beyond which an error is no farther: of an infinite one nothing could be subtracted
GOLDEN = (5**0.5 - 1) / 2  # multiples of it, without their whole part, fill the unit interval evenly


class Forecast(NamedTuple):
    """Mean and std of the elites' equal mixture for one step, [B, C] each."""

    mean: Tensor
    std: Tensor


class Residuals(NamedTuple):
    """What a recalibration is fitted to: rows of held-out transitions, [N, C] each."""

    mean: Tensor  # of the mixture
    aleatoric: Tensor  # mean variance of the members
    epistemic: Tensor  # variance of the members' means
    squares: Tensor  # mean over members of (target - mean)^2 / variance; NaN without one, at rest or at an end
    target: Tensor


def moments(prediction: Prediction, targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and std of (next observation, reward), [..., O + 1] each; of `targets` ([C] long) alone, [..., C]."""
    mean = torch.cat([prediction.obs, prediction.reward.unsqueeze(-1)], -1)
    std = torch.cat([prediction.obs_std, prediction.reward_std.unsqueeze(-1)], -1)
    return (mean, std) if targets is None else (mean.index_select(-1, targets), std.index_select(-1, targets))


def unit(prediction: Prediction, targets: Tensor | None = None) -> Tensor:
    """The log's spread of (next observation, reward), [O + 1]; of `targets` ([C] long) alone, [C]."""
    return prediction.scale if targets is None else prediction.scale[targets]


def outcome(batch: Batch, targets: Tensor | None = None) -> Tensor:
    """What happened: next observation and reward, [..., O + 1]; of `targets` ([C] long) alone, [..., C]."""
    both = torch.cat([batch.next_obs, batch.reward.unsqueeze(-1)], -1)
    return both if targets is None else both.index_select(-1, targets)


class Recalibration(nn.Module):
    """A scale per channel, and a quantile function per channel that is normal until it is fitted.

    The forecast of one step is the mixture of the elites' Gaussians by its first two moments, the members' stds
    multiplied by `scale`: what `Simulator.step` samples from. Its standardised error (target - mean) / std is then
    given the quantile function that it had on held-out rows: recalibration by isotonic regression of the observed on
    the nominal frequency (Kuleshov et al. 2018, algorithm 1), which for a forecast of one family is the empirical
    quantile function of that error. It repairs what no scale can, heavy tails and a bias.
    """

    scale: Tensor  # [C] multiplies every member's std
    knots: Tensor  # [C, KNOTS] standardised error at the normal scores, strictly rising

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("knots", _scores().expand(channels, -1).clone())

    def fit(self, rows: Residuals, unit: Tensor, method: Method) -> None:
        """Fit to held-out rows.

        `scale` is closed: its square is the mean of (target - mean)^2 / variance over rows and members, the optimum of
        the members' Gaussian likelihood; 1 for a channel whose members have no variance. "isotonic" adds the knots.

        Raises:
            ValueError: a prediction or a target is not finite.
        """
        bad = ~torch.cat([column for i, column in enumerate(rows) if i != 3], -1).isfinite().all(-1)
        if bad.any():
            raise ValueError(
                f"the predictions of {int(bad.sum())} of {len(bad)} held-out transitions are not finite: the model"
                " diverged"
            )
        scale = rows.squares.nanmean(0).sqrt()
        self.scale.copy_(torch.where(scale > 0, scale, 1.0))  # a comparison with NaN is false
        if method == "isotonic":
            std = self._std(rows.aleatoric, rows.epistemic, unit)
            error = ((rows.target - rows.mean) / std).double()
            levels = torch.special.ndtr(_scores().to(error))
            knots = torch.stack([torch.quantile(column, levels) for column in error.T])  # [C, KNOTS]
            for i in range(1, KNOTS):
                least = knots[:, i - 1] + SEPARATION * (knots[:, i - 1].abs() + FLOOR)
                knots[:, i] = torch.maximum(knots[:, i], least)
            self.knots.copy_(knots)

    def forecast(self, mean: Tensor, std: Tensor, unit: Tensor) -> Forecast:
        """The forecast from the elites' means and stds [E, B, C]; `unit` [C] is the log's spread."""
        return Forecast(mean.mean(0), self._std(std.square().mean(0), variance(mean), unit))

    def quantile(self, forecast: Forecast, level: float) -> Tensor:
        """The value [B, C] that the next one stays below with probability `level`, within (0, 1)."""
        place = (NormalDist().inv_cdf(level) + REACH) / SPACING
        left = min(max(int(place), 0), KNOTS - 2)
        low, high = self.knots[:, left], self.knots[:, left + 1]
        return forecast.mean + forecast.std * (low + (place - left) * (high - low))

    def interval(self, forecast: Forecast, level: float) -> tuple[Tensor, Tensor]:
        """Ends [B, C] of the central interval that holds the next value with probability `level`."""
        return self.quantile(forecast, 0.5 - level / 2), self.quantile(forecast, 0.5 + level / 2)

    def pit(self, forecast: Forecast, target: Tensor) -> Tensor:
        """Probability integral transform: the level [B, C] at which `target` [B, C] is the quantile.

        An error that many rows have exactly, as that of a set-point which rests, is the quantile of many levels. Its
        rows are spread evenly over these, as a randomised transform would (Czado et al. 2009), so that what is
        calibrated is uniform here, too.
        """
        error = ((target - forecast.mean) / forecast.std).T.clamp(-FAR, FAR).contiguous()
        reach = TIED * (error.abs() + FLOOR)
        least, most = self._level(error - reach), self._level(error + reach)
        place = torch.arange(1, error.shape[1] + 1, dtype=torch.float64) * GOLDEN % 1  # on the host: mps has no float64
        return torch.lerp(least, most, place.to(error)).T

    def _level(self, error: Tensor) -> Tensor:
        """The level [C, B] at which a standardised error [C, B] is the quantile."""
        right = torch.searchsorted(self.knots, error).clamp(1, KNOTS - 1)
        low, high = self.knots.gather(1, right - 1), self.knots.gather(1, right)
        return torch.special.ndtr((right - 1 + (error - low) / (high - low)) * SPACING - REACH)

    def _std(self, aleatoric: Tensor, epistemic: Tensor, unit: Tensor) -> Tensor:
        return (self.scale.square() * aleatoric + epistemic).sqrt().clamp_min(FLOOR * unit)


def _scores() -> Tensor:
    return torch.linspace(-REACH, REACH, KNOTS)
