"""A ring of transitions on one device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl.core import Batch, Spec, rows_at


class Ring:
    """Holds the newest `capacity` rows; the oldest are overwritten first.

    Counters are host integers: how many rows come in is known from shapes, so nothing is read from the device.
    """

    def __init__(self, spec: Spec, capacity: int, device: torch.device | str = "cpu") -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, expected at least 1")
        self.capacity, self.written = capacity, 0
        self.rows = Batch(
            obs=torch.zeros(capacity, spec.obs_dim, device=device),
            action=torch.zeros(capacity, spec.action_dim, device=device),
            reward=torch.zeros(capacity, device=device),
            next_obs=torch.zeros(capacity, spec.obs_dim, device=device),
            terminated=torch.zeros(capacity, dtype=torch.bool, device=device),
        )

    def __len__(self) -> int:
        return min(self.written, self.capacity)

    def add(self, batch: Batch) -> None:
        """Append rows; leading axes ([T, B, ...]) are flattened. Of more rows than fit, the last `capacity` stay."""
        count = batch.reward.numel()
        skipped = max(count - self.capacity, 0)
        start = (self.written + skipped) % self.capacity
        head = min(self.capacity - start, count - skipped)
        for ring, column in zip(self.rows, batch, strict=True):
            flat = column.reshape(count, *ring.shape[1:])[skipped:]
            ring[start : start + head] = flat[:head]
            ring[: len(flat) - head] = flat[head:]
        self.written += count

    def sample(self, count: int, rng: torch.Generator) -> Batch:
        """`count` rows, uniformly and with replacement.

        Raises:
            ValueError: the ring is empty.
        """
        if not len(self):
            raise ValueError("cannot sample from an empty ring: add rows first")
        index = torch.randint(len(self), (count,), generator=rng, device=self.rows.reward.device)
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
