"""When the world ends, by rule: (obs, action, next_obs) -> bool, [..., O], [..., A], [..., O] -> [...].

The rules of Gymnasium's v5 MuJoCo environments with their default arguments, read from the environments' sources. A
rule is knowledge that a log does not contain, so a configuration must name it. NaN counts as the environment counts it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def never(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The world never ends: HalfCheetah-v5, Swimmer-v5, Reacher-v5, Pusher-v5, HumanoidStandup-v5, Pendulum-v1."""
    del obs, action
    return torch.zeros(next_obs.shape[:-1], dtype=torch.bool, device=next_obs.device)


half_cheetah = swimmer = reacher = pusher = humanoid_standup = never


def _inside(x: Tensor, low: float, high: float) -> Tensor:
    return (low < x) & (x < high)


def hopper(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Hopper-v5: height outside (0.7, inf), |torso angle| >= 0.2, or another state entry outside (-100, 100)."""
    del obs, action
    healthy_state = _inside(next_obs[..., 1:], -100, 100).all(-1)
    height, angle = next_obs[..., 0], next_obs[..., 1]
    return ~(healthy_state & _inside(height, 0.7, torch.inf) & _inside(angle, -0.2, 0.2))


def walker2d(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Walker2d-v5: height outside (0.8, 2) or torso angle outside (-1, 1)."""
    del obs, action
    return ~(_inside(next_obs[..., 0], 0.8, 2) & _inside(next_obs[..., 1], -1, 1))


def ant(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Ant-v5: torso height outside [0.2, 1], or a state entry (the first 27 columns) that is not finite."""
    del obs, action
    height = next_obs[..., 0]
    return ~(next_obs[..., :27].isfinite().all(-1) & (height >= 0.2) & (height <= 1.0))


def humanoid(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Humanoid-v5: torso height outside (1, 2)."""
    del obs, action
    return ~_inside(next_obs[..., 0], 1, 2)


def inverted_pendulum(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """InvertedPendulum-v5: |pole angle| > 0.2, or an entry that is not finite."""
    del obs, action
    return ~next_obs.isfinite().all(-1) | (next_obs[..., 1].abs() > 0.2)


def inverted_double_pendulum(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """InvertedDoublePendulum-v5: height of the tip <= 1, from the sines and cosines of the two hinge angles."""
    del obs, action
    sin1, sin2, cos1, cos2 = next_obs[..., 1:5].unbind(-1)
    return 0.6 * cos1 + 0.6 * (cos1 * cos2 - sin1 * sin2) <= 1
