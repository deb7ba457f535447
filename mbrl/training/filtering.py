"""Which logged rows an update is drawn from."""

from __future__ import annotations

import torch
from torch import Tensor


def best_rows(reward: Tensor, ends: Tensor | None, share: float) -> Tensor | None:
    """The rows of the episodes with the highest undiscounted returns, as many as it takes to hold `share` of all rows.

    What imitates these alone is filtered, or %, behaviour cloning (Chen et al. 2021, "Decision Transformer", section
    5.1). Where start states or luck decide the return and not the actions, the best episodes teach nothing more.

    Args:
        reward: [N] of logged rows, episode after episode.
        ends: [N] bool, the last row of each episode.
        share: above 0; at 1 nothing is left out.

    Returns:
        row numbers [K] long in the log's order, at least one episode; None where nothing is left out. Returns are
        summed in float64, and so on the CPU: some devices have none.

    Raises:
        ValueError: share is not in (0, 1], or below 1 without `ends`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"best is {share}, expected a share of the logged rows above 0 and at most 1")
    if share == 1:
        return None
    if ends is None:
        raise ValueError(f"best is {share}, which takes the returns of episodes: give `ends`, the last row of each")
    last = ends.cpu().long()
    episode = last.cumsum(0) - last
    count = int(episode[-1]) + 1
    returns = torch.zeros(count, dtype=torch.float64).index_add_(0, episode, reward.cpu().double())
    lengths = torch.bincount(episode, minlength=count)
    order = returns.argsort(descending=True, stable=True)
    before = lengths[order].cumsum(0) - lengths[order]
    kept = torch.zeros(count, dtype=torch.bool)
    kept[order[before < share * len(reward)]] = True
    return kept[episode].nonzero().squeeze(-1).to(reward.device)
