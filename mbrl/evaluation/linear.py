"""Values and occupancies that are linear in given features: exact solutions, without a network.

Axis letters as in `mbrl.core`; D features. All in float64.
"""

from __future__ import annotations

import math
from typing import Self, final

import torch
from torch import Tensor

BANDWIDTHS = (1.0, 2.0, 4.0)  # of the random features, in units of the median distance
PAIRS = 2000  # of rows, whose median distance is taken


@final
class FourierFeatures:
    """Random Fourier features of a mixture of Gaussian kernels (Rahimi and Recht 2007), and a constant: [N, D]."""

    def __init__(self, frequency: Tensor) -> None:
        self.frequency = frequency  # [I, (D - 1) / 2]

    @classmethod
    def drawn(cls, x: Tensor, count: int, rng: torch.Generator) -> Self:
        """About `count` features for rows like `x` [N, I]; the kernels' widths go with their median distance."""
        one, other = (torch.randint(len(x), (PAIRS,), generator=rng, device=x.device) for _ in range(2))
        distance = float((x[one] - x[other]).norm(dim=-1).median()) or 1.0
        waves = max(1, count // 2)
        drawn = torch.randn(x.shape[1], waves, generator=rng, device=x.device)
        widths = torch.tensor(BANDWIDTHS, device=x.device)[torch.arange(waves, device=x.device) % len(BANDWIDTHS)]
        return cls(drawn / (widths * distance))

    def __call__(self, x: Tensor) -> Tensor:
        wave = x @ self.frequency
        scale = 1 / math.sqrt(wave.shape[-1])
        return torch.cat([torch.ones_like(wave[..., :1]), scale * wave.cos(), scale * wave.sin()], -1)


def fixed_point(here: Tensor, there: Tensor, reward: Tensor, discount: Tensor, ridge: float = 0.0) -> Tensor:
    """Coefficients [D] of the Q-function that fitted Q evaluation with linear regression converges to.

    Q = here @ coefficients solves here' (here - discount there) c + ridge N c = here' reward (LSTD-Q, Lagoudakis and
    Parr 2003, equation 5). With one feature a state and action this is the value in the certainty-equivalent model,
    whose transition probabilities are the log's frequencies.

    Args:
        here: [N, D] features of logged (obs, action).
        there: [N, D] of (next_obs, the policy's action); averages over a stochastic policy's actions are allowed.
        reward: [N].
        discount: [N], gamma where the world goes on and 0 where it ended.
        ridge: at least 0.

    Raises:
        torch.linalg.LinAlgError: the features do not decide the coefficients (and ridge is 0).
    """
    one, other = here.double(), here.double() - discount.double().unsqueeze(-1) * there.double()
    system = one.T @ other + ridge * len(one) * torch.eye(one.shape[1], dtype=torch.float64, device=one.device)
    return torch.linalg.solve(system, one.T @ reward.double())
