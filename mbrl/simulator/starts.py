"""Logged start states that travel with a simulator, for those who have no log."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl.core import Spec
from mbrl.simulator.replay import Replay


def check_starts(starts: Tensor | None, spec: Spec, low: Tensor, high: Tensor, replay: Replay | None) -> None:
    """Start states [S, O] within the range `low` to `high` [O], which begin the replayed episodes where there are some.

    Raises:
        ValueError: another shape, a value out of range, or other beginnings.
    """
    if starts is None:
        return
    if starts.ndim != 2 or not len(starts) or starts.shape[1] != spec.obs_dim:
        raise ValueError(f"starts have shape {list(starts.shape)}, expected [S >= 1, {spec.obs_dim}]")
    outside = ~((low <= starts) & (starts <= high))  # true of NaN
    if outside.any():
        row, channel = (int(i) for i in outside.nonzero()[0])
        raise ValueError(
            f"start state {row} has {float(starts[row, channel])} in channel {channel}, expected"
            f" {float(low[channel])} to {float(high[channel])}: give starts of the episodes that made the spec"
        )
    if replay is None:
        return
    begun, seen = replay.values[replay.start], starts[:, spec.exogenous]
    if begun.shape != seen.shape or not torch.equal(begun, seen):
        raise ValueError(
            f"the {len(seen)} start states are not the beginnings of the {len(begun)} replayed episodes: give both of"
            " the same episodes, in the same order"
        )
