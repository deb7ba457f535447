"""Logs of mixed quality of a slider whose returns are known: most rows push it away from where it should be."""

from __future__ import annotations

import torch

from mbrl.core import Batch, Policy, Spec, generator
from mbrl.data.dataset import TransitionDataset

STEPS, REACH = 8, 0.4  # of an episode; what the largest action moves


def slide(position: torch.Tensor, action: torch.Tensor, discrete: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Position [B] and action [B, A] -> the position after it, and the reward: minus its square."""
    push = 2 * action[:, 1] - 1 if discrete else action[:, 0]
    after = (position + REACH * push).clamp(-2, 2)
    return after, -after.square()


def mixed_log(discrete: bool, episodes: int = 60, seed: int = 0) -> TransitionDataset:
    """Two in three actions push away from 0 (Box: on average), one towards it; episodes are cut, never over."""
    rng = generator(seed, "mixed log")
    position, rows = 2 * torch.rand(episodes, generator=rng) - 1, []
    for step in range(STEPS):
        away = torch.where(torch.rand(episodes, generator=rng) < 2 / 3, 1.0, -1.0) * position.sign()
        strength = torch.rand(episodes, generator=rng)
        action = torch.stack([(away < 0).float(), (away > 0).float()], -1) if discrete else (away * strength)[:, None]
        after, reward = slide(position, action, discrete)
        cut = torch.full((episodes,), step == STEPS - 1)
        rows.append((position[:, None], action, reward, after[:, None], torch.zeros_like(cut), cut))
        position = after
    columns = [torch.stack(column, 1).flatten(0, 1) for column in zip(*rows, strict=True)]
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
    return TransitionDataset.create(
        "toy/mixed-v0",
        **dict(zip(names, columns, strict=True)),
        episode=torch.arange(episodes).repeat_interleave(STEPS),
        discrete=discrete,
        action_low=[0.0, 0.0] if discrete else [-1.0],
        action_high=[1.0, 1.0] if discrete else [1.0],
    )


def mixed(discrete: bool) -> tuple[Spec, Batch]:
    """Spec and rows of `mixed_log`."""
    data = mixed_log(discrete)
    return data.spec(torch.arange(len(data.lengths))), data.batch()


@torch.no_grad()
def true_return(policy: Policy) -> float:
    """Mean return of the mode over starts in [-1, 1].

    The best are -0.08 (Box) and -0.46 (Discrete, which cannot rest); doing nothing gets -8/3 and imitation -7 and -25.
    """
    position, total = torch.linspace(-1, 1, 101), torch.zeros(101)
    for _ in range(STEPS):
        position, reward = slide(position, policy.act(position[:, None], None), policy.spec.discrete)
        total = total + reward
    return float(total.mean())
