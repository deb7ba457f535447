"""Where a training's logged rows come from: all in memory, or one group of episodes after the other from the disk."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple, final

import torch
from torch import Tensor

from mbrl.core import Batch, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.data.series import blocks


class Group(NamedTuple):
    """The rows that are in memory at a time: whole episodes, one after the other, each in the order of time."""

    rows: Batch  # [n, ...]
    episode: Tensor  # [n] long: the number of each row's episode among those of the source
    ends: Tensor | None  # [n] bool, the last row of each episode; None where nobody has said it


class Source(ABC):
    """Rows to learn from."""

    rows: int  # of all groups
    episodes: int
    longest: int  # rows of the longest episode
    groups: int
    block: Tensor  # [episodes] long, on the CPU: those of one number are drawn anew together (`mbrl.data.series`)

    @abstractmethod
    def group(self, number: int) -> Group:
        """The rows to learn from for a while; numbers go on over the passes through the log."""

    @abstractmethod
    def whole(self) -> Group:
        """All rows at once."""


@final
class Whole(Source):
    """Rows that are in memory.

    Args:
        rows: [N, ...].
        episode: [N] long, any numbers; None: each row is an episode.
        ends: [N] bool, as in `Group`.

    Raises:
        ValueError: `episode` has not one number a row.
    """

    groups = 1

    def __init__(self, rows: Batch, episode: Tensor | None = None, ends: Tensor | None = None) -> None:
        self.rows = len(rows.reward)
        if episode is not None and episode.shape != (self.rows,):
            raise ValueError(f"episode has shape {list(episode.shape)}, expected [{self.rows}], one a training row")
        numbers = torch.arange(self.rows) if episode is None else episode.cpu()
        _, number, counts = numbers.unique(return_inverse=True, return_counts=True)
        self.episodes, self.longest = len(counts), int(counts.max()) if len(counts) else 0
        self.block = torch.arange(self.episodes)
        self._group = Group(rows, number, ends)

    def group(self, number: int) -> Group:
        del number
        return self._group

    def whole(self) -> Group:
        return self._group


@final
class Streamed(Source):
    """Episodes of a log, as many at a time as fit: each pass through them divides them at random into groups.

    A log that fits is one group, in its own order. Of a log on the disk nothing but a group is held in memory.

    Args:
        data: the log.
        episodes: of it, [k] long.
        resident: bytes of logged rows to hold at once; up to three episodes where these are longer than half of that.
        seed: of the divisions.
    """

    def __init__(self, data: TransitionDataset, episodes: Tensor, resident: int, seed: int) -> None:
        self.data, self.chosen, self.seed = data, episodes, seed
        self.block = blocks(data, episodes).cpu()
        lengths = data.lengths[episodes]
        self.rows, self.episodes, self.longest = int(lengths.sum()), len(episodes), int(lengths.max())
        a_row = sum(column[:1].nbytes for column in data.batch())
        most = max(1, self.rows // (2 * self.longest))  # so that no group is less than a half of its share
        self.groups = min(most, math.ceil(self.rows * a_row / resident))
        self._kept: tuple[int, Group] | None = None

    def group(self, number: int) -> Group:
        if self.groups == 1:
            number = 0
        if self._kept is None or self._kept[0] != number:
            self._kept = None  # the old one goes before the new one comes
            self._kept = number, self._read(self._places(number))
        return self._kept[1]

    def whole(self) -> Group:
        return self.group(0) if self.groups == 1 else self._read(torch.arange(self.episodes))

    def _places(self, number: int) -> Tensor:
        """Which of the chosen episodes are in a group, in order, [n] long."""
        if self.groups == 1:
            return torch.arange(self.episodes)
        rounds, place = divmod(number, self.groups)
        order = torch.randperm(self.episodes, generator=generator(self.seed, f"groups/{rounds}"))
        ends = self.data.lengths[self.chosen[order]].cumsum(0)
        edges = torch.tensor([self.rows * k / self.groups for k in range(1, self.groups)])
        cuts = [0, *torch.searchsorted(ends, edges).tolist(), self.episodes]
        return order[cuts[place] : cuts[place + 1]].sort().values

    def _read(self, places: Tensor) -> Group:
        episodes = self.chosen[places]
        rows = self.data.rows(episodes)
        numbers = places.repeat_interleave(self.data.lengths[episodes])
        return Group(self.data.batch(rows), numbers, self.data.ends(rows))
