"""Pieces of one series: episodes of a log that an import has cut (`cut_every`), which no flag and no id parts, and
which are not independent.

What lasts longer than a piece (a season, a fouled pipe) is in the next one too. So pieces are divided among purposes,
and drawn anew for members of an ensemble, some of them in a row at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mbrl.data.dataset import TransitionDataset

LEAST_BLOCKS = 8  # where there are as many episodes: as many as the most folds of critics need


class Pieces(NamedTuple):
    """Of which series episodes are, and in which order they come: [k] each."""

    series: Tensor  # long
    place: Tensor  # long, in time

    @classmethod
    def of(cls, data: TransitionDataset, episodes: Tensor | None = None) -> Self | None:
        """Those of the given episodes ([k] long, in any order; None: all); None of a log that was not cut."""
        if not data.series:
            return None
        place = torch.arange(data.episodes, device=data.obs.device) if episodes is None else episodes
        return cls(data.series_of[place], place)


def blocks(data: TransitionDataset, episodes: Tensor) -> Tensor:
    """The block that each of the given episodes is in, [k] long, numbered 0, 1, ... in time order.

    Of k episodes, the cubic root of k pieces in a row, at least: as the length has to grow for a bootstrap of blocks
    (Künsch 1989; Hall, Horowitz and Jing 1995); fewer where these would be less than `LEAST_BLOCKS`. Where other
    episodes lie between two pieces, a block ends. An episode that is no piece is a block of its own.

    Args:
        data: the log.
        episodes: [k] long, in time order, none of them twice.
    """
    episodes = episodes.to(data.obs.device)
    if not data.series or not len(episodes):
        return torch.arange(len(episodes), device=episodes.device)
    series = data.series_of[episodes]
    parted = (series.diff() != 0) | (episodes.diff() != 1)
    run = torch.cat([parted.new_zeros(1), parted]).cumsum(0)
    length = int(len(episodes) ** (1 / 3) + 1e-9)
    while length > 1 and int(evenly(run, length)[-1]) + 1 < LEAST_BLOCKS:
        length -= 1
    return evenly(run, length)


def evenly(run: Tensor, length: float) -> Tensor:
    """Runs (their numbers [k] long, in order) in equal parts of at least `length`, or whole where shorter: [k] long."""
    count = torch.bincount(run)
    parts = (count / length).long().clamp_min(1)
    within = torch.arange(len(run), device=run.device) - (count.cumsum(0) - count)[run]
    return (parts.cumsum(0) - parts)[run] + within * parts[run] // count[run]


def shuffled(data: TransitionDataset, episodes: Tensor, rng: torch.Generator) -> Tensor:
    """The given episodes (as `blocks` has them) in random order, with those of a block next to each other."""
    block = blocks(data, episodes)
    place = torch.randperm(int(block[-1]) + 1, generator=rng).argsort().to(block.device)
    return episodes[place[block].argsort(stable=True)]
