"""Between which values a simulated world stays."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mbrl.core import Spec


def ranges(spec: Spec, margin: float) -> tuple[Tensor, Tensor]:
    """Lowest and highest (observation, reward), [O + 1] each: the log's, widened, and physical bounds where tighter.

    A carried channel reaches as far as what it is a copy of, which for an action is as far as actions go, and a clock
    as far as it goes: some episodes of a log may be of the morning only.

    Args:
        spec: the problem.
        margin: by which share of its width the log's range is widened at both ends.
    """
    low = torch.tensor([*spec.obs_low, spec.reward_low])
    high = torch.tensor([*spec.obs_high, spec.reward_high])
    low, high = low - margin * (high - low), high + margin * (high - low)
    width = spec.frame_dim
    for channel in spec.clocks:
        for place in range(channel, width * spec.history, width):
            low[place], high[place] = -math.inf, math.inf
    for _ in spec.carried:  # of what is itself a copy, and so on
        lows, highs = [*low[:width].tolist(), *spec.action_low], [*high[:width].tolist(), *spec.action_high]
        for channel, source in zip(spec.carried, spec.sources, strict=True):
            for place in range(channel, width * spec.history, width):  # older observations are its copies as well
                low[place] = low[place].clamp_max(lows[source])
                high[place] = high[place].clamp_min(highs[source])
    floor, ceiling = spec.limits(spec.bound_low, -math.inf), spec.limits(spec.bound_high, math.inf)
    return torch.maximum(low, torch.tensor(floor)), torch.minimum(high, torch.tensor(ceiling))
