"""A ring of transitions on one device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl.core import Batch, Spec, rows_at


class Ring:
    """Holds the newest `capacity` rows; the oldest are overwritten first.

    Counters are host integers: how many rows come in is known from shapes, so nothing is read from the device.

    Args:
        spec: of the rows.
        capacity: rows of all members together.
        device: where they are.
        members: whose rows are kept apart, each with as many places; see `add` and `sample`.

    Raises:
        ValueError: capacity is below 1, or no multiple of members.
    """

    def __init__(self, spec: Spec, capacity: int, device: torch.device | str = "cpu", members: int = 1) -> None:
        if capacity < 1 or capacity % members:
            raise ValueError(f"capacity is {capacity}, expected at least 1, and a multiple of the {members} members")
        self.capacity, self.members, self.written = capacity, members, 0
        self.rows = Batch(
            obs=torch.zeros(capacity, spec.obs_dim, device=device),
            action=torch.zeros(capacity, spec.action_dim, device=device),
            reward=torch.zeros(capacity, device=device),
            next_obs=torch.zeros(capacity, spec.obs_dim, device=device),
            terminated=torch.zeros(capacity, dtype=torch.bool, device=device),
        )

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.rows.reward.device

    def __len__(self) -> int:
        return min(self.written, self.capacity)

    def add(self, batch: Batch) -> None:
        """Append rows; leading axes ([T, B, ...]) are flattened. Of more rows than fit, the last `capacity` stay.

        Of several members the rows of a step come member after member, and they take turns in the ring: place k is one
        of member k modulo `members`.
        """
        count = batch.reward.numel()
        if self.members > 1:
            axis = batch.reward.dim() - 1  # of the rows of a step
            parts = (column.unflatten(axis, (self.members, -1)) for column in batch)
            batch = Batch(*(part.transpose(axis, axis + 1) for part in parts))
        skipped = max(count - self.capacity, 0)
        start = (self.written + skipped) % self.capacity
        head = min(self.capacity - start, count - skipped)
        for ring, column in zip(self.rows, batch, strict=True):
            flat = column.reshape(count, *ring.shape[1:])[skipped:]
            ring[start : start + head] = flat[:head]
            ring[: len(flat) - head] = flat[head:]
        self.written += count

    def sample(self, count: int, rng: torch.Generator) -> Batch:
        """`count` rows, uniformly and with replacement; of several members as many of each, member after member.

        Raises:
            ValueError: the ring is empty.
        """
        if not len(self):
            raise ValueError("cannot sample from an empty ring: add rows first")
        index = torch.randint(len(self) // self.members, (count,), generator=rng, device=self.device)
        if self.members > 1:
            turn = torch.arange(self.members, device=index.device)
            index = self.members * index + turn.repeat_interleave(count // self.members)
        return rows_at(self.rows, index)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the rows that are in use, and the counter."""
        used: list[Tensor] = [column[: len(self)].clone() for column in self.rows]  # a view would be saved whole
        return {"written": self.written, "capacity": self.capacity, "rows": dict(zip(Batch._fields, used, strict=True))}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`.

        Raises:
            ValueError: the checkpoint's ring has another capacity.
        """
        if state["capacity"] != self.capacity:
            raise ValueError(f"the checkpoint's ring holds {state['capacity']} rows, this run's {self.capacity}")
        self.written = state["written"]
        for ring, name in zip(self.rows, Batch._fields, strict=True):
            ring[: len(self)] = state["rows"][name]
