"""Where rollouts begin: logged start states that travel with a simulator, and rows of a log that stands behind it."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl.core import Dynamics, Memory, Spec
from mbrl.simulator.recall import Recall
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


def check_rows(obs: Tensor, spec: Spec, replay: Replay | None, dynamics: Dynamics, recall: Recall | None) -> None:
    """Refuse rows `obs` [n, O] to begin with that are not, in order, those that are replayed and remembered.

    Raises:
        ValueError: they are not, so that rows of one are not rows of the other.
    """
    same = True
    if spec.exogenous:
        same = replay is not None and torch.equal(replay.values[replay.rows], obs[:, spec.exogenous])
    if dynamics.memory:
        same = same and recall is not None and torch.equal(recall.obs, obs)
    if not same:
        raise ValueError(
            f"the simulator does not replay the {len(obs)} logged rows that it is to start from: give"
            " `simulator.replaying(data, episodes)`, with the episodes that the rows are of"
        )


def states_at(rows: Tensor | None, count: int, dynamics: Dynamics, recall: Recall | None) -> Tensor | None:
    """The states [E, B, H] before logged rows ([B] long), or, where there are none, at `count` beginnings of episodes.

    Raises:
        ValueError: the model remembers, and there is no log that says what was before the rows.
    """
    if rows is None or not dynamics.memory:
        return dynamics.initial(count)
    if recall is None:
        raise ValueError(
            f"{type(dynamics).__name__} remembers, and nothing says what was before the rows that rollouts begin with:"
            " give `simulator.replaying(data)`, or no rows where episodes begin"
        )
    return recall(dynamics, rows)


def remembering(memory: Memory | None, hidden: Tensor | None) -> Memory | None:
    """A memory with the states [E, B, H] of a model that remembers."""
    return memory if hidden is None else (memory or Memory())._replace(hidden=hidden.transpose(0, 1))
