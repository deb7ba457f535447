"""Networks of the learners: a plain trunk, and K critics as one batched network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl.core import Spec, full_precision, narrow, narrow_linear
from policies.functional import stacked_linear

CACHE_ROWS = 2048  # that go through a network at once on a CPU: the activations then stay in its cache


class Standardise(nn.Module):
    """(obs - mean) / std with the moments of the training split, kept in buffers: [..., O] -> [..., O]."""

    mean: Tensor  # [O]
    std: Tensor  # [O]

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(spec.obs_mean))
        self.register_buffer("std", torch.tensor(spec.obs_std))

    def forward(self, obs: Tensor) -> Tensor:
        return (obs - self.mean) / self.std


class Bounds(nn.Module):
    """Between the environment's action range and [-1, 1]."""

    centre: Tensor  # [A]
    half_range: Tensor  # [A]
    low: Tensor  # [A]
    high: Tensor  # [A]
    moving: Tensor  # [M] long: the channels that can move

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
        self.register_buffer("centre", (low + high) / 2)
        self.register_buffer("half_range", (high - low) / 2)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("moving", torch.tensor(spec.moving_actions, dtype=torch.long), persistent=False)

    def scale(self, unit: Tensor) -> Tensor:
        """[-1, 1] -> the environment's range, which rounding alone would leave by a last digit."""
        return torch.clamp(self.centre + self.half_range * unit, self.low, self.high)

    def unscale(self, action: Tensor) -> Tensor:
        """The environment's range -> [-1, 1]."""
        return (action - self.centre) / torch.where(self.half_range > 0, self.half_range, 1.0)

    def counted(self, log_density: Tensor) -> Tensor:
        """The sum of the channels' log densities [..., A]: [...]. One that cannot move has none."""
        every = len(self.moving) == log_density.shape[-1]
        return (log_density if every else log_density.index_select(-1, self.moving)).sum(-1)

    def log_volume(self) -> Tensor:
        """log of what [-1, 1]^A is stretched by, scalar; constant channels count as 1."""
        return torch.where(self.half_range > 0, self.half_range, 1.0).log().sum()


class Trunk(nn.Module):
    """inputs -> hidden ReLU layers (each with LayerNorm if asked) -> outputs, see `mbrl.precision.full_precision`."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, layer_norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers.append(nn.Linear(inputs, width))
            if layer_norm:
                layers.append(nn.LayerNorm(width))
            layers.append(nn.ReLU(inplace=True))
            inputs = width
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [..., outputs] for x [..., inputs]. A CPU asked for no gradient takes a part of the rows at once."""
        watched = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if watched or x.dim() != 2 or x.device.type != "cpu" or len(x) <= CACHE_ROWS:
            return self._through(x)
        return torch.cat([self._through(part) for part in x.split(CACHE_ROWS)])

    def _through(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.hidden):
            with full_precision(x) if number == 0 else nullcontext():
                x = layer(x.float() if number == 0 else x)
        weight, bias = self.output.weight, self.output.bias
        with full_precision(x):
            if x.dim() == 2 and narrow(x, weight.mT):
                return narrow_linear(x.float()[None], weight.mT[None], bias[None, None])[0]
            return self.output(x.float())


def usual_value(spec: Spec, discount: float) -> float:
    """What the log's mean reward comes to, in units of its spread: values are learned as a difference from it.

    It is paid for as long as the world goes on, which ends in every step with the chance that it had in the log. A
    reward of 1000 give or take 1 has values of 100,000 that differ by a hundred, and of a network that begins at 0 they
    are noise for long: so is the price of time, -1 a step, in a log whose only other reward is 0 at the goal. Values
    are float32 numbers: of a mean of 100,000 spreads (discount 0.99) they are 10 million, and rounded to a spread.
    """
    ends = 1 - discount * (1 - spec.terminal_rate)
    known = spec.terminal_rate > 0 or not spec.terminals
    return spec.reward_mean / spec.reward_std / ends if known and ends > 0 else 0.0


