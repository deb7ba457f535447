"""A policy made worse on purpose: what estimators and gates have to tell from a good one."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from mbrl.core import Policy, Spec, build
from policies.functional import one_hot
from policies.networks import Bounds

STRETCH = 1000.0  # how often the noise goes through its range while an observation changes by its spread


class Perturbed(Policy):
    """Another policy with its actions mirrored in the middle of their bounds, drowned in noise, or both.

    The noise is a function of the observation, so that the mode is as bad as every sample: action =
    (1 - noise) * (mirrored) action + noise * u(obs), where u is uniform within the bounds over any stretch of
    observations. Of Discrete actions, mirroring reverses the order of the choices, and u is a choice that takes the
    place of the policy's own in a share `noise` of the observations.

    Args:
        spec: of the log.
        policy: configuration of the policy, {"class_path": ..., "init_args": {...}}; `Perturbed.of` takes a policy.
        flip: whether to mirror.
        noise: from 0, none, to 1, nothing else.

    Raises:
        ValueError: noise is not within [0, 1], or there is no such policy.
    """

    std: Tensor  # [O]

    def __init__(self, spec: Spec, policy: dict[str, Any], flip: bool = False, noise: float = 0.0) -> None:
        super().__init__(spec)
        if not 0 <= noise <= 1:
            raise ValueError(f"noise is {noise}, expected a share from 0 to 1")
        self.flip, self.noise, self.bounds = flip, noise, Bounds(spec)
        self.inner: Policy = build(policy, Policy, spec)
        self.register_buffer("std", torch.tensor(spec.obs_std))

    @classmethod
    def of(cls, policy: Policy, flip: bool = False, noise: float = 0.0) -> Self:
        """A policy that is there, with a copy of its weights."""
        made = cls(policy.spec, policy.config, flip, noise)
        made.inner.load_state_dict(policy.state_dict())
        return made.to(next(policy.parameters()).device)

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        action = self.inner.act(obs, rng)
        if self.spec.discrete:
            chosen = action.flip(-1) if self.flip else action
            draws = self._uniform(obs, 2)
            choices = self.spec.action_dim
            other = one_hot((draws[:, 1] * choices).long().clamp_max(choices - 1), choices)
            return torch.where(draws[:, :1] < self.noise, other, chosen)
        unit = self.bounds.unscale(action)
        noise = (2 * self._uniform(obs, self.spec.action_dim) - 1).to(obs.dtype)
        return self.bounds.scale((1 - self.noise) * (-unit if self.flip else unit) + self.noise * noise)

    def _uniform(self, obs: Tensor, count: int) -> Tensor:
        """Numbers in [0, 1] that look drawn, [B, count] float64: the fractions of large multiples of the obs."""
        roots = torch.arange(1, self.spec.obs_dim + count + 1, device=obs.device, dtype=torch.float64).sqrt()
        place = (obs.double() / self.std * roots[: self.spec.obs_dim]).sum(-1, keepdim=True)
        phase = STRETCH * place * roots[self.spec.obs_dim :]  # in float64, or the fraction would be rounding
        return phase - phase.floor()
