"""Densities of actions within bounds, where a log may hold many actions on the bounds themselves.

A logger whose commands are clipped has a probability mass on each bound that it meets, and a density in between. Ratios
need both policies to be measured alike, so everything here is said with respect to the same measure: length in the
action's own units inside, and a point at each bound where the log has mass.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

EDGE = 1e-3  # share of half the range within which an action counts as on the bound
LEAST_MASS = 1e-3  # share of the rows on a bound that makes it a point of its own


class Support(NamedTuple):
    """Where actions can be: [A] each."""

    low: Tensor
    high: Tensor
    mass_low: Tensor  # bool: actions on the lower bound are a point with a probability
    mass_high: Tensor

    @classmethod
    def of(cls, action: Tensor, low: Tensor, high: Tensor) -> Self:
        """The bounds, and on which of them logged actions [N, A] gather."""
        edge = EDGE * (high - low) / 2
        at_low, at_high = (action <= low + edge).double().mean(0), (action >= high - edge).double().mean(0)
        return cls(low, high, at_low > LEAST_MASS, at_high > LEAST_MASS)

    @classmethod
    def plain(cls, low: Tensor, high: Tensor) -> Self:
        """Bounds on which nothing gathers."""
        never = torch.zeros_like(low, dtype=torch.bool)
        return cls(low, high, never, never)

    def on_mass(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Which actions [..., A] are on a lower, and on an upper bound that has mass, [..., A] bool each."""
        edge = EDGE * (self.high - self.low) / 2
        return self.mass_low & (action <= self.low + edge), self.mass_high & (action >= self.high - edge)

    def log_normal(self, action: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Log density of `action`, per channel, under a normal distribution that the bounds limit: shapes [..., A].

        What a normal draw has beyond a bound with mass lies on it (a clipped draw); beyond another bound there is
        nothing (a truncated draw).
        """
        edge = EDGE * (self.high - self.low) / 2
        at_low, at_high = self.on_mass(action)
        below = torch.special.ndtr((self.low - mean) / std).where(~self.mass_low, torch.zeros_like(mean))
        above = torch.special.ndtr((mean - self.high) / std).where(~self.mass_high, torch.zeros_like(mean))
        z = (action - mean) / std
        inside = -0.5 * z.square() - std.log() - 0.5 * math.log(2 * math.pi)
        on_low = torch.special.log_ndtr((self.low + edge - mean) / std)
        on_high = torch.special.log_ndtr((mean - self.high + edge) / std)
        found = torch.where(at_low, on_low, torch.where(at_high, on_high, inside))
        return found - (1 - below - above).clamp_min(1e-12).log()
