"""Rewards summed up to the end of their episode. `mbrl.core` has these for learners."""

from __future__ import annotations

import torch
from torch import Tensor

NEGLIGIBLE = 1e-15  # a weight below which nothing is added any more


def discounted_sums(reward: Tensor, ends: Tensor, discount: float, beyond: Tensor) -> Tensor:
    """sum_k discount^k r_{t+k} to the end of the episode, plus discount^n of what lies `beyond` its n rows: [N].

    Sums of 1, 2, 4, ... rows are added to each other, in float64, and so on the CPU: some devices have none.

    Args:
        reward: [N], in the order of time, episode after episode.
        ends: [N] bool, the last row of each episode.
        discount: per step.
        beyond: [N], of which those of last rows count.
    """
    found, ends = reward.cpu().double(), ends.cpu()
    found = torch.where(ends, found + discount * beyond.cpu(), found)
    row = torch.arange(len(ends))
    last = row.where(ends, len(ends)).flip(0).cummin(0).values.flip(0)
    after, width = last - row, 1  # rows of the episode that follow
    while len(ends) > width and bool((after >= width).any()) and discount**width > NEGLIGIBLE:
        ahead = discount**width * found[width:]
        found = torch.cat([found[:-width] + ahead.where(after[:-width] >= width, 0.0), found[-width:]])
        width *= 2
    return found.to(reward.device, reward.dtype)


def returns_to_go(reward: Tensor, terminated: Tensor, ends: Tensor, discount: float) -> Tensor:
    """Discounted sum of the rewards from each row on, [N], of rows in the order of time, episode after episode.

    An episode that was cut, and did not terminate, is taken to go on for ever with its mean reward: otherwise the rows
    before a cut would look worse (or, where rewards are negative, better) than the same states in its middle.

    Args:
        reward, terminated: [N].
        ends: [N] bool, the last row of each episode.
        discount: below 1.
    """
    last = ends.cpu().long()
    episode, rewards = last.cumsum(0) - last, reward.cpu().double()
    count = torch.bincount(episode)
    mean = rewards.new_zeros(len(count)).index_add_(0, episode, rewards) / count
    beyond = torch.where(terminated.cpu(), 0.0, mean[episode] / (1 - discount))
    return discounted_sums(reward, ends, discount, beyond)
