"""The policies that learners improve: tanh-Gaussian and deterministic for Box actions, categorical for Discrete."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mbrl.core import Policy, Spec
from policies.functional import log_tanh_slope, one_hot, sample_categorical, tanh_gaussian
from policies.networks import Bounds, Standardise, Trunk

LOG_STD = (-5.0, 2.0)  # bounds of the log standard deviation, in units of half the action range


def _require(spec: Spec, discrete: bool, name: str) -> None:
    if spec.discrete != discrete:
        kinds = ("Box", "Discrete")
        raise ValueError(f"{name} acts in {kinds[discrete]} spaces, and this log's actions are {kinds[spec.discrete]}")


class TanhGaussian(Policy):
    """A Gaussian squashed into the action bounds; its mode is the squashed mean."""

    def __init__(self, spec: Spec, hidden: Sequence[int] = (256, 256), layer_norm: bool = False) -> None:
        super().__init__(spec)
        _require(spec, False, "TanhGaussian")
        self.standardise, self.bounds = Standardise(spec), Bounds(spec)
        self.network = Trunk(spec.obs_dim, hidden, 2 * spec.action_dim, layer_norm)

    def distribution(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std before the squashing, [..., A] each."""
        mean, raw = self.network(self.standardise(obs)).chunk(2, -1)
        low, high = LOG_STD
        return mean, low + (high - low) * torch.sigmoid(raw)

    def sample(self, obs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reparametrised actions [..., A] in the environment's range, and their log density in [-1, 1] units [...]."""
        mean, log_std = self.distribution(obs)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        unit, log_prob = tanh_gaussian(mean, log_std, noise)
        return self.bounds.scale(unit), log_prob

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        if rng is None:
            return self.bounds.scale(torch.tanh(self.distribution(obs)[0]))
        return self.sample(obs, rng)[0]

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density in the environment's units [...]; actions on the bounds count as lying 1e-6 inside."""
        mean, log_std = self.distribution(obs)
        raw = torch.atanh(self.bounds.unscale(action).clamp(-1 + 1e-6, 1 - 1e-6))
        noise = (raw - mean) / log_std.exp()
        gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        return (gaussian - log_tanh_slope(raw)).sum(-1) - self.bounds.log_volume()


class Deterministic(Policy):
    """One action a state, squashed into the bounds."""

    def __init__(self, spec: Spec, hidden: Sequence[int] = (256, 256), layer_norm: bool = False) -> None:
        super().__init__(spec)
        _require(spec, False, "Deterministic")
        self.standardise, self.bounds = Standardise(spec), Bounds(spec)
        self.network = Trunk(spec.obs_dim, hidden, spec.action_dim, layer_norm)

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        del rng
        return self.bounds.scale(torch.tanh(self.network(self.standardise(obs))))


class Categorical(Policy):
    """A distribution over the choices of a Discrete space; its mode is the likeliest one."""

    def __init__(self, spec: Spec, hidden: Sequence[int] = (256, 256), layer_norm: bool = False) -> None:
        super().__init__(spec)
        _require(spec, True, "Categorical")
        self.standardise = Standardise(spec)
        self.network = Trunk(spec.obs_dim, hidden, spec.action_dim, layer_norm)

    def log_probs(self, obs: Tensor) -> Tensor:
        """Log probabilities of every choice, [..., A]."""
        return F.log_softmax(self.network(self.standardise(obs)), -1)

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        logits = self.log_probs(obs)
        return one_hot(logits.argmax(-1) if rng is None else sample_categorical(logits, rng), self.spec.action_dim)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        return (self.log_probs(obs) * action).sum(-1)
