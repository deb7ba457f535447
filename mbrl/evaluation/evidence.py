"""What speaks for and against a candidate: its value beside the baseline's, in a simulator that it never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrl.core import Policy, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.estimates import Estimate, bootstrap
from mbrl.simulator.rollout import simulated_returns
from mbrl.simulator.simulator import Simulator
from mbrl.window import Remembering


class Starts(NamedTuple):
    """Where rollouts begin, and where their episodes are cut."""

    obs: Tensor  # [B, O]
    limit: Tensor  # [B] long, steps
    rows: Tensor  # [B] long, of the data set


def start_states(data: TransitionDataset, most: int, seed: int) -> Starts:
    """The beginnings of at most `most` logged episodes, drawn without replacement.

    Where an episode starts, and where it is cut, is the world's choice, not a policy's, so every side of the split may
    give them. A truncated episode's limit is its own length, so that a policy's value is about as many steps as the
    logged return is; one that terminated says nothing of how long it might have lasted, and gets the longest length.

    Raises:
        ValueError: `most` is below 2, which no interval can be made from.
    """
    if most < 2:
        raise ValueError(f"starts is {most}, expected at least 2: an interval over start states needs several")
    order = torch.randperm(data.episodes, generator=generator(seed, "trial/starts"))
    chosen = order[:most].to(data.obs.device)
    cut = data.truncated[data.first + data.lengths - 1] & ~data.terminated[data.first + data.lengths - 1]
    limit = torch.where(cut, data.lengths, data.lengths.max())
    return Starts(data.starts[chosen], limit[chosen], data.first[chosen])


def simulated_values(
    policies: Mapping[str, Policy],
    simulator: Simulator,
    starts: Starts,
    *,
    level: float,
    seed: int,
) -> dict[str, Estimate]:
    """Each policy's undiscounted value, with an interval over the start states.

    All policies meet the same starts, the same exogenous channels and the same stream of noise; uncertainty is neither
    computed nor penalised. A simulator of a log with exogenous channels has to replay the log that `starts` are of:
    `simulator.replaying(data)`.
    """
    plain = simulator.plain().to(starts.obs.device)
    values = {}
    for name, policy in policies.items():
        rng = generator(seed, "trial/noise", starts.obs.device)
        returns = simulated_returns(policy, plain, starts.obs, starts.limit, rng, starts.rows)
        values[name] = bootstrap(returns.cpu().numpy(), level, seed)
    return values


def acting(policy: Policy) -> Callable[[np.ndarray, Sequence[int]], np.ndarray]:
    """The policy's mode as `mbrl.environments.true_returns` plays it; a policy with a history remembers each episode.

    (plain observations [B, F] float32, episode of each row) -> [B, A] float32 or, for Discrete, [B] int64. An episode
    begins with the first row that names it, so make a new actor for each measurement.
    """
    device = next(policy.parameters()).device
    remembering = Remembering(policy)
    blank = torch.zeros(policy.spec.obs_dim - policy.spec.frame_dim, device=device)
    memory: dict[int, Tensor] = {}

    def act(obs: np.ndarray, episodes: Sequence[int]) -> np.ndarray:
        began = torch.tensor([k not in memory for k in episodes], device=device)
        past = torch.stack([memory.get(k, blank) for k in episodes])
        with torch.no_grad():
            answer = remembering(torch.from_numpy(obs).to(device), past, began)
        memory.update(zip(episodes, answer["past"], strict=True))
        return np.asarray(answer["action"].cpu())

    return act
