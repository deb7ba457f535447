"""Rows for an ensemble: each member's own bootstrap of the episodes, dealt as [E, B, ...] batches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.core import NOTHING, Batch, generator, rows_at
from mbrl.data.source import Source


class Runs(NamedTuple):
    """Runs of rows that follow each other in an episode, S of them and at most h long; what is not `valid` is padding.

    The axes in front of S are those of whoever deals them: [E, S, h, ...] to the members, [S, h, ...] to all alike.
    The first `before` of the h are there to be remembered alone; those that an episode does not have are padding too.
    """

    rows: Batch  # [..., S, h, ...]
    valid: Tensor  # [..., S, h] bool; true up to where a run ends
    before: int = 0


class Dealt(NamedTuple):
    """What an update learns from, if the model remembers nothing."""

    rows: Batch  # [E, B, ...]
    runs: Runs | None  # [E, S, h, ...], about as many rows again; None where h is 1


class Spans:
    """Where the rows of each episode are.

    Args:
        episode: [N] long, the number of each row's.
    """

    def __init__(self, episode: Tensor) -> None:
        self.numbers, index, self.counts = episode.unique(return_inverse=True, return_counts=True)
        self.order = index.argsort(stable=True)  # rows, grouped by episode
        self.starts = self.counts.cumsum(0) - self.counts

    def rows(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of one drawn episode after another, and each one's place in its episode, [N'] long.

        `drawn` [k] long are numbers of episodes that have rows, any of them several times.
        """
        chosen = torch.searchsorted(self.numbers, drawn)
        lengths = self.counts[chosen]
        within = _count_up(lengths)
        return self.order[self.starts[chosen].repeat_interleave(lengths) + within], within


def held_runs(rows: Batch, episode: Tensor, horizon: int) -> Runs:
    """Episodes [N, ...] cut into runs [S, h, ...] from their first rows on; `episode` [N] numbers each row's."""
    _, index, counts = episode.unique(return_inverse=True, return_counts=True)
    table, valid = _table(*_cut(_count_up(counts) % horizon == 0), horizon)
    device = rows.obs.device
    return Runs(rows_at(rows, index.argsort(stable=True)[table].to(device)), valid.to(device))


