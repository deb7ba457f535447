"""The policies that learners improve: three kinds for Box actions, categorical for Discrete ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl.core import Policy, Spec
from policies.functional import log_tanh_slope, one_hot, sample_categorical, tanh_gaussian
from policies.networks import Bounds, Standardise, Trunk

LOG_STD = (-5.0, 2.0)  # bounds of the log standard deviation, in units of half the action range


def require(spec: Spec, discrete: bool, name: str, instead: str | None = None) -> None:
    """Refuse a log with the other kind of actions, and name the class to use `instead`, where there is one.

    Raises:
        ValueError: the log's actions are of the other kind.
    """
    if spec.discrete != discrete:
        kinds = ("Box", "Discrete")
        told = f"{name} acts in {kinds[discrete]} spaces, and this log's actions are {kinds[spec.discrete]}"
        raise ValueError(told if instead is None else f"{told}: use {instead}")


class TanhGaussian(Policy):
    """A Gaussian squashed into the action bounds; its mode is the squashed mean."""

    def __init__(self, spec: Spec, hidden: Sequence[int] = (256, 256), layer_norm: bool = False) -> None:
        super().__init__(spec)
        require(spec, False, "TanhGaussian")
        self.standardise, self.bounds = Standardise(spec), Bounds(spec)
        self.network = Trunk(spec.obs_dim, hidden, 2 * spec.action_dim, layer_norm)

    def distribution(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std before the squashing, [..., A] each."""
        mean, raw = self.network(self.standardise(obs)).chunk(2, -1)
        low, high = LOG_STD
        return mean, low + (high - low) * torch.sigmoid(raw)

    def sample(self, obs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reparametrised actions [..., A] in the environment's range, and their log density in [-1, 1] units [...].

        A channel whose bounds are equal has no density, here and in `log_prob`: it would lend the others its entropy.
        """
        mean, log_std = self.distribution(obs)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        unit, log_density = tanh_gaussian(mean, log_std, noise)
        return self.bounds.scale(unit), self.bounds.counted(log_density)

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        if rng is None:
            return self.bounds.scale(torch.tanh(self.distribution(obs)[0]))
        return self.sample(obs, rng)[0]

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density in the environment's units [...]; actions on the bounds count as lying 1e-6 inside.

        So those of a mean far beyond the bounds, above 7 before the squashing, look less likely than they are.
        """
        mean, log_std = self.distribution(obs)
        raw = torch.atanh(self.bounds.unscale(action).clamp(-1 + 1e-6, 1 - 1e-6))
        noise = (raw - mean) / log_std.exp()
        gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        return self.bounds.counted(gaussian - log_tanh_slope(raw)) - self.bounds.log_volume()


class Gaussian(Policy):
    """A Gaussian about a squashed mean with one spread for all observations; actions are clipped to the bounds.

    The actor of AWR, AWAC and IQL (Peng et al. 2019; Nair et al. 2020; Kostrikov et al. 2022, appendix B). Unlike the
    squashed Gaussian's, its density is moderate for actions on the bounds, of which logs are full, so that no such row
    outweighs the others.
    """

    def __init__(self, spec: Spec, hidden: Sequence[int] = (256, 256), layer_norm: bool = False) -> None:
        super().__init__(spec)
        require(spec, False, "Gaussian")
        self.standardise, self.bounds = Standardise(spec), Bounds(spec)
        self.network = Trunk(spec.obs_dim, hidden, spec.action_dim, layer_norm)
        self.raw_std = nn.Parameter(torch.zeros(spec.action_dim))

    def distribution(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [..., A] in [-1, 1] and log std [A], before the clipping."""
        low, high = LOG_STD
        return torch.tanh(self.network(self.standardise(obs))), low + (high - low) * torch.sigmoid(self.raw_std)

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        mean, log_std = self.distribution(obs)
        if rng is None:
            return self.bounds.scale(mean)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        return self.bounds.scale((mean + log_std.exp() * noise).clamp(-1, 1))

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density, before the clipping, in the environment's units [...]."""
        mean, log_std = self.distribution(obs)
        noise = (self.bounds.unscale(action) - mean) / log_std.exp()
        gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        return self.bounds.counted(gaussian) - self.bounds.log_volume()


class Deterministic(Policy):
    """One action a state, squashed into the bounds."""

    def __init__(self, spec: Spec, hidden: Sequence[int] = (256, 256), layer_norm: bool = False) -> None:
        super().__init__(spec)
        require(spec, False, "Deterministic")
        self.standardise, self.bounds = Standardise(spec), Bounds(spec)
        self.network = Trunk(spec.obs_dim, hidden, spec.action_dim, layer_norm)

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        del rng
        return self.bounds.scale(torch.tanh(self.network(self.standardise(obs))))


class Categorical(Policy):
    """A distribution over the choices of a Discrete space; its mode is the likeliest one."""

    def __init__(self, spec: Spec, hidden: Sequence[int] = (256, 256), layer_norm: bool = False) -> None:
        super().__init__(spec)
        require(spec, True, "Categorical")
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
