"""Networks of the evaluation: M Q-functions as one batched network, and the units that they read.

Axis letters as in `mbrl.core`; M members, I inputs (O + A).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl.core import Spec


class Encoding(nn.Module):
    """(obs, action) in units of the log's spread, [..., I]; a Discrete action's one-hot row stays what it is."""

    mean: Tensor  # [I]
    std: Tensor  # [I]

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        zeros, ones = (0.0,) * spec.action_dim, (1.0,) * spec.action_dim
        mean, std = (zeros, ones) if spec.discrete else (spec.action_mean, spec.action_std)
        self.register_buffer("mean", torch.tensor([*spec.obs_mean, *mean]))
        self.register_buffer("std", torch.tensor([*spec.obs_std, *std]))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return (torch.cat([obs, action], -1) - self.mean) / self.std


class Critics(nn.Module):
    """M functions of an encoded (obs, action), all 0 at first: [M, B] of [M, B, I] or, seen by every member, [B, I].

    Every parameter has the member axis first. LayerNorm stands between a hidden layer and its SiLU: it bounds what a
    network says far from the log (Ball et al. 2023, "RLPD", section 4.2). Hidden layers are drawn from `rng`, as
    nn.Linear draws them.
    """

    def __init__(self, inputs: int, members: int, hidden: Sequence[int], rng: torch.Generator) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan, width in itertools.pairwise([inputs, *hidden]):
            bound = 1 / math.sqrt(fan)
            for layers, rows in (self.weights, fan), (self.biases, 1):
                drawn = torch.empty(members, rows, width, device=rng.device)
                layers.append(nn.Parameter(drawn.uniform_(-bound, bound, generator=rng)))
        self.scales = nn.ParameterList([torch.ones(members, 1, width, device=rng.device) for width in hidden])
        self.shifts = nn.ParameterList([torch.zeros(members, 1, width, device=rng.device) for width in hidden])
        self.head = nn.Parameter(torch.zeros(members, 1, hidden[-1], device=rng.device))

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(len(self.head), *x.shape[-2:])
        for weight, bias, scale, shift in zip(self.weights, self.biases, self.scales, self.shifts, strict=True):
            x = F.layer_norm(torch.baddbmm(bias, x, weight), weight.shape[-1:])
            x = F.silu(torch.addcmul(shift, x, scale))
        return (x * self.head).sum(-1)  # costs less than a matmul that is one column wide