class BootstrapBatches:
    """Epochs of [E, B, ...] batches, gathered by index on the device of the rows.

    An epoch is a permutation of each member's rows, or several behind each other where one has too few updates, decided
    by the seed and the epoch's number alone, so that a resumed fit needs no memory of the epochs before. Of a source of
    several groups it is a permutation of those in one group: of the episodes that the member has drawn, once for all
    epochs, or of all where it has drawn none of the group. With a horizon
    h above 1 the same rows are dealt once more, as a permutation of runs of h; where these begin in an episode is drawn
    anew for every epoch. To a model that remembers they are dealt as runs alone, each with as many rows before it as it
    is long.

    Args:
        source: of the rows.
        members: E.
        seed: of the bootstraps and the permutations.
        batch_size: B.
        epoch_updates: updates of an epoch, at least.
        horizon: h.
        memory: length of the runs that are dealt to a model that remembers; 0 for another.
        rank: which of `world` processes this is; each gets rows of its own.
        world: how many processes divide every epoch.
        device: of the batches.
    """

    def __init__(
        self,
        source: Source,
        members: int,
        seed: int,
        batch_size: int,
        epoch_updates: int = 1,
        horizon: int = 1,
        memory: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        rng = generator(seed, "bootstrap")
        self.source, self.seed, self.batch_size, self.horizon = source, seed, batch_size, horizon
        self.memory, self.rank, self.world, self.device = memory, rank, world, device
        blocks = Spans(source.block)
        count = len(blocks.numbers)
        drawn = [torch.randint(count, (count,), generator=rng) for _ in range(members)]
        self.bootstraps = [blocks.rows(those)[0] for those in drawn]  # numbers of episodes
        self.once = math.ceil(source.rows / source.groups / (batch_size * world))  # updates that deal a group's rows
        self.steps = self.once * math.ceil(epoch_updates / self.once)
        self.epoch = 0
        self.held: int | None = None  # the group that is here
        self.train, self.drawn = NOTHING, list[tuple[Tensor, Tensor]]()  # its rows; each member's of them, and places
        self._hold(0)

    def _hold(self, group: int) -> None:
        """Have the rows of a group here, and every member's own of them."""
        if self.source.groups == 1:
            group = 0
        if self.held == group:
            return
        self.train, self.drawn = NOTHING, []  # the old ones go before the new ones come
        rows, episode, _ = self.source.group(group)
        self.train, self.held = Batch(*(column.to(self.device) for column in rows)), group
        spans = Spans(episode)
        for bootstrap in self.bootstraps:
            own = bootstrap[torch.isin(bootstrap, spans.numbers)]
            self.drawn.append(spans.rows(own if len(own) else spans.numbers))

    def __len__(self) -> int:
        """Updates in an epoch."""
        return self.steps

    def __iter__(self) -> Iterator[Dealt | Runs]:
        """The batches of epoch `self.epoch`, read when the first is asked for."""
        self._hold(self.epoch)
        if self.memory:
            yield from self._runs(self.memory, self.memory)
            return
        rng = generator(self.seed, f"batches/{self.epoch}")
        needed = self.steps * self.batch_size * self.world
        orders = [rows[_shuffled(len(rows), needed, rng)][self.rank :: self.world] for rows, _ in self.drawn]
        index = torch.stack(orders).to(self.device)
        runs = self._runs(self.horizon) if self.horizon > 1 else itertools.repeat(None)
        for rows, ahead in zip(index.split(self.batch_size, 1), runs, strict=False):
            yield Dealt(rows_at(self.train, rows), ahead)

    def _runs(self, horizon: int, before: int = 0) -> Iterator[Runs]:
        """As many runs for every update as deal each member all of its own, as often as it is dealt its rows."""
        rng = generator(self.seed, f"runs/{self.epoch}")
        cuts = [_phased(place, horizon, rng) for _, place in self.drawn]
        each = max(self.world, math.ceil(max(len(starts) for starts, _ in cuts) / self.once))  # to all processes
        tables, valids = [], []
        for (rows, place), (starts, lengths) in zip(self.drawn, cuts, strict=True):
            dealt = _shuffled(len(starts), each * self.steps, rng).view(self.steps, each)
            chosen = dealt[:, self.rank :: self.world].flatten()
            earlier = place[starts[chosen]].clamp_max(before)
            table, valid = _table(starts[chosen], lengths[chosen], horizon, before, earlier)
            tables.append(rows[table])
            valids.append(valid)
        table, valid = torch.stack(tables).to(self.device), torch.stack(valids).to(self.device)
        for part, kept in zip(table.chunk(self.steps, 1), valid.chunk(self.steps, 1), strict=True):
            yield Runs(rows_at(self.train, part), kept, before)


def _phased(place: Tensor, horizon: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Drawn episodes cut into runs, the first of each at random; `place` [N'] is each row's in its episode."""
    first = place == 0
    phase = torch.randint(horizon, (int(first.sum()),), generator=rng)[first.cumsum(0) - 1]
    return _cut(first | ((place + phase) % horizon == 0))


def _shuffled(count: int, needed: int, rng: torch.Generator) -> Tensor:
    """Indices below `count`, [needed] long: all of them in random order, then some again."""
    rounds = -(-needed // count)
    return torch.cat([torch.randperm(count, generator=rng) for _ in range(rounds)])[:needed]


def _count_up(lengths: Tensor) -> Tensor:
    """0, 1, ... of one span after another, [sum of lengths]."""
    return torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)


def _cut(fresh: Tensor) -> tuple[Tensor, Tensor]:
    """Starts and lengths [S] of the runs that begin where `fresh` [N'] is true."""
    starts = fresh.nonzero().flatten()
    return starts, torch.cat([starts[1:], starts.new_tensor([len(fresh)])]) - starts


def _table(
    starts: Tensor, lengths: Tensor, horizon: int, before: int = 0, earlier: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Indices of runs as the lines of a table [S, before + h], padded with a run's ends, and where it is filled.

    `earlier` [S] says how many rows there are before each run, at most `before`.
    """
    step = torch.arange(-before, horizon)
    first = torch.zeros_like(starts) if earlier is None else -earlier
    first, last = first.unsqueeze(-1), lengths.unsqueeze(-1) - 1
    return starts.unsqueeze(-1) + step.clamp(first, last), (step >= first) & (step <= last)
