"""Channels that may have one value exactly, see `Spec.resting`: what a model says of them, and the draw of whether.

C channels are those of (next observation, reward) that a model predicts, `Spec.targets`: [P + 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.core import Prediction
from mbrl.simulator.recalibration import moments

LOG_TWO_PI = math.log(2 * math.pi)
SELDOM = 1e-6  # the smallest probability that has a logarithm


class Stated(NamedTuple):
    """What one member says of each row, [..., C] each."""

    mean: Tensor
    std: Tensor
    still: Tensor | None = None  # the probability that a channel rests; None where none ever does
    now: Tensor | None = None  # that value
    moved: Tensor | None = None  # mean where it does not rest
    moved_std: Tensor | None = None

    @classmethod
    def of(cls, prediction: Prediction, targets: Tensor | None = None) -> Stated:
        """Of a prediction, about (next observation, reward) or, of these, `targets` ([C] long) alone.

        Raises:
            ValueError: the model says how likely a channel rests, and not where, or what it is else.
        """
        mean, std = moments(prediction, targets)
        if prediction.still is None:
            return cls(mean, std)
        if prediction.now is None or prediction.moved is None or prediction.moved_std is None:
            raise ValueError(
                "the model's Prediction has `still`, and not all of now, moved and moved_std, which go with it: see"
                " mbrl.core.Prediction, and check the model with mbrl.testing.check_dynamics"
            )
        resting = prediction.still, prediction.now, prediction.moved, prediction.moved_std
        always = torch.zeros_like(prediction.reward), prediction.reward, prediction.reward, prediction.reward_std
        both = (torch.cat([x, own.unsqueeze(-1)], -1) for x, own in zip(resting, always, strict=True))
        return cls(mean, std, *(x if targets is None else x.index_select(-1, targets) for x in both))

    def each(self, change: Callable[[Tensor], Tensor]) -> Stated:
        """The same with every column changed."""
        return Stated(*(column if column is None else change(column) for column in self))  # type: ignore[arg-type]

    @classmethod
    def joined(cls, parts: Sequence[Stated], axis: int) -> Stated:
        """Several of one model, one after the other along an axis."""
        columns = zip(*parts, strict=True)
        return cls(*(None if column[0] is None else torch.cat(column, axis) for column in columns))  # type: ignore[arg-type]

    def changing(self, scale: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Mean and std, times `scale`, of a value that does not rest."""
        if self.moved is None or self.moved_std is None:
            return self.mean, self.std * scale
        return self.moved, self.moved_std * scale

    def sample(self, scale: Tensor | float, rng: torch.Generator) -> Tensor:
        """Values [..., C]: at rest with the probability that is stated, and else from the Gaussian of what changes."""
        mean, std = self.changing(scale)
        values = mean + std * torch.randn(mean.shape, generator=rng, device=mean.device)
        if self.still is None or self.now is None:
            return values
        rests = torch.rand(mean.shape, generator=rng, device=mean.device) < self.still
        return torch.where(rests, self.now, values)

    def rests(self, value: Tensor) -> Tensor | None:
        """Whether values [..., C] are exactly at rest, by channels that may be so: bool; None where none ever is."""
        return None if self.still is None or self.now is None else (value == self.now) & (self.still > 0)

    def log_density(self, value: Tensor, low: Tensor, high: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Log density of values [..., C] that were clipped to low and high [C], stds times `scale`.

        Of one at rest it is the log probability of that; on a bound see `clipped_log_density`. At rest on a bound it
        is that of either, as nobody can tell them apart.
        """
        mean, std = self.changing(scale)
        rests = self.rests(value)
        if self.still is None or rests is None:
            return clipped_log_density(value, mean, std, low, high)
        alone = rests & (value > low) & (value < high)  # what is not asked for must have a gradient, too
        mean, std = torch.where(alone, value, mean), std.masked_fill(alone, 1.0)
        changes = clipped_log_density(value, mean, std, low, high) + (1 - self.still).clamp_min(SELDOM).log()
        kept = self.still.clamp_min(SELDOM).log()
        return torch.where(alone, kept, torch.where(rests, torch.logaddexp(kept, changes), changes))


def clipped_log_density(value: Tensor, mean: Tensor, std: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Log density of a Gaussian's values [...] that were clipped to low and high.

    Of a value on a bound it is the log probability of lying there or beyond (Tobin 1958): what was clipped says no more
    than that, and its expected gradient with respect to mean and std is 0, as it has to be. Between equal bounds, of a
    constant, every value is certain.
    """
    on_low, on_high = value <= low, value >= high
    inside = -0.5 * ((value - mean) / std).square() - std.log() - 0.5 * LOG_TWO_PI
    beyond = torch.where(on_low, low - mean, torch.where(on_high, mean - high, 0.0)) / std
    return torch.where(on_low | on_high, log_normal_cdf(beyond), inside).masked_fill(low >= high, 0.0)


def log_normal_cdf(z: Tensor) -> Tensor:
    """log P(Z <= z) of a standard normal Z, with a gradient far out as well, where that of torch's own is 0 / 0."""
    left, right = z.clamp_max(0.0), z.clamp_min(0.0)
    far = (0.5 * torch.special.erfcx(-left / math.sqrt(2))).log() - 0.5 * left.square()
    return torch.where(z < 0, far, torch.log1p(-0.5 * torch.erfc(right / math.sqrt(2))))
