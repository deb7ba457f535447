"""What speaks for and against a candidate: its value beside the baseline's, in a simulator that it never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from mbrl.core import Policy, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.estimates import Estimate, bootstrap
from mbrl.simulator.rollout import simulated_returns
from mbrl.simulator.simulator import Simulator


def start_states(data: TransitionDataset, most: int, seed: int) -> Tensor:
    """First observations of at most `most` logged episodes, drawn without replacement: [B, O].

    Where an episode starts is the world's choice, not a policy's, so every side of the split may give them.

    Raises:
        ValueError: `most` is below 2, which no interval can be made from.
    """
    if most < 2:
        raise ValueError(f"starts is {most}, expected at least 2: an interval over start states needs several")
    order = torch.randperm(data.episodes, generator=generator(seed, "trial/starts"))
    return data.starts[order[:most].to(data.starts.device)]


def simulated_values(
    policies: Mapping[str, Policy],
    simulator: Simulator,
    starts: Tensor,
    steps: int,
    *,
    level: float,
    seed: int,
) -> dict[str, Estimate]:
    """Each policy's undiscounted value over at most `steps` steps, with an interval over the start states [B, O].

    All policies meet the same starts and the same stream of noise; uncertainty is neither computed nor penalised.
    """
    plain = Simulator(simulator.dynamics, simulator.spec, None, simulator.termination, simulator.margin)
    plain.to(starts.device)
    values = {}
    for name, policy in policies.items():
        rng = generator(seed, "trial/noise", starts.device)
        returns = simulated_returns(policy, plain, starts, steps, rng)
        values[name] = bootstrap(returns.cpu().numpy(), level, seed)
    return values


def acting(policy: Policy) -> Callable[[np.ndarray], np.ndarray]:
    """The policy's mode for numpy rows: [B, O] float32 -> [B, A] float32 or, for Discrete, [B] int64."""
    device = next(policy.parameters()).device

    def act(obs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(policy(torch.from_numpy(obs).to(device)).cpu())

    return act
