"""Actions that a log need not have tried."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl.core import Spec


def foreign_actions(spec: Spec, count: int, rng: torch.Generator) -> Tensor:
    """Actions [count, A] drawn evenly from all that are possible, Discrete ones as one-hot rows."""
    draw = torch.rand(count, spec.action_dim, generator=rng)
    if spec.discrete:
        return torch.nn.functional.one_hot(draw.argmax(-1), spec.action_dim).float()
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    return low + (high - low) * draw
