"""Which member of an ensemble steps which row, and how many rows it predicts at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CACHE_ROWS = 8192  # rows times members predicted at once on a CPU: the activations then stay in its cache


class Deal(NamedTuple):
    """Rows dealt to members in equal numbers. K C may exceed B: the last slots then repeat rows that nobody reads."""

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
    return max(1, CACHE_ROWS // members) if obs.device.type == "cpu" else max(1, len(obs))
