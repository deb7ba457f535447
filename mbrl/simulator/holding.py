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

    def log_density(self, value: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Log density of values [..., C], stds times `scale`; of one at rest the log probability of that."""
        mean, std = self.changing(scale)
        rests = self.rests(value)
        if rests is not None:  # what is not asked for must have a gradient, too
            mean, std = torch.where(rests, value, mean), std.masked_fill(rests, 1.0)
        changes = -0.5 * ((value - mean) / std).square() - std.log() - 0.5 * LOG_TWO_PI
        if self.still is None or rests is None:
            return changes
        changes = changes + (1 - self.still).clamp_min(SELDOM).log()
        return torch.where(rests, self.still.clamp_min(SELDOM).log(), changes)
