"""The loss of a model that remembers: one step ahead on logged rows, with the states that it makes of those before."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl.core import Batch, Dynamics
from mbrl.training.bootstrap import Runs


def remembered_loss(dynamics: Dynamics, runs: Runs) -> Tensor:
    """The model's own loss [E] on the rows of runs [E, S, h, ...] that count, with gradients through the states.

    Each run is read from its first logged row on (teacher forcing), which finds the initial state. So the states of a
    run that begins within an episode are wrong at first; the rows `before`, on which nothing is predicted, are there
    to mend that ("burn-in" of Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed Reinforcement
    Learning", section 3; theirs is without gradients).
    """
    hidden = states(dynamics, runs).flatten(1, 2)
    rows = Batch(*(column[:, :, runs.before :].flatten(1, 2) for column in runs.rows))
    index = _counting(runs.valid[..., runs.before :].flatten(1))
    member = torch.arange(len(index), device=index.device).unsqueeze(-1)
    return dynamics.loss(Batch(*(column[member, index] for column in rows)), hidden[member, index])


def states(dynamics: Dynamics, runs: Runs) -> Tensor:
    """The states [E, S, h - before, H] of the rows that count; of padding, something.

    Raises:
        TypeError: the model gives no states.
    """
    lines, steps = runs.valid.shape[1:]
    hidden, kept = dynamics.initial(lines), []
    for step in range(steps):
        if hidden is None:
            raise TypeError(f"memory of {type(dynamics).__name__} is {dynamics.memory}, and it gives no state")
        if step >= runs.before:
            kept.append(hidden)
        if step < steps - 1:
            obs, action, there = runs.rows.obs[:, :, step], runs.rows.action[:, :, step], runs.valid[..., step, None]
            after = dynamics.remember(obs, action, hidden)
            hidden = None if after is None else torch.where(there, after, hidden)
    return torch.stack(kept, 2)


def _counting(valid: Tensor) -> Tensor:
    """Indices [E, B] of the rows that are no padding (`valid` [E, B] bool), some of them again in place of padding."""
    order = (~valid).byte().argsort(dim=-1, stable=True)
    place = torch.arange(valid.shape[-1], device=valid.device) % valid.sum(-1, keepdim=True).clamp_min(1)
    return order.gather(-1, place)
