"""Rows for an ensemble: each member's own bootstrap of the episodes, dealt as [E, B, ...] batches."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mbrl.core import Batch, generator, rows_at


def bootstrap_rows(episode: Tensor, rng: torch.Generator) -> Tensor:
    """The rows [N'] of as many episodes as there are, drawn with replacement; `episode` [N] numbers each row's."""
    _, index, counts = episode.unique(return_inverse=True, return_counts=True)
    order = index.argsort(stable=True)  # rows, grouped by episode
    starts = counts.cumsum(0) - counts
    drawn = torch.randint(len(counts), (len(counts),), generator=rng)
    lengths = counts[drawn]
    within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    return order[starts[drawn].repeat_interleave(lengths) + within]


class BootstrapBatches:
    """Epochs of [E, B, ...] batches, gathered by index on the device of the rows.

    An epoch is a permutation of each member's rows, decided by the seed and the epoch's number alone, so that a
    resumed fit needs no memory of the epochs before.

    Args:
        train: [N, ...], on the device to train on.
        episode: [N] long.
        members: E.
        seed: of the bootstraps and the permutations.
        batch_size: B.
        rank: which of `world` processes this is; each gets rows of its own.
        world: how many processes divide every epoch.
    """

    def __init__(
        self, train: Batch, episode: Tensor, members: int, seed: int, batch_size: int, rank: int = 0, world: int = 1
    ) -> None:
        rng = generator(seed, "bootstrap")
        self.train, self.seed, self.batch_size, self.rank, self.world = train, seed, batch_size, rank, world
        self.rows = [bootstrap_rows(episode.cpu(), rng) for _ in range(members)]
        self.steps = math.ceil(len(episode) / (batch_size * world))
        self.epoch = 0

    def __len__(self) -> int:
        """Updates in an epoch."""
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        """The batches of epoch `self.epoch`, read when the first is asked for."""
        rng = generator(self.seed, f"batches/{self.epoch}")
        orders = [self._order(rows, rng)[self.rank :: self.world] for rows in self.rows]
        index = torch.stack(orders).to(self.train.obs.device)
        for rows in index.split(self.batch_size, 1):
            yield rows_at(self.train, rows)

    def _order(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """A member's rows, shuffled: all of them, then some again, until they fill an epoch; or as many as fit."""
        needed = self.steps * self.batch_size * self.world
        rounds = -(-needed // len(rows))
        return rows[torch.cat([torch.randperm(len(rows), generator=rng) for _ in range(rounds)])[:needed]]
