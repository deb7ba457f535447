"""Rows that fit a spec."""

from __future__ import annotations

import torch

from mbrl.core import Batch, Spec, generator


def rows_for(spec: Spec, count: int, seed: int = 0) -> Batch:
    """Random transitions [count, ...] that fit a spec: standardised observations, actions within the bounds."""
    rng = generator(seed, "testing")
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    obs, next_obs = (
        torch.tensor(spec.obs_mean) + torch.tensor(spec.obs_std) * torch.randn(count, spec.obs_dim, generator=rng)
        for _ in range(2)
    )
    action = torch.rand(count, spec.action_dim, generator=rng)
    action = (action == action.amax(-1, keepdim=True)).float() if spec.discrete else low + (high - low) * action
    reward = spec.reward_mean + spec.reward_std * torch.randn(count, generator=rng)
    terminated = (torch.rand(count, generator=rng) < 0.1) & torch.tensor(spec.terminals)
    return Batch(obs, action, reward, next_obs, terminated)
