"""Which member of an ensemble steps which row, how many rows it predicts at once, and what it says of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.core import Dynamics, Prediction
from mbrl.simulator.holding import Stated

CACHE_ROWS = 8192  # rows times members predicted at once on a CPU: the activations then stay in its cache


class Deal(NamedTuple):
    """Rows dealt to members, a share of C to each as long as there are some; members and rows are drawn at random.

    K C may exceed B: the last slots then repeat rows that nobody reads.
    """

    members: Tensor  # [K], no more than there are rows
    rows: Tensor  # [K, C] the rows of each member
    slots: Tensor  # [B] where in the flattened `rows` each row is
    member: Tensor  # [B] the member of each row


def deal(count: int, elites: Tensor, rng: torch.Generator) -> Deal:
    """`count` rows for the members `elites` [K], in an order that `rng` decides."""
    device, share = elites.device, -(-count // len(elites))
    members = elites[torch.randperm(len(elites), generator=rng, device=device)][:count]
    order = torch.randperm(count, generator=rng, device=device)
    rows = order[torch.arange(len(members) * share, device=device) % count].view(len(members), share)
    slots = torch.empty_like(order)
    slots[order] = torch.arange(count, device=device)
    return Deal(members, rows, slots, members[slots // share])


def chunk_rows(obs: Tensor, members: int) -> int:
    """Rows per member to predict at once: on a CPU few enough for its cache, elsewhere all of them."""
    return max(1, CACHE_ROWS // members) if obs.device.type == "cpu" else max(1, obs.shape[-2])


def own_states(hidden: Tensor | None, members: Tensor, rows: Tensor) -> Tensor | None:
    """Of the states [B, E, H] those of the rows [K, C] in the members [K] that they are dealt to: [K, C, H]."""
    return None if hidden is None else hidden[rows, members.unsqueeze(-1)]


def rows_of(column: Tensor, index: Tensor) -> Tensor:
    """column [N, ...] at index [...] long. Quicker than indexing, which checks more."""
    return column.index_select(0, index.flatten()).unflatten(0, index.shape)


def own(
    dynamics: Dynamics, obs: Tensor, action: Tensor, deal: Deal, targets: Tensor | None, hidden: Tensor | None
) -> Stated:
    """What each row's own member says of `targets` [B, C], in its state [B, E, H]; nothing else is computed."""
    chunk, members, parts = chunk_rows(obs, len(deal.members)), deal.members, []
    for rows in deal.rows.split(chunk, 1):
        o, a = rows_of(obs, rows), rows_of(action, rows)
        prediction = dynamics.predict(o, a, members, own_states(hidden, members, rows))
        parts.append(Stated.of(prediction, targets))
    return Stated.joined(parts, 1).each(lambda column: column.flatten(0, 1).index_select(0, deal.slots))


def own_among_all(
    dynamics: Dynamics,
    obs: Tensor,
    action: Tensor,
    deal: Deal,
    targets: Tensor | None,
    hidden: Tensor | None,
    uncertainty: Callable[[Prediction], Tensor],
) -> tuple[Stated, Tensor]:
    """What each row's own member says of `targets` [B, C], and the raw uncertainty [B] of all members.

    The states of all, [B, E, H], are those of a model that remembers.
    """
    chunk = chunk_rows(obs, dynamics.members)
    parts, raw = [], []
    for start in range(0, len(obs), chunk):
        o, a, member = (x[start : start + chunk] for x in (obs, action, deal.member))
        states = None if hidden is None else hidden[start : start + chunk].transpose(0, 1)
        prediction = dynamics.predict(o, a, None, states)
        parts.append(Stated.of(prediction, targets).each(partial(_at, member, torch.arange(len(o), device=o.device))))
        raw.append(uncertainty(prediction))
    return Stated.joined(parts, 0), torch.cat(raw)


def _at(member: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Of a column [E, B, ...] what these members say of these rows, [B, ...]."""
    return column[member, row]