class Value(nn.Module):
    """V(obs): [..., O] -> [...], `usual` and what a network adds to it."""

    def __init__(self, spec: Spec, hidden: Sequence[int], layer_norm: bool = False, usual: float = 0.0) -> None:
        super().__init__()
        self.standardise, self.usual = Standardise(spec), usual
        self.network = Trunk(spec.obs_dim, hidden, 1, layer_norm)

    def forward(self, obs: Tensor) -> Tensor:
        value: Tensor = self.network(self.standardise(obs))
        return value.squeeze(-1) + self.usual


class Critics(nn.Module):
    """K Q-functions in one batched network, one tensor a layer.

    For Box actions the network reads (obs, action) and has one output; for Discrete ones it reads obs and
    has one output a choice. LayerNorm on hidden layers bounds extrapolation (Ball et al. 2023, "RLPD"); it has no scale
    and no shift to learn, unlike that of a `Trunk`.

    Args:
        spec: of the log.
        count: K, at least 1.
        hidden: widths of the layers.
        layer_norm: on hidden layers.
        usual: what all Q-values are told as a difference from, see `usual_value`.

    Raises:
        ValueError: count is below 1.
    """

    def __init__(self, spec: Spec, count: int, hidden: Sequence[int], layer_norm: bool, usual: float = 0.0) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"critics is {count}, expected at least 1")
        self.discrete, self.count, self.layer_norm, self.usual = spec.discrete, count, layer_norm, usual
        self.standardise, self.bounds = Standardise(spec), Bounds(spec)
        sizes = [spec.obs_dim + (0 if spec.discrete else spec.action_dim), *hidden]
        sizes.append(spec.action_dim if spec.discrete else 1)
        pairs = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList([self._uniform(count, i, j, fan=i) for i, j in pairs])
        self.biases = nn.ParameterList([self._uniform(count, 1, j, fan=i) for i, j in pairs])

    @property
    def sizes(self) -> dict[str, Any]:
        """What such a network is built with, the spec aside: plain values."""
        hidden = [weight.shape[-1] for weight in self.weights[:-1]]
        return {"count": self.count, "hidden": hidden, "layer_norm": self.layer_norm, "usual": self.usual}

    @staticmethod
    def _uniform(*shape: int, fan: int) -> nn.Parameter:
        bound = 1 / math.sqrt(fan)  # what nn.Linear does
        return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

    def forward(self, obs: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        """Q-values [K, B] of obs [B, O] and action [B, A] or (Box) [K, B, A], each critic its own.

        `frozen` stops gradients at the weights, not the action.
        """
        if self.discrete:
            return (self.every(obs, frozen) * action).sum(-1)
        state, unit = self.standardise(obs), self.bounds.unscale(action)
        x = torch.cat([state.expand(*unit.shape[:-1], -1), unit], -1)
        return self._network(x, frozen).squeeze(-1) + self.usual

    def every(self, obs: Tensor, frozen: bool = False) -> Tensor:
        """Discrete only: Q-values [K, B, A] of every choice."""
        return self._network(self.standardise(obs), frozen) + self.usual

    def _network(self, x: Tensor, frozen: bool) -> Tensor:
        layers = [
            (w.detach(), b.detach()) if frozen else (w, b) for w, b in zip(self.weights, self.biases, strict=True)
        ]
        x = x.expand(self.count, *x.shape[-2:])
        for number, (weight, bias) in enumerate(layers[:-1]):
            with full_precision(x) if number == 0 else nullcontext():
                x = stacked_linear(x.float() if number == 0 else x, weight, bias)
            x = F.relu(F.layer_norm(x, x.shape[-1:]) if self.layer_norm else x, inplace=True)
        weight, bias = layers[-1]
        with full_precision(x):
            if weight.shape[-1] == 1:  # a product and a sum cost less than a matmul that is one column wide
                return (x.float() * weight.transpose(1, 2)).sum(-1, keepdim=True) + bias
            return stacked_linear(x.float(), weight, bias)
